"""Whether the hub answers: a real server on this machine, a closed port, and faked sessions."""

from __future__ import annotations

import http.server
import importlib
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

import datasets
import huggingface_hub
import pytest
from huggingface_hub import constants

from nxm_sweep.data.hub import go_offline_unless_reachable


@dataclass
class FakeSession:
    """Stands for the hub's HTTP session: raises, or answers, and remembers what it was asked."""

    error: Exception | None = None
    asked: list[str] = field(default_factory=list)

    def head(self, url: str, timeout: float) -> None:
        assert 0 < timeout <= 10
        self.asked.append(url)
        if self.error is not None:
            raise self.error


@pytest.fixture(autouse=True)
def _online_and_not_asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_OFFLINE", False)
    go_offline_unless_reachable.cache_clear()
    yield
    go_offline_unless_reachable.cache_clear()


def offline_flags() -> list[bool]:
    return [constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE, datasets.config.HF_DATASETS_OFFLINE]


def fake(monkeypatch: pytest.MonkeyPatch, error: Exception | None = None) -> FakeSession:
    session = FakeSession(error)
    monkeypatch.setattr(huggingface_hub, "get_session", lambda: session)
    return session


def http_error(name: str) -> Exception:
    """An error of whichever HTTP package the hub's session comes from."""
    package = importlib.import_module(type(huggingface_hub.get_session()).__mro__[-2].__module__.partition(".")[0])
    error = getattr(package, name)("no answer")
    assert isinstance(error, Exception)
    return error


class Refusing(http.server.BaseHTTPRequestHandler):
    """Answers every question with 503."""

    def do_HEAD(self) -> None:
        self.send_response(503)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


def test_any_answer_of_a_real_server_counts_as_reachable(monkeypatch: pytest.MonkeyPatch) -> None:
    with http.server.HTTPServer(("127.0.0.1", 0), Refusing) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        try:
            assert go_offline_unless_reachable()
        finally:
            server.shutdown()
            thread.join()
    assert offline_flags() == [False, False, False]


def test_closed_port_counts_as_unreachable_and_turns_the_hub_off(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))  # bound, never listening
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{place.getsockname()[1]}")
        assert not go_offline_unless_reachable()
    assert offline_flags() == [True, True, True]
    assert constants.is_offline_mode()


@pytest.mark.parametrize("name", ["ConnectError", "ConnectTimeout", "ReadTimeout", "ProxyError"])
def test_http_transport_error_counts_as_unreachable(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    fake(monkeypatch, http_error(name))
    assert not go_offline_unless_reachable()
    assert offline_flags() == [True, True, True]


def test_operating_system_error_counts_as_unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    fake(monkeypatch, ConnectionError("refused"))
    assert not go_offline_unless_reachable()


def test_error_of_another_kind_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    fake(monkeypatch, RuntimeError("a defect"))
    with pytest.raises(RuntimeError, match="a defect"):
        go_offline_unless_reachable()


@pytest.mark.parametrize("error", [None, ConnectionError("refused")], ids=["reachable", "unreachable"])
def test_hub_is_asked_once(monkeypatch: pytest.MonkeyPatch, error: Exception | None) -> None:
    session = fake(monkeypatch, error)
    assert [go_offline_unless_reachable() for _ in range(3)] == [error is None] * 3
    assert session.asked == [constants.ENDPOINT]


def test_hub_is_not_asked_where_the_user_switched_it_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    session = fake(monkeypatch)
    assert not go_offline_unless_reachable()
    assert session.asked == []
    assert offline_flags() == [True, True, True]
