"""The page that a person sees at ``/``: state, running jobs, links. Plain HTML, no script, everything escaped."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any, Final

_MAX_ROWS: Final = 200

_STYLE: Final = """
:root{color-scheme:light dark}
body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}
h1{font-size:1.4rem} table{border-collapse:collapse;width:100%} th,td{text-align:left;padding:.3rem .6rem}
th{border-bottom:1px solid} td{border-bottom:1px solid #8884} .good{color:#2a7d46} .bad{color:#c0392b}
progress{width:8rem;vertical-align:middle} nav a{margin-right:1rem} code{font-size:.9em}
"""


def render_page(*, alive: bool, ready: bool, jobs: Sequence[dict[str, Any]]) -> str:
    """The page as HTML.

    Args:
        alive, ready: as at /livez and /readyz.
        jobs: rows as at /jobs.
    """
    rows = "".join(_row(job) for job in jobs[:_MAX_ROWS])
    more = f"<p>and {len(jobs) - _MAX_ROWS} more</p>" if len(jobs) > _MAX_ROWS else ""
    table = (
        "<table><thead><tr><th>task<th>handle<th>pool<th>running<th>progress</tr></thead>"
        f"<tbody>{rows}</tbody></table>{more}"
        if jobs
        else "<p>No job runs at the moment.</p>"
    )
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>gearworker</title>'
        '<meta name="viewport" content="width=device-width"><meta http-equiv="refresh" content="5">'
        f"<style>{_STYLE}</style><h1>gearworker</h1>"
        f"<p>{_state(alive, 'alive', 'not alive')}, {_state(ready, 'ready', 'not ready')}, {len(jobs)} jobs running</p>"
        '<nav><a href="/metrics">/metrics</a><a href="/jobs">/jobs</a><a href="/livez">/livez</a>'
        f'<a href="/readyz">/readyz</a></nav><h2>Running jobs</h2>{table}</html>\n'
    )


def _state(good: bool, yes: str, no: str) -> str:
    return f'<strong class="{"good" if good else "bad"}">{yes if good else no}</strong>'


def _row(job: dict[str, Any]) -> str:
    progress = job["progress"]
    bar = ""
    if progress is not None and progress["denominator"]:
        done, total = progress["numerator"], progress["denominator"]
        bar = f'<progress value="{done}" max="{total}"></progress> {done}/{total}'
    return (
        f"<tr><td>{escape(job['task'])}<td><code>{escape(job['handle'])}</code><td>{escape(job['pool'])}"
        f"<td>{job['running_s']:.1f} s<td>{bar}</tr>"
    )
