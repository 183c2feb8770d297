"""Export of one model: verify, write, read back, then move the folder into place."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from nxm_sweep.errors import ConfigError, ExportError
from nxm_sweep.export.audit import Audit, audit, audit_manifest
from nxm_sweep.export.folder_model import FolderModel, is_model_folder, load_folder_model, load_whole, trial_of
from nxm_sweep.export.manifest import Manifest, checksum, read_manifest, write_manifest
from nxm_sweep.export.model_card import base_name, folder_card, model_card
from nxm_sweep.export.onnx import (
    ONNX,
    Batch,
    allowed_difference,
    check_onnx_installed,
    largest_difference,
    sentences_of,
    write_onnx,
)
from nxm_sweep.export.onnx_weights import open_onnx
from nxm_sweep.export.semi_structured import check_packable, write_packed
from nxm_sweep.export.trial_model import FinishedTrial, load_finished_trial, refuse_if_broken
from nxm_sweep.export.weights import SavedWeights, Weights, open_weights
from nxm_sweep.formatting import format_names
from nxm_sweep.sparsity.pattern import Constraint
from nxm_sweep.sparsity.semi_structured import DTYPES, narrow
from nxm_sweep.store.files import atomic_folder, check_destination, refuse_links, write_text
from nxm_sweep.store.speeds import read_speeds
from nxm_sweep.training.model_files import check_model, limit_length, load_tokenizer

_COMPANIONS = (".json", ".txt", ".model")  # configuration and tokenizer
_BATCHES = (1, 3, 16)  # rows per batch, repeated in turn
_LONGEST = 128  # tokens of the compared texts, where no training says how long they were
Source = FinishedTrial | FolderModel


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


def export_model(
    model: str,
    output_dir: Path,
    place: Path,
    *,
    kind: str,
    dtype: str | None = None,
    licence: str | None = None,
    wanted: Constraint | None = None,
    match: str | None = None,
) -> list[str]:
    """Export the model of a finished trial, or of a folder that holds a pattern; return the lines to print.

    Args:
        model: Identity of a trial, a prefix of it, the trial's folder, or the folder of any model.
        output_dir: Root of the trials.
        place: Folder to create.
        kind: ``dense``, ``onnx`` or ``semi_structured``.
        dtype: For ``semi_structured``: ``float16`` (the default) or ``bfloat16``; for ``onnx``: ``float16`` or None.
        licence: Identifier for the model card, or None.
        wanted: Constraint that a folder should hold; None: that of its ``sparsity.json``, else what is found in it.
        match: Glob of the modules of ``wanted``.

    Raises:
        ExportError: The saved model does not hold its pattern, or the exported one differs from it.
        NxmSweepError: Bad input.
    """
    check_destination(place)
    source = _load_source(model, output_dir, wanted, match)
    refuse_links(source.model_folder)  # what they point to would be published
    if kind == "onnx":
        check_onnx_installed()
    weights, counts = source.read_back()
    if kind == "semi_structured":
        check_packable(source.constraints)
    writers: dict[str, Callable[[Path], _Written]] = {
        "dense": lambda folder: _export_dense(weights, folder),
        "onnx": lambda folder: _export_onnx(source, weights, counts, folder, dtype),
        "semi_structured": lambda folder: _export_semi_structured(source, weights, folder, dtype or "float16"),
    }
    with atomic_folder(place) as folder:
        _copy_companions(source, folder)
        written = writers[kind](folder)
        manifest = _make_manifest(source, written.weights, kind)
        write_manifest(folder, manifest)
        write_text(folder / "README.md", _make_card(source, manifest, licence, written.dtype, output_dir))
        _verify(folder, kind)
    return [
        *written.said,
        *_describe_source(source),
        f"{place}: {kind}, {len(manifest.targets)} matrices hold {manifest.pattern}, read back",
    ]


def _load_source(model: str, output_dir: Path, wanted: Constraint | None, match: str | None) -> Source:
    trial = trial_of(model)
    if trial == model and is_model_folder(model):
        return load_folder_model(Path(model).expanduser(), wanted, match)
    if wanted is not None:
        raise ConfigError(
            f"--pattern is for a folder without a record, but {model} is a trial, whose record says what its matrices hold"
        )
    return load_finished_trial(trial, output_dir)


def _make_card(source: Source, manifest: Manifest, licence: str | None, dtype: str, output_dir: Path) -> str:
    speeds = read_speeds(output_dir)
    if isinstance(source, FolderModel):
        return folder_card(source, manifest, licence=licence, dtype=dtype, speeds=speeds)
    return model_card(source.record, manifest, licence=licence, dtype=dtype, speeds=speeds)


def _describe_source(source: Source) -> list[str]:
    """Return lines about what the user should know of the source."""
    if isinstance(source, FolderModel):
        left = sorted(
            path.name
            for path in source.model_folder.iterdir()
            if path.is_file() and path not in source.companions() and path.suffix != ".safetensors"
        )
        lines = [
            f"{source.model_folder} has no record: what holds is said by {source.reason}, and the card gives no score"
        ]
        return [*lines, f"not copied: {format_names(left)}"] if left else lines
    precision = source.record["config"]["training"]["precision"]
    return [] if precision == "fp32" else [f"the card's scores are the trial's, in {precision} over float32 weights"]


def _export_dense(weights: SavedWeights, folder: Path) -> _Written:
    for name in weights.paths:
        shutil.copyfile(weights.folder / name, folder / name)
    return _Written(open_weights(folder), "as trained, float32")


def _export_semi_structured(source: Source, weights: SavedWeights, folder: Path, dtype: str) -> _Written:
    (folder / "model.safetensors.index.json").unlink(missing_ok=True)
    left = write_packed(weights, source.constraints, folder, dtype)
    packed = len(source.constraints) - len(left)
    lines = [f"packed {packed} matrices in {dtype}; unpacked, every bit is the same"]
    if left:
        lines.append(f"{len(left)} matrices of other shapes or layouts stay dense, such as {left[0]}")
    return _Written(open_weights(folder), dtype, lines)


def _export_onnx(source: Source, weights: SavedWeights, counts: Audit, folder: Path, dtype: str | None) -> _Written:
    (folder / "model.safetensors.index.json").unlink(missing_ok=True)
    batches, sentences = _make_batches(source)
    reference = exported_model = load_whole(source)
    if dtype is not None:
        exported_model = load_whole(source)
        exported_model.to(DTYPES[dtype])  # type: ignore[arg-type]  # a decorator hides the signature
        for name, value in exported_model.named_parameters():
            narrow(name, value, DTYPES[dtype])  # refuses what is out of range
    exported = write_onnx(exported_model, max(batches, key=_rank_batch), folder / ONNX)
    refuse_if_broken(audit(exported, source.constraints).broken, "the ONNX file")
    for check in counts.checks:
        trained = weights.matrix(check.matrix)
        wanted = trained if dtype is None else narrow(check.matrix, trained, DTYPES[dtype])
        if not torch.equal(exported.matrix(check.matrix), wanted):
            raise ExportError(f"{check.matrix} is another in the ONNX file", hint="nothing was exported")
    difference, largest = largest_difference(reference, folder / ONNX, batches)
    allowed = allowed_difference(dtype, largest)
    if not difference <= allowed:
        raise ExportError(
            f"ONNX Runtime differs from PyTorch by {difference:.2g} on {sentences}; allowed is {allowed:.2g}",
            hint="nothing was exported",
        )
    precisions = "both in fp32" if dtype is None else f"in {dtype} and in fp32"
    return _Written(
        exported,
        dtype or "float32",
        [f"ONNX Runtime and PyTorch, {precisions}, differ by at most {difference:.2g} on {sentences}"],
    )


def _make_batches(source: Source) -> tuple[list[Batch], str]:
    """Return padded batches of varying sizes, and the source of their texts."""
    if isinstance(source, FolderModel):
        if not source.head.has_logits:
            raise ConfigError(
                f"--format onnx is for encoders that return logits, but {source.model_folder} is loaded by {source.head.auto}",
                hint="`optimum-cli export onnx` knows other models; `nxm-sweep verify FILE.onnx` checks what it wrote",
            )
        tokenizer = load_tokenizer(source.model_folder)
        limit = limit_length(_LONGEST, getattr(source.config, "max_position_embeddings", None))
    else:
        files = check_model(source.model_folder, pairs=len(source.task.text_columns) > 1)
        tokenizer = files.tokenizer
        limit = limit_length(source.record["config"]["training"]["max_length"], files.positions)
    sentences = sentences_of(source if isinstance(source, FinishedTrial) else None)
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


def _copy_companions(source: Source, folder: Path) -> None:
    if isinstance(source, FolderModel):
        paths = source.companions()
    else:
        paths = [path for path in source.model_folder.iterdir() if path.suffix in _COMPANIONS and path.is_file()]
    for path in paths:
        shutil.copyfile(path, folder / path.name)


def _make_manifest(source: Source, weights: Weights, format_name: str) -> Manifest:
    if isinstance(source, FolderModel):
        made_from = source.made_from
    else:
        record = source.record
        made_from = {name: record[name] for name in ("identity", "task", "method")}
        made_from["model_name"] = base_name(record["config"]["model"])
    return Manifest(
        format=format_name,
        targets=audit(weights, source.constraints).targets(),
        checksums={name: checksum(weights.folder / name) for name in weights.paths},
        made_from=made_from,
    )


def _verify(folder: Path, format_name: str) -> None:
    """Read the written folder back, as ``nxm_sweep.verify`` does."""
    manifest = read_manifest(folder)
    weights = open_onnx(folder / ONNX) if format_name == "onnx" else open_weights(folder)
    if manifest is None:
        raise ExportError(f"{folder} has lost its sparsity.json", hint="nothing was exported")
    refuse_if_broken(audit_manifest(weights, manifest).broken, "what was written")
