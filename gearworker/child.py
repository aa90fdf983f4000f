"""One worker process: a worker, its HTTP endpoint and its signals, from start to exit code.

Signals: TERM and INT drain within the grace, a second one stops at once, as QUIT does. A signal's handler only notes
it; the loop in ``_until_stopped`` acts.

Exit codes: 0 after a whole drain; ``EXIT_GRACE_OVER`` where the grace ended before the jobs did, which the job server
then gives to somebody else; 128 and the signal's number after a stop at once.
"""

from __future__ import annotations

import logging
import signal
from time import monotonic
from typing import Any, Final, TypeAlias

import gevent
from gevent.queue import SimpleQueue

from gearworker.config import Config
from gearworker.errors import ConfigError
from gearworker.http.app import EndpointApp, RunningJob, Sources
from gearworker.http.server import Endpoint
from gearworker.jobserver import EmbeddedJobServer
from gearworker.metrics import HubLag, JobMetrics, make_registry
from gearworker.net.address import Address, AddressLike
from gearworker.protocol.packets import DEFAULT_PORT
from gearworker.task import TaskRegistry
from gearworker.worker.session import LinkSettings
from gearworker.worker.worker import PoolPlan, Worker

log = logging.getLogger(__name__)

EXIT_GRACE_OVER: Final = 3
_EMBEDDED: Final = "embedded"
_STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)

_Signals: TypeAlias = "SimpleQueue[signal.Signals | None]"
"""Signals as they came; None says that the drain has ended."""


def serve(config: Config, registry: TaskRegistry) -> int:
    """Serve the registry's tasks until a signal ends it.

    Args:
        config: what the file said.
        registry: the tasks, all of them imported.

    Returns: the process's exit code.

    Raises:
        ConfigError: pools, job servers or the HTTP address can't be used.
        ServerUnavailable: the embedded job server can't listen.

    Switches: all the time.
    """
    signals: _Signals = SimpleQueue()
    watchers: list[Any] = [gevent.signal_handler(number, signals.put, number) for number in _STOP_SIGNALS]
    embedded = _embedded_job_server(config)
    addresses = _addresses(config, embedded)
    metrics = JobMetrics([task.name for task in registry], [str(address) for address in addresses])
    worker = make_worker(config, registry, addresses, metrics)
    hub_lag = HubLag(monotonic)
    endpoint = _endpoint(config, worker, metrics, hub_lag)
    try:
        hub_lag.start()
        if embedded is not None:
            embedded.start()
        if endpoint is not None:
            _start_endpoint(config, endpoint)
        worker.start()
        log.info("serving %s; stop with SIGTERM", _summary(worker, registry))
        return _until_stopped(worker, signals, config.shutdown.grace_s)
    finally:
        worker.stop()
        if endpoint is not None:
            endpoint.stop()
        if embedded is not None:
            embedded.stop()
        hub_lag.stop()
        for watcher in watchers:
            watcher.cancel()


def make_worker(
    config: Config, registry: TaskRegistry, addresses: list[Address], metrics: JobMetrics | None = None
) -> Worker:
    """A worker as the configuration describes it.

    Raises:
        ConfigError: a task that two pools claim, or that asks for a pool that there isn't.
    """
    assigned = config.assign_pools({task.name: task.pool for task in registry})
    link = config.connection
    settings = LinkSettings(
        connect_timeout_s=link.connect_timeout_s,
        heartbeat_s=link.heartbeat_s,
        heartbeat_timeout_s=link.heartbeat_timeout_s,
        reconnect_max_s=link.reconnect_max_s,
        poll_s=link.poll_s,
        max_packet_bytes=link.max_packet_bytes,
    )
    return Worker(
        addresses,
        {
            name: PoolPlan(config.pools[name].concurrency, [registry[task] for task in tasks])
            for name, tasks in assigned.items()
        },
        client_id=config.client_id_for(),
        settings=settings,
        max_in_flight_bytes=config.max_in_flight_bytes,
        middleware=[metrics] if metrics is not None else [],
    )


def _until_stopped(worker: Worker, signals: _Signals, grace_s: float) -> int:
    """Wait for a signal and do what it says; give the exit code."""
    first = signals.get()
    assert first is not None
    if first is not signal.SIGQUIT:
        running = len(worker.running_jobs())
        log.info("%s: draining, %d jobs running, up to %g s", first.name, running, grace_s)
        drain = gevent.spawn(worker.drain, grace_s)
        drain.link(lambda _: signals.put(None))
        second = signals.get()
        if second is None:
            return _drained(bool(drain.get()), grace_s)
        drain.kill(block=False)
        first = second
    log.warning("%s: stopping at once; the job server gives unfinished jobs to others", first.name)
    return 128 + first


def _drained(finished: bool, grace_s: float) -> int:
    if finished:
        log.info("drained, every job answered")
        return 0
    log.error("jobs still ran when the grace of %g s was over; the job server gives them to others", grace_s)
    return EXIT_GRACE_OVER


def _embedded_job_server(config: Config) -> EmbeddedJobServer | None:
    """The embedded job server, where the configuration has "embedded" or "embedded:PORT"."""
    for server in config.addresses():
        if isinstance(server, str) and server.partition(":")[0] == _EMBEDDED:
            return EmbeddedJobServer(port=int(server.partition(":")[2] or DEFAULT_PORT))
    return None


def _addresses(config: Config, embedded: EmbeddedJobServer | None) -> list[Address]:
    addresses = []
    for index, server in enumerate(config.addresses()):
        value: AddressLike = server
        if embedded is not None and isinstance(server, str) and server.partition(":")[0] == _EMBEDDED:
            value = embedded.address
        try:
            addresses.append(Address.parse(value))
        except ConfigError as error:
            raise config.error(f"job_servers[{index}]", error.reason) from None
    return addresses


def _endpoint(config: Config, worker: Worker, metrics: JobMetrics, hub_lag: HubLag) -> Endpoint | None:
    if config.http is None:
        return None
    sources = Sources(
        registry=make_registry(metrics, worker, hub_lag),
        alive=lambda: True,  # that it answers shows that the hub turns
        ready=lambda: worker.ready,
        running_jobs=lambda: _running_jobs(worker),
    )
    return Endpoint(config.http.listen, EndpointApp(sources))


def _start_endpoint(config: Config, endpoint: Endpoint) -> None:
    try:
        endpoint.start()
    except ConfigError as error:
        raise config.error(error.key or "http.listen", error.reason) from None


def _running_jobs(worker: Worker) -> list[RunningJob]:
    return [
        RunningJob(pool.name, job.task, job.handle or "", job.started_at, job.attempt, job.status)
        for pool, job in worker.running_jobs()
    ]


def _summary(worker: Worker, registry: TaskRegistry) -> str:
    pools = ", ".join(f"{pool.name} ({pool.concurrency})" for pool in worker.pools)
    return f"{len(registry)} tasks in {len(worker.pools)} pools: {pools}"
