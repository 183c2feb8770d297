"""The linear layers of a model, from its configuration only, and which 2:4 kernels take their shapes."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from transformers import AutoConfig, PretrainedConfig

from nxm_sweep.data.hub import go_offline_unless_reachable
from nxm_sweep.errors import ModelError, first_line
from nxm_sweep.export.usage import find_head
from nxm_sweep.sparsity.semi_structured import KERNELS, supporting
from nxm_sweep.sparsity.targets import Rule, is_conv1d, is_linear
from nxm_sweep.store.speeds import SpeedLayer


def read_config(model: str) -> PretrainedConfig:
    """Return the configuration of a folder, or of an id of the hub.

    Raises:
        ModelError: There is none, or it cannot be read.
    """
    folder = Path(model).expanduser()
    is_folder = folder.is_dir()
    if not is_folder:
        go_offline_unless_reachable()
    try:
        config: PretrainedConfig = AutoConfig.from_pretrained(
            folder if is_folder else model, local_files_only=is_folder
        )
    except Exception as error:  # a value of another type fails wherever the architecture's code meets it
        raise ModelError(
            f"{model} has no configuration that can be read: {first_line(error)}",
            hint="give a folder with a config.json, or an id of the hub, such as google-bert/bert-base-cased",
        ) from error
    return config


def list_layers(config: PretrainedConfig, match: str) -> list[SpeedLayer]:
    """Return the linear layers that ``match`` names, by role and shape, without memory for weights; nothing is measured.

    Args:
        config: Configuration of the model.
        match: Glob over module names, as of a rule.

    Raises:
        ModelError: The model cannot be built, or no linear layer matches.
    """
    build: Any = getattr(transformers, find_head(config).auto).from_config
    try:
        with torch.device("meta"):
            model: nn.Module = build(config)
    except Exception as error:  # as of read_config
        raise ModelError(f"the model cannot be built as configured: {first_line(error)}") from error
    linears = {name: module for name, module in model.named_modules() if is_linear(module)}
    rule, counts = Rule(match, None), Counter[tuple[str, int, int, bool]]()
    for name, module in linears.items():
        if rule.matches(name):
            shape, transposed = tuple(module.get_parameter("weight").shape), is_conv1d(module)
            rows, columns = shape[::-1] if transposed else shape
            counts[re.sub(r"(?<=\.)\d+(?=\.)", "*", name), rows, columns, transposed] += 1
    if not counts:
        raise ModelError(
            f"{match!r} matches none of the model's {len(linears)} linear layers",
            hint=f"their names look like {', '.join(list(linears)[:2]) or '(none)'}; --match takes a glob",
        )
    return [
        SpeedLayer(
            role=role,
            count=count,
            rows=rows,
            columns=columns,
            kernels=[] if transposed else supporting((rows, columns)),
            refusal="its inputs are stored first" if transposed else KERNELS["cuSPARSELt"].refusal((rows, columns)),
            milliseconds={},
        )
        for (role, rows, columns, transposed), count in counts.items()
    ]
