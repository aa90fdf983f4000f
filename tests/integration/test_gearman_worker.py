"""GearmanWorker on the real gearmand: python-gearman's semantics, and each of its workers' bugs mended.

Workers run in native threads of this unpatched process, each with a hub of its own; clients are called from the main
thread. Numbers in names of tests are those of python-gearman's bugs.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gevent
import pytest
from support.servers import DEADLINE_S, EmbeddedServer, Gearmand, free_port, wait_until

from gearworker import (
    ConnectionLost,
    DataEncoder,
    GearmanClient,
    GearmanJob,
    GearmanWorker,
    InvalidWorkerState,
    ServerUnavailable,
    TaskError,
)


class JSONEncoder(DataEncoder):
    @classmethod
    def encode(cls, encodable_object: Any) -> bytes:
        return json.dumps(encodable_object).encode()

    @classmethod
    def decode(cls, decodable_string: bytes) -> Any:
        return json.loads(decodable_string)


class Working:
    """A worker at work in a thread of its own."""

    def __init__(self, worker: GearmanWorker, poll_timeout: float | None = 60.0) -> None:
        self.worker = worker
        self.raised: BaseException | None = None
        self._thread = threading.Thread(target=self._work, args=(poll_timeout,), daemon=True)
        self._thread.start()

    def _work(self, poll_timeout: float | None) -> None:
        try:
            self.worker.work(poll_timeout)
        except BaseException as error:
            self.raised = error
        finally:
            gevent.get_hub().destroy(destroy_loop=True)

    @property
    def has_ended(self) -> bool:
        return not self._thread.is_alive()

    def wait(self) -> None:
        """Wait for its end."""
        self._thread.join(DEADLINE_S)
        assert self.has_ended, "work() goes on"

    def stop(self) -> None:
        """Shut it down and wait for its end."""
        wait_until(lambda: self.has_ended or self.worker._shift is not None, what="work() to begin or end")
        self.worker.shutdown()
        self.wait()


Start = Callable[..., Working]


@pytest.fixture
def start() -> Iterator[Start]:
    """Set a worker to work, and wait until it does; each is stopped after the test."""
    started: list[Working] = []

    def begin(worker: GearmanWorker, *servers: Gearmand, **options: Any) -> Working:
        started.append(Working(worker, **options))
        for server in servers:
            for task in worker._tasks:
                wait_until(lambda server=server, task=task: server.queue(task)[2], what=f"{task} to be served")
        return started[-1]

    yield begin
    for working in started:
        if not working.has_ended:
            working.worker.shutdown()
            working.worker.shutdown()
        working.wait()


@pytest.fixture
def client(gearmand: Gearmand) -> Iterator[GearmanClient]:
    with GearmanClient([gearmand.address]) as made:
        yield made


def submit(client: GearmanClient, task: str, data: Any = b"x", **options: Any) -> Any:
    request = client.submit_job(task, data, poll_timeout=DEADLINE_S, **options)
    assert not request.timed_out
    return request


def reverse(worker: GearmanWorker, job: GearmanJob) -> Any:
    return job.data[::-1]


# ---------------------------------------------------------------------- answers


def test_what_a_callback_returns_completes_the_job(gearmand: Gearmand, client: GearmanClient, start: Start) -> None:
    worker = GearmanWorker([gearmand.address])
    assert worker.register_task("reverse", reverse) == "reverse"
    working = start(worker, gearmand)
    request = submit(client, "reverse", b"abc")
    assert (request.state, request.result) == ("COMPLETE", b"cba")
    working.stop()
    assert working.raised is None
    assert gearmand.queue("reverse") == (0, 0, 0)


def test_updates_and_answers_sent_by_the_callback(gearmand: Gearmand, client: GearmanClient, start: Start) -> None:
    def chatty(worker: GearmanWorker, job: GearmanJob) -> str:
        worker.send_job_data(job, b"part")
        worker.send_job_warning(job, "careful")
        worker.send_job_status(job, 1, 2)
        how = job.data.decode()
        if how == "complete":
            worker.send_job_complete(job, b"sent")
        elif how == "fail":
            worker.send_job_failure(job)
        elif how == "exception":
            worker.send_job_exception(job, b"why")
        return "returned"

    worker = GearmanWorker([gearmand.address])
    worker.register_task("chatty", chatty)
    start(worker, gearmand)
    for how, state, result in [
        ("return", "COMPLETE", b"returned"), ("complete", "COMPLETE", b"sent"), ("fail", "FAILED", None),
        ("exception", "FAILED", None),
    ]:  # fmt: skip
        request = submit(client, "chatty", how)
        assert (request.state, request.result) == (state, result)
        assert (list(request.data_updates), list(request.warning_updates)) == ([b"part"], [b"careful"])
        assert (request.status["numerator"], request.status["denominator"]) == (1, 2)
        assert request.exception == (b"why" if how == "exception" else None)
    assert gearmand.queue("chatty") == (0, 0, 1)


def test_a_job_is_answered_once(gearmand: Gearmand, client: GearmanClient, start: Start) -> None:
    errors: list[Exception] = []

    def twice(worker: GearmanWorker, job: GearmanJob) -> None:
        worker.send_job_complete(job, b"first")
        for late in (
            lambda: worker.send_job_complete(job, b"second"), lambda: worker.send_job_failure(job),
            lambda: worker.send_job_data(job, b"late"),
        ):  # fmt: skip
            try:
                late()
            except InvalidWorkerState as error:
                errors.append(error)
        raise ValueError("after its answer")

    worker = GearmanWorker([gearmand.address])
    worker.register_task("twice", twice)
    start(worker, gearmand)
    for _ in range(2):
        assert submit(client, "twice").result == b"first"
    assert len(errors) == 6


def test_an_exception_fails_the_job_and_is_logged_4(
    gearmand: Gearmand, client: GearmanClient, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(worker: GearmanWorker, job: GearmanJob) -> None:
        raise gevent.Timeout(1) if job.data == b"timeout" else ValueError("no good")

    worker = GearmanWorker([gearmand.address])
    worker.register_task("broken", broken)
    start(worker, gearmand)
    for payload in (b"x", b"timeout", b"x"):
        request = submit(client, "broken", payload)
        assert (request.state, request.exception) == ("FAILED", None)
    assert "ValueError: no good" in caplog.text
    assert "in broken" in caplog.text


@pytest.mark.parametrize(
    "result", [None, "", "text: ä", b"bytes", bytearray(b"array"), 7, object(), {"a": 1}, "\udc80"]
)
def test_no_result_ends_work_10(gearmand: Gearmand, client: GearmanClient, start: Start, result: Any) -> None:
    worker = GearmanWorker([gearmand.address])
    worker.register_task("odd", lambda worker, job: result)
    worker.register_task("reverse", reverse)
    start(worker, gearmand)
    request = submit(client, "odd")
    sendable = result is None or isinstance(result, (bytes, bytearray)) or result in ("", "text: ä")
    assert request.state == ("COMPLETE" if sendable else "FAILED")
    if sendable:
        assert request.result == (b"" if result is None else result.encode() if isinstance(result, str) else result)
    assert submit(client, "reverse", b"ab").result == b"ba"


def test_an_undecodable_payload_fails_its_job_alone_10(gearmand: Gearmand, client: GearmanClient, start: Start) -> None:
    seen: list[tuple[Any, type[BaseException]]] = []

    class Worker(GearmanWorker):
        data_encoder = JSONEncoder

        def on_job_exception(self, current_job: GearmanJob, exc_info: Any) -> bool:
            seen.append((current_job.data, exc_info[0]))
            return super().on_job_exception(current_job, exc_info)

    worker = Worker([gearmand.address])
    worker.register_task("double", lambda worker, job: job.data * 2)
    worker.register_task("set", lambda worker, job: {1, 2})
    start(worker, gearmand)
    assert submit(client, "double", b"{nonsense").state == "FAILED"
    assert submit(client, "double", b"21").result == b"42"
    assert submit(client, "set", b"1").state == "FAILED"
    assert submit(client, "double", b'"ab"').result == b'"abab"'
    assert seen == [(b"{nonsense", json.JSONDecodeError), (1, TypeError)]


def test_a_data_encoder_on_both_sides(gearmand: Gearmand, start: Start) -> None:
    class Worker(GearmanWorker):
        data_encoder = JSONEncoder

    class Client(GearmanClient):
        data_encoder = JSONEncoder

    def summed(worker: GearmanWorker, job: GearmanJob) -> Any:
        worker.send_job_data(job, {"count": len(job.data)})
        worker.send_job_warning(job, ["few"])
        if not job.data:
            worker.send_job_exception(job, {"error": "nothing"})
        return {"sum": sum(job.data), "none": None}

    worker = Worker([gearmand.address])
    worker.register_task("sum", summed)
    start(worker, gearmand)
    with Client([gearmand.address]) as client:
        request = submit(client, "sum", [1, 2, 3])
        assert request.result == {"sum": 6, "none": None}
        assert list(request.data_updates) == [{"count": 3}]
        assert list(request.warning_updates) == [["few"]]
        assert submit(client, "sum", []).exception == {"error": "nothing"}


# ---------------------------------------------------------------------- hooks


def test_the_hooks_are_called_in_order(gearmand: Gearmand, client: GearmanClient, start: Start) -> None:
    calls: list[Any] = []

    class Worker(GearmanWorker):
        def on_job_execute(self, current_job: GearmanJob) -> bool:
            calls.append("execute")
            done = super().on_job_execute(current_job)
            calls.append(done)
            return done

        def on_job_exception(self, current_job: GearmanJob, exc_info: Any) -> bool:
            calls.append((exc_info[0], str(exc_info[1]), exc_info[2] is not None))
            self.send_job_exception(current_job, b"told")
            return super().on_job_exception(current_job, exc_info)

        def on_job_complete(self, current_job: GearmanJob, job_result: Any) -> bool:
            calls.append(job_result)
            return super().on_job_complete(current_job, job_result.upper())

        def after_job(self) -> bool:
            calls.append("after")
            return True

    def callback(worker: GearmanWorker, job: GearmanJob) -> bytes:
        if job.data == b"bad":
            raise KeyError("gone")
        return b"result"

    worker = Worker([gearmand.address])
    worker.register_task("t", callback)
    start(worker, gearmand)
    assert submit(client, "t").result == b"RESULT"
    wait_until(lambda: calls[-1] == "after")
    assert calls == ["execute", b"result", True, "after"]
    calls.clear()
    assert submit(client, "t", b"bad").exception == b"told"
    wait_until(lambda: calls[-1] == "after")
    assert calls == ["execute", (KeyError, "'gone'", True), False, "after"]


@pytest.mark.parametrize("hook", ["on_job_execute", "on_job_exception", "on_job_complete"])
@pytest.mark.parametrize("fault", ["raises", "forgets"])
def test_hooks_that_raise_or_forget_the_answer_leave_no_client_waiting(
    gearmand: Gearmand, client: GearmanClient, start: Start, hook: str, fault: str
) -> None:
    def overridden(self: GearmanWorker, *args: Any) -> bool:
        if fault == "raises":
            raise RuntimeError("a broken hook")
        return True

    worker = type("Worker", (GearmanWorker,), {hook: overridden})([gearmand.address])
    worker.register_task("t", lambda worker, job: job.data if hook == "on_job_complete" else 1 / 0)
    start(worker, gearmand)
    for _ in range(2):
        assert submit(client, "t").state == "FAILED"
    assert gearmand.queue("t") == (0, 0, 1)


def test_after_job_ends_work_after_exactly_so_many_jobs(
    gearmand: Gearmand, client: GearmanClient, start: Start
) -> None:
    class Worker(GearmanWorker):
        left = 3

        def after_job(self) -> bool:
            self.left -= 1
            return self.left > 0

    requests = client.submit_multiple_jobs([{"task": "t", "data": b"x"}] * 10, background=True)
    assert all(request.complete for request in requests)
    worker = Worker([gearmand.address])
    done: list[GearmanJob] = []
    worker.register_task("t", lambda worker, job: done.append(job))
    working = start(worker)
    working.wait()
    assert working.raised is None
    assert len(done) == 3
    assert gearmand.queue("t") == (7, 0, 0)


def test_after_poll_hears_of_activity_and_of_quiet_and_ends_work(gearmand: Gearmand, start: Start) -> None:
    polls: list[bool] = []

    class Worker(GearmanWorker):
        def after_poll(self, any_activity: bool) -> bool:
            polls.append(any_activity)
            return any_activity

    with GearmanClient([gearmand.address]) as client:
        client.submit_multiple_jobs([{"task": "t", "data": b"x"}] * 20, background=True)
    worker = Worker([gearmand.address])
    worker.register_task("t", lambda worker, job: time.sleep(0.01))
    working = start(worker, poll_timeout=0.3)
    working.wait()
    assert working.raised is None
    assert polls[-1] is False
    assert all(polls[:-1])
    assert len(polls) >= 2
    assert gearmand.queue("t") == (0, 0, 0)


def test_a_quiet_worker_does_not_leave_in_the_midst_of_a_job(
    gearmand: Gearmand, client: GearmanClient, start: Start
) -> None:
    class Worker(GearmanWorker):
        def after_poll(self, any_activity: bool) -> bool:
            return any_activity

    worker = Worker([gearmand.address])

    def long(worker: GearmanWorker, job: GearmanJob) -> bytes:
        gevent.sleep(0.5)
        return b"done"

    request = client.submit_job("t", b"x", wait_until_complete=False)
    worker.register_task("t", long)
    working = start(worker, poll_timeout=0.1)
    client.wait_until_jobs_completed([request], poll_timeout=DEADLINE_S)
    assert request.result == b"done"
    working.wait()


@pytest.mark.parametrize("hook", ["after_poll", "after_job"])
def test_what_these_hooks_raise_comes_out_of_work(
    gearmand: Gearmand, client: GearmanClient, start: Start, hook: str
) -> None:
    def overridden(self: GearmanWorker, *args: Any) -> bool:
        raise RuntimeError("enough")

    worker = type("Worker", (GearmanWorker,), {hook: overridden})([gearmand.address])
    worker.register_task("reverse", reverse)
    request = client.submit_job("reverse", b"ab", wait_until_complete=False)
    working = start(worker)
    working.wait()
    assert repr(working.raised) == "RuntimeError('enough')"
    if hook == "after_job":
        client.wait_until_jobs_completed([request], poll_timeout=DEADLINE_S)
        assert request.result == b"ba"


# ---------------------------------------------------------------------- one at a time, or more


@pytest.mark.parametrize("concurrency", [1, 3])
def test_so_many_jobs_at_a_time_over_all_job_servers_12(
    start_gearmand: Callable[..., Gearmand], start: Start, concurrency: int
) -> None:
    servers = [start_gearmand(), start_gearmand()]
    now, peak = [0], [0]

    def busy(worker: GearmanWorker, job: GearmanJob) -> None:
        now[0] += 1
        peak[0] = max(peak[0], now[0])
        gevent.sleep(0.05)
        now[0] -= 1

    worker = GearmanWorker([server.address for server in servers], concurrency=concurrency)
    worker.register_task("busy", busy)
    start(worker, *servers)
    with GearmanClient([server.address for server in servers]) as client:
        requests = client.submit_multiple_jobs([{"task": "busy", "data": b"x"}] * 16, poll_timeout=DEADLINE_S)
    assert {request.state for request in requests} == {"COMPLETE"}
    assert len({request.job.connection for request in requests}) == 2
    assert peak[0] == concurrency


def test_a_worker_wakes_at_once_and_rests_without_spinning_3(
    gearmand: Gearmand, client: GearmanClient, start: Start
) -> None:
    """python-gearman's slept on for up to 60 s with work queued, or took a whole core while it waited."""
    worker = GearmanWorker([gearmand.address])
    worker.register_task("reverse", reverse)
    start(worker, gearmand)
    before = time.process_time(), time.monotonic()
    wait_until(lambda: time.monotonic() - before[1] > 1.0, what="a second of rest")
    assert time.process_time() - before[0] < 0.3
    for _ in range(5):
        begun = time.monotonic()
        submit(client, "reverse", b"ab")
        assert time.monotonic() - begun < 1.0


