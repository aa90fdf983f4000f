"""Running one job: the only place where a handler is called.

For each task the runner builds, once, a call that takes a job and gives the encoded result; what the task's options
ask for is wrapped around it from the inside out: the handler (a generator's items are sent as WORK_DATA), the native
thread, the time limit, the decoding of the payload, the retries. So a task without options pays for none.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterable, Sequence
from time import monotonic
from types import GeneratorType, TracebackType
from typing import Any, Final

import gevent
from gevent.threadpool import ThreadPool

from gearworker.encoders import Encoder
from gearworker.errors import ConnectionLost, FailJob, GearmanError, JobTimeout, PayloadError
from gearworker.job import GearmanJob
from gearworker.middleware import Middleware, Outcome, call_hook, overridden
from gearworker.net.backoff import Backoff
from gearworker.protocol.packets import PacketType
from gearworker.task import Task

log = logging.getLogger(__name__)

MAX_ERROR_BYTES: Final = 4096
"""How much of an exception's text a client is sent."""

_Call = Callable[[GearmanJob], bytes]


class Runner:
    """Runs the jobs of some tasks and answers for each exactly once.

    Args:
        tasks: the tasks it may be given.
        middleware: its hooks are called around each job, in this order.
        max_threads: how many handlers with ``thread=True`` may run at a time.
        exceptions_as_fail: answer a handler's exception with WORK_WARNING and WORK_FAIL in place of WORK_EXCEPTION.
    """

    def __init__(
        self,
        tasks: Iterable[Task],
        middleware: Sequence[Middleware] = (),
        *,
        max_threads: int = 10,
        exceptions_as_fail: bool = False,
    ) -> None:
        self._exceptions_as_fail = exceptions_as_fail
        self._before = overridden(middleware, "before_job")
        self._after = overridden(middleware, "after_job")
        self._max_threads = max_threads
        self._threads: ThreadPool | None = None
        self._stopped = False
        self._abandoned: dict[GearmanJob, Any] = {}
        self._calls: dict[str, _Call] = {task.name: self._build(task) for task in tasks}

    def run(self, job: GearmanJob) -> None:
        """Run a job to its end and send its final packet. Nothing that a handler raises gets out.

        Switches: as the handler does.
        """
        job.started_at = started_at = monotonic()
        for before in self._before:
            call_hook(before, job)
        failure: BaseException | None = None
        outcome: Outcome = "complete"
        packet_type, data = PacketType.WORK_COMPLETE, b""
        try:
            data = self._calls[job.task](job)
        except BaseException as error:  # whatever a handler raises ends its job and nothing else
            failure = error.with_traceback(_outside_traceback(error.__traceback__))
            outcome, packet_type, data = _judge(error)
            if self._exceptions_as_fail and packet_type is PacketType.WORK_EXCEPTION:
                packet_type, data = _warn_and_fail(job, data)
        connection: Any = job.connection
        if not connection.finish(job, packet_type, data):
            outcome = "lost"
        for after in self._after:
            call_hook(after, job, outcome, monotonic() - started_at, len(data), failure)
        failure = None  # its traceback holds this frame: together they would keep the job until the garbage collector
        if self._abandoned:
            self._wait_for_abandoned(job)

    def stop(self) -> None:
        """Wait for no handler any more. Native threads end, but where one still runs a handler they are left alone."""
        self._stopped = True
        if self._threads is not None and not len(self._threads):
            self._threads.kill()

    # ------------------------------------------------------------------ building a task's call

    def _build(self, task: Task) -> _Call:
        call = _handler_call(task)
        if task.thread:
            call = self._in_thread(call)
        if task.timeout_s is not None:
            call = _with_timeout(call, task.timeout_s)
        call = _with_decoding(call, task.encoder)
        if task.retries:
            call = _with_retries(call, task)
        return call

    def _in_thread(self, call: _Call) -> _Call:
        def run_in_thread(job: GearmanJob) -> bytes:
            if self._threads is None:
                self._threads = ThreadPool(self._max_threads)
            result: Any = self._threads.spawn(_caught, call, job)
            try:
                data, error = result.get()
            except BaseException:
                self._abandoned[job] = result
                raise
            if error is not None:
                try:
                    raise error
                finally:
                    del error, result  # or the error and this frame would keep each other
            return bytes(data)

        return run_in_thread

    def _wait_for_abandoned(self, job: GearmanJob) -> None:
        """A native thread can't be stopped, so its slot stays taken until it ends, or threads would pile up."""
        result = self._abandoned.pop(job, None)
        if result is not None and not result.ready() and not self._stopped:
            log.warning("task %s: its native thread runs on after its job ended; the slot waits for it", job.task)
            result.wait()


