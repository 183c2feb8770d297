"""Nothing loaded from disk is executed, read off the source; what each part loads. `make lint` checks the layers."""

from __future__ import annotations

import ast
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nxm_sweep.__main__ import main

PACKAGE = Path(__file__).resolve().parents[1] / "nxm_sweep"
MODULES = sorted(path.relative_to(PACKAGE.parent).with_suffix("").as_posix() for path in PACKAGE.rglob("*.py"))

UNPICKLERS = ("pickle", "_pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve")


def _imports(tree: ast.AST) -> Iterator[str]:
    """Every imported name in full, those inside functions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute here"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _below(name: str, roots: tuple[str, ...]) -> bool:
    return any(name == root or name.startswith(f"{root}.") for root in roots)


def _broken_rules(source: str) -> list[str]:
    """Imports and calls in ``source`` that no module may have."""
    tree = ast.parse(source)
    broken = [
        f"loads code by {name}" for name in _imports(tree) if _below(name, (*UNPICKLERS, "torch.load", "hydra.utils"))
    ]
    for node in ast.walk(tree):
        if isinstance(node, ast.Assert):
            broken.append("asserts")
        if isinstance(node, ast.Name) and node.id in {"eval", "exec", "compile", "__import__"}:
            broken.append(f"calls {node.id}")
        if isinstance(node, ast.Attribute) and ast.unparse(node) in {"torch.load", "hydra.utils"}:
            broken.append(f"calls {ast.unparse(node)}")
        if isinstance(node, ast.Name | ast.Attribute) and ast.unparse(node).endswith(("instantiate", "read_pickle")):
            broken.append(f"calls {ast.unparse(node)}")
    return broken


@pytest.mark.parametrize("path", MODULES)
def test_a_module_executes_nothing_that_it_reads(path: str) -> None:
    assert _broken_rules((PACKAGE.parent / f"{path}.py").read_text()) == []


@pytest.mark.parametrize(
    "source",
    [
        "import hydra.utils",
        "assert True",
        "import pickle",
        "def f():\n    import pickle",
        "torch.load(path)",
        "from torch import load",
        "eval('1')",
        "exec('1')",
        "hydra.utils.instantiate(config)",
        "from hydra.utils import instantiate",
    ],
)
def test_a_broken_rule_is_noticed(source: str) -> None:
    assert _broken_rules(source) != []


WRITERS = {"write_text", "write_bytes", "mkstemp", "mkdtemp", "NamedTemporaryFile", "chmod", "mktemp"}
OTHER_WRITERS = {
    ("nxm_sweep/training/trainer", "write_text"),  # a checkpoint's state; its folder is checked for links
    ("nxm_sweep/sweep/studies/storage", "open"),  # Optuna's journal, in place
}


def _writers(source: str) -> Iterator[str]:
    """Calls in ``source`` that make a file, or open one for writing."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Call(func=ast.Attribute(attr=name)) if name in WRITERS:
                yield name
            case ast.Call(func=ast.Attribute(attr="open") | ast.Name(id="open"), args=arguments):
                modes = [value.value for value in arguments if isinstance(value, ast.Constant)]
                if any(isinstance(mode, str) and set(mode) & set("wax+") for mode in modes):
                    yield "open"


@pytest.mark.parametrize("path", [path for path in MODULES if path != "nxm_sweep/store/files"])
def test_files_are_written_in_one_place(path: str) -> None:
    found = {(path, name) for name in _writers((PACKAGE.parent / f"{path}.py").read_text())}
    assert found <= OTHER_WRITERS


def test_a_second_place_that_writes_is_noticed() -> None:
    for source in ("path.write_text('x')", "path.open('a')", "open(path, 'r+b')", "tempfile.mkstemp()"):
        assert list(_writers(source)), source
    assert not list(_writers("path.open('rb'); path.open(); write_text(path, 'x')"))


def test_evaluation_mode_is_no_eval() -> None:
    assert _broken_rules("import math\nfrom torch import Tensor\nmodel.eval()") == []


def _loaded(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(*sorted({{name.partition('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PACKAGE.parent)
    return set(done.stdout.split())


LIBRARY = """
import sys
sys.modules.update(dict.fromkeys(["hydra", "omegaconf", "optuna", "pebble", "matplotlib"]))  # importing one raises
import torch
import nxm_sweep, nxm_sweep.verify, nxm_sweep.export.exporter, nxm_sweep.predict.__main__, nxm_sweep.training.models
model = torch.nn.Sequential(torch.nn.Linear(8, 4), torch.nn.Linear(4, 4))
targets = nxm_sweep.select_targets(model, nxm_sweep.Pattern(2, 4))
admm = nxm_sweep.Admm(targets, rho=1e-2)
admm.update_()
nxm_sweep.prune_(targets)
print(*[int((target.weight != 0).sum()) for target in targets], nxm_sweep.SparseTrainer.__name__, len(nxm_sweep.METHODS))
"""


def test_the_library_works_with_hydra_and_optuna_absent() -> None:
    done = subprocess.run(
        [sys.executable, "-c", LIBRARY], capture_output=True, text=True, check=False, cwd=PACKAGE.parent
    )
    assert done.stderr == ""
    assert done.stdout.split() == ["16", "8", "SparseTrainer", "9"]


def test_the_report_needs_no_torch() -> None:
    loaded = _loaded("import nxm_sweep.report, nxm_sweep.report.terminal")
    assert "rich" in loaded
    assert loaded.isdisjoint({"torch", "transformers", "datasets", "hydra"})


def test_help_needs_no_torch() -> None:
    loaded = _loaded("import hydra_plugins.nxm_sweep_plugin, nxm_sweep.__main__")
    assert "hydra" in loaded
    assert loaded.isdisjoint({"torch", "transformers", "datasets", "pandas", "optuna", "pebble"})


@pytest.mark.parametrize("path", MODULES)
def test_an_entry_point_is_the_last_statement(path: str) -> None:
    body = ast.parse((PACKAGE.parent / f"{path}.py").read_text()).body
    assert [ast.unparse(node.test) for node in body[:-1] if isinstance(node, ast.If)] in ([], ["TYPE_CHECKING"])


@pytest.mark.fault("security", "Hydra's flag that reads a pickle, --experimental-rerun", "it is refused in one line")
def test_no_flag_unpickles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.pickle").write_bytes(pickle.dumps(_Armed(tmp_path / "ran")))
    monkeypatch.setattr(sys, "argv", ["nxm_sweep", "--experimental-rerun", str(tmp_path / "config.pickle")])
    assert main() == 2
    told = capsys.readouterr().err.splitlines()
    assert told[0] == "error: --experimental-rerun reads a pickle, and nothing is unpickled here"
    assert not (tmp_path / "ran").exists()


class _Armed:
    """An object whose unpickling makes a file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self._path,)
