"""Pictures: what they show against the frames they come from, and what every one of them keeps to."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import pandas as pd
import pytest

from nxm_sweep.report.figures.cost import cost
from nxm_sweep.report.figures.draw import draw
from nxm_sweep.report.figures.limits import robust_limits
from nxm_sweep.report.figures.score_plots import cells_of, differences, expected_best, heat_map, plot_rho, scores
from nxm_sweep.report.figures.style import Picture, legend_order, style_of
from nxm_sweep.report.figures.training_curves import by_group, plot_kept_weights, pruned_and_unpruned, residual
from nxm_sweep.report.frames import read_report
from nxm_sweep.report.labels import METHOD_ORDER
from nxm_sweep.report.statistics import compare
from nxm_sweep.report.table import make_table
from nxm_sweep.report.verdict import Difference, Verdict, make_verdicts
from tests.report.records import record, write

HOSTILE = '<script>alert("$x$")</script>&\x00'
SVG = "{http://www.w3.org/2000/svg}"


def trials(methods: tuple[str, ...] = ("dense", "asp", "nxm"), tasks: tuple[str, ...] = ("glue/rte",)) -> pd.DataFrame:
    """A grid of trials whose score tells where it comes from."""
    grid = itertools.product(tasks, methods, (1e-5, 3e-5), (16, 32), (1e-3, 4e-3))
    rows = [
        {
            "task": task,
            "method": method,
            "sparsity": "dense" if method == "dense" else "2of4",
            "model": "tiny",
            "metric": "accuracy",
            "folder": "here",
            "identity": str(place),
            "learning_rate.value": rate,
            "training.batch_size": batch,
            "rho.value": rho if method == "nxm" else np.nan,
            "seed": 0,
            "seconds": 100.0 + place,
            "seconds_per_step": np.nan,
            "cpu_per_step": 2.0 + place / 10,
            "device": "cpu",
            "machine": "here",
            "versions": "1",
            "epoch": 1,
            "value": 50.0 + place + 0.25,
            "selected": 0.5 + place / 100,
        }
        for place, (task, method, rate, batch, rho) in enumerate(grid)
    ]
    frame = pd.DataFrame(rows)
    return frame.assign(rank=frame.groupby(["task", "method"])["selected"].rank(ascending=False))


def epochs(methods: tuple[str, ...] = ("asp", "nxm")) -> pd.DataFrame:
    rows = trials(methods).drop_duplicates("method")[
        ["task", "method", "sparsity", "model", "metric", "folder", "identity"]
    ]
    more = pd.DataFrame({"epoch": [1, 2, 3], "selected": [50.0, 60.0, 61.5], "unpruned": [70.0, 71.0, 72.0]})
    return rows.merge(more.assign(residual=[0.3, 0.2, 0.125]), how="cross")


def matrices(zeros: tuple[int, ...]) -> pd.DataFrame:
    rows = trials(("gradual",)).head(1)[["task", "method", "sparsity", "model", "metric", "folder", "identity"]]
    names = [f"bert.encoder.layer.{layer}.output.dense.weight" for layer in range(len(zeros))]
    more = pd.DataFrame({"matrix": names, "constraint": "2 of 4", "rows": 10, "columns": 20, "zeros": zeros})
    return rows.merge(more, how="cross")


def iterations() -> pd.DataFrame:
    rows = trials(("nxm",)).head(1)[["task", "method", "sparsity", "model", "metric", "folder", "identity"]]
    groups = ["all", *(f"bert.encoder.layer.*.{name}.dense" for name in ("attention.output", "intermediate"))]
    more = [
        {"group": group, "step": step, "distance": 0.1 * place + step / 100, "support_flips": 0.5}
        for place, group in enumerate(groups)
        for step in (1, 2)
    ]
    return rows.merge(pd.DataFrame(more), how="cross")


def cells() -> pd.DataFrame:
    first = {"task": "glue/rte", "method": "asp", "sparsity": "2of4", "model": "tiny"}
    second = {**first, "method": "dense", "sparsity": "dense"}
    return pd.DataFrame(
        [
            {**first, "value": 61.0, "low": 59.0, "high": 63.0, "scores": (60.0, 62.0)},
            {**second, "value": 66.0, "scores": (66.0,)},
        ]
    )


def expected() -> pd.DataFrame:
    counts = pd.DataFrame({"trials": [1, 2, 3], "value": [50.0, 55.0, 56.0]})
    return cells()[["task", "method", "sparsity", "model"]].merge(counts, how="cross")


def verdict(mean: float = 1.5, low: float | None = 0.5, high: float | None = 2.5) -> Verdict:
    against = [Difference("nxm", name, mean, low, high, 0.01, 3, ("glue/rte",)) for name in ("asp", "dense")]
    return Verdict("At 2:4, ", "NxM", " is the best.", "2:4", "tiny", tuple(against))


ALL: dict[str, Callable[[], Picture]] = {
    "verdict": lambda: differences([verdict()]),
    "scores": lambda: scores(cells()),
    "rho": lambda: plot_rho(trials()),
    "learning-rate-and-batch": lambda: heat_map(trials()),
    "residual": lambda: residual(epochs()),
    "pruned-and-unpruned": lambda: pruned_and_unpruned(epochs()),
    "expected-best": lambda: expected_best(expected()),
    "cost": lambda: cost(trials(), ["learning_rate.value", "training.batch_size", "rho.value"]),
    "kept": lambda: plot_kept_weights(matrices((100, 120, 150))),
    "distance-by-group": lambda: by_group(iterations(), "distance", "Relative residual", "ratio"),
    "support-flips-by-group": lambda: by_group(iterations(), "support_flips", "Flips", "share"),
}


def texts(picture: Picture) -> list[str]:
    """Every text that a picture's drawings show."""
    return [
        "".join(text.itertext())
        for panel in picture.panels
        for text in ET.fromstring(panel.svg).iter(f"{SVG}text")  # noqa: S314
    ]


