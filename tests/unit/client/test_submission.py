"""From a job's description to the arguments that submit it."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

import pytest

from gearworker.client.submission import prepare, request_of
from gearworker.client.updates import StreamedRequest
from gearworker.encoders import BYTES, JSONEncoder
from gearworker.errors import PayloadError, ProtocolError
from gearworker.job import JOB_UNKNOWN, GearmanJobRequest
from gearworker.protocol.client import Submission
from gearworker.protocol.packets import PacketType as T


def request_for(background: bool = False, max_retries: int = 0, **job_info: Any) -> GearmanJobRequest:
    return request_of(GearmanJobRequest, {"task": "t", "data": b"x", **job_info}, background, max_retries)


def submission_of(request: GearmanJobRequest, **options: Any) -> Submission:
    prepare(request, BYTES, lambda: "fresh", **options)
    assert request.submission is not None
    return request.submission


def test_a_request_from_a_description() -> None:
    request = request_for(True, 2, unique="u", priority="HIGH")
    assert (request.background, request.max_connection_attempts, request.priority) == (True, 3, "HIGH")
    assert (request.state, request.gearman_job.unique, request.gearman_job.data) == (JOB_UNKNOWN, "u", b"x")
    assert isinstance(request_of(StreamedRequest, {"task": "t", "data": b""}, False, 0), StreamedRequest)


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({}, Submission(T.SUBMIT_JOB, b"t\0u\0", b"x")),
        ({"background": True, "priority": "LOW"}, Submission(T.SUBMIT_JOB_LOW_BG, b"t\0u\0", b"x")),
        ({"background": True, "when_to_run": 1234.9}, Submission(T.SUBMIT_JOB_EPOCH, b"t\0u\0" + b"1234\0", b"x")),
        (
            {"background": True, "when_to_run": datetime(1970, 1, 2, tzinfo=timezone.utc)},
            Submission(T.SUBMIT_JOB_EPOCH, b"t\0u\0" + b"86400\0", b"x"),
        ),
        ({"reducer": "r"}, Submission(T.SUBMIT_REDUCE_JOB, b"t\0u\0r\0\0", b"x")),
        ({"background": True, "reducer": "r"}, Submission(T.SUBMIT_REDUCE_JOB_BACKGROUND, b"t\0u\0r\0\0", b"x")),
    ],
)
def test_the_kinds_of_submissions(options: dict[str, Any], wanted: Submission) -> None:
    assert submission_of(request_for(unique="u", **options)) == wanted


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"task": ""}, ProtocolError),
        ({"unique": "-"}, ProtocolError),
        ({"unique": "x" * 64}, ProtocolError),
        ({"priority": "high"}, ProtocolError),
        ({"when_to_run": 1}, ProtocolError),
        ({"when_to_run": 2**32, "background": True}, ProtocolError),
        ({"when_to_run": 1, "background": True, "priority": "LOW"}, ProtocolError),
        ({"when_to_run": 1, "background": True, "reducer": "r"}, ProtocolError),
        ({"reducer": "r", "priority": "HIGH"}, ProtocolError),
        ({"reducer": ""}, ProtocolError),
        ({"data": b"", "background": True}, PayloadError),
        ({"data": 5}, PayloadError),
    ],
)
def test_what_cannot_be_submitted(options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        submission_of(request_for(**options))


def test_empty_payloads() -> None:
    assert submission_of(request_for(data=None)).data == b""
    assert submission_of(request_for(True, data=""), allow_empty_background=True).data == b""


def test_the_encoder_serves_the_payload_and_stays_for_what_comes_back() -> None:
    request = request_for(data={"a": 1})
    encoder = JSONEncoder()
    prepare(request, encoder, lambda: "fresh")
    assert request.submission is not None
    assert (request.submission.data, request.gearman_job.encoder) == (b'{"a":1}', encoder)


def test_a_job_may_have_an_encoder_of_its_own() -> None:
    encoder = JSONEncoder()
    request = request_for(data=[1], encoder=encoder)
    assert submission_of(request).data == b"[1]"
    assert request.gearman_job.encoder is encoder


def test_an_encoder_that_gives_no_bytes() -> None:
    class Wrong:
        def encode(self, obj: Any) -> Any:
            return "text"

        def decode(self, data: bytes) -> Any:
            return data

    with pytest.raises(PayloadError, match="gave str"):
        prepare(request_for(), Wrong(), lambda: "fresh")


@pytest.mark.parametrize("unique", [None, ""])
def test_a_job_without_unique_gets_a_fresh_one(unique: str | None) -> None:
    request = request_for(unique=unique)
    assert submission_of(request).head == b"t\0fresh\0"
    assert (request.has_fresh_unique, request.gearman_job.unique) == (True, "fresh")
    assert not request_for(unique="u").has_fresh_unique


@pytest.mark.parametrize(("background", "unique"), [(False, "second"), (True, "first")])
def test_an_accepted_request_that_was_lost_starts_over(background: bool, unique: str) -> None:
    request = request_for(background)
    prepare(request, BYTES, lambda: "first")
    request.submit_sent(None)
    request.job_created("H:x:1")
    request.state = JOB_UNKNOWN
    prepare(request, BYTES, lambda: "second")
    assert (request.connection_attempts, request.was_accepted, request.gearman_job.unique) == (0, False, unique)


def test_a_chosen_unique_stays() -> None:
    request = request_for(unique="mine")
    submission_of(request)
    request.submit_sent(None)
    request.job_created("H:x:1")
    request.connection_lost()
    assert submission_of(request).head == b"t\0mine\0"
