"""Delays: doubling, capped, with jitter, starting over."""

from __future__ import annotations

import pytest

from gearworker.net.backoff import Backoff


@pytest.mark.parametrize(("drawn", "share"), [(0.0, 0.5), (0.5, 0.75), (1.0, 1.0)])
def test_delays_double_up_to_the_cap_with_jitter_between_half_and_all(drawn: float, share: float) -> None:
    backoff = Backoff(0.1, 10.0, random=lambda: drawn)
    delays = [backoff.next_s() for _ in range(10)]
    assert delays == pytest.approx([share * full for full in (0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10, 10, 10)])


def test_it_starts_over_after_a_success() -> None:
    backoff = Backoff(1.0, 10.0, random=lambda: 1.0)
    assert [backoff.next_s(), backoff.next_s()] == [1.0, 2.0]
    backoff.reset()
    assert backoff.next_s() == 1.0


def test_a_server_away_for_years_overflows_nothing() -> None:
    backoff = Backoff(0.1, 10.0, random=lambda: 1.0)
    assert {backoff.next_s() for _ in range(5000)} <= {0.1 * 2**n for n in range(7)} | {10.0}


def test_the_jitter_is_random_by_default() -> None:
    assert len({Backoff(1.0).next_s() for _ in range(20)}) > 1
