"""Random command lines, with and without ``-m``: one line on standard error or a plan, never a traceback."""

from __future__ import annotations

import contextlib
import io
import logging
import pickle
import random
import re
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import hydra._internal.config_loader_impl as loading
import pytest
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils._validators import validate_repo_id
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.defaults_list import create_defaults_list

import nxm_sweep.sweep.run
import nxm_sweep.trial.run
import nxm_sweep.trial.step_timer
import nxm_sweep.trial.train
from nxm_sweep import __main__ as command
from nxm_sweep.console import TextConsole
from nxm_sweep.errors import ModelError
from nxm_sweep.sweep.execution import pool
from tests.config.overrides import draw_line

SECONDS = 120  # of one command line, on a busy machine
NOTED = r"([\d,]+ cells composed; this takes a while\n)?"  # on a busy machine
TOLD = re.compile(NOTED + r"error: .+\n(hint: .+\n)?")
Run = Callable[[Sequence[str]], tuple[int, str]]
_COMPOSED: dict[str, bytes] = {}
_DEFAULTS: dict[Any, bytes] = {}


def _remember_compositions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compose each choice of groups once: Hydra takes a fifth of a second for it. Other overrides are applied as always."""
    compose = ConfigLoaderImpl._compose_config_from_defaults_list
    create = create_defaults_list

    def compose_once(self: Any, defaults: Any, repo: Any) -> Any:
        key = repr(defaults)
        if key not in _COMPOSED:
            _COMPOSED[key] = pickle.dumps(compose(self, defaults, repo))
        return pickle.loads(_COMPOSED[key])  # noqa: S301 - made above

    def create_once(
        repo: Any, config_name: str, overrides_list: Any, *, prepend_hydra: bool, skip_missing: bool
    ) -> Any:
        groups = [override for override in overrides_list if repo.group_exists(override.key_or_group)]
        key = (config_name, tuple(override.input_line for override in groups), skip_missing)
        if any(override.package for override in overrides_list) or "searchpath" in str(overrides_list):
            return create(repo, config_name, overrides_list, prepend_hydra=prepend_hydra, skip_missing=skip_missing)
        if key not in _DEFAULTS:
            made = create(repo, config_name, groups, prepend_hydra=prepend_hydra, skip_missing=skip_missing)
            _DEFAULTS[key] = pickle.dumps(made)
        found = pickle.loads(_DEFAULTS[key])  # noqa: S301 - made above
        found.config_overrides = [override for override in overrides_list if override not in groups]
        return found

    monkeypatch.setattr(ConfigLoaderImpl, "_compose_config_from_defaults_list", compose_once)
    monkeypatch.setattr(loading, "create_defaults_list", create_once)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Run]:
    """Runs a command line in this process up to where a trial or a sweep would begin; returns exit code and errors."""

    def stop(*_: Any, **__: Any) -> NoReturn:
        raise ModelError("a trial would begin here")

    def prepare(settings: Any) -> Any:
        try:  # as the real one does when it locates the model
            validate_repo_id(settings.model.path)
        except HFValidationError as error:
            raise ModelError(f"{settings.model.path!r} is no hub id") from error
        rows = SimpleNamespace(digest=settings.task.name, train=range(100))
        return SimpleNamespace(rows=rows, model_digest="model", teacher_digest="", carries_head=False)

    def run_out(*_: Any) -> NoReturn:
        raise TimeoutError(f"it takes longer than {SECONDS} s")

    def start(arguments: Sequence[str]) -> tuple[int, str]:
        errors = io.StringIO()
        monkeypatch.setattr(sys, "argv", ["nxm_sweep", *arguments])
        monkeypatch.setattr(command, "_ERRORS", TextConsole(file=errors, soft_wrap=True))
        signal.alarm(SECONDS)
        try:
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(errors):
                return command.main(), errors.getvalue()
        finally:
            signal.alarm(0)

    _remember_compositions(monkeypatch)
    home, work = tmp_path / "home", tmp_path / "a" / "b"
    home.mkdir()
    work.mkdir(parents=True)
    monkeypatch.chdir(work)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setattr(nxm_sweep.trial.train, "prepare", prepare)
    monkeypatch.setattr(nxm_sweep.trial.run, "run_point", stop)
    monkeypatch.setattr(nxm_sweep.trial.step_timer, "seconds_per_row", lambda *_: 1.0)  # it trains a few steps
    monkeypatch.setattr(pool, "apart", lambda: contextlib.nullcontext(lambda function, *given: function(*given)))
    monkeypatch.setattr(nxm_sweep.sweep.run, "start_imports", lambda: None)
    monkeypatch.setattr(nxm_sweep.sweep.run, "open_storage", stop)
    before = signal.signal(signal.SIGALRM, run_out)
    root, level, handlers = logging.getLogger(), logging.getLogger().level, list(logging.getLogger().handlers)
    yield start
    signal.signal(signal.SIGALRM, before)
    root.setLevel(level)
    root.handlers = handlers


def _fuzz(run: Run, seed: int, flags: Sequence[str], overrides: int) -> None:
    """Run random command lines until so many overrides have been drawn."""
    draw, drawn, refused = random.Random(seed), 0, 0
    while drawn < overrides:
        line = draw_line(draw)
        drawn += len(line)
        try:
            code, errors = run([*flags, *line])
        except BaseException as error:
            error.add_note(f"of seed {seed}: {[*flags, *line]!a}")
            raise
        assert code in {0, 2}, (seed, line)
        assert TOLD.fullmatch(errors) if code else re.fullmatch(NOTED, errors), (seed, line, errors)
        refused += bool(code)
    assert refused > drawn / 10  # it does draw bad ones


@pytest.mark.fault(
    "input",
    "random overrides, with and without `-m`",
    "Each is a plan or one line with exit code 2; 10,000 of them in `make test-slow`, 240 in `make test`.",
)
@pytest.mark.parametrize("flags", [(), ("-m",), ("-m", "sweep.dry_run=true"), ("--cfg", "job")], ids=" ".join)
def test_random_overrides_are_refused_in_one_line(run: Run, flags: tuple[str, ...]) -> None:
    _fuzz(run, 0, flags, 60)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 11))
@pytest.mark.parametrize("flags", [(), ("-m", "sweep.dry_run=true")], ids=" ".join)
def test_ten_thousand_random_overrides_are_refused_in_one_line(run: Run, seed: int, flags: tuple[str, ...]) -> None:
    _fuzz(run, seed, flags, 500)


KNOWN = [
    ("distillation=[null]", "distillation=[null] is not one of its choices"),
    ("method=[1e-4,nan]", "method=[1e-4,nan] is not one of its choices"),
    ("method=${oc.select:seed}", "method=${oc.select:seed} is not one of its choices"),
    ("sparsity.rules.group.x=1", "cannot compose 'sparsity.rules.group.x=1': Index 'group' (str) is not an int"),
    (f"learning_rate.value={'9' * 400}", "cannot compose 'learning_rate.value=999"),
    ("hydra.searchpath=['nowhere']", "cannot compose \"hydra.searchpath=['nowhere']\": provider=hydra.searchpath in"),
    ("hydra/launcher=1.5", "cannot compose 'hydra/launcher=1.5': Config group override must be a string or a list"),
]


@pytest.mark.fault("input", "an override that Hydra answers with a Python error", "It is named in one line.")
@pytest.mark.parametrize("flags", [(), ("-m",), ("--cfg", "job")], ids=" ".join)
@pytest.mark.parametrize(("override", "error"), KNOWN, ids=[case[0][:40] for case in KNOWN])
def test_an_override_that_raises_anything_is_named(run: Run, flags: tuple[str, ...], override: str, error: str) -> None:
    code, errors = run([*flags, override, "seed=3"])
    assert code == 2
    assert errors.startswith(f"error: {error}")
    assert TOLD.fullmatch(errors)


@pytest.mark.parametrize("flags", [(), ("-m",)], ids=" ".join)
def test_an_interpolated_list_or_mapping_is_one(run: Run, flags: tuple[str, ...]) -> None:
    assert run([*flags, "sweep.axes=${seed}"]) == (2, "error: sweep.axes must be a mapping but got 0\n")
    assert run([*flags, "task.metrics=${rho.value}"]) == (
        2,
        "error: task.metrics must be a list of texts but got 0.001\n",
    )
    error = "error: learning_rate.grid must be a list of numbers but got [{'a': 1}]\n"
    assert run([*flags, "+learning_rate.grid=[{a:1}]"]) == (2, error)


def test_an_error_of_our_own_is_not_blamed_on_the_input(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> NoReturn:
        raise ValueError("a bug")

    monkeypatch.setattr(nxm_sweep.sweep.run, "open_storage", fail)
    with pytest.raises(ValueError, match="a bug"):
        run(["-m", "method=dense"])
    monkeypatch.setattr(nxm_sweep.trial.run, "run_point", fail)
    with pytest.raises(ValueError, match="a bug"):
        run([])
