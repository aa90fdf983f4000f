"""The packet table: every packet type of the Gearman protocol, its arguments and who sends it.

Codec, state machines, logs and tests all read this table; nothing else in the project says what a packet looks like.

A packet on the wire is a header of 12 bytes (magic ``\\0REQ`` towards the job server or ``\\0RES`` from it, the type as
u32 big-endian, the body's size in bytes as u32 big-endian) and a body: the arguments, separated by one NUL each. The
last argument runs to the body's end, so it alone may hold NULs.

Source: the protocol section of gearmand's documentation; gearmand 1.1.20, libgearman/command.cc.
"""

from __future__ import annotations

from enum import Flag, IntEnum, auto
from struct import Struct
from typing import Final, NamedTuple

REQUEST_MAGIC: Final = b"\0REQ"
RESPONSE_MAGIC: Final = b"\0RES"
HEADER: Final = Struct(">4sII")
"""Magic, type, size of the body."""
HEADER_BYTES: Final = HEADER.size
MAX_BODY_BYTES: Final = 2**32 - 1
DEFAULT_PORT: Final = 4730


class PacketType(IntEnum):
    """The number of each packet type."""

    CAN_DO = 1
    CANT_DO = 2
    RESET_ABILITIES = 3
    PRE_SLEEP = 4
    NOOP = 6
    SUBMIT_JOB = 7
    JOB_CREATED = 8
    GRAB_JOB = 9
    NO_JOB = 10
    JOB_ASSIGN = 11
    WORK_STATUS = 12
    WORK_COMPLETE = 13
    WORK_FAIL = 14
    GET_STATUS = 15
    ECHO_REQ = 16
    ECHO_RES = 17
    SUBMIT_JOB_BG = 18
    ERROR = 19
    STATUS_RES = 20
    SUBMIT_JOB_HIGH = 21
    SET_CLIENT_ID = 22
    CAN_DO_TIMEOUT = 23
    ALL_YOURS = 24
    WORK_EXCEPTION = 25
    OPTION_REQ = 26
    OPTION_RES = 27
    WORK_DATA = 28
    WORK_WARNING = 29
    GRAB_JOB_UNIQ = 30
    JOB_ASSIGN_UNIQ = 31
    SUBMIT_JOB_HIGH_BG = 32
    SUBMIT_JOB_LOW = 33
    SUBMIT_JOB_LOW_BG = 34
    SUBMIT_JOB_SCHED = 35
    SUBMIT_JOB_EPOCH = 36
    SUBMIT_REDUCE_JOB = 37
    SUBMIT_REDUCE_JOB_BACKGROUND = 38
    GRAB_JOB_ALL = 39
    JOB_ASSIGN_ALL = 40
    GET_STATUS_UNIQUE = 41
    STATUS_RES_UNIQUE = 42


class Sender(Flag):
    """Who may send a packet. WORKER and CLIENT send with the request magic, SERVER with the response magic."""

    WORKER = auto()
    CLIENT = auto()
    SERVER = auto()


class PacketSpec(NamedTuple):
    """One row of the table."""

    type: PacketType
    arguments: tuple[str, ...]
    senders: Sender


class Packet(NamedTuple):
    """A packet as it travels through the program: its type and its raw arguments, in the table's order."""

    type: PacketType
    args: list[bytes]


_W, _C, _S = Sender.WORKER, Sender.CLIENT, Sender.SERVER
_SUBMIT = ("task", "unique", "data")
_STATUS = ("known", "running", "numerator", "denominator")
_REDUCE = ("task", "unique", "reducer", "aggregator", "data")
_T = PacketType

