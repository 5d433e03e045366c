"""`sparsync proxy` as a user starts it: an address, faults in words, a network that is cut and mended by signals."""

from __future__ import annotations

import select
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator

import click
import pytest

from sparsync.cli import run
from sparsync.cli.amounts import DURATION, SIZE, SPAN
from sparsync.faults.rules import Span
from wire.errors import UsageError

Started = Callable[..., tuple[subprocess.Popen[str], str]]


@pytest.fixture
def target() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(20)
        yield listening


@pytest.fixture
def started(environ: dict[str, str], target: socket.socket) -> Iterator[Started]:
    """`started(flag, …)`: the process in front of the target, and the address to dial."""
    processes: list[subprocess.Popen[str]] = []

    def start(*flags: str) -> tuple[subprocess.Popen[str], str]:
        host, port = target.getsockname()
        processes.append(
            subprocess.Popen(
                [sys.executable, "-m", "sparsync", "proxy", "--target", f"{host}:{port}", *flags],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env=environ,
            )
        )
        stdout, stderr = processes[-1].stdout, processes[-1].stderr
        assert stdout is not None and stderr is not None
        address = stdout.readline().strip()
        assert "forwards to" in stderr.readline()
        return processes[-1], address

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def dial(address: str, target: socket.socket) -> tuple[socket.socket, socket.socket]:
    host, port = address.split(":")
    near = socket.create_connection((host, int(port)), timeout=20)
    return near, target.accept()[0]


def test_it_tells_its_address_and_each_fault(started: Started, target: socket.socket) -> None:
    process, address = started("--reset-after", "3", "--direction", "up", "--seed", "5")
    near, far = dial(address, target)
    with near, far:
        near.sendall(b"12345")
        assert process.stderr is not None
        assert process.stderr.readline().split(" ", 1)[1] == "connection 0 up: is reset after 3 bytes\n"
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 0


def test_the_network_is_cut_and_mended(started: Started, target: socket.socket) -> None:
    process, address = started()
    near, far = dial(address, target)
    with near, far:
        assert process.stderr is not None
        process.send_signal(signal.SIGUSR1)
        assert "is cut" in process.stderr.readline()
        near.sendall(b"one")
        assert not select.select([far], [], [], 0.3)[0]
        process.send_signal(signal.SIGUSR2)
        far.settimeout(10)
        assert far.recv(100) == b"one"


def test_amounts() -> None:
    assert [DURATION.convert(word, None, None) for word in ("50ms", "2s", "1.5m", "3")] == [0.05, 2, 90, 3]
    assert [SIZE.convert(word, None, None) for word in ("7", "64k", "1.5M")] == [7, 64e3, 1.5e6]
    assert [SPAN.convert(word, None, None) for word in ("10", "1k..2k")] == [Span(10, 10), Span(1000, 2000)]
    for kind, word in ((DURATION, "3 weeks"), (SIZE, "-1"), (SPAN, "2..1"), (SPAN, "..")):
        with pytest.raises(click.BadParameter):
            kind.convert(word, None, None)


def test_a_rate_of_nothing_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["proxy", "--target", "127.0.0.1:1", "--rate", "0"]) == UsageError.exit_code
    assert "never arrive" in capsys.readouterr().err
