"""A process that is stopped for certain: the signal alone returns before all threads have obeyed."""

from __future__ import annotations

from pathlib import Path

from support.servers import ServerProcess, wait_until


def suspend(server: ServerProcess) -> None:
    """Stop a job server, and wait until none of its threads runs any longer."""
    server.suspend()
    tasks = Path(f"/proc/{server.pid}/task")
    wait_until(lambda: {_state(task) for task in tasks.iterdir()} == {"T"}, what="the job server to stop")


def _state(task: Path) -> str:
    return (task / "stat").read_text().rsplit(")", 1)[1].split()[0]