@pytest.mark.parametrize("name", ALL)
def test_a_picture_is_the_same_text_every_time_and_its_file_stands_alone(name: str) -> None:
    first, second = ALL[name](), ALL[name]()
    assert first == second
    assert first.name == name
    assert first.panels
    for panel in first.panels:
        root = ET.fromstring(panel.file(first.legend))  # noqa: S314
        assert float(root.attrib["width"].removesuffix("pt")) > 0
        assert root.attrib["aria-label"] == panel.alt
        assert len(panel.alt) > 30
        assert not re.search(r"\b20\d\d-\d\d|http://(?!www\.w3\.org)|<style|font-family", panel.svg)
        assert "#010203" not in panel.svg
        assert "currentColor" in panel.svg


def test_every_seed_of_an_entry_is_a_tick_on_its_line() -> None:
    def marks(*scores_: float) -> int:
        frame = cells().assign(scores=pd.Series([scores_, (66.0,)]))
        return scores(frame).panels[0].svg.count("<use ")

    assert marks(60.0, 61.0, 62.0) - marks(61.0) == 3


@pytest.mark.parametrize(
    "name", sorted(set(ALL) - {"verdict", "scores", "distance-by-group", "support-flips-by-group"})
)
def test_both_axes_are_labelled(name: str) -> None:
    picture = ALL[name]()
    words = {text for text in texts(picture) if len(text) > 3}
    labels = {
        "rho": {"rho (strength of the penalty, no unit)", "score times 100 (accuracy)"},
        "learning-rate-and-batch": {"learning rate", "method and", "batch size (rows)"},
        "residual": {"epoch", "||W - P(W)|| / ||W|| (ratio)"},
        "pruned-and-unpruned": {"epoch", "score times 100 (accuracy)"},
        "expected-best": {"trials drawn (count)", "expected best times 100"},
        "cost": {"CPU seconds per step,", "relative to dense", "score times 100 (accuracy)"},
        "kept": {"layer", "kept (% of the weights)"},
    }
    assert labels[name] <= words


