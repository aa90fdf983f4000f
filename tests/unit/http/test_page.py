"""The page: state, jobs, progress, and its bounds."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import Any

import pytest

from gearworker.http.page import render_page


def row(n: int = 1, **fields: Any) -> dict[str, Any]:
    return {"task": "t", "handle": f"H:{n}", "pool": "p", "running_s": 1.25, "progress": None, **fields}


def test_it_says_how_the_worker_is() -> None:
    page = render_page(alive=True, ready=False, jobs=[])
    assert '<strong class="good">alive</strong>, <strong class="bad">not ready</strong>, 0 jobs running' in page
    assert "No job runs at the moment." in page
    assert "<table>" not in page


def test_it_shows_running_jobs_and_their_progress() -> None:
    page = render_page(alive=True, ready=True, jobs=[row(progress={"numerator": 1, "denominator": 4}), row(2)])
    assert "<code>H:1</code><td>p<td>1.2 s<td>" in page
    assert page.count('<progress value="1" max="4"></progress> 1/4') == 1
    assert page.count("<progress ") == 1


def test_a_progress_of_nothing_is_no_bar() -> None:
    assert "<progress " not in render_page(
        alive=True, ready=True, jobs=[row(progress={"numerator": 0, "denominator": 0})]
    )


@pytest.mark.parametrize(("count", "more"), [(200, ""), (201, "and 1 more"), (5000, "and 4800 more")])
def test_its_length_is_bounded(count: int, more: str) -> None:
    page = render_page(alive=True, ready=True, jobs=[row(n) for n in range(count)])
    assert page.count("<code>") == 200
    assert more in page
    assert ("<p>and " in page) == bool(more)


def test_it_runs_no_script_and_loads_nothing_from_elsewhere() -> None:
    class Look(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            assert tag not in {"script", "link", "img", "iframe"}
            for name, value in attrs:
                assert not name.startswith("on")
                assert name not in {"href", "src"} or (value or "").startswith("/")

    Look().feed(render_page(alive=True, ready=True, jobs=[row()]))
