"""The worker: pools and links together, their start, drain and stop."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gevent

from gearworker.errors import InvalidWorkerState
from gearworker.job import GearmanJob
from gearworker.middleware import JobLog, Middleware
from gearworker.net.address import Address, AddressLike
from gearworker.task import Task
from gearworker.worker.link import Link
from gearworker.worker.pool import DEFAULT_MAX_IN_FLIGHT_BYTES, Pool
from gearworker.worker.runner import Runner
from gearworker.worker.session import LinkSettings


@dataclass(frozen=True)
class PoolPlan:
    """What a pool is to be: how many jobs at a time, of which tasks, the most urgent first."""

    concurrency: int
    tasks: Sequence[Task]


class Worker:
    """Serves tasks from one or more job servers.

    Args:
        job_servers: their addresses.
        pools: the pools by name; a pool without tasks is left out.
        client_id: shown by the admin command ``workers``; with several pools, the pool's name is added.
        settings: timeouts and limits of the connections.
        max_in_flight_bytes: for each pool, the size of payloads in hand above which no more are read.
        middleware: hooks around each job, in this order.
        exceptions_as_fail: answer exceptions of handlers with WORK_WARNING and WORK_FAIL.
    """

    def __init__(
        self,
        job_servers: Iterable[AddressLike],
        pools: Mapping[str, PoolPlan],
        *,
        client_id: str = "",
        settings: LinkSettings | None = None,
        max_in_flight_bytes: int = DEFAULT_MAX_IN_FLIGHT_BYTES,
        middleware: Sequence[Middleware] = (),
        exceptions_as_fail: bool = False,
    ) -> None:
        addresses = [Address.parse(address) for address in job_servers]
        plans = {name: plan for name, plan in pools.items() if plan.tasks}
        middleware = (JobLog(), *middleware)
        self.draining = False
        self.pools: list[Pool] = []
        self.links: list[Link] = []
        self._runners: list[Runner] = []
        for name, plan in plans.items():
            runner = Runner(plan.tasks, middleware, max_threads=plan.concurrency, exceptions_as_fail=exceptions_as_fail)
            pool = Pool(name, plan.concurrency, runner.run, max_in_flight_bytes=max_in_flight_bytes)
            self._runners.append(runner)
            self.pools.append(pool)
            own_id = f"{client_id}/{name}" if client_id and len(plans) > 1 else client_id
            tasks = [task.name for task in plan.tasks]
            self.links.extend(
                Link(address, pool, tasks, client_id=own_id, settings=settings, middleware=middleware)
                for address in addresses
            )
        self._ticker: gevent.Greenlet[[], Any] | None = None

    def start(self) -> None:
        """Connect to the job servers and serve, in the background.

        Raises:
            InvalidWorkerState: it was started before.
        """
        if self._ticker is not None:
            raise InvalidWorkerState("this worker was started before")
        self._ticker = gevent.spawn(self._tick)
        for link in self.links:
            link.start()

    def drain(self, grace_s: float) -> bool:
        """Take no new jobs, finish those in hand, disconnect. Idempotent.

        Args:
            grace_s: how long the jobs in hand may take, in seconds; after that the connections are closed, and the
                job servers give the unfinished jobs to somebody else.

        Returns: whether all jobs in hand were finished.

        Switches: up to ``grace_s``.
        """
        self.draining = True
        drains = [gevent.spawn(link.drain) for link in self.links]
        gevent.joinall(drains, timeout=grace_s)
        finished = all(drain.ready() for drain in drains)
        gevent.killall(drains)
        self.stop()
        return finished

    def stop(self) -> None:
        """Disconnect at once and end the handlers that run. Idempotent. Switches: until they have ended."""
        self.draining = True
        if self._ticker is not None:
            self._ticker.kill()
        for link in self.links:
            link.stop()
        for runner in self._runners:
            runner.stop()
        for pool in self.pools:
            pool.kill()

    @property
    def ready(self) -> bool:
        """Whether every pool is registered at one job server at least, and the worker is not draining."""
        registered = {link.pool.name for link in self.links if link.registered}
        return bool(self.pools) and not self.draining and registered == {pool.name for pool in self.pools}

    def running_jobs(self) -> list[tuple[Pool, GearmanJob]]:
        """The jobs that run now, each with its pool."""
        return [(pool, job) for pool in self.pools for job in pool.running]

    def _tick(self) -> None:
        while True:
            gevent.sleep(1.0)
            for link in self.links:
                link.tick()
