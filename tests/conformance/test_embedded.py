"""The embedded job server's own promises: its life, its bounds, and users' ways to start it."""

from __future__ import annotations

import logging
import socket
import subprocess
import sys
import time
from pathlib import Path

import gevent
import pytest
from support.wire import Wire, request, response

from gearworker.errors import ServerUnavailable
from gearworker.jobserver import EmbeddedJobServer
from gearworker.protocol.packets import PacketType
from gearworker.testing import embedded_job_server

T = PacketType
_ROOT = Path(__file__).parents[2]


def test_it_serves_blocking_clients_from_a_thread_of_its_own() -> None:
    with embedded_job_server() as server:
        wire = Wire(server.port)
        assert server.address == f"127.0.0.1:{server.port}"
        assert wire.submit(b"t").endswith(b":1")
    wire.expect_end()
    wire.close()
    with pytest.raises(ConnectionRefusedError):
        Wire(server.port)


def test_it_serves_the_greenlets_of_its_own_hub(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "gearworker"), EmbeddedJobServer() as server:
        from gevent import socket as gevent_socket

        with gevent_socket.create_connection(("127.0.0.1", server.port), timeout=5) as sock:
            sock.sendall(b"status\r\n")
            assert sock.recv(100) == b".\n"
    assert "for development only" in caplog.text


def test_start_and_stop_may_be_repeated_and_keep_the_port() -> None:
    server = EmbeddedJobServer()
    server.stop()
    server.start()
    server.start()
    port = server.port
    server.stop()
    server.stop()
    server.start()
    assert server.port == port
    server.stop()


def test_a_port_in_use_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ServerUnavailable, match=f"127.0.0.1:{port}: can't listen: Address already in use"):
            EmbeddedJobServer(port=port).start()
        with pytest.raises(ServerUnavailable, match="can't listen"), embedded_job_server(port=port):
            pytest.fail("it listens twice")


def test_over_the_limit_of_connections_one_is_closed() -> None:
    with embedded_job_server(max_connections=2) as server:
        wires = [Wire(server.port) for _ in range(2)]
        for wire in wires:
            wire.sync()
        refused = Wire(server.port)
        refused.expect_end()
        wires.pop().close()
        wires[0].wait_for_connections(1)
        wires.append(Wire(server.port))
        for wire in [*wires, refused]:
            wire.close()


def test_over_the_limit_of_jobs_a_submit_is_refused() -> None:
    full = response(T.ERROR, b"QUEUE_ERROR", b"Job queue is full")
    with embedded_job_server(max_jobs=2, max_job_bytes=10_000) as server:
        wire = Wire(server.port)
        handle = wire.submit(b"t", b"1", b"x" * 5000)
        wire.send(request(T.SUBMIT_JOB_BG, b"t", b"2", b"x" * 5000))
        wire.expect(full)
        wire.submit(b"t", b"2")
        wire.send(request(T.SUBMIT_JOB_BG, b"t", b"3", b""))
        wire.expect(full)
        wire.can_do(b"t")
        wire.grab()
        wire.send(request(T.WORK_COMPLETE, handle, b""))
        wire.submit(b"t", b"3", b"x" * 5000)
        wire.close()


def test_a_client_that_does_not_read_is_closed_and_harms_nobody() -> None:
    with embedded_job_server(max_output_bytes=2_000_000) as server:
        client, worker = Wire(server.port), Wire(server.port)
        handle = client.submit(b"t", kind=T.SUBMIT_JOB)
        worker.can_do(b"t")
        worker.grab()
        chunk = request(T.WORK_DATA, handle, b"x" * 100_000)
        deadline_s = time.monotonic() + 20
        while worker.text_list(b"workers").count(b"\n") > 2:
            assert time.monotonic() < deadline_s, "the client that does not read is never closed"
            worker.send(chunk)
        worker.send(request(T.WORK_COMPLETE, handle, b""))
        worker.expect_nothing()
        client.close()
        worker.close()


def test_a_peer_that_does_not_read_its_answers_is_not_read_from() -> None:
    with embedded_job_server() as server:
        flood, other = Wire(server.port, timeout_s=0.2), Wire(server.port)
        with pytest.raises(TimeoutError):
            flood.send(request(T.ECHO_REQ, b"x" * 100_000) * 500)
        other.sync()
        flood.close()
        other.close()


def test_nothing_is_left_when_it_stops() -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(3):
        with embedded_job_server() as server:
            wires = [Wire(server.port) for _ in range(5)]
            for wire in wires:
                wire.sync()
            for wire in wires:
                wire.close()
    assert len(list(Path("/proc/self/fd").iterdir())) <= before + 2


def test_a_stopped_server_leaves_no_greenlets() -> None:
    with EmbeddedJobServer() as server:
        from gevent import socket as gevent_socket

        sock = gevent_socket.create_connection(("127.0.0.1", server.port), timeout=5)
        sock.sendall(b"status\r\n")
        assert sock.recv(100) == b".\n"
    with gevent.Timeout(5):
        assert sock.recv(100) == b""
    sock.close()


def test_it_takes_ipv6() -> None:
    with embedded_job_server(host="::1") as server:
        assert server.address == f"[::1]:{server.port}"
        with socket.create_connection(("::1", server.port), timeout=5) as sock:
            sock.sendall(b"workers\r\n")
            assert b" ::1 - :\n.\n" in sock.recv(1000)


def test_it_works_in_a_program_that_is_monkey_patched() -> None:
    program = (
        "from gevent import monkey; monkey.patch_all()\n"
        "from gearworker.testing import embedded_job_server\n"
        "import socket\n"
        "with embedded_job_server() as server:\n"
        "    with socket.create_connection(('127.0.0.1', server.port), timeout=5) as sock:\n"
        "        sock.sendall(b'status\\r\\n')\n"
        "        assert sock.recv(100) == b'.\\n'\n"
    )
    subprocess.run([sys.executable, "-c", program], cwd=_ROOT, check=True, timeout=30)


def test_a_users_test_suite_gets_the_fixture(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text("pytest_plugins = ['gearworker.pytest_plugin']\n")
    (tmp_path / "test_it.py").write_text(
        "import socket\n"
        "def test_it(gearman_job_server):\n"
        "    with socket.create_connection(('127.0.0.1', gearman_job_server.port), timeout=5) as sock:\n"
        "        sock.sendall(b'status\\r\\n')\n"
        "        assert sock.recv(100) == b'.\\n'\n"
    )
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "--rootdir",
        str(tmp_path),
        str(tmp_path),
    ]
    run = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "1 passed" in run.stdout


def test_importing_the_package_imports_no_test_code() -> None:
    program = (
        "import sys, gearworker, gearworker.testing\n"
        "assert 'pytest' not in sys.modules and 'gearworker.pytest_plugin' not in sys.modules\n"
        "assert 'gevent' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], cwd=_ROOT, check=True, timeout=30)
