"""The admin commands, against replies recorded from gearmand 1.1.20."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from gearworker.errors import JobServerError, ProtocolError
from gearworker.protocol import text


@pytest.mark.parametrize(
    ("request_", "line"),
    [
        (text.status(), b"status\r\n"),
        (text.priority_status(), b"prioritystatus\r\n"),
        (text.workers(), b"workers\r\n"),
        (text.show_jobs(), b"show jobs\r\n"),
        (text.show_unique_jobs(), b"show unique jobs\r\n"),
        (text.version(), b"version\r\n"),
        (text.getpid(), b"getpid\r\n"),
        (text.verbose(), b"verbose\r\n"),
        (text.cancel_job("H:vm:1"), b"cancel job H:vm:1\r\n"),
        (text.maxqueue("t"), b"maxqueue t\r\n"),
        (text.maxqueue("t", 5), b"maxqueue t 5\r\n"),
        (text.maxqueue("t", 1, 2, 3), b"maxqueue t 1 2 3\r\n"),
        (text.create_function("größe"), "create function größe\r\n".encode()),
        (text.drop_function(b"t\xff"), b"drop function t\xff\r\n"),
        (text.drop_function("t\udcff"), b"drop function t\xff\r\n"),
        (text.shutdown(), b"shutdown graceful\r\n"),
        (text.shutdown(graceful=False), b"shutdown\r\n"),
    ],
)
def test_request_lines(request_: text.AdminRequest[Any], line: bytes) -> None:
    assert request_.line == line


@pytest.mark.parametrize("name", ["", "a b", "a\tb", "a\nb", "a\rb", "a\0b", "x" * 256])
@pytest.mark.parametrize("make", [text.create_function, text.drop_function, text.maxqueue, text.cancel_job])
def test_names_that_a_line_cannot_carry_are_refused(make: Callable[[str], Any], name: str) -> None:
    with pytest.raises(ProtocolError, match=r"^(task|handle) "):
        make(name)


@pytest.mark.parametrize("sizes", [(1, 2), (1, 2, 3, 4), (-1,), (2**31,), ("5",)])
def test_queue_sizes_that_gearmand_would_misread_are_refused(sizes: tuple[Any, ...]) -> None:
    with pytest.raises(ProtocolError, match="maxqueue"):
        text.maxqueue("t", *sizes)


def test_status_survives_odd_names() -> None:
    rows = text.status().parse(b"t\tx\t1\t0\t1\n\xff\xfe\t0\t0\t1\na b\t3\t2\t1\n.\n")
    assert rows == (("t\tx", 1, 0, 1), ("\udcff\udcfe", 0, 0, 1), ("a b", 3, 2, 1))
    assert rows[2].total == 3
    assert rows[1].task.encode("utf-8", "surrogateescape") == b"\xff\xfe"


def test_priority_status() -> None:
    assert text.priority_status().parse(b"a b\t1\t2\t3\t4\n.\n") == (text.PriorityStatus("a b", 1, 2, 3, 4),)


def test_workers_survive_odd_client_ids() -> None:
    reply = b"36 127.0.0.1 - :\n37 fe80::1%eth0 my id :x : \xff a b\n38 127.0.0.1  :\n39 127.0.0.1 a : b :\n.\n"
    assert text.workers().parse(reply) == (
        text.WorkerStatus(36, "127.0.0.1", "-", ()),
        text.WorkerStatus(37, "fe80::1%eth0", "my id :x", ("\udcff", "a", "b")),
        text.WorkerStatus(38, "127.0.0.1", "", ()),
        text.WorkerStatus(39, "127.0.0.1", "a : b", ()),
    )


def test_jobs_and_uniques() -> None:
    jobs = text.show_jobs().parse(b"H:vm:1\t0\t0\t1\nH:vm:4\t2\t1\t0\n.\n")
    assert jobs == (text.JobStatus("H:vm:1", 0, False, True), text.JobStatus("H:vm:4", 2, True, False))
    assert text.show_unique_jobs().parse(b"\nu1\n-\n.\n") == ("", "u1", "-")


def test_single_values_of_gearmand_and_of_the_perl_server() -> None:
    assert text.version().parse(b"OK 1.1.20+ds\n") == "1.1.20+ds"
    assert text.version().parse(b"v1.130.1\n") == "v1.130.1"
    assert text.getpid().parse(b"OK 4984\n") == 4984
    assert text.verbose().parse(b"OK ERROR\n") == "ERROR"
    text.cancel_job("H:vm:1").parse(b"OK\r\n")
    text.shutdown().parse(b"OK\n")


@pytest.mark.parametrize("request_", [text.status(), text.workers(), text.show_jobs(), text.show_unique_jobs()])
def test_an_empty_list(request_: text.AdminRequest[tuple[Any, ...]]) -> None:
    assert request_.parse(b".\n") == ()


@pytest.mark.parametrize(
    ("reply", "code", "message"),
    [
        (b"ERR UNKNOWN_JOB\r\n", "UNKNOWN_JOB", ""),
        (b"ERR function not found\r\n", "ERR", "function not found"),
        (text.format_unknown_command(b"shutdown"), "UNKNOWN_COMMAND", "Unknown server commandshutdown"),
    ],
)
def test_errors_carry_code_and_text(reply: bytes, code: str, message: str) -> None:
    requests: list[text.AdminRequest[Any]] = [text.cancel_job("H:vm:1"), text.status()]
    for request_ in requests:
        assert request_.is_complete(reply)
        with pytest.raises(JobServerError) as caught:
            request_.parse(reply)
        assert (caught.value.code, caught.value.text) == (code, message)


@pytest.mark.parametrize(
    ("request_", "line"),
    [
        (text.status(), b"resize\t1\t0"),
        (text.status(), b"resize\t1\t0\tx"),
        (text.status(), b"resize\t1\t-1\t0"),
        (text.priority_status(), b"resize\t1\t0\t0"),
        (text.workers(), b"x 127.0.0.1 - :"),
        (text.workers(), b"36 127.0.0.1 -"),
        (text.workers(), b"36"),
        (text.show_jobs(), b"H:vm:1 0 0 1"),
    ],
)
def test_a_malformed_line_is_named(request_: text.AdminRequest[Any], line: bytes) -> None:
    with pytest.raises(ProtocolError, match="can't read the line") as caught:
        request_.parse(line + b"\n.\n")
    assert repr(line) in str(caught.value)


def test_a_malformed_value_is_named() -> None:
    with pytest.raises(ProtocolError, match="getpid: can't read the line"):
        text.getpid().parse(b"OK soon\n")
    with pytest.raises(ProtocolError, match="expected OK, got b'NO"):
        text.cancel_job("H:vm:1").parse(b"NO\n")


def test_a_reply_is_complete_at_its_last_byte_only() -> None:
    replies: list[tuple[text.AdminRequest[Any], bytes]] = [
        (text.status(), b"t\t1\t0\t1\nERR x\t0\t0\t0\n.\n"),
        (text.status(), b"ERR x\t0\t0\t0\n.\n"),
        (text.show_unique_jobs(), b"ERR x\n..\n.\n"),
        (text.version(), b"OK 1.1.20+ds\n"),
        (text.cancel_job("H:vm:1"), b"OK\r\n"),
    ]
    for request_, reply in replies:
        assert [n for n in range(len(reply) + 1) if request_.is_complete(reply[:n])] == [len(reply)]
        with pytest.raises(ProtocolError, match="not complete"):
            request_.parse(reply[:-1])


def test_a_listed_name_that_looks_like_the_end_does_not_cut_the_list() -> None:
    assert text.show_unique_jobs().parse(b"a\n.\nb\n.\n") == ("a", ".", "b")


def test_what_is_formatted_can_be_read() -> None:
    assert text.status().parse(text.format_status([(b"t\tx", 3, 1, 2)])) == (("t\tx", 3, 1, 2),)
    assert text.priority_status().parse(text.format_priority_status([(b"t", 3, 1, 2, 0)])) == (("t", 3, 1, 2, 0),)
    rows: list[tuple[int, bytes, bytes, list[bytes]]] = [(5, b"::1", b"an id", [b"t", b"u"]), (6, b"::1", b"-", [])]
    assert text.format_workers(rows) == b"5 ::1 an id : t u\n6 ::1 - :\n.\n"
    assert text.workers().parse(text.format_workers(rows)) == ((5, "::1", "an id", ("t", "u")), (6, "::1", "-", ()))
    assert text.show_jobs().parse(text.format_jobs([(b"H:1", 2, True, False)])) == (("H:1", 2, True, False),)
    assert text.format_jobs([(b"H:1", 2, True, False)]) == b"H:1\t2\t1\t0\n.\n"
    assert text.show_unique_jobs().parse(text.format_unique_jobs([b"", b"u"])) == ("", "u")
    assert text.version().parse(text.format_value(b"1")) == "1"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"cancel job  H:x", [b"cancel", b"job", b"H:x"]),
        (b"version ", [b"version", b""]),
        (b" version", [b"", b"version"]),
        (b"", [b""]),
        (b"foo\0bar baz", [b"foo", b"baz"]),
        (b"maxqueue t\tx 5", [b"maxqueue", b"t\tx", b"5"]),
    ],
)
def test_words_are_split_as_gearmand_does(line: bytes, words: list[bytes]) -> None:
    assert text.split_words(line) == words
