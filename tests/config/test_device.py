"""What the machine lacks, and a wrong number of processes, are refused in one line."""

from __future__ import annotations

import pytest
import torch

from nxm_sweep.config.compose import compose_settings
from nxm_sweep.config.device import check_device, launched
from nxm_sweep.errors import ConfigError


@pytest.fixture(autouse=True)
def _no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)


def _gpus(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)


def _check(*overrides: str) -> None:
    check_device(compose_settings(["task=demo/paraphrase", *overrides]))


@pytest.mark.parametrize(("gpus", "devices", "device"), [(2, 2, "auto"), (2, 1, "cuda"), (1, 2, "cpu"), (0, 2, "auto")])
def test_what_the_machine_has_is_accepted(
    gpus: int, devices: int, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _gpus(monkeypatch, gpus)
    _check(f"training.devices={devices}", f"training.device={device}")


def test_more_devices_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    _gpus(monkeypatch, 1)
    with pytest.raises(ConfigError, match=r"training.devices is 2 but PyTorch sees 1 CUDA device") as caught:
        _check("training.devices=2")
    assert "training.device=cpu" in caught.value.hint


def test_gpus_of_one_machine_are_enough_for_its_share_of_the_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    _gpus(monkeypatch, 2)
    for name, value in {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    assert launched() == 4
    _check("training.devices=4")


@pytest.mark.parametrize("devices", [1, 3])
def test_another_number_of_processes_than_devices_is_refused(devices: int, monkeypatch: pytest.MonkeyPatch) -> None:
    _gpus(monkeypatch, 0)
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match=f"training.devices is {devices} but 2 processes were started") as caught:
        _check(f"training.devices={devices}", "training.batch_size=6")
    assert "training.devices=2" in caught.value.hint


def test_one_process_of_torchrun_is_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    _gpus(monkeypatch, 0)
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert launched() == 1
    _check("training.devices=1")


@pytest.mark.parametrize("name", ["DEEPSPEED", "FSDP"])
def test_sharded_training_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"ACCELERATE_USE_{name}", "true")
    with pytest.raises(ConfigError, match="DeepSpeed and FSDP split weight matrices"):
        _check()


def test_batch_that_does_not_divide_among_the_devices_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"training.batch_size must be a multiple of training.devices \(3\) but got 32"
    ):
        _check("training.devices=3")
