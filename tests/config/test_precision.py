"""``training.precision=auto`` is bf16 or fp32 from validation on, and one of them for all sweeps of a folder."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import nxm_sweep.config.device
import nxm_sweep.trial.train
from nxm_sweep.__main__ import main
from nxm_sweep.config.compose import compose_settings, settings_of
from nxm_sweep.config.device import has_native_bf16
from nxm_sweep.sweep.planning.cell import Cell
from nxm_sweep.trial.identity import identity_of

SMALL = ("task=demo/paraphrase", "model=minilm_l6")
Plan = Callable[..., list[Cell]]


def _hardware(monkeypatch: pytest.MonkeyPatch, *, native: bool) -> None:
    monkeypatch.setattr(nxm_sweep.config.device, "has_native_bf16", lambda _: native)


def _machine(
    monkeypatch: pytest.MonkeyPatch, gpus: list[tuple[int, int]], cpu: Mapping[str, Any], kernels: bool = True
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(gpus))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(gpus))
    monkeypatch.setattr(torch.cuda, "get_device_capability", gpus.__getitem__)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: cpu)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: kernels)


# --- what the hardware has --------------------------------------------------------------------------------------------

AVX2 = {"architecture": "x86_64", "avx2": True, "avx512_f": False, "avx512_bf16": False, "amx_bf16": False}


@pytest.mark.parametrize(
    ("cpu", "native"),
    [
        (AVX2, False),
        ({**AVX2, "avx512_f": True, "avx512_vnni": True}, False),  # oneDNN takes bf16 there, and emulates it
        ({**AVX2, "avx512_f": True, "avx512_bf16": True}, True),
        ({**AVX2, "amx_bf16": True}, True),
        ({"architecture": "aarch64", "neon": True, "fp16_arith": True, "bf16": False}, False),
        ({"architecture": "aarch64", "neon": True, "bf16": True}, True),
    ],
    ids=["AVX2", "AVX-512", "AVX-512 BF16", "AMX", "ARMv8.2", "ARM BF16"],
)
def test_native_bf16_of_a_cpu(cpu: dict[str, Any], native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    _machine(monkeypatch, [], cpu)
    assert has_native_bf16(compose_settings(SMALL)) is native


def test_bf16_without_kernels_for_it_is_not_native(monkeypatch: pytest.MonkeyPatch) -> None:
    _machine(monkeypatch, [], {"architecture": "aarch64", "bf16": True}, kernels=False)
    assert not has_native_bf16(compose_settings(SMALL))


@pytest.mark.parametrize(
    ("gpus", "device", "native"),
    [
        ([(7, 5)], "auto", False),
        ([(8, 0)], "auto", True),
        ([(9, 0), (9, 0)], "cuda", True),
        ([(9, 0), (7, 0)], "auto", False),  # a sweep trains on each
        ([(9, 0)], "cpu", False),  # the device that is used
    ],
)
def test_native_bf16_of_gpus(
    gpus: list[tuple[int, int]], device: str, native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    _machine(monkeypatch, gpus, AVX2)
    assert has_native_bf16(compose_settings([*SMALL, f"training.device={device}"])) is native


@pytest.mark.skipif(not Path("/proc/cpuinfo").is_file(), reason="Linux says there what a CPU has")
def test_native_bf16_is_what_the_kernel_says_of_this_cpu() -> None:
    flags = set(Path("/proc/cpuinfo").read_text().split())
    expected = bool(flags & {"avx512_bf16", "amx_bf16", "bf16"})
    assert has_native_bf16(compose_settings([*SMALL, "training.device=cpu"])) is expected


# --- one trial --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("native", "precision"), [(True, "bf16"), (False, "fp32")])
def test_auto_is_the_trial_of_the_precision_that_it_stands_for(
    native: bool, precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _hardware(monkeypatch, native=native)
    here = [*SMALL, f"output_dir={tmp_path}"]
    auto, named = (compose_settings([*here, f"training.precision={value}"]) for value in ("auto", precision))
    assert auto == named
    assert auto.training.precision == precision
    of_both = [identity_of(settings, data_digest="rows", model_digest="files")[0] for settings in (auto, named)]
    assert of_both[0] == of_both[1]
    assert not list(tmp_path.iterdir())


def test_settings_from_outside_never_hold_auto(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _hardware(monkeypatch, native=True)
    settings = compose_settings([*SMALL, f"output_dir={tmp_path}", "training.precision=bf16"])
    values = asdict(settings)
    values["training"]["precision"] = "auto"
    assert settings_of(values) == settings


def test_the_papers_protocol_stays_in_fp32() -> None:
    assert compose_settings(SMALL).training.precision == "fp32"


# --- sweeps -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Plan:
    """Plans the cells of a command line as ``-m`` does, up to where it would train."""

    def prepare(_: object) -> Any:
        rows = SimpleNamespace(digest="rows", train=range(100))
        return SimpleNamespace(rows=rows, model_digest="model", teacher_digest="", carries_head=False)

    planned: list[Cell] = []
    monkeypatch.setattr(nxm_sweep.trial.train, "prepare", prepare)
    monkeypatch.setattr("nxm_sweep.sweep.run.run_sweep", lambda cells, *_, **__: planned.extend(cells))
    monkeypatch.chdir(tmp_path)

    def command(*arguments: str) -> list[Cell]:
        planned.clear()
        monkeypatch.setattr(sys, "argv", ["nxm_sweep", "-m", *SMALL, "method=dense", *arguments])
        assert main() == 0
        return list(planned)

    return command


def _precisions(cells: list[Cell]) -> list[str]:
    return [point.settings.training.precision for cell in cells for point in cell.points()]


ONE = ("learning_rate.value=1e-4", "training.batch_size=16")


@pytest.mark.parametrize(("native", "found"), [(True, ["fp32", "bf16"]), (False, ["fp32"])])
@pytest.mark.parametrize("given", ["training.precision=fp32,auto", "sweep.axes={training.precision:[fp32,auto]}"])
def test_auto_on_an_axis_is_a_point_only_where_it_is_another(
    given: str, native: bool, found: list[str], plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    _hardware(monkeypatch, native=native)
    assert _precisions(plan(*ONE, given)) == found


def test_auto_in_a_rule_is_what_it_stands_for(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    _hardware(monkeypatch, native=True)
    rule = "sweep.exclude=[{training.precision:auto}]"
    assert _precisions(plan(*ONE, "training.precision=fp32,bf16", rule)) == ["fp32"]


@pytest.mark.parametrize("given", [("training.precision=auto",), ("training.precision=fp32,auto",)])
def test_a_second_coordinator_and_its_jobs_take_the_first_ones_answer(
    given: tuple[str, ...], plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    _hardware(monkeypatch, native=True)
    first = [point.identity for cell in plan(*ONE, *given) for point in cell.points()]
    _hardware(monkeypatch, native=False)
    cells = plan(*ONE, *given, "sweep.workers=2")
    points = [(cell.digests, point) for cell in cells for point in cell.points()]
    assert [point.identity for _, point in points] == first
    for digests, point in points:  # a job of a launcher composes its point anew, in a folder that need not be this one
        settings = compose_settings([*point.overrides, "output_dir=elsewhere"])
        assert settings.training.precision == point.settings.training.precision
        assert point.identity == identity_of(settings, data_digest=digests.data, model_digest=digests.model)[0]


def test_a_trial_in_a_sweeps_folder_is_one_of_the_sweeps(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    _hardware(monkeypatch, native=True)
    plan(*ONE, "training.precision=auto")
    _hardware(monkeypatch, native=False)
    assert compose_settings([*SMALL, "training.precision=auto"]).training.precision == "bf16"
    on_cpu = compose_settings([*SMALL, "training.precision=auto", "training.device=cpu"])
    assert on_cpu.training.precision == "fp32"  # that device has an answer of its own


def test_a_dry_run_decides_nothing(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    _hardware(monkeypatch, native=True)
    assert _precisions(plan(*ONE, "training.precision=auto", "sweep.dry_run=true")) == ["bf16"]
    _hardware(monkeypatch, native=False)
    assert _precisions(plan(*ONE, "training.precision=auto")) == ["fp32"]


def test_a_damaged_answer_is_found_anew(plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _hardware(monkeypatch, native=True)
    plan(*ONE, "training.precision=auto")
    (file,) = (path for path in tmp_path.glob("outputs/sweeps/.precision/*") if path.suffix != ".lock")
    file.write_text("")
    _hardware(monkeypatch, native=False)
    assert _precisions(plan(*ONE, "training.precision=auto")) == ["fp32"]
    assert file.read_text() == "fp32\n"
