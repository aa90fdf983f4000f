"""A client's conversation with all its job servers, in one hub: choosing one, submitting, waiting, asking for status.

Theory of operation. Each unique has its own order of the job servers, the same in every process, so that equal jobs of
different clients meet at one job server and coalesce; where that one can't be reached the next takes over. A request
that nobody accepted is sent again until its attempts are used up; one that was accepted never is, unless the caller
asks for it.

Uniques that the client made itself are nobody else's; those that a caller chose are looked up first
(``client.uniques``). A foreground job with a unique of the client's own gets a new one when it is sent again, because
its first sending may have left a job behind that gearmand never runs, and would join the two.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Collection
from hashlib import blake2b
from typing import Any, NamedTuple

from gearworker.client.link import Link
from gearworker.client.uniques import UniqueGuard, look_up, unique_of
from gearworker.client.updates import StreamedRequest
from gearworker.client.waiting import Answers, Deadline, Gathering, Requests, has_news, is_accepted, is_finished
from gearworker.errors import (
    ConnectionLost,
    ExceededConnectionAttempts,
    InvalidClientState,
    JobServerError,
    ServerUnavailable,
)
from gearworker.protocol.client import Submission
from gearworker.protocol.packets import PacketType
from gearworker.request import JOB_CREATED, JOB_PENDING, JOB_UNKNOWN, GearmanJobRequest


class UniqueStatus(NamedTuple):
    """What a job server knows of a unique."""

    known: bool
    running: bool
    numerator: int
    denominator: int
    clients: int


class Exchange:
    """All links of a client in one hub.

    Args:
        make_links: makes the links, one a job server.
        fresh_unique: makes a unique that nobody else has.
        shuffle: choose job servers at random, not by the unique.
        check_uniques: look up uniques that callers chose before they are submitted.
    """

    def __init__(
        self,
        make_links: Callable[[], list[Link]],
        *,
        fresh_unique: Callable[[], str],
        shuffle: bool = False,
        check_uniques: bool = True,
    ) -> None:
        self.links = make_links()
        self._link_set = frozenset(self.links)
        self._salts = [link.address.encode() + b"\0" for link in self.links]
        self._fresh_unique = fresh_unique
        self._shuffle = shuffle
        self._guard = UniqueGuard(is_active=check_uniques)

    def close(self) -> None:
        """End all connections."""
        for link in self.links:
            link.close()

    def abandon(self) -> None:
        """In a forked child: let go of the parent's connections."""
        for link in self.links:
            link.abandon()

    def submit(self, requests: Requests, wait_until_complete: bool, deadline: Deadline) -> None:
        """Submit what is UNKNOWN; wait until all is accepted, and if wanted until all is complete."""
        self.accept(requests, deadline)
        if wait_until_complete and not deadline.is_over:
            self.complete(requests, deadline)

    def accept(self, requests: Requests, deadline: Deadline) -> None:
        """Submit what is UNKNOWN, as often as each request allows, until a job server has accepted it.

        Raises:
            ServerUnavailable: no job server can be reached.
            ExceededConnectionAttempts: a request was sent as often as it allows.

        Switches: yes.
        """
        while True:
            unknown = [request for request in requests if request.state == JOB_UNKNOWN]
            if unknown:
                self.send(unknown, deadline)
            in_time = Gathering(requests, is_accepted).wait(deadline)
            if not in_time or deadline.is_over or all(request.state != JOB_UNKNOWN for request in requests):
                break
        self._guard.verify(requests, deadline)
        for request in requests:
            request.timed_out = request.state in (JOB_PENDING, JOB_UNKNOWN)

    def complete(self, requests: Requests, deadline: Deadline) -> None:
        """Wait until each request is complete, failed, or UNKNOWN because its connection was lost.

        Raises:
            ServerUnavailable: a request is UNKNOWN, and no other job server than the one it lost can be reached.

        Switches: yes.
        """
        Gathering(requests, is_finished).wait(deadline)
        for request in requests:
            request.timed_out = not is_finished(request)
        unknown = [request for request in requests if request.state == JOB_UNKNOWN]
        if unknown and not any(link.is_connected for link in self.links):
            self._require_other_than({request.gearman_job.connection for request in unknown}, deadline)

    def _require_other_than(self, lost: Collection[Any], deadline: Deadline) -> None:
        reasons = []
        for link in self.links:
            if link in lost:
                reasons.append(f"{link.address} was lost")
            else:
                try:
                    link.open(deadline)
                    return
                except ServerUnavailable as error:
                    reasons.append(str(error))
        raise ServerUnavailable(None, "no job server is left: " + "; ".join(reasons))

    def send(self, requests: Requests, deadline: Deadline) -> None:
        """Send UNKNOWN requests without waiting for acceptance. Errors as for ``accept``."""
        for request in requests:
            if request.connection_attempts >= request.max_connection_attempts:
                raise ExceededConnectionAttempts(
                    None, f"{request!r} was sent {request.connection_attempts} times and never accepted"
                )
        for link in self.links:
            link.notice_end()
        down: dict[Link, ServerUnavailable] = {}
        groups: dict[Link, list[GearmanJobRequest]] = {}
        for request in requests:
            if request.connection_attempts and request.has_fresh_unique and not request.background:
                self._renew_unique(request)
            groups.setdefault(self._choose(unique_of(request), down, deadline), []).append(request)
        for link, group in groups.items():
            attempts = [request.connection_attempts for request in group]
            try:
                self._guard.submit(link, group, deadline)
            except ConnectionLost:
                # What was sent is UNKNOWN by now or soon. What was not sent has used up an attempt as well.
                for request, before in zip(group, attempts, strict=True):
                    if request.state == JOB_UNKNOWN and request.connection_attempts == before:
                        request.connection_attempts += 1

    def _renew_unique(self, request: GearmanJobRequest) -> None:
        job = request.gearman_job
        job.unique = self._fresh_unique()
        if request.submission is not None:
            task, _, rest = request.submission.head.split(b"\0", 2)
            head = b"\0".join((task, job.unique.encode(), rest))
            request.submission = Submission(request.submission.type, head, request.submission.data)

    def _choose(self, unique: bytes, down: dict[Link, ServerUnavailable], deadline: Deadline) -> Link:
        """The first job server in the unique's order that can be reached.

        Args:
            down: those that were tried in vain in this call; added to.

        Raises:
            ServerUnavailable: none can.
        """
        ranked = self._rank(unique)
        for may_rest in (True, False):
            for link in ranked:
                if link.is_connected:
                    return link
                if link in down or (may_rest and link.is_resting):
                    continue
                try:
                    link.open(deadline)
                    return link
                except ServerUnavailable as error:
                    down[link] = error
        if not self.links:
            raise ServerUnavailable(None, "the client has no job servers")
        raise ServerUnavailable(
            ", ".join(link.address for link in self.links), "; ".join(error.reason for error in down.values())
        )

    def _rank(self, unique: bytes) -> list[Link]:
        if len(self.links) < 2:
            return self.links
        if self._shuffle:
            return random.sample(self.links, len(self.links))
        scores = {
            link: blake2b(salt + unique, digest_size=8).digest()
            for link, salt in zip(self.links, self._salts, strict=True)
        }
        return sorted(self.links, key=scores.__getitem__)

    def wait_for_updates(self, request: StreamedRequest, deadline: Deadline) -> bool:
        """Wait until the request has updates; False where it has ended or the time ran out first. Switches."""
        Gathering([request], has_news).wait(deadline)
        request.timed_out = not has_news(request)
        return bool(request.updates)

    def find_unique(self, unique: bytes, deadline: Deadline) -> UniqueStatus:
        """Look up a unique on the job servers in its order, until one knows it.

        Raises:
            ServerUnavailable: no job server can be reached, or none answers in time.
            JobServerError: a job server that can't look up uniques.
        """
        found = None
        for link in self._rank(unique) if self.links else []:
            try:
                link.open(deadline)
                answer = look_up(link, [unique], deadline).get(unique)
            except (ServerUnavailable, ConnectionLost):
                continue
            if answer is None:
                continue
            if answer.type is PacketType.ERROR:
                raise JobServerError(answer.args[0].decode(), answer.args[1].decode("utf-8", "replace"), link.address)
            _, known, running, numerator, denominator, clients = answer.args
            found = UniqueStatus(known == b"1", running == b"1", int(numerator), int(denominator), int(clients))
            if found.known:
                break
        if found is None:
            raise ServerUnavailable(None, "no job server could be asked")
        return found

    def has(self, link: object) -> bool:
        """Whether a request's connection is one of these links."""
        return link in self._link_set

    def adopt(self, request: GearmanJobRequest) -> None:
        """Take over a request whose links are gone, as those of a closed client or, in a forked child, the parent's.

        An accepted background job is still to be had at its job server; any other request has lost its connection.
        """
        if not request.background or request.state == JOB_PENDING:
            if request.state in (JOB_PENDING, JOB_CREATED):
                request.connection_lost()
            return
        address = getattr(request.gearman_job.connection, "address", None)
        for link in self.links:
            if link.address == address:
                request.gearman_job.connection = link

    def ask_statuses(self, requests: Requests, deadline: Deadline) -> None:
        """Ask the job servers for the requests' statuses and wait for the answers.

        Raises:
            ServerUnavailable: the job server of a request can't be reached.

        Switches: yes.
        """
        answers = Answers()
        asked = [request for request in requests if request.state != JOB_UNKNOWN and request.gearman_job.handle]
        for index, request in enumerate(asked):
            link = request.gearman_job.connection
            if not isinstance(link, Link):
                raise InvalidClientState(f"{request!r} was not submitted by this client")
            link.open(deadline)
            assert request.gearman_job.handle is not None
            handle = request.gearman_job.handle.encode("utf-8", "surrogateescape")
            try:
                link.ask(link.protocol.get_status, answers.expect(index), handle)
                link.wait_writable()
            except ConnectionLost as error:
                raise ServerUnavailable(error.address, error.reason) from None
        answers.wait(deadline)
        for index, request in enumerate(asked):
            answer = answers.by_key.get(index)
            request.timed_out = answer is None
            if answer is not None and answer.type is PacketType.STATUS_RES:
                _, known, running, numerator, denominator = answer.args
                request.status_received(
                    known == b"1", running == b"1", int(numerator or b"0"), int(denominator or b"0"), time.time()
                )
