"""A link keeps one pool connected to one job server: connect, serve, and after a fault connect again."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from time import monotonic
from typing import Any, Final

import gevent

from gearworker.errors import ServerUnavailable
from gearworker.middleware import Middleware, call_hook, overridden
from gearworker.net.address import Address
from gearworker.net.backoff import Backoff
from gearworker.net.connection import connect
from gearworker.protocol.worker import WorkerProtocol
from gearworker.worker.pool import Pool
from gearworker.worker.session import LinkSettings, Session

log = logging.getLogger(__name__)

_QUIET_S: Final = 30.0
"""While a job server stays away, one line is logged in so many seconds."""
_STABLE_S: Final = 1.0
"""A session that lasted so long makes the next delay start over; one that dies at once, as by a poison job, doesn't."""


class Link:
    """One pool's tie to one job server.

    Args:
        address: the job server.
        pool: where the jobs run.
        tasks: names of the tasks to serve, the most urgent first.
        client_id: shown by the admin command ``workers``.
        settings: timeouts and limits.
        middleware: told when the job server comes and goes, and of each update sent.
    """

    def __init__(
        self,
        address: Address,
        pool: Pool,
        tasks: Iterable[str],
        *,
        client_id: str = "",
        settings: LinkSettings | None = None,
        middleware: Sequence[Middleware] = (),
    ) -> None:
        self.address = address
        self.pool = pool
        self.session: Session | None = None
        self._tasks = {task.encode("utf-8", "surrogateescape"): task for task in tasks}
        self._client_id = client_id.encode()[:127]
        self._settings = settings or LinkSettings()
        self._after_update = overridden(middleware, "after_update")
        self._up = overridden(middleware, "job_server_up")
        self._down = overridden(middleware, "job_server_down")
        self._away = overridden(middleware, "job_server_away")
        self._backoff = Backoff(first_s=0.1, cap_s=self._settings.reconnect_max_s)
        self._logged_at = -_QUIET_S
        self._stopping = False
        self._greenlet: gevent.Greenlet[[], Any] | None = None
        pool.join(self)

    # ------------------------------------------------------------------ life

    def start(self) -> None:
        """Connect, and stay connected, in the background."""
        self._greenlet = gevent.spawn(self._run)

    def drain(self) -> None:
        """Take no new jobs, finish those in hand, close, and stay closed. Switches: until then."""
        self._stopping = True
        if self.session is not None:
            self.session.drain()

    def stop(self) -> None:
        """Close at once and stay closed; the job server gives what is in hand to somebody else. Switches: briefly."""
        self._stopping = True
        if self.session is not None:
            self.session.close("stopped")
        if self._greenlet is not None:
            self._greenlet.kill()

    def tick(self) -> None:
        """Called about once a second."""
        if self.session is not None:
            self.session.tick()

    @property
    def registered(self) -> bool:
        """Whether the job server has our tasks now."""
        return self.session is not None and self.session.registered and not self.session.closed

    # ------------------------------------------------------------------ for the pool

    @property
    def wanted(self) -> int:
        """How many more jobs it would grab now."""
        return 0 if self.session is None else self.session.wanted

    def grab(self, count: int) -> None:
        """Grab so many jobs, for which slots are reserved."""
        assert self.session is not None
        self.session.grab(count)

    # ------------------------------------------------------------------ connecting

    def _run(self) -> None:
        while not self._stopping:
            try:
                self._connect_and_serve()
            except Exception:
                # A fault of ours; it costs this connection, never the link to the job server.
                log.exception("the connection to job server %s, pool %s, broke", self.address, self.pool.name)
            if not self._stopping:
                gevent.sleep(self._backoff.next_s())

    def _connect_and_serve(self) -> None:
        try:
            connection = connect(self.address, timeout_s=self._settings.connect_timeout_s)
        except ServerUnavailable as error:
            self._failed(error.reason)
            return
        if self._stopping:
            connection.close()
            return
        protocol = WorkerProtocol(
            list(self._tasks),
            self._client_id,
            max_grabs=self.pool.concurrency,
            max_packet_bytes=self._settings.max_packet_bytes,
        )
        self.session = Session(
            connection, protocol, self.pool, self._tasks, self._settings,
            on_registered=self._registered, after_update=self._after_update,
        )  # fmt: skip
        started_at = monotonic()
        reason = self.session.serve()
        if monotonic() - started_at >= _STABLE_S:
            self._backoff.reset()
        if self.session.registered:
            self._lost(reason)
        elif not self._stopping:
            self._failed(reason)

    def _registered(self) -> None:
        log.info("connected to job server %s, pool %s", self.address, self.pool.name)
        for hook in self._up:
            call_hook(hook, str(self.address), self.pool.name)

    def _lost(self, reason: str) -> None:
        if not self._stopping:
            self._logged_at = monotonic()
            log.warning("lost job server %s, pool %s: %s", self.address, self.pool.name, reason)
        for hook in self._down:
            call_hook(hook, str(self.address), self.pool.name, reason)

    def _failed(self, reason: str) -> None:
        now = monotonic()
        if now - self._logged_at >= _QUIET_S:
            self._logged_at = now
            log.warning("no job server at %s, pool %s: %s; trying again", self.address, self.pool.name, reason)
        for hook in self._away:
            call_hook(hook, str(self.address), self.pool.name, reason)
