"""The packet table: whole, consistent, and as the protocol numbers it."""

from __future__ import annotations

import pytest

from gearworker.protocol.packets import (
    HEADER_BYTES,
    MAX_ARGUMENT_BYTES,
    PACKETS,
    REQUEST_MAGIC,
    RESPONSE_MAGIC,
    PacketSpec,
    PacketType,
    Sender,
)

_EVERY_ROW = pytest.mark.parametrize("row", PACKETS.values(), ids=lambda row: row.type.name)


def test_the_table_has_every_type_once() -> None:
    assert set(PACKETS) == set(PacketType)
    assert len(PACKETS) == len(PacketType) == 41


def test_the_numbers_are_those_of_the_protocol() -> None:
    assert sorted(PACKETS) == [n for n in range(1, 43) if n != 5]
    assert PacketType(9).name == "GRAB_JOB"
    assert PacketType(13).name == "WORK_COMPLETE"
    assert PacketType(31).name == "JOB_ASSIGN_UNIQ"
    assert PacketType(42).name == "STATUS_RES_UNIQUE"


@_EVERY_ROW
def test_a_row_is_filed_under_its_number_and_names_its_arguments_once(row: PacketSpec) -> None:
    assert PACKETS[row.type] is row
    assert len(set(row.arguments)) == len(row.arguments)
    assert row.senders


@_EVERY_ROW
def test_data_comes_last_because_only_the_last_argument_may_hold_nuls(row: PacketSpec) -> None:
    assert "data" not in row.arguments[:-1]


def test_a_jobs_packets_go_both_ways_and_grabs_only_up() -> None:
    for packet_type in (PacketType.WORK_COMPLETE, PacketType.WORK_DATA, PacketType.WORK_FAIL, PacketType.WORK_STATUS):
        assert PACKETS[packet_type].senders == Sender.WORKER | Sender.SERVER
    assert PACKETS[PacketType.GRAB_JOB_UNIQ].senders == Sender.WORKER
    assert PACKETS[PacketType.JOB_CREATED].senders == Sender.SERVER
    assert PACKETS[PacketType.SUBMIT_JOB].senders == Sender.CLIENT


def test_a_reduce_job_has_five_arguments_since_gearmand_hangs_on_four() -> None:
    assert PACKETS[PacketType.SUBMIT_REDUCE_JOB].arguments == ("task", "unique", "reducer", "aggregator", "data")


def test_magics_and_limits() -> None:
    assert len(REQUEST_MAGIC) == len(RESPONSE_MAGIC) == 4
    assert HEADER_BYTES == 12
    names = {name for row in PACKETS.values() for name in row.arguments}
    assert set(MAX_ARGUMENT_BYTES) <= names
