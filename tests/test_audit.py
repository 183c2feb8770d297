"""`make audit` fails in one line unless every pinned package was checked and none is known to be vulnerable."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).with_name("audit.py")
PINS = [
    line.split("==") for line in SCRIPT.parent.with_name("constraints.txt").read_text().splitlines() if "==" in line
]
CHECKED: list[dict[str, Any]] = [{"name": name, "version": version, "vulns": []} for name, version in PINS]
HOLE = {"id": "PYSEC-2026-1", "fix_versions": ["9.9"], "aliases": [], "description": ""}
SKIPPED = {"name": PINS[0][0], "skip_reason": "Dependency not found on PyPI"}
TRACEBACK = (
    "Traceback (most recent call last):\n  ...\nrequests.exceptions.ConnectionError: Failed to resolve 'pypi.org'\n"
)


def audit(folder: Path, out: str = "", err: str = "", code: int = 0) -> subprocess.CompletedProcess[str]:
    """Run the script with a pip-audit that answers so."""
    program = f"import sys; sys.stdout.write({out!r}); sys.stderr.write({err!r}); sys.exit({code})"
    (folder / "pip_audit.py").write_text(program)
    return run({"PYTHONPATH": str(folder)})


def run(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *(arguments or (str(SCRIPT),))]
    return subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **environment})


def answer(packages: list[dict[str, Any]]) -> str:
    return json.dumps({"dependencies": packages, "fixes": []})


def test_packages_without_known_vulnerabilities_pass(tmp_path: Path) -> None:
    done = audit(tmp_path, answer(CHECKED))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"audit: none of {len(PINS)} packages has a known vulnerability\n"


@pytest.mark.fault(
    "security",
    "a dependency with a known vulnerability, or one that was not checked",
    "`make audit` fails and names it",
)
@pytest.mark.parametrize(
    ("packages", "said"),
    [
        ([{**CHECKED[0], "vulns": [HOLE]}, *CHECKED[1:]], "1 of {count} packages have known vulnerabilities"),
        ([SKIPPED, *CHECKED[1:]], "1 of {count} packages were not checked, the first because: Dependency not found"),
        (CHECKED[1:], "packages were checked, but constraints.txt has {count}"),
    ],
    ids=["vulnerable", "skipped", "missing"],
)
def test_audit_fails_unless_all_was_checked(tmp_path: Path, packages: list[dict[str, Any]], said: str) -> None:
    done = audit(tmp_path, answer(packages), code=1)
    assert done.returncode == 1
    assert said.format(count=len(PINS)) in done.stderr
    assert len(done.stderr.splitlines()) == 1
    vulnerable = "".join(f"{name} {version}: PYSEC-2026-1, fixed in 9.9\n" for name, version in PINS[:1])
    assert done.stdout == (vulnerable if "known" in said else "")


@pytest.mark.fault(
    "security",
    "an audit without its tool, or without the service that knows the vulnerabilities",
    "`make audit` fails in one line that says so",
)
@pytest.mark.parametrize(("err", "said"), [(TRACEBACK, "Failed to resolve 'pypi.org'"), ("", "it said nothing")])
def test_unreachable_service_is_one_line(tmp_path: Path, err: str, said: str) -> None:
    done = audit(tmp_path, err=err, code=1)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("audit: pip-audit gave no answer, exit code 1: ")
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_missing_tool_is_one_line() -> None:
    absent = f"import runpy, sys; sys.modules['pip_audit'] = None; runpy.run_path({str(SCRIPT)!r}, run_name='__main__')"
    done = run({}, "-c", absent)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "audit: pip-audit is not installed; it comes with the extra `dev`\n"


@pytest.mark.skipif(importlib.util.find_spec("pip_audit") is None, reason="pip-audit is not installed (extra: dev)")
def test_pip_audit_itself_without_a_network_is_one_line(tmp_path: Path) -> None:
    done = run({"HTTPS_PROXY": "http://127.0.0.1:9", "HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)})
    assert done.returncode == 1
    assert done.stderr.startswith("audit: pip-audit gave no answer, exit code 1: ")
    assert len(done.stderr.splitlines()) == 1