# ---------------------------------------------------------------------- tasks that change


def test_tasks_may_change_at_any_time_and_no_job_runs_twice(
    gearmand: Gearmand, client: GearmanClient, start: Start
) -> None:
    """A CANT_DO with held jobs would have gearmand queue them again."""
    runs: list[bytes] = []
    go_on = threading.Event()
    held: list[GearmanJob] = []

    def slow(worker: GearmanWorker, job: GearmanJob) -> bytes:
        runs.append(job.data)
        held.append(job)
        while not go_on.is_set():
            gevent.sleep(0.001)
        return b"slow"

    worker = GearmanWorker([gearmand.address], concurrency=2)
    worker.register_task("slow", slow)
    start(worker, gearmand)
    request = client.submit_job("slow", b"1", wait_until_complete=False)
    wait_until(lambda: held, what="the job to run")
    worker.register_task("reverse", reverse)
    worker.unregister_task("slow")
    worker.unregister_task("never registered")
    assert not request.complete
    assert gearmand.queue("slow")[:2] == (1, 1)
    go_on.set()
    client.wait_until_jobs_completed([request], poll_timeout=DEADLINE_S)
    assert request.result == b"slow"
    assert submit(client, "reverse", b"ab").result == b"ba"
    wait_until(lambda: gearmand.queue("slow") == (0, 0, 0), what="the task to be unregistered")
    assert runs == [b"1"]
    client.submit_job("slow", b"2", background=True)
    assert submit(client, "reverse", b"cd").result == b"dc"
    assert gearmand.queue("slow") == (1, 0, 0)


