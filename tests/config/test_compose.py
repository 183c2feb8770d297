"""The door: every file of ``conf/`` composes to what it says, and bad input is one line with a way out."""

from __future__ import annotations

import itertools
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest
from omegaconf import OmegaConf
from transformers import PreTrainedModel

import nxm_sweep.trial.train
from nxm_sweep.__main__ import main
from nxm_sweep.config.compose import compose_settings
from nxm_sweep.config.explain import conf_dir
from nxm_sweep.errors import ConfigError
from nxm_sweep.trial.trainer import TrialTrainer

CONF = Path(__file__).resolve().parents[2] / "conf"
CHOICES = sorted(path.relative_to(CONF).with_suffix("").as_posix() for path in CONF.glob("*/**/*.yaml"))
MANDATORY = {
    "sparsity/mixed": ["sparsity.rules=[{match:'*',keep:2,group:4}]"],
    **{f"distillation/{name}": ["distillation.teacher.path=somewhere"] for name in ("logits", "full")},
    "model/local": ["model.path=somewhere"],
    "task/files": ["task.text_columns=[a]", "task.files.train=t.csv"],
    "task/hub": ["task.text_columns=[a]", "data.path=owner/set"],
}

# --- conf/ ------------------------------------------------------------------------------------------------------------


def test_conf_is_found_beside_the_package() -> None:
    assert conf_dir() == CONF


@pytest.mark.parametrize("choice", CHOICES)
def test_every_choice_composes_to_the_values_in_its_file(choice: str) -> None:
    group, _, name = choice.partition("/")
    settings = compose_settings([f"{group}={name}", *MANDATORY.get(choice, [])])
    text = (CONF / f"{choice}.yaml").read_text()
    written = OmegaConf.to_container(OmegaConf.load(CONF / f"{choice}.yaml"))
    assert isinstance(written, dict)
    written.pop("defaults", None)
    root: Any = settings if "# @package _global_" in text else getattr(settings, group)
    compared = _compare(written, root)
    assert compared >= 1


def _compare(written: dict[Any, Any], settings: Any) -> int:
    """Compare the literal values of a file with the settings; return how many there were."""
    compared = 0
    for key, value in written.items():
        found = settings[key] if isinstance(settings, dict) else getattr(settings, key)
        if isinstance(value, dict):
            compared += _compare(value, found)
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            compared += sum(_compare(item, part) for item, part in zip(value, found, strict=True))
        elif str(value) not in {"???", ""} and "${" not in str(value):
            assert found == value, key
            compared += 1
    return compared


@pytest.mark.parametrize("group", [".", *sorted({choice.partition("/")[0] for choice in CHOICES})])
def test_every_key_of_a_group_is_explained_by_a_comment(group: str) -> None:
    files = [CONF / "config.yaml"] if group == "." else sorted((CONF / group).rglob("*.yaml"))
    explained, keys = set(), set()
    comments = " ".join(re.findall(r"#(?! @package)(.*)", "\n".join(path.read_text() for path in files))).lower()
    for path in files:
        lines = ["", *path.read_text().splitlines()]
        assert any(re.match(r"# (?!@)\w", line) for line in lines), f"{path.name} does not say what it is"
        for above, line in itertools.pairwise(lines):
            found = re.match(r" *(?:- )?(\w+):(?= *[^ ])", line)  # a section is explained by its keys
            if found and not re.match(r"  - (?!match)", line):  # nor are the choices of a defaults list keys
                keys.add(found[1])
                if "#" in line or above.lstrip().startswith("# ") or re.search(rf"\b{found[1]}\b", comments):
                    explained.add(found[1])
    if group == ".":
        keys -= {"chdir", "dir", "subdir", "output_subdir"}  # Hydra's, explained at `hydra:`
    if group == "experiment":
        keys.clear()  # an overlay; its keys are explained where they are defined
    assert keys <= explained


# --- the paper's grid -------------------------------------------------------------------------------------------------

THREE = [1e-5, 3e-5, 5e-5]
FIVE = [1e-5, 3e-5, 5e-5, 7e-5, 9e-5]
GRIDS = {
    "cola": FIVE,
    "mnli": THREE,
    "mrpc": FIVE,
    "qnli": THREE,
    "qqp": THREE,
    "rte": FIVE,
    "sst2": THREE,
    "stsb": FIVE,
    "wnli": FIVE,
}