_ROWS: Final[tuple[PacketSpec, ...]] = (
    PacketSpec(_T.CAN_DO, ("task",), _W),
    PacketSpec(_T.CANT_DO, ("task",), _W),
    PacketSpec(_T.RESET_ABILITIES, (), _W),
    PacketSpec(_T.PRE_SLEEP, (), _W),
    PacketSpec(_T.NOOP, (), _S),
    PacketSpec(_T.SUBMIT_JOB, _SUBMIT, _C),
    PacketSpec(_T.JOB_CREATED, ("handle",), _S),
    PacketSpec(_T.GRAB_JOB, (), _W),
    PacketSpec(_T.NO_JOB, (), _S),
    PacketSpec(_T.JOB_ASSIGN, ("handle", "task", "data"), _S),
    PacketSpec(_T.WORK_STATUS, ("handle", "numerator", "denominator"), _W | _S),
    PacketSpec(_T.WORK_COMPLETE, ("handle", "data"), _W | _S),
    PacketSpec(_T.WORK_FAIL, ("handle",), _W | _S),
    PacketSpec(_T.GET_STATUS, ("handle",), _C),
    PacketSpec(_T.ECHO_REQ, ("data",), _W | _C),
    PacketSpec(_T.ECHO_RES, ("data",), _S),
    PacketSpec(_T.SUBMIT_JOB_BG, _SUBMIT, _C),
    PacketSpec(_T.ERROR, ("code", "text"), _S),
    PacketSpec(_T.STATUS_RES, ("handle", *_STATUS), _S),
    PacketSpec(_T.SUBMIT_JOB_HIGH, _SUBMIT, _C),
    PacketSpec(_T.SET_CLIENT_ID, ("client_id",), _W),
    PacketSpec(_T.CAN_DO_TIMEOUT, ("task", "timeout"), _W),
    PacketSpec(_T.ALL_YOURS, (), _W),
    PacketSpec(_T.WORK_EXCEPTION, ("handle", "data"), _W | _S),
    PacketSpec(_T.OPTION_REQ, ("option",), _W | _C),
    PacketSpec(_T.OPTION_RES, ("option",), _S),
    PacketSpec(_T.WORK_DATA, ("handle", "data"), _W | _S),
    PacketSpec(_T.WORK_WARNING, ("handle", "data"), _W | _S),
    PacketSpec(_T.GRAB_JOB_UNIQ, (), _W),
    PacketSpec(_T.JOB_ASSIGN_UNIQ, ("handle", "task", "unique", "data"), _S),
    PacketSpec(_T.SUBMIT_JOB_HIGH_BG, _SUBMIT, _C),
    PacketSpec(_T.SUBMIT_JOB_LOW, _SUBMIT, _C),
    PacketSpec(_T.SUBMIT_JOB_LOW_BG, _SUBMIT, _C),
    PacketSpec(_T.SUBMIT_JOB_SCHED, ("task", "unique", "minute", "hour", "mday", "month", "wday", "data"), _C),
    PacketSpec(_T.SUBMIT_JOB_EPOCH, ("task", "unique", "epoch", "data"), _C),
    PacketSpec(_T.SUBMIT_REDUCE_JOB, _REDUCE, _C),
    PacketSpec(_T.SUBMIT_REDUCE_JOB_BACKGROUND, _REDUCE, _C),
    PacketSpec(_T.GRAB_JOB_ALL, (), _W),
    PacketSpec(_T.JOB_ASSIGN_ALL, ("handle", "task", "unique", "reducer", "data"), _S),
    PacketSpec(_T.GET_STATUS_UNIQUE, ("unique",), _C),
    PacketSpec(_T.STATUS_RES_UNIQUE, ("unique", *_STATUS, "clients"), _S),
)

PACKETS: Final[dict[int, PacketSpec]] = {row.type: row for row in _ROWS}
"""The table, by number."""

MAX_ARGUMENT_BYTES: Final[dict[str, int]] = {
    "task": 255,
    "reducer": 255,
    "unique": 63,
    "handle": 63,
    "client_id": 127,
    "option": 63,
}
"""The most bytes of each named argument that gearmand takes without cutting, refusing or breaking it."""
