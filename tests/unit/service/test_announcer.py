"""What systemd is told, step by step."""

from __future__ import annotations

import signal
from typing import Any

import pytest

from gearworker.service import announcer as announcer_module
from gearworker.service.announcer import Announcer


class FakeNotifier:
    def __init__(self, interval_s: float | None = None, *, enabled: bool = True) -> None:
        self.enabled, self.interval_s = enabled, interval_s
        self.said: list[tuple[str, str | None]] = []

    def watchdog_interval_s(self) -> float | None:
        return self.interval_s

    def __getattr__(self, name: str) -> Any:
        return lambda status=None: self.said.append((name, status))

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.said]


class FakeSupervisor:
    def __init__(self) -> None:
        self.stopping: signal.Signals | None = None
        self.reloading = self.started = False
        self.alive = True
        self.line = "0 of 1 ready"

    def status(self) -> str:
        return self.line


@pytest.fixture
def supervisor() -> Any:
    return FakeSupervisor()


def announcer_for(notifier: FakeNotifier) -> Announcer:
    made: Any = notifier
    return Announcer(made)


def test_every_state_is_told_once_with_the_status(supervisor: Any) -> None:
    notifier = FakeNotifier()
    announce = announcer_for(notifier)
    announce(supervisor)
    announce(supervisor)
    assert notifier.said == [("status", "0 of 1 ready")]
    supervisor.started, supervisor.line = True, "1 of 1 ready"
    announce(supervisor)
    announce(supervisor)
    supervisor.reloading, supervisor.line = True, "reloading"
    announce(supervisor)
    supervisor.reloading, supervisor.line = False, "1 of 1 ready"
    announce(supervisor)
    supervisor.stopping, supervisor.line = signal.SIGTERM, "draining"
    announce(supervisor)
    announce(supervisor)
    assert notifier.said[1:] == [
        ("ready", "1 of 1 ready"),
        ("reloading", "reloading"),
        ("ready", "1 of 1 ready"),
        ("stopping", "draining"),
    ]


def test_ready_once_is_ready_though_a_process_is_being_replaced(supervisor: Any) -> None:
    notifier = FakeNotifier()
    announce = announcer_for(notifier)
    supervisor.started, supervisor.line = True, "1 of 1 ready"
    announce(supervisor)
    supervisor.started, supervisor.line = False, "0 of 1 ready"
    announce(supervisor)
    assert notifier.names == ["ready", "status"]


def test_a_reload_before_the_start_is_over_is_not_told(supervisor: Any) -> None:
    notifier = FakeNotifier()
    announce = announcer_for(notifier)
    supervisor.reloading = True
    announce(supervisor)
    assert "reloading" not in notifier.names


def test_a_stop_before_the_start_is_over_is_told(supervisor: Any) -> None:
    notifier = FakeNotifier()
    supervisor.stopping = signal.SIGTERM
    announcer_for(notifier)(supervisor)
    assert notifier.names == ["stopping"]


def test_the_watchdog_is_fed_in_time_and_only_while_every_process_beats(
    supervisor: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr(announcer_module, "monotonic", lambda: now[0])
    notifier = FakeNotifier(2.0)
    announce = announcer_for(notifier)
    for _ in range(9):  # at 1000.0, 1000.5, ... 1004.0
        announce(supervisor)
        now[0] += 0.5
    assert notifier.names.count("watchdog") == 3
    supervisor.alive = False
    now[0] += 10
    announce(supervisor)
    assert notifier.names.count("watchdog") == 3
    supervisor.alive = True
    announce(supervisor)
    assert notifier.names.count("watchdog") == 4


def test_nobody_asked_for_a_watchdog(supervisor: Any) -> None:
    notifier = FakeNotifier()
    announcer_for(notifier)(supervisor)
    assert "watchdog" not in notifier.names


def test_without_systemd_nothing_is_said(supervisor: Any) -> None:
    notifier = FakeNotifier(1.0, enabled=False)
    supervisor.started = True
    announcer_for(notifier)(supervisor)
    assert notifier.said == []
