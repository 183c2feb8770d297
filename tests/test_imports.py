"""Imports point one way, and nothing loaded from disk is executed: both read off the source."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "nxm_sweep"
MODULES = sorted(path.relative_to(PACKAGE.parent).with_suffix("").as_posix() for path in PACKAGE.rglob("*.py"))

HYDRA = ("hydra", "omegaconf")
MAY_IMPORT_HYDRA = (
    "nxm_sweep.config",
    "nxm_sweep.__main__",
    *(f"nxm_sweep.sweep.{name}" for name in ("sweeper", "command_line", "drafting")),
)
UNPICKLERS = ("pickle", "_pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve")

# For each layer, what its modules may not import. A name stands for itself and for all below it.
FORBIDDEN = {
    "nxm_sweep.errors": ("nxm_sweep",),
    "nxm_sweep.settings": ("nxm_sweep",),
    "nxm_sweep.config": (
        "nxm_sweep.training",
        "nxm_sweep.sweep",
        "nxm_sweep.report",
        "torch",
        "transformers",
        "optuna",
    ),
    "nxm_sweep.training": (
        "nxm_sweep.sweep",
        "nxm_sweep.report",
        "nxm_sweep.export",
        "nxm_sweep.config",
        "nxm_sweep.__main__",
        "optuna",
    ),
    "nxm_sweep.sweep": ("nxm_sweep.report", "nxm_sweep.export", "nxm_sweep.__main__"),
    "nxm_sweep.export": ("nxm_sweep.report", "nxm_sweep.config", "nxm_sweep.__main__", "optuna"),
    "nxm_sweep.report": (
        "nxm_sweep.training",
        "nxm_sweep.sparsity",
        "nxm_sweep.config",
        "torch",
        "transformers",
        "optuna",
    ),
}
# The library stands on these alone; the report knows of a sweep what is on disk alone.
ALLOWED = {
    "nxm_sweep.sparsity": (
        "torch",
        "safetensors",
        "nxm_sweep.sparsity",
        "nxm_sweep.errors",
        "nxm_sweep.notation",
        *sys.stdlib_module_names,
    ),
}
REPORT_KNOWS = tuple(f"nxm_sweep.sweep.{name}" for name in ("records", "survey", "attempts", "files"))


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


def _broken_rules(module: str, source: str) -> list[str]:
    """Imports and calls in ``source`` that a module of that dotted name may not have."""
    tree = ast.parse(source)
    broken = []
    for name in _imports(tree):
        refused = any(_below(module, (layer,)) and _below(name, roots) for layer, roots in FORBIDDEN.items())
        strange = any(_below(module, (layer,)) and not _below(name, roots) for layer, roots in ALLOWED.items())
        hydra = _below(name, HYDRA) and module not in MAY_IMPORT_HYDRA
        optuna = _below(name, ("optuna",)) and not _below(module, ("nxm_sweep.sweep",))
        report = _below(module, ("nxm_sweep.report",)) and _below(name, ("nxm_sweep.sweep",))
        if refused or strange or hydra or optuna or (report and not _below(name, REPORT_KNOWS)):
            broken.append(f"imports {name}")
        if _below(name, (*UNPICKLERS, "torch.load", "hydra.utils")):
            broken.append(f"loads code by {name}")
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


def _dotted(path: str) -> str:
    return path.replace("/", ".").removesuffix(".__init__")


@pytest.mark.parametrize("path", MODULES)
def test_a_module_keeps_the_rules_of_its_layer(path: str) -> None:
    assert _broken_rules(_dotted(path), (PACKAGE.parent / f"{path}.py").read_text()) == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("nxm_sweep.sparsity.admm", "import numpy"),
        ("nxm_sweep.sparsity.admm", "def f():\n    from nxm_sweep.training import data"),
        ("nxm_sweep.training.trial", "from omegaconf import DictConfig"),
        ("nxm_sweep.training.trial", "import hydra.utils"),
        ("nxm_sweep.training.trial", "import optuna"),
        ("nxm_sweep.training.trial", "from nxm_sweep.sweep.records import write_record"),
        ("nxm_sweep.training.trial", "from nxm_sweep import report"),
        ("nxm_sweep.sweep.point", "from nxm_sweep.report import summary"),
        ("nxm_sweep.sweep.point", "from hydra import compose"),
        ("nxm_sweep.report.summary", "import torch.nn"),
        ("nxm_sweep.report.summary", "from nxm_sweep.training.trial import run_trial"),
        ("nxm_sweep.report.summary", "from nxm_sweep.sweep.point import run_point"),
        ("nxm_sweep.errors", "from nxm_sweep.settings import TrialSettings"),
        ("nxm_sweep.config", "import torch"),
        ("nxm_sweep.training.data", "assert True"),
        ("nxm_sweep.training.data", "import pickle"),
        ("nxm_sweep.training.data", "torch.load(path)"),
        ("nxm_sweep.training.data", "from torch import load"),
        ("nxm_sweep.training.data", "eval('1')"),
        ("nxm_sweep.training.data", "exec('1')"),
        ("nxm_sweep.config", "hydra.utils.instantiate(config)"),
        ("nxm_sweep.config", "from hydra.utils import instantiate"),
    ],
)
def test_a_broken_rule_is_noticed(module: str, source: str) -> None:
    assert _broken_rules(module, source) != []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("nxm_sweep.sparsity.admm", "from __future__ import annotations\nimport math\nfrom torch import Tensor"),
        ("nxm_sweep.sparsity.admm", "model.eval()"),
        ("nxm_sweep.sweep.sweeper", "import hydra, optuna"),
        ("nxm_sweep.report.table", "from nxm_sweep.sweep.records import read_records"),
    ],
)
def test_what_a_layer_may_do_is_allowed(module: str, source: str) -> None:
    assert _broken_rules(module, source) == []


def _loaded(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(*sorted({{name.partition('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PACKAGE.parent)
    return set(done.stdout.split())


def test_the_trainer_needs_neither_hydra_nor_optuna() -> None:
    loaded = _loaded("import nxm_sweep.training.trainer")
    assert {"torch", "transformers"} <= loaded
    assert loaded.isdisjoint({"hydra", "omegaconf", "optuna"})


def test_the_report_needs_no_torch() -> None:
    loaded = _loaded("import nxm_sweep.report.__main__, nxm_sweep.report.summary")
    assert "rich" in loaded
    assert loaded.isdisjoint({"torch", "transformers", "datasets", "hydra"})


def test_help_needs_no_torch() -> None:
    loaded = _loaded("import hydra_plugins.nxm_sweep_plugin, nxm_sweep.__main__")
    assert "hydra" in loaded
    assert loaded.isdisjoint({"torch", "transformers", "datasets", "pandas", "optuna", "pebble"})
