"""What is said to systemd, as a real datagram socket hears it."""

from __future__ import annotations

import logging
import os
import socket
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from gearworker.systemd import VARIABLES, Notifier


@pytest.fixture
def manager() -> Iterator[socket.socket]:
    """The socket that systemd would listen on; in a short path, for socket addresses hold 107 bytes."""
    with tempfile.TemporaryDirectory() as directory, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(f"{directory}/notify")
        sock.settimeout(5)
        yield sock


@pytest.fixture
def notifier(manager: socket.socket) -> Notifier:
    return Notifier({"NOTIFY_SOCKET": manager.getsockname()})


def test_ready_stopping_status_and_watchdog_are_single_datagrams(manager: socket.socket, notifier: Notifier) -> None:
    assert notifier.enabled
    assert notifier.ready()
    assert notifier.ready("serving 3 tasks")
    assert notifier.stopping("draining")
    assert notifier.status("2 of 2 processes")
    assert notifier.watchdog()
    assert [manager.recv(4096) for _ in range(5)] == [
        b"READY=1",
        b"READY=1\nSTATUS=serving 3 tasks",
        b"STOPPING=1\nSTATUS=draining",
        b"STATUS=2 of 2 processes",
        b"WATCHDOG=1",
    ]


def test_reloading_carries_the_monotonic_clock_in_microseconds(manager: socket.socket, notifier: Notifier) -> None:
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    assert notifier.reloading()
    first, _, second = manager.recv(4096).decode().partition("\n")
    name, _, microseconds = second.partition("=")
    assert (first, name) == ("RELOADING=1", "MONOTONIC_USEC")
    assert before <= int(microseconds) <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000


def test_fields_of_the_callers_choice_go_out_in_order_and_none_is_left_out(
    manager: socket.socket, notifier: Notifier
) -> None:
    assert notifier.notify(EXTEND_TIMEOUT_USEC="5000000", STATUS=None, ERRNO="2")
    assert manager.recv(4096) == b"EXTEND_TIMEOUT_USEC=5000000\nERRNO=2"


def test_a_status_can_not_smuggle_in_another_field(manager: socket.socket, notifier: Notifier) -> None:
    assert notifier.status("waiting\nREADY=1\0\x1b[2J ü")
    assert manager.recv(4096).decode() == "STATUS=waiting READY=1  [2J ü"


def test_a_long_status_is_cut_and_one_of_lone_surrogates_is_sent(manager: socket.socket, notifier: Notifier) -> None:
    assert notifier.status("x" * 100_000)
    assert manager.recv(65536) == b"STATUS=" + b"x" * 512
    assert notifier.status("\udcff")
    assert manager.recv(4096).startswith(b"STATUS=")


def test_an_abstract_socket_is_named_with_an_at_sign() -> None:
    name = f"gearworker-{uuid.uuid4()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind("\0" + name)
        sock.settimeout(5)
        assert Notifier({"NOTIFY_SOCKET": "@" + name}).ready()
        assert sock.recv(4096) == b"READY=1"


def test_without_systemd_nothing_is_sent() -> None:
    notifier = Notifier({})
    assert not notifier.enabled
    sent = [notifier.ready(), notifier.reloading(), notifier.stopping(), notifier.status("x"), notifier.watchdog()]
    assert not any(sent)
    assert notifier.watchdog_interval_s() is None


@pytest.mark.parametrize("address", ["", "@", "relative/path", "vsock:2:1234"])
def test_an_address_that_is_none_of_ours_is_left_alone(address: str) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": address})
    assert not notifier.enabled
    assert not notifier.ready()


@pytest.mark.parametrize("path", ["missing", "x" * 200])
def test_a_broken_socket_is_logged_once_a_row_and_raises_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, path: str
) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / path)})
    with caplog.at_level(logging.DEBUG):
        assert [notifier.watchdog() for _ in range(3)] == [False, False, False]
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "can't notify systemd" in caplog.text


def test_after_a_success_a_failure_is_logged_again(
    manager: socket.socket, notifier: Notifier, caplog: pytest.LogCaptureFixture
) -> None:
    path, away = manager.getsockname(), manager.getsockname() + ".away"
    os.rename(path, away)
    assert not notifier.watchdog()
    os.rename(away, path)
    assert notifier.watchdog()
    os.rename(path, away)
    assert not notifier.watchdog()
    assert len(caplog.records) == 2


def test_a_manager_that_does_not_read_holds_nobody_up_for_long(
    notifier: Notifier, manager: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gearworker.systemd._SEND_TIMEOUT_S", 0.05)
    sent = 0
    while notifier.status("x" * 500):
        sent += 1
        assert sent < 100_000, "the socket's queue never filled"
    manager.recv(4096)
    assert notifier.ready()


def test_no_descriptor_stays_open(notifier: Notifier, manager: socket.socket) -> None:
    before = set(os.listdir("/proc/self/fd"))
    assert notifier.ready()
    assert set(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize(
    ("environ", "interval_s"),
    [
        ({"WATCHDOG_USEC": "30000000"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": ""}, 15.0),
        ({"WATCHDOG_USEC": "1000001", "WATCHDOG_PID": str(os.getpid())}, 0.5000005),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "x"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "-5"}, None),
        ({"WATCHDOG_USEC": "²"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({"WATCHDOG_PID": str(os.getpid())}, None),
    ],
)
def test_the_watchdog_is_due_at_half_its_time(environ: dict[str, str], interval_s: float | None) -> None:
    assert Notifier(environ).watchdog_interval_s() == interval_s


def test_the_processs_own_environment_is_the_default(monkeypatch: pytest.MonkeyPatch, manager: socket.socket) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    assert not Notifier().enabled
    monkeypatch.setenv("NOTIFY_SOCKET", manager.getsockname())
    monkeypatch.setenv("WATCHDOG_USEC", "2000000")
    assert Notifier().ready()
    assert Notifier().watchdog_interval_s() == 1.0
