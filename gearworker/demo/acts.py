"""What the demo shows, in order; each act submits jobs through the client and checks how every one of them ended."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from gearworker.client import GearmanClient
from gearworker.demo.pictures import SIZE_PIXELS, paint_all
from gearworker.demo.service import DemoFailed
from gearworker.demo.tasks import Booking, Division, Numbers, Resized, ResizeRequest
from gearworker.job import JOB_COMPLETE, JOB_FAILED, GearmanJobRequest

WIDTHS_PIXELS = [1200, 640, 160]
ACT_TIMEOUT_S = 30.0
LOOK_INTERVAL_S = 0.05
TEXT = (
    "A client hands a job to a job server and waits. The job server keeps it until a worker asks for one, gives it "
    "out, and passes on whatever the worker sends: this text came as one piece of data for each line, while the job "
    "was still running. Should the worker vanish on the way, another one gets the job. Three parties that know nothing "
    "of each other but a name: the task."
)


def resize_pictures(client: GearmanClient, console: Console, directory: Path) -> list[Path]:
    """Paint pictures, have all of them resized at a time, and watch how far each one is.

    Args:
        directory: where the resized pictures go; the painted ones go into ``originals`` in it.

    Returns:
        The resized pictures, each one opened and found to be of its size.
    """
    originals = directory / "originals"
    originals.mkdir(parents=True, exist_ok=True)
    sources = paint_all(originals)
    console.print(f"Painted {len(sources)} pictures of {SIZE_PIXELS[0]}x{SIZE_PIXELS[1]}; each is one job now.")
    payloads = [ResizeRequest(str(source), str(directory), WIDTHS_PIXELS) for source in sources]
    requests = submit(client, [("resize", payload) for payload in payloads])
    bars = Bars(console, [source.stem for source in sources])
    with bars:
        watch(client, requests, lambda: bars.show(requests))
    for request in requests:
        expect(request, JOB_COMPLETE)
    made = [picture for request in requests for picture in msgspec.json.decode(request.result, type=list[Resized])]
    return [checked(picture) for picture in made]


def stream_text(client: GearmanClient, console: Console) -> None:
    """Have a text typeset, and print each line when it comes."""
    received: list[str] = []
    ended_as = ""
    for update in client.stream("typeset", TEXT, timeout_s=ACT_TIMEOUT_S):
        ended_as = update.kind
        if update.kind == "data":
            received.append(update.data.decode())
            console.print(f"  │ {received[-1].rstrip()}")
    if ended_as != "result" or "".join(received).split() != TEXT.split():
        raise DemoFailed(f"typeset ended with {ended_as} after it streamed {received}, which is not the text it got")


def end_in_every_way(client: GearmanClient, console: Console) -> None:
    """A job that warns, one that fails, and one whose handler raises."""
    jobs = [("average", Numbers([4.0, None, 5.0])), ("book", Booking(seats=41)), ("divide", Division(1.0, 0.0))]
    warned, failed, raised = requests = submit(client, jobs)
    watch(client, requests, lambda: None)
    expect(warned, JOB_COMPLETE)
    expect(failed, JOB_FAILED)
    expect(raised, JOB_FAILED)
    warnings = [warning.decode() for warning in warned.warning_updates]
    if (warned.result, warnings) != (b"4.5", ["value 1 is missing"]):
        raise DemoFailed(f"average gave {warned.result!r} with the warnings {warnings}")
    if failed.exception is not None or "ZeroDivisionError" not in reason(raised):
        raise DemoFailed(f"book gave the exception {failed.exception!r}, divide gave {raised.exception!r}")
    console.print(f"  average [green]complete[/]: {warned.result.decode()}, with a warning: {warnings[0]}")
    console.print("  book    [yellow]failed[/], as its handler decided: more seats than there are")
    console.print(f"  divide  [red]raised[/]: {reason(raised)}")


def submit(client: GearmanClient, jobs: Sequence[tuple[str, Any]]) -> list[GearmanJobRequest]:
    """Submit jobs without waiting for their ends; payloads become JSON, and text stays text."""
    described = [
        {"task": task, "data": payload.encode() if isinstance(payload, str) else msgspec.json.encode(payload)}
        for task, payload in jobs
    ]
    return list(client.submit_multiple_jobs(described, wait_until_complete=False, poll_timeout=ACT_TIMEOUT_S))


def watch(client: GearmanClient, requests: list[GearmanJobRequest], look: Callable[[], None]) -> None:
    """Wait until jobs have ended, and look at them every now and then.

    Raises:
        DemoFailed: they took longer than an act may take.
    """
    deadline = time.monotonic() + ACT_TIMEOUT_S
    while not all(request.complete for request in requests):
        if time.monotonic() > deadline:
            late = [request.job.task for request in requests if not request.complete]
            raise DemoFailed(f"not done within {ACT_TIMEOUT_S:g} s: {', '.join(late)}")
        client.wait_until_jobs_completed(requests, poll_timeout=LOOK_INTERVAL_S)
        look()
    look()


def expect(request: GearmanJobRequest, state: str) -> None:
    """Check how a job ended.

    Raises:
        DemoFailed: in another way.
    """
    if request.state != state:
        raise DemoFailed(
            f"a job of {request.job.task} ended as {request.state}, not {state}: {reason(request) or 'no exception'}"
        )


def reason(request: GearmanJobRequest) -> str:
    """What a failed job's exception says; empty where it has none."""
    exception = request.exception
    return exception.decode(errors="replace") if isinstance(exception, bytes) else str(exception or "")


def checked(picture: Resized) -> Path:
    """Open a picture that a job made.

    Raises:
        DemoFailed: it is not there, no picture, or of another size than the job said.
    """
    try:
        with Image.open(picture.file) as opened:
            opened.load()
            size = opened.size
    except OSError as error:
        raise DemoFailed(f"{picture.file}: {error}") from None
    if size != (picture.width, picture.height):
        raise DemoFailed(f"{picture.file} is {size[0]}x{size[1]}, not {picture.width}x{picture.height}")
    return Path(picture.file)


class Bars:
    """The jobs' status as progress bars on a terminal, and elsewhere as a line for each job that has ended.

    Args:
        console: where to.
        names: one for each job, in the order of the requests that ``show`` gets.
    """

    def __init__(self, console: Console, names: list[str]) -> None:
        self._console, self._names = console, names
        columns = (TextColumn("  {task.description}"), BarColumn(30), MofNCompleteColumn())
        self._progress = Progress(*columns, console=console, auto_refresh=False, disable=not console.is_terminal)
        self._bars = [self._progress.add_task(name, total=len(WIDTHS_PIXELS)) for name in names]
        self._ended: set[str] = set()

    def __enter__(self) -> Bars:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, requests: list[GearmanJobRequest]) -> None:
        """Show how far the jobs are."""
        for bar, name, request in zip(self._bars, self._names, requests, strict=True):
            if request.status:
                self._progress.update(bar, completed=request.status["numerator"], total=request.status["denominator"])
            if request.complete and name not in self._ended:
                self._ended.add(name)
                if not self._console.is_terminal:
                    self._console.print(f"  {name}: {request.state.lower()}")
        self._progress.refresh()