def test_the_nine_glue_tasks_are_there() -> None:
    assert {path.stem for path in (CONF / "task/glue").iterdir()} == set(GRIDS)


@pytest.mark.parametrize("task", GRIDS)
def test_learning_rates_are_the_papers_for_the_task(task: str) -> None:
    settings = compose_settings([f"task=glue/{task}"])
    assert settings.learning_rate.grid == GRIDS[task]
    assert settings.learning_rate.value in GRIDS[task]
    assert settings.sweep.axes["training.batch_size"] == [16, 32]
    assert settings.training.epochs == 5
    assert settings.rho.grid == [1e-3, 4e-3, 1e-2]


@pytest.mark.parametrize("method", ["dense", "admm_unstructured", "nxm"])
def test_methods_other_than_asp_take_the_tasks_grid(method: str) -> None:
    assert compose_settings(["task=glue/qqp", f"method={method}"]).learning_rate.grid == THREE


@pytest.mark.parametrize("task", GRIDS)
def test_asp_has_five_learning_rates_on_every_task(task: str) -> None:
    assert compose_settings([f"task=glue/{task}", "method=asp"]).learning_rate.grid == FIVE


def test_a_small_model_brings_its_learning_rate() -> None:
    settings = compose_settings(["model=minilm_l6"])
    assert (settings.learning_rate.value, settings.learning_rate.grid) == (2e-4, [1e-4, 2e-4, 4e-4])


@pytest.mark.parametrize(
    "overrides", [["model=minilm_l6", "learning_rate=paper"], ["learning_rate=paper", "model=minilm_l6"]]
)
def test_a_learning_rate_on_the_command_line_wins_over_the_models(overrides: list[str]) -> None:
    settings = compose_settings(overrides)
    assert (settings.learning_rate.value, settings.learning_rate.grid) == (3e-5, FIVE)


def test_the_command_line_wins_over_an_experiment() -> None:
    settings = compose_settings(["experiment=quickstart", "task=glue/sst2", "rho.value=1e-2", "model=bert_large"])
    assert (settings.task.name, settings.model.name, settings.rho.value) == ("glue/sst2", "bert_large", 1e-2)
    assert settings.training.epochs == 2


def test_the_environment_says_where_glue_is(monkeypatch: pytest.MonkeyPatch) -> None:
    assert compose_settings([]).data.path == "nyu-mll/glue"
    monkeypatch.setenv("NXM_GLUE", "/data/glue")
    assert compose_settings([]).data.path == "/data/glue"
    assert compose_settings(["data.path=/else/where"]).data.path == "/else/where"


def test_one_text_for_a_list_of_texts_is_a_list_of_one() -> None:
    settings = compose_settings(
        [
            "task.text_columns='a, b'",
            "task.metrics=f1",
            "task.selection_metric=f1",
            "++task.labels=0",
            "sparsity.also='*.query: dense'",
        ]
    )
    assert (settings.task.text_columns, settings.task.metrics, settings.task.labels) == (["a, b"], ["f1"], ["0"])
    assert settings.sparsity.rules[-1].dense


def test_composing_from_python_raises_the_line_that_the_command_prints() -> None:
    with pytest.raises(ConfigError, match=r"^unknown setting 'training.epoch'$") as caught:
        compose_settings(["training.epoch=3"])
    assert caught.value.hint == "did you mean training.epochs?"


@pytest.mark.parametrize("overrides", [["rho=3"], ["method=nmx"], ["seed=-1"], ["a b"], ["seed"]])
def test_composing_from_python_raises_nothing_else(overrides: list[str]) -> None:
    with pytest.raises(ConfigError):
        compose_settings(overrides)


# --- bad input --------------------------------------------------------------------------------------------------------

