"""Heads of models: the classifier of a checkpoint and whether a task can keep it, and what the loss of a head averages."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel
from transformers.loss.loss_utils import LOSS_MAPPING, ForCausalLMLoss

from nxm_sweep.errors import ModelError
from nxm_sweep.formatting import format_names
from nxm_sweep.training.model_files import build_empty

_DRAW = "model.head=new draws a new head from the seed"
_SINGLE_LABEL = {None, "single_label_classification"}
_REGRESSION = {None, "regression"}

_AVERAGING = tuple(
    f"For{task}"
    for task in (
        *("SequenceClassification", "TokenClassification", "ImageClassification"),
        *("QuestionAnswering", "MultipleChoice", "MaskedLM"),
    )
)

_WITHOUT_LOSS_TYPE = ("GPT2LMHeadModel", "CTRLLMHeadModel", "OpenAIGPTLMHeadModel", "BertLMHeadModel")
"""Causal language models whose loss Transformers does not tell from the name of their class."""


@dataclass(frozen=True, slots=True)
class Head:
    """Names of the parameters that an architecture's sequence classifier adds to its encoder.

    Attributes:
        kind: The classifier's class.
        weights: All parameters outside the encoder except a pooler's, which is pretrained with it.
        outputs: Those whose shape depends on the number of classes.
    """

    kind: type[Any]
    weights: frozenset[str]
    outputs: frozenset[str]


def describe_head(config: PretrainedConfig) -> Head:
    """Return an architecture's head without reading or allocating weights.

    Raises:
        ModelError: The architecture has no sequence classifier.
    """
    two, three = (build_empty(config, classes) for classes in (2, 3))
    shapes = {name: weight.shape for name, weight in two.named_parameters()}
    encoder = f"{two.base_model_prefix}."
    return Head(
        kind=type(two),
        weights=frozenset(name for name in shapes if not name.startswith(encoder) and "pooler" not in name.split(".")),
        outputs=frozenset(name for name, weight in three.named_parameters() if weight.shape != shapes[name]),
    )


def carries_head(folder: Path, config: PretrainedConfig) -> bool:
    """Return whether a checkpoint contains an output layer, from the headers of its files.

    Other parts of a head, as in ModernBERT's masked language model, do not count.

    Raises:
        ModelError: The files cannot be read, or the architecture has no sequence classifier.
    """
    return not describe_head(config).outputs.isdisjoint(_locate_weights(folder))


def check_shapes(folder: Path, config: PretrainedConfig) -> None:
    """Refuse a checkpoint whose encoder has other shapes than its configuration says, from the headers of its files.

    Loading would find that too, but allocates what the configuration asks for before.

    Raises:
        ModelError: A weight, which is named, has another shape.
    """
    empty = build_empty(config, 2)
    shapes = {name: tuple(weight.shape) for name, weight in empty.base_model.named_parameters()}
    prefix, differing = f"{empty.base_model_prefix}.", []
    for name, stored in _read_shapes(folder).items():
        configured = shapes.get(name.removeprefix(prefix))
        if configured not in (None, stored):
            differing.append(f"{name}: {stored} instead of {configured}")
    if differing:
        raise ModelError(
            f"the model in {folder} holds {len(differing)} weights of another shape than its config.json says, such as "
            f"{differing[0]}"
        )


def _read_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for file in sorted(set(_locate_weights(folder).values())):
        try:
            with safe_open(file, framework="pt") as weights:
                shapes |= {name: tuple(weights.get_slice(name).get_shape()) for name in weights.keys()}  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise ModelError(f"the model in {folder} cannot be loaded: {error}") from error
    return shapes


def load_without_head(folder: Path, head: Head) -> dict[str, Tensor]:
    """Load the weights of a checkpoint except its head's.

    Raises:
        ModelError: The files cannot be read.
    """
    weights: dict[str, Tensor] = {}
    for file in sorted(set(_locate_weights(folder).values())):
        try:
            weights |= {name: value for name, value in load_file(file).items() if name not in head.weights}
        except (OSError, SafetensorError) as error:
            raise ModelError(f"the model in {folder} cannot be loaded: {error}") from error
    return weights


def check_kept_head(folder: Path, config: PretrainedConfig, labels: tuple[str, ...]) -> None:
    """Refuse to keep a head whose outputs are not the task's classes.

    The checkpoint must name the same classes in the same order, ignoring case. A regression has one output of any name.

    Args:
        folder: The checkpoint.
        config: Its configuration as stored.
        labels: The task's classes in order; empty for a regression.

    Raises:
        ModelError: The head is missing or incomplete, or its problem, number of outputs, their names or order differ.
    """
    head, stored = describe_head(config), _locate_weights(folder)
    lacking = sorted(head.weights.difference(stored))
    if lacking:
        raise ModelError(
            f"model.head=keep, but the checkpoint in {folder} lacks {len(lacking)} weights of a head, such as {lacking[0]}",
            hint=_DRAW,
        )
    if config.problem_type not in (_SINGLE_LABEL if labels else _REGRESSION):
        raise ModelError(
            f"model.head=keep, but the checkpoint in {folder} was trained for {config.problem_type} and the task is a "
            f"{'classification' if labels else 'regression'}",
            hint=_DRAW,
        )
    names = [str(name) for _, name in sorted((config.id2label or {}).items())]
    if len(names) != max(1, len(labels)):
        raise ModelError(
            f"model.head=keep, but the checkpoint in {folder} has {len(names)} outputs and the task needs "
            f"{max(1, len(labels))}",
            hint=_DRAW,
        )
    if labels:
        _check_names(folder, names, labels)


def _check_names(folder: Path, names: list[str], labels: tuple[str, ...]) -> None:
    shown = format_names(labels)
    if names == [f"LABEL_{number}" for number in range(len(names))]:
        raise ModelError(
            f"model.head=keep, but {folder / 'config.json'} does not name the classes of its head",
            hint=f"write {shown} into its id2label and label2id in the order of its outputs, if you know it; {_DRAW}",
        )
    if [name.lower() for name in names] != [name.lower() for name in labels]:
        raise ModelError(
            f"model.head=keep, but the checkpoint's classes are {format_names(names)} and the task's are {shown}, "
            "in this order",
            hint=f"{_DRAW}; task=files takes an order: task.labels=[{','.join(names)}]",
        )


def averages_micro_batches(model: Any) -> bool:
    """Detect a loss that is the mean over a micro-batch: most heads accept ``num_items_in_batch`` but ignore it.

    Of Transformers 5.23, decoder-only language models divide by it; hardly any other head does.
    """
    is_pair = getattr(getattr(model, "config", None), "is_encoder_decoder", False)
    return is_pair or any(base.__name__.endswith(_AVERAGING) for base in type(model).__mro__)


def predicts_the_next(model: Any) -> bool:
    """Return whether a model's loss compares the logits of a position with the label at the next one."""
    if not isinstance(model, PreTrainedModel) or model.config.is_encoder_decoder:
        return False
    is_old = any(base.__name__ in _WITHOUT_LOSS_TYPE for base in type(model).__mro__)
    return is_old or LOSS_MAPPING.get(str(model.loss_type)) is ForCausalLMLoss


def reads_rows_of_tokens(model: PreTrainedModel) -> bool:
    """Return whether a model reads one row of tokens, whose mask fits its hidden states."""
    is_choice = any(base.__name__.endswith("ForMultipleChoice") for base in type(model).__mro__)
    return model.main_input_name == "input_ids" and not model.config.is_encoder_decoder and not is_choice


def _locate_weights(folder: Path) -> dict[str, Path]:
    """Map each weight's name to its file; empty where the files are named otherwise."""
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    try:
        if single.is_file():
            with safe_open(single, framework="pt") as weights:
                return dict.fromkeys(weights.keys(), single)
        if index.is_file():
            return {name: folder / file for name, file in json.loads(index.read_text())["weight_map"].items()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError, SafetensorError) as error:
        raise ModelError(f"the model in {folder} cannot be loaded: {error}") from error
    return {}
