"""A worker in this very process, without supervisor (``processes: 0``): for debugging, and for embedding in tests.

Signals: TERM and INT drain within the grace, a second one stops at once, as QUIT does; USR2 logs every running job and
greenlet's stack. Exit codes are those of ``gearworker.service.stopping``.
"""

from __future__ import annotations

import logging
import signal
from typing import Any

import gevent

from gearworker.config import Config
from gearworker.counts import JobCounter
from gearworker.http.app import Sources
from gearworker.metrics import CountsCollector, HubLag, make_registry
from gearworker.queues import QueueCollector
from gearworker.service.assembly import (
    describe,
    make_embedded_job_server,
    make_worker,
    resolve_addresses,
    running_jobs,
    start_embedded_job_server,
    start_endpoint,
)
from gearworker.service.stopping import STOP_SIGNALS, Commands, log_stacks, run_until_stopped
from gearworker.systemd import Notifier
from gearworker.task import TaskRegistry

log = logging.getLogger(__name__)


def serve(config: Config, registry: TaskRegistry) -> int:
    """Serve the registry's tasks until a signal ends it.

    Args:
        config: what the file said.
        registry: the tasks, all of them imported.

    Returns: the process's exit code.

    Raises:
        ConfigError: pools, job servers, the HTTP address or the embedded job server's can't be used.

    Switches: all the time.
    """
    commands, notifier = Commands(), Notifier()
    embedded = make_embedded_job_server(config)
    addresses = resolve_addresses(config, embedded.address if embedded else None)
    counter = JobCounter([task.name for task in registry], [str(address) for address in addresses])
    worker = make_worker(config, registry, addresses, [counter])
    hub_lag = HubLag()
    endpoint = None
    watchers: list[Any] = [gevent.signal_handler(number, commands.put, number) for number in STOP_SIGNALS]
    watchers.append(gevent.signal_handler(signal.SIGUSR2, log_stacks, worker))
    try:
        hub_lag.start()
        start_embedded_job_server(config, embedded)
        sources = Sources(
            registry=make_registry(
                CountsCollector(lambda: counter.snapshot(worker, hub_lag.take_s())),
                QueueCollector(addresses, lambda: counter.tasks),
            ),
            alive=lambda: True,  # that it answers shows that the hub turns
            ready=lambda: worker.ready,
            running_jobs=lambda: running_jobs(worker),
        )
        endpoint = start_endpoint(config, sources)
        worker.start()
        notifier.ready(f"serving {len(registry)} tasks in {describe(worker)}")
        log.info("serving %d tasks in %s; stop with SIGTERM", len(registry), describe(worker))
        return run_until_stopped(worker, commands, config.shutdown.grace_s)
    finally:
        notifier.stopping()
        worker.stop()
        for part in (endpoint, embedded, hub_lag):
            if part is not None:
                part.stop()
        for watcher in watchers:
            watcher.cancel()