def test_a_row_carries_its_methods_name_and_number_and_dense_is_a_line() -> None:
    (panel,) = scores(cells()).panels
    assert {"ASP", "Dense", "61.0", "66.0"} <= set(texts(scores(cells())))
    assert scores(cells()).legend == ()
    assert "stroke-dasharray" in panel.svg
    assert "stroke-dasharray" not in scores(cells().query("method == 'asp'")).panels[0].svg


def test_an_outlier_is_an_arrow_at_the_edge_and_squeezes_no_other() -> None:
    methods = ("dense", "asp", "nxm", "gradual", "sr_ste")
    values = (84.7, 80.4, 82.8, 82.5, 20.0)
    rows = [
        {"task": "t", "method": method, "sparsity": "2of4", "model": "tiny", "value": value, "scores": (value,)}
        for method, value in zip(methods, values, strict=True)
    ]
    frame = pd.DataFrame(rows).assign(low=np.nan, high=np.nan)
    usual, clipped = scores(frame.head(4)), scores(frame)
    assert "arrow at the edge" in clipped.words
    assert "arrow at the edge" not in usual.words
    assert "20.0" in texts(clipped)
    low, high = robust_limits(values, keep=[84.7])
    assert 20.0 < low < 80.4
    assert high > 84.7


def test_an_interval_that_does_not_fit_is_said_to_go_on() -> None:
    wide = cells().assign(low=[10.0, np.nan], high=[90.0, np.nan])
    assert "goes on outside" in scores(wide).words
    assert "goes on outside" not in scores(cells()).words


def test_limits_are_those_of_the_usual_scores_of_the_reference_and_of_intervals_within_a_span() -> None:
    usual = [80.0, 81.0, 82.0, 83.0]
    low, high = robust_limits(usual)
    assert [low, high] == pytest.approx([80.0 - 0.18, 83.0 + 0.18])
    assert robust_limits([*usual, 20.0]) == (low, high)
    assert list(robust_limits(usual, [60.0, 84.0])) == pytest.approx([77.0 - 0.06 * 7, 84.0 + 0.06 * 7])
    assert robust_limits(usual, keep=[50.0])[0] < 50.0
    assert robust_limits([20.0, 80.0, 81.0])[0] < 20.0  # of three none is an outlier
    assert robust_limits([float("nan")]) == (0.0, 1.0)
    assert list(robust_limits([50.0, 50.0])) == pytest.approx([49.5, 50.5])


def test_a_line_that_leaves_a_panel_is_named_with_its_lowest_score() -> None:
    methods = ("dense", "asp", "nxm", "sr_ste")
    frame = epochs(methods)
    frame.loc[frame["method"] == "sr_ste", ["selected", "unpruned"]] = -200.0
    assert any("SR-STE -200.0" in text for text in texts(pruned_and_unpruned(frame)))
    assert not any("\u25be" in text for text in texts(pruned_and_unpruned(epochs(methods))))


def test_a_figure_has_one_legend_and_its_files_have_it_too() -> None:
    picture = expected_best(pd.concat([expected(), expected().assign(task="glue/mrpc")]))
    assert len(picture.panels) == 2
    assert [entry.label for entry in picture.legend] == ["Dense", "ASP"]
    assert not any("ASP" in text for text in texts(picture))
    for panel in picture.panels:
        shown = ["".join(text.itertext()) for text in ET.fromstring(panel.file(picture.legend)).iter(f"{SVG}text")]  # noqa: S314
        assert shown[-2:] == ["Dense", "ASP"]


def test_a_method_has_one_label_in_every_panel() -> None:
    one = expected().query("method == 'asp'")
    picture = expected_best(pd.concat([one, one.assign(sparsity="1of4"), one.assign(task="glue/mrpc")]))
    assert [entry.label for entry in picture.legend] == ["ASP 1:4", "ASP 2:4"]