Run = Callable[..., tuple[int, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs the command line in an empty folder, where loading a model fails the test; returns exit code and stderr."""

    def loaded(*_: Any, **__: Any) -> NoReturn:
        pytest.fail("a model was loaded")

    def command(*arguments: str) -> tuple[int, str]:
        monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
        monkeypatch.setattr(sys, "argv", ["nxm_sweep", *arguments])
        capsys.readouterr()
        return main(), capsys.readouterr().err

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(nxm_sweep.trial.train, "load_model", loaded)
    monkeypatch.setattr(PreTrainedModel, "from_pretrained", loaded)
    return command


@pytest.fixture
def run_loading(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Like ``run``, but a model may be loaded; preparing its training fails the test."""
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(TrialTrainer, "__init__", lambda *_, **__: pytest.fail("the training began"))
    return run


def _error_and_hint(stderr: str) -> tuple[str, str]:
    """The two lines that an error may have; anything else beside them fails."""
    found = re.fullmatch(r"error: (.+)\n(?:hint: (.+)\n)?", stderr)
    assert found is not None, stderr
    return found[1], found[2] or ""


RULE = "sparsity rule '*': "
BAD: list[tuple[str, str, str]] = [
    # arguments, the error, the hint
    ("task=glue/mrcp", "task=glue/mrcp is not one of its choices", "did you mean glue/mrpc?"),
    ("task=rte", "task=rte is not one of its choices", "did you mean glue/rte?"),
    ("method=nmx", "method=nmx is not one of its choices", "did you mean nxm?"),
    ("training=mine", "training=mine is not one of its choices", "valid: paper"),
    ("sparsity=2:4", "sparsity=2:4 is not one of its choices", "did you mean 2of4?"),
    ("sparsity=2_4", "sparsity=2_4 is not one of its choices", "did you mean 2of4?"),  # reads as the number 24
    (
        "learning_rate=1e-4",
        "learning_rate=1e-4 is not one of its choices",
        "valid: paper, small_encoder; a number goes to learning_rate.value",
    ),
    ("hydra/launcher=basik", "hydra/launcher=basik is not one of its choices", "did you mean basic?"),
    ("metod=nxm", "unknown setting 'metod'", "did you mean method?"),
    ("lr=1e-4", "unknown setting 'lr'", "did you mean learning_rate.value?"),
    ("+lr=1e-4", "unknown setting 'lr'", "did you mean learning_rate.value?"),
    ("training.learning_rate=1e-4", "unknown setting 'training.learning_rate'", "did you mean learning_rate.value?"),
    ("training.lr=1e-4", "unknown setting 'training.lr'", "did you mean learning_rate.value?"),
    ("num_train_epochs=3", "unknown setting 'num_train_epochs'", "did you mean training.epochs?"),
    ("text_columns=text", "unknown setting 'text_columns'", "did you mean task.text_columns?"),
    ("output_dir=~/x", "cannot read 'output_dir=~/x'", "\"output_dir='~/x'\""),
    ("seed=1,2", "Ambiguous value for argument 'seed=1,2'", "-m sweeps over several values"),
    ("seed=range(3)", "Sweep parameters 'seed=range(3)' requires --multirun", "-m sweeps over several values"),
    ("+seed=1", "Could not append to config. An item is already at 'seed'.", "without the +, key=value replaces it"),
    ("--experimental-rerun=a.pickle", "--experimental-rerun reads a pickle, and nothing is unpickled", "--hydra-help"),
    ("--resolve", "--resolve belongs to --cfg", "`--hydra-help` prints every flag"),
    ("hydra.mode=MULTIRUN", "hydra.mode is MULTIRUN", "-m sweeps, and no -m trains one trial"),
    ("hydra.job.chdir=true", "hydra.job.chdir must be false", "output_dir is where a trial writes"),
    ("hydra.output_subdir=../x", "hydra.output_subdir must stay under output_dir but got ../x", "a folder's name"),
    ("hydra.output_subdir=/etc/x", "hydra.output_subdir must stay under output_dir but got /etc/x", "a folder's name"),
    (
        "hydra.sweep.subdir=a/../../b",
        "hydra.sweep.subdir must stay under output_dir but got a/../../b",
        "a folder's name",
    ),
    ("epochs=3", "unknown setting 'epochs'", "did you mean training.epochs?"),
    ("training.epoch=3", "unknown setting 'training.epoch'", "did you mean training.epochs?"),
    ("method.admm.intervall=2", "unknown setting 'method.admm.intervall'", "did you mean method.admm.interval?"),
    ("+foo=1", "unknown setting 'foo'", "did you mean force?"),
    ("++training.max_len=1", "unknown setting 'training.max_len'", "did you mean training.max_length?"),
    (
        "task.validation_splits={dev:test}",
        "unknown setting 'task.validation_splits.dev'",
        "+task.validation_splits.dev=... adds it to task.validation_splits",
    ),
    (
        "learning_rate.value=abc",
        "learning_rate.value: Value 'abc' of type 'str' could not be converted to Float",
        "--cfg",
    ),
    ("training.epochs=1.5", "training.epochs: Value '1.5' of type 'float' could not be converted to Integer", "--cfg"),
    ("training.epochs=[1,2]", "training.epochs: Value '[1, 2]' of type 'list' could not be converted", "--cfg"),
    ("training.epochs={a:1}", "training.epochs: Value '{'a': 1}' of type 'dict' could not be converted", "--cfg"),
    ("training.epochs=null", "training.epochs: field 'training.epochs' is not Optional", "--cfg"),
    (
        "task.learning_rates=1e-4",
        "task.learning_rates: Invalid value assigned: float is not a ListConfig",
        "task.learning_rates=[1e-4]",
    ),
    ("seed=first", "seed: Value 'first' of type 'str' could not be converted to Integer", "--cfg"),
    ("force=maybe", "force: Value 'maybe' is not a valid bool", "--cfg"),
    ("seed=-1", "seed must lie in [0, 2**32) but got -1", ""),
    ("learning_rate.value=0", "learning_rate.value must lie above 0 and below 1 but got 0.0", ""),
    ("learning_rate.value=-1e-4", "learning_rate.value must lie above 0 and below 1 but got -0.0001", ""),
    ("learning_rate.value=nan", "learning_rate.value must lie above 0 and below 1 but got nan", ""),
    ("learning_rate.value=inf", "learning_rate.value must lie above 0 and below 1 but got inf", ""),
    ("learning_rate.value=1e3", "learning_rate.value must lie above 0 and below 1 but got 1000.0", ""),
    (
        "learning_rate.grid=[1e-4,5]",
        "learning_rate.grid must hold numbers above 0 and below 1 but got [0.0001, 5.0]",
        "",
    ),
    (
        "learning_rate.value=1,2",
        "Ambiguous value for argument 'learning_rate.value=1,2'",
        "-m sweeps over several values",
    ),
    ("rho.value=0", "rho.value must be above 0 but got 0.0", ""),
    ("rho.value=nan", "rho.value must be above 0 but got nan", ""),
    ("rho.value=inf", "rho.value must be above 0 but got inf", ""),
    (
        "rho.schedule=ramp",
        "rho.schedule must be one of constant, linear, cosine, exponential but got ramp",
        "",
    ),
    ("rho.schedule=exponential", "an exponential ramp needs rho.start and rho.value above 0 but got 0.0 to 0.001", ""),
    ("method.admm.efolds=0", "method.admm.efolds must be above 0 but got 0.0", ""),
    ("method.admm.dense_fraction=1.1", "method.admm.dense_fraction must lie in [0, 1] but got 1.1", ""),
    (
        "method.admm={finish:refit,dense_fraction:0.7}",
        "method.admm.dense_fraction must be at most method.admm.admm_fraction (0.6) but got 0.7",
        "method.admm.dense_fraction=0 begins ADMM at the first step",
    ),
    ("rho.unit=relativ", "rho.unit must be one of absolute, relative but got relativ", ""),
    ("sparsity.rules=[{match:'*',keep:5,group:4}]", f"{RULE}keep must lie between 1 and group = 4 but got 5", ""),
    ("sparsity.rules=[{match:'*',keep:0,group:4}]", f"{RULE}keep must lie between 1 and group = 4 but got 0", ""),
    ("sparsity.rules=[{match:'*',keep:1,group:0}]", f"{RULE}group must be at least 1 but got 0", ""),
    ("sparsity.rules=[{match:'*',keep:2}]", f"{RULE}must give both keep and group", ""),
    ("sparsity.rules=[{match:'*',density:0}]", f"{RULE}density must lie in (0, 1] but got 0.0", ""),
    ("sparsity.rules=[{match:'*',density:1.5}]", f"{RULE}density must lie in (0, 1] but got 1.5", ""),
    (
        "sparsity.rules=[{match:'*',keep:2,group:4,density:0.5}]",
        f"{RULE}must give either keep and group, or density, or dense: true",
        "for example sparsity=2of4",
    ),
    ("sparsity.rules=[{keep:2,group:4}]", "sparsity.rules[0].match must be given", "add sparsity.rules[0].match=..."),
    ("sparsity.rules=[]", "sparsity.rules must hold at least one rule but got []", ""),
    ("sparsity=mixed", "sparsity.rules must hold at least one rule but got []", "python -m nxm_sweep.sensitivity"),
    ("sparsity=mixed sparsity.scan=no.json", "there is no scan no.json", "python -m nxm_sweep.sensitivity TRIAL"),
    (
        "training.epochs=-1",
        "training.epochs must be at least 0, which prunes once and trains nothing, but got -1",
        "",
    ),
    (
        "training.epochs=0",
        "training.epochs=0 prunes once and trains nothing, but method=nxm prunes by training",
        "method takes dense, asp",
    ),
    (
        "training.epochs=0 method=asp",
        "training.epochs=0 prunes once and trains nothing, so that a new head stays random",
        "model.head=keep",
    ),
    (
        "training.epochs=0 method=asp model.head=keep distillation=logits distillation.teacher.path=x",
        "training.epochs=0 prunes once and trains nothing, so that nothing is learned from a teacher",
        "distillation=none",
    ),
    ("training.batch_size=0", "training.batch_size must be at least 1 but got 0", ""),
    ("training.max_length=1", "training.max_length must be at least 8 tokens but got 1", ""),
    ("training.warmup_ratio=1.0", "training.warmup_ratio must lie in [0, 1) but got 1.0", ""),
    ("training.weight_decay=-0.1", "training.weight_decay must not be negative but got -0.1", ""),
    ("training.schedule=liner", "training.schedule must be one of linear, cosine, constant but got liner", ""),
    ("training.precision=fp8", "training.precision must be one of auto, fp32, bf16, fp16 but got fp8", ""),
    ("distillation=logits", "distillation has no teacher", "takes a finished trial that kept its model"),
    (
        "distillation=logits distillation.teacher.path=x distillation.weight=0",
        "distillation.weight must be in (0, 1] but got 0.0",
        "distillation=none turns it off",
    ),
    (
        "distillation=logits distillation.teacher.path=x distillation.logits=0",
        "distillation.logits, .hidden and .attention are all 0, so that nothing is learned from the teacher",
        "",
    ),
    (
        "distillation=logits distillation.teacher.path=x distillation.teacher.source=here",
        "distillation.teacher.source must be one of trial, hub, package, folder but got here",
        "",
    ),
    ("distillation.temperature=0", "distillation.temperature must be above 0 but got 0.0", ""),
    ("distillation.hidden=-1", "distillation.hidden must not be negative but got -1.0", ""),
    ("training.report_to=[comet]", "training.report_to must be among tensorboard, mlflow, wandb, trackio but got", ""),
    ("training.device=gpu", "training.device must be one of auto, cpu, cuda but got gpu", ""),
    (
        "method.name=dens",
        (
            "method.name must be one of dense, asp, warmup_asp, nxm, nxm_paper, admm_unstructured, nxm_refit, sr_ste, gradual"
            " but got dens"
        ),
        "",
    ),
    (
        "task=glue/stsb task.metrics=[accuracy] task.selection_metric=accuracy",
        "task.metrics of a regression must be among pearson, spearman but got accuracy",
        "",
    ),
    (
        "task.metrics=[acc]",
        "task.metrics must be among accuracy, f1, f1_macro, matthews, pearson, spearman and scikit-learn's scorers but got",
        "sklearn.metrics.get_scorer_names() lists them",
    ),
    (
        "task=glue/stsb task.metrics=[f1_macro] task.selection_metric=f1_macro",
        "task.metrics of a regression must be among pearson, spearman but got f1_macro",
        "",
    ),
    (
        "task=glue/stsb task.positive_class=a",
        "task.positive_class is for a classification but got a",
        "task.positive_class=null",
    ),
    ("task.selection_metric=f1", "task.selection_metric must be one of accuracy but got 'f1'", ""),
    (
        "task.selection_metric=mean",
        "task.selection_metric must be one of accuracy but got 'mean'",
        "mean needs two metrics",
    ),
    (
        "task=glue/mnli task.metrics=[accuracy,f1]",
        "the metric f1 is for two classes but got 3: entailment, neutral, contradiction",
        "f1_macro",
    ),
    ("model=local", "model.path must be given", "add model.path=... to the command"),
    ("task=files", "task.text_columns must be given", "add task.text_columns=... to the command"),
    ("task=hub data.path=a/b", "task.text_columns must be given", "add task.text_columns=... to the command"),
    ("task=hub task.text_columns=a", "data.path must be given", "data.path=OWNER/NAME takes a hub id"),
    ("learning_rate.value=[1", "cannot read 'learning_rate.value=[1'", "the form is key=value"),
    ("seed", "cannot read 'seed'", "the form is key=value"),
    ("learning_rate.value=${nothing}", "learning_rate.value: Interpolation key 'nothing' not found", "--cfg"),
    ("--config-dir=/no/where", "--config-dir names /no/where, which is no folder", ""),
    ("--config-name=mine", "there is no config named 'mine'", "--config-name may be left out"),
    ("--epochs=3", "unrecognized arguments: --epochs=3", "`--hydra-help` prints every flag"),
    ("-x", "unrecognized arguments: -x", "`--hydra-help` prints every flag"),
    ("output_dir=", "output_dir must name a folder but got", ""),
    ("model=local model.path=/no/where", "there is no folder /no/where", "model.path takes what save_pretrained wrote"),
]


@pytest.mark.fault(
    "input",
    "a misspelt key, choice or value, or a key of another tool",
    "One line, and a hint with the key that was meant.",
)
@pytest.mark.parametrize(("arguments", "error", "hint"), BAD, ids=[case[0] for case in BAD])
def test_bad_input_is_one_line_and_exit_code_2(arguments: str, error: str, hint: str, run: Run) -> None:
    code, stderr = run(*arguments.split(" "))
    assert code == 2
    told, way_out = _error_and_hint(stderr)
    assert told.startswith(error)
    assert bool(way_out) >= bool(hint)
    assert hint in way_out


def test_an_output_dir_that_is_a_file_is_one_line(run: Run) -> None:
    Path("taken").touch()
    code, stderr = run("output_dir=taken")
    error, hint = _error_and_hint(stderr)
    assert (code, error, hint) == (2, "File exists: taken", "output_dir takes a folder that can be made")


def test_a_missing_data_folder_is_one_line(run: Run, tiny_model: Path) -> None:
    code, stderr = run("model=local", f"model.path={tiny_model}", "data.path=/no/glue")
    assert code == 2
    assert _error_and_hint(stderr)[0] == "there is no folder /no/glue"


def test_a_missing_file_of_rows_is_one_line(run: Run, tiny_model: Path) -> None:
    files = ["task=files", "task.text_columns=[text]", "task.files.train=no.csv", "task.files.validation=no.csv"]
    code, stderr = run("model=local", f"model.path={tiny_model}", *files)
    error, hint = _error_and_hint(stderr)
    assert code == 2
    assert error == "there is no file no.csv"
    assert "relative to the current directory" in hint


def test_a_demo_without_rows_is_one_line(run: Run, tiny_model: Path) -> None:
    code, stderr = run("model=local", f"model.path={tiny_model}", "task=demo/paraphrase", "task.rows.train=0")
    assert (code, _error_and_hint(stderr)[0]) == (2, "rows must be at least 1 but got 0")


def test_an_empty_model_folder_is_one_line(run: Run, tmp_path: Path) -> None:
    code, stderr = run("model=local", f"model.path={tmp_path}", "task=demo/paraphrase")
    error, hint = _error_and_hint(stderr)
    assert (code, error) == (2, f"{tmp_path} holds no config.json")
    assert "save_pretrained" in hint


@pytest.mark.parametrize(
    ("rule", "error", "hint"),
    [
        (
            "{match:'*.query',keep:2,group:5}",
            "in_features must be a multiple of group = 5 but got 32",
            "choose a group",
        ),
        ("{match:'*.qery',keep:2,group:4}", "the rule '*.qery' matches none of the model's 14 linear modules", "bert."),
    ],
)
def test_a_rule_that_does_not_fit_the_model_is_found_before_training(
    rule: str, error: str, hint: str, run_loading: Run, tiny_model: Path
) -> None:
    demo = ["task=demo/paraphrase", "task.rows={train:8,validation:8}", "model=local", f"model.path={tiny_model}"]
    code, stderr = run_loading(*demo, f"sparsity.rules=[{rule}]", f"output_dir={tiny_model.parent}/outputs")
    told, way_out = _error_and_hint(stderr)
    assert code == 2
    assert error in told
    assert hint in way_out
    assert not list(tiny_model.parent.glob("outputs/trials/*/result.json"))


def test_a_wish_for_the_traceback_is_granted(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    monkeypatch.setattr(sys, "argv", ["nxm_sweep", "training.epochs=-1"])
    with pytest.raises(ConfigError, match=r"training\.epochs must be at least 0"):
        main()
