"""What a reload may change of the service, and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest

from gearworker.config import parse_config
from gearworker.errors import ConfigError
from gearworker.service import main as main_module
from gearworker.service.main import _Service


class FakeEndpoint:
    def __init__(self, listen: str) -> None:
        self.listen, self.stopped = listen, False

    def stop(self) -> None:
        self.stopped = True


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A service, not running, whose next configuration is its ``text``; endpoints it would start are in ``started``."""
    started: list[FakeEndpoint] = []

    def start_endpoint(config: Any, sources: Any) -> FakeEndpoint | None:
        if config.http is None:
            return None
        started.append(FakeEndpoint(config.http.listen))
        return started[-1]

    monkeypatch.setattr(main_module, "start_endpoint", start_endpoint)
    monkeypatch.setattr(main_module, "configure_logging", lambda level, form: None)
    texts = ["tasks: [t]"]
    made: Any = _Service(lambda: (parse_config(texts[0], file="c.yaml"), texts[0]), verbose=True)
    made.texts, made.started = texts, started
    return made


def test_a_reload_gives_the_new_configuration_and_the_message_for_new_processes(service: Any) -> None:
    service.texts[0] = "tasks: [t]\nlog: {level: debug}\njob_servers: ['10.0.0.1:4731']"
    config, start = service._reload()
    assert (start.config_text, start.config_file, start.log_level, start.verbose) == (
        service.texts[0],
        "c.yaml",
        "debug",
        True,
    )
    assert [str(address) for address in service._addresses] == ["10.0.0.1:4731"]
    assert config.log.level == "debug"
    assert service._reload()[1] is not start  # each reload is one of its own
    assert service.started == []  # the endpoint stays where it is


def test_an_endpoint_at_another_address_takes_the_place_of_the_old_one(service: Any) -> None:
    service._endpoint = old = FakeEndpoint("old")
    service.texts[0] = "tasks: [t]\nhttp: {listen: '127.0.0.1:9999'}"
    service._reload()
    assert [endpoint.listen for endpoint in service.started] == ["127.0.0.1:9999"]
    assert old.stopped
    service.texts[0] = "tasks: [t]\nhttp: null"
    service._reload()
    assert service.started[0].stopped
    assert service._endpoint is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("tasks: [t]\nprocesses: 0", "processes: a supervisor can't become the worker itself by a reload"),
        ("tasks: [t]\njob_servers: [embedded]", "the embedded job server can't come or go by a reload"),
        ("tasks: [t]\nprocesses: many", "processes"),
        ("{", "c.yaml"),
    ],
)
def test_what_a_reload_can_not_do_is_refused_and_changes_nothing(service: Any, text: str, words: str) -> None:
    addresses = list(service._addresses)
    service.texts[0] = text + "\nhttp: {listen: '127.0.0.1:9999'}" if text != "{" else text
    with pytest.raises(ConfigError, match=words):
        service._reload()
    assert service.started == []
    assert service._addresses == addresses
