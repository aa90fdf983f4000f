"""Fill a job server's queue fast: background jobs, pipelined over one plain socket, every JOB_CREATED waited for."""

from __future__ import annotations

import argparse
import socket
import time
from collections.abc import Iterator

from gearworker.protocol.codec import Decoder, encode_request
from gearworker.protocol.packets import RESPONSE_MAGIC, Packet, PacketType

BATCH_JOBS = 500
"""Two batches are under way at a time, and their replies fit into a socket's buffer."""


def prefill(port: int, task: str, jobs: int, *, host: str = "127.0.0.1", data: bytes = b"x") -> None:
    """Submit background jobs, each with a unique of its own, and wait until the job server has accepted all.

    Raises:
        RuntimeError: the job server refused one, or closed the connection.
    """
    with socket.create_connection((host, port), timeout=30) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        decoder = Decoder(RESPONSE_MAGIC)
        waiting = 0
        for batch_jobs, batch in _batches(task.encode(), jobs, data):
            connection.sendall(batch)
            waiting += batch_jobs
            while waiting > BATCH_JOBS:
                waiting -= _accepted(connection, decoder)
        while waiting:
            waiting -= _accepted(connection, decoder)


def _batches(task: bytes, jobs: int, data: bytes) -> Iterator[tuple[int, bytes]]:
    prefix = b"%x" % time.time_ns()
    for start in range(0, jobs, BATCH_JOBS):
        numbers = range(start, min(start + BATCH_JOBS, jobs))
        packets = (encode_request(PacketType.SUBMIT_JOB_BG, task, b"%b-%d" % (prefix, n), data) for n in numbers)
        yield len(numbers), b"".join(packets)


def _accepted(connection: socket.socket, decoder: Decoder) -> int:
    received = connection.recv(1 << 18)
    if not received:
        raise RuntimeError("prefill: the job server closed the connection")
    events = decoder.feed(received)
    for event in events:
        if not isinstance(event, Packet) or event.type is not PacketType.JOB_CREATED:
            raise RuntimeError(f"prefill: expected JOB_CREATED, got {event}")
    return len(events)


def main() -> None:
    """Fill a queue from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("port", type=int, help="the job server's port on 127.0.0.1")
    parser.add_argument("task")
    parser.add_argument("jobs", type=int)
    options = parser.parse_args()
    began = time.monotonic()
    prefill(options.port, options.task, options.jobs)
    took_s = time.monotonic() - began
    print(f"{options.jobs} jobs of {options.task} queued in {took_s:.2f} s, {options.jobs / took_s:,.0f} a second")


if __name__ == "__main__":
    main()
