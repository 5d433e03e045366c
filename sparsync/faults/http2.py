"""Just enough of HTTP/2 (RFC 9113, section 4.1) to see in passing which calls are answered.

Works on connections without TLS. Nothing is kept of a call but how many bytes it has sent.
"""

from __future__ import annotations

from collections.abc import Iterator

from sparsync.faults.rules import Direction

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEAD_BYTES = 9
DATA, HEADERS, RST_STREAM = 0, 1, 3
END_OF_STREAM = 1


class Frames:
    """One direction of a connection, cut into frames."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
        """(type, flags, stream, payload) of every frame that is whole now."""
        self._rest += data
        if PREFACE.startswith(self._rest[: len(PREFACE)]):
            if len(self._rest) < len(PREFACE):
                return
            self._rest = self._rest[len(PREFACE) :]
        while len(self._rest) >= HEAD_BYTES:
            end = HEAD_BYTES + int.from_bytes(self._rest[:3], "big")
            if len(self._rest) < end:
                return
            head, payload, self._rest = self._rest[:HEAD_BYTES], self._rest[HEAD_BYTES:end], self._rest[end:]
            yield head[3], head[4], int.from_bytes(head[5:], "big") & 0x7FFF_FFFF, payload


class Calls:
    """The calls of one connection that were sent whole, and wait for their answer."""

    def __init__(self) -> None:
        self._frames = {direction: Frames() for direction in Direction}
        self._sent: dict[int, int] = {}
        self._asked: dict[int, int] = {}

    def feed(self, direction: Direction, data: bytes) -> dict[int, int]:
        """The calls whose answer begins in `data`: stream -> bytes that the call has sent."""
        frames = self._frames[direction].feed(data)
        if direction is Direction.UP:
            for kind, flags, stream, payload in frames:
                self._note(kind, flags, stream, len(payload))
            return {}
        answered = {stream for kind, _, stream, _ in frames if kind in (DATA, HEADERS)}
        return {stream: self._asked.pop(stream) for stream in sorted(answered & self._asked.keys())}

    def _note(self, kind: int, flags: int, stream: int, size: int) -> None:
        if kind == RST_STREAM:
            self._sent.pop(stream, None)
            self._asked.pop(stream, None)
        elif kind in (DATA, HEADERS):
            self._sent[stream] = self._sent.get(stream, 0) + (size if kind == DATA else 0)
            if flags & END_OF_STREAM:
                self._asked[stream] = self._sent.pop(stream)
