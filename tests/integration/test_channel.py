"""The channel between supervisor and worker process, on a real pair of sockets."""

from __future__ import annotations

import os
from collections.abc import Iterator
from struct import pack
from typing import Any

import gevent
import pytest
from gevent import socket

from gearworker.counts import TaskCounts, WorkerCounts
from gearworker.errors import ProtocolError
from gearworker.http.app import RunningJob
from gearworker.service.channel import (
    MAX_MESSAGE_BYTES,
    AnyMessage,
    Beat,
    Channel,
    Drain,
    LogStacks,
    Report,
    ReportRequest,
    Start,
)

COUNTS = WorkerCounts(tasks={"t": TaskCounts(bytes_in=1)}, hub_lag_s=0.5)
JOBS = [RunningJob("p", "t", "H:1", 1.5, 2, (1, 3)), RunningJob("p", "t", "H:2", 1.5, 1, None)]


@pytest.fixture
def ends() -> Iterator[tuple[Channel, Any]]:
    """A channel, and the raw socket at its other end."""
    ours, theirs = socket.socketpair()
    channel = Channel(ours)
    with gevent.Timeout(10):
        yield channel, theirs
    channel.close()
    theirs.close()


@pytest.mark.parametrize(
    "message",
    [
        Start("text: ä", "config.yaml", "info", "json", "127.0.0.1:4730", True),
        Drain(),
        ReportRequest(7),
        LogStacks(),
        Beat(True),
        Report(7, COUNTS, JOBS),
        Report(0, WorkerCounts(), []),
    ],
)
def test_every_message_arrives_as_it_was_sent(ends: tuple[Channel, Any], message: AnyMessage) -> None:
    channel, theirs = ends
    assert channel.send(message)
    assert Channel(theirs).receive() == message


def test_messages_keep_their_order_however_the_stream_is_cut(ends: tuple[Channel, Any]) -> None:
    channel, theirs = ends
    for number in range(3):
        channel.send(ReportRequest(number))
    data = theirs.recv(4096)
    theirs.shutdown(socket.SHUT_RD)

    one, other = socket.socketpair()
    receiver = Channel(other)
    try:
        dripping = gevent.spawn(lambda: [(one.sendall(data[i : i + 1]), gevent.sleep(0)) for i in range(len(data))])
        assert [receiver.receive() for _ in range(3)] == [ReportRequest(number) for number in range(3)]
        dripping.join()
        one.close()
        assert receiver.receive() is None
    finally:
        receiver.close()


def test_large_messages_of_several_senders_do_not_mix(ends: tuple[Channel, Any]) -> None:
    channel, theirs = ends
    texts = [char * 3_000_000 for char in "abc"]  # far more than the sockets' buffers hold
    senders = [gevent.spawn(channel.send, Start(text, "f", "info", "text")) for text in texts]
    receiver = Channel(theirs)
    received = [receiver.receive() for _ in texts]
    assert [message.config_text for message in received if isinstance(message, Start)] == texts
    assert [sender.get() for sender in senders] == [True] * 3


def test_a_message_over_the_limit_is_refused_before_it_is_read(ends: tuple[Channel, Any]) -> None:
    channel, theirs = ends
    theirs.sendall(pack(">I", MAX_MESSAGE_BYTES + 1))
    with pytest.raises(ProtocolError, match=f"a message of {MAX_MESSAGE_BYTES + 1} bytes"):
        channel.receive()


@pytest.mark.parametrize(
    "data",
    [b"\xc1", b"", b"\x80", b"\x81\xa4type\xa7Unknown", b"\x81\xa4type\xa4Beat", b"\x93\x01\x02\x03", b"\xff" * 100],
)
def test_what_is_no_message_is_refused(ends: tuple[Channel, Any], data: bytes) -> None:
    channel, theirs = ends
    theirs.sendall(pack(">I", len(data)) + data)
    with pytest.raises(ProtocolError, match="no message on the channel"):
        channel.receive()


@pytest.mark.parametrize("data", [b"", b"\x00\x00", pack(">I", 10), pack(">I", 10) + b"12345"])
def test_an_end_anywhere_in_a_message_is_the_end(ends: tuple[Channel, Any], data: bytes) -> None:
    channel, theirs = ends
    theirs.sendall(data)
    theirs.close()
    assert channel.receive() is None


def test_sending_to_nobody_is_told_and_not_raised(ends: tuple[Channel, Any]) -> None:
    channel, theirs = ends
    theirs.close()
    assert channel.send(Beat(True)) is False
    channel.close()
    assert channel.send(Beat(True)) is False
    assert channel.receive() is None
    channel.close()


def test_closing_frees_whoever_waits_to_send_or_receive(ends: tuple[Channel, Any]) -> None:
    channel, _ = ends
    sender = gevent.spawn(channel.send, Start("x" * 10_000_000, "f", "info", "text"))
    receiver = gevent.spawn(channel.receive)
    gevent.sleep(0)
    channel.close()
    assert sender.get(timeout=5) is False
    assert receiver.get(timeout=5) is None


def test_the_descriptor_is_not_inherited(ends: tuple[Channel, Any]) -> None:
    channel, _ = ends
    assert not os.get_inheritable(channel.fileno())
