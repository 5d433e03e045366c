"""A proxy forwards, falls silent for one process without closing anything, and ends."""

import os
import select
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from benchmarks.proxy import Proxy

SAY_HELLO = """
import socket, sys
line = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
for word in sys.stdin:
    line.sendall(word.encode())
    print(line.recv(100).decode(), end="", flush=True)
"""


@pytest.fixture
def echo() -> Iterator[str]:
    """The address of a server that sends back what it gets."""
    listening = socket.create_server(("127.0.0.1", 0))

    def answer(line: socket.socket) -> None:
        with line:
            while data := line.recv(100):
                line.sendall(data)

    def accept() -> None:
        while True:
            try:
                line, _ = listening.accept()
            except OSError:
                return
            threading.Thread(target=answer, args=(line,), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    yield f"127.0.0.1:{listening.getsockname()[1]}"
    listening.shutdown(socket.SHUT_RDWR)
    listening.close()
    thread.join()


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    proxy = Proxy()
    yield proxy
    proxy.close()


def port(address: str) -> int:
    return int(address.rpartition(":")[2])


def test_it_forwards_both_ways_and_passes_on_the_end(proxy: Proxy, echo: str) -> None:
    with socket.create_connection(("127.0.0.1", port(proxy.forward(echo))), timeout=10) as line:
        line.sendall(b"one")
        assert line.recv(100) == b"one"
        line.shutdown(socket.SHUT_WR)
        assert line.recv(100) == b""


def test_only_the_silent_process_is_cut_off_and_nothing_is_closed(proxy: Proxy, echo: str) -> None:
    address = proxy.forward(echo)
    told, own = subprocess.PIPE, socket.create_connection(("127.0.0.1", port(address)), timeout=10)
    other = subprocess.Popen([sys.executable, "-c", SAY_HELLO, str(port(address))], stdin=told, stdout=told)
    try:
        assert say(other, b"one\n") == b"one\n"
        proxy.silence(other.pid)
        assert say(other, b"two\n", limit_s=0.3) is None
        own.sendall(b"three")
        assert own.recv(100) == b"three"
        assert other.poll() is None, "its connection is still there"
    finally:
        own.close()
        other.kill()
        other.communicate()


def say(other: subprocess.Popen[bytes], word: bytes, *, limit_s: float = 10.0) -> bytes | None:
    """Have the process send a line; what came back in time."""
    assert other.stdin is not None and other.stdout is not None
    other.stdin.write(word)
    other.stdin.flush()
    ready, _, _ = select.select([other.stdout], [], [], limit_s)
    return other.stdout.readline() if ready else None


def test_new_connections_of_a_silent_process_are_silent_too(proxy: Proxy, echo: str) -> None:
    address = proxy.forward(echo)
    proxy.silence(os.getpid())
    with socket.create_connection(("127.0.0.1", port(address)), timeout=0.3) as line:
        line.sendall(b"one")
        with pytest.raises(TimeoutError):
            line.recv(100)
