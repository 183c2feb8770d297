"""A real PostgreSQL server for a test run, from the system's package."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from urllib.parse import quote

import psycopg
import pytest

USER = "sweeper"
SECONDS = 60.0


class Server:
    """A server on a free port of this machine, which asks for a password and runs as an unprivileged user."""

    password = "kn0ck@knock/three?times"  # noqa: S105 - all that an address must escape

    def __init__(self) -> None:
        programs = _programs()
        self._account = _account()
        self._folder = Path(tempfile.mkdtemp(prefix="nxm-sweep-postgresql-"))
        if self._account is not None:
            os.chown(self._folder, self._account, -1)
        secret = self._folder / "password"
        secret.write_text(self.password)
        secret.chmod(0o644)
        data = self._folder / "data"
        options = ["--encoding=UTF8", "--locale=C", "--no-sync", "--auth=scram-sha-256"]
        subprocess.run(
            [programs / "initdb", "-D", data, "-U", USER, f"--pwfile={secret}", *options],
            check=True,
            capture_output=True,
            cwd=self._folder,
            user=self._account,
        )
        secret.unlink()
        self.port = _free_port()
        self._program = programs / "postgres"
        self.start()

    def start(self) -> None:
        """Start the server, for the first time or after :meth:`stop`, and wait until it answers."""
        settings = ("listen_addresses=127.0.0.1", "unix_socket_directories=", "fsync=off")
        command = [str(self._program), "-D", str(self._folder / "data"), "-p", str(self.port)]
        for setting in settings:
            command += ["-c", setting]
        with (self._folder / "log").open("wb") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self._folder, user=self._account)
        self._wait()

    def database(self, name: str) -> str:
        """Make a new database; return its address."""
        self.execute(f"CREATE DATABASE {name}")
        return self.url(name)

    def url(self, database: str, password: str | None = None) -> str:
        return f"postgresql://{USER}:{quote(password or self.password, safe='')}@127.0.0.1:{self.port}/{database}"

    def execute(self, command: str) -> None:
        """Execute a command as the server's owner."""
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(command.encode())

    def stop(self) -> None:
        """Stop the server: its connections are ended, and new ones are refused."""
        self._process.send_signal(signal.SIGINT)  # a fast shutdown
        self._process.wait(SECONDS)

    def end(self) -> None:
        self.stop()
        shutil.rmtree(self._folder)

    def _wait(self) -> None:
        deadline = time.monotonic() + SECONDS
        while True:
            try:
                return self.execute("SELECT 1")
            except psycopg.OperationalError:
                assert self._process.poll() is None, (self._folder / "log").read_text()
                assert time.monotonic() < deadline, "the server does not answer"
                time.sleep(0.1)


def _programs() -> Path:
    """The folder of the server's programs; Debian keeps it out of PATH."""
    found = shutil.which("initdb")
    folders = [Path(found).resolve().parent] if found else sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    for folder in reversed(folders):
        if (folder / "initdb").exists() and (folder / "postgres").exists():
            return folder
    pytest.skip("PostgreSQL is not installed: neither initdb in PATH nor /usr/lib/postgresql")


def _account() -> int | None:
    """Who runs the server, which refuses to be root; None: who runs the tests."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name).pw_uid
        except KeyError:
            continue
    pytest.skip("PostgreSQL refuses to run as root, and there is neither a user postgres nor nobody")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
