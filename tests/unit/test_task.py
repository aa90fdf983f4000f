"""Tasks: what can be registered, under which name, and the reason for what can't."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import msgspec
import pytest

from gearworker.encoders import BYTES, JSONEncoder, MessagePackEncoder
from gearworker.errors import JobTimeout, TaskError
from gearworker.job import GearmanJob, GearmanJobRequest
from gearworker.task import Task, TaskRegistry, default_registry, task


class Point(msgspec.Struct):
    x: int


def handler(job: Any) -> Any:
    """Says what it does."""
    return job


def test_the_decorator_takes_the_functions_name_or_another_and_options() -> None:
    registry = TaskRegistry()

    @registry.task
    def plain(job: GearmanJob) -> None: ...

    @registry.task("named", timeout_s=30, retries=3, thread=True, pool="images", encoder="json")
    def anything(job: GearmanJob) -> None: ...

    @registry.task(retries=1)
    def options_only(job: GearmanJob) -> None: ...

    assert [one.name for one in registry] == ["plain", "named", "options_only"]
    named = registry["named"]
    assert (named.timeout_s, named.retries, named.thread, named.pool) == (30, 3, True, "images")
    assert isinstance(named.encoder, JSONEncoder)
    assert (plain.timeout_s, plain.retries, plain.thread, plain.pool) == (None, 0, False, None)
    assert plain.encoder is BYTES
    assert options_only.retries == 1
    assert len(registry) == 3


def test_a_task_is_still_the_plain_function() -> None:
    made = Task("t", handler)
    assert made(5) == 5
    assert made.__doc__ == "Says what it does."
    assert made.__name__ == "handler"  # type: ignore[attr-defined]
    assert made.__wrapped__ is handler  # type: ignore[attr-defined]
    assert "<Task 't' from " in repr(made)
    assert made.source.endswith(f"test_task.py:{handler.__code__.co_firstlineno}")


def test_a_prefix_goes_before_every_name() -> None:
    registry = TaskRegistry("video.")
    assert registry.task(handler).name == "video.handler"
    assert registry.task("cut")(handler).name == "video.cut"
    assert "video.cut" in registry
    assert "cut" not in registry


def test_tasks_are_found_by_name() -> None:
    registry = TaskRegistry()
    made = registry.add(Task("t", handler))
    assert registry["t"] is registry.get("t") is made
    assert registry.get("other") is None
    with pytest.raises(TaskError, match="no task 'other' is registered"):
        registry["other"]


def test_a_name_is_taken_once_but_a_module_may_be_loaded_again() -> None:
    registry = TaskRegistry()

    def make() -> Callable[..., Any]:
        def twice(job: GearmanJob) -> None: ...

        return twice

    registry.task("t")(make())
    again = registry.task("t")(make())
    assert registry["t"] is again
    with pytest.raises(TaskError, match=r"task 't' is registered twice: in .*test_task.py:\d+ and in .*:\d+"):
        registry.task("t")(handler)


def test_the_payload_type_decides_the_encoder() -> None:
    assert Task("t", handler, payload=Point).encoder.decode(b'{"x":1}') == Point(1)
    assert isinstance(Task("t", handler, payload=Point, encoder="msgpack").encoder, MessagePackEncoder)


async def _async(job: GearmanJob) -> None: ...


async def _async_generator(job: GearmanJob) -> Any:
    yield 1


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"timeout_s": 0}, "timeout_s is 0, not a number of seconds above 0"),
        ({"timeout_s": -1}, "timeout_s is -1"),
        ({"timeout_s": True}, "timeout_s is True"),
        ({"timeout_s": "30"}, "timeout_s is '30', not a number of seconds above 0"),
        ({"timeout_s": float("nan")}, "timeout_s is nan"),
        ({"timeout_s": float("inf")}, "timeout_s is inf"),
        ({"retries": -1}, "retries is -1, not a whole number from 0"),
        ({"retries": True}, "retries is True"),
        ({"retries": 1.0}, "retries is 1.0"),
        ({"pool": ""}, "pool is ''"),
        ({"pool": 5}, "pool is 5, not the name of a pool"),
        ({"encoder": "yaml"}, "no encoder 'yaml'"),
        ({"encoder": "text", "payload": Point}, "a payload type goes with"),
        ({"handler": 5}, "5 can't be called"),
        ({"handler": _async}, "the handler is async"),
        ({"handler": _async_generator}, "the handler is async"),
        ({"name": ""}, "the name is empty"),
        ({"name": None}, "the name is None, not text"),
        ({"name": "a b"}, "white space or control characters"),
        ({"name": "a\0"}, "white space or control characters"),
        ({"name": "a\ud800"}, "white space or control characters"),
        ({"name": "ü" * 128}, "the name has 256 bytes; the limit is 255"),
    ],
)
def test_what_cannot_be_a_task_is_refused_with_the_reason_and_the_place(options: Any, reason: str) -> None:
    name, function = options.pop("name", "t"), options.pop("handler", handler)
    with pytest.raises(TaskError, match=reason) as caught:
        Task(name, function, **options)
    assert str(caught.value).startswith(f"task {name!r} (")


def test_the_longest_name_is_taken() -> None:
    assert Task("x" * 255, handler).name == "x" * 255


def test_an_unknown_option_is_named() -> None:
    with pytest.raises(TaskError, match="unexpected keyword argument 'timeout'"):
        TaskRegistry().task("t", timeout=5)(handler)


@pytest.mark.parametrize("prefix", ["", "p."])
def test_a_callable_without_a_name_needs_one(prefix: str) -> None:
    registry = TaskRegistry(prefix)
    nameless = functools.partial(handler)
    with pytest.raises(TaskError, match="the name is empty"):
        registry.task(nameless)
    with pytest.raises(TaskError, match="the name is empty"):
        registry.task("")(handler)
    assert registry.task("named")(nameless).name == f"{prefix}named"


def test_the_module_level_decorator_registers_in_the_default_registry() -> None:
    assert task.__self__ is default_registry  # type: ignore[attr-defined]


class RecordingClient:
    """Notes what it is asked to submit."""

    def __init__(self, request: GearmanJobRequest | None = None) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.request = request

    def submit_job(self, task: str, data: Any, **options: Any) -> Any:
        self.calls.append((task, data, options))
        return self.request

    def map(self, task: str, payloads: Iterable[Any], **options: Any) -> Iterator[Any]:
        self.calls.append((task, list(payloads), options))
        return iter(())


def background_request() -> GearmanJobRequest:
    return GearmanJobRequest(GearmanJob(None, None, "t", None, b""), background=True)


class TestSubmitting:
    def test_the_task_s_name_and_encoder_go_with_it(self) -> None:
        client, registered = RecordingClient(), TaskRegistry("x.").task("add", encoder="json")(lambda job: None)
        registered.submit([1], client=client, unique="u")
        registered.map([[1], [2]], client=client, concurrency=2)
        encoder = registered.encoder
        assert client.calls == [
            ("x.add", [1], {"encoder": encoder, "unique": "u"}),
            ("x.add", [[1], [2]], {"encoder": encoder, "concurrency": 2}),
        ]

    def test_a_result_need_not_be_of_the_payload_s_type(self) -> None:
        client, registered = RecordingClient(), TaskRegistry().task("count", payload=list[int])(len)
        registered.submit([1, 2], client=client)
        (_, _, options) = client.calls[0]
        assert options["encoder"].decode(b'{"sum": 3}') == {"sum": 3}

    def test_a_background_job_that_was_not_accepted_raises(self) -> None:
        registered = TaskRegistry().task("t")(lambda job: None)
        refused = background_request()
        refused.state, refused.exception = "FAILED", ValueError("full")
        with pytest.raises(ValueError, match="full"):
            registered.submit_background(b"x", client=RecordingClient(refused))
        late = background_request()
        late.timed_out = True
        with pytest.raises(JobTimeout):
            registered.submit_background(b"x", client=RecordingClient(late), poll_timeout=3)

    def test_without_any_client(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(TaskRegistry, "client_factory", None)
        with pytest.raises(TaskError, match="task 't' has no client to submit by"):
            TaskRegistry().task("t")(lambda job: None).submit(b"x")

    def test_the_default_client_is_the_package_s(self, monkeypatch: pytest.MonkeyPatch) -> None:
        client = RecordingClient()
        monkeypatch.setattr(TaskRegistry, "client_factory", lambda: client)
        TaskRegistry().task("t")(lambda job: None).submit(b"x")
        assert [call[:2] for call in client.calls] == [("t", b"x")]
