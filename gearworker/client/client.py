"""``GearmanClient``: submit jobs and follow them, from greenlets and from plain threads alike.

Names, arguments and behaviour are those that python-gearman 2.0 documented; ``stream``, ``map``, delayed and reduce
jobs and the look-up by unique come on top. A client may be shared: any number of greenlets and threads use it at once,
over one connection to each job server (``client.hub`` tells where it lives), and no monkey patching is needed for that.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Any, ClassVar

from gearworker.client.exchange import Exchange, UniqueStatus
from gearworker.client.hub import Home, Homes, parse_hosts
from gearworker.client.link import Link
from gearworker.client.streams import map_results, stream_updates
from gearworker.client.submission import prepare, request_of
from gearworker.client.updates import JobUpdate, StreamedRequest
from gearworker.client.waiting import Deadline
from gearworker.encoders import BYTES, Encoder
from gearworker.net.address import Address, AddressLike
from gearworker.protocol.client import unique_bytes
from gearworker.protocol.codec import DEFAULT_MAX_PACKET_BYTES
from gearworker.request import JOB_UNKNOWN, PRIORITY_NONE, GearmanJobRequest

JOB_SERVERS_VARIABLE = "GEARWORKER_JOB_SERVERS"


class GearmanClient:
    """Submits jobs to job servers.

    Args:
        host_list: the job servers, each in any form that ``Address.parse`` takes; one alone may stand without a list.
        random_unique_bytes: random bytes in a unique that the client makes, 1 to 31; it has twice as many characters.

    Attributes (of the class, to be overridden before the first call):
        data_encoder: turns submitted data into bytes, and results, updates and exceptions back.
        connect_timeout_s: for each attempt to connect.
        answer_timeout_s: a connection with open questions that brings nothing at all for so long is given up.
        status_interval_s: a foreground job that is silent for so long is looked up; see ``JobLost``.
        max_packet_bytes: a larger result ends its request FAILED with ``PayloadError``.
        shuffle_servers: choose job servers at random, as python-gearman did, not by the unique.
        check_uniques: look up a unique that the caller chose before it is submitted, because gearmand loses jobs whose
            unique is held by a job of the other kind or one that its client left; costs a round trip.
        allow_empty_background: submit background jobs without payload; gearmand with a persistent queue never starts
            again once it has stored one.

    Raises:
        ConfigError: a host can't be understood.
    """

    data_encoder: ClassVar[Any] = BYTES
    connect_timeout_s: ClassVar[float] = 5.0
    answer_timeout_s: ClassVar[float] = 10.0
    status_interval_s: ClassVar[float] = 5.0
    max_packet_bytes: ClassVar[int] = DEFAULT_MAX_PACKET_BYTES
    shuffle_servers: ClassVar[bool] = False
    check_uniques: ClassVar[bool] = True
    allow_empty_background: ClassVar[bool] = False

    def __init__(
        self, host_list: Iterable[AddressLike] | AddressLike | None = None, random_unique_bytes: int = 16
    ) -> None:
        if not 1 <= random_unique_bytes <= 31:
            raise ValueError(f"random_unique_bytes is {random_unique_bytes}; a unique has room for 1 to 31")
        self.addresses = parse_hosts(host_list)
        self.random_unique_bytes = random_unique_bytes
        make_links = partial(
            _make_links,
            self.addresses,
            connect_timeout_s=self.connect_timeout_s,
            answer_timeout_s=self.answer_timeout_s,
            status_interval_s=self.status_interval_s,
            max_packet_bytes=self.max_packet_bytes,
        )
        self._fresh_unique = partial(fresh_unique, random_unique_bytes)
        make_exchange = partial(
            Exchange,
            make_links,
            fresh_unique=self._fresh_unique,
            shuffle=self.shuffle_servers,
            check_uniques=self.check_uniques,
        )
        self._homes: Homes[Exchange] = Homes(make_exchange)
        self._homes.close_with(self)

    def __enter__(self) -> GearmanClient:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """End all connections; foreground jobs under way become UNKNOWN. A later call connects afresh."""
        self._homes.close()

    shutdown = close

    # Submitting

    def submit_job(
        self,
        task: str,
        data: Any,
        unique: str | None = None,
        priority: str | None = PRIORITY_NONE,
        background: bool = False,
        wait_until_complete: bool = True,
        max_retries: int = 0,
        poll_timeout: float | None = None,
        *,
        when_to_run: float | datetime | None = None,
        reducer: str | None = None,
        encoder: Encoder | None = None,
    ) -> GearmanJobRequest:
        """Submit one job.

        Args:
            task: the task's name.
            data: the payload, for ``data_encoder``.
            unique: jobs of one task with the same unique are one job; falsy for one of its own.
            priority: PRIORITY_NONE, PRIORITY_LOW or PRIORITY_HIGH.
            background: return when a job server has accepted it; nobody gets its result.
            wait_until_complete: wait for a foreground job's end, not just its acceptance.
            max_retries: how often it is sent again where the connection is lost before it was accepted.
            poll_timeout: how long to wait, in seconds; None for as long as a job server knows the job.
            when_to_run: Unix time or datetime before which a background job is not run; a job server older than 2.0
                may be late, until a worker asks by itself.
            reducer: the reducer's task name, which a worker that grabs reduce jobs gets with it.
            encoder: for this job instead of ``data_encoder``.

        Returns: the request. Whatever the job's fate is, is its state; ``timed_out`` tells that the wait was too short.

        Raises:
            ServerUnavailable: no job server can be reached, or the last one was lost.
            ExceededConnectionAttempts: it was sent 1 + max_retries times and never accepted.
            ProtocolError, PayloadError: the task's name, the unique or the payload can't be submitted.

        Switches: in a greenlet; in a plain thread it blocks that thread.
        """
        job_info = {"task": task, "data": data, "unique": unique, "priority": priority}
        job_info |= {"when_to_run": when_to_run, "reducer": reducer, "encoder": encoder}
        requests = [request_of(GearmanJobRequest, job_info, background, max_retries)]
        return self.submit_multiple_requests(requests, wait_until_complete, poll_timeout)[0]

    def submit_multiple_jobs(
        self,
        jobs: Iterable[Mapping[str, Any]],
        background: bool = False,
        wait_until_complete: bool = True,
        max_retries: int = 0,
        poll_timeout: float | None = None,
    ) -> list[GearmanJobRequest]:
        """Submit many jobs at once, pipelined.

        Args:
            jobs: mappings with task, data and, where wanted, unique, priority, when_to_run, reducer and encoder.

        Further arguments, errors and switches as for ``submit_job``; one poll_timeout covers all jobs.
        """
        requests = [request_of(GearmanJobRequest, job_info, background, max_retries) for job_info in jobs]
        return self.submit_multiple_requests(requests, wait_until_complete, poll_timeout)

    def submit_multiple_requests(
        self,
        requests: Iterable[GearmanJobRequest],
        wait_until_complete: bool = True,
        poll_timeout: float | None = None,
    ) -> list[GearmanJobRequest]:
        """Submit requests that are UNKNOWN and wait for all; also the way to wait again, or to submit lost ones again.

        Arguments, errors and switches as for ``submit_job``; one poll_timeout covers acceptance and completion.
        """
        deadline = Deadline(poll_timeout)
        return self._over_homes(
            requests, lambda home, part: home.call(home.guest.submit, part, wait_until_complete, deadline)
        )

    def wait_until_jobs_accepted(
        self, requests: Iterable[GearmanJobRequest], poll_timeout: float | None = None
    ) -> list[GearmanJobRequest]:
        """Wait until job servers have accepted the requests; submits UNKNOWN ones. Errors as for ``submit_job``."""
        deadline = Deadline(poll_timeout)
        return self._over_homes(requests, lambda home, part: home.call(home.guest.accept, part, deadline))

    def wait_until_jobs_completed(
        self, requests: Iterable[GearmanJobRequest], poll_timeout: float | None = None
    ) -> list[GearmanJobRequest]:
        """Wait until the requests have ended; never submits, so a lost one ends the wait as UNKNOWN.

        Raises:
            ServerUnavailable: the last job server was lost.
        """
        deadline = Deadline(poll_timeout)
        return self._over_homes(
            requests, lambda home, part: home.call(home.guest.complete, part, deadline), prepare=False
        )

    # Status

    def get_job_status(self, request: GearmanJobRequest, poll_timeout: float | None = None) -> GearmanJobRequest:
        """Ask for a request's status, which is then its ``status``.

        Raises:
            ServerUnavailable: its job server can't be reached.
        """
        return self.get_job_statuses([request], poll_timeout)[0]

    def get_job_statuses(
        self, requests: Iterable[GearmanJobRequest], poll_timeout: float | None = None
    ) -> list[GearmanJobRequest]:
        """Ask for the statuses of requests. One that is UNKNOWN has no handle to ask for, and keeps its status."""
        deadline = Deadline(poll_timeout)
        return self._over_homes(
            requests, lambda home, part: home.call(home.guest.ask_statuses, part, deadline), prepare=False
        )

    def wait_until_job_statuses_received(
        self, requests: Iterable[GearmanJobRequest], poll_timeout: float | None = None
    ) -> list[GearmanJobRequest]:
        """As ``get_job_statuses``: asks for those that are not on their way."""
        return self.get_job_statuses(requests, poll_timeout)

    def get_unique_status(self, unique: str, poll_timeout: float | None = 10.0) -> UniqueStatus:
        """Look up a job by its unique, of whatever task, on the job servers in the unique's order.

        Returns: the first that knows it; ``known`` is False where none does.

        Raises:
            ServerUnavailable: no job server can be reached.
            JobServerError: a job server that can't look up uniques.
        """
        home = self._homes.here()
        return home.call(home.guest.find_unique, unique_bytes(unique), Deadline(poll_timeout))

    # Streams

    def stream(
        self,
        task: str,
        data: Any,
        unique: str | None = None,
        priority: str | None = PRIORITY_NONE,
        max_retries: int = 0,
        timeout_s: float | None = None,
        *,
        reducer: str | None = None,
        encoder: Encoder | None = None,
    ) -> Iterator[JobUpdate]:
        """Submit a foreground job; give what it sends as it comes, and how it ended as the last update.

        The job is submitted when the first update is asked for. Updates that the caller does not take wait in memory.

        Args:
            timeout_s: for the whole job.

        Raises:
            JobTimeout: the time ran out.
            ConnectionLost, JobLost, JobServerError, PayloadError: no outcome of the job will come.

        Further arguments, errors and switches as for ``submit_job``.
        """
        job_info = {"task": task, "data": data, "unique": unique, "priority": priority}
        job_info |= {"reducer": reducer, "encoder": encoder}
        request = request_of(StreamedRequest, job_info, False, max_retries)
        self._prepare(request)
        return stream_updates(self._homes.here(), request, timeout_s)

    def map(
        self,
        task: str,
        payloads: Iterable[Any],
        *,
        concurrency: int = 100,
        priority: str | None = PRIORITY_NONE,
        max_retries: int = 0,
        timeout_s: float | None = None,
        ordered: bool = True,
        encoder: Encoder | None = None,
    ) -> Iterator[Any]:
        """Run one task over many payloads; give the results as they come, in the payloads' order.

        At most ``concurrency`` jobs are under way or wait to be given, so payloads without end need bounded memory.

        Args:
            payloads: taken one by one, as there is room.
            max_retries: how often a job whose connection was lost, accepted or not, is sent again.
            timeout_s: the longest wait for the next result.
            ordered: False gives each result as soon as it is there.

        Raises:
            JobFailed: a job failed; the others are left to themselves.
            JobTimeout, ConnectionLost, JobLost, JobServerError, PayloadError: as for ``stream``.
        """
        if concurrency < 1:
            raise ValueError(f"concurrency is {concurrency}; it must be at least 1")

        def make(data: Any) -> GearmanJobRequest:
            job_info = {"task": task, "data": data, "priority": priority, "encoder": encoder}
            request = request_of(GearmanJobRequest, job_info, False, max_retries)
            self._prepare(request)
            return request

        return map_results(self._homes.here(), map(make, payloads), concurrency, timeout_s, ordered=ordered)

    def _prepare(self, request: GearmanJobRequest) -> None:
        prepare(request, self.data_encoder, self._fresh_unique, allow_empty_background=self.allow_empty_background)

    def _over_homes(
        self,
        requests: Iterable[GearmanJobRequest],
        run: Callable[[Home[Exchange], Sequence[GearmanJobRequest]], Any],
        *,
        prepare: bool = True,
    ) -> list[GearmanJobRequest]:
        """Run something for requests, each in the home where its connection lives; give them all as a list."""
        requests = requests if isinstance(requests, list) else list(requests)
        if prepare:
            for request in requests:
                if request.state == JOB_UNKNOWN:
                    self._prepare(request)
        here = self._homes.here()
        groups: dict[Home[Exchange], list[GearmanJobRequest]] = {}
        for request in requests:
            groups.setdefault(self._home_of(request, here), []).append(request)
        for home, part in groups.items():
            run(home, part)
        return requests

    def _home_of(self, request: GearmanJobRequest, here: Home[Exchange]) -> Home[Exchange]:
        link = request.gearman_job.connection
        if request.state == JOB_UNKNOWN or here.guest.has(link):
            return here
        for home in self._homes.all():
            if home.guest.has(link):
                return home
        here.guest.adopt(request)
        return here


def _make_links(addresses: Sequence[Address], **options: Any) -> list[Link]:
    return [Link(address, **options) for address in addresses]


def fresh_unique(random_bytes: int) -> str:
    """A unique that nobody else has: so many random bytes, as hexadecimal characters."""
    return os.urandom(random_bytes).hex()


_default_lock = threading.Lock()
_default: GearmanClient | None = None


def default_client() -> GearmanClient:
    """The process's client for tasks that are submitted without naming one.

    It is the one given to ``set_default_client``, else one for the job servers in ``GEARWORKER_JOB_SERVERS`` (separated
    by commas or spaces), else for 127.0.0.1:4730.
    """
    global _default
    if _default is None:
        with _default_lock:
            if _default is None:
                hosts = os.environ.get(JOB_SERVERS_VARIABLE, "").replace(",", " ").split()
                _default = GearmanClient(hosts or ["127.0.0.1"])
    return _default


def set_default_client(client: GearmanClient | None) -> None:
    """Make a client the process's default; None for the one of the environment again."""
    global _default
    _default = client
