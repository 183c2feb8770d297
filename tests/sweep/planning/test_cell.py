"""Cells and points: what a study is named after, which identity a point has, and the command line that trains it."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

from nxm_sweep.config.compose import compose_settings
from nxm_sweep.errors import ConfigError
from nxm_sweep.methods import METHODS
from nxm_sweep.sweep.planning import cell as module
from nxm_sweep.sweep.planning.axes import Axes, Range, agrees, combinations, command_line_word, count
from nxm_sweep.sweep.planning.cell import Cell, live_axes
from nxm_sweep.trial.build import build_method
from nxm_sweep.trial.digests import Digests
from nxm_sweep.trial.identity import identity_of

DIGESTS = Digests("rows", "files", 100)
AXES: Axes = {"learning_rate.value": (1e-5, 3e-5), "training.batch_size": (16, 32), "seed": (0,)}


def _cell(*given: str, axes: Axes = AXES, digests: Digests = DIGESTS, **kwargs: Any) -> Cell:
    overrides = ("method=nxm_paper", *given)
    return Cell(compose_settings(overrides), axes, digests, tuple(overrides), **kwargs)


# --- points -----------------------------------------------------------------------------------------------------------

EVERYTHING: Axes = {
    "learning_rate.value": (1e-5, 7e-5),
    "rho.value": (1e-3, 1.0),
    "rho.start": (0.0, 1e-4),
    "rho.schedule": ("constant", "linear", "cosine"),
    "method.admm.penalty": ("gradient", "decoupled"),
    "method.admm.finish": ("prune", "refit"),
    "method.admm.admm_fraction": (0.4, 0.5),
    "training.max_train_samples": (None, 64),
    "method.trained": ("all", "targets"),
    "seed": (0, 1),
}


@pytest.mark.parametrize("method", METHODS)
def test_a_points_identity_is_that_of_its_settings(method: str) -> None:
    settings = compose_settings([f"method={method}"])
    cell = Cell(settings, live_axes(settings, EVERYTHING), DIGESTS)
    values = list(itertools.islice(combinations(cell.axes), 0, None, 7))  # every seventh, of up to 1,536
    assert len(values) >= 2
    for each in values:
        point = cell.point(each)
        assert point.identity == identity_of(point.settings, data_digest="rows", model_digest="files")[0]


def test_a_taught_cell_is_named_so_and_its_points_identities_are_those_of_their_settings() -> None:
    overrides = ["method=nxm_paper", "distillation=logits", "distillation.teacher.path=x"]
    axes: Axes = {"distillation.weight": (0.25, 1.0), "distillation.temperature": (1.0, 2.0)}
    cell = _cell(*overrides, axes=axes, digests=Digests("rows", "files", 100, "teacher"))
    for point in cell.points():
        settings = compose_settings(point.overrides)
        expected = identity_of(settings, data_digest="rows", model_digest="files", teacher_digest="teacher")[0]
        assert point.identity == expected
    assert len({point.identity for point in cell.points()}) == 4
    assert cell.name == "glue/rte nxm_paper 2of4 bert_base distillation=logits"
    other = _cell(*overrides, axes=axes, digests=Digests("rows", "files", 100, "another"))
    assert other.fingerprint != cell.fingerprint
    assert live_axes(compose_settings(["method=nxm_paper"]), axes) == {}  # without a teacher nothing reads them


@pytest.mark.parametrize("method", METHODS)
def test_the_pattern_of_a_cell_is_what_its_trained_matrices_hold(method: str) -> None:
    """Held against a model: the targets that each method makes of the same rules."""
    model = torch.nn.ModuleDict({"layer": torch.nn.ModuleList([torch.nn.ModuleDict({"a": torch.nn.Linear(8, 8)})])})
    cell = _cell(f"method={method}", "task=glue/rte")
    held = {str(target.constraint) for target in build_method(cell.settings, model).targets}
    expected = {"2 of 4": "2of4", "0.5 unstructured": "50% unstructured"}
    assert cell.pattern == (expected[held.pop()] if held else "dense")
    is_dense = method == "dense"
    assert cell.title == ("glue/rte dense bert_base" if is_dense else f"glue/rte {method} {cell.pattern} bert_base")
    assert cell.name == f"glue/rte {method} {'dense' if is_dense else '2of4'} bert_base"  # studies are named by it


@pytest.mark.parametrize(
    ("sparsity", "pattern"),
    [
        ("sparsity=ffn_only", "ffn_only_2of4"),
        ("sparsity=attention_only", "attention_only_2of4"),
        ("sparsity.name=1of4", "2of4"),
        ("sparsity.also=['*.intermediate.*: 1 of 4']", "2of4+rules"),
        ("sparsity.also=['*.intermediate.*: dense']", "2of4+rules"),
        ("sparsity.rules=[{match: 'layer*', keep: 1, group: 4}]", "1of4"),
        ("sparsity.rules=[{match: 'layer*', density: 0.3}]", "70% unstructured"),
        ("sparsity.rules=[{match: 'layer*', keep: 4, group: 4}]", "dense"),
    ],
)
def test_the_pattern_of_a_cell_is_no_name_that_its_rules_do_not_keep(sparsity: str, pattern: str) -> None:
    assert _cell("method=asp", sparsity).pattern == pattern


def test_every_combination_is_a_point_once() -> None:
    points = list(_cell().points())
    assert [tuple(point.values.values()) for point in points] == [
        (1e-5, 16, 0), (1e-5, 32, 0), (3e-5, 16, 0), (3e-5, 32, 0),
    ]  # fmt: skip
    assert len({point.identity for point in points}) == 4


def test_combinations_that_train_the_same_are_one_point() -> None:
    axes: Axes = {"rho.schedule": ("constant", "linear"), "rho.start": (0.0, 1e-4)}
    assert len(list(_cell(axes=axes).points())) == 3  # a constant rho has no start


def test_a_point_is_trained_by_its_command_line() -> None:
    axes: Axes = {
        "learning_rate.value": (7e-5,),
        "training.max_train_samples": (None, 8),
        "training.schedule": ("cosine",),
    }
    for point in _cell("task=glue/sst2", "method=asp", axes=axes).points():
        settings = compose_settings(point.overrides)
        assert identity_of(settings, data_digest="rows", model_digest="files")[0] == point.identity
        assert settings.sweep.point == point.identity


WORDS = [
    "plain",
    "two words",
    "a,b",
    "it's",
    'say "x"',
    "back\\slash",
    "ends\\",
    "a\\'b",
    "1e-5",
    "null",
    "True",
    "nan",
    "[x]",
]


@pytest.mark.parametrize("value", WORDS)
def test_words_reach_a_setting_unchanged(value: str) -> None:
    assert compose_settings([f"output_dir={command_line_word(value)}"]).output_dir == value


@pytest.mark.parametrize(
    ("value", "text"), [(7.000000000000001e-05, "7e-05"), (16, "16"), (None, "null"), (True, "true"), (0.5, "0.5")]
)
def test_values_are_written_as_the_command_line_takes_them(value: Any, text: str) -> None:
    assert command_line_word(value) == text


def test_planning_hashes_settings_once_per_word_and_not_once_per_point(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def counted(*args: Any, **kwargs: Any) -> Any:
        calls.append(args)
        return identity_of(*args, **kwargs)

    monkeypatch.setattr(module, "identity_of", counted)
    axes: Axes = {
        "learning_rate.value": (1e-5, 3e-5),
        "training.schedule": ("linear", "cosine"),
        "seed": tuple(range(500)),
    }
    cell = _cell(axes=axes)
    assert len({point.identity for point in cell.points()}) == 2000
    assert cell.study_name
    assert len(calls) == 2


@pytest.mark.parametrize(
    ("axes", "error"),
    [
        ({"training.batch_size": (16, 0)}, "training.batch_size must be at least 1 but got 0"),
        ({"rho.value": Range(0.5, float("inf"))}, "rho.value must be above 0 but got inf"),
        ({"rho.schedule": ("square",)}, "rho.schedule must be one of"),
    ],
)
def test_a_value_out_of_range_is_refused_with_its_axis(axes: Axes, error: str) -> None:
    with pytest.raises(ConfigError, match=error):
        _cell(axes=axes)


def test_values_that_do_not_fit_together_are_refused() -> None:
    cell = _cell(axes={"rho.schedule": ("linear", "exponential"), "rho.start": (0.0, 1e-4)})
    with pytest.raises(ConfigError, match=r"an exponential ramp needs rho.start and rho.value above 0"):
        list(cell.points())


def test_a_ramp_whose_start_is_tied_to_it_fits() -> None:
    axes: Axes = {"rho.schedule": ("linear", "exponential"), "rho.start": (0.0, 1e-4)}
    assert len(list(_cell(axes=axes, tie=(("rho.schedule", "rho.start"),)).points())) == 2


# --- rules ------------------------------------------------------------------------------------------------------------


def test_ties_join_axes_and_leave_the_others_free() -> None:
    axes: Axes = {"a": (1, 2), "b": ("x", "y", "z"), "c": (3, 4)}
    found = [tuple(values.values()) for values in combinations(axes, [["c", "a"]])]
    assert found == [(a, b, c) for (a, c) in ((1, 3), (2, 4)) for b in "xyz"]
    assert count(axes, [["c", "a"]]) == len(found)
    assert count(axes) == 12


def test_tied_axes_of_two_lengths_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"^sweep.tie needs axes of one length but a has 2, b has 3$"):
        list(combinations({"a": (1, 2), "b": (1, 2, 3)}, [["a", "b"]]))


def test_a_grid_cannot_list_a_range() -> None:
    with pytest.raises(ConfigError, match=r"^a is a range, which a grid cannot list$"):
        list(combinations({"a": Range(0, 1)}))


@pytest.mark.parametrize(
    ("rule", "holds"),
    [
        ({"a": 1}, True),
        ({"a": 1.0}, True),
        ({"a": [2, 1]}, True),
        ({"a": 2}, False),
        ({"a": 1, "b": "x"}, True),
        ({"a": 1, "b": "y"}, False),
        ({"f": 7e-5}, True),
        ({"c": 1}, False),
    ],
)
def test_a_rule_holds_where_every_key_agrees(rule: dict[str, Any], holds: bool) -> None:
    assert agrees(rule, {"a": 1, "b": "x", "f": 7.000000000000001e-05}) is holds


# --- studies ----------------------------------------------------------------------------------------------------------


def test_a_study_is_named_after_its_cell() -> None:
    cell = _cell("task=glue/rte", "method=asp", "model=minilm_l6")
    assert cell.study_name == f"glue/rte asp 2of4 minilm_l6 {cell.fingerprint}"
    assert len(cell.fingerprint) == 8


GROWN: Axes = {"learning_rate.value": (1e-5, 2e-5, 3e-5), "training.batch_size": (8,), "seed": (3, 4)}


@pytest.mark.parametrize(
    "overrides",
    [[], ["learning_rate.value=5e-5"], ["training.batch_size=8", "seed=7"], ["sweep.workers=3", "output_dir=x"],
     ["training.device=cpu"], ["learning_rate.grid=[1e-4]"], ["save_model=true"]],
    ids=lambda overrides: " ".join(overrides) or "grid",
)  # fmt: skip
def test_a_changed_grid_is_the_same_study(overrides: list[str]) -> None:
    assert _cell(*overrides, axes=GROWN).study_name == _cell().study_name


@pytest.mark.parametrize(
    "override",
    ["training.epochs=4", "training.max_length=64", "sparsity=1of4", "method.admm.interval=2", "rho.value=2e-3",
     "training.weight_decay=0.1", "training.max_train_samples=100", "rho.schedule=linear", "sparsity.rules.0.keep=1",
     "method=asp", "task.selection_metric=f1", "model=minilm_l6", "training.precision=bf16"],
)  # fmt: skip
def test_a_changed_setting_is_another_study(override: str) -> None:
    both = ["task.metrics=[accuracy,f1]"]
    assert _cell(*both, override).study_name != _cell(*both).study_name


@pytest.mark.parametrize("digests", [Digests("other", "files", 100), Digests("rows", "other", 100)])
def test_other_data_of_the_same_name_is_another_study(digests: Digests) -> None:
    assert _cell(digests=digests).name == _cell().name
    assert _cell(digests=digests).study_name != _cell().study_name


def test_another_set_of_axes_is_another_study() -> None:
    assert _cell(axes={**AXES, "rho.value": (1e-3,)}).study_name != _cell().study_name


def test_words_cannot_grow_a_study_but_their_order_is_free() -> None:
    def name(*words: str) -> str:
        return _cell(axes={"training.schedule": words}).study_name

    assert name("linear", "cosine") == name("cosine", "linear")
    assert name("linear", "cosine") != name("linear")


def test_a_setting_that_only_one_word_reads_is_part_of_the_study() -> None:
    axes: Axes = {"rho.schedule": ("constant", "linear")}
    assert _cell("rho.start=1e-4", axes=axes).study_name != _cell(axes=axes).study_name
    assert _cell("rho.schedule=linear", axes=axes).study_name == _cell(axes=axes).study_name


def test_a_search_is_another_study_than_the_grid_and_than_one_of_another_space() -> None:
    grid, random, tpe = (_cell(search=search) for search in ("", "random", "tpe"))
    wider = _cell(search="random", axes=GROWN)
    assert len({cell.study_name for cell in (grid, random, tpe, wider)}) == 4


def test_seeds_of_a_search_are_repeats_and_those_of_a_grid_an_axis() -> None:
    axes: Axes = {"learning_rate.value": (1e-5, 3e-5), "seed": (1, 0)}
    grid, search = _cell(axes=axes), _cell(axes=axes, search="tpe")
    assert (grid.seeds, grid.drawn_keys) == ((), ["learning_rate.value", "seed"])
    assert (search.seeds, search.drawn_keys) == ((0, 1), ["learning_rate.value"])
    assert search.space is not None
    assert [point.values for point in search.space.values()] == [
        {"learning_rate.value": rate, "seed": 0} for rate in (1e-5, 3e-5)
    ]
    repeats = [repeat.identity for point in search.space.values() for repeat in search.repeats(point)]
    assert sorted(repeats) == sorted(point.identity for point in grid.points())


def test_name_of_a_search_depends_on_which_seeds_it_has_and_its_family_does_not() -> None:
    cells = [_cell(axes={"learning_rate.value": (1e-5,), "seed": seeds}, search="tpe")
             for seeds in ((0,), (1,), (0, 1), (1, 0), (0, 1, 2))]  # fmt: skip
    assert len({cell.study_name for cell in cells}) == 4  # the order makes none
    assert len({cell.search_name for cell in cells}) == 1
    wider = _cell(axes={"learning_rate.value": (1e-5, 3e-5), "seed": (0, 1)}, search="tpe")
    assert wider.search_name != cells[0].search_name


def test_dense_has_no_pattern_and_no_rho() -> None:
    names = {_cell("method=dense", f"sparsity={sparsity}", f"rho.value={rho}").study_name
             for sparsity in ("2of4", "1of4") for rho in (1e-3, 1e-2)}  # fmt: skip
    assert len(names) == 1
    assert " dense dense " in names.pop()


# --- a search's space -------------------------------------------------------------------------------------------------


def test_a_space_of_lists_and_whole_ranges_is_listed() -> None:
    cell = _cell(axes={"training.batch_size": Range(8, 10), "seed": (0, 1)}, exclude=({"training.batch_size": 9},))
    assert cell.space is not None
    assert sorted((point.values["training.batch_size"], point.values["seed"]) for point in cell.space.values()) == [
        (8, 0), (8, 1), (10, 0), (10, 1),
    ]  # fmt: skip
    assert all(point.cell is cell and identity == point.identity for identity, point in cell.space.items())


@pytest.mark.parametrize("axes", [{"rho.value": Range(0.1, 0.2)}, {"seed": Range(0, 10_000)}])
def test_a_space_without_end_is_not_listed(axes: Axes) -> None:
    assert _cell(axes=axes).space is None
