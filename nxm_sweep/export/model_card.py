"""Model card: ``README.md`` with metadata for the hub."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePath
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from nxm_sweep.export.folder_model import FolderModel
from nxm_sweep.export.manifest import Manifest
from nxm_sweep.export.usage import CLASSIFIER, show_usage
from nxm_sweep.report.labels import replace_unprintable
from nxm_sweep.sparsity.semi_structured import fits
from nxm_sweep.store.record import Record
from nxm_sweep.store.records import reported_scores
from nxm_sweep.store.speeds import Speed, of_shapes

_MARKUP = re.compile(r"([\\`*_{}\[\]<>#!|~&$@])")
_HUB_METRICS = {"matthews": "matthews_correlation", "pearson": "pearsonr", "spearman": "spearmanr"}
_AUTOCAST = " autocast over float32 weights"
_STORED = {
    "dense": "They are stored densely, zeros included: the file is not smaller, and not faster by itself.",
    "onnx": "The ONNX file holds them densely; an engine with sparse kernels (TensorRT) finds the zeros when it builds.",
    "semi_structured": "They are packed for PyTorch's 2:4 kernels: half the values, and two bits for the place of each.",
}


def model_card(
    record: Record, manifest: Manifest, *, licence: str | None, dtype: str, speeds: Sequence[Speed] = ()
) -> str:
    """Return the text of ``README.md``.

    Every value of the record is escaped: for YAML by the hub's library, for Markdown here.

    Args:
        record: The trial's record.
        manifest: Manifest of the exported model.
        licence: Identifier of the model's licence, or None if unknown.
        dtype: Type of the weights, as text.
        speeds: Measurements of 2:4 kernels; those that know every shape of the model's targets are shown.
    """
    config = record["config"]
    title = f"{base_name(config['model'])} on {record['task']}: {manifest.pattern}, {record['method']}"
    usage = show_usage(
        CLASSIFIER,
        manifest.format,
        pairs=len(config["task"]["text_columns"]) > 1,
        regression=not record["data"]["labels"],
        max_length=int(config["training"]["max_length"]),
    )
    scoring = _describe_precision(config["training"]["precision"], manifest.format)
    parts = [
        f"---\n{_make_metadata(record, manifest, licence).to_yaml()}\n---",
        f"# {escape(title)}",
        f"{escape(record['model']['class'])}, fine-tuned with nxm\\_sweep. {_describe_sparsity(manifest)}",
        "## Score",
        _render_table(("set", "metric", "value"), _list_scores(record)),
        f"Protocol: {escape(record['selection']['protocol'])}. {scoring}",
        *_describe_speed(manifest, speeds),
        "## How it was made",
        _render_table(("", ""), _list_origin(record, manifest, dtype)),
        "## Use",
        f"```python\n{usage}\n```",
        f"Inputs were cut at {int(config['training']['max_length'])} tokens in training.",
        "Check the files: `python -m nxm_sweep.verify .` reads them and `sparsity.json` back.",
        "## Licences",
        _render_table(("what", "licence"), _list_licences(record, licence)),
    ]
    return "\n\n".join(parts) + "\n"


def folder_card(
    source: FolderModel, manifest: Manifest, *, licence: str | None, dtype: str, speeds: Sequence[Speed] = ()
) -> str:
    """Return the text of ``README.md`` for a model without a record: what it holds, and how it is used.

    Args:
        source: The folder that was exported.
        manifest: Manifest of the exported model.
        licence: Identifier of the model's licence, or None if unknown.
        dtype: Type of the weights, as text.
        speeds: As for :func:`model_card`.
    """
    config, head = source.config, source.head
    kind = (getattr(config, "architectures", None) or [type(config).__name__])[0]
    regression = config.num_labels == 1 or config.problem_type == "regression"
    metadata = ModelCardData(
        license=licence or "unknown",
        library_name="transformers",
        pipeline_tag=head.task,
        tags=["nxm_sweep", "sparsity", f"pattern: {manifest.pattern}"],
    )
    parts = [
        f"---\n{metadata.to_yaml()}\n---",
        f"# {escape(f'{kind}: {manifest.pattern}')}",
        f"{escape(kind)}. {_describe_sparsity(manifest)}",
        "## Score",
        "None is known: the folder that this was exported from has no record of its training.",
        *_describe_speed(manifest, speeds),
        "## How it was made",
        _render_table(("", ""), [("pattern", manifest.pattern), ("said by", source.reason), ("weights", dtype)]),
        "## Use",
        f"```python\n{show_usage(head, manifest.format, regression=regression)}\n```",
        "Check the files: `python -m nxm_sweep.verify .` reads them and `sparsity.json` back.",
        "## Licences",
        _render_table(("what", "licence"), [("these weights", licence or "not stated")]),
    ]
    return "\n\n".join(parts) + "\n"


def escape(value: Any) -> str:
    """Return a value as literal Markdown text: on one line, with all markup escaped and no control characters."""
    return _MARKUP.sub(r"\\\1", replace_unprintable(" ".join(str(value).split())))


def _describe_speed(manifest: Manifest, speeds: Sequence[Speed]) -> list[str]:
    """Return the card's section on speed; none where no measurement fits, or where a target is not 2 of 4."""
    shapes = [target.shape for target in manifest.targets]
    if not all(fits(target.constraint) for target in manifest.targets):
        return []
    rows = []
    for speed in speeds:
        summary = of_shapes(speed, shapes)
        if summary is not None:
            name, fastest = summary.best
            batch = f"{speed['batch']} x {speed['length']}"
            times = (f"{summary.dense:.3f}", f"{fastest:.3f} ({name})", f"{summary.speedup:.2f}")
            rows.append((speed["device"], speed["dtype"], batch, *times))
    if not rows:
        return []
    header = ("GPU", "type", "batch", "dense ms", "2:4 ms", "speedup")
    words = (
        "The pruned layers together, with random weights of their shapes, as `nxm-sweep speed` measured them; attention and "
        "the other layers gain nothing."
    )
    return ["## Speed", _render_table(header, rows), words]


