"""Whether this machine has what a trial asks for."""

from __future__ import annotations

import torch

from nxm_sweep.errors import ConfigError
from nxm_sweep.settings import TrialSettings


def check_device(settings: TrialSettings) -> None:
    """Refuse what the hardware cannot do, before the Trainer does so in its own words.

    Raises:
        ConfigError: The machine lacks the device or the precision asked for.
    """
    training, has_gpu = settings.training, torch.cuda.is_available()
    if training.device == "cuda" and not has_gpu:
        raise ConfigError("training.device is cuda but PyTorch sees no CUDA device", hint="training.device=auto")
    if training.precision == "fp16" and (training.device == "cpu" or not has_gpu):
        raise ConfigError("training.precision is fp16, which needs a CUDA device", hint="training.precision=fp32")
