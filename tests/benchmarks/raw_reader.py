"""How fast a job server hands out jobs: a reader that grabs ahead and completes each job unread.

It keeps a number of GRAB_JOBs in flight on one plain socket and answers every JOB_ASSIGN at once, with as little work
as Python allows: one regular expression finds the handles of all that a receive call gave. No worker on this machine
can be faster against this job server, so its rate is the ceiling that the others are read against.
"""

from __future__ import annotations

import argparse
import re
import socket
import struct

from gearworker.protocol.codec import encode_request
from gearworker.protocol.packets import PacketType

_ASSIGNED = re.compile(rb"\0RES\0\0\0\x0b.{4}([^\0]+)\0[^\0]+\0x", re.DOTALL)
"""A JOB_ASSIGN whose data is the one byte that prefill sends, and its handle."""


def drain(port: int, task: str, jobs: int, grabs: int) -> None:
    """Take and complete jobs of one task until so many are done.

    Raises:
        RuntimeError: the job server closed the connection.
        TimeoutError: it gave no more jobs.
    """
    grab = encode_request(PacketType.GRAB_JOB)
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sendall(encode_request(PacketType.CAN_DO, task.encode()) + grab * grabs)
        heads = [b"\0REQ" + struct.pack(">II", PacketType.WORK_COMPLETE, size + 1) for size in range(64)]
        rest = b""
        while jobs > 0:
            received = connection.recv(1 << 18)
            if not received:
                raise RuntimeError("raw_reader: the job server closed the connection")
            buffer = rest + received
            handles, end = [], 0
            for match in _ASSIGNED.finditer(buffer):
                handles.append(match[1])
                end = match.end()
            rest = buffer[end:] if handles else buffer
            jobs -= len(handles)
            connection.sendall(b"".join([heads[len(handle)] + handle + b"\0" + grab for handle in handles]))


def main() -> None:
    """Drain a queue from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("port", type=int, help="the job server's port on 127.0.0.1")
    parser.add_argument("task")
    parser.add_argument("jobs", type=int)
    parser.add_argument("--grabs", type=int, default=256, help="GRAB_JOBs in flight")
    options = parser.parse_args()
    drain(options.port, options.task, options.jobs, options.grabs)


if __name__ == "__main__":
    main()
