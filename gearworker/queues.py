"""How deep the job servers' queues are, asked over the admin protocol for the metrics."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

import gevent
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from gearworker.errors import GearmanError
from gearworker.net.address import Address
from gearworker.net.connection import connect
from gearworker.protocol import text
from gearworker.protocol.text import TaskStatus

QUEUE_TIMEOUT_S: Final = 1.0
_MAX_REPLY_BYTES: Final = 16 * 1024 * 1024


def fetch_status(address: Address, *, timeout_s: float = QUEUE_TIMEOUT_S) -> tuple[TaskStatus, ...] | None:
    """What a job server's ``status`` says; None where it does not answer in time.

    Switches: up to ``timeout_s``.
    """
    request = text.status()
    with gevent.Timeout(timeout_s, False):  # type: ignore[arg-type]  # False: end quietly
        try:
            connection = connect(address, timeout_s=timeout_s)
            try:
                connection.write(request.line)
                reply = bytearray()
                while not request.is_complete(bytes(reply)) and len(reply) < _MAX_REPLY_BYTES:
                    reply += connection.recv()
                return request.parse(bytes(reply))
            finally:
                connection.close()
        except GearmanError:
            pass
    return None


class QueueCollector(Collector):
    """Gives Prometheus the queues of the tasks served here, summed over the job servers.

    Args:
        addresses: the job servers.
        tasks: the names of the tasks served; a stranger's tasks are left out.
    """

    def __init__(self, addresses: Sequence[Address], tasks: Callable[[], Iterable[str]]) -> None:
        self._addresses, self._tasks = addresses, tasks

    def collect(self) -> Iterator[Metric]:
        """The families, as the job servers answer now. Switches: until they do, within ``QUEUE_TIMEOUT_S``."""
        jobs = GaugeMetricFamily("gearworker_queue_jobs", "Jobs in the job servers, by state", labels=["task", "state"])
        workers = GaugeMetricFamily("gearworker_queue_workers", "Workers that registered the task", labels=["task"])
        served = set(self._tasks())
        sums: dict[str, tuple[int, int, int]] = dict.fromkeys(sorted(served), (0, 0, 0))
        asked = [gevent.spawn(fetch_status, address) for address in self._addresses]
        gevent.joinall(asked)
        answered = [greenlet.value for greenlet in asked if greenlet.value is not None]
        for row in (row for rows in answered for row in rows):
            if row.task in served:
                total, running, count = sums[row.task]
                sums[row.task] = total + row.total, running + row.running, count + row.workers
        if answered:  # otherwise nobody knows, which is not the same as zero
            for task, (total, running, count) in sums.items():
                jobs.add_metric([task, "queued"], max(0, total - running))
                jobs.add_metric([task, "running"], running)
                workers.add_metric([task], count)
        yield from (jobs, workers)
