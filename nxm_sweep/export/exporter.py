"""Export of one model: verify, write, read back, then move the folder into place."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from nxm_sweep.errors import ExportError
from nxm_sweep.export.audit import Audit, audit, audit_manifest
from nxm_sweep.export.manifest import Manifest, checksum, read_manifest, write_manifest
from nxm_sweep.export.model_card import base_name, model_card
from nxm_sweep.export.onnx import (
    ONNX,
    TOLERANCE,
    Batch,
    check_onnx_installed,
    largest_difference,
    sentences_of,
    write_onnx,
)
from nxm_sweep.export.onnx_weights import open_onnx
from nxm_sweep.export.semi_structured import check_packable, write_packed
from nxm_sweep.export.trial_model import FinishedTrial, load_finished_trial, refuse_if_broken
from nxm_sweep.export.weights import SavedWeights, Weights, open_weights
from nxm_sweep.store.files import atomic_folder, check_destination, refuse_links, write_text
from nxm_sweep.training.model_files import ModelFiles, check_model, limit_length
from nxm_sweep.training.models import load_trained_model

_COMPANIONS = (".json", ".txt", ".model")  # configuration and tokenizer
_BATCHES = (1, 3, 16)  # rows per batch, repeated in turn


@dataclass(frozen=True, slots=True)
class _Written:
    """Output of one format in the fresh folder.

    Attributes:
        weights: Matrices, read back.
        dtype: Type of the weights, as text.
        said: Lines for the user.
    """

    weights: Weights
    dtype: str
    said: list[str] = field(default_factory=list)


def export_trial(trial: str, output_dir: Path, place: Path, *, kind: str, dtype: str, licence: str | None) -> list[str]:
    """Export a finished trial's model; return the lines to print.

    Args:
        trial: Identity, a prefix of it, or the trial's folder.
        output_dir: Root of the trials.
        place: Folder to create.
        kind: ``dense``, ``onnx`` or ``semi_structured``.
        dtype: For ``semi_structured``: ``float16`` or ``bfloat16``.
        licence: Identifier for the model card, or None.

    Raises:
        ExportError: The saved model does not hold its pattern, or the exported one differs from it.
        NxmSweepError: Bad input.
    """
    check_destination(place)
    finished = load_finished_trial(trial, output_dir)
    refuse_links(finished.model_folder)  # what they point to would be published
    if kind == "onnx":
        check_onnx_installed()
    weights, counts = finished.read_back()
    if kind == "semi_structured":
        check_packable(finished.constraints)
    writers: dict[str, Callable[[Path], _Written]] = {
        "dense": lambda folder: _export_dense(weights, folder),
        "onnx": lambda folder: _export_onnx(finished, weights, counts, folder),
        "semi_structured": lambda folder: _export_semi_structured(finished, weights, folder, dtype),
    }
    with atomic_folder(place) as folder:
        _copy_companions(finished.model_folder, folder)
        written = writers[kind](folder)
        manifest = _make_manifest(finished, written.weights, kind)
        write_manifest(folder, manifest)
        card = model_card(finished.record, manifest, licence=licence, dtype=written.dtype)
        write_text(folder / "README.md", card)
        _verify(folder, kind)
    precision = finished.record["config"]["training"]["precision"]
    if precision != "fp32":
        written.said.append(f"the card's scores are the trial's, in {precision} over float32 weights")
    return [*written.said, f"{place}: {kind}, {len(manifest.targets)} matrices hold {manifest.pattern}, read back"]


def _export_dense(weights: SavedWeights, folder: Path) -> _Written:
    for name in weights.paths:
        shutil.copyfile(weights.folder / name, folder / name)
    return _Written(open_weights(folder), "as trained, float32")


def _export_semi_structured(finished: FinishedTrial, weights: SavedWeights, folder: Path, dtype: str) -> _Written:
    (folder / "model.safetensors.index.json").unlink(missing_ok=True)
    left = write_packed(weights, finished.constraints, folder, dtype)
    packed = len(finished.constraints) - len(left)
    lines = [f"packed {packed} matrices in {dtype}; unpacked, every bit is the same"]
    if left:
        lines.append(f"{len(left)} matrices of other shapes stay dense, such as {left[0]}")
    return _Written(open_weights(folder), dtype, lines)


def _export_onnx(finished: FinishedTrial, weights: SavedWeights, counts: Audit, folder: Path) -> _Written:
    (folder / "model.safetensors.index.json").unlink(missing_ok=True)
    files = check_model(finished.model_folder, pairs=len(finished.task.text_columns) > 1)
    model: Any = load_trained_model(finished.model_folder)
    model.eval()
    batches, source = _make_batches(finished, files)
    exported = write_onnx(model, max(batches, key=_rank_batch), folder / ONNX)
    refuse_if_broken(audit(exported, finished.constraints).broken, "the ONNX file")
    for check in counts.checks:
        if not torch.equal(exported.matrix(check.matrix), weights.matrix(check.matrix)):
            raise ExportError(f"{check.matrix} is another in the ONNX file", hint="nothing was exported")
    difference = largest_difference(model, folder / ONNX, batches)
    if not difference <= TOLERANCE:
        raise ExportError(
            f"ONNX Runtime differs from PyTorch by {difference:.2g} on {source}; allowed is {TOLERANCE:g}",
            hint="nothing was exported",
        )
    return _Written(
        exported, "float32", [f"ONNX Runtime and PyTorch, both in fp32, differ by at most {difference:.2g} on {source}"]
    )


def _make_batches(finished: FinishedTrial, files: ModelFiles) -> tuple[list[Batch], str]:
    """Return padded batches of varying sizes, and the source of their texts."""
    tokenizer, sentences = files.tokenizer, sentences_of(finished)
    limit = limit_length(finished.record["config"]["training"]["max_length"], files.positions)
    batches: list[Batch] = []
    start = 0
    while start < len(sentences.texts):
        part = slice(start, start + _BATCHES[len(batches) % len(_BATCHES)])
        texts = [list(column[part]) for column in (sentences.texts, sentences.pairs) if column is not None]
        encoded = tokenizer(*texts, truncation=True, max_length=limit, padding=True, return_tensors="pt")
        batches.append({name: encoded[name] for name in tokenizer.model_input_names if name in encoded})
        start = part.stop
    return batches, sentences.source


def _rank_batch(batch: Batch) -> tuple[bool, int]:
    """Rank batches as examples for the exporter: first those of several rows, then by padded positions."""
    mask = batch["attention_mask"]
    return mask.shape[0] > 1, int((mask == 0).sum())


def _copy_companions(source: Path, folder: Path) -> None:
    for path in sorted(source.iterdir()):
        if path.suffix in _COMPANIONS and path.is_file():
            shutil.copyfile(path, folder / path.name)


def _make_manifest(finished: FinishedTrial, weights: Weights, format_name: str) -> Manifest:
    record = finished.record
    return Manifest(
        format=format_name,
        targets=audit(weights, finished.constraints).targets(),
        checksums={name: checksum(weights.folder / name) for name in weights.paths},
        made_from={
            **{name: record[name] for name in ("identity", "task", "method")},
            "model_name": base_name(record["config"]["model"]),
        },
    )


def _verify(folder: Path, format_name: str) -> None:
    """Read the written folder back, as ``nxm_sweep.verify`` does."""
    manifest = read_manifest(folder)
    weights = open_onnx(folder / ONNX) if format_name == "onnx" else open_weights(folder)
    if manifest is None:
        raise ExportError(f"{folder} has lost its sparsity.json", hint="nothing was exported")
    refuse_if_broken(audit_manifest(weights, manifest).broken, "what was written")
