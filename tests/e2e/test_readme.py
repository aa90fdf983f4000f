"""README's worker, as a newcomer types it: its module and configuration, a job server for development, a job."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.request import urlopen

import pytest
from support.servers import HOST, free_port, wait_until

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
ENVIRON = {**os.environ, "PYTHONPATH": str(ROOT)}


def block(after: str, language: str) -> str:
    """The first fenced block of a language after a text."""
    found = re.search(rf"```{language}\n(.*?)```", README[README.index(after) :], re.DOTALL)
    assert found is not None
    return found[1]


def gearworker(*arguments: str) -> list[str]:
    """A command line of gearworker."""
    return [sys.executable, "-m", "gearworker", *arguments]


@pytest.fixture
def service(tmp_path: Path) -> Iterator[tuple[int, int]]:
    """README's worker and job server, on free ports of their own; the ports of both."""
    port, http_port = free_port(), free_port()
    (tmp_path / "myapp.py").write_text(block("`myapp.py`", "python"))
    config = block("`config.yaml`", "yaml").replace(":4730", f":{port}")
    (tmp_path / "config.yaml").write_text(config + f'http: {{listen: "{HOST}:{http_port}"}}\n')
    with ExitStack() as stack:
        for arguments in (("server", "--listen", f"{HOST}:{port}"), ("run", "config.yaml")):
            process = subprocess.Popen(gearworker(*arguments), cwd=tmp_path, env=ENVIRON)
            stack.callback(process.wait, 10)
            stack.callback(process.send_signal, signal.SIGTERM)
        wait_until(lambda: _ready(http_port), what="the worker to be ready")
        yield port, http_port


def _ready(http_port: int) -> bool:
    try:
        with urlopen(f"http://{HOST}:{http_port}/readyz", timeout=5):
            return True
    except OSError:
        return False


def submit(port: int, task: str, data: str) -> subprocess.CompletedProcess[str]:
    """Submit a job by the command line."""
    command = gearworker("submit", task, data, "--job-server", f"{HOST}:{port}")
    return subprocess.run(command, env=ENVIRON, capture_output=True, text=True, timeout=20, check=False)


def test_the_worker_in_fifteen_lines(service: tuple[int, int]) -> None:
    port, http_port = service
    assert len(block("`myapp.py`", "python").splitlines()) <= 15
    assert submit(port, "reverse", "hello").stdout.rstrip("\n") == "olleh"
    assert '{"row":2}' in submit(port, "report", '{"rows": [1, 2]}').stdout
    refused = submit(port, "report", '{"rows": []}')
    assert refused.returncode == 1
    with urlopen(f"http://{HOST}:{http_port}/metrics", timeout=5) as answer:
        assert 'gearworker_jobs_total{outcome="complete",task="reverse"} 1.0' in answer.read().decode()


def test_the_table_of_commands_is_that_of_the_command_line() -> None:
    listed = subprocess.run(gearworker("--help"), env=ENVIRON, capture_output=True, text=True, check=True).stdout
    commands = set(re.findall(r"^  ([a-z]+) ", listed.partition("Commands:")[2], re.MULTILINE))
    table = README[README.index("| command | does |") : README.index("Exit codes: 0 done")]
    assert set(re.findall(r"`([a-z]+)[ `]", table)) >= commands


def test_the_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / target).exists(), target
