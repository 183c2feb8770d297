"""From a command line to cells and axes: every choice composed on its own, and bad input in one line before anything runs."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.types import HydraContext
from omegaconf.errors import OmegaConfBaseException

import nxm_sweep.trial.train
from nxm_sweep.__main__ import main
from nxm_sweep.config.compose import register_schema
from nxm_sweep.config.explain import conf_dir, explain
from nxm_sweep.errors import ConfigError
from nxm_sweep.methods import METHODS
from nxm_sweep.settings import TrialSettings
from nxm_sweep.sweep.planning.axes import Range
from nxm_sweep.sweep.planning.cell import Cell
from nxm_sweep.sweep.planning.command_line import plan_cells
from nxm_sweep.sweep.planning.plan import make_plan
from nxm_sweep.trial.digests import DigestMemo
from nxm_sweep.trial.identity import identity_of

BATCHES, SEEDS = (16, 32), (0,)
THREE, FIVE = (1e-5, 3e-5, 5e-5), (1e-5, 3e-5, 5e-5, 7e-5, 9e-5)
RHOS = (1e-3, 4e-3, 1e-2)
Cells = Callable[..., list[Cell]]
Run = Callable[..., tuple[int, str, str]]


def _prepare(settings: TrialSettings) -> Any:
    """Stand for the data: its digest is the task's name."""
    return SimpleNamespace(
        rows=SimpleNamespace(digest=settings.task.name, train=range(100)),
        model_digest="model",
        teacher_digest="",
        carries_head=False,
    )


@pytest.fixture(scope="module")
def composed() -> dict[tuple[str, ...], Any]:
    """Composing costs a quarter of a second; many tests compose the same."""
    return {}


