"""The runner: every end that a handler can have, and exactly one final packet for each."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import gevent
import msgspec
import pytest
from gevent.event import Event
from gevent.monkey import get_original

from gearworker.encoders import DataEncoder
from gearworker.errors import ConnectionLost, FailJob, JobTimeout, PayloadError
from gearworker.job import GearmanJob
from gearworker.middleware import Middleware, Outcome
from gearworker.protocol.packets import PacketType
from gearworker.task import Task
from gearworker.worker import runner as runner_module
from gearworker.worker.runner import MAX_ERROR_BYTES, Runner

_T = PacketType
_ThreadEvent: Any = get_original("threading", "Event")


class RecordingConnection:
    """Notes what a job sends and how it is finished."""

    address = "here:1"

    def __init__(self) -> None:
        self.closed = False
        self.sent: list[tuple[Any, ...]] = []
        self.finished: list[tuple[PacketType, bytes]] = []

    def send_update(self, job: GearmanJob, packet_type: PacketType, *args: bytes) -> None:
        if self.closed:
            raise ConnectionLost(self.address, "gone")
        self.sent.append((packet_type, *args))

    def finish(self, job: GearmanJob, packet_type: PacketType, data: bytes) -> bool:
        self.finished.append((packet_type, data))
        return not self.closed


class Recorder(Middleware):
    def __init__(self) -> None:
        self.events: list[Any] = []

    def before_job(self, job: GearmanJob) -> None:
        self.events.append(("before", job.data))

    def after_job(
        self, job: GearmanJob, outcome: Outcome, duration_s: float, result_bytes: int, error: BaseException | None
    ) -> None:
        assert duration_s >= 0
        self.events.append(("after", outcome, result_bytes, type(error)))


@dataclass
class Ended:
    """What came of a job."""

    packet: tuple[PacketType, bytes]
    outcome: Outcome
    sent: list[tuple[Any, ...]]
    job: GearmanJob


def run(handler: Callable[..., Any], data: bytes = b"", *, connection: Any = None, **options: Any) -> Ended:
    """Run one job of a task and see to it that it was finished once."""
    recorder = Recorder()
    runner = Runner([Task("t", handler, **options)], [recorder])
    connection = connection or RecordingConnection()
    job = GearmanJob(connection, "H:1", "t", None, data)
    try:
        runner.run(job)
    finally:
        runner.stop()
    assert len(connection.finished) == 1
    before, after = recorder.events
    assert before == ("before", data)
    assert after[2] == len(connection.finished[0][1])
    assert job.started_at > 0
    return Ended(connection.finished[0], after[1], connection.sent, job)


def raising(error: BaseException) -> Callable[[GearmanJob], Any]:
    def handler(job: GearmanJob) -> Any:
        raise error

    return handler


@pytest.fixture(autouse=True)
def _quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    class Quick:
        def __init__(self, **options: float) -> None:
            pass

        def next_s(self) -> float:
            return 0.0

    monkeypatch.setattr(runner_module, "Backoff", Quick)


# ---------------------------------------------------------------------- results


@pytest.mark.parametrize(
    ("result", "options", "data"),
    [
        (b"r", {}, b"r"),
        (None, {}, b""),
        ("größe", {}, "größe".encode()),
        (bytearray(b"r"), {}, b"r"),
        ({"a": 1}, {"encoder": "json"}, b'{"a":1}'),
        (b"raw", {"encoder": "json"}, b"raw"),
        (None, {"encoder": "msgpack"}, b""),
    ],
)
def test_what_a_handler_returns_completes_the_job(result: Any, options: Any, data: bytes) -> None:
    ended = run(lambda job: result, **options)
    assert ended.packet == (_T.WORK_COMPLETE, data)
    assert ended.outcome == "complete"


def test_a_result_that_cannot_be_encoded_ends_that_job_with_the_reason() -> None:
    ended = run(lambda job: 3.5)
    assert ended.packet == (
        _T.WORK_EXCEPTION, b"PayloadError: can't send float as bytes; return bytes, or give the task an encoder"
    )  # fmt: skip


class TextDataEncoder(DataEncoder):
    """As people wrote them under Python 2: text instead of bytes."""

    @classmethod
    def encode(cls, encodable_object: Any) -> Any:
        return str(encodable_object)


def test_an_encoder_that_makes_no_bytes_ends_that_job_with_the_reason() -> None:
    ended = run(lambda job: 5, encoder=TextDataEncoder)
    assert ended.packet == (
        _T.WORK_EXCEPTION, b"PayloadError: the task's encoder made str of the result, not bytes"
    )  # fmt: skip
    ended = run(lambda job: job.send_data(5), encoder=TextDataEncoder)
    assert ended.packet == (_T.WORK_EXCEPTION, b"PayloadError: the task's encoder made str of the data, not bytes")
    assert ended.sent == []


def test_a_lost_connection_makes_the_job_lost_whatever_its_handler_did() -> None:
    for handler in (lambda job: b"r", raising(FailJob()), lambda job: job.send_data(b"x")):
        connection = RecordingConnection()
        connection.closed = True
        assert run(handler, connection=connection).outcome == "lost"


# ---------------------------------------------------------------------- exceptions


class _Unspeakable(Exception):
    def __str__(self) -> str:
        raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("error", "data"),
    [
        (ValueError("no"), b"ValueError: no"),
        (ValueError(), b"ValueError"),
        (SystemExit(3), b"SystemExit: 3"),
        (KeyboardInterrupt(), b"KeyboardInterrupt"),
        (gevent.GreenletExit(), b"GreenletExit"),
        (MemoryError(), b"MemoryError"),
        (StopIteration("x"), b"StopIteration: x"),
        (gevent.Timeout(5), b"Timeout: 5 seconds"),
        (_Unspeakable(), b"_Unspeakable"),
        (ValueError("\ud800"), b"ValueError: ?"),
        (ValueError("x" * 9999), b"ValueError: " + b"x" * (MAX_ERROR_BYTES - 12)),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
@pytest.mark.parametrize("thread", [False, True], ids=["greenlet", "thread"])
def test_whatever_a_handler_raises_becomes_one_work_exception(error: Any, data: bytes, thread: bool) -> None:
    ended = run(raising(error), thread=thread)
    assert ended.packet == (_T.WORK_EXCEPTION, data)
    assert ended.outcome == "exception"


def test_endless_recursion_ends_its_job_only() -> None:
    def handler(job: GearmanJob) -> Any:
        return handler(job)

    ended = run(handler)
    assert ended.packet[0] is _T.WORK_EXCEPTION
    assert ended.packet[1].startswith(b"RecursionError: maximum recursion depth exceeded")


def test_a_handler_that_kills_its_own_greenlet_ends_its_job_only() -> None:
    def handler(job: GearmanJob) -> None:
        gevent.kill(gevent.getcurrent())
        Event().wait()

    greenlet = gevent.spawn(run, handler)
    ended = greenlet.get(timeout=5)
    assert ended.packet == (_T.WORK_EXCEPTION, b"GreenletExit")


def test_fail_job_fails_without_data() -> None:
    ended = run(raising(FailJob("not today")), retries=3)
    assert ended.packet == (_T.WORK_FAIL, b"")
    assert ended.outcome == "fail"
    assert ended.job.attempt == 1


def test_a_hook_that_raises_anything_never_harms_the_job(caplog: pytest.LogCaptureFixture) -> None:
    class Bad(Middleware):
        def before_job(self, job: GearmanJob) -> None:
            raise ValueError("hook")

        def after_job(self, *args: Any) -> None:
            raise SystemExit(1)

    connection, recorder = RecordingConnection(), Recorder()
    runner = Runner([Task("t", lambda job: b"r")], [Bad(), recorder])
    runner.run(GearmanJob(connection, "H:1", "t", None, b""))
    assert connection.finished == [(_T.WORK_COMPLETE, b"r")]
    assert [event[0] for event in recorder.events] == ["before", "after"]
    assert caplog.text.count("Bad.before_job failed") == caplog.text.count("Bad.after_job failed") == 1


def _fail(job: GearmanJob) -> None:
    raise FailJob("x")


def _raise(job: GearmanJob) -> None:
    raise ValueError("x")


@pytest.mark.parametrize(
    ("handler", "options"),
    [
        (_raise, {}),
        (_fail, {}),
        (_raise, {"thread": True}),
        (_raise, {"retries": 1}),
        (lambda job: Event().wait(), {"timeout_s": 0.01}),
        (lambda job: object(), {}),
        (lambda job: None, {"encoder": "json"}),
    ],
    ids=["exception", "fail", "thread", "retries", "timeout", "result", "payload"],
)
def test_a_failed_job_is_let_go_at_once_without_the_garbage_collector(
    handler: Callable[[GearmanJob], Any], options: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner_module.log, "warning", lambda *args: None)  # pytest keeps what is logged
    runner = Runner([Task("t", handler, **options)])
    connection = RecordingConnection()
    job = GearmanJob(connection, "H:1", "t", None, b"not json")
    seen = weakref.ref(job)
    gc.collect()
    gc.disable()
    try:
        runner.run(job)
        del job
        gevent.sleep(0)
        assert connection.finished[0][0] is not _T.WORK_COMPLETE
        assert seen() is None
    finally:
        gc.enable()
        runner.stop()


# ---------------------------------------------------------------------- generators


@pytest.mark.parametrize("thread", [False, True], ids=["greenlet", "thread"])
def test_a_generator_streams_its_items_and_completes_with_what_it_returns(thread: bool) -> None:
    def handler(job: GearmanJob) -> Iterator[bytes]:
        yield b"one"
        yield b"two"
        return b"end"

    ended = run(handler, thread=thread)
    assert ended.sent == [(_T.WORK_DATA, b"one"), (_T.WORK_DATA, b"two")]
    assert ended.packet == (_T.WORK_COMPLETE, b"end")


def test_a_generator_without_a_return_value_completes_empty_and_its_items_are_encoded() -> None:
    def handler(job: GearmanJob) -> Iterator[Any]:
        yield [1]
        yield None

    ended = run(handler, encoder="json")
    assert ended.sent == [(_T.WORK_DATA, b"[1]"), (_T.WORK_DATA, b"")]
    assert ended.packet == (_T.WORK_COMPLETE, b"")


def test_a_generator_that_raises_in_the_middle_ends_with_the_exception() -> None:
    def handler(job: GearmanJob) -> Iterator[bytes]:
        yield b"one"
        raise ValueError("half way")

    ended = run(handler)
    assert ended.sent == [(_T.WORK_DATA, b"one")]
    assert ended.packet == (_T.WORK_EXCEPTION, b"ValueError: half way")


def test_a_generator_is_closed_when_its_item_cannot_be_sent() -> None:
    closed = list[str]()

    def handler(job: GearmanJob) -> Iterator[Any]:
        try:
            yield object()
        finally:
            closed.append("closed")

    assert run(handler).packet[1].startswith(b"PayloadError: can't send object")
    assert closed == ["closed"]


# ---------------------------------------------------------------------- payloads


class Size(msgspec.Struct):
    width: int


def test_a_typed_payload_is_decoded_and_checked() -> None:
    ended = run(lambda job: {"twice": job.data.width * 2}, b'{"width":4}', payload=Size)
    assert ended.packet == (_T.WORK_COMPLETE, b'{"twice":8}')
    ended = run(lambda job: pytest.fail("called"), b'{"width":"wide"}', payload=Size, retries=5)
    assert ended.packet == (
        _T.WORK_EXCEPTION,
        b"PayloadError: the payload is not the json expected: Expected `int`, got `str` - at `$.width`",
    )
    assert ended.job.attempt == 1


def test_a_payload_nested_too_deep_fails_its_job_alone() -> None:
    ended = run(lambda job: b"", b"[" * 100_000, encoder="json")
    assert ended.packet[1].startswith(b"PayloadError: the payload is not the json expected")


def test_updates_go_through_the_tasks_encoder() -> None:
    def handler(job: GearmanJob) -> None:
        job.send_data({"n": 1})
        job.send_warning([2])
        job.send_status(1, 2)

    assert run(handler, encoder="json").sent == [
        (_T.WORK_DATA, b'{"n":1}'), (_T.WORK_WARNING, b"[2]"), (_T.WORK_STATUS, b"1", b"2")
    ]  # fmt: skip


# ---------------------------------------------------------------------- time limit


def test_a_handler_over_its_limit_ends_as_a_timeout_even_where_it_catches_every_exception() -> None:
    def handler(job: GearmanJob) -> None:
        while True:
            try:
                Event().wait()
            except Exception:
                pytest.fail("the limit was swallowed")

    ended = run(handler, timeout_s=0.02)
    assert ended.packet == (_T.WORK_EXCEPTION, b"JobTimeout: the job ran longer than its limit of 0.02 s")
    assert ended.outcome == "timeout"


def test_a_handlers_own_timeout_is_not_its_jobs() -> None:
    def handler(job: GearmanJob) -> None:
        with gevent.Timeout(0.001):
            Event().wait()

    ended = run(handler, timeout_s=5)
    assert ended.packet == (_T.WORK_EXCEPTION, b"Timeout: 0.001 seconds")
    assert ended.outcome == "exception"


def test_a_limit_that_was_kept_strikes_nobody_later() -> None:
    assert run(lambda job: b"r", timeout_s=0.01).outcome == "complete"
    gevent.sleep(0.03)  # past the limit: nothing may happen


def test_the_limit_is_for_each_attempt() -> None:
    def handler(job: GearmanJob) -> bytes:
        if job.attempt < 3:
            Event().wait()
        return b"third"

    ended = run(handler, timeout_s=0.01, retries=2)
    assert ended.packet == (_T.WORK_COMPLETE, b"third")


# ---------------------------------------------------------------------- retries


def test_a_handler_is_called_again_until_it_succeeds_and_knows_its_attempt() -> None:
    attempts = list[int]()

    def handler(job: GearmanJob) -> bytes:
        attempts.append(job.attempt)
        if job.attempt < 3:
            raise ValueError("not yet")
        return b"done"

    ended = run(handler, retries=5)
    assert attempts == [1, 2, 3]
    assert ended.packet == (_T.WORK_COMPLETE, b"done")


def test_after_its_last_attempt_the_job_fails_with_the_last_reason() -> None:
    attempts = list[int]()

    def handler(job: GearmanJob) -> None:
        attempts.append(job.attempt)
        raise ValueError(f"attempt {job.attempt}")

    assert run(handler, retries=2).packet == (_T.WORK_EXCEPTION, b"ValueError: attempt 3")
    assert attempts == [1, 2, 3]


def test_each_attempt_gets_the_payload_afresh() -> None:
    def handler(job: GearmanJob) -> Any:
        job.data.pop()
        if job.attempt < 3:
            raise ValueError
        return job.data

    assert run(handler, b"[1,2]", encoder="json", retries=2).packet == (_T.WORK_COMPLETE, b"[1]")


@pytest.mark.parametrize("error", [FailJob("f"), PayloadError("p"), ConnectionLost(None, "c"), SystemExit(1)])
def test_what_another_attempt_cannot_mend_is_not_tried_again(error: BaseException) -> None:
    ended = run(raising(error), retries=3)
    assert ended.job.attempt == 1


def test_a_job_whose_connection_is_gone_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    connection = RecordingConnection()
    calls = list[int]()

    def handler(job: GearmanJob) -> None:
        calls.append(job.attempt)
        raise ValueError

    monkeypatch.setattr(runner_module.gevent, "sleep", lambda delay_s: setattr(connection, "closed", True))
    assert run(handler, connection=connection, retries=3).outcome == "lost"
    assert calls == [1]
    connection.finished.clear()
    assert run(handler, connection=connection, retries=3).outcome == "lost"
    assert calls == [1, 1]


# ---------------------------------------------------------------------- native threads


def test_a_thread_handler_runs_in_a_native_thread_and_sends_from_there() -> None:
    here = get_original("_thread", "get_ident")()
    seen = list[int]()

    def handler(job: GearmanJob) -> bytes:
        seen.append(get_original("_thread", "get_ident")())
        job.send_data(b"part")
        return b"whole"

    ended = run(handler, thread=True)
    assert seen != [here]
    assert ended.sent == [(_T.WORK_DATA, b"part")]
    assert ended.packet == (_T.WORK_COMPLETE, b"whole")


def test_a_thread_over_its_limit_keeps_its_slot_until_it_ends_and_is_not_tried_again() -> None:
    go, calls = _ThreadEvent(), list[int]()

    def handler(job: GearmanJob) -> None:
        calls.append(1)
        go.wait(10)

    connection, runner = RecordingConnection(), Runner([Task("t", handler, thread=True, timeout_s=0.02, retries=3)])
    running = gevent.spawn(runner.run, GearmanJob(connection, "H:1", "t", None, b""))
    with gevent.Timeout(5):
        while not connection.finished:
            gevent.sleep(0)
    for _ in range(20):
        gevent.sleep(0)
    assert not running.ready()
    go.set()
    running.join(timeout=5)
    assert running.ready()
    assert connection.finished == [(_T.WORK_EXCEPTION, b"JobTimeout: the job ran longer than its limit of 0.02 s")]
    assert calls == [1]
    assert runner._abandoned == {}
    runner.stop()


def test_stop_does_not_wait_for_a_thread_that_runs_on() -> None:
    go, started = _ThreadEvent(), threading.Event()

    def handler(job: GearmanJob) -> None:
        started.set()
        go.wait(10)

    connection, runner = RecordingConnection(), Runner([Task("t", handler, thread=True)])
    running = gevent.spawn(runner.run, GearmanJob(connection, "H:1", "t", None, b""))
    with gevent.Timeout(5):
        while not started.is_set():
            gevent.sleep(0)
        runner.stop()
        running.kill()
    assert connection.finished == [(_T.WORK_EXCEPTION, b"GreenletExit")]
    go.set()


def test_jobtimeout_carries_its_limit() -> None:
    assert JobTimeout(1.5).timeout_s == 1.5
