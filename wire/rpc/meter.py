"""Bytes at the kernel's sockets of this process, by connection pool.

The kernel counts what its peers acknowledged and what it received (TCP_INFO), so framing,
headers, TLS and keepalive are all in the figures: what the network carried, less TCP/IP
headers and retransmissions. A pool is known by its mark (`wire.rpc.channel`): gRPC sets
TCP_USER_TIMEOUT on every socket of a channel, reconnected ones too. Linux only: elsewhere
nothing is counted.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import struct
import sys
import threading
from collections.abc import Callable, Iterator
from typing import NamedTuple

from wire.rpc.channel import KEEPALIVE_TIMEOUT_MS

Classify = Callable[[str, int, str, int], str | None]
"""(local host, local port, peer host, peer port) -> class to count under; None: not counted."""

_POOL_OF_MARK = {mark: pool for pool, mark in KEEPALIVE_TIMEOUT_MS.items()}
_TCP_USER_TIMEOUT = 18
_COUNTERS = struct.Struct("<QQ")  # tcpi_bytes_acked, tcpi_bytes_received: since Linux 4.1
_COUNTERS_OFFSET = 120
_INFO_BYTES = _COUNTERS_OFFSET + _COUNTERS.size
_TCP_STATES_UNCONNECTED = {2, 3, 7, 10}  # SYN_SENT, SYN_RECV, CLOSE, LISTEN
_MAPPED = "::ffff:"


class _Seen(NamedTuple):
    """Counters of one socket when it was last looked at."""

    kind: str | None
    sent: int
    received: int


class SocketMeter:
    """Cumulative (sent, received) bytes of this process's TCP connections by class.

    Without `classify` the class is the name of the pool whose channel the connection belongs
    to, and connections of no pool (those that a server accepted) are left out.
    Closed connections keep what was seen at the sample before: bytes that a connection moved
    between its last sample and its end are missed, so take one before a channel is closed.
    """

    def __init__(self, classify: Classify | None = None) -> None:
        self._classify = classify
        self._open: dict[int, _Seen] = {}
        self._closed: dict[str, tuple[int, int]] = {}
        self._lock = threading.Lock()

    def sample(self) -> dict[str, tuple[int, int]]:
        """Class -> (bytes sent and acknowledged, bytes received), since the start of the process."""
        if sys.platform != "linux":
            return {}
        with self._lock:
            now = dict(self._look())
            for inode in self._open.keys() - now.keys():
                _add(self._closed, self._open[inode])
            self._open = now
            totals = dict(self._closed)
            for seen in now.values():
                _add(totals, seen)
            return totals

    def _look(self) -> Iterator[tuple[int, _Seen]]:
        for name in os.listdir("/proc/self/fd"):
            # A copy stays the same socket even when another thread closes and reuses the number meanwhile.
            with contextlib.suppress(OSError):
                copy = os.dup(int(name))
                try:
                    status = os.fstat(copy)
                    seen = self._read(copy, status.st_ino) if stat.S_ISSOCK(status.st_mode) else None
                finally:
                    os.close(copy)
                if seen is not None:
                    yield status.st_ino, seen

    def _read(self, descriptor: int, inode: int) -> _Seen | None:
        """Counters of a connected TCP socket, or None for any other."""
        known = self._open.get(inode)
        with _borrowed(socket.socket(socket.AF_INET, socket.SOCK_STREAM, fileno=descriptor)) as connection:
            info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO_BYTES)
        if len(info) < _INFO_BYTES or info[0] in _TCP_STATES_UNCONNECTED:
            return known
        kind = known.kind if known else self._kind(descriptor)
        return _Seen(kind, *_COUNTERS.unpack_from(info, _COUNTERS_OFFSET))

    def _kind(self, descriptor: int) -> str | None:
        with _borrowed(socket.socket(fileno=descriptor)) as connection:  # finds out IPv4 or IPv6 by itself
            if self._classify is None:
                return _POOL_OF_MARK.get(connection.getsockopt(socket.IPPROTO_TCP, _TCP_USER_TIMEOUT))
            local, peer = connection.getsockname(), connection.getpeername()
        return self._classify(_host(local[0]), local[1], _host(peer[0]), peer[1])


@contextlib.contextmanager
def _borrowed(connection: socket.socket) -> Iterator[socket.socket]:
    """A socket object around a descriptor that stays open when the object goes."""
    try:
        yield connection
    finally:
        connection.detach()


def _host(text: str) -> str:
    """IPv4 addresses as IPv4 addresses, also where gRPC carries them on IPv6 sockets."""
    return text.removeprefix(_MAPPED)


def _add(totals: dict[str, tuple[int, int]], seen: _Seen) -> None:
    if seen.kind is not None:
        sent, received = totals.get(seen.kind, (0, 0))
        totals[seen.kind] = (sent + seen.sent, received + seen.received)
