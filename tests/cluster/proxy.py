"""TCP connections to one server that pass through the test, which can hold back what one process sends.

What is held back is kept in order, and goes on its way at the release, even if its sender has ended by
then. Which process a connection belongs to is found by the port that it was dialled from.

thread                owns                      blocks on
accepting             the listening socket      accept
a pair a connection   one direction each        recv, and sendall
the test's            `_held`                   nothing
"""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from dataclasses import dataclass, field

import psutil

PIECE_BYTES = 1 << 16


@dataclass(eq=False)
class _Link:
    """One connection of process `pid`: from its `client` socket to the `server`'s."""

    pid: int
    client: socket.socket
    server: socket.socket
    sent: int = 0
    kept: bytearray = field(default_factory=bytearray)
    ended: bool = False


class Proxy:
    """Listens on a free port and passes all on to `target`, which need not listen yet."""

    def __init__(self, target: str) -> None:
        self.target = target
        self._lock = threading.Lock()
        self._held: set[int] = set()
        self._links: list[_Link] = []
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._begin(self._accept)

    @property
    def address(self) -> str:
        """What is to be dialled instead of the target."""
        host, port = self._listener.getsockname()
        return f"{host}:{port}"

    def hold(self, pid: int) -> None:
        """From now on keep back what this process sends."""
        with self._lock:
            self._held.add(pid)

    def release(self, pid: int) -> None:
        """Send what was kept back, and hold nothing back any more."""
        with self._lock:
            self._held.discard(pid)
            for link in self._links:
                if link.pid == pid:
                    _send(link.server, bytes(link.kept))
                    link.kept.clear()
                    if link.ended:
                        _end(link.server)

    def sent(self, pid: int) -> int:
        """Bytes that this process has sent so far, those held back included."""
        with self._lock:
            return sum(link.sent for link in self._links if link.pid == pid)

    def close(self) -> None:
        """End all connections and threads."""
        _end(self._listener)
        self._listener.close()
        with self._lock:
            links = list(self._links)
        for link in links:
            _end(link.client)
            _end(link.server)
        for thread in self._threads:
            thread.join(5.0)
            assert not thread.is_alive(), "a connection did not end"
        for link in links:
            link.client.close()
            link.server.close()

    # --- the threads -----------------------------------------------------------------------

    def _begin(self, work: object, *args: object) -> None:
        thread = threading.Thread(target=work, args=args, name="proxy", daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with suppress(OSError):  # the listener was closed
            while True:
                client, _ = self._listener.accept()
                try:
                    server = socket.create_connection(_pair(self.target), timeout=5.0)
                except OSError:  # nobody listens there: who dialled sees the same
                    client.close()
                    continue
                server.settimeout(None)
                for side in (client, server):
                    side.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                link = _Link(_owner(client), client, server)
                with self._lock:
                    self._links.append(link)
                self._begin(self._pass_up, link)
                self._begin(self._pass_down, link)

    def _pass_up(self, link: _Link) -> None:
        while data := _receive(link.client):
            with self._lock:
                link.sent += len(data)
                if link.pid in self._held or link.kept:
                    link.kept += data
                else:
                    _send(link.server, data)
        with self._lock:
            link.ended = True
            if not link.kept:
                _end(link.server)

    def _pass_down(self, link: _Link) -> None:
        while data := _receive(link.server):
            _send(link.client, data)
        _end(link.client)


def _pair(address: str) -> tuple[str, int]:
    host, port = address.rsplit(":", 1)
    return host, int(port)


def _owner(client: socket.socket) -> int:
    """The process at the other end of an accepted connection; 0 where it is gone already."""
    from_port, to_port = client.getpeername()[1], client.getsockname()[1]
    for found in psutil.net_connections("tcp"):  # gRPC dials IPv4 from IPv6 sockets too
        if found.raddr and (found.laddr.port, found.raddr.port) == (from_port, to_port) and found.pid:
            return found.pid
    return 0


def _receive(side: socket.socket) -> bytes:
    with suppress(OSError):
        return side.recv(PIECE_BYTES)
    return b""


def _send(side: socket.socket, data: bytes) -> None:
    with suppress(OSError):  # the other side has gone: its connection ends by itself
        side.sendall(data)


def _end(side: socket.socket) -> None:
    with suppress(OSError):
        side.shutdown(socket.SHUT_RDWR)
