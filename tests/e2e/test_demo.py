"""The demo as a user runs it: ends by itself with 0, tells what happened, leaves pictures that can be opened."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from gearworker.demo.acts import TEXT

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT_S = 120


def run_demo(directory: Path, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "gearworker.demo"],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "120", **env},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo")


@pytest.fixture(scope="module")
def demo(place: Path) -> subprocess.CompletedProcess[str]:
    return run_demo(place)


def test_it_ends_with_zero_and_complains_of_nothing(demo: subprocess.CompletedProcess[str]) -> None:
    assert (demo.returncode, demo.stderr) == (0, "")
    assert "All as expected" in demo.stdout


def test_every_picture_is_there_in_every_size(demo: subprocess.CompletedProcess[str], place: Path) -> None:
    sizes = {"1200": (1200, 900), "640": (640, 480), "160": (160, 120)}
    pictures = sorted((place / ".demo").glob("*.jpg"))
    assert len(pictures) == 36
    for file in pictures:
        with Image.open(file) as picture:
            picture.load()
            assert picture.size == sizes[file.stem.rsplit("-", 1)[1]]
    assert len({file.read_bytes() for file in pictures}) == 36


def test_it_tells_what_became_of_the_jobs(demo: subprocess.CompletedProcess[str]) -> None:
    assert len(re.findall(r"valley-\d\dh: complete", demo.stdout)) == 12
    assert "│ A client hands a job to a job server" in demo.stdout
    assert "average complete: 4.5, with a warning: value 1 is missing" in demo.stdout
    assert "book    failed" in demo.stdout
    assert "ZeroDivisionError" in demo.stdout


def test_its_table_has_the_figures_of_the_worker(demo: subprocess.CompletedProcess[str]) -> None:
    rows = {cells[0]: cells[1:] for line in demo.stdout.splitlines() if (cells := line.split())}
    assert rows["resize"][:3] == ["12", "0", "0"]
    assert rows["book"][:3] == ["0", "1", "0"]
    assert rows["divide"][:3] == ["0", "0", "1"]
    assert int(rows["typeset"][-2].replace(",", "")) == len(TEXT)


def test_the_worker_is_gone_and_its_log_has_the_traceback(demo: subprocess.CompletedProcess[str], place: Path) -> None:
    found = re.search(r"A worker runs as process (\d+)", demo.stdout)
    assert found is not None
    with pytest.raises(ProcessLookupError):
        os.kill(int(found[1]), 0)
    assert "ZeroDivisionError" in (place / ".demo" / "worker.log").read_text()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_takes_its_worker_along(tmp_path: Path, number: signal.Signals) -> None:
    command = [sys.executable, "-u", "-m", "gearworker.demo"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        command, cwd=tmp_path, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as demo:
        assert demo.stdout is not None
        found = re.search(r"A worker runs as process (\d+)", demo.stdout.readline())
        assert found is not None
        demo.send_signal(number)
        _, complaint = demo.communicate(timeout=TIMEOUT_S)
    assert (demo.returncode, complaint) == (130, "The demo was interrupted.\n")
    with pytest.raises(ProcessLookupError):
        os.kill(int(found[1]), 0)


def test_a_worker_that_cannot_start_is_a_failure_with_a_reason(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\nif 'run' in sys.argv: sys.exit('no worker today')\n", encoding="utf-8"
    )
    demo = run_demo(tmp_path, PYTHONPATH=f"{tmp_path}{os.pathsep}{ROOT}")
    assert demo.returncode == 1
    assert "The demo failed: the worker ended at once, with exit code 1." in demo.stderr
    assert "no worker today" in demo.stderr