def test_a_callback_may_register_replace_and_unregister_tasks(
    gearmand: Gearmand, client: GearmanClient, start: Start
) -> None:
    def first(worker: GearmanWorker, job: GearmanJob) -> bytes:
        worker.register_task("second", reverse)
        worker.register_task("first", lambda worker, job: b"another")
        return b"one"

    worker = GearmanWorker([gearmand.address])
    worker.register_task("first", first)
    start(worker, gearmand)
    assert submit(client, "first").result == b"one"
    assert submit(client, "first").result == b"another"
    assert submit(client, "second", b"ab").result == b"ba"


def test_a_worker_without_tasks_waits_for_one(gearmand: Gearmand, client: GearmanClient, start: Start) -> None:
    worker = GearmanWorker([gearmand.address])
    start(worker)
    wait_until(lambda: worker._shift is not None, what="work() to begin")
    worker.register_task("reverse", reverse)
    assert submit(client, "reverse", b"ab").result == b"ba"


def test_the_client_id_is_shown_and_may_change(gearmand: Gearmand, start: Start) -> None:
    def ids() -> set[str]:
        return {line.split()[2] for line in gearmand.admin("workers")} - {"-"}

    worker = GearmanWorker([gearmand.address])
    worker.register_task("t", reverse)
    assert worker.set_client_id("me") == "me"
    start(worker, gearmand)
    wait_until(lambda: ids() == {"me"}, what="the id")
    worker.set_client_id("other")
    wait_until(lambda: ids() == {"other"}, what="the other id")


