"""Signals that ask a process to stop: SIGTERM, SIGUSR1 and SIGHUP, as schedulers and closed terminals send them.

A command begins with :func:`end_at_once`: it has nothing to lose, and half-done imports are never unwound. Once there is
something to save, :func:`note_stop_signals` takes over: the first signal is noted, and the running step is the last; the
second one ends the process. A process of another program keeps its own handlers.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from pathlib import Path
from types import FrameType

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)
TERMINATED = "terminated"
"""Reason of a trial that stopped after a step, with a checkpoint."""
_SCRIPT = "nxm-sweep"
_ONE_REQUEST_SECONDS = 1.0  # `timeout` signals a process and then its group


class _Received:
    """The first stop signal of this process, when it came, and the descriptors that were terminals at the start."""

    number: int | None = None
    at = float("-inf")
    terminals: tuple[int, ...] = ()


def end_at_once(module: str = "__main__") -> None:
    """End this process in one line on a stop signal or Ctrl-C, from now until :func:`note_stop_signals`.

    Args:
        module: Name of the command's module; one that is merely imported changes no handler.
    """
    if module != "__main__" and Path(sys.argv[0]).name != _SCRIPT:
        return
    if multiprocessing.parent_process() is not None:
        return  # a worker, which executes the command's module
    _Received.terminals = tuple(descriptor for descriptor in (1, 2) if os.isatty(descriptor))
    for number in (signal.SIGINT, *STOP_SIGNALS):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
            signal.signal(number, _end)


def note_stop_signals() -> None:
    """Note stop signals instead of ending at once; Ctrl-C raises ``KeyboardInterrupt`` again.

    Does nothing in a process that did not begin with :func:`end_at_once`.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in STOP_SIGNALS:
        if signal.getsignal(number) is _end:
            signal.signal(number, _note)


def note_in_worker() -> None:
    """Let a worker's running step be its trial's last on SIGTERM, SIGUSR1 and SIGUSR2; its coordinator handles the rest."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _note)
    signal.signal(signal.SIGUSR1, _note)
    signal.signal(signal.SIGUSR2, _note)  # SLURM may signal every process of a job of submitit


def restore_handlers() -> None:
    """Let Ctrl-C raise ``KeyboardInterrupt`` and a stop signal end the process, as they do without this module."""
    for number in (signal.SIGINT, *STOP_SIGNALS):
        if signal.getsignal(number) is _end:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)


def receive(number: int) -> bool:
    """Note a stop signal; return whether it is a further request, and not the first one's echo."""
    if number == signal.SIGHUP:
        _leave_terminal()
    again = _Received.number is not None and time.monotonic() - _Received.at > _ONE_REQUEST_SECONDS
    if _Received.number is None:
        _Received.number, _Received.at = number, time.monotonic()
    return again


def received() -> int | None:
    """Return the number of the stop signal that this process has received, or None."""
    return _Received.number


def forget() -> None:
    """Forget the received signal: a worker goes on with the next trial."""
    _Received.number = None


def signal_name(number: int) -> str:
    """Return a signal's name, as a user knows it."""
    return "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name


def _end(number: int, _: FrameType | None) -> None:
    if number == signal.SIGHUP:
        _leave_terminal()
    os.write(2, f"interrupted by {signal_name(number)}\n".encode())
    os._exit(128 + number)


def _note(number: int, _: FrameType | None) -> None:
    if receive(number):
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)


def _leave_terminal() -> None:
    """Send output to nowhere where it went to a terminal, which is gone."""
    for descriptor in _Received.terminals:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, descriptor)
        os.close(nowhere)
