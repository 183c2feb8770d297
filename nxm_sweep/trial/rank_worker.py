"""One process (rank) of a trial, started by :mod:`nxm_sweep.trial.rank_launcher`."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from typing import Any

from nxm_sweep.console import TextConsole
from nxm_sweep.errors import NxmSweepError, RankError
from nxm_sweep.store.liveness import exit_with_parent
from nxm_sweep.store.stop_signals import STOP_SIGNALS

_WIDTH = 120  # of a log


def main() -> int:
    """Train as one rank of several; return the exit code."""
    rank_settings: dict[str, Any] = json.loads(sys.stdin.buffer.read())
    threading.Thread(target=exit_with_parent, args=(rank_settings["parent"],), name="orphan watch", daemon=True).start()
    for number in (signal.SIGINT, *STOP_SIGNALS):  # handled by the launcher, which ends the ranks or passes them on
        signal.signal(number, signal.SIG_IGN)
    answer, code = _train(rank_settings), 0
    if answer is None:
        return 1
    if os.environ["RANK"] == "0":
        _connect_to_store().set(_answer_key(), json.dumps(answer))
        code = int("error" in answer)
    return code


def _train(rank_settings: dict[str, Any]) -> dict[str, Any] | None:
    """Return the answer, or None where the process group reports the failure."""
    import torch  # noqa: PLC0415 - seconds of imports, in which the parent may die

    from nxm_sweep.config.compose import settings_of  # noqa: PLC0415
    from nxm_sweep.training.quiet import silence_known_noise  # noqa: PLC0415
    from nxm_sweep.trial.run import run_point  # noqa: PLC0415

    silence_known_noise()
    torch.set_num_threads(rank_settings["threads"])
    console = TextConsole(width=None if sys.stdout.isatty() else _WIDTH)
    try:
        _, trained = run_point(settings_of(rank_settings["settings"]), console, planned=rank_settings["planned"])
    except RankError:  # reported by the process group
        return None
    except NxmSweepError as error:
        return {"error": type(error).__name__, "message": error.message, "hint": error.hint}
    return {"trained": trained}


def _connect_to_store() -> Any:
    import torch.distributed as dist  # noqa: PLC0415

    port = int(os.environ["MASTER_PORT"])
    return dist.TCPStore(os.environ["MASTER_ADDR"], port, is_master=False)  # type: ignore[attr-defined]


def _answer_key() -> str:
    from nxm_sweep.trial.rank_launcher import ANSWER  # noqa: PLC0415

    return ANSWER


if __name__ == "__main__":
    sys.exit(main())