def test_what_cannot_be_registered_is_refused() -> None:
    worker = GearmanWorker(["127.0.0.1"])
    with pytest.raises(TaskError, match="white space"):
        worker.register_task("two words", reverse)
    with pytest.raises(TaskError, match="can't be called"):
        worker.register_task("t", None)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="concurrency is 0"):
        GearmanWorker(["127.0.0.1"], concurrency=0)
    assert worker._callbacks == {}


# ---------------------------------------------------------------------- ends


def test_shutdown_finishes_the_job_in_hand_and_takes_no_other(
    gearmand: Gearmand, client: GearmanClient, start: Start
) -> None:
    running = threading.Event()

    def slow(worker: GearmanWorker, job: GearmanJob) -> bytes:
        running.set()
        gevent.sleep(0.3)
        return b"done"

    worker = GearmanWorker([gearmand.address])
    worker.register_task("slow", slow)
    working = start(worker, gearmand)
    requests = client.submit_multiple_jobs([{"task": "slow", "data": b"x"}] * 3, wait_until_complete=False)
    assert running.wait(DEADLINE_S)
    working.stop()
    client.wait_until_jobs_completed(requests[:1], poll_timeout=DEADLINE_S)
    assert [request.state for request in requests] == ["COMPLETE", "CREATED", "CREATED"]
    assert gearmand.queue("slow") == (2, 0, 0)


