"""How frames become messages: whole pieces, in order, no message longer than it may be."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wire.rpc import chunks
from wire.rpc.chunks import gathered

MOST = 1000
"""Bytes of a message here, so that a thousand frames are cut in no time."""
SIZES = st.one_of(
    st.integers(1, 50),
    st.integers(MOST // 3, MOST // 2 + 1),
    st.integers(MOST - 10, MOST + 10),
    st.sampled_from((MOST, 2 * MOST)),
)
"""Of pieces: tiny ones, ones of which two just fit, ones that fill a message alone."""
FRAMES = st.lists(SIZES, max_size=12).map(
    lambda sizes: [bytes([number]) * size for number, size in enumerate(sizes)]
)
"""Each piece tells its number, so that none passes for another."""


@pytest.fixture(autouse=True, scope="module")
def small_messages() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(chunks, "CHUNK_BYTES", MOST)
        yield


def sizes(messages: Sequence[Sequence[bytes]]) -> list[int]:
    return [sum(map(len, message)) for message in messages]


@given(FRAMES)
def test_messages_hold_whole_pieces_in_order(pieces: list[bytes]) -> None:
    messages = list(gathered(pieces))
    assert [piece for message in messages for piece in message] == pieces
    assert all(messages), "an empty message"


@given(FRAMES)
def test_a_message_is_one_piece_or_short_and_as_long_as_it_may_be(pieces: list[bytes]) -> None:
    messages = list(gathered(pieces))
    assert all(
        size <= MOST or len(message) == 1 for message, size in zip(messages, sizes(messages), strict=True)
    )
    for size, after in zip(sizes(messages), messages[1:], strict=False):
        assert size + len(after[0]) > MOST, "the next piece would have fitted"


@given(FRAMES)
def test_no_more_pieces_are_asked_for_than_it_takes(pieces: list[bytes]) -> None:
    """When a message is given, at most the one piece that did not fit into it was asked for beyond it."""
    asked = 0

    def asking() -> Iterator[bytes]:
        nonlocal asked
        for asked, piece in enumerate(pieces, start=1):  # noqa: B007
            yield piece

    given_out = 0
    for message in gathered(asking()):
        given_out += len(message)
        assert asked - given_out in (0, 1)
