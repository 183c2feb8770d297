"""The page as a file: what came from records is text in it, nothing comes from outside, links lead to records."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest

from nxm_sweep.report.comparison import compare_sweeps
from nxm_sweep.report.content import Content
from nxm_sweep.report.formats import html as page_module
from nxm_sweep.report.formats.comparison_html import comparison_page
from nxm_sweep.report.formats.html import render
from nxm_sweep.report.formats.markdown import markdown
from nxm_sweep.report.formats.write import write as write_files
from nxm_sweep.report.frames import read_report
from nxm_sweep.report.statistics import compare
from nxm_sweep.report.table import make_table
from tests.report.records import plan, record, write

HOSTILE = "</script><script>alert(1)</script>\"'><img src=x onerror=alert(2)>&lt;"


class Read(HTMLParser):
    """What a browser would make of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.texts: list[str] = []
        self.scripts: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data: str) -> None:
        if self.lasttag == "script" and data.strip() and not self.scripts[-1]:
            self.scripts[-1] = data
        self.texts.append(data)

    def attributes(self, name: str) -> list[str]:
        return [attributes[name] for _, attributes in self.tags if name in attributes]


def content(folder: Path, target: Path | None = None, watch: float | None = None) -> Content:
    report = read_report([folder])
    return Content(report, make_table(report), compare(report), target=target or folder / "reports", watch=watch)


@pytest.mark.parametrize("name", [HOSTILE, "x" * 1_000_000], ids=["script", "million"])
def test_a_name_from_a_record_is_text_in_the_page(tmp_path: Path, name: str) -> None:
    entries = [
        record("a", 0.6, task=name, method=name, model=name),
        record("b", 0.5, task=name, method="asp", model=name),
    ]
    entries[0]["hashed"]["tag"] = {"of": name}
    entries[1]["hashed"]["tag"] = {"of": "other"}
    entries[0] |= {"versions": {name: name}, "git_commit": name, "finished": name, "sparsity_name": name}
    write(tmp_path, *entries)
    plan(tmp_path, ["c"], cell="  ".join([name] * 4))
    (tmp_path / "trials/d").mkdir()
    (tmp_path / "trials/d/result.json").write_text(f'{{"schema": "{name[:3000]}"'.replace("\n", " "))
    page = render(content(tmp_path), [])
    read = Read(page)
    assert len(page) < 200_000
    assert [tag for tag, _ in read.tags].count("script") == 1
    assert not {"img", "iframe", "object", "link"} & {tag for tag, _ in read.tags}
    assert not [name for _, attributes in read.tags for name in attributes if name.startswith("on")]
    assert any(name[:100] in text for text in read.texts)


def test_the_page_allows_its_own_script_alone_and_loads_nothing(tmp_path: Path) -> None:
    write(tmp_path, record("a", 0.6))
    page = render(content(tmp_path), [])
    read = Read(page)
    digest = base64.b64encode(hashlib.sha256(read.scripts[0].encode()).digest()).decode()
    policy = next(text for text in read.attributes("content") if text.startswith("default-src"))
    assert policy.startswith("default-src 'none'")
    assert f"script-src 'sha256-{digest}'" in policy
    assert read.attributes("src") == []
    assert not re.findall(r"@import|url\((?!#)", page)


def test_links_lead_to_the_records_from_where_the_page_lies(tmp_path: Path) -> None:
    folder = write(tmp_path / "a b #1", record("a", 0.6), record("b", 0.5, lr=1e-3))
    target = tmp_path / "elsewhere/deep"
    for path in write_files(content(folder, target), target, ["html"]):
        assert path.is_file()
    read = Read((target / "index.html").read_text())
    links = [link for link in read.attributes("href") if not link.startswith("#")]
    found = {(target / unquote(link)).resolve() for link in links}
    records = {(folder / "trials" / name / "result.json").resolve() for name in "ab"}
    assert found == records | {(target / "trials" / f"{name}.html").resolve() for name in "ab"}
    for name in "ab":
        trial = Read((target / "trials" / f"{name}.html").read_text())
        back = {(target / "trials" / unquote(link)).resolve() for link in trial.attributes("href") if link[0] != "#"}
        assert back == {(target / "index.html").resolve(), (folder / "trials" / name / "result.json").resolve()}
    assert {name for name in read.attributes("href") if name.startswith("#")} <= {
        f"#{name}" for name in read.attributes("id")
    }


def test_the_page_reloads_itself_while_it_is_watched_alone(tmp_path: Path) -> None:
    write(tmp_path, record("a", 0.6))
    still, watched = (Read(render(content(tmp_path, watch=watch), [])) for watch in (None, 7.0))
    assert "refresh" not in still.attributes("http-equiv")
    assert "refresh" in watched.attributes("http-equiv")
    assert "7" in watched.attributes("content")


