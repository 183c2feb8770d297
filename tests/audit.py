"""Check the tested versions against known vulnerabilities: ``make audit``.

The service that knows them is asked through pip-audit. Exit code 1, with the reason on the last line, unless every
version of ``constraints.txt`` was checked and none has a known vulnerability.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

PINS = Path(__file__).resolve().parents[1] / "constraints.txt"
_SECONDS = 600


def main() -> None:
    """Run pip-audit and judge its answer."""
    pins = [line for line in PINS.read_text().splitlines() if "==" in line and not line.startswith("#")]
    packages = _ask()
    vulnerable = [package for package in packages if package.get("vulns")]
    for package in vulnerable:
        for found in package["vulns"]:
            fixed = ", ".join(found["fix_versions"]) or "no version"
            print(f"{package['name']} {package['version']}: {found['id']}, fixed in {fixed}")  # noqa: T201
    skipped = [package for package in packages if "skip_reason" in package]
    if vulnerable:
        _fail(f"{len(vulnerable)} of {len(pins)} packages have known vulnerabilities")
    if skipped:
        _fail(
            f"{len(skipped)} of {len(pins)} packages were not checked, the first because: {skipped[0]['skip_reason']}"
        )
    if len(packages) != len(pins):
        _fail(f"{len(packages)} packages were checked, but {PINS.name} has {len(pins)}")
    print(f"audit: none of {len(pins)} packages has a known vulnerability")  # noqa: T201


def _ask() -> list[dict[str, Any]]:
    """Return pip-audit's entry of each package."""
    if importlib.util.find_spec("pip_audit") is None:
        _fail("pip-audit is not installed; it comes with the extra `dev`")
    options = [
        "--requirement",
        str(PINS),
        "--no-deps",
        "--disable-pip",
        "--format",
        "json",
        "--progress-spinner",
        "off",
    ]
    command = [sys.executable, "-m", "pip_audit", *options]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_SECONDS)
        packages: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    except subprocess.TimeoutExpired:
        _fail(f"pip-audit has not answered within {_SECONDS} s")
    except (ValueError, LookupError, TypeError):
        errors = [line for line in done.stderr.splitlines() if "rror" in line] or ["it said nothing"]
        _fail(f"pip-audit gave no answer, exit code {done.returncode}: {errors[-1].strip()}")
    return packages


def _fail(reason: str) -> None:
    sys.exit(f"audit: {reason}")


if __name__ == "__main__":
    main()
