"""The demo's tasks: one of each kind, as an application would have them in its own module of tasks.

``configs/demo.yaml`` serves them.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from pathlib import Path

import gevent
import msgspec
from PIL import Image

from gearworker import FailJob, GearmanJob, task

MAX_WIDTH_PIXELS = 10_000
SEATS = 40


class ResizeRequest(msgspec.Struct, forbid_unknown_fields=True):
    """What the task ``resize`` takes, as JSON.

    Args:
        source: the picture's file.
        directory: where the resized ones go; it must be there.
        widths: one for each picture to make, in pixels.
    """

    source: str
    directory: str
    widths: list[int]


class Resized(msgspec.Struct):
    """One picture that ``resize`` made; its result is a list of them."""

    file: str
    width: int
    height: int


class Numbers(msgspec.Struct):
    """What ``average`` takes: numbers, some of them missing."""

    values: list[float | None]


class Booking(msgspec.Struct):
    """What ``book`` takes."""

    seats: int


class Division(msgspec.Struct):
    """What ``divide`` takes."""

    dividend: float
    divisor: float


@task("resize", payload=ResizeRequest, thread=True, pool="images", timeout_s=30)
def resize(job: GearmanJob) -> list[Resized]:
    """Scale a picture to several widths; Pillow's work frees the GIL, so it runs in native threads."""
    request: ResizeRequest = job.data
    unusable = [width for width in request.widths if not 1 <= width <= MAX_WIDTH_PIXELS]
    if unusable:
        raise FailJob(f"widths go from 1 to {MAX_WIDTH_PIXELS} pixels, not {unusable}")
    source = Path(request.source)
    made: list[Resized] = []
    with Image.open(source) as picture:
        for width in request.widths:
            job.send_status(len(made), len(request.widths))
            height = max(1, round(picture.height * width / picture.width))
            file = Path(request.directory) / f"{source.stem}-{width}.jpg"
            picture.resize((width, height), Image.Resampling.LANCZOS).save(file, quality=90)
            made.append(Resized(str(file), width, height))
    job.send_status(len(made), len(request.widths))
    return made


@task("typeset", encoder="text", timeout_s=30)
def typeset(job: GearmanJob) -> Iterator[str]:
    """Break text into lines of 60 characters and stream them at a reader's pace."""
    for line in textwrap.wrap(job.data, 60):
        yield line + "\n"
        gevent.sleep(0.15)


@task("average", payload=Numbers)
def average(job: GearmanJob) -> float:
    """The mean of the numbers that are there, with a warning for each that is missing."""
    request: Numbers = job.data
    for place, value in enumerate(request.values):
        if value is None:
            job.send_warning(f"value {place} is missing".encode())
    present = [value for value in request.values if value is not None]
    if not present:
        raise FailJob("all values are missing")
    return sum(present) / len(present)


@task("book", payload=Booking)
def book(job: GearmanJob) -> int:
    """Book seats; gives those left. Too many is an answer, not a fault, so the job fails without a traceback."""
    request: Booking = job.data
    if request.seats > SEATS:
        raise FailJob(f"there are only {SEATS} seats, not {request.seats}")
    return SEATS - request.seats


@task("divide", payload=Division)
def divide(job: GearmanJob) -> float:
    """Divide, without a thought for zero: an exception goes to the log with its traceback, and to the client."""
    request: Division = job.data
    return request.dividend / request.divisor
