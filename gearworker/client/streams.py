"""Generators over jobs: the updates of one as they come, and the results of many with bounded memory."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any, Final, TypeVar

from gearworker.client.exchange import Exchange
from gearworker.client.hub import Home
from gearworker.client.updates import JobUpdate, StreamedRequest
from gearworker.client.waiting import Arrivals, Deadline
from gearworker.errors import ConnectionLost, JobTimeout
from gearworker.request import JOB_UNKNOWN, GearmanJobRequest

_SUBMIT_S: Final = 30.0
R = TypeVar("R", bound=GearmanJobRequest)


def stream_updates(home: Home[Exchange], request: StreamedRequest, timeout_s: float | None) -> Iterator[JobUpdate]:
    """Submit a prepared request; give its updates as they come, and how it ended as the last.

    Raises:
        JobTimeout, ConnectionLost, JobLost, JobServerError, PayloadError: no outcome of the job will come.

    Switches: in a greenlet; in a plain thread it blocks that thread.
    """
    deadline = Deadline(timeout_s)
    home.call(home.guest.accept, [request], deadline)
    while home.call(home.guest.wait_for_updates, request, deadline):
        while request.updates:
            yield request.updates.popleft()
    yield _ended(request, timeout_s).final_update()


def map_results(
    home: Home[Exchange],
    requests: Iterator[GearmanJobRequest],
    concurrency: int,
    timeout_s: float | None,
    *,
    ordered: bool,
) -> Iterator[Any]:
    """Submit prepared requests, never more than ``concurrency`` under way; give their results.

    Args:
        timeout_s: the longest wait for the next result.
        ordered: in the order of the requests, not in that of their ends.

    Raises, switches: as ``stream_updates``; JobFailed where a job failed.
    """
    arrivals = Arrivals(ordered=ordered)
    while True:
        fresh = list(islice(requests, concurrency - len(arrivals)))
        if fresh:
            home.call(arrivals.submit, home.guest.send, fresh, Deadline(_SUBMIT_S))
        if not len(arrivals):
            return
        ended = home.call(arrivals.take, home.guest.send, Deadline(timeout_s))
        if not ended:
            raise JobTimeout(timeout_s or 0.0)
        for request in ended:
            yield _ended(request, timeout_s).result_or_raise()


def _ended(request: R, timeout_s: float | None) -> R:
    """The request, where it has ended.

    Raises:
        JobTimeout: the wait was too short.
        ConnectionLost: its connection was lost.
    """
    if request.timed_out:
        raise JobTimeout(timeout_s or 0.0)
    if request.state == JOB_UNKNOWN:
        link = request.gearman_job.connection
        raise ConnectionLost(link.address if link else None, f"the connection of {request!r} was lost")
    return request