def test_a_page_gives_colours_of_its_own_and_a_file_has_fixed_ones() -> None:
    (panel,) = scores(cells()).panels
    assert "var(--asp, #e69f00)" in panel.svg
    assert "var(" not in panel.file()
    assert "#e69f00" in panel.file()
    sheet = (resources.files("nxm_sweep.report") / "templates" / "page.css").read_text()
    light, dark = sheet.split("@media screen and (prefers-color-scheme: dark)")[:2]
    for method in METHOD_ORDER[1:]:
        name = f"--{method.replace('_', '-')}: "
        colors = [part.partition(name)[2][:7] for part in (light, dark)]
        assert colors[0] != colors[1], method
        assert all(re.fullmatch("#[0-9a-f]{6}", color) for color in colors), method


def test_the_verdicts_picture_has_a_row_per_reference_with_its_number() -> None:
    picture = differences([verdict()])
    assert {"against ASP", "against dense", "+1.5"} <= set(texts(picture))
    assert "95% interval +0.5 to +2.5, 3 seeds" in picture.panels[0].alt
    assert not differences([Verdict("None.", "", "")]).panels


def test_no_two_methods_share_a_colour_or_a_marker() -> None:
    looks = [style_of(method) for method in METHOD_ORDER]
    assert len({one.color for one in looks}) == len({one.marker for one in looks}) == len(METHOD_ORDER)
    assert len({str(one.line) for one in looks}) == len(METHOD_ORDER)
    assert legend_order([*reversed(METHOD_ORDER), "mine"])[-1] == "mine"


def test_a_tile_shows_the_score_of_the_trial_that_was_selected() -> None:
    frame = trials(("nxm",))
    frame.loc[0, "value"] = 99.0  # the best reported, but rho 4e-3 was selected
    shown = texts(heat_map(frame))
    assert "99.0" not in shown
    assert {"51.2", "53.2", "55.2", "57.2"} <= set(shown)


def test_rho_is_drawn_where_it_was_read_alone() -> None:
    picture = plot_rho(trials())
    assert len(picture.panels) == 1
    assert "NxM 73.2 at 4e-3" in picture.panels[0].alt
    assert "ASP" not in picture.panels[0].alt


def test_kept_weights_are_said_in_words_where_the_pattern_fixes_them_and_drawn_where_not() -> None:
    same = plot_kept_weights(matrices((100, 100, 100)))
    assert not same.panels
    assert "keeps the same share, 50.0% (2:4)" in same.words
    (panel,) = plot_kept_weights(matrices((100, 120, 150))).panels
    assert "from 25.0% to 50.0%" in panel.alt


def test_groups_are_compared_at_the_last_iteration() -> None:
    (panel,) = by_group(iterations(), "distance", "Relative residual", "ratio").panels
    assert "largest 0.220, dense, NxM" not in panel.alt
    assert "largest 0.220, intermediate.dense, NxM" in panel.alt


@pytest.mark.parametrize(
    ("picture", "why"),
    [
        (lambda: scores(cells().head(0)), "no cell has a score"),
        (lambda: plot_rho(trials(("dense",))), "no trial has a penalty"),
        (lambda: plot_rho(trials().query("`rho.value` == 0.004")), r"found: 4e-3"),
        (lambda: plot_rho(trials().drop(columns="rho.value")), "no trial has a penalty"),
        (lambda: heat_map(trials().head(1)), "one learning rate and one batch size"),
        (lambda: residual(epochs().assign(residual=np.nan)), "no trial measured its distance"),
        (lambda: pruned_and_unpruned(epochs().head(0)), "no trial has an epoch's score"),
        (lambda: expected_best(expected().query("trials == 1")), "no cell has two trials"),
        (lambda: cost(trials(("dense",)), []), "no trial can be held against a dense one of the same machine"),
        (lambda: cost(trials(("asp", "nxm")), []), "no trial can be held against a dense one of the same machine"),
        (lambda: cost(trials().assign(cpu_per_step=np.nan), []), "no record holds the CPU seconds of its training"),
        (lambda: plot_kept_weights(matrices(())), "no trial pruned a matrix"),
        (lambda: by_group(iterations().query("group == 'all'"), "distance", "t", "x"), "by group of matrices"),
    ],
)
def test_a_picture_without_data_is_left_out_and_says_why(picture: Callable[[], Picture], why: str) -> None:
    left_out = picture()
    assert left_out.panels == ()
    assert re.search(why, left_out.words)