@pytest.fixture
def cells(
    composed: dict[tuple[str, ...], Any], monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Cells]:
    """The cells of a command line, planned in this process; an error is the one that the command prints."""
    monkeypatch.setattr(nxm_sweep.trial.train, "prepare", _prepare)
    monkeypatch.chdir(tmp_path_factory.getbasetemp())
    register_schema()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        context = HydraContext(config_loader=GlobalHydra.instance().config_loader(), callbacks=None)  # type: ignore[arg-type]

        def compose_once(overrides: Sequence[str]) -> Any:
            key = tuple(overrides)
            if key not in composed:
                composed[key] = compose("config", list(overrides))
            return composed[key]

        def plan(*arguments: str) -> list[Cell]:
            try:
                return plan_cells(arguments, compose_once, context)[0]
            except (HydraException, OmegaConfBaseException) as error:
                raise explain(error, arguments) from error

        yield plan


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs ``-m`` with a dry run in this process; returns exit code, stdout and stderr."""
    monkeypatch.setattr(nxm_sweep.trial.train, "prepare", _prepare)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)

    def command(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
        monkeypatch.setattr(sys, "argv", ["nxm_sweep", "-m", "sweep.dry_run=true", *arguments])
        capsys.readouterr()
        code = main()
        said = capsys.readouterr()
        return code, said.out, said.err

    return command


def _axis(cells: list[Cell], key: str) -> Any:
    assert len(cells) == 1
    return cells[0].axes.get(key)


def _names(cells: list[Cell]) -> list[str]:
    return [cell.name for cell in cells]


# --- cells ------------------------------------------------------------------------------------------------------------


def test_choices_multiply_and_each_cell_has_its_own_grid(cells: Cells) -> None:
    found = cells("task=glue/rte,glue/sst2", "method=dense,asp,nxm_paper")
    common = {"training.batch_size": BATCHES, "seed": SEEDS}
    dense_rte = {"learning_rate.value": FIVE, **common}
    dense_sst2 = {"learning_rate.value": THREE, **common}
    assert {cell.name: cell.axes for cell in found} == {
        "glue/rte dense dense bert_base": dense_rte,
        "glue/rte asp 2of4 bert_base": {"learning_rate.value": FIVE, **common},
        "glue/rte nxm_paper 2of4 bert_base": {**dense_rte, "rho.value": RHOS},
        "glue/sst2 dense dense bert_base": dense_sst2,
        "glue/sst2 asp 2of4 bert_base": {"learning_rate.value": FIVE, **common},
        "glue/sst2 nxm_paper 2of4 bert_base": {**dense_sst2, "rho.value": RHOS},
    }


@pytest.mark.parametrize(
    ("argument", "methods"),
    [
        ("method=choice(dense,asp)", ["dense", "asp"]),
        ("method=glob(*)", sorted(METHODS)),
        ("method=glob([a*,nxm_p*],exclude=asp)", ["admm_unstructured", "nxm_paper"]),
        ("method=sort(nxm_paper,asp)", ["asp", "nxm_paper"]),
    ],
)
def test_choices_are_listed_as_hydra_lists_them(cells: Cells, argument: str, methods: list[str]) -> None:
    assert [cell.settings.method.name for cell in cells(argument)] == methods


def test_a_pattern_reaches_the_choices_of_a_folder(cells: Cells) -> None:
    found = cells("task=glob(glue/*,exclude=glue/w*)", "method=dense")
    assert [cell.settings.task.name for cell in found] == [
        f"glue/{name}" for name in ("cola", "mnli", "mrpc", "qnli", "qqp", "rte", "sst2", "stsb")
    ]


def test_cells_come_from_config_and_the_command_line_replaces_them(cells: Cells) -> None:
    given = "sweep.cells={task:[glue/rte,glue/sst2],method:[dense,asp]}"
    assert len(cells(given)) == 4
    assert [cell.settings.method.name for cell in cells(given, "method=nxm_paper")] == ["nxm_paper", "nxm_paper"]
    assert _names(cells(given, "task=glue/cola", "method=asp,nxm_paper")) == [
        "glue/cola asp 2of4 bert_base",
        "glue/cola nxm_paper 2of4 bert_base",
    ]


def test_a_sweep_over_a_key_of_data_or_model_spans_cells(cells: Cells) -> None:
    found = cells("data.path=here,there", "method=dense")
    assert [cell.settings.data.path for cell in found] == ["here", "there"]
    assert all("data.path" not in cell.axes for cell in found)
    quoted = cells("model=local", "model.path='a b','c,d'", "method=dense")
    assert [cell.settings.model.path for cell in quoted] == ["a b", "c,d"]


def test_a_sweep_over_devices_spans_cells_whose_points_keep_their_identity(cells: Cells) -> None:
    one, two = cells("training.devices=1,2", "method=dense", "learning_rate.value=1e-4", "training.batch_size=16")
    assert [cell.settings.training.devices for cell in (one, two)] == [1, 2]
    assert one.study_name != two.study_name
    for cell in (one, two):
        (point,) = cell.points()
        digests = cell.digests
        assert point.identity == identity_of(point.settings, data_digest=digests.data, model_digest=digests.model)[0]


def test_cells_of_config_take_paths_with_any_letters(cells: Cells) -> None:
    found = cells("sweep.cells={data.path:['a b','c,d=1',e]}", "method=dense")
    assert [cell.settings.data.path for cell in found] == ["a b", "c,d=1", "e"]


def test_dense_is_one_cell_whatever_the_pattern(cells: Cells) -> None:
    plan = make_plan(cells("method=dense,asp", "sparsity=2of4,1of4", "task=glue/rte"))
    assert [(cell.name, len(points)) for cell, points in zip(plan.cells, plan.points, strict=True)] == [
        ("glue/rte dense dense bert_base", 10),
        ("glue/rte asp 2of4 bert_base", 10),
        ("glue/rte asp 1of4 bert_base", 10),
    ]


def test_a_scan_is_for_the_mixed_cells_of_a_sweep(cells: Cells, tmp_path: Path) -> None:
    scan = tmp_path / "scan.json"
    scan.write_text('{"schema": 1, "readings": [], "rules": [{"match": "*.key", "keep": 1, "group": 4}]}')
    plain, mixed = cells("method=asp", "sparsity=2of4,mixed", f"sparsity.scan={scan}", "task=glue/rte")
    assert (plain.name, mixed.name) == ("glue/rte asp 2of4 bert_base", "glue/rte asp mixed bert_base")
    assert plain.settings.sparsity.scan is None
    assert [(rule.match, rule.keep) for rule in mixed.settings.sparsity.rules] == [("*.key", 1)]
    alone = cells("method=asp", "sparsity=2of4", "task=glue/rte")
    assert plain.fingerprint == alone[0].fingerprint
    with pytest.raises(ConfigError, match=r"no cell reads sparsity\.scan"):
        cells("method=asp", "sparsity=2of4", f"sparsity.scan={scan}")


def test_patterns_of_a_preset_span_cells(cells: Cells) -> None:
    found = cells("method=asp", "sparsity=ffn_only,attention_only", "sparsity.keep=1,2", "task=glue/rte")
    assert [cell.sparsity_name for cell in found] == [
        f"{preset}_{keep}of4" for preset in ("ffn_only", "attention_only") for keep in (1, 2)
    ]


def test_groups_that_change_grids_alone_share_a_cell(cells: Cells) -> None:
    plan = make_plan(cells("learning_rate=paper,small_encoder", "method=dense"))
    assert [(cell.name, len(points)) for cell, points in zip(plan.cells, plan.points, strict=True)] == [
        ("glue/rte dense dense bert_base", 2 * (5 + 3))
    ]
    assert plan.cells[0].axes["learning_rate.value"] == (*FIVE, 1e-4, 2e-4, 4e-4)


@pytest.mark.fault("input", "the same key twice under `-m`", "The last one wins, as in Hydra.")
@pytest.mark.parametrize(
    ("arguments", "methods"),
    [
        (("method=asp", "method=dense,nxm"), ["dense", "nxm"]),
        (("method=dense,nxm", "method=asp"), ["asp"]),
        (("method=dense,nxm", "method=sr_ste,gradual"), ["sr_ste", "gradual"]),
        (("method=asp", "method=glob(a*)", "method=dense"), ["dense"]),
    ],
)
def test_the_last_choice_of_a_group_wins(cells: Cells, arguments: tuple[str, ...], methods: list[str]) -> None:
    assert [cell.settings.method.name for cell in cells(*arguments)] == methods


@pytest.mark.parametrize(
    ("arguments", "seeds"),
    [
        (("seed=3", "seed=0,1"), (0, 1)),
        (("seed=0,1", "seed=3"), (3,)),
        (("seed=0,1", "++seed=4"), (4,)),
        (("seed=range(9)", "seed=7,8"), (7, 8)),
        (("sweep.axes={seed:[0,1]}", "seed=5"), (5,)),
    ],
)
def test_the_last_value_of_a_key_wins(cells: Cells, arguments: tuple[str, ...], seeds: tuple[int, ...]) -> None:
    assert _axis(cells(*arguments, "method=dense"), "seed") == seeds


# --- axes -------------------------------------------------------------------------------------------------------------

NINE = (1e-05, 2e-05, 3e-05, 4e-05, 5e-05, 6e-05, 7e-05, 8e-05, 9e-05)
LISTS = [  # argument, key, values
    ("learning_rate.value=1e-4,2e-4", "learning_rate.value", (1e-4, 2e-4)),
    ("learning_rate.value=1e-4", "learning_rate.value", (1e-4,)),
    ("learning_rate.grid=[1e-4,3e-4]", "learning_rate.value", (1e-4, 3e-4)),
    ("learning_rate.value=choice(2e-4,1e-4)", "learning_rate.value", (2e-4, 1e-4)),
    ("learning_rate.value=sort(3e-4,1e-4,2e-4)", "learning_rate.value", (1e-4, 2e-4, 3e-4)),
    ("learning_rate.value=sort(1e-4,2e-4,reverse=true)", "learning_rate.value", (2e-4, 1e-4)),
    ("learning_rate.value=range(1e-5,1e-4,step=1e-5)", "learning_rate.value", NINE),
    ("learning_rate.value=sort(range(1e-5,1e-4,step=1e-5),reverse=true)", "learning_rate.value", NINE[::-1]),
    ("learning_rate.value=range(1e-4,1e-5,step=-1e-5)", "learning_rate.value", (1e-4, *NINE[:0:-1])),
    ("rho.value=1e-2", "rho.value", (1e-2,)),
    ("rho.grid=[2e-3]", "rho.value", (2e-3,)),
    ("rho.value=1,2", "rho.value", (1.0, 2.0)),
    ("training.batch_size=8", "training.batch_size", (8,)),
    ("training.batch_size=range(16,33,step=16)", "training.batch_size", (16, 32)),
    ("training.batch_size=tag(mine,choice(4,8))", "training.batch_size", (4, 8)),
    ("sweep.axes={training.batch_size:[16]}", "training.batch_size", (16,)),
    ("sweep.axes={seed:[0,1,2]}", "seed", (0, 1, 2)),
    ("sweep.axes={seed:[0,1,2]}", "training.batch_size", (16, 32)),
    ("+sweep.axes={seed:[0,1]}", "seed", (0, 1)),
    ("seed=range(3)", "seed", (0, 1, 2)),
    ("training.schedule=linear,cosine", "training.schedule", ("linear", "cosine")),
    ("training.max_train_samples=null,100", "training.max_train_samples", (None, 100)),
    ("method.admm.interval=1,2", "method.admm.interval", (1, 2)),
]


@pytest.mark.parametrize(("argument", "key", "values"), LISTS, ids=[f"{entry[0]} {entry[1]}" for entry in LISTS])
def test_an_axis_has_the_values_that_were_given(cells: Cells, argument: str, key: str, values: tuple[Any, ...]) -> None:
    found = _axis(cells(argument, "method=nxm_paper"), key)
    assert found == values
    assert list(map(type, found)) == list(map(type, values))


def test_a_float_range_and_a_whole_one_make_eighteen_points(cells: Cells) -> None:
    found = cells(
        "method=dense", "learning_rate.value=range(1e-5,1e-4,step=1e-5)", "training.batch_size=range(16,33,step=16)"
    )
    points = list(found[0].points())
    assert len(points) == 18
    assert {point.values["learning_rate.value"] for point in points} == set(NINE)
    assert any("learning_rate.value=7e-05" in point.overrides for point in points)


@pytest.mark.parametrize("argument", ["shuffle(1e-5,2e-5,3e-5)", "shuffle(range(1e-5,1e-4,step=1e-5))"])
def test_shuffled_values_are_hydras_in_any_order(cells: Cells, argument: str) -> None:
    raw = OverridesParser.create().parse_override(f"a={argument}").sweep_iterator()
    wanted = sorted(float(f"{value:.6g}") for value in raw)
    assert sorted(_axis(cells(f"learning_rate.value={argument}"), "learning_rate.value")) == wanted


def test_an_axis_that_a_method_does_not_read_is_dropped_there_alone(cells: Cells) -> None:
    dense, nxm_paper = cells("method=dense,nxm_paper", "rho.value=1e-3,2e-3", "method.admm.interval=1,2")
    assert set(nxm_paper.axes) - set(dense.axes) == {"rho.value", "method.admm.interval"}
    assert (len(list(dense.points())), len(list(nxm_paper.points()))) == (10, 10 * 2 * 2)


def test_an_axis_that_one_word_of_another_puts_to_use_is_kept(cells: Cells) -> None:
    found = cells(
        "rho.schedule=constant,linear",
        "rho.start=0.0,1e-4",
        "rho.value=1e-3",
        "learning_rate.value=1e-5",
        "method=nxm_paper",
    )
    assert _axis(found, "rho.start") == (0.0, 1e-4)
    assert len(list(found[0].points())) == 2 * (1 + 2)  # batches x (constant: no start, linear: two)


@pytest.mark.parametrize(
    ("argument", "wanted"),
    [
        ("learning_rate.value=interval(1e-5,1e-4)", Range(1e-5, 1e-4)),
        ("learning_rate.value=tag(log,interval(1e-5,1e-4))", Range(1e-5, 1e-4, log=True)),
        ("rho.value=interval(1,2)", Range(1.0, 2.0)),
        ("training.batch_size=interval(8,64)", Range(8, 64)),
    ],
)
def test_an_interval_is_a_range_of_its_keys_type(cells: Cells, argument: str, wanted: Range) -> None:
    found = _axis(cells(argument, "method=nxm_paper", *SEARCH), argument.partition("=")[0])
    assert found == wanted
    assert found.is_whole == wanted.is_whole


# --- rules ------------------------------------------------------------------------------------------------------------


def _count(cells: list[Cell]) -> list[int]:
    return [len(list(cell.points())) for cell in cells]


@pytest.mark.parametrize(
    ("rules", "counts"),
    [
        ("[{method:asp,learning_rate.value:[7e-5,9e-5]}]", [6, 30]),
        ("[{learning_rate.value:7e-5}]", [8, 24]),
        ("[{learning_rate.value:0.00007}]", [8, 24]),
        ("[{training.batch_size:'16'}]", [5, 15]),
        ("[{training.batch_size:16.0}]", [5, 15]),
        ("[{rho.value:1e-3}]", [10, 20]),
        ("[{task:glue/rte,method:nxm_paper,rho.value:[1e-3,4e-3]},{method:asp,training.batch_size:32}]", [5, 10]),
        ("[{training.epochs:5,method:asp,training.batch_size:32}]", [5, 30]),
        ("[{training.epochs:4}]", [10, 30]),
        ("[{task:glue/sst2}]", [10, 30]),
    ],
)
def test_rules_leave_points_out(cells: Cells, rules: str, counts: list[int]) -> None:
    assert _count(cells("method=asp,nxm_paper", f"sweep.exclude={rules}")) == counts


def test_tied_axes_change_together(cells: Cells) -> None:
    dense, nxm_paper = cells("method=dense,nxm_paper", "learning_rate.value=1e-5,2e-5", "rho.value=1e-3,2e-3",
                       "training.batch_size=16", "sweep.tie=[[learning_rate.value,rho.value]]")  # fmt: skip
    assert [(p.values["learning_rate.value"], p.values["rho.value"]) for p in nxm_paper.points()] == [
        (1e-5, 1e-3),
        (2e-5, 2e-3),
    ]
    assert len(list(dense.points())) == 2


# --- bad input --------------------------------------------------------------------------------------------------------

AXES = "axes are numbers and words of learning_rate, rho, training and method, and seed; sweep.cells takes choices"
NO_AXIS = "cannot be an axis: it is no number or word that changes a trial"
SEARCH = ("sweep.sampler=random", "sweep.n_trials=3")
BAD: list[tuple[tuple[str, ...], str, str]] = [
    (("training.device=cpu,cuda",), f"training.device {NO_AXIS}", "axes are numbers and words of"),
    (("output_dir=a,b",), f"output_dir {NO_AXIS}", "axes are numbers"),
    (("sweep.axes={training.devices:[1,2]}",), f"training.devices {NO_AXIS}", "sweep.cells takes choices"),
    (("training.devices=3", "training.batch_size=8,9"), "training.batch_size must be a multiple of training.devices", "it"),
    (("sweep.workers=1,2",), f"sweep.workers {NO_AXIS}", "axes are numbers"),
    (("sweep.axes={task:[glue/rte]}",), f"task {NO_AXIS}", "sweep.cells takes choices"),
    (("sweep.axes={sed:[0]}",), "unknown setting 'sed'", "did you mean seed?"),
    (("sweep.axes={learning_rate.vale:[1e-5]}",), "unknown setting 'learning_rate.vale'", "did you mean learning_rate.value?"),
    (("learning_rate.vale=1e-5,2e-5",), "unknown setting 'learning_rate.vale'", "did you mean learning_rate.value?"),
    (("sweep.axes={training.epochs:[]}",), "training.epochs has no values", "training.epochs=1,2 gives it some"),
    (("training.epochs=range(3,3)",), "training.epochs=range(3,3) holds no value", "training.epochs=1,2"),
    (("sweep.axes={training.batch_size:[]}",), "training.batch_size has no values", "training.batch_size=1,2"),
    (("sweep.axes={training.batch_size:null}",), "training.batch_size has no values", "training.batch_size=1,2"),
    (("learning_rate.value=0.00001,1e-5,1.0e-5",), "learning_rate.value has the value 1e-5 3 times", "each value once"),
    (("seed=1,2,1",), "seed has the value 1 2 times", "give each value once"),
    (("method=asp,nxm,asp",), "method has the value asp 2 times", "give each value once"),
    (("seed=range(1,3,step=0)",), "cannot read 'seed=range(1,3,step=0)': range() arg 3 must not be zero", ""),
    ((*SEARCH, "sweep.n_trials=1000000000000"), "sweep.n_trials must lie between 1 and 1,000,000, or be null but got", ""),
    ((*SEARCH, "sweep.n_trials=20000", "seed=0,1", "rho.value=interval(1,2)", "method=nxm_paper"), "the search", "sweep."),
    (("training.batch_size=8,many",), "training.batch_size: Value 'many' of type 'str' could not be converted", "--cfg"),
    (("training.batch_size=8,0",), "training.batch_size must be at least 1 but got 0", ""),
    (("learning_rate.value=1e-5,5",), "learning_rate.value must lie above 0 and below 1 but got 5.0", ""),
    (("training.schedule=linear,square",), "training.schedule must be one of linear, cosine, constant but got square", ""),
    (("training.devices=range(1,3,step=-1)",), "training.devices has no values", "training.devices=1,2 gives it some"),
    (("method.name=asp,sap",), "method.name must be one of dense, asp,", ""),
    (("method=dense", "rho.value=1e-3,0"), "rho.value must be above 0 but got 0.0", ""),
    (("method=nxm,nmx",), "method=nmx is not one of its choices", "did you mean nxm?"),
    (("method=glob(x*)",), "method=glob(x*) matches no choice", "its choices: admm_unstructured, asp, dense, gradual"),
    (("seed=glob(*)",), "seed=glob(*) matches no choice", "a pattern is for the choices of a config group"),
    (("sweep.cells={tsk:[a]}",), "sweep.cells holds tsk, which is neither", "sweep.axes={tsk: [...]}"),
    (("sweep.cells={training.epochs:['1']}",), "sweep.cells holds training.epochs, which is neither", "sweep.axes={tr"),
    (("sweep.cells={task:[]}",), "sweep.cells holds no choice for task", ""),
    (("sweep.exclude=[{rho.valeu:1e-3}]",), "unknown setting 'rho.valeu'", "did you mean rho.value?"),
    (("sweep.exclude=[{training.device:cpu}]",), f"training.device {NO_AXIS}", "axes are numbers"),
    (("sweep.exclude=[{}]",), "a rule of sweep.exclude is empty", "[{method: asp, "),
    (("sweep.exclude=[{task:glue/rte}]",), "sweep.exclude leaves no point", ""),
    (("sweep.tie=[[learning_rate.value,rho.valu]]",), "unknown setting 'rho.valu'", "did you mean rho.value?"),
    (("sweep.tie=[[learning_rate.value,training.batch_size]]",), "sweep.tie needs axes of one length but", ""),
    (("sweep.tie=[[seed,rho.value],[seed,training.epochs]]",), "sweep.tie names seed 2 times", "one list holds"),
    (("rho.value=1e-3,2e-3", "rho.start=${rho.value}"), "rho.value is an axis, but another setting is interp", "sweep.tie"),
    (("sweep.probe=true",), "sweep.probe=true belongs to a dry run", "add sweep.dry_run=true"),
    (("sweep.n_trials=3",), "sweep.n_trials is 3, but a grid trains all its points", "sweep.sampler=random"),
    (("sweep.sampler=tpe",), "sweep.sampler=tpe needs sweep.n_trials", "for instance sweep.n_trials=20"),
    (("sweep.sampler=best",), "sweep.sampler must be one of grid, random, tpe, qmc but got best", ""),
    (("sweep.pruner=best",), "sweep.pruner must be one of none, median, halving, hyperband but got best", ""),
    (("learning_rate.value=interval(1e-5,1e-4)",), "learning_rate.value is a range, which a grid cannot list", "sweep.sa"),
    ((*SEARCH, "sweep.tie=[[seed,rho.value]]"), "sweep.tie couples the axes of a grid but sweep.sampler is random", ""),
    ((*SEARCH, "seed=interval(0,9)"), "seed is a range, but a search trains each of its points with every", "seed=0,1,2"),
    ((*SEARCH, "seed=0,1", "sweep.exclude=[{seed:0}]"), "sweep.exclude names seed, but a search trains each", "leave the"),
    ((*SEARCH, "learning_rate.value=interval(1e-4,1e-5)"), "learning_rate.value cannot be searched between", "interval(a"),
    ((*SEARCH, "rho.value=tag(log,interval(0,1))"), "rho.value cannot be searched between 0 and 1", "an a above 0"),
    ((*SEARCH, "training.schedule=interval(0,1)"), "training.schedule cannot be searched between 0 and 1", "needs numbers"),
    ((*SEARCH, "learning_rate.value=interval(0.5,2)"), "learning_rate.value must lie above 0 and below 1 but got 2.0", ""),
    ((*SEARCH, "training.batch_size=interval(1.5,8)"), "training.batch_size: Value '1.5' of type 'float'", "--cfg"),
]  # fmt: skip


@pytest.mark.fault(
    "input", "axes that are empty, null, doubled or misspelt", "One line before anything is read or trained."
)
@pytest.mark.parametrize(("arguments", "error", "hint"), BAD, ids=[" ".join(arguments) for arguments, _, _ in BAD])
def test_bad_sweeps_are_one_line_and_a_hint(cells: Cells, arguments: tuple[str, ...], error: str, hint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make_plan(cells(*arguments))
    assert caught.value.message.startswith(error)
    assert hint in caught.value.hint
    assert bool(hint) == bool(caught.value.hint)
    assert "\n" not in caught.value.message + caught.value.hint


def test_a_bad_sweep_prints_its_line_and_exits_with_two(run: Run) -> None:
    assert run("training.device=cpu,cuda") == (
        2,
        "",
        f"error: training.device {NO_AXIS}\nhint: {AXES}\n",
    )


def test_bad_axes_are_found_before_any_data_is_read(cells: Cells, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DigestMemo, "of", lambda *_: pytest.fail("data was read"))
    with pytest.raises(ConfigError, match="must be at least 1"):
        cells("method=dense,nxm_paper", "training.batch_size=8,0")
    with pytest.raises(ConfigError, match="20,000 combinations"):
        cells("method=dense", "learning_rate.value=1e-5", "training.batch_size=16,32", "seed=range(10000)")


def test_more_than_ten_thousand_points_want_a_yes(cells: Cells) -> None:
    line = ("method=dense", "learning_rate.value=1e-5", "training.batch_size=16")
    assert _axis(cells(*line, "seed=range(10000)"), "seed")[-1] == 9999
    with pytest.raises(ConfigError, match=r"^seed has 10,001 values$") as caught:
        cells(*line, "seed=range(10001)")
    assert caught.value.hint == "sweep.yes=true trains them; sweep.dry_run=true counts them"
    for way in ("sweep.yes=true", "sweep.yes=yes", "sweep.dry_run=true"):
        assert len(_axis(cells(*line, "seed=range(10001)", way), "seed")) == 10001


@pytest.mark.fault(
    "input", "a grid or a search of more points than any machine trains", "Refused before a point is listed."
)
@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("seed=range(0,1000000000)",), "seed has 1,000,000,000 values"),
        (("seed=range(0,1000000000)", "sweep.yes=true"), "seed has 1,000,000,000 values"),
        (("seed=range(1000001)", "sweep.dry_run=true"), "seed has 1,000,001 values"),
        (("seed=range(1000000)",), "seed has 1,000,000 values"),
        (("training.devices=range(1,1000000000)",), "training.devices has 999,999,999 values"),
        (("learning_rate.value=range(0,1,step=1e-12)",), "learning_rate.value has 1,000,000,000,000 values"),
        (("learning_rate.value=range(0,inf)",), "learning_rate.value=range(0,inf) has no end"),
        (("seed=range(9000)", "training.epochs=range(1,9000)", "sweep.yes=true"), "the grid has "),
    ],
)
def test_points_are_counted_before_they_are_listed(
    cells: Cells, arguments: tuple[str, ...], error: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Cell, "points", lambda _: pytest.fail("the points were listed"))
    cells("method=dense", "learning_rate.value=1e-5")  # composed once; what follows is counting
    started = time.process_time()
    with pytest.raises(ConfigError) as caught:
        cells("method=dense", *arguments)
    assert caught.value.message.startswith(error)
    assert time.process_time() - started < 5  # under a second where nothing else runs


def test_tied_axes_count_once_towards_ten_thousand(cells: Cells) -> None:
    line = (
        "method=dense",
        "learning_rate.value=1e-5",
        "training.batch_size=range(1,201)",
        "sweep.tie=[[seed,training.batch_size]]",
    )
    assert len(list(cells(*line, "seed=range(200)")[0].points())) == 200


# --- the paper's protocol ---------------------------------------------------------------------------------------------


def test_low_resource_compares_admm_with_its_controls_at_two_patterns(cells: Cells) -> None:
    found = cells("experiment=low_resource", "task=glue/mrpc", "seed=100")
    sparse = [cell for cell in found if cell.settings.method.name != "dense"]
    assert len(set(_names(sparse))) == 5 * 2
    grids = {cell.settings.method.name: cell.axes["learning_rate.value"] for cell in found}
    assert set(grids) == {"dense", "asp", "warmup_asp", "admm_unstructured", "nxm", "nxm_refit"}
    assert set(grids.values()) == {(1e-4, 2e-4, 4e-4)}  # one grid for all
    assert {cell.settings.training.epochs for cell in found} == {5}
    assert all("rho.value" not in cell.axes for cell in found)


def test_the_papers_table_has_the_papers_points(run: Run) -> None:
    code, out, _ = run("experiment=paper_table1")
    assert code == 0
    assert out.count("admm_unstructured 50% unstructured bert_base") == 2 * 7  # in the table, and with its axes
    rows = [
        line.replace(" dense ", " dense - ").split()  # which is said once
        for line in out.replace("50% unstructured", "unstructured").splitlines()
    ]
    found = {
        (words[0], words[1], words[3]): int(words[4])
        for words in rows
        if len(words) > 8 and words[0].startswith("glue/") and words[4].isdigit()
    }
    few, many = ("mnli", "qnli", "sst2"), ("cola", "stsb", "mrpc", "rte")
    wanted: dict[tuple[str, ...], int] = {}
    for task in (*few, *many):
        rates = 3 if task in few else 5
        wanted |= {
            (f"glue/{task}", "dense", "bert_base"): rates * 2,
            (f"glue/{task}", "asp", "bert_base"): 5 * 2,  # on every task
            (f"glue/{task}", "admm_unstructured", "bert_base"): rates * 2 * 3,
            (f"glue/{task}", "nxm_paper", "bert_base"): rates * 2 * 3,
        }
    assert found == wanted
    assert sum(wanted.values()) == 476
    assert "476 points in 28 cells: 0 done, 0 failed, 476 to do" in out


def test_the_papers_table_trains_five_epochs(cells: Cells) -> None:
    found = cells("experiment=paper_table1")
    assert {cell.settings.training.epochs for cell in found} == {5}
    assert {cell.axes["training.batch_size"] for cell in found} == {(16, 32)}
    assert {cell.sparsity_name for cell in found if cell.settings.method.name != "dense"} == {"2of4"}