def test_a_blocking_callback_may_call_shutdown_and_no_job_comes_after_it(
    gearmand: Gearmand, client: GearmanClient, start: Start
) -> None:
    done: list[bytes] = []

    def last(worker: GearmanWorker, job: GearmanJob) -> None:
        done.append(job.data)
        time.sleep(0.05)
        worker.shutdown()

    client.submit_multiple_jobs([{"task": "t", "data": b"x"}] * 5, background=True)
    worker = GearmanWorker([gearmand.address])
    worker.register_task("t", last)
    for count in (1, 2):  # it can work again
        start(worker).wait()
        assert len(done) == count
    assert gearmand.queue("t") == (3, 0, 0)


def test_a_second_shutdown_and_the_end_of_the_grace_give_jobs_back(
    gearmand: Gearmand, client: GearmanClient, start: Start
) -> None:
    class Worker(GearmanWorker):
        grace_s = 0.1

    client.submit_job("t", b"x", background=True)
    for times, kind in ((2, GearmanWorker), (1, Worker)):
        running = threading.Event()

        def endless(worker: GearmanWorker, job: GearmanJob, running: threading.Event = running) -> None:
            running.set()
            gevent.sleep(60)

        worker = kind([gearmand.address])
        worker.register_task("t", endless)
        working = start(worker)
        assert running.wait(DEADLINE_S)
        for _ in range(times):
            worker.shutdown()
        working.wait()
        assert working.raised is None
        wait_until(lambda: gearmand.queue("t") == (1, 0, 0), what="the job to be queued again")


