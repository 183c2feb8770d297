"""Models of any origin whose matrices hold a pattern: a folder without a trial's record."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import transformers
from transformers import PretrainedConfig, PreTrainedModel

from nxm_sweep.errors import ModelError, SparsityError, first_line
from nxm_sweep.export.audit import Audit, audit, audit_manifest, audit_model, matching, refuse_unread
from nxm_sweep.export.manifest import read_manifest
from nxm_sweep.export.trial_model import FinishedTrial, refuse_if_broken
from nxm_sweep.export.usage import Head, find_head
from nxm_sweep.export.weights import SavedWeights, open_weights
from nxm_sweep.sparsity.pattern import Constraint
from nxm_sweep.sparsity.targets import ENCODER_LAYERS
from nxm_sweep.store.paths import MODEL, RESULT
from nxm_sweep.training.model_files import load_config

_PUBLISHED = (
    *("config.json", "generation_config.json", "model.safetensors.index.json", "preprocessor_config.json"),
    *(
        "processor_config.json",
        "tokenizer*.json",
        "special_tokens_map.json",
        "added_tokens.json",
        "vocab.*",
        "merges.txt",
    ),
    *("*.model", "chat_template.*"),
)
"""Files that are exported with the weights: only what Transformers reads, since the folder may hold anything else."""


@dataclass(frozen=True, slots=True)
class FolderModel:
    """A folder as ``save_pretrained`` writes it, with the constraints of its matrices.

    Attributes:
        model_folder: The folder.
        constraints: Constraint of each target, by name in the state dict.
        reason: What says that these hold.
        config: Its configuration.
        made_from: Origin as its own ``sparsity.json`` gives it.
    """

    model_folder: Path
    constraints: dict[str, Constraint]
    reason: str
    config: PretrainedConfig
    made_from: dict[str, Any]

    @property
    def head(self) -> Head:
        """How the model is loaded."""
        return find_head(self.config)

    def read_back(self) -> tuple[SavedWeights, Audit]:
        """Return the saved matrices and their counts.

        Raises:
            ExportError: One breaks its constraint, or ``sparsity.json`` says otherwise.
        """
        weights = open_weights(self.model_folder)
        manifest, counts = read_manifest(self.model_folder), audit(weights, self.constraints)
        further = () if manifest is None else audit_manifest(weights, manifest).broken
        refuse_if_broken((*counts.broken, *further), "the saved model")
        return weights, counts

    def companions(self) -> list[Path]:
        """Return the files that are exported with the weights."""
        return sorted({path for glob in _PUBLISHED for path in self.model_folder.glob(glob) if path.is_file()})


def is_model_folder(text: str) -> bool:
    """Return whether a command's argument is the folder of a model, and not a trial or the model in a trial."""
    folder = Path(text).expanduser()
    return bool(text) and (folder / "config.json").is_file() and not (folder / RESULT).is_file()


def trial_of(text: str) -> str:
    """Return the trial's folder for the folder of its model, any other argument as it is."""
    folder = Path(text).expanduser()
    return str(folder.parent) if folder.name == MODEL and (folder.parent / RESULT).is_file() else text


def load_folder_model(folder: Path, wanted: Constraint | None, match: str | None) -> FolderModel:
    """Return a folder's model with the constraints that its matrices hold.

    Args:
        folder: As ``save_pretrained`` writes it.
        wanted: Constraint to hold; None: those of ``sparsity.json``, else the patterns that are found.
        match: Glob of the modules of ``wanted``; None: the encoder's layers.

    Raises:
        SparsityError: There are no weights, or no pattern, or the weights are stored in a form that is not exported.
        ModelError: ``config.json`` cannot be read.
    """
    weights, config = open_weights(folder), load_config(folder)
    if weights.packed:
        raise SparsityError(
            f"{folder} is packed for 2:4 kernels already", hint="export the folder that it was made from"
        )
    refuse_unread(weights.unread)
    manifest = read_manifest(folder)
    if wanted is not None:
        constraints = matching(weights, wanted, match or ENCODER_LAYERS)
        reason = f"--pattern, on {match or ENCODER_LAYERS}"
    else:
        found, _ = audit_model(weights, None)
        reason = "patterns found in the weights" if manifest is None else "sparsity.json"
        constraints = {
            target.matrix: target.constraint for target in (manifest.targets if manifest else found.targets())
        }
    if not constraints:
        raise SparsityError(
            f"no matrix of {folder} holds a pattern",
            hint="`nxm-sweep verify` shows what its matrices hold; --pattern 2of4 --match GLOB says what should hold",
        )
    return FolderModel(folder, constraints, reason, config, dict(manifest.made_from) if manifest else {})


def load_whole(source: FolderModel | FinishedTrial) -> PreTrainedModel:
    """Load a model with its head, in fp32 and evaluation mode.

    Raises:
        ModelError: It cannot be loaded, or lacks weights.
    """
    folder = source.model_folder
    head = find_head(load_config(folder))
    try:
        model, report = getattr(transformers, head.auto).from_pretrained(
            folder, local_files_only=True, use_safetensors=True, dtype="float32", output_loading_info=True
        )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ModelError(f"the model in {folder} cannot be loaded: {first_line(error)}") from error
    if report["missing_keys"]:
        missing = sorted(report["missing_keys"])
        raise ModelError(f"the model in {folder} lacks {len(missing)} weights of a {head.auto}, such as {missing[0]}")
    loaded: PreTrainedModel = model.eval()
    return loaded
