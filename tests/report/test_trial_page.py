"""The page of a trial as a file: what it shows of a record, which trials have one, and when it is written again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from nxm_sweep.report.formats import trial_table
from nxm_sweep.report.formats.trial_html import trial_pages
from nxm_sweep.report.formats.write import write as write_files
from tests.report.records import record, write
from tests.report.test_page import HOSTILE, Read, content

MATRICES = [f"bert.encoder.layer.{layer}.{name}.weight" for layer in range(2) for name in ("query", "output")]


def pruned(identity: str = "n", **other: Any) -> dict[str, Any]:
    """A record of a trial with four matrices in two layers, pruned unevenly, with their residuals."""
    made = record(identity, 0.7, method="nxm", rho=1e-3, **other)
    shape = {"rows": 10, "columns": 20, "constraint": "2 of 4", "kept": 100}
    made["sparsity"]["targets"] = [{"matrix": name, **shape} for name in MATRICES]
    made["sparsity"]["checked"] = [
        {"matrix": name, "zeros": zeros, "exact": True}
        for name, zeros in zip(MATRICES, (100, 120, 140, 60), strict=True)
    ]
    residuals = [0.1, 0.2, 0.3, 0.4]
    made["last_prune"] = {"relative_residual": 0.27, "cost": 0.02, "advice": "", "residuals": residuals}
    flips = {"primal": 0.1, "dual": 0.1, "support_flips": 0.1, "distance": 0.1}
    groups = [{"group": f"bert.encoder.layer.*.{name}", **flips} for name in ("query", "output")]
    made["iterations"] = [{"step": step, "rho": 1e-3, **flips, "groups": groups} for step in (5, 10)]
    return made


def cells_of(page: str, table: str) -> list[str]:
    body = page.partition(f'id="{table}"')[2].partition("</table>")[0].partition("<tbody>")[2]
    return [text.partition(">")[2].partition("<")[0] for text in body.split("<td")[1:]]


def test_it_shows_curves_residuals_by_layer_and_where_the_kept_weights_lie(tmp_path: Path) -> None:
    write(tmp_path, pruned())
    page = trial_pages(content(tmp_path))["trials/n.html"]
    assert cells_of(page, "kept") == ["50.0", "40.0", "30.0", "70.0"]  # of 200 weights, 100, 120, 140 and 60 are zero
    assert cells_of(page, "layer-residuals") == ["0.1000", "0.2000", "0.3000", "0.4000"]
    assert '<figure id="picture-epochs">' in page
    assert '<figure id="picture-residuals">' in page
    assert "<h1>NxM on RTE</h1>" in page
    anchors = {link for link in Read(page).attributes("href") if link.startswith("#")}
    assert anchors <= {f"#{name}" for name in Read(page).attributes("id")}
    assert "2.0 points: the unpruned less the pruned score" in page


def test_a_record_without_residuals_of_layers_has_no_such_table_and_a_fixed_share_is_said(tmp_path: Path) -> None:
    write(tmp_path, record("a", 0.6))
    page = trial_pages(content(tmp_path))["trials/a.html"]
    assert "layer-residuals" not in page
    assert "Each of the 1 pruned matrices keeps 50.0% of its weights: the pattern 2:4 fixes it." in page


def test_names_and_values_of_a_record_are_text(tmp_path: Path) -> None:
    made = pruned(task=HOSTILE, model=HOSTILE)
    made["hashed"]["option"] = {HOSTILE: HOSTILE}
    made["sparsity"]["targets"][0]["matrix"] = made["sparsity"]["checked"][0]["matrix"] = f"layer.0.{HOSTILE}"
    made["hardware"]["device"] = made["finished"] = HOSTILE
    write(tmp_path, made)
    page = trial_pages(content(tmp_path))["trials/n.html"]
    tags = [tag for tag, _ in Read(page).tags]
    assert tags.count("script") == 1
    assert not {"img", "iframe", "object", "link"} & set(tags)
    assert any(HOSTILE in text for text in Read(page).texts)


def test_a_page_that_is_up_to_date_is_not_made_again(tmp_path: Path) -> None:
    write(tmp_path, pruned("a"), pruned("b", lr=2e-4))
    target = tmp_path / "reports"
    list(write_files(content(tmp_path), target, ["html"]))
    assert trial_pages(content(tmp_path)) == {}
    path = tmp_path / "trials/a/result.json"
    changed = json.loads(path.read_text())
    changed["best"]["value"] = 0.71
    path.write_text(json.dumps(changed))
    assert list(trial_pages(content(tmp_path))) == ["trials/a.html"]
    (target / "trials/b.html").write_text("<html>damaged")
    assert sorted(trial_pages(content(tmp_path))) == ["trials/a.html", "trials/b.html"]


def test_the_best_trials_of_every_cell_have_one_and_others_link_to_their_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, *(record(f"a{lr}", 0.6 + lr / 100, lr=lr / 1e4) for lr in range(1, 5)))
    write(tmp_path, *(record(f"d{lr}", 0.9, method="dense", lr=lr / 1e4) for lr in range(1, 3)))
    monkeypatch.setattr(trial_table, "PAGES", 3)
    found = content(tmp_path)
    assert sorted(trial_pages(found)) == ["trials/a3.html", "trials/a4.html", "trials/d1.html"]
    rows, _ = trial_table.trial_rows(found.report, found.target, 10)
    links = {cell.text: cell.href for row in rows for cell in row[-2:-1]}
    assert links["a4"] == "trials/a4.html"
    assert links["a1"] == "../trials/a1/result.json"
