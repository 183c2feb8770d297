"""The official GLUE download: where each task's rows and labels stand in its TSV files.

Source: the layout of the data that gluebenchmark.com distributes; class numbers as in the hub data set ``nyu-mll/glue``.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TsvLayout:
    """One task's files.

    Attributes:
        folder: Its folder in the download.
        columns: TSV column of each of our columns, by name; by position where the file has no header.
        classes: Words of the label column in the order of the hub's class numbers; empty: the column holds scores.
        has_header: Whether train and dev files start with a header row.
        has_broken_lines: Whether the published files hold lines with too few columns (texts with line ends in them).
        files: File of each split of the hub's data set.
    """

    folder: str
    columns: dict[str, str | int]
    classes: tuple[str, ...] = ("0", "1")
    has_header: bool = True
    has_broken_lines: bool = False
    files: tuple[tuple[str, str], ...] = (("train", "train.tsv"), ("validation", "dev.tsv"))

    @property
    def width(self) -> int:
        """Columns of a file without header; 0 of one with a header, which says it."""
        return 0 if self.has_header else 1 + max(int(column) for column in self.columns.values())


_NLI = ("entailment", "not_entailment")

GLUE_TSV: dict[str, TsvLayout] = {
    "cola": TsvLayout("CoLA", {"sentence": 3, "label": 1}, has_header=False),
    "sst2": TsvLayout("SST-2", {"sentence": "sentence", "label": "label"}),
    "mrpc": TsvLayout("MRPC", {"sentence1": "#1 String", "sentence2": "#2 String", "label": "Quality"}),
    "stsb": TsvLayout("STS-B", {"sentence1": "sentence1", "sentence2": "sentence2", "label": "score"}, classes=()),
    "qqp": TsvLayout(
        "QQP",
        {"question1": "question1", "question2": "question2", "label": "is_duplicate"},
        has_broken_lines=True,
    ),
    "mnli": TsvLayout(
        "MNLI",
        {"premise": "sentence1", "hypothesis": "sentence2", "label": "gold_label"},
        classes=("entailment", "neutral", "contradiction"),
        files=(
            ("train", "train.tsv"),
            ("validation_matched", "dev_matched.tsv"),
            ("validation_mismatched", "dev_mismatched.tsv"),
        ),
    ),
    "qnli": TsvLayout("QNLI", {"question": "question", "sentence": "sentence", "label": "label"}, classes=_NLI),
    "rte": TsvLayout("RTE", {"sentence1": "sentence1", "sentence2": "sentence2", "label": "label"}, classes=_NLI),
    "wnli": TsvLayout("WNLI", {"sentence1": "sentence1", "sentence2": "sentence2", "label": "label"}),
}