def test_without_any_job_server_work_raises(start: Start) -> None:
    for hosts in ([], [f"127.0.0.1:{free_port()}"], [f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"]):
        worker = GearmanWorker(hosts)
        worker.register_task("t", reverse)
        working = start(worker)
        working.wait()
        assert isinstance(working.raised, ServerUnavailable)
        assert all(host in str(working.raised) for host in hosts)


def test_one_job_server_of_two_is_enough_and_losing_the_last_raises(gearmand: Gearmand, start: Start) -> None:
    finished: list[bool] = []
    running = threading.Event()

    def slow(worker: GearmanWorker, job: GearmanJob) -> None:
        running.set()
        gevent.sleep(0.5)
        try:
            worker.send_job_status(job, 1, 1)
        except ConnectionLost:
            finished.append(True)

    worker = GearmanWorker([gearmand.address, f"127.0.0.1:{free_port()}"])
    worker.register_task("slow", slow)
    working = start(worker, gearmand)
    with GearmanClient([gearmand.address]) as client:
        client.submit_job("slow", b"x", background=True)
        assert running.wait(DEADLINE_S)
    gearmand.kill()
    working.wait()
    assert isinstance(working.raised, ServerUnavailable)
    assert finished == [True]


def test_a_worker_that_does_not_give_up_waits_for_the_job_server(gearmand: Gearmand, start: Start) -> None:
    class Stubborn(GearmanWorker):
        gives_up = False

    gearmand.kill()
    worker = Stubborn([gearmand.address])
    worker.register_task("reverse", reverse)
    start(worker)
    wait_until(lambda: worker._shift is not None and worker._shift.away, what="a failed attempt")
    gearmand.start()
    with GearmanClient([gearmand.address]) as client:
        assert submit(client, "reverse", b"ab").result == b"ba"


def test_work_runs_once_at_a_time(gearmand: Gearmand, start: Start) -> None:
    worker = GearmanWorker([gearmand.address])
    worker.register_task("t", reverse)
    start(worker, gearmand)
    with pytest.raises(InvalidWorkerState, match="works already"):
        worker.work()
    worker.shutdown()


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()])
def test_what_signal_handlers_raise_in_a_callback_ends_work_and_the_job_goes_back(
    gearmand: Gearmand, client: GearmanClient, start: Start, error: BaseException
) -> None:
    def interrupted(worker: GearmanWorker, job: GearmanJob) -> None:
        raise error

    client.submit_job("t", b"x", background=True)
    worker = GearmanWorker([gearmand.address])
    worker.register_task("t", interrupted)
    working = start(worker)
    working.wait()
    assert working.raised is error
    wait_until(lambda: gearmand.queue("t") == (1, 0, 0), what="the job to be queued again")
    worker.register_task("t", reverse)
    working = start(worker)
    wait_until(lambda: gearmand.queue("t")[:2] == (0, 0), what="the job to be done")