def _describe_precision(precision: str, format_name: str) -> str:
    """State the precision of the scores, and how the exported model differs from it."""
    scored = f"Scored in {escape(precision)}{'' if precision == 'fp32' else _AUTOCAST}"
    if format_name == "semi_structured":
        return f"{scored}, before the weights were narrowed."
    return f"{scored}; the file runs in fp32." if format_name == "onnx" and precision != "fp32" else f"{scored}."


def _make_metadata(record: Record, manifest: Manifest, licence: str | None) -> ModelCardData:
    model, task, data = (_join_lines(record["config"][name]) for name in ("model", "task", "data"))
    published = (
        "nyu-mll/glue" if task["kind"] == "glue" else data["path"] if record["data"]["layout"] == "hub" else None
    )
    return ModelCardData(
        license=licence or "unknown",
        base_model=model["path"] if model["source"] == "hub" else None,
        datasets=[published] if published else None,
        library_name="transformers",
        pipeline_tag="text-classification",
        tags=["nxm_sweep", "sparsity", f"pattern: {manifest.pattern}", f"method: {record['method']}"],
        metrics=[_HUB_METRICS.get(name, name) for name in task["metrics"]],
        model_name=" ".join(f"{base_name(model)} {record['task']} {record['identity']}".split()),
        eval_results=[
            EvalResult(
                task_type="text-classification",
                dataset_type=published or task["kind"],
                dataset_name=task["name"],
                dataset_config=task.get("config"),
                dataset_split=task["validation_splits"].get(part) or part,
                dataset_revision=data.get("revision"),
                metric_type=_HUB_METRICS.get(name, name),
                metric_value=value,
            )
            for part, name, value in _iterate_scores(record)
        ],
    )


def base_name(model: Mapping[str, Any]) -> str:
    """Return the name of the base model; of a folder without its place on this machine, which concerns no reader."""
    name = str(model["name"])
    return PurePath(name).name or name if model["source"] == "folder" else name


def _join_lines(value: Any) -> Any:
    """Put every text in a record's value on one line, so that none can end the metadata."""
    match value:
        case str():
            return " ".join(value.split())
        case dict():
            return {key: _join_lines(item) for key, item in value.items()}
        case list():
            return [_join_lines(item) for item in value]
        case _:
            return value


def _iterate_scores(record: Record) -> Iterable[tuple[str, str, float]]:
    for part, scores in reported_scores(record).items():
        for name in record["config"]["task"]["metrics"]:
            yield part, name, scores[name]


def _describe_sparsity(manifest: Manifest) -> str:
    if not manifest.targets:
        return "No matrix is pruned."
    counts = manifest.to_dict()["counts"]
    label = "a pattern of its own each" if manifest.pattern == "mixed" else escape(manifest.pattern)
    return (
        f"{counts['matrices']} of its weight matrices hold {label}: {counts['zeros']:,} of their {counts['weights']:,} "
        f"weights are exactly zero. {_STORED[manifest.format]}"
    )


def _list_scores(record: Record) -> Iterable[tuple[Any, ...]]:
    return [(part, name, f"{value:.6g}") for part, name, value in _iterate_scores(record)]


def _list_origin(record: Record, manifest: Manifest, dtype: str) -> list[tuple[str, Any]]:
    config, data, hashed = record["config"], record["data"], record["hashed"]
    training, model = config["training"], config["model"]
    base = f"{model['name']} ({model['path']})" if model["source"] != "folder" else base_name(model)
    rows = ", ".join(f"{part} {count}" for part, count in data["validation_rows"].items())
    last_prune = record.get("last_prune")
    return [
        ("base model", base),
        ("data", f"{record['task']} ({data['layout']}): {data['train_rows']} training rows; {rows}"),
        ("classes", ", ".join(data["labels"]) or "none, a regression"),
        ("method", record["method"]),
        ("pattern", manifest.pattern),
        *([("rho", f"{config['rho']['value']:g}")] if "rho" in hashed else []),
        ("learning rate", f"{config['learning_rate']['value']:g}"),
        ("batch", training["batch_size"] * training["gradient_accumulation"]),
        ("precision", training["precision"]),
        ("epochs", f"{training['epochs']}, the best one: {record['best']['epoch']}"),
        ("seed", config["seed"]),
        *([("residual before the last prune", f"{last_prune['relative_residual']:.3g}")] if last_prune else []),
        ("weights", dtype),
        ("identity of the trial", record["identity"]),
        ("content of data; of base model", f"{data['digest'][:16]}; {record['model']['digest'][:16]}"),
        ("versions", ", ".join(f"{name} {version}" for name, version in record["versions"].items())),
    ]


def _list_licences(record: Record, licence: str | None) -> list[tuple[str, str]]:
    base, data = base_name(record["config"]["model"]), record["task"]
    return [
        ("these weights", licence or "not stated; they derive from the base model and the data"),
        (f"base model {base}", "see where it comes from"),
        (f"data {data}", "see where it comes from"),
    ]


def _render_table(header: tuple[str, ...], rows: Iterable[tuple[Any, ...]]) -> str:
    lines = [header, *(tuple(escape(cell) for cell in row) for row in rows)]
    lines.insert(1, ("---",) * len(header))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
