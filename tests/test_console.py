"""Text reaches a terminal as it is: markup stays visible, and control characters are printed as escapes."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.text import Text
from safetensors.torch import save_file

from nxm_sweep import status, verify
from nxm_sweep.console import TextConsole, holds_password, mask, plain_table, print_error
from nxm_sweep.errors import ConfigError
from nxm_sweep.export import __main__ as export_command
from nxm_sweep.report import __main__ as report_command
from nxm_sweep.store.files import write_json

HOSTILE = {
    "[bold red]x[/bold red]": "[bold red]x[/bold red]",
    "[/]": "[/]",
    "[link=file:///etc]x": "[link=file:///etc]x",
    ":smile:": ":smile:",
    "\x1b]0;title\x07": r"\x1b]0;title\x07",
    "\x1b[2J\x1b[31mred": r"\x1b[2J\x1b[31mred",
    "\x9b31m": r"\x9b31m",
    "a\rb": r"a\rb",
    "\u202egpj.exe": r"\u202egpj.exe",
    "\x00\x08\x7f": r"\x00\x08\x7f",
    "\udc80": r"\udc80",
    "größe 模型": "größe 模型",
}


def _is_printable(text: str) -> bool:
    return all(character == "\n" or character.isprintable() for character in text)


@pytest.mark.fault(
    "security",
    "markup or terminal escape sequences in a name, a path or a tensor's name",
    "They are printed as visible text; nothing colours, erases or retitles the terminal.",
)
@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
@pytest.mark.parametrize("is_terminal", [False, True])
def test_a_text_is_printed_as_it_is(text: str, is_terminal: bool) -> None:
    table = plain_table("cell", "[bold]at[/bold]")
    table.add_row(text, Text(text))
    for renderable in (text, table, Text(text)):
        screen = io.StringIO()
        TextConsole(file=screen, width=200, force_terminal=is_terminal, no_color=True, color_system=None).print(
            renderable
        )
        assert _is_printable(screen.getvalue())
        if renderable is text or renderable is table:
            assert HOSTILE[text] in screen.getvalue()


def test_an_error_is_one_line_without_passwords() -> None:
    screen = io.StringIO()
    message = "cannot open postgresql://me:hunter2@host/db\n[red]\x1b[31m " + "x" * 10_000
    print_error(ConfigError(message, hint="[bold]go\non"), TextConsole(file=screen, soft_wrap=True))
    error, hint = screen.getvalue().splitlines()
    assert error.startswith(r"error: cannot open postgresql://***@host/db [red]\x1b[31m xxx")
    assert len(error) < 2_100
    assert hint == "hint: [bold]go on"


@pytest.mark.parametrize(
    "text",
    [
        "sweep.storage=postgresql://me:hunter2@host/db",
        "data.path=https://hunter2@host/x",
        "sweep.storage='postgresql://host/db?user=me&password=hunter2'",
        "model.path=postgresql://me:p/a@ss@host/db",
        "+data.password=hunter2",
        "method.options={api_key:hunter2}",
        "hydra.job.env_set.HF_ACCESS_TOKEN=hunter2",
        "data.revision=hf_" + "a" * 34,
    ],
)
def test_a_password_is_noticed(text: str) -> None:
    assert holds_password(text)


@pytest.mark.parametrize(
    "text",
    [
        "data.path=nyu-mll/glue",
        "data.path=s3://bucket/folder",
        "output_dir='/data/me@work/x'",
        "task.text_columns=[token,password]",
        "sweep.storage=postgresql",
        "task.label_column=secret",
        "data.path=hf://datasets/nyu-mll/glue",
    ],
)
def test_a_setting_without_a_password_is_not(text: str) -> None:
    assert not holds_password(text)


def test_masked_text_keeps_the_rest() -> None:
    assert mask("a https://u:p@h/x?password=1&b=2 c") == "a https://***@h/x?password=***&b=2 c"
    assert mask("http://[broken and no address") == "http://[broken and no address"


def test_the_names_of_tensors_do_not_reach_the_terminal_raw(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = "bert.encoder.layer.0.[bold]\x1b]0;mine\x07.weight"
    save_file({name: torch.tensor([[1.0, 2.0, 0.0, 0.0]] * 4)}, tmp_path / "model.safetensors")
    code = verify.main([str(tmp_path / "model.safetensors"), "--pattern", "2of4", "--match", "*"])
    told = capsys.readouterr()
    assert code == 0, told.err
    assert r"[bold]\x1b]0;mine" in told.out
    assert _is_printable(told.out + told.err)


def test_the_names_of_a_plan_do_not_reach_the_terminal_raw(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cell: dict[str, Any] = {
        "name": "t m s b",
        "names": {"task": "[bold]\x1b[31m", "method": "[/]", "sparsity": ":smile:", "model": "\x9b0m"},
        "study": "s",
        "metric": "accuracy",
        "axes": ["seed"],
        "points": [["a" * 16, [0]]],
    }
    plan = {"command": ["method=a b", "output_dir='\x1b[31m'"], "written": 1.0, "n_trials": None, "cells": [cell]}
    write_json(tmp_path / "sweeps" / "plan.json", plan)
    monkeypatch.setattr(sys, "argv", ["status", str(tmp_path)])
    monkeypatch.setenv("COLUMNS", "200")
    assert status.main() == 1
    told = capsys.readouterr()
    assert r"[bold]\x1b[31m [/] :smile: \x9b0m" in told.out
    assert "-m 'method=a b' " in told.out  # quoted for the shell
    assert _is_printable(told.out + told.err)


@pytest.mark.parametrize(
    ("module", "arguments", "told"),
    [
        (verify, ["~/model"], "/home/model"),
        (status, ["~/runs"], "/home/runs"),
        (report_command, ["~/runs"], "/home/runs"),
        (export_command, ["a", "--to=~/x", "--output-dir=~/runs"], "/home/runs/trials"),
    ],
)
def test_a_tilde_in_an_option_is_the_home_folder(  # noqa: PLR0917 - fixtures
    module: Any,
    arguments: list[str],
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["command", *arguments])
    assert module.main() == 2
    assert f"{tmp_path}{told}" in capsys.readouterr().err
    assert not (tmp_path / "~").exists()
