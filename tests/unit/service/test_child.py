"""A worker process under its supervisor: what it says, what it obeys, how it ends; channel and worker are fakes."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest
from gevent.event import Event
from gevent.queue import SimpleQueue

from gearworker.config import parse_config
from gearworker.errors import ProtocolError
from gearworker.service import child as child_module
from gearworker.service.channel import Beat, Drain, LogStacks, Report, ReportRequest
from gearworker.service.child import Child
from gearworker.service.stopping import EXIT_GRACE_OVER
from gearworker.task import TaskRegistry


class FakeWorker:
    def __init__(self) -> None:
        self.ready, self.drained, self.grace_s = True, True, 0.0
        self.calls: list[str] = []
        self.pools: list[Any] = []
        self.links: list[Any] = []

    def start(self) -> None:
        self.calls.append("start")

    def drain(self, grace_s: float) -> bool:
        self.grace_s = grace_s
        self.calls.append("drain")
        return self.drained

    def stop(self) -> None:
        self.calls.append("stop")

    def running_jobs(self) -> list[Any]:
        return []


class FakeChannel:
    def __init__(self) -> None:
        self.inbox: SimpleQueue[Any] = SimpleQueue()
        self.sent: list[Any] = []
        self.news = Event()
        self.closed = False

    def receive(self) -> Any:
        message = self.inbox.get()
        if isinstance(message, Exception):
            raise message
        return message

    def send(self, message: Any) -> bool:
        self.sent.append(message)
        self.news.set()
        return not self.closed

    def close(self) -> None:
        self.closed = True

    def fileno(self) -> int:
        return -1


class FakeWatcher:
    """In place of gevent's signal handlers."""

    watching: dict[signal.Signals, Callable[[], None]]

    def __init__(self, number: signal.Signals, handler: Callable[..., None], *args: Any) -> None:
        self.number = number
        FakeWatcher.watching[number] = lambda: handler(*args)

    def cancel(self) -> None:
        del FakeWatcher.watching[self.number]


class Process:
    """A child that runs in a greenlet."""

    def __init__(self, worker: FakeWorker) -> None:
        registry = TaskRegistry()
        registry.task("t")(lambda job: None)
        config = parse_config("{tasks: [m], job_servers: ['a:1'], shutdown: {grace_s: 7}}")
        self.worker, self.channel = worker, FakeChannel()
        channel: Any = self.channel
        self.running = gevent.spawn(Child(config, registry, None, channel).run)

    def until(self, kind: type) -> Any:
        """The first message of a kind, waited for."""
        with gevent.Timeout(5):
            while True:
                for message in self.channel.sent:
                    if isinstance(message, kind):
                        return message
                self.channel.news.clear()
                self.channel.news.wait()

    def exit_code(self) -> int:
        return int(self.running.get(timeout=5))


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Process]]:
    made: list[Process] = []
    worker = FakeWorker()
    monkeypatch.setattr(child_module, "make_worker", lambda *args: worker)
    monkeypatch.setattr(child_module.os, "register_at_fork", lambda **hooks: None)
    FakeWatcher.watching = {}
    monkeypatch.setattr(child_module.gevent, "signal_handler", FakeWatcher)

    def make() -> Process:
        made.append(Process(worker))
        return made[-1]

    yield make
    for process in made:
        process.running.kill()


def test_it_starts_beats_reports_and_drains_when_told(start: Callable[..., Process]) -> None:
    process = start()
    assert process.until(Beat).ready is True
    report = process.until(Report)
    assert report.number == 0
    assert set(report.counts.tasks) == {"t"}
    assert set(report.counts.job_servers) == {"a:1"}
    process.channel.inbox.put(Drain())
    assert process.exit_code() == 0
    assert process.worker.calls == ["start", "drain", "stop"]
    assert process.worker.grace_s == 7
    assert process.channel.closed


def test_a_report_asked_for_carries_its_number(start: Callable[..., Process]) -> None:
    process = start()
    process.channel.inbox.put(ReportRequest(5))
    with gevent.Timeout(5):
        while 5 not in [message.number for message in process.channel.sent if isinstance(message, Report)]:
            process.until(Beat)
            gevent.sleep(0)


def test_its_last_word_is_a_report(start: Callable[..., Process]) -> None:
    process = start()
    process.channel.inbox.put(Drain())
    process.exit_code()
    assert isinstance(process.channel.sent[-1], Report)


def test_when_the_supervisor_ends_it_drains(start: Callable[..., Process], caplog: pytest.LogCaptureFixture) -> None:
    process = start()
    process.channel.inbox.put(None)
    assert process.exit_code() == 0
    assert "the supervisor has ended; draining" in caplog.text


def test_a_supervisor_that_talks_nonsense_is_one_that_has_ended(start: Callable[..., Process]) -> None:
    process = start()
    process.channel.inbox.put(ProtocolError("nonsense"))
    assert process.exit_code() == 0
    assert "drain" in process.worker.calls


def test_a_grace_that_is_over_shows_in_the_exit_code(start: Callable[..., Process]) -> None:
    process = start()
    process.worker.drained = False
    process.channel.inbox.put(Drain())
    assert process.exit_code() == EXIT_GRACE_OVER


def test_stacks_are_logged_on_request_and_it_goes_on(
    start: Callable[..., Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    logged = Event()
    monkeypatch.setattr(child_module, "log_stacks", lambda worker: logged.set())
    process = start()
    process.channel.inbox.put(LogStacks())
    assert logged.wait(5)
    assert not process.running.ready()


@pytest.mark.parametrize(
    ("number", "exit_code", "calls"),
    [
        (signal.SIGTERM, 0, ["start", "drain", "stop"]),
        (signal.SIGINT, 0, ["start", "drain", "stop"]),
        (signal.SIGQUIT, 128 + signal.SIGQUIT, ["start", "stop"]),
    ],
)
def test_signals_sent_to_it_directly_stop_it(
    start: Callable[..., Process], number: signal.Signals, exit_code: int, calls: list[str]
) -> None:
    process = start()
    process.until(Beat)
    FakeWatcher.watching[number]()
    assert process.exit_code() == exit_code
    assert process.worker.calls == calls
    assert FakeWatcher.watching == {}


def test_the_signal_for_stacks_is_none_that_stops() -> None:
    assert signal.SIGTERM != child_module.STACK_SIGNAL
    assert signal.SIGRTMIN == child_module.STACK_SIGNAL
