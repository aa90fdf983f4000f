"""How the demo judges and shows its jobs, with requests that no job server has seen."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from rich.console import Console

from gearworker.demo import acts
from gearworker.demo.acts import Bars, checked, expect, watch
from gearworker.demo.service import DemoFailed
from gearworker.demo.tasks import Resized
from gearworker.job import JOB_COMPLETE, JOB_FAILED, GearmanJob, GearmanJobRequest


def created(task: str = "resize") -> GearmanJobRequest:
    request = GearmanJobRequest(GearmanJob(None, None, task, None, b""))
    request.submit_sent(None)
    request.job_created("H:test:1")
    return request


def ended(result: bytes = b"") -> GearmanJobRequest:
    request = created()
    request.work_complete(result)
    return request


class SlowClient:
    """Stands in for a client whose jobs end at the given wait."""

    def __init__(self, waits: int) -> None:
        self.waits = waits

    def wait_until_jobs_completed(self, requests: list[GearmanJobRequest], poll_timeout: float) -> None:
        self.waits -= 1
        if self.waits == 0:
            for request in requests:
                request.work_complete(b"")


def test_watch_looks_after_every_wait_and_once_more_at_the_end() -> None:
    looks: list[bool] = []
    requests = [created(), created()]
    watch(SlowClient(3), requests, lambda: looks.append(requests[0].complete))
    assert looks == [False, False, True, True]


def test_watch_gives_up_and_names_the_late_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acts, "ACT_TIMEOUT_S", -1.0)
    with pytest.raises(DemoFailed, match=r"not done within -1 s: typeset$"):
        watch(SlowClient(1), [ended(), created("typeset")], lambda: None)


def test_another_end_than_expected_is_told_with_its_reason() -> None:
    request = created()
    request.work_exception(b"OSError: disk full")
    expect(request, JOB_FAILED)
    with pytest.raises(DemoFailed, match=r"resize ended as FAILED, not COMPLETE: OSError: disk full"):
        expect(request, JOB_COMPLETE)


@pytest.mark.parametrize(
    ("file", "width", "message"),
    [("picture.jpg", 41, "is 40x30, not 41x30"), ("text.jpg", 40, "text.jpg: "), ("none.jpg", 40, "none.jpg: ")],
)
def test_a_picture_that_is_not_as_the_job_said_is_found(tmp_path: Path, file: str, width: int, message: str) -> None:
    Image.new("RGB", (40, 30)).save(tmp_path / "picture.jpg")
    (tmp_path / "text.jpg").write_text("no picture")
    assert checked(Resized(str(tmp_path / "picture.jpg"), 40, 30)) == tmp_path / "picture.jpg"
    with pytest.raises(DemoFailed, match=message):
        checked(Resized(str(tmp_path / file), width, 30))


def show(requests: list[GearmanJobRequest], times: int = 1, **console: Any) -> str:
    output = io.StringIO()
    with Bars(Console(file=output, width=80, **console), [f"picture-{n}" for n, _ in enumerate(requests)]) as bars:
        for _ in range(times):
            bars.show(requests)
    return output.getvalue()


def test_without_a_terminal_each_job_has_one_line_when_it_has_ended() -> None:
    assert show([ended(), created(), ended()], times=2) == "  picture-0: complete\n  picture-2: complete\n"


def test_on_a_terminal_each_job_has_a_bar_with_its_status() -> None:
    running = created()
    running.work_status(2, 3, 0.0)
    output = show([running, created()], force_terminal=True, color_system=None, legacy_windows=False)
    assert "picture-0" in output
    assert "2/3" in output
    assert "0/3" in output
