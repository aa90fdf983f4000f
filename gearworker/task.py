"""Tasks: the decorator that registers a handler under a task's name, and the registry that holds them.

``@task`` leaves the handler a plain callable: calling the ``Task`` calls the function, so users' tests need no worker.
"""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable, Iterable, Iterator
from math import inf
from typing import Any, ClassVar, Protocol, overload

from gearworker.encoders import Encoder, find_encoder
from gearworker.errors import JobTimeout, PayloadError, TaskError
from gearworker.protocol.packets import MAX_ARGUMENT_BYTES
from gearworker.request import GearmanJobRequest

Handler = Callable[..., Any]


class SubmittingClient(Protocol):
    """What a task needs of a client to submit itself; a ``GearmanClient`` is one."""

    def submit_job(self, task: str, data: Any, **options: Any) -> GearmanJobRequest:
        """Submit one job."""

    def map(self, task: str, payloads: Iterable[Any], **options: Any) -> Iterator[Any]:
        """Run one task over many payloads."""


class Task:
    """A handler registered under a task's name, with its options; still callable as the plain function.

    Args:
        name: the task's name on the wire, any registry-wide prefix included.
        handler: called with the ``GearmanJob``; returns the result or is a generator whose items are sent as WORK_DATA.
        encoder: "bytes", "text", "json", "msgpack" or an object with encode and decode; by default bytes, or JSON where
            ``payload`` is given.
        payload: the type that a JSON or MessagePack payload is decoded to and checked against.
        timeout_s: the longest that one attempt may run, in seconds; None for no limit.
        retries: how often a handler that raised (other than FailJob) is called again before the job fails.
        thread: run the handler in a native thread, for code that blocks without yielding to other greenlets.
        pool: the pool that serves it; None leaves that to the configuration.

    Raises:
        TaskError: an unusable name, handler or option; the message names the task and where it is defined.
    """

    def __init__(
        self,
        name: str,
        handler: Handler,
        *,
        encoder: str | Encoder | type[Encoder] | None = None,
        payload: Any = None,
        timeout_s: float | None = None,
        retries: int = 0,
        thread: bool = False,
        pool: str | None = None,
    ) -> None:
        functools.update_wrapper(self, handler)
        self.name = name
        self.handler = handler
        self.source = _place(handler)
        self.payload, self.timeout_s, self.retries, self.thread, self.pool = payload, timeout_s, retries, thread, pool
        reason = _name_fault(name) or self._option_fault()
        if reason is None:
            try:
                self.encoder = find_encoder(encoder, payload)
                # A result need not be of the payload's type, so the submitting side decodes without it.
                self._result_encoder = self.encoder if payload is None else find_encoder(_name_of(self.encoder))
            except (PayloadError, TypeError) as error:
                reason = str(error)
        if reason is not None:
            raise TaskError(f"task {name!r} ({self.source}): {reason}")

    def _option_fault(self) -> str | None:
        if not callable(self.handler):
            return f"{self.handler!r} can't be called"
        if inspect.iscoroutinefunction(self.handler) or inspect.isasyncgenfunction(self.handler):
            return "the handler is async; under gevent a plain function does the same, without async and await"
        timeout_s, retries = self.timeout_s, self.retries
        if timeout_s is not None and not _is_seconds(timeout_s):
            return f"timeout_s is {timeout_s!r}, not a number of seconds above 0"
        if isinstance(retries, bool) or not isinstance(retries, int) or retries < 0:
            return f"retries is {retries!r}, not a whole number from 0"
        if self.pool is not None and (not isinstance(self.pool, str) or not self.pool):
            return f"pool is {self.pool!r}, not the name of a pool"
        return None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the handler as the plain function it is."""
        return self.handler(*args, **kwargs)

    # ------------------------------------------------------------------ the submitting side

    def submit(self, data: Any = None, *, client: SubmittingClient | None = None, **options: Any) -> GearmanJobRequest:
        """Submit a job of this task and wait for its end.

        Args:
            data: the payload, for the task's encoder, which also decodes the result.
            client: a ``GearmanClient``; by default the one of ``gearworker.client.default_client()``.
            options: as for ``GearmanClient.submit_job``.

        Returns: the request, whose state tells the job's fate; ``result_or_raise()`` gives the result or raises.

        Raises, switches: as ``GearmanClient.submit_job``.
        """
        return self._client(client).submit_job(self.name, data, encoder=self._result_encoder, **options)

    def submit_background(
        self, data: Any = None, *, client: SubmittingClient | None = None, **options: Any
    ) -> GearmanJobRequest:
        """Submit a background job of this task; return when a job server has accepted it.

        Arguments, errors and switches as for ``submit``; and it raises what kept the job from being accepted, since
        nobody looks at a background job's request later.
        """
        request = self.submit(data, client=client, background=True, **options)
        if request.timed_out:
            raise JobTimeout(options["poll_timeout"])
        if not request.complete:
            request.result_or_raise()
        return request

    def map(self, payloads: Iterable[Any], *, client: SubmittingClient | None = None, **options: Any) -> Iterator[Any]:
        """Run this task over many payloads; give the results lazily, as ``GearmanClient.map`` does."""
        return self._client(client).map(self.name, payloads, encoder=self._result_encoder, **options)

    def _client(self, client: SubmittingClient | None) -> SubmittingClient:
        if client is not None:
            return client
        if TaskRegistry.client_factory is None:
            raise TaskError(f"task {self.name!r} has no client to submit by; give it one: client=GearmanClient([...])")
        return TaskRegistry.client_factory()

    def __repr__(self) -> str:
        return f"<Task {self.name!r} from {self.source}>"


class TaskRegistry:
    """The tasks of an application, by name.

    Args:
        prefix: put before the name of every task that is registered.

    Attributes (of the class):
        client_factory: gives the client by which tasks submit themselves where they are given none. Clients live on a
            higher floor than this module, so the package's front door sets it.
    """

    client_factory: ClassVar[Callable[[], SubmittingClient] | None] = None

    def __init__(self, prefix: str = "") -> None:
        self.prefix = prefix
        self._tasks: dict[str, Task] = {}

    @overload
    def task(self, name: Handler, /) -> Task: ...

    @overload
    def task(self, name: str | None = None, /, **options: Any) -> Callable[[Handler], Task]: ...

    def task(self, name: str | Handler | None = None, /, **options: Any) -> Task | Callable[[Handler], Task]:
        """Register a handler: ``@task``, ``@task("name")`` or ``@task("name", timeout_s=30, ...)``.

        Args:
            name: the task's name; the function's where none is given.
            options: as for ``Task``.

        Raises:
            TaskError: the name is taken, or unusable, or an option is.
        """
        if callable(name):
            return self.task()(name)

        def decorate(handler: Handler) -> Task:
            own_name = name if name is not None else getattr(handler, "__name__", "")
            if not own_name:
                raise TaskError(f"task {own_name!r} ({_place(handler)}): the name is empty")
            try:
                registered = Task(self.prefix + own_name, handler, **options)
            except TypeError as error:
                raise TaskError(f"task {own_name!r} ({_place(handler)}): {_option_reason(error)}") from None
            return self.add(registered)

        return decorate

    def add(self, task: Task) -> Task:
        """Add a task that was made by hand.

        Raises:
            TaskError: another handler has this name; both places are named.
        """
        known = self._tasks.get(task.name)
        if known is not None and known.source != task.source:
            raise TaskError(f"task {task.name!r} is registered twice: in {known.source} and in {task.source}")
        self._tasks[task.name] = task
        return task

    def get(self, name: str) -> Task | None:
        """The task of this name, prefix included."""
        return self._tasks.get(name)

    def __getitem__(self, name: str) -> Task:
        try:
            return self._tasks[name]
        except KeyError:
            raise TaskError(f"no task {name!r} is registered") from None

    def __contains__(self, name: object) -> bool:
        return name in self._tasks

    def __iter__(self) -> Iterator[Task]:
        return iter(self._tasks.values())

    def __len__(self) -> int:
        return len(self._tasks)


default_registry = TaskRegistry()
"""Where ``@task`` registers; ``gearworker run`` serves it."""

task = default_registry.task


def _name_of(encoder: Encoder) -> str:
    return str(getattr(encoder, "name", "json"))


def _is_seconds(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < inf


def _name_fault(name: object) -> str | None:
    """What is wrong with a task's name; None where nothing is."""
    if not isinstance(name, str) or not name:
        return "the name is empty" if name == "" else f"the name is {name!r}, not text"
    if any(character.isspace() or not character.isprintable() for character in name):
        return "the name holds white space or control characters, which the admin protocol can't carry"
    size = len(name.encode("utf-8", "surrogateescape"))
    if size > MAX_ARGUMENT_BYTES["task"]:
        return f"the name has {size} bytes; the limit is {MAX_ARGUMENT_BYTES['task']}"
    return None


def _option_reason(error: TypeError) -> str:
    return str(error).partition(") ")[2] or str(error)


def _place(handler: Any) -> str:
    """Where a handler is defined, as ``path/to/file.py:12``."""
    code = getattr(inspect.unwrap(handler) if callable(handler) else handler, "__code__", None)
    if code is None:
        return f"{getattr(handler, '__module__', '?')}.{getattr(handler, '__qualname__', type(handler).__name__)}"
    path = os.path.relpath(code.co_filename) if os.path.isabs(code.co_filename) else code.co_filename
    return f"{code.co_filename if path.startswith('..') else path}:{code.co_firstlineno}"
