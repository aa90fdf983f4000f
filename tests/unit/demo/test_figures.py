"""What the demo reads from /metrics, and the table that it prints of it."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from gearworker.demo import figures
from gearworker.demo.figures import EXPECTED_JOBS, print_figures, read_figures, wait_for_figures
from gearworker.demo.service import DemoFailed

EXPOSITION = "".join(
    f'gearworker_jobs_total{{task="{task}",outcome="{outcome}"}} {count}\n'
    f'gearworker_job_duration_seconds_count{{task="{task}"}} {count}\n'
    f'gearworker_job_duration_seconds_sum{{task="{task}"}} {count * 0.25}\n'
    f'gearworker_job_packets_total{{task="{task}",type="data"}} 3\n'
    f'gearworker_job_packets_total{{task="{task}",type="status"}} 4\n'
    f'gearworker_job_bytes_total{{task="{task}",direction="in"}} 1200\n'
    f'gearworker_job_bytes_total{{task="{task}",direction="out"}} 56\n'
    for (task, outcome), count in EXPECTED_JOBS.items()
)


class Answers:
    """Stands in for a service: gives one text of /metrics after the other, the last one for ever."""

    def __init__(self, *texts: str) -> None:
        self.texts = list(texts)

    def get(self, path: str) -> str:
        assert path == "/metrics"
        return self.texts.pop(0) if len(self.texts) > 1 else self.texts[0]


def test_samples_are_found_by_task_and_other_label() -> None:
    found = read_figures(
        'up 1\nhub{worker="a"} 2\njobs_total{outcome="fail",task="book"} 3\nlag_count{task="book"} 4\n'
    )
    assert found == {"jobs_total": {("book", "fail"): 3.0}, "lag_count": {("book", ""): 4.0}}


def test_it_waits_until_all_jobs_are_counted() -> None:
    service = Answers("gearworker_jobs_total 0\n", EXPOSITION)
    assert wait_for_figures(service)["gearworker_jobs_total"]["resize", "complete"] == 12
    assert len(service.texts) == 1


def test_jobs_of_another_number_are_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "COUNT_TIMEOUT_S", 0.0)
    with pytest.raises(DemoFailed, match=r"counts the jobs \{\('resize', 'complete'\): 11"):
        wait_for_figures(Answers('gearworker_jobs_total{task="resize",outcome="complete"} 11\n'))


def test_the_table_has_a_line_for_each_task() -> None:
    output = io.StringIO()
    print_figures(Console(file=output, width=120), read_figures(EXPOSITION))
    lines = [line.split() for line in output.getvalue().splitlines()]
    assert ["resize", "12", "0", "0", "250.0", "7", "1,200", "56"] in lines
    assert ["divide", "0", "0", "1", "250.0", "7", "1,200", "56"] in lines
