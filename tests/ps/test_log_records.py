"""Records as bytes: every kind comes back as it was, and what is no record is named damage."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Mapping, Sequence
from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ps.log_records import decode, encode
from ps.records import (
    Accept,
    Advance,
    Bound,
    Close,
    Deposit,
    Fence,
    Flush,
    Mark,
    Publish,
    Record,
    Retire,
    Segment,
)
from wire.codec.base import Buffer, buffers_of
from wire.errors import DamagedFile
from wire.ids import UnitId
from wire.messages import Commit

TIMELINE = 3
EXAMPLE: dict[type, Record] = {
    Accept: Accept(
        UnitId(TIMELINE, 7, 1),
        2,
        9,
        Commit("", 8, 64, 1.5, 2.5, (0.1, 0.2), push_norm=3.5),
        (b"head", b"part"),
        4,
    ),
    Flush: Flush(9, 2, (0.1, 0.2), b"all of it"),
    Fence: Fence(7, 1, 2),
    Close: Close(7, (0, 2), deposit=True, final=False, retain_from=3, late=(5, 11), pause=True, bound=0.5),
    Segment: Segment(4, 7, elastic=True, arrival=True),
    Deposit: Deposit(1, 7, 2, {"residual": b"12345678", "extra": b""}),
    Retire: Retire(9),
    Publish: Publish("two units are pending"),
    Advance: Advance(2**40),
    Bound: Bound(0.75),
    Mark: Mark(),
}

numbers = st.integers(0, 2**32 - 1)
large = st.integers(0, 2**64 - 1)
doubles = st.floats(allow_nan=False)
rates = st.lists(doubles, max_size=4).map(tuple)
data = st.binary(max_size=40)
pieces = st.one_of(data, data.map(memoryview)).filter(len)
frames = st.one_of(data, st.lists(pieces, min_size=1, max_size=4).map(tuple))
commits = st.builds(Commit, st.text(max_size=10), large, large, doubles, doubles, rates, push_norm=doubles)
units = st.builds(UnitId, st.just(TIMELINE), large, numbers)
RECORDS: dict[type, st.SearchStrategy[Record]] = {
    Accept: st.builds(Accept, units, numbers, large, commits, frames, large),
    Flush: st.builds(Flush, large, numbers, rates, frames),
    Fence: st.builds(Fence, large, numbers, numbers),
    Close: st.builds(
        Close,
        large,
        st.lists(numbers, max_size=5).map(tuple),
        st.booleans(),
        st.booleans(),
        large,
        st.lists(large, max_size=5).map(tuple),
        st.booleans(),
        bound=doubles,
    ),
    Segment: st.builds(Segment, numbers, large, st.booleans(), st.booleans()),
    Deposit: st.builds(
        Deposit, numbers, large, numbers, st.dictionaries(st.text(min_size=1, max_size=8), data, max_size=4)
    ),
    Retire: st.builds(Retire, large),
    Publish: st.builds(Publish, st.text(max_size=20)),
    Advance: st.builds(Advance, large),
    Bound: st.builds(Bound, doubles),
    Mark: st.builds(Mark),
}


def joined(pieces: Sequence[Buffer]) -> bytes:
    return b"".join(pieces)


def plain(value: object) -> object:
    """A field of a record, whatever buffers it is in."""
    if isinstance(value, Mapping):
        return {name: bytes(part) for name, part in value.items()}
    return value


def same(one: Record, other: Record) -> bool:
    """Whether two records say the same; a frame may be in other pieces."""
    if type(one) is not type(other):
        return False
    for field in fields(one):
        here, there = getattr(one, field.name), getattr(other, field.name)
        if field.name == "frame":
            here, there = joined(buffers_of(here)), joined(buffers_of(there))
        if plain(here) != plain(there):
            return False
    return True


def test_all_kinds_of_records_are_here() -> None:
    assert set(RECORDS) == set(EXAMPLE) == set(Record.__args__)  # type: ignore[attr-defined]


@given(st.one_of(*RECORDS.values()))
def test_what_comes_back_is_what_went_in(record: Record) -> None:
    payload = joined(encode(record, timeline=TIMELINE))
    again = decode(payload)
    assert same(record, again), (record, again)
    assert joined(encode(again, timeline=TIMELINE)) == payload


def test_a_frame_is_not_copied() -> None:
    frame = (b"head", memoryview(b"part"))
    record = EXAMPLE[Accept]
    assert isinstance(record, Accept)
    pieces = encode(
        Accept(record.unit, record.attempt, record.incarnation, record.commit, frame), timeline=TIMELINE
    )
    assert pieces[-2] is frame[0] and pieces[-1] is frame[1]


@pytest.mark.parametrize("kind", EXAMPLE, ids=lambda kind: kind.__name__)
def test_a_payload_that_was_cut_is_damage(kind: type) -> None:
    payload = joined(encode(EXAMPLE[kind], timeline=TIMELINE))
    for size in range(len(payload)):
        with pytest.raises(DamagedFile):
            decode(payload[:size])


@pytest.mark.parametrize("kind", EXAMPLE, ids=lambda kind: kind.__name__)
def test_a_payload_with_more_behind_it_is_damage(kind: type) -> None:
    with pytest.raises(DamagedFile, match="start that version here"):
        decode(joined(encode(EXAMPLE[kind], timeline=TIMELINE)) + b"x")


@given(st.binary(max_size=60))
def test_foreign_bytes_are_a_record_or_damage(payload: bytes) -> None:
    for data in (payload, struct.pack("<I", len(payload)) + payload):
        with contextlib.suppress(DamagedFile):
            decode(data)


@given(st.sampled_from(sorted(EXAMPLE, key=lambda kind: kind.__name__)), st.data())
def test_altered_bytes_are_a_record_or_damage(kind: type, draw: st.DataObject) -> None:
    payload = bytearray(joined(encode(EXAMPLE[kind], timeline=TIMELINE)))
    payload[draw.draw(st.integers(0, len(payload) - 1))] = draw.draw(st.integers(0, 255))
    with contextlib.suppress(DamagedFile):
        decode(bytes(payload))


def test_a_message_of_another_build_is_damage() -> None:
    unknown = b"\xfa\x3f\x02hi"  # field 1023, which no version of the format has
    with pytest.raises(DamagedFile, match="another version of Sparsync wrote it"):
        decode(struct.pack("<I", len(unknown)) + unknown)
