"""``submit``: submit a job and show what it sends, as it comes."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

import click

from gearworker.cli.job_servers import job_servers_option, silence_log
from gearworker.errors import GearmanError, JobTimeout, PayloadError

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from gearworker.client import GearmanClient
    from gearworker.client.updates import JobUpdate

MAX_STDIN_BYTES = 1024 * 1024 * 1024
_MAX_SHOWN_CHARS = 2000


@click.command(short_help="Submit a job and show what it sends.")
@click.argument("task")
@click.argument("data", default="")
@click.option("--background", is_flag=True, help="Don't wait for the result; print the job's handle.")
@click.option("--priority", type=click.Choice(["high", "normal", "low"]), default="normal", show_default=True)
@click.option("--unique", help="Jobs of one task with the same unique are one job.")
@click.option(
    "--timeout", type=click.FloatRange(0, min_open=True), metavar="SECONDS", help="Then give up: exit code 3."
)
@job_servers_option
def submit(
    task: str,
    data: str,
    background: bool,
    priority: str,
    unique: str | None,
    timeout: float | None,
    job_servers: list[str],
) -> None:
    """Submit a job of TASK with the payload DATA; "-" reads it from stdin.

    The result and the data that the job sends go to stdout as they come, its warnings to stderr.
    """
    from gearworker.client import GearmanClient

    silence_log()
    payload = _read_stdin() if data == "-" else os.fsencode(data)
    options: dict[str, Any] = {"unique": unique, "priority": None if priority == "normal" else priority.upper()}
    client = GearmanClient(job_servers)
    try:
        if background:
            click.echo(_submit_in_background(client, task, payload, timeout, options))
        else:
            _follow(client, task, payload, timeout, options)
        client.close()  # after Ctrl-C the process ends at once instead
    except JobTimeout as error:
        what = "no job server accepted the job" if background else "no result"
        error.args = (f"{what} within {timeout:g} s",)  # it may not even have started
        raise


def _read_stdin() -> bytes:
    data = sys.stdin.buffer.read(MAX_STDIN_BYTES + 1)
    if len(data) > MAX_STDIN_BYTES:
        raise PayloadError(f"stdin holds more than {MAX_STDIN_BYTES} bytes")
    return data


def _submit_in_background(
    client: GearmanClient, task: str, payload: bytes, timeout_s: float | None, options: dict[str, Any]
) -> str:
    """The handle of an accepted job."""
    request = client.submit_job(task, payload, background=True, poll_timeout=timeout_s, **options)
    if request.timed_out:
        raise JobTimeout(timeout_s or 0.0)
    if not request.complete:
        request.result_or_raise()
    return str(request.gearman_job.handle)


def _follow(client: GearmanClient, task: str, payload: bytes, timeout_s: float | None, options: dict[str, Any]) -> None:
    with _Screen() as screen:
        for update in client.stream(task, payload, timeout_s=timeout_s, **options):
            screen.show(update)


class _Screen:
    """Where a job's updates go: bytes to stdout, warnings and a progress bar to stderr."""

    def __init__(self) -> None:
        self._out = sys.stdout.buffer
        self._last_byte = b""
        self._progress: tuple[Progress, TaskID] | None = None

    def __enter__(self) -> _Screen:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._clear()
        if self._last_byte not in (b"", b"\n") and sys.stdout.isatty():
            click.echo()

    def show(self, update: JobUpdate) -> None:
        """Show an update.

        Raises:
            GearmanError: it says that the job failed.
        """
        if update.kind == "status":
            self._show_status(update.numerator or 0, update.denominator or 0)
            return
        self._clear()
        if update.kind in ("data", "result"):
            self._out.write(update.data)
            self._out.flush()
            self._last_byte = update.data[-1:] or self._last_byte
        elif update.kind == "warning":
            click.echo(f"warning: {_shown(update.data)}", err=True)
        else:
            raise GearmanError(f"the job failed: {_shown(update.data)}" if update.data else "the job failed")

    def _show_status(self, numerator: int, denominator: int) -> None:
        if not sys.stderr.isatty():
            return
        if self._progress is None:
            from rich.console import Console
            from rich.progress import Progress

            progress = Progress(console=Console(stderr=True), transient=True)
            self._progress = progress, progress.add_task("")
            progress.start()
        bar, task_id = self._progress
        bar.update(task_id, completed=numerator, total=denominator or None)

    def _clear(self) -> None:
        """Take the bar away, so that other lines don't mix with it; the next status brings it back."""
        if self._progress is not None:
            self._progress[0].stop()
            self._progress = None


def _shown(data: bytes) -> str:
    from gearworker.logs import escape

    text = data.decode("utf-8", "backslashreplace")
    return escape(text if len(text) <= _MAX_SHOWN_CHARS else text[:_MAX_SHOWN_CHARS] + "...")
