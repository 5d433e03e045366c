"""A frame that is sent while it is made: in order, from its beginning each time, whole."""

from __future__ import annotations

import asyncio
import itertools
import sys
import threading

import pytest

from wire.rpc.chunks import CHUNK_BYTES
from worker.outgoing import Outgoing, keeping

LIMIT_S = 30.0


async def gathered(outgoing: Outgoing) -> list[bytes]:
    """All chunks of one sending."""
    async with asyncio.timeout(LIMIT_S):
        return [b"".join(chunk) async for chunk in outgoing.chunks()]


def sent(pieces: list[bytes]) -> list[bytes]:
    """The chunks of a frame whose pieces are all there."""

    async def send() -> list[bytes]:
        outgoing = Outgoing(asyncio.get_running_loop(), most_bytes=1 << 24)
        for piece in pieces:
            outgoing.add(piece)
        outgoing.finish()
        return await gathered(outgoing)

    return asyncio.run(send())


def test_small_pieces_go_together_and_large_ones_apart() -> None:
    small, half, large = b"s" * 1000, b"h" * (CHUNK_BYTES // 2), b"l" * (CHUNK_BYTES + 84)
    assert sent([small, small, half, half, small, large, small]) == [
        small + small + half,
        half + small,
        large,
        small,
    ]
    assert sent([half, half, small]) == [half + half, small]


def test_a_frame_of_no_pieces_has_no_chunks() -> None:
    assert sent([]) == []


def test_what_is_sent_again_begins_at_the_beginning() -> None:
    async def both() -> None:
        outgoing = Outgoing(asyncio.get_running_loop(), most_bytes=1 << 24)
        outgoing.add(b"one")
        broken = outgoing.chunks()
        assert await anext(broken) == (b"one",)
        await broken.aclose()
        outgoing.add(b"two")
        outgoing.finish()
        assert b"".join(await gathered(outgoing)) == b"onetwo"
        assert b"".join(await gathered(outgoing)) == b"onetwo"

    asyncio.run(both())


def test_a_piece_leaves_before_the_next_is_made() -> None:
    """Pieces are made in another thread, each only when the one before is on its way."""

    async def send() -> list[bytes]:
        outgoing, left = Outgoing(asyncio.get_running_loop(), most_bytes=1 << 24), threading.Semaphore(0)

        def make() -> None:
            for n in range(3):
                outgoing.add(bytes([n]))
                assert left.acquire(timeout=LIMIT_S)
            outgoing.finish()

        maker = threading.Thread(target=make)
        maker.start()
        chunks = []
        async with asyncio.timeout(LIMIT_S):
            async for chunk in outgoing.chunks():
                chunks += chunk
                left.release()
        maker.join(LIMIT_S)
        return chunks

    assert asyncio.run(send()) == [b"\0", b"\1", b"\2"]


@pytest.fixture
def hasty_threads() -> object:
    """Threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("hasty_threads")
def test_no_piece_is_lost_when_the_end_comes_at_once() -> None:
    """The last piece and the end may come between any two steps of the sender."""

    async def send(frames: int) -> None:
        for number in range(frames):
            outgoing = Outgoing(asyncio.get_running_loop(), most_bytes=1 << 24)
            pieces = [bytes([number & 255, n]) for n in range(number % 5)]

            def make(outgoing: Outgoing = outgoing, pieces: list[bytes] = pieces) -> None:
                for piece in pieces:
                    outgoing.add(piece)
                outgoing.finish()

            maker = threading.Thread(target=make)
            maker.start()
            assert b"".join(await gathered(outgoing)) == b"".join(pieces)
            maker.join(LIMIT_S)

    asyncio.run(send(400))


@pytest.mark.parametrize("turn", range(3))
def test_the_end_may_come_before_each_look_of_the_sender(turn: int) -> None:
    """The last piece and the end, at once, before the sender's look number `turn` at what there is."""
    looks = itertools.count()

    class Late(Outgoing):
        def __getattribute__(self, name: str) -> object:
            if name in ("_pieces", "_whole") and next(looks) == turn:
                self.add(b"last")
                self.finish()
            return super().__getattribute__(name)

    async def send() -> list[bytes]:
        outgoing = Late(asyncio.get_running_loop(), most_bytes=1 << 24)
        super(Late, outgoing).__getattribute__("_pieces").append(b"first")
        return await gathered(outgoing)

    assert b"".join(asyncio.run(send())) == b"firstlast"


def test_pieces_are_kept_as_they_pass() -> None:
    kept: list[bytes] = []
    passing = keeping((b"a", b"b"), kept)
    assert (next(iter(passing)), kept) == (b"a", [b"a"])
    assert (list(passing), kept) == ([b"b"], [b"a", b"b"])