def test_the_same_records_give_the_same_page(tmp_path: Path) -> None:
    write(tmp_path, record("a", 0.6), record("b", 0.7, method="dense"))
    first, second = tmp_path / "one", tmp_path / "two"
    for target in (first, second):
        list(write_files(content(tmp_path, target), target, ["html"]))
    assert (first / "index.html").read_text() == (second / "index.html").read_text()


def shown_methods(page: str) -> list[str]:
    return re.findall(r"<tr>\s*<td>RTE</td><td>(\w+)</td>", page)


def test_many_trials_are_cut_to_the_best_of_every_cell_and_it_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, *(record(f"a{lr}", 0.9 - lr, lr=lr / 1e3) for lr in range(1, 51)))
    write(tmp_path, *(record(f"d{lr}", -99.0, method="dense", lr=lr / 1e3) for lr in range(1, 6)))
    monkeypatch.setattr(page_module, "TRIALS", 20)
    found = content(tmp_path)
    page = render(found, [])
    assert sorted(shown_methods(page)) == ["ASP"] * 15 + ["Dense"] * 5
    assert ">90.00</td>" not in page
    assert ">-10.00</td>" in page  # the best of asp
    assert "The best 20 of 55 trials, from every cell alike" in page
    monkeypatch.setattr(page_module, "LARGEST", len(page.encode()) - 1)
    smaller = render(found, [])
    assert len(smaller.encode()) < len(page.encode())
    assert shown_methods(smaller).count("Dense") == 5
    assert "The best 10 of 55 trials" in smaller


def test_what_is_missing_is_listed(tmp_path: Path) -> None:
    write(tmp_path, record("a", 0.6))
    plan(tmp_path, ["a", "b"])
    page = render(content(tmp_path), [])
    assert "Points without a usable record" in page
    assert "not trained yet" in page
    assert "1 to do" in page
    assert "python -m nxm_sweep -m task=glue/rte &#39;data.path=a b&#39;" in page


def test_page_and_markdown_say_how_differences_were_tested_and_what_is_missing(tmp_path: Path) -> None:
    for seed in range(3):
        write(tmp_path, record(f"a{seed}", 0.6 + seed / 100, seed=seed))
        for rho in (1e-3, 4e-3):
            write(tmp_path, record(f"n{seed}{rho}", 0.7 + rho, method="nxm", rho=rho, seed=seed))
    plan(tmp_path, ["a0", "a1", "a2", "a3"], cell="glue/rte asp 2of4 tiny")
    found = content(tmp_path)
    for text in ("".join(Read(render(found, [])).texts), markdown(found).replace("\\", "")):
        assert "chosen on other seeds than the one that is scored, by their scores on the reported rows" in text
        assert "with Holm's correction for the 1 test of this table." in text
        assert "1 of 4 pairs missing: no record of NxM with seed 3 and of ASP with seed 3" in text
        assert "points without a record: ASP 1 to do" in text
        assert "against ASP" in text
        assert re.search(r"\[\+?-?\d+\.\d to \+\d+\.\d\], p 0?\.?\d", text)


def test_two_sweeps_are_a_page_with_links_and_names_as_text(tmp_path: Path) -> None:
    write(tmp_path / "a", record("a", 0.6), record("n", 0.5, method="nxm", rho=1e-3, model=HOSTILE))
    write(tmp_path / "b", record("b", 0.7), record("d", 0.8, method="dense"))
    list(write_files(content(tmp_path / "a"), tmp_path / "a" / "reports", ["html"]))
    sides = [content(tmp_path / name) for name in "ab"]
    comparison = compare_sweeps(sides[0], sides[1], (f"1: {HOSTILE}", "2: b"))
    files = comparison_page(comparison, tmp_path / "to")
    read = Read(files["comparison.html"])
    assert [tag for tag, _ in read.tags].count("script") == 1
    assert not {"img", "iframe", "object", "link"} & {tag for tag, _ in read.tags}
    assert HOSTILE in "".join(read.texts)
    links = [address for address in read.attributes("href") if not address.startswith("#")]
    assert len(links) == 5  # the first sweep's page, and a record of each entry
    assert all((tmp_path / "to" / unquote(address)).resolve().is_file() for address in links)
    assert {values["data-value"] for _, values in read.tags if "data-value" in values} >= {"0.6", "0.7", "0.1", ""}
    assert [name for name in files if name.endswith(".svg")] == ["pictures/differences.svg"]


def test_sweeps_with_no_entry_in_common_have_no_picture(tmp_path: Path) -> None:
    write(tmp_path / "a", record("a", 0.6))
    write(tmp_path / "b", record("b", 0.7, task="glue/mrpc"))
    sides = [content(tmp_path / name) for name in "ab"]
    files = comparison_page(compare_sweeps(sides[0], sides[1], ("1", "2")), tmp_path)
    assert list(files) == ["comparison.html"]
    assert "The sweeps have no entry in common." in files["comparison.html"]