def test_an_interrupt_after_the_answer_does_not_undo_it(
    gearmand: Gearmand, client: GearmanClient, start: Start
) -> None:
    def answered(worker: GearmanWorker, job: GearmanJob) -> None:
        worker.send_job_complete(job, b"x" * 100_000)
        raise SystemExit

    request = client.submit_job("t", b"x", wait_until_complete=False)
    worker = GearmanWorker([gearmand.address])
    worker.register_task("t", answered)
    start(worker).wait()
    client.wait_until_jobs_completed([request], poll_timeout=DEADLINE_S)
    assert len(request.result) == 100_000


def test_an_answer_from_another_thread_is_refused(gearmand: Gearmand, client: GearmanClient, start: Start) -> None:
    def with_thread(worker: GearmanWorker, job: GearmanJob) -> bytes:
        refused: list[str] = []

        def answer() -> None:
            try:
                worker.send_job_complete(job, b"from the thread")
            except InvalidWorkerState as error:
                refused.append(str(error))
            worker.send_job_data(job, b"updates may")

        thread = threading.Thread(target=answer)
        thread.start()
        thread.join()
        return refused[0].encode()

    worker = GearmanWorker([gearmand.address])
    worker.register_task("t", with_thread)
    start(worker, gearmand)
    request = submit(client, "t")
    assert b"in another thread" in request.result
    assert list(request.data_updates) == [b"updates may"]


