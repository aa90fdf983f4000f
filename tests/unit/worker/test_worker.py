"""The worker: pools and links put together, ready, drained and stopped; its links are fakes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gevent
import pytest
from gevent.event import Event

from gearworker.errors import ConfigError, InvalidWorkerState
from gearworker.job import GearmanJob
from gearworker.middleware import JobLog
from gearworker.protocol.packets import PacketType
from gearworker.task import Task
from gearworker.worker import worker as worker_module
from gearworker.worker.pool import Pool
from gearworker.worker.worker import PoolPlan, Worker


class FakeLink:
    made: list[FakeLink]

    def __init__(self, address: Any, pool: Pool, tasks: Any, **options: Any) -> None:
        self.address, self.pool, self.tasks, self.options = str(address), pool, list(tasks), options
        self.registered = False
        self.calls: list[str] = []
        self.drained = Event()
        FakeLink.made.append(self)

    def start(self) -> None:
        self.calls.append("start")

    def drain(self) -> None:
        self.calls.append("drain")
        self.drained.wait()

    def stop(self) -> None:
        self.calls.append("stop")

    def tick(self) -> None:
        self.calls.append("tick")


class Answering:
    """What a job's connection is."""

    address, closed = "a:1", False

    def __init__(self) -> None:
        self.finished: list[PacketType] = []

    def send_update(self, job: GearmanJob, packet_type: PacketType, *args: bytes) -> None:
        raise NotImplementedError

    def finish(self, job: GearmanJob, packet_type: PacketType, data: bytes) -> bool:
        self.finished.append(packet_type)
        return True


@pytest.fixture(autouse=True)
def links(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[FakeLink]]:
    FakeLink.made = []
    monkeypatch.setattr(worker_module, "Link", FakeLink)
    yield FakeLink.made
    for link in FakeLink.made:
        link.drained.set()


def task(name: str, handler: Any = lambda job: None) -> Task:
    return Task(name, handler)


def two_pools(**options: Any) -> Worker:
    return Worker(
        ["a:1", ("b", 2)],
        {
            "default": PoolPlan(3, [task("x"), task("y")]),
            "empty": PoolPlan(5, []),
            "images": PoolPlan(1, [task("resize")]),
        },
        **options,
    )


def test_each_pool_has_a_link_to_each_job_server_and_one_without_tasks_is_left_out(links: list[FakeLink]) -> None:
    worker = two_pools(client_id="me")
    assert [(pool.name, pool.concurrency) for pool in worker.pools] == [("default", 3), ("images", 1)]
    assert [(link.address, link.pool.name, link.tasks, link.options["client_id"]) for link in links] == [
        ("a:1", "default", ["x", "y"], "me/default"),
        ("b:2", "default", ["x", "y"], "me/default"),
        ("a:1", "images", ["resize"], "me/images"),
        ("b:2", "images", ["resize"], "me/images"),
    ]
    assert worker.links == links
    assert all(isinstance(link.options["middleware"][0], JobLog) for link in links)


def test_a_single_pool_keeps_the_client_id_as_it_is(links: list[FakeLink]) -> None:
    Worker(["a"], {"default": PoolPlan(1, [task("x")])}, client_id="me")
    assert [link.options["client_id"] for link in links] == ["me"]


def test_an_address_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigError, match="'' is no host"):
        Worker([""], {"default": PoolPlan(1, [task("x")])})


def test_it_starts_once(links: list[FakeLink]) -> None:
    worker = two_pools()
    worker.start()
    assert all(link.calls == ["start"] for link in links)
    with pytest.raises(InvalidWorkerState, match="was started before"):
        worker.start()
    worker.stop()


def test_it_is_ready_when_every_pool_has_a_job_server(links: list[FakeLink]) -> None:
    worker = two_pools()
    assert not worker.ready
    links[0].registered = True
    assert not worker.ready
    links[3].registered = True
    assert worker.ready
    worker.draining = True
    assert not worker.ready


def test_a_worker_without_pools_is_never_ready() -> None:
    assert not Worker(["a"], {}).ready


def test_a_drain_waits_for_all_links_and_then_stops(links: list[FakeLink]) -> None:
    worker = two_pools()
    worker.start()
    draining = gevent.spawn(worker.drain, 10)
    for link in links:
        gevent.sleep(0)
        assert not draining.ready()
        link.drained.set()
    assert draining.get(timeout=5) is True
    assert all(link.calls[:3] == ["start", "drain", "stop"] for link in links)
    assert worker.draining
    assert worker.drain(1) is True


def test_a_drain_ends_with_its_grace(links: list[FakeLink]) -> None:
    worker = two_pools()
    links[0].drained.set()
    assert worker.drain(0.01) is False
    assert all("stop" in link.calls for link in links)


def test_stop_ends_the_handlers_that_run_and_is_idempotent() -> None:
    connection: Any = Answering()
    worker = Worker(["a"], {"default": PoolPlan(2, [task("wait", lambda job: Event().wait())])})
    (pool,) = worker.pools
    pool.take_back(1)
    job = GearmanJob(connection, "H:1", "wait", None, b"")
    pool.dispatch(job)
    gevent.sleep(0)
    gevent.sleep(0)
    assert worker.running_jobs() == [(pool, job)]
    worker.stop()
    assert connection.finished == [PacketType.WORK_EXCEPTION]
    assert worker.running_jobs() == []
    worker.stop()


def test_links_are_ticked_once_a_second(links: list[FakeLink], monkeypatch: pytest.MonkeyPatch) -> None:
    delays = list[float]()

    def sleep(seconds: float) -> None:
        delays.append(seconds)
        if len(delays) > 3:
            raise gevent.GreenletExit

    worker = two_pools()
    with monkeypatch.context() as patched:
        patched.setattr(worker_module.gevent, "sleep", sleep)
        with pytest.raises(gevent.GreenletExit):
            worker._tick()
    assert delays == [1.0] * 4
    assert all(link.calls == ["tick"] * 3 for link in links)
