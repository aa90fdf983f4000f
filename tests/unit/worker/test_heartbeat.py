"""The heartbeat: when it asks, when it gives up, and that a blocked hub never counts as silence."""

from __future__ import annotations

from gearworker.worker.heartbeat import Heartbeat


def test_it_asks_after_silence_and_gives_up_without_an_answer() -> None:
    heartbeat = Heartbeat(idle_s=15, timeout_s=3)
    assert heartbeat.tick(14.9) is None
    assert heartbeat.tick(15) == "ask"
    assert [heartbeat.tick(16 + n) for n in range(4)] == [None, None, None, "give up"]


def test_an_answer_ends_the_question() -> None:
    heartbeat = Heartbeat(idle_s=15, timeout_s=1)
    assert heartbeat.tick(15) == "ask"
    heartbeat.answered()
    assert heartbeat.tick(1) is None
    assert heartbeat.tick(15) == "ask"


def test_any_byte_shows_life_while_the_answer_is_queued_behind() -> None:
    heartbeat = Heartbeat(idle_s=15, timeout_s=2)
    assert heartbeat.tick(15) == "ask"
    assert [heartbeat.tick(silent_s) for silent_s in (16, 17, 0.2, 1.2, 2.2)] == [None] * 5
    assert heartbeat.tick(3.2) == "give up"


def test_one_tick_after_a_long_block_is_one_tick() -> None:
    heartbeat = Heartbeat(idle_s=15, timeout_s=10)
    assert heartbeat.tick(15) == "ask"
    assert heartbeat.tick(3600) is None


def test_it_asks_at_once_where_it_is_told_to() -> None:
    assert Heartbeat(idle_s=15, timeout_s=10).tick(0, ask_now=True) == "ask"
