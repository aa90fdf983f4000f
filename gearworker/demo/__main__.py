"""``python -m gearworker.demo``: start a worker, put real jobs through it, show what comes back, stop it."""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path

from rich.console import Console

from gearworker.client import GearmanClient
from gearworker.demo.acts import end_in_every_way, resize_pictures, stream_text
from gearworker.demo.figures import print_figures, wait_for_figures
from gearworker.demo.service import DemoFailed, Service
from gearworker.errors import GearmanError

CONFIG = Path(__file__).resolve().parents[2] / "configs" / "demo.yaml"
DIRECTORY = Path(".demo")


def run(console: Console, directory: Path) -> None:
    """Run the demo.

    Args:
        console: what it prints to.
        directory: where pictures and the worker's log go.

    Raises:
        DemoFailed: something did not go as it should.
        GearmanError: the job server could not be talked to.
    """
    began_s = time.monotonic()
    if not CONFIG.is_file():
        raise DemoFailed(f"{CONFIG} is missing; the demo runs in a checkout of the project")
    directory.mkdir(parents=True, exist_ok=True)
    log = directory / "worker.log"
    with Service(CONFIG, log) as service, GearmanClient([service.job_server]) as client:
        console.print(f"A worker runs as process {service.pid}, with a job server of its own at {service.job_server}.")
        console.rule("12 pictures, 3 sizes of each, in native threads", align="left")
        pictures = resize_pictures(client, console, directory)
        console.rule("A text, streamed line by line while it is made", align="left")
        stream_text(client, console)
        console.rule("A warning, a failure, an exception", align="left")
        end_in_every_way(client, console)
        console.rule("What the worker counted: /metrics", align="left")
        print_figures(console, wait_for_figures(service))
    console.print("The worker has drained and ended.")
    console.print(f"Its log is {log}; {len(pictures)} pictures are in {directory}", soft_wrap=True)
    console.print(f"All as expected, in {time.monotonic() - began_s:.1f} s.")


def main() -> int:
    """Run the demo in the current directory; gives the exit code."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: never leave the worker behind
    try:
        run(Console(highlight=False), DIRECTORY.resolve())
    except (DemoFailed, GearmanError) as error:
        print(f"The demo failed: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("The demo was interrupted.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