@pytest.mark.parametrize(
    "name", [HOSTILE, "x" * 1_000_000, "日本語 😀", ""], ids=["script", "million", "glyphs", "empty"]
)
def test_a_name_of_any_kind_is_drawn_short_and_escaped(name: str) -> None:
    frame = trials((name,)).assign(task=name, model=name, sparsity=name, metric=name)
    dense = frame.assign(method="dense", sparsity="dense")
    for picture in (
        cost(pd.concat([dense, frame], ignore_index=True), []),
        heat_map(frame),
        scores(frame.head(1).assign(low=1.0, high=2.0, scores=pd.Series([()]))),
    ):
        for panel in picture.panels:
            tags = {element.tag.removeprefix(SVG) for element in ET.fromstring(panel.file()).iter()}  # noqa: S314
            assert "script" not in tags
            assert len(panel.svg) < 100_000
            assert len(panel.alt) < 3_000


def test_a_name_is_no_formula() -> None:
    assert "$a^2$" in texts(heat_map(trials(("asp",), ("$a^2$",))))


def test_ids_are_unique_over_all_pictures() -> None:
    panels = [panel for make in ALL.values() for panel in make().panels]
    ids = [name for panel in panels for name in set(re.findall(r'id="([^"]*)"', panel.svg))]
    assert ids
    assert len(ids) == len(set(ids))


def test_a_panel_holds_the_best_methods_and_patterns_alone_and_says_so(tmp_path: Path) -> None:
    patterns = [f"{place + 1}of16" for place in range(12)]
    for place, pattern in enumerate(patterns):
        held: dict[str, Any] = {"rules": pattern, "held": f"{place + 1} of 16"}
        write(tmp_path, *(record(f"{place:02}{seed}", 0.5 + 0.01 * place, seed=seed, **held) for seed in range(2)))
    report = read_report([tmp_path])
    table = make_table(report)
    statistics = compare(report)
    pictures = {picture.name: picture for picture in draw(report, table, statistics, make_verdicts(table, statistics))}
    names = [f"ASP {place + 1}:16" for place in range(12)]
    assert {entry.label for entry in pictures["expected-best"].legend} == set(names[2:])
    assert "The best 10 of each task." in pictures["expected-best"].words
    assert {text for text in texts(pictures["scores"]) if text.startswith("ASP ")} == set(names)


def test_many_panels_are_cut_and_counted() -> None:
    picture = cost(trials(("dense", "asp"), tuple(f"task{place:02}" for place in range(14))), [])
    assert len(picture.panels) == 9
    assert picture.words.endswith("The first 9 of 14 panels are drawn.")


def test_every_picture_of_a_report_is_there_and_scores_are_times_100(tmp_path: Path) -> None:
    write(
        tmp_path,
        *(
            record(f"{method}{lr}", 0.6, method=method, lr=lr, cpu=9.0)
            for method in ("asp", "dense")
            for lr in (1e-4, 2e-4)
        ),
    )
    report = read_report([tmp_path])
    table = make_table(report)
    assert set(cells_of(table)["value"]) == {60.0}
    statistics = compare(report)
    pictures = draw(report, table, statistics, make_verdicts(table, statistics))
    assert [picture.name for picture in pictures] == list(ALL)
    assert all(picture.panels or picture.words for picture in pictures)
    assert {picture.name for picture in pictures if not picture.panels} == {
        "rho",
        "kept",
        "distance-by-group",
        "support-flips-by-group",
    }
