"""What nodes write for each other, as bytes."""

import pytest

from vidcloud.errors import ShareError
from vidcloud.queue import records
from vidcloud.queue.records import Beat, Frontier, Retake, Ticket


def test_frontier_round_trip():
    frontier = Frontier(3, 7, 10, 20, None, 12, {11: Retake(2, ("p1",), keep=True)}, "", 5, 0b1011, 2)
    assert Frontier.from_bytes(frontier.to_bytes()) == frontier


def test_records_of_newer_versions_are_refused_and_unknown_keys_ignored():
    with pytest.raises(ShareError, match="newer"):
        records.decode(b'{"version": 99}', "a record")
    assert Ticket.from_bytes(records.encode({"node": "a", "pid": 1, "host": "", "started": 0, "address": "", "new": 1}))


def test_a_beat_has_a_fixed_length():
    """Written in place: a shorter one must not leave the tail of a longer one."""
    assert len(Beat(1, -1, 0, 0, 0).to_bytes()) == len(Beat(10**9, 10**6, 99, 20, 10**6).to_bytes())


def test_this_process_is_not_gone_and_a_reused_pid_is_told_apart():
    me = records.this_process("me")
    assert not records.process_gone(me)
    assert records.process_gone(Ticket("me", me.pid, me.host, me.started + 1))
    assert not records.process_gone(Ticket("me", me.pid, "another host", me.started + 1)), "can't know"
