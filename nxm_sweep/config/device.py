"""Hardware of this machine against a trial's settings, and the number of processes launched for it."""

from __future__ import annotations

import os

import torch

from nxm_sweep.errors import ConfigError
from nxm_sweep.settings import TrialSettings

_CPU_BF16 = ("avx512_bf16", "amx_bf16", "bf16")
"""Instruction sets that multiply in bf16, as PyTorch names them; the last is ARM's. Other CPUs emulate it."""


def launched() -> int:
    """Return the number of processes launched for this trial, by ``torchrun`` or this package, including this one."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "RANK" in os.environ else 1


def uses_gpu(settings: TrialSettings) -> bool:
    """Return whether a trial trains on a GPU of this machine."""
    return settings.training.device != "cpu" and torch.cuda.is_available()


def has_native_bf16(settings: TrialSettings) -> bool:
    """Return whether a trial's device on this machine multiplies in bf16 natively; of GPUs, whether all do."""
    if uses_gpu(settings):
        return all(torch.cuda.get_device_capability(number) >= (8, 0) for number in range(torch.cuda.device_count()))
    known, has_kernels = torch.cpu.get_capabilities(), bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]
    return has_kernels and any(known.get(name, False) for name in _CPU_BF16)


def check_device(settings: TrialSettings) -> None:
    """Refuse settings that the hardware cannot run, with a clearer message than the Trainer's.

    Raises:
        ConfigError: The machine lacks the devices or the precision asked for, or the number of processes is another.
    """
    training, has_gpu = settings.training, torch.cuda.is_available()
    if training.device == "cuda" and not has_gpu:
        raise ConfigError("training.device is cuda but PyTorch sees no CUDA device", hint="training.device=auto")
    if training.precision == "fp16" and (training.device == "cpu" or not has_gpu):
        raise ConfigError("training.precision is fp16, which needs a CUDA device", hint="training.precision=fp32")
    _check_count(settings)


def _check_count(settings: TrialSettings) -> None:
    devices, processes = settings.training.devices, launched()
    if processes not in (1, devices):
        raise ConfigError(
            f"training.devices is {devices} but {processes} processes were started",
            hint=f"training.devices={processes}, or no torchrun: the processes are started for you",
        )
    here = int(os.environ.get("LOCAL_WORLD_SIZE", processes)) if processes > 1 else devices
    if uses_gpu(settings) and here > torch.cuda.device_count():
        raise ConfigError(
            f"training.devices is {devices} but PyTorch sees {torch.cuda.device_count()} CUDA device(s)",
            hint="training.devices=1, or training.device=cpu",
        )
    if any(os.environ.get(f"ACCELERATE_USE_{name}", "").lower() == "true" for name in ("DEEPSPEED", "FSDP")):
        raise ConfigError(
            "DeepSpeed and FSDP split weight matrices, which a sparse method needs whole",
            hint="torchrun starts plain ranks",
        )
