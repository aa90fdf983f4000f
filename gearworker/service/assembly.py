"""From a configuration to the parts that it describes: addresses, the embedded job server, the worker, the endpoint."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from gearworker.config import Config
from gearworker.errors import ConfigError, ServerUnavailable
from gearworker.http.app import EndpointApp, RunningJob, Sources
from gearworker.http.server import Endpoint
from gearworker.jobserver import EmbeddedJobServer
from gearworker.middleware import Middleware
from gearworker.net.address import Address, AddressLike
from gearworker.protocol.packets import DEFAULT_PORT
from gearworker.task import TaskRegistry
from gearworker.worker.session import LinkSettings
from gearworker.worker.worker import PoolPlan, Worker

_EMBEDDED: Final = "embedded"


def make_embedded_job_server(config: Config) -> EmbeddedJobServer | None:
    """The embedded job server, not started, where the configuration has "embedded" or "embedded:PORT"."""
    for server in config.addresses():
        if _is_embedded(server):
            return EmbeddedJobServer(port=int(str(server).partition(":")[2] or DEFAULT_PORT))
    return None


def start_embedded_job_server(config: Config, embedded: EmbeddedJobServer | None) -> None:
    """Start the embedded job server, if there is one.

    Raises:
        ConfigError: it can't listen, such as on a port in use.
    """
    if embedded is not None:
        try:
            embedded.start()
        except ServerUnavailable as error:
            raise config.error("job_servers", f"the embedded job server at {error.address}: {error.reason}") from None


def resolve_addresses(config: Config, embedded_address: str | None) -> list[Address]:
    """The job servers' addresses.

    Args:
        embedded_address: where the embedded job server listens, if there is one.

    Raises:
        ConfigError: one of them is no address.
    """
    addresses = []
    for index, server in enumerate(config.addresses()):
        value: AddressLike = embedded_address if embedded_address and _is_embedded(server) else server
        try:
            addresses.append(Address.parse(value))
        except ConfigError as error:
            raise config.error(f"job_servers[{index}]", error.reason) from None
    return addresses


def make_worker(
    config: Config, registry: TaskRegistry, addresses: Sequence[Address], middleware: Sequence[Middleware] = ()
) -> Worker:
    """A worker as the configuration describes it, not started.

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
    plans = {
        name: PoolPlan(config.pools[name].concurrency, [registry[task] for task in tasks])
        for name, tasks in assigned.items()
    }
    return Worker(
        addresses,
        plans,
        client_id=config.client_id_for(),
        settings=settings,
        max_in_flight_bytes=config.max_in_flight_bytes,
        middleware=middleware,
        exceptions_as_fail=config.on_exception == "fail",
    )


def start_endpoint(config: Config, sources: Sources) -> Endpoint | None:
    """The HTTP endpoint, listening; None where the configuration turns it off.

    Raises:
        ConfigError: its address can't be listened on.
    """
    if config.http is None:
        return None
    endpoint = Endpoint(config.http.listen, EndpointApp(sources))
    try:
        endpoint.start()
    except ConfigError as error:
        raise config.error(error.key or "http.listen", error.reason) from None
    return endpoint


def running_jobs(worker: Worker) -> list[RunningJob]:
    """What runs now in a worker, as the endpoint shows it."""
    return [
        RunningJob(pool.name, job.task, _printable(job.handle or ""), job.started_at, job.attempt, job.status)
        for pool, job in worker.running_jobs()
    ]


def _printable(handle: str) -> str:
    """A handle that UTF-8 can carry, whatever bytes a job server made it of."""
    return handle.encode("utf-8", "backslashreplace").decode()


def describe(worker: Worker) -> str:
    """A worker's pools in a line for the log."""
    pools = ", ".join(f"{pool.name} ({pool.concurrency})" for pool in worker.pools)
    return f"pools {pools}" if len(worker.pools) > 1 else f"pool {pools}"


def _is_embedded(server: object) -> bool:
    return isinstance(server, str) and server.partition(":")[0] == _EMBEDDED
