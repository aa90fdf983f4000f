"""From what a caller wants to have done to the bytes that submit it, with everything checked before it is sent."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Final, TypeVar

from gearworker.encoders import Encoder
from gearworker.errors import PayloadError, ProtocolError
from gearworker.job import GearmanJob
from gearworker.protocol.client import SUBMITS, Submission, task_bytes, unique_bytes
from gearworker.protocol.packets import PacketType
from gearworker.request import PRIORITY_NONE, GearmanJobRequest

_MAX_DATA_BYTES: Final = 2**32 - 1024

R = TypeVar("R", bound=GearmanJobRequest)


def request_of(request_class: type[R], job_info: Mapping[str, Any], background: bool, max_retries: int) -> R:
    """A request from a mapping with task, data and, where wanted, unique, priority, when_to_run, reducer, encoder."""
    job = GearmanJob(None, None, job_info["task"], job_info.get("unique") or None, job_info["data"])
    request = request_class(job, job_info.get("priority"), background, max_retries + 1)
    when_to_run, reducer, encoder = job_info.get("when_to_run"), job_info.get("reducer"), job_info.get("encoder")
    if when_to_run is not None:
        request.when_to_run = when_to_run.timestamp() if isinstance(when_to_run, datetime) else when_to_run
    if reducer is not None:
        request.reducer = reducer
    if encoder is not None:
        request.encoder = encoder
    return request


def prepare(
    request: GearmanJobRequest,
    encoder: Encoder,
    fresh_unique: Callable[[], str],
    *,
    allow_empty_background: bool = False,
) -> None:
    """Make a request ready to be sent: its unique, and its arguments as bytes.

    Args:
        encoder: for the payload, and later for what comes back, where the request has none of its own.
        fresh_unique: makes a unique for a request without one.
        allow_empty_background: take background jobs without payload.

    Raises:
        ProtocolError, PayloadError: something of it can't be submitted.
    """
    job = request.gearman_job
    encoder = job.encoder = request.encoder or encoder
    data = encoder.encode(job.data)
    if not isinstance(data, bytes):
        raise PayloadError(f"task {job.task}: {encoder!r} gave {type(data).__name__}, not bytes")
    if len(data) > _MAX_DATA_BYTES:
        raise PayloadError(f"task {job.task}: a payload of {len(data)} bytes; a packet has room for {_MAX_DATA_BYTES}")
    if request.background and not data and not allow_empty_background:
        raise PayloadError(
            f"task {job.task}: a background job needs a payload of at least one byte, because gearmand with a "
            "persistent queue never starts again once it has stored an empty one"
        )
    if request.was_accepted:
        request.was_accepted, request.connection_attempts = False, 0
        if request.has_fresh_unique and not request.background:
            job.unique = None  # gearmand may still hold the lost one, and loses what coalesces with it
    if not job.unique:
        job.unique = fresh_unique()
        request.has_fresh_unique = True
    unique = job.unique.encode() if request.has_fresh_unique else unique_bytes(job.unique)
    packet_type, more = _kind_of(request)
    request.submission = Submission(packet_type, b"%b\0%b\0%b" % (task_bytes(job.task), unique, more), data)


def _kind_of(request: GearmanJobRequest) -> tuple[PacketType, bytes]:
    """The packet type for a request, and the arguments between unique and payload, each with its NUL."""
    when_to_run, reducer = request.when_to_run, request.reducer
    if when_to_run is None and reducer is None:
        try:
            return SUBMITS[request.priority, request.background], b""
        except KeyError:
            raise ProtocolError(f"priority {request.priority!r}; there are None, 'LOW' and 'HIGH'") from None
    if request.priority is not PRIORITY_NONE or (when_to_run is not None and reducer is not None):
        raise ProtocolError("a delayed or reduce job has no priority, and a job can't be both")
    if reducer is not None:
        background = PacketType.SUBMIT_REDUCE_JOB_BACKGROUND
        # The fifth argument, an aggregator, is unused, and gearmand waits for ever where it is left out.
        return background if request.background else PacketType.SUBMIT_REDUCE_JOB, b"%b\0\0" % task_bytes(reducer)
    if not request.background:
        raise ProtocolError("when_to_run goes with background jobs only: gearmand has no delayed foreground jobs")
    if when_to_run is None or not 0 <= when_to_run < 2**32:
        raise ProtocolError(f"when_to_run is {when_to_run!r}, not a Unix time")
    return PacketType.SUBMIT_JOB_EPOCH, b"%d\0" % int(when_to_run)
