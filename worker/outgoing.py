"""A frame on its way: the training thread adds pieces while the network thread sends those that are there.

All pieces are kept until the push is acknowledged, so that what must be sent again is sent as it was.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator

from wire.crash import crash_point
from wire.messages import Commit, commit_to_proto
from wire.rpc.chunks import Data, gathered
from wire.v1 import shard_pb2


class Outgoing:
    """The pieces of one frame, in order.

    Args:
        loop: of the network thread.
        most_bytes: no frame for these blocks is longer.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, *, most_bytes: int) -> None:
        self.most_bytes = most_bytes
        self._loop = loop
        self._pieces: list[bytes] = []
        self._whole = False
        self._over = False
        self._news = asyncio.Event()

    # --- from the training thread ------------------------------------------------------------

    def add(self, piece: bytes) -> None:
        """One more piece."""
        self._pieces.append(piece)
        self._loop.call_soon_threadsafe(self._news.set)

    def finish(self) -> None:
        """There are no more pieces."""
        self._whole = True
        self._loop.call_soon_threadsafe(self._news.set)

    # --- from the network thread -------------------------------------------------------------

    async def chunks(self) -> AsyncIterator[Data]:
        """All of the frame from its beginning, as soon as it is there, in messages that end where a piece ends."""
        sent = 0
        while True:
            whole, there = self._whole or self._over, len(self._pieces)
            for chunk in gathered(self._pieces[sent:there]):
                yield chunk
            sent = there
            if whole:
                return
            self._news.clear()  # for another sending too, so that none may wait without a look at what is there
            if not (self._whole or self._over) and len(self._pieces) == sent:
                await self._news.wait()

    def end(self) -> None:
        """Nobody is sent it any more: gRPC lets a call that is over wait for its next message, which may never come."""
        self._over = True
        self._news.set()


async def push_messages(
    header: shard_pb2.PushHeader, chunks: AsyncIterator[Data], commit: Commit
) -> AsyncIterator[shard_pb2.PushChunk | Data]:
    """A push, message by message."""
    yield shard_pb2.PushChunk(header=header)
    async for chunk in chunks:
        yield chunk
    crash_point("worker.commit.before")
    yield shard_pb2.PushChunk(commit=commit_to_proto(commit))
    crash_point("worker.commit.after")


async def each(chunks: Iterable[Data]) -> AsyncIterator[Data]:
    """Chunks that are all there."""
    for chunk in chunks:
        yield chunk


def keeping(pieces: Iterable[bytes], kept: list[bytes]) -> Iterator[bytes]:
    """The same pieces; `kept` has them, too."""
    for piece in pieces:
        kept.append(piece)
        yield piece
