"""The job server's brain, pure: what peers send goes in, what to send to whom comes out.

Theory of operation. A connection is a number. ``receive`` takes the events that a decoder made of one received chunk
and gives a list of (connection, bytes) in the order in which to send them; None instead of bytes means to close that
connection after what came before. Queues and their rules are in ``gearworker.protocol.queue``, the answers to admin
commands in ``gearworker.protocol.server_text``; this module has one handler for each packet type, in a table by number.

It answers as gearmand 1.1.20 does, byte for byte, errors' wording included. It departs from it on purpose where
gearmand loses acknowledged jobs, breaks its memory or its framing:

* a packet that is malformed, has an unknown type or the wrong magic closes the connection at once, instead of a silent
  stall, a crash (types from 2^31), or swallowing what follows;
* CAN_DO_TIMEOUT is CAN_DO: no time limit, since gearmand's belongs to the connection and hits the wrong job;
* uniques of 64 bytes work; handles in answers never have a stray NUL; GET_STATUS of an overlong handle is answered;
* a job for later wakes sleeping workers when its time comes, not when it is submitted;
* ``drop function`` refuses a task with queued jobs, which gearmand would lose; names in it are matched exactly;
* uniques shared by foreground and background submits, or reused after a cancel, lose no job (see ``queue``);
* tasks, jobs, bytes and connections are bounded; what is over a bound gets QUEUE_ERROR or is closed.

Source: gearmand 1.1.20, libgearman-server/server.cc and text.cc, and its answers to experiments.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

from gearworker.protocol.codec import Event, Oversized, TextLine
from gearworker.protocol.packets import HEADER, PACKETS, RESPONSE_MAGIC, Packet, PacketType
from gearworker.protocol.queue import HIGH, LOW, NORMAL, Job, JobStore, Peer, QueueFull
from gearworker.protocol.server_text import AdminDesk, Identity, leading_integer

Outputs = list[tuple[int, bytes | None]]
_Handler = Callable[[Peer, PacketType, list[bytes]], None]

MAX_UNIQUE_BYTES: Final = 64
MAX_CLIENT_ID_BYTES: Final = 127

_T = PacketType
_MAX_DUE_S: Final = 2**63 - 1

_NOT_FOUND: Final = b"Job given in work result not found"
_NOT_FOUND_DATA: Final = b"Job does not exist on server"
_NOT_FOUND_EXCEPTION: Final = b"An exception was received for a job that does not exist"

_SUBMITS: Final[dict[int, tuple[int, bool]]] = {
    _T.SUBMIT_JOB: (NORMAL, False),
    _T.SUBMIT_JOB_BG: (NORMAL, True),
    _T.SUBMIT_JOB_HIGH: (HIGH, False),
    _T.SUBMIT_JOB_HIGH_BG: (HIGH, True),
    _T.SUBMIT_JOB_LOW: (LOW, False),
    _T.SUBMIT_JOB_LOW_BG: (LOW, True),
}


class Limits(NamedTuple):
    """What a job server holds at most.

    Args:
        jobs: queued and running.
        job_bytes: their payloads, plus a kilobyte each.
        tasks: different task names, ever; also the abilities of one connection.
        connections: at a time.
    """

    jobs: int = 200_000
    job_bytes: int = 512 * 1024 * 1024
    tasks: int = 10_000
    connections: int = 1_000


def pack(packet_type: PacketType, *args: bytes) -> bytes:
    """A packet to a peer; nothing is checked, since its arguments came out of a decoder."""
    body = b"\0".join(args)
    return HEADER.pack(RESPONSE_MAGIC, packet_type, len(body)) + body


class JobServer:
    """A job server without sockets.

    Args:
        identity: what it says of itself.
        limits: what it holds at most.
    """

    def __init__(self, identity: Identity, limits: Limits = Limits()) -> None:  # noqa: B008  # immutable
        self.identity = identity
        self.limits = limits
        self.store = JobStore(
            identity.handle_prefix, max_jobs=limits.jobs, max_bytes=limits.job_bytes, max_tasks=limits.tasks
        )
        self._peers: dict[int, Peer] = {}
        self._out: Outputs = []
        self._now_s = 0.0
        self._handlers = self._packet_handlers()
        self._admin = AdminDesk(identity, self.store, self._peers, self._fail_clients)

    def _packet_handlers(self) -> list[_Handler]:
        handlers: list[_Handler] = [self._not_expected] * (max(PACKETS) + 1)
        for number in _SUBMITS:
            handlers[number] = self._submit
        handlers[_T.SUBMIT_JOB_EPOCH] = self._submit_epoch
        handlers[_T.SUBMIT_REDUCE_JOB] = handlers[_T.SUBMIT_REDUCE_JOB_BACKGROUND] = self._submit_reduce
        handlers[_T.CAN_DO] = handlers[_T.CAN_DO_TIMEOUT] = self._can_do
        handlers[_T.CANT_DO] = self._cant_do
        handlers[_T.RESET_ABILITIES] = self._reset_abilities
        handlers[_T.PRE_SLEEP] = self._pre_sleep
        handlers[_T.GRAB_JOB] = handlers[_T.GRAB_JOB_UNIQ] = handlers[_T.GRAB_JOB_ALL] = self._grab
        handlers[_T.WORK_DATA] = handlers[_T.WORK_WARNING] = self._work_data
        handlers[_T.WORK_STATUS] = self._work_status
        handlers[_T.WORK_COMPLETE] = self._work_complete
        handlers[_T.WORK_FAIL] = self._work_fail
        handlers[_T.WORK_EXCEPTION] = self._work_exception
        handlers[_T.GET_STATUS] = self._get_status
        handlers[_T.GET_STATUS_UNIQUE] = self._get_status_unique
        handlers[_T.ECHO_REQ] = self._echo
        handlers[_T.OPTION_REQ] = self._option
        handlers[_T.SET_CLIENT_ID] = self._set_client_id
        return handlers

    # Connections and the clock

    def connect(self, connection: int, ip: bytes, file_descriptor: int) -> bool:
        """A connection was accepted; False where it is one too many and must be closed."""
        if len(self._peers) >= self.limits.connections:
            return False
        self._peers[connection] = Peer(connection, ip, file_descriptor)
        return True

    def disconnect(self, connection: int) -> Outputs:
        """A connection has ended; who gets a NOOP for the jobs that it held. Idempotent."""
        peer = self._peers.pop(connection, None)
        if peer is None:
            return []
        self.store.leave(peer)
        self._send_noops()
        return self._take_output()

    @property
    def next_due_s(self) -> float | None:
        """The Unix time at which ``tick`` has something to do; None for never."""
        return self.store.next_due_s

    def tick(self, now_s: float) -> Outputs:
        """Queue the jobs whose time has come.

        Args:
            now_s: Unix time; never a monotonic clock, since clients name moments.
        """
        self.store.release(now_s)
        self._send_noops()
        return self._take_output()

    def receive(self, connection: int, events: Iterable[Event], now_s: float) -> Outputs:
        """Take what a connection sent.

        Args:
            connection: as in ``connect``; events of one that has ended are dropped.
            events: from a decoder with the request magic, in order.
            now_s: Unix time.
        """
        peer = self._peers.get(connection)
        if peer is None:
            return []
        if self.store.next_due_s is not None:
            self.store.release(now_s)
            self._send_noops()
        self._now_s = now_s
        handlers = self._handlers
        for event in events:
            if type(event) is Packet:
                handlers[event[0]](peer, event[0], event[1])
            elif not self._take_unusual(peer, event):
                break
        return self._take_output()

    def _take_unusual(self, peer: Peer, event: Event) -> bool:
        """Whether the connection goes on."""
        if isinstance(event, TextLine):
            answer = self._admin.answer(event.line)
            self._out.append((peer.id, answer))
            return answer is not None
        if isinstance(event, Oversized):
            self._oversized(peer, event)
            return True
        self._out.append((peer.id, None))
        return False

    def _take_output(self) -> Outputs:
        out, self._out = self._out, []
        return out

    def _send(self, peer: Peer, packet_type: PacketType, *args: bytes) -> None:
        self._out.append((peer.id, pack(packet_type, *args)))

    def _error(self, peer: Peer, code: bytes, message: bytes) -> None:
        self._send(peer, _T.ERROR, code, message)

    def _send_noops(self) -> None:
        if self.store.woken:
            for peer in self.store.woken:
                self._send(peer, _T.NOOP)
            self.store.woken.clear()

    def _not_expected(self, peer: Peer, packet_type: PacketType, args: list[bytes]) -> None:
        self._error(peer, b"INVALID_COMMAND", b"Command not expected")

    def _oversized(self, peer: Peer, event: Oversized) -> None:
        """A body that was not kept is refused; a job whose end it was has failed."""
        self._error(peer, b"ARGUMENT_TOO_LARGE", b"Packet of %d bytes is too large" % event.body_bytes)
        if event.type in (_T.WORK_COMPLETE, _T.WORK_EXCEPTION) and event.args:
            job = peer.held.get(event.args[0])
            if job is not None:
                self._fail_clients(job)
                self.store.finish(job)

    # Clients

    def _submit(self, peer: Peer, packet_type: PacketType, args: list[bytes]) -> None:
        priority, background = _SUBMITS[packet_type]
        task, unique, data = args
        self._add(peer, task, unique, data, priority, None if background else peer)

    def _submit_epoch(self, peer: Peer, packet_type: PacketType, args: list[bytes]) -> None:
        task, unique, epoch, data = args
        due_s = min(leading_integer(epoch), _MAX_DUE_S)
        self._add(peer, task, unique, data, NORMAL, None, due_s=due_s if due_s > self._now_s else 0)

    def _submit_reduce(self, peer: Peer, packet_type: PacketType, args: list[bytes]) -> None:
        task, unique, reducer, _, data = args
        client = None if packet_type == _T.SUBMIT_REDUCE_JOB_BACKGROUND else peer
        self._add(peer, task, unique, data, NORMAL, client, reducer=reducer)

    def _add(
        self,
        peer: Peer,
        task: bytes,
        unique: bytes,
        data: bytes,
        priority: int,
        client: Peer | None,
        *,
        reducer: bytes = b"",
        due_s: int = 0,
    ) -> None:
        if len(unique) > MAX_UNIQUE_BYTES or len(reducer) > MAX_UNIQUE_BYTES:
            self._error(peer, b"ARGUMENT_TOO_LARGE", b"Unique value too large")
            return
        store = self.store
        try:
            job = store.submit(store.task(task), unique, data, priority, client, reducer=reducer, due_s=due_s)
        except QueueFull:
            self._error(peer, b"QUEUE_ERROR", b"Job queue is full")
            return
        if store.woken:
            self._send_noops()
        handle = job.handle
        self._out.append((peer.id, HEADER.pack(RESPONSE_MAGIC, _T.JOB_CREATED, len(handle)) + handle))

    def _get_status(self, peer: Peer, packet_type: PacketType, args: list[bytes]) -> None:
        handle = args[0].partition(b"\0")[0]
        self._send(peer, _T.STATUS_RES, handle, *_status_of(self.store.jobs.get(handle)))

    def _get_status_unique(self, peer: Peer, packet_type: PacketType, args: list[bytes]) -> None:
        """The task's name is not asked for; of several jobs with this unique, the oldest task's is told."""
        unique = args[0].partition(b"\0")[0]
        found = (task.uniques.get(unique) for task in self.store.tasks.values())
        job = next((job for job in found if job is not None), None)
        clients = sum(job.clients.values()) if job is not None else 0
        self._send(peer, _T.STATUS_RES_UNIQUE, unique, *_status_of(job), b"%d" % clients)

    def _echo(self, peer: Peer, packet_type: PacketType, args: list[bytes]) -> None:
        self._send(peer, _T.ECHO_RES, args[0])

    def _option(self, peer: Peer, packet_type: PacketType, args: list[bytes]) -> None:
        option = args[0]
        if option.partition(b"\0")[0].lower() != b"exceptions":
            self._error(peer, b"UNKNOWN_OPTION", b"Server does not recognize given option")
            return
        peer.wants_exceptions = True
        self._send(peer, _T.OPTION_RES, option)

    # Workers

    def _set_client_id(self, peer: Peer, packet_type: PacketType, args: list[bytes]) -> None:
        peer.client_id = args[0].partition(b"\0")[0][:MAX_CLIENT_ID_BYTES]

    def _can_do(self, peer: Peer, packet_type: PacketType, args: list[bytes]) -> None:
        try:
            if len(peer.abilities) >= self.limits.tasks:
                raise QueueFull
            self.store.register(peer, self.store.task(args[0]))
        except QueueFull:
            self._out.append((peer.id, None))

    def _cant_do(self, peer: Peer, packet_type: PacketType, args: list[bytes]) -> None:
        task = self.store.tasks.get(args[0])
        if task is not None:
            self.store.unregister(peer, task)
            self._send_noops()

    def _reset_abilities(self, peer: Peer, packet_type: PacketType, args: list[bytes]) -> None:
        self.store.unregister_all(peer)
        self._send_noops()

    def _pre_sleep(self, peer: Peer, packet_type: PacketType, args: list[bytes]) -> None:
        if not self.store.sleep(peer):
            self._send(peer, _T.NOOP)

    def _grab(self, peer: Peer, packet_type: PacketType, args: list[bytes]) -> None:
        peer.sleeping = peer.noop_sent = False
        job = self.store.take(peer)
        if job is None:
            self._send(peer, _T.NO_JOB)
        elif packet_type == _T.GRAB_JOB:
            self._send(peer, _T.JOB_ASSIGN, job.handle, job.task.name, job.data)
        elif packet_type == _T.GRAB_JOB_ALL and job.reducer:
            self._send(peer, _T.JOB_ASSIGN_ALL, job.handle, job.task.name, job.unique, job.reducer, job.data)
        else:
            self._send(peer, _T.JOB_ASSIGN_UNIQ, job.handle, job.task.name, job.unique, job.data)

    def _forward(self, job: Job, packet: bytes) -> None:
        """To every client, as often as it submitted the job."""
        for client, count in job.clients.items():
            for _ in range(count):
                self._out.append((client.id, packet))

    def _fail_clients(self, job: Job) -> None:
        self._forward(job, pack(_T.WORK_FAIL, job.handle))

    def _work_data(self, peer: Peer, packet_type: PacketType, args: list[bytes]) -> None:
        job = peer.held.get(args[0])
        if job is None:
            self._error(peer, b"JOB_NOT_FOUND", _NOT_FOUND_DATA)
        elif job.clients:
            self._forward(job, pack(packet_type, *args))

    def _work_status(self, peer: Peer, packet_type: PacketType, args: list[bytes]) -> None:
        job = peer.held.get(args[0])
        if job is None:
            self._error(peer, b"JOB_NOT_FOUND", _NOT_FOUND)
            return
        job.numerator = leading_integer(args[1]) & 0xFFFFFFFF
        job.denominator = leading_integer(args[2]) & 0xFFFFFFFF
        self._forward(job, pack(packet_type, *args))

    def _work_complete(self, peer: Peer, packet_type: PacketType, args: list[bytes]) -> None:
        job = peer.held.get(args[0])
        if job is None:
            self._error(peer, b"JOB_NOT_FOUND", _NOT_FOUND)
            return
        if job.clients:
            self._forward(job, pack(packet_type, *args))
        self.store.finish(job)

    def _work_fail(self, peer: Peer, packet_type: PacketType, args: list[bytes]) -> None:
        job = peer.held.get(args[0].partition(b"\0")[0])
        if job is None:
            self._error(peer, b"JOB_NOT_FOUND", _NOT_FOUND)
            return
        self._fail_clients(job)
        self.store.finish(job)

    def _work_exception(self, peer: Peer, packet_type: PacketType, args: list[bytes]) -> None:
        """Ends the job; clients without the option for exceptions get a WORK_FAIL."""
        job = peer.held.get(args[0])
        if job is None:
            self._error(peer, b"JOB_NOT_FOUND", _NOT_FOUND_EXCEPTION)
            return
        exception, fail = pack(packet_type, *args), pack(_T.WORK_FAIL, job.handle)
        for client, count in job.clients.items():
            for _ in range(count):
                self._out.append((client.id, exception if client.wants_exceptions else fail))
        self.store.finish(job)


def _status_of(job: Job | None) -> tuple[bytes, bytes, bytes, bytes]:
    """known, running, numerator and denominator, as they travel."""
    if job is None:
        return (b"0", b"0", b"0", b"0")
    return (b"1", b"0" if job.worker is None else b"1", b"%d" % job.numerator, b"%d" % job.denominator)
