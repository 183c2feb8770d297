"""Write docs/records.md from the types of a record: ``python docs/make_records.py``."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCE, PAGE = ROOT / "nxm_sweep" / "store" / "record.py", ROOT / "docs" / "records.md"


def page() -> str:
    """Return the page."""
    tree = ast.parse(SOURCE.read_text(encoding="utf-8"))
    lines = [
        "# Records",
        "",
        "<!-- Made by docs/make_records.py from nxm_sweep/store/record.py. -->",
        "",
        "A finished trial is `OUTPUT_DIR/trials/IDENTITY/result.json`, written last and whole; the study and the report are",
        "views of it.",
        *[line.replace("``", "`") for line in (ast.get_docstring(tree) or "").splitlines()[1:]],
    ]
    kinds = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    for kind in reversed(kinds):
        lines += ["", f"## {kind.name}", "", (ast.get_docstring(kind) or "").replace("``", "`"), ""]
        lines += ["| key | type | meaning |", "|---|---|---|", *_rows(kind)]
    return "\n".join(lines) + "\n"


def _rows(kind: ast.ClassDef) -> Iterator[str]:
    if [ast.unparse(base) for base in kind.bases] == ["RecordBody"]:
        yield "| ... | RecordBody | all keys of the next table |"
    for field, comment in zip(kind.body, kind.body[1:], strict=False):
        if (
            isinstance(field, ast.AnnAssign)
            and isinstance(comment, ast.Expr)
            and isinstance(comment.value, ast.Constant)
        ):
            name, meaning = ast.unparse(field.target), str(comment.value.value).replace("``", "`")
            text = ast.unparse(field.annotation)
            optional = text.startswith("NotRequired[")
            text = text.removeprefix("NotRequired[").removesuffix("]") if optional else text
            marked = f"{meaning} Not in records of every version." if optional else meaning
            yield f"| `{name}` | `{text.replace(' | ', ' or ')}` | {marked} |"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
