"""GearmanWorker without a job server: its hooks on jobs by themselves, and ``work`` on an engine that is a fake."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any

import gevent
import pytest
from gevent.event import Event

from gearworker import gearman_worker
from gearworker.encoders import DataEncoder
from gearworker.errors import ConfigError, InvalidWorkerState, PayloadError, ProtocolError, ServerUnavailable, TaskError
from gearworker.gearman_shift import Shift
from gearworker.gearman_worker import GearmanWorker
from gearworker.job import GearmanJob
from gearworker.middleware import Middleware
from gearworker.protocol.packets import PacketType as T


class FakeSession:
    address, closed = "a:1", False

    def __init__(self) -> None:
        self.sent: list[tuple[Any, ...]] = []

    def send_update(self, job: GearmanJob, packet_type: T, *args: bytes) -> None:
        self.sent.append((packet_type, *args))

    def finish(self, job: GearmanJob, packet_type: T, data: bytes) -> bool:
        self.sent.append((packet_type, data))
        return True

    def close(self, reason: str) -> None:
        self.closed = True


class FakePool:
    def __init__(self, concurrency: int) -> None:
        self.concurrency, self.free = concurrency, concurrency

    def take_back(self, count: int) -> None:
        self.free -= count


class FakeLink:
    session: Any = None

    def __init__(self, engine: FakeEngine) -> None:
        self.engine = engine

    def drain(self) -> None:
        self.engine.calls.append("drain")


class FakeEngine:
    """In place of ``Worker``; ``script`` is what happens to it once it is started."""

    made: list[FakeEngine]
    script: Callable[[FakeEngine], None]

    def __init__(self, addresses: Any, pools: Any, **options: Any) -> None:
        self.addresses, self.plan, self.options = addresses, pools["default"], options
        self.shift: Shift = options["middleware"][0]
        self.calls: list[str] = []
        self.pools = [FakePool(self.plan.concurrency)]
        self.links = [FakeLink(self)]
        self.jobs: list[GearmanJob] = []
        FakeEngine.made.append(self)

    def start(self) -> None:
        self.calls.append("start")
        scripted = gevent.spawn(FakeEngine.script, self)
        scripted.link_exception(lambda failed: self.shift.end(failed.exception))

    def stop(self) -> None:
        self.calls.append("stop")

    def running_jobs(self) -> list[GearmanJob]:
        return self.jobs

    def run(self, task: str, data: bytes = b"x") -> tuple[list[tuple[Any, ...]], BaseException | None]:
        """Run a job as a slot does; what was sent, and what the engine would log."""
        (handler,) = [served.handler for served in self.plan.tasks if served.name == task]
        return run(handler, task, data)


def run(handler: Any, task: str, data: bytes) -> tuple[list[tuple[Any, ...]], BaseException | None]:
    session = FakeSession()
    job = GearmanJob(session, "H:1", task, None, data)  # type: ignore[arg-type]
    try:
        assert handler(job) == b""
    except BaseException as error:
        return session.sent, error
    return session.sent, None


@pytest.fixture(autouse=True)
def engines(monkeypatch: pytest.MonkeyPatch) -> list[FakeEngine]:
    FakeEngine.made = []
    FakeEngine.script = lambda engine: engine.shift.stop()
    monkeypatch.setattr(gearman_worker, "Worker", FakeEngine)
    return FakeEngine.made


def make(callback: Any = lambda worker, job: job.data, **overrides: Any) -> GearmanWorker:
    worker: GearmanWorker = type("Made", (GearmanWorker,), overrides)(["a:1"])
    worker.register_task("t", callback)
    return worker


def run_alone(worker: GearmanWorker, data: bytes = b"x") -> tuple[list[tuple[Any, ...]], BaseException | None]:
    """Run a job of the task t on a worker that is at work."""
    worker._shift = Shift()
    return run(worker._tasks["t"].handler, "t", data)


class JSON(DataEncoder):
    @classmethod
    def encode(cls, encodable_object: Any) -> bytes:
        return json.dumps(encodable_object).encode()

    @classmethod
    def decode(cls, decodable_string: bytes) -> Any:
        return json.loads(decodable_string)


class Sloppy(DataEncoder):
    @classmethod
    def encode(cls, encodable_object: Any) -> Any:
        return json.dumps(encodable_object)


# ---------------------------------------------------------------------- jobs


@pytest.mark.parametrize(
    ("result", "sent"), [(b"bytes", b"bytes"), ("täxt", "täxt".encode()), (None, b""), (bytearray(b"a"), b"a")]
)
def test_results_that_are_sent(result: Any, sent: bytes) -> None:
    assert run_alone(make(lambda worker, job: result)) == ([(T.WORK_COMPLETE, sent)], None)


@pytest.mark.parametrize("result", [7, object(), ["a"]])
def test_results_that_can_not_be_sent_fail_their_job(result: Any) -> None:
    sent, error = run_alone(make(lambda worker, job: result))
    assert sent == [(T.WORK_FAIL, b"")]
    assert isinstance(error, PayloadError)


def test_the_encoder_is_applied_to_everything() -> None:
    def callback(worker: GearmanWorker, job: GearmanJob) -> Any:
        worker.send_job_data(job, {"d": 1})
        worker.send_job_warning(job, ["w"])
        worker.send_job_status(job, 1, 2)
        job.send_data({"also": "so"})
        return {"got": job.data}

    sent, error = run_alone(make(callback, data_encoder=JSON), b"[1, 2]")
    assert error is None
    assert sent == [
        (T.WORK_DATA, b'{"d": 1}'), (T.WORK_WARNING, b'["w"]'), (T.WORK_STATUS, b"1", b"2"),
        (T.WORK_DATA, b'{"also": "so"}'), (T.WORK_COMPLETE, b'{"got": [1, 2]}'),
    ]  # fmt: skip


def test_an_encoder_that_makes_text_is_named() -> None:
    sent, error = run_alone(make(data_encoder=Sloppy))
    assert sent == [(T.WORK_FAIL, b"")]
    sent, error = run_alone(make(lambda worker, job: 1, data_encoder=Sloppy))
    assert "Sloppy" in str(error)
    assert "made str of int, not bytes" in str(error)


def test_an_undecodable_payload_goes_to_on_job_exception_and_no_callback() -> None:
    seen: list[Any] = []

    def on_job_exception(self: GearmanWorker, current_job: GearmanJob, exc_info: Any) -> bool:
        seen.append((current_job.data, exc_info[0]))
        return GearmanWorker.on_job_exception(self, current_job, exc_info)

    worker = make(lambda worker, job: seen.append("called"), data_encoder=JSON, on_job_exception=on_job_exception)
    sent, error = run_alone(worker, b"{")
    assert sent == [(T.WORK_FAIL, b"")]
    assert isinstance(error, json.JSONDecodeError)
    assert seen == [(b"{", json.JSONDecodeError)]


@pytest.mark.parametrize("error", [ValueError("v"), gevent.Timeout(1), RecursionError()])
def test_what_a_callback_raises_fails_its_job_and_is_raised_for_the_log(error: BaseException) -> None:
    def callback(worker: GearmanWorker, job: GearmanJob) -> None:
        raise error

    sent, raised = run_alone(make(callback))
    assert sent == [(T.WORK_FAIL, b"")]
    assert raised is error


@pytest.mark.parametrize("error", [SystemExit(1), KeyboardInterrupt()])
def test_what_signal_handlers_raise_gives_the_job_back_and_ends_the_shift(error: BaseException) -> None:
    def callback(worker: GearmanWorker, job: GearmanJob) -> None:
        raise error

    worker = make(callback)
    sent, raised = run_alone(worker)
    assert sent == []
    assert raised is error
    assert worker._shift is not None
    assert worker._shift.error is error


def test_a_killed_greenlets_job_is_left_to_the_engine() -> None:
    def callback(worker: GearmanWorker, job: GearmanJob) -> None:
        raise gevent.GreenletExit

    worker = make(callback)
    sent, raised = run_alone(worker)
    assert sent == []
    assert isinstance(raised, gevent.GreenletExit)
    assert worker._shift is not None
    assert not worker._shift.ends


def test_a_callbacks_own_answer_stands() -> None:
    def callback(worker: GearmanWorker, job: GearmanJob) -> bytes:
        worker.send_job_complete(job, b"own")
        return b"returned"

    assert run_alone(make(callback)) == ([(T.WORK_COMPLETE, b"own")], None)

    def failing(worker: GearmanWorker, job: GearmanJob) -> None:
        worker.send_job_exception(job, b"why")
        raise ValueError("after it")

    sent, error = run_alone(make(failing))
    assert sent == [(T.WORK_EXCEPTION, b"why")]
    assert str(error) == "after it"


def test_hooks_on_a_job_of_a_users_test_reach_nobody() -> None:
    worker = make(lambda worker, job: job.data * 2)
    job = GearmanJob(None, None, "t", None, b"ab")
    assert worker.on_job_execute(job) is True
    worker.register_task("t", lambda worker, job: 1 / 0)
    assert worker.on_job_execute(job) is False
    for send in (worker.send_job_data, worker.send_job_warning, worker.send_job_complete, worker.send_job_exception):
        send(job, b"x")
    worker.send_job_status(job, 1, 2)
    worker.send_job_failure(job)
    assert job.status == (1, 2)


def test_after_job_ends_the_shift_by_a_false_answer_or_an_exception() -> None:
    def broken(self: GearmanWorker) -> bool:
        raise RuntimeError("enough")

    for after_job, expected in ((lambda self: True, (False, None)), (lambda self: None, (True, None))):
        worker = make(after_job=after_job)
        assert run_alone(worker) == ([(T.WORK_COMPLETE, b"x")], None)
        assert worker._shift is not None
        assert (worker._shift.ends, worker._shift.error) == expected
    worker = make(after_job=broken)
    assert run_alone(worker) == ([(T.WORK_COMPLETE, b"x")], None)
    assert worker._shift is not None
    assert repr(worker._shift.error) == "RuntimeError('enough')"


# ---------------------------------------------------------------------- work


def test_work_builds_an_engine_of_what_is_registered_and_drains_it(engines: list[FakeEngine]) -> None:
    extra = Middleware()
    worker = GearmanWorker([("a", 1), "b"], concurrency=5, middleware=[extra])
    worker.register_task("one", lambda worker, job: b"")
    worker.register_task("two", lambda worker, job: b"")
    worker.set_client_id("me")
    worker.work()
    (engine,) = engines
    assert [str(address) for address in engine.addresses] == ["a:1", "b:4730"]
    assert (engine.plan.concurrency, [task.name for task in engine.plan.tasks]) == (5, ["one", "two"])
    assert engine.options["client_id"] == "me"
    assert engine.options["middleware"][1:] == (extra,)
    assert engine.calls == ["start", "drain", "stop"]
    assert engine.pools[0].free == 0
    worker.work()
    assert len(engines) == 2
    worker.shutdown()  # of a worker that does not work: nothing


def test_other_tasks_make_another_engine_when_the_first_has_drained(engines: list[FakeEngine]) -> None:
    def script(engine: FakeEngine) -> None:
        if len(engines) == 1:
            worker.unregister_task("never registered")
            assert engine.run("t") == ([(T.WORK_COMPLETE, b"x")], None)
            worker.register_task("u", lambda worker, job: b"u")
            worker.unregister_task("t")
            assert engine.run("t") == ([(T.WORK_COMPLETE, b"x")], None)  # a job that was in hand
        elif len(engines) == 2:
            worker.set_client_id("other")
        else:
            worker.shutdown()

    FakeEngine.script = script
    worker = make()
    worker.work()
    assert [[task.name for task in engine.plan.tasks] for engine in engines] == [["t"], ["u"], ["u"]]
    assert [engine.options["client_id"] for engine in engines] == ["", "", "other"]
    assert all(engine.calls == ["start", "drain", "stop"] for engine in engines)


def test_it_gives_up_when_every_job_server_has_refused(engines: list[FakeEngine]) -> None:
    def script(engine: FakeEngine) -> None:
        engine.shift.job_server_away("a:1", "default", "refused")
        gevent.sleep(0)
        assert engine.calls == ["start"]
        engine.shift.job_server_up("b:1", "default")
        engine.shift.job_server_down("b:1", "default", "cable")
        gevent.sleep(0)
        assert engine.calls == ["start"]
        engine.shift.job_server_away("b:1", "default", "no route")

    FakeEngine.script = script
    with pytest.raises(ServerUnavailable, match=r"a:1: refused; b:1: no route"):
        GearmanWorker(["a:1", "b:1"]).work()
    assert engines[0].calls == ["start", "drain", "stop"]
    with pytest.raises(ServerUnavailable, match="given no job server"):
        GearmanWorker().work()


def test_one_that_does_not_give_up_goes_on(engines: list[FakeEngine]) -> None:
    def script(engine: FakeEngine) -> None:
        engine.shift.job_server_away("a:1", "default", "refused")
        gevent.sleep(0)
        assert engine.calls == ["start"]
        engine.shift.stop()

    FakeEngine.script = script
    make(gives_up=False).work()


def test_after_poll_hears_of_activity_and_of_quiet() -> None:
    polls: list[bool] = []

    def after_poll(self: GearmanWorker, any_activity: bool) -> Any:
        polls.append(any_activity)
        return any_activity

    def script(engine: FakeEngine) -> None:
        engine.jobs = [GearmanJob(None, "H:1", "t", None, b"")]
        while len(polls) < 2:  # quiet, but a job runs
            gevent.sleep(0.001)
        engine.jobs = []

    FakeEngine.script = script
    make(after_poll=after_poll).work(poll_timeout=0)
    assert polls[:2] == [True, True]
    assert polls[-1] is False


def test_without_a_poll_timeout_after_poll_is_called_for_activity_only() -> None:
    polls: list[bool] = []

    def after_poll(self: GearmanWorker, any_activity: bool) -> None:
        polls.append(any_activity)

    FakeEngine.script = lambda engine: engine.shift.job_server_up("a:1", "default")
    make(after_poll=after_poll).work(poll_timeout=None)
    assert polls == [True]


@pytest.mark.parametrize("error", [RuntimeError("hook"), SystemExit(2), gevent.GreenletExit()])
def test_what_after_poll_raises_comes_out_when_the_engine_is_drained(
    engines: list[FakeEngine], error: BaseException
) -> None:
    def after_poll(self: GearmanWorker, any_activity: bool) -> bool:
        raise error

    FakeEngine.script = lambda engine: engine.shift.job_server_up("a:1", "default")
    with pytest.raises(type(error)):
        make(after_poll=after_poll).work()
    assert engines[0].calls == ["start", "drain", "stop"]


def test_it_works_once_at_a_time(engines: list[FakeEngine]) -> None:
    done = Event()

    def script(engine: FakeEngine) -> None:
        with pytest.raises(InvalidWorkerState, match="works already"):
            worker.work()
        done.set()
        worker.shutdown()

    FakeEngine.script = script
    worker = make()
    worker.work()
    assert done.is_set()


def test_a_forked_child_lets_go_of_the_connections() -> None:
    class Session:
        abandoned = 0

        def abandon(self) -> None:
            self.abandoned += 1

    def script(engine: FakeEngine) -> None:
        engine.links[0].session = Session()
        read_end, write_end = os.pipe()
        child = os.fork()
        if child == 0:
            os.write(write_end, b"%d" % engine.links[0].session.abandoned)
            os._exit(0)
        assert os.read(read_end, 10) == b"1"
        os.waitpid(child, 0)
        assert engine.links[0].session.abandoned == 0
        passed.append(True)
        worker.shutdown()

    passed: list[bool] = []
    FakeEngine.script = script
    worker = make()
    worker.work()
    assert passed


# ---------------------------------------------------------------------- what is refused


def test_what_can_not_be_is_refused() -> None:
    with pytest.raises(ConfigError):
        GearmanWorker(["no host"])
    with pytest.raises(ValueError, match="concurrency is 0"):
        GearmanWorker(["a"], concurrency=0)
    worker = GearmanWorker("a:1")
    with pytest.raises(TaskError, match="white space"):
        worker.register_task("two words", lambda worker, job: b"")
    with pytest.raises(TaskError, match="can't be called"):
        worker.register_task("t", b"")  # type: ignore[arg-type]
    with pytest.raises(ProtocolError):
        worker.set_client_id("n\0l")
    assert worker._tasks == worker._callbacks == {}


def test_a_tasks_place_is_its_callbacks() -> None:
    worker = make(run_alone)
    assert os.path.basename(__file__) in worker._tasks["t"].source
