"""Names and values that mean something to a format: markup, formulas, escapes, directions and control characters."""

from __future__ import annotations

from pathlib import Path

from nxm_sweep.report.comparison import compare_sweeps
from nxm_sweep.report.content import Content
from nxm_sweep.report.formats.write import write as write_formats
from nxm_sweep.report.formats.write import write_comparison
from nxm_sweep.report.frames import read_report
from nxm_sweep.report.statistics import compare
from nxm_sweep.report.table import make_table
from tests.report.records import plan, record, write

FORMATS = ("markdown", "latex", "csv", "json", "html", "latex-document")

CORPUS = (
    "<img src=x onerror='window.broken = 1'>",
    "</script><script>window.broken = 2</script>",
    '" onmouseover="window.broken = 3" x=\'',
    "&lt;b&gt; &amp; &#x3c;i&#x3e;",
    "<!-- comment --> <![CDATA[x]]> <svg/onload=alert(1)>",
    "{{ 7 * 7 }} {% raise %} ${oc.env:HOME}",
    "[click](javascript:alert(1)) ![x](https://x.invalid/y.png)",
    "`code` **bold** _it_ ~~no~~ ~sub~ $x$ \\(y\\)",
    "<https://x.invalid> https://x.invalid www.x.invalid",
    "[ref]: https://x.invalid",
    "# heading",
    "- item",
    "+ item",
    "1. item",
    "2) item",
    "> quote",
    "---",
    "***",
    "a|b\\|c\\\\|d",
    "\\",
    "|",
    "\\input{/etc/passwd}\\write18{touch broken}",
    "%\\end{document}",
    "$x^2$ {a}_b & # ~ ^^41 --- ?` !` ,, << >>",
    "}{\\catcode`\\@=0 @end",
    "[2cm]",
    "*",
    "=cmd|'/C calc'!A0",
    "+1+cmd()",
    "-2+3+cmd()",
    "@SUM(1)",
    " =1+1",
    "\t=1+1",
    "\r=1+1",
    "\n=1+1",
    "\ufeff=1+1",
    "\uff1d1+1",
    'a","=cmd()","b',
    "a;=cmd();b",
    "\u202etxt.exe\u202c \u2066x\u2069 \u200f",
    "\u05e9\u05dc\u05d5\u05dd 12 (ab)",
    "a\x00b\x1b[31mred\x07\x9b2J\x7f",
    "two\nlines\r\nand\u2028more\u2029",
    "\ud800lone",
    "\U0001f469\u200d\U0001f4bb e\u0301 na\u00efve",
    "[bold red]x[/] :smile: [link=https://x.invalid]y[/link]",
    "~/x $HOME $(touch broken) `touch broken` ; rm x",
)


def shown(text: str) -> str:
    """What a reader should see of a text: characters that control something are replaced; white space is one space."""
    return " ".join("".join(letter if letter.isprintable() else "\ufffd" for letter in text).split())


def _is_name_of_a_folder(text: str) -> bool:
    return not set(text) & {"/", "\0"} and text.isprintable()


def write_hostile_reports(parent: Path) -> Path:
    """Write reports, in each format, of records whose names, values and paths are the corpus; return their folder."""
    root = parent / "a|b <i>$x_1$ [c](d) #%&~ =cmd() \u202e"
    records = []
    for number, text in enumerate(CORPUS):
        identity = text if _is_name_of_a_folder(text) else f"t{number}"
        task = f"glue/{text}" if number % 2 else text
        made = record(identity, 0.5 + number / 100, task=task, method=text, model=text)
        made["hashed"]["training"]["schedule"] = text
        made["hashed"]["option"] = {text: text}
        made["model"]["class"] = made["hardware"]["machine"] = made["git_commit"] = text
        made["versions"] = {text: text}
        made["selection"]["protocol"] = text
        unusable = record(f"bad{number}", 0.5)  # the reason quotes the text
        unusable["hashed"]["learning_rate"]["value"] = text
        records += [made, unusable]
    write(root, *records)
    plan(root, [next(filter(_is_name_of_a_folder, CORPUS))])
    report, target = read_report([root]), root / "reports"
    assert len(report.trials) == len(CORPUS), report.problems.to_dict("records")
    content = Content(report, make_table(report), compare(report), target=target)
    list(write_formats(content, target, FORMATS))
    comparison = compare_sweeps(content, content, (f"1: {CORPUS[0]}", f"2: {CORPUS[1]}"))
    list(write_comparison(comparison, target, FORMATS))
    return target