def _handler_call(task: Task) -> _Call:
    handler, encode = task.handler, task.encoder.encode

    def call(job: GearmanJob) -> bytes:
        result = handler(job)
        if type(result) is GeneratorType:
            result = _stream(job, result)
        data: Any = encode(result)
        if type(data) is not bytes:
            raise PayloadError(f"the task's encoder made {type(data).__name__} of the result, not bytes")
        return data

    return call


def _stream(job: GearmanJob, items: Any) -> Any:
    """Send what a generator yields; give what it returns."""
    try:
        while True:
            try:
                item = next(items)
            except StopIteration as end:
                return end.value
            job.send_data(item)
    finally:
        items.close()


def _with_decoding(call: _Call, encoder: Encoder) -> _Call:
    def decode_and_call(job: GearmanJob) -> bytes:
        job.encoder = encoder
        job.data = encoder.decode(job.data)
        return call(job)

    return decode_and_call


def _with_timeout(call: _Call, timeout_s: float) -> _Call:
    def call_in_time(job: GearmanJob) -> bytes:
        timeout = gevent.Timeout.start_new(timeout_s)
        try:
            return call(job)
        except gevent.Timeout as error:
            if error is timeout:
                raise JobTimeout(timeout_s) from error
            raise
        finally:
            timeout.close()
            del timeout  # or the timeout and this frame would keep each other

    return call_in_time


def _with_retries(call: _Call, task: Task) -> _Call:
    final: tuple[type[Exception], ...] = (FailJob, PayloadError, ConnectionLost)
    if task.thread:
        final += (JobTimeout,)  # its native thread runs on; a second one beside it would help nobody

    def call_again(job: GearmanJob) -> bytes:
        backoff, payload = Backoff(first_s=0.1, cap_s=10.0), job.data
        while True:
            try:
                return call(job)
            except final:
                raise
            except Exception as error:
                if job.attempt > task.retries or getattr(job.connection, "closed", False):
                    raise
                delay_s = backoff.next_s()
                log.warning(
                    "task %s: attempt %d failed (%s: %s), again in %.1f s",
                    job.task, job.attempt, type(error).__name__, error, delay_s,
                )  # fmt: skip
                job.attempt += 1
                gevent.sleep(delay_s)
                if getattr(job.connection, "closed", False):
                    raise
                job.data = payload  # afresh: the handler may have changed what was decoded of it

    return call_again


def _caught(call: _Call, job: GearmanJob) -> tuple[bytes, BaseException | None]:
    """In a native thread: give the exception instead of raising, or gevent would print it."""
    try:
        return call(job), None
    except BaseException as error:
        return b"", error


# ---------------------------------------------------------------------- judging the end


def _judge(error: BaseException) -> tuple[Outcome, PacketType, bytes]:
    """What an exception makes of its job: the outcome, the final packet's type and data."""
    if isinstance(error, FailJob):
        return "fail", PacketType.WORK_FAIL, b""
    outcome: Outcome = "timeout" if isinstance(error, JobTimeout) else "exception"
    return outcome, PacketType.WORK_EXCEPTION, _describe(error)


def _warn_and_fail(job: GearmanJob, description: bytes) -> tuple[PacketType, bytes]:
    """Send the description as a warning; the final packet is a WORK_FAIL then."""
    with contextlib.suppress(GearmanError):  # the connection has ended, which the final packet finds out as well
        job.send_warning(description)
    return PacketType.WORK_FAIL, b""


def _outside_traceback(traceback: TracebackType | None) -> TracebackType | None:
    """A traceback without our own frames at its top, so that the log begins at the handler."""
    frame = traceback
    while frame is not None and frame.tb_frame.f_code.co_filename == __file__:
        frame = frame.tb_next
    return frame or traceback


def _describe(error: BaseException) -> bytes:
    """Class and message for the client; the traceback stays in our log."""
    try:
        message = str(error)
    except BaseException:  # a __str__ that raises
        message = ""
    text = f"{type(error).__name__}: {message}" if message else type(error).__name__
    return text.encode("utf-8", "replace")[:MAX_ERROR_BYTES]
