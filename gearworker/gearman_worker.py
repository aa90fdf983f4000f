"""``GearmanWorker``: the class that python-gearman's workers are written with, on gearworker's engine.

Theory of operation. ``work()`` builds a ``Worker`` of one pool from what is registered, and waits; slots of the pool
call the callbacks. What callbacks, hooks, other threads and signal handlers want of ``work()`` they note in its
``Shift``, and it acts. Each job's connection is wrapped by an ``Exchange``, which knows whether the job was answered:
by the callback itself, by ``on_job_complete`` or ``on_job_exception``, and where nobody did by the engine.

A task that is registered or unregistered while ``work()`` runs makes it finish the jobs in hand, disconnect, and
connect again with the new tasks. To take a task back on a connection would have gearmand run the jobs held there twice.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterable, Sequence
from math import inf
from time import monotonic
from types import TracebackType
from typing import Any, ClassVar, Final, cast

import gevent

from gearworker.client.hub import parse_hosts
from gearworker.encoders import BYTES
from gearworker.errors import InvalidWorkerState, PayloadError, ServerUnavailable
from gearworker.gearman_shift import Exchange, Shift
from gearworker.job import GearmanJob
from gearworker.middleware import Middleware
from gearworker.net.address import AddressLike
from gearworker.protocol.codec import encode_request
from gearworker.protocol.packets import PacketType
from gearworker.task import Task
from gearworker.worker.worker import PoolPlan, Worker

Callback = Callable[["GearmanWorker", GearmanJob], Any]
ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None]

_ENDS_WORK: Final = (KeyboardInterrupt, SystemExit)
"""What a callback raises because a signal handler did; python-gearman never caught these either."""
_MIN_POLL_S: Final = 0.01


class GearmanWorker:
    """Registers callbacks for tasks and works on their jobs.

    Args:
        host_list: the job servers, each in any form that ``Address.parse`` takes; one alone may stand without a list.
        concurrency: how many jobs run at a time, in greenlets; with 1 one after the other, as python-gearman does.
        middleware: hooks around each job, such as those that count for Prometheus.

    Attributes (of the class, to be overridden):
        data_encoder: turns payloads into what ``job.data`` is, and results, updates and exceptions into bytes.
        grace_s: how long jobs in hand may take to finish when ``work()`` ends, in seconds.
        gives_up: raise ServerUnavailable out of ``work()`` when no job server can be reached, as python-gearman does;
            False keeps trying.

    Raises:
        ConfigError: a host can't be understood.
    """

    data_encoder: ClassVar[Any] = BYTES
    grace_s: ClassVar[float] = 25.0
    gives_up: ClassVar[bool] = True

    def __init__(
        self,
        host_list: Iterable[AddressLike] | AddressLike | None = None,
        *,
        concurrency: int = 1,
        middleware: Sequence[Middleware] = (),
    ) -> None:
        if concurrency < 1:
            raise ValueError(f"concurrency is {concurrency}; it must be at least 1")
        self.addresses = parse_hosts(host_list)
        self.concurrency = concurrency
        self.middleware = tuple(middleware)
        self._callbacks: dict[str, Callback] = {}
        self._tasks: dict[str, Task] = {}
        self._client_id = ""
        self._shift: Shift | None = None

    # ------------------------------------------------------------------ what it can do

    def register_task(self, task: str, callback_function: Callback) -> str:
        """Serve a task; in place of the callback that it had, if any. Any thread or handler may call it at any time.

        Args:
            callback_function: called with this worker and the job; what it returns completes the job.

        Returns: the task's name.

        Raises:
            TaskError: the name is unusable, or the callback can't be called.
        """
        if callable(callback_function):

            @functools.wraps(callback_function)
            def handler(job: GearmanJob) -> bytes:
                return self._handle(job, callback_function)

            self._tasks[task] = Task(task, handler)
        else:
            Task(task, callback_function)  # raises
        self._callbacks[task] = callback_function
        self._changed()
        return task

    def unregister_task(self, task: str) -> str:
        """Serve a task no more; one that is not served is no error. Jobs of it in hand are finished.

        Returns: the task's name.
        """
        self._callbacks.pop(task, None)
        if self._tasks.pop(task, None) is not None:
            self._changed()
        return task

    def set_client_id(self, client_id: str) -> str:
        """Name this worker, for the admin command ``workers``.

        Returns: the name.

        Raises:
            ProtocolError: it holds a NUL.
        """
        encode_request(PacketType.SET_CLIENT_ID, client_id.encode()[:127])
        self._client_id = client_id
        self._changed()
        return client_id

    def _changed(self) -> None:
        if self._shift is not None:
            self._shift.change()

    # ------------------------------------------------------------------ working

    def work(self, poll_timeout: float | None = 60.0) -> None:
        """Work on jobs until ``shutdown`` is called, or ``after_poll`` or ``after_job`` gives what is false.

        Jobs in hand are finished before it returns or raises, within ``grace_s``. A job whose callback raises
        SystemExit or KeyboardInterrupt, as signal handlers do, goes back to the job server, and ``work`` raises that.

        Args:
            poll_timeout: without any activity for so many seconds ``after_poll`` is called with False; None: never.

        Raises:
            ServerUnavailable: none was named, or the last attempt to connect has failed for every one, at the start or
                after connections were lost. See ``gives_up``.
            InvalidWorkerState: it works already.
            Exception: what ``after_poll`` or ``after_job`` raised.

        Switches: all the time. In a program without greenlets that is of no concern; it blocks the thread.
        """
        if self._shift is not None:
            raise InvalidWorkerState("work() was called while this worker works already")
        if not self.addresses:
            raise ServerUnavailable(None, "this worker was given no job server")
        self._shift = shift = Shift()
        try:
            while not shift.ends:
                self._work_with_tasks(shift, poll_timeout)
        finally:
            self._shift = None
        if shift.error is not None:
            raise shift.error

    def shutdown(self) -> None:
        """Have ``work`` take no more jobs, finish those in hand and return; called again, it stops at once.

        It only notes that, so callbacks, signal handlers, and other threads and greenlets may call it. While ``work``
        does not run it does nothing.
        """
        if self._shift is not None:
            self._shift.stop()

    def _work_with_tasks(self, shift: Shift, poll_timeout: float | None) -> None:
        """Work with what is registered now, until that changes or the work ends."""
        plan = PoolPlan(self.concurrency, list(self._tasks.values()))
        middleware = (shift, *self.middleware)
        worker = Worker(self.addresses, {"default": plan}, client_id=self._client_id, middleware=middleware)
        shift.begin(worker)
        try:
            worker.start()
            self._watch(shift, poll_timeout)
        except BaseException as error:  # from a hook, or from outside; raised again when the jobs in hand are done
            shift.end(error)
        try:
            shift.finish(self.grace_s)
        finally:
            worker.stop()

    def _watch(self, shift: Shift, poll_timeout: float | None) -> None:
        """Call ``after_poll`` as things happen, and see when it is time to go."""
        poll_s = inf if poll_timeout is None else max(poll_timeout, _MIN_POLL_S)
        called_at = monotonic()
        while not shift.is_over:
            left_s = called_at + poll_s - monotonic()
            shift.wait(None if left_s == inf else left_s)
            if self.gives_up and len(shift.away) == len(self.addresses):
                reasons = "; ".join(f"{address}: {reason}" for address, reason in sorted(shift.away.items()))
                raise ServerUnavailable(None, f"no job server can be reached: {reasons}")
            any_activity = shift.take_activity()
            if not shift.is_over and (any_activity or monotonic() - called_at >= poll_s):
                # A job that runs on is activity too: whoever leaves when it is quiet shall not leave in its midst.
                if not self.after_poll(any_activity or shift.is_busy):
                    shift.end()
                called_at = monotonic()

    def _handle(self, job: GearmanJob, callback: Callback) -> bytes:
        """What the engine runs for a job; raises what it failed with, for the log, for the client has its answer."""
        shift = self._shift
        assert shift is not None
        job.connection = exchange = Exchange(job.connection, callback)
        job.encoder = self.data_encoder
        try:
            self._decode_and_execute(job, exchange)
            fault = exchange.close(job)
            exchange.error = None  # its traceback holds the job: together they would wait for the garbage collector
            self._call_after_job(shift)
        except _ENDS_WORK as error:
            exchange.give_back(f"the worker ends: {error!r}")
            shift.end(error)
            raise
        finally:
            shift.hold_if_ended()
        try:
            if fault is not None:
                raise fault
        finally:
            del fault
        return b""

    def _decode_and_execute(self, job: GearmanJob, exchange: Exchange) -> None:
        try:
            try:
                job.data = self.data_encoder.decode(job.data)
            except Exception as error:
                exchange.error = error
                self.on_job_exception(job, cast(ExcInfo, sys.exc_info()))
            else:
                self.on_job_execute(job)
        except Exception as error:  # of an overridden hook; the job fails with it
            exchange.error = error

    def _call_after_job(self, shift: Shift) -> None:
        try:
            if not self.after_job():
                shift.end()
        except Exception as error:  # for work() to raise; this job is answered
            shift.end(error)

    # ------------------------------------------------------------------ hooks

    def on_job_execute(self, current_job: GearmanJob) -> bool:
        """Called with each job, in its slot's greenlet; calls its callback and then one of the next two hooks.

        Returns: what that hook returned.
        """
        exchange = current_job.connection
        try:
            if isinstance(exchange, Exchange):
                result = exchange.callback(self, current_job)
            else:
                result = self._callbacks[current_job.task](self, current_job)
            return self.on_job_complete(current_job, result)
        except (*_ENDS_WORK, gevent.GreenletExit):
            raise
        except BaseException as error:  # a gevent.Timeout, or a result that can't be encoded, is the callback's failure
            if isinstance(exchange, Exchange):
                exchange.error = error
            return self.on_job_exception(current_job, cast(ExcInfo, sys.exc_info()))

    def on_job_exception(self, current_job: GearmanJob, exc_info: ExcInfo) -> bool:
        """Called when a callback raised, its result can't be encoded, or the payload can't be decoded.

        By default the job ends with WORK_FAIL, as python-gearman documented it, which every client understands.
        Override it to ``send_job_exception`` where clients are to learn why. The log has the traceback in any case.
        """
        if not _is_answered(current_job):
            self.send_job_failure(current_job)
        return False

    def on_job_complete(self, current_job: GearmanJob, job_result: Any) -> bool:
        """Called with what the callback returned; sends it, unless the callback has answered the job itself."""
        if not _is_answered(current_job):
            self.send_job_complete(current_job, job_result)
        return True

    def after_poll(self, any_activity: bool) -> bool:
        """Called in ``work`` after jobs have ended or job servers have come or gone, and else every ``poll_timeout``.

        Args:
            any_activity: something happened since the last call, or jobs run.

        Returns: whether to go on.
        """
        return True

    def after_job(self) -> bool:
        """Called after each job, in its slot's greenlet, when it is answered.

        Returns: whether to go on; where not, no further job is taken.
        """
        return True

    # ------------------------------------------------------------------ what callbacks send

    def send_job_status(
        self, current_job: GearmanJob, numerator: int, denominator: int, poll_timeout: float | None = None
    ) -> None:
        """Tell how far a job is (WORK_STATUS).

        Args:
            poll_timeout: for compatibility; sending waits only while much is unsent.

        Raises:
            ValueError: not whole numbers from 0 to 4294967295.
            ConnectionLost: the connection that the job came on has ended.
            InvalidWorkerState: the job was answered before.

        Switches: while the connection's output is over its high-water mark.
        """
        current_job.send_status(numerator, denominator)

    def send_job_data(self, current_job: GearmanJob, data: Any, poll_timeout: float | None = None) -> None:
        """Send a part of the result (WORK_DATA). PayloadError: it can't be encoded; else as ``send_job_status``."""
        self._send_update(current_job, PacketType.WORK_DATA, data)

    def send_job_warning(self, current_job: GearmanJob, data: Any, poll_timeout: float | None = None) -> None:
        """Send a warning (WORK_WARNING). PayloadError: it can't be encoded; else as ``send_job_status``."""
        self._send_update(current_job, PacketType.WORK_WARNING, data)

    def send_job_complete(self, current_job: GearmanJob, data: Any, poll_timeout: float | None = None) -> None:
        """End a job with its result (WORK_COMPLETE).

        Raises:
            PayloadError: the result can't be encoded.
            InvalidWorkerState: the job was answered before, or its callback runs in another thread.

        Where the connection has ended nothing is raised: the job server gives the job to somebody else.
        Switches: while the connection's output is over its high-water mark.
        """
        _answer(current_job, PacketType.WORK_COMPLETE, self._encode(data))

    def send_job_exception(self, current_job: GearmanJob, data: Any, poll_timeout: float | None = None) -> None:
        """End a job with an exception (WORK_EXCEPTION), errors as for ``send_job_complete``.

        gearmand without ``--exceptions`` leaves libgearman's clients that did not ask for exceptions waiting for ever.
        """
        _answer(current_job, PacketType.WORK_EXCEPTION, self._encode(data))

    def send_job_failure(self, current_job: GearmanJob, poll_timeout: float | None = None) -> None:
        """End a job without a result (WORK_FAIL), errors as for ``send_job_complete``."""
        _answer(current_job, PacketType.WORK_FAIL, b"")

    def _send_update(self, job: GearmanJob, packet_type: PacketType, data: Any) -> None:
        encoded = self._encode(data)
        if job.connection is not None:
            job.connection.send_update(job, packet_type, encoded)

    def _encode(self, data: Any) -> bytes:
        encoded = self.data_encoder.encode(data)
        if not isinstance(encoded, bytes):
            raise PayloadError(
                f"{self.data_encoder!r} made {type(encoded).__name__} of {type(data).__name__}, not bytes"
            )
        return bytes(encoded)


def _answer(job: GearmanJob, packet_type: PacketType, data: bytes) -> None:
    if isinstance(job.connection, Exchange):
        job.connection.send_answer(job, packet_type, data)


def _is_answered(job: GearmanJob) -> bool:
    return isinstance(job.connection, Exchange) and job.connection.answer is not None
