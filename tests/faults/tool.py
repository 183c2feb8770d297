"""``nxm_sweep status`` and ``report`` in a forked process, which may have other rights."""

from __future__ import annotations

import multiprocessing
import os
import sys
import tempfile
from pathlib import Path

SECONDS = 120


def run(command: str, output: Path, user: int | None = None) -> tuple[int, str, str]:
    """Run a command on an output folder; return its exit code, standard output and standard error.

    Args:
        command: ``status`` or ``report``.
        output: The output folder.
        user: User that the process becomes, if it is root.
    """
    with tempfile.TemporaryDirectory() as place:
        files = [Path(place) / name for name in ("out", "err")]
        process = multiprocessing.get_context("spawn").Process(
            target=_main, args=(command, str(output), *map(str, files), user)
        )
        process.start()
        process.join(SECONDS)
        if process.is_alive():
            process.kill()
            raise TimeoutError(f"{command} did not end within {SECONDS} s")
        return process.exitcode or 0, files[0].read_text(), files[1].read_text()


def _main(command: str, output: str, out: str, err: str, user: int | None) -> None:
    import nxm_sweep.report.__main__
    import nxm_sweep.status  # noqa: F401 - before the rights are given up: the checkout may be closed to the user
    from nxm_sweep.__main__ import main

    for number, name in ((1, out), (2, err)):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT), number)
    os.environ["COLUMNS"] = "200"
    if user is not None:
        os.chdir(Path(output).parent)  # the folders above may be closed to the user
        if os.geteuid() == 0:
            os.seteuid(user)
    sys.argv = [
        "nxm_sweep",
        command,
        Path(output).name if user is not None else output,
        *(["--trials"] if command == "report" else []),
    ]  # which writes nothing
    sys.exit(main())