def test_failed_jobs_leave_nothing_for_the_garbage_collector(
    gearmand: Gearmand, client: GearmanClient, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    import gc
    import weakref

    caplog.set_level(logging.CRITICAL)  # kept log records keep the exceptions
    jobs: list[weakref.ref[GearmanJob]] = []

    def broken(worker: GearmanWorker, job: GearmanJob) -> bytes:
        jobs.append(weakref.ref(job))
        if job.data == b"bad":
            raise ValueError("bad")
        return b""

    worker = GearmanWorker([gearmand.address])
    worker.register_task("t", broken)
    start(worker, gearmand)
    gc.collect()
    gc.disable()
    try:
        for payload in (b"bad", b"good", b"bad", b"last"):
            submit(client, "t", payload)
        wait_until(lambda: [job() for job in jobs[:3]] == [None] * 3, what="the jobs to be freed")
    finally:
        gc.enable()


def test_a_callback_submits_jobs_through_a_client(gearmand: Gearmand, client: GearmanClient, start: Start) -> None:
    def both(worker: GearmanWorker, job: GearmanJob) -> bytes:
        with GearmanClient([gearmand.address]) as inner:
            return submit(inner, "reverse", job.data).result + submit(client, "reverse", job.data).result

    for task, callback in (("both", both), ("reverse", reverse)):
        worker = GearmanWorker([gearmand.address])
        worker.register_task(task, callback)
        start(worker, gearmand)
    assert submit(client, "both", b"ab").result == b"baba"


def test_hosts_in_every_form_and_large_payloads_6(gearmand: Gearmand, client: GearmanClient, start: Start) -> None:
    for host in (("127.0.0.1", gearmand.port), {"host": "127.0.0.1", "port": gearmand.port}, gearmand.address):
        for hosts in ([host], host):
            worker = GearmanWorker(hosts)
            worker.register_task("reverse", reverse)
            working = start(worker, gearmand)
            assert submit(client, "reverse", b"ab").result == b"ba"
            working.stop()
            wait_until(lambda: gearmand.queue("reverse") == (0, 0, 0), what="the worker to be gone")
    start(worker, gearmand)
    payload = bytes(range(256)) * 40_000
    assert submit(client, "reverse", payload).result == payload[::-1]


UNDER_GEVENT = """
from gevent import monkey
monkey.patch_all()
import sys, time
import gevent
import gearworker.compat as gearman

running, most = 0, 0

def slow(worker, job):
    global running, most
    running += 1
    most = max(most, running)
    time.sleep(0.2)
    running -= 1
    return job.data[::-1]

workers = [gearman.GearmanWorker([sys.argv[1]]) for _ in range(5)]
for worker in workers:
    worker.register_task("slow", slow)
greenlets = [gevent.spawn(worker.work) for worker in workers]
clients = [gearman.GearmanClient([sys.argv[1]]) for _ in range(2)]
calls = [gevent.spawn(client.submit_job, "slow", b"ab") for client in clients * 5]
assert {call.get().result for call in calls} == {b"ba"}
assert 1 < most <= 5, "five workers work at a time"
for worker in workers:
    worker.shutdown()
gevent.joinall(greenlets, timeout=10, raise_error=True)
print("all went home", all(greenlet.successful() for greenlet in greenlets))
"""


def test_workers_and_clients_in_greenlets_of_a_patched_program_8(gearmand: Gearmand, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(UNDER_GEVENT)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, str(program), gearmand.address], env=environment, capture_output=True, text=True, timeout=30
    )
    assert (done.returncode, done.stdout) == (0, "all went home True\n"), done.stderr
    assert gearmand.queue("slow") == (0, 0, 0)


def test_the_embedded_job_server_serves_it_as_well(tmp_path: Path, start: Start) -> None:
    server = EmbeddedServer(tmp_path)
    server.start()
    try:
        worker = GearmanWorker(server.address)
        worker.register_task("reverse", reverse)
        working = start(worker)
        with GearmanClient(server.address) as client:
            assert submit(client, "reverse", b"ab").result == b"ba"
        working.stop()
    finally:
        server.stop()
