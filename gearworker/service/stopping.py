"""How a process with a worker ends: signals and commands in, a drain or a stop at once, an exit code out.

Exit codes: 0 after a whole drain; ``EXIT_GRACE_OVER`` where the grace ended before the jobs did, which the job servers
then give to somebody else; 128 and the signal's number after a stop at once. Signal handlers only put the signal into
the queue of commands; ``run_until_stopped`` acts.
"""

from __future__ import annotations

import logging
import signal
from time import monotonic
from typing import Final, cast

import gevent
from gevent.queue import SimpleQueue
from gevent.util import format_run_info

from gearworker.worker.worker import Worker

log = logging.getLogger(__name__)

EXIT_GRACE_OVER: Final = 3
STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)


class Commands(SimpleQueue[signal.Signals | None]):
    """Signals to act on, as they came; None says that a drain has ended."""


def run_until_stopped(worker: Worker, commands: Commands, grace_s: float) -> int:
    """Wait for a signal and do what it says.

    Args:
        worker: a started worker.
        commands: where the signals come in.
        grace_s: how long a drain may take, in seconds.

    Returns: the process's exit code.

    Switches: all the time.
    """
    command = commands.get()
    if command in (signal.SIGTERM, signal.SIGINT):
        log.info("%s: draining, %d jobs running, up to %g s", command.name, len(worker.running_jobs()), grace_s)
        drain = gevent.spawn(worker.drain, grace_s)
        drain.link(lambda _: commands.put(None))
        command = commands.get()
        if command is None:
            return _after_drain(bool(drain.get()), grace_s)
        drain.kill(block=False)
    assert command is not None
    log.warning("%s: stopping at once; the job servers give unfinished jobs to others", command.name)
    return 128 + command


def _after_drain(finished: bool, grace_s: float) -> int:
    if finished:
        log.info("drained, every job answered")
        return 0
    log.error("jobs still ran when the grace of %g s was over; the job servers give them to others", grace_s)
    return EXIT_GRACE_OVER


def log_stacks(worker: Worker) -> None:
    """Log every running job, and the stack of every greenlet and thread."""
    now = monotonic()
    for pool, job in worker.running_jobs():
        extra = {"task": job.task, "handle": job.handle, "pool": pool.name}
        log.info("running for %.1f s, attempt %d", now - job.started_at, job.attempt, extra=extra)
    stacks = "\n".join(cast("list[str]", format_run_info()))
    log.info("stacks of all greenlets and threads of this process", extra={"stack": stacks})
