"""Which files run --watch looks at."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gearworker.cli import watch
from gearworker.config import Config


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("c.yaml", "single.py", "other.py", "pkg/__init__.py", "pkg/sub/tasks.py", "pkg/note.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("raise RuntimeError('never imported')\n")
    for name in ("pkg/__pycache__/x.py", "pkg/.hidden/x.py", "pkg/venv/x.py"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text("")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def watched(here: Path, modules: list[str]) -> set[str]:
    times = watch._times("c.yaml", watch._source_directories(Config(tasks=modules)))
    return {os.path.relpath(file, here) for file in times}


def test_a_package_is_watched_with_all_below(here: Path) -> None:
    assert watched(here, ["pkg.sub.tasks"]) == {"c.yaml", "pkg/__init__.py", "pkg/sub/tasks.py"}


def test_a_single_module_is_watched_with_its_neighbours(here: Path) -> None:
    assert watched(here, ["single"]) == {"c.yaml", "single.py", "other.py"}


def test_a_missing_module_has_the_current_directory_watched(here: Path) -> None:
    assert watched(here, ["nowhere.tasks"]) == {"c.yaml", "single.py", "other.py"}


def test_changes_show(here: Path) -> None:
    directories = {str(here): False}
    before = watch._times("c.yaml", directories)
    os.utime("single.py", ns=(1, 1))
    changed = watch._times("c.yaml", directories)
    assert changed != before
    os.unlink("other.py")
    assert watch._times("c.yaml", directories) != changed


def test_the_number_of_files_is_bounded(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "MAX_FILES", 2)
    assert len(watch._times("c.yaml", {str(here): True})) == 2
