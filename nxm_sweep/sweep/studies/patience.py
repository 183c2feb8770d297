"""A storage of studies on a server that rides out the server's absence.

Records are written by the workers, and never wait for the server.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any, TypeVar

import sqlalchemy
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, RDBStorage
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError

from nxm_sweep.formatting import format_duration

_Result = TypeVar("_Result")
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0
"""Seconds before the first repetition, which double up to the longest."""
_CONNECT_SECONDS = 10


class PatientStorage(RDBStorage):
    """Repeat an operation that fails for want of the server, with growing pauses.

    An operation is a transaction, so a repeated one has not happened, except where the server was lost while it
    confirmed: a trial created twice is dropped as a duplicate, and one ended twice stays as it is.

    Args:
        url: Address of the server.
        seconds: How long to repeat an operation; 0: never.
        report: Receives a line when the server is lost, and one when it is back.
    """

    def __init__(self, url: str, seconds: float, report: Callable[[str], None]) -> None:
        self._patience, self._report = 0.0, report  # none at the start: a wrong address or password is refused at once
        address = sqlalchemy.make_url(url)
        timeout = {} if "connect_timeout" in address.query else {"connect_timeout": _CONNECT_SECONDS}
        super().__init__(url, engine_kwargs={"pool_pre_ping": True, "connect_args": timeout})
        self._patience = seconds

    def ride_out(self, operation: Callable[[], _Result]) -> _Result:
        """Return the result of an operation, repeated while the server is away."""
        started, pause, told = time.monotonic(), _FIRST_PAUSE, False
        while True:
            try:
                result = operation()
            except (DBAPIError, StorageInternalError) as error:
                waited = time.monotonic() - started
                if not _is_absence(error) or waited >= self._patience:
                    raise
                if not told:
                    told = True
                    self._report(
                        f"the studies' server does not answer; trying for {format_duration(self._patience)}"
                        " (sweep.storage_patience), while the running trials go on"
                    )
                time.sleep(min(pause, max(0.0, self._patience - waited)))
                pause = min(2 * pause, _LONGEST_PAUSE)
            else:
                if told:
                    self._report(f"the studies' server is back after {format_duration(time.monotonic() - started)}")
                return result


def _is_absence(error: BaseException) -> bool:
    """Return whether an error says that the server could not be reached, or has ended the connection."""
    cause = error.__cause__ if isinstance(error, StorageInternalError) else error
    if isinstance(cause, DBAPIError) and cause.connection_invalidated:
        return True
    return isinstance(cause, OperationalError | InterfaceError)


def _patiently(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def repeat(self: PatientStorage, *args: Any, **kwargs: Any) -> Any:
        return self.ride_out(lambda: method(self, *args, **kwargs))

    return repeat


for _name in (*BaseStorage.__abstractmethods__, "_create_new_trial", "_get_trials"):  # the last two: of Optuna's cache
    setattr(PatientStorage, _name, _patiently(getattr(RDBStorage, _name)))
