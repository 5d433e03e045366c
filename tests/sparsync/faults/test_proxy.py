"""A proxy on real sockets: transparent without rules, as bad as they say with them; a gRPC stream goes through."""

from __future__ import annotations

import asyncio
import os
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from typing import Any

import grpc
import grpc.aio
import pytest

from sparsync.faults.background import ProxyThread
from sparsync.faults.rules import BOTH, Direction, Faults, Rule, Span

SAY_HELLO = """
import socket, sys
line = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
for word in sys.stdin:
    line.sendall(word.encode())
    print(line.recv(100).decode(), end="", flush=True)
"""
RECEIVE_ALL = """
import socket, sys, time
line, size = socket.create_connection(("127.0.0.1", int(sys.argv[1]))), int(sys.argv[2])
began, found = time.monotonic(), 0
line.sendall(bytes(size))
while found < size:
    found += len(line.recv(1 << 16))
print(time.monotonic() - began)
"""
SMALL, LARGE = 100, 1 << 20
UP, DOWN = frozenset({Direction.UP}), frozenset({Direction.DOWN})
Made = Callable[..., ProxyThread]


@pytest.fixture
def echo() -> Iterator[str]:
    """The address of a server that sends back what it gets."""
    listening = socket.create_server(("127.0.0.1", 0))

    def answer(line: socket.socket) -> None:
        with line, suppress(OSError):  # reset
            while data := line.recv(1 << 16):
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
def made() -> Iterator[Made]:
    """`made(rule, …)`: a proxy, which is closed at the end."""
    proxies: list[ProxyThread] = []

    def make(*rules: Rule, seed: int = 0, **more: Any) -> ProxyThread:
        proxies.append(ProxyThread(Faults(rules, seed=seed), **more))
        return proxies[-1]

    yield make
    for proxy in proxies:
        proxy.close()


def port(address: str) -> int:
    return int(address.rpartition(":")[2])


def dial(address: str, *, limit_s: float = 10.0) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port(address)), timeout=limit_s)


def receive(line: socket.socket, size: int = LARGE) -> bytes:
    """So many bytes, or those before the end or the reset."""
    found = b""
    with suppress(ConnectionError):
        while len(found) < size and (data := line.recv(1 << 16)):
            found += data
    return found


def send(line: socket.socket, data: bytes) -> threading.Thread:
    """In a thread: more than the sockets hold may be on its way."""

    def work() -> None:
        with suppress(OSError):
            line.sendall(data)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


# --- without rules -------------------------------------------------------------------------


def test_all_bytes_pass_in_order_and_the_end_too(made: Made, echo: str) -> None:
    data = os.urandom(4 * LARGE)
    with dial(made().forward(echo)) as line:
        sender = send(line, data)
        assert receive(line, len(data)) == data
        sender.join(10)
        line.shutdown(socket.SHUT_WR)
        assert line.recv(100) == b""


def test_one_side_may_end_before_the_other(made: Made) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = made().forward("{}:{}".format(*listening.getsockname()))
        with dial(address) as near:
            far, _ = listening.accept()
            with far:
                near.shutdown(socket.SHUT_WR)
                assert far.recv(100) == b""
                far.sendall(b"late")
                assert receive(near, 4) == b"late"


def test_a_reset_passes_as_a_reset(made: Made) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = made().forward("{}:{}".format(*listening.getsockname()))
        near = dial(address)
        far, _ = listening.accept()
        with far:
            near.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
            near.close()
            far.settimeout(10)
            with pytest.raises(ConnectionResetError):
                far.recv(100)


def test_the_target_may_come_later(made: Made) -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        address = made().forward("{}:{}".format(*reserved.getsockname()))
        with dial(address) as line:
            assert receive(line) == b"", "nobody listens there yet"
        reserved.listen()
        with dial(address) as line, reserved.accept()[0] as far:
            line.sendall(b"now")
            assert receive(far, 3) == b"now"


# --- rules ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("rule", "least_s"), [(Rule(0.1), 0.2), (Rule(0.15, directions=UP), 0.15)])
def test_latency(made: Made, echo: str, rule: Rule, least_s: float) -> None:
    with dial(made(rule).forward(echo)) as line:
        for _ in range(3):
            began = time.monotonic()
            line.sendall(b"one")
            assert line.recv(100) == b"one"
            assert time.monotonic() - began >= least_s


def test_jitter_keeps_the_order(made: Made, echo: str) -> None:
    data = os.urandom(20_000)
    with dial(made(Rule(jitter_s=0.02)).forward(echo)) as line:
        for at in range(0, len(data), 1000):
            line.sendall(data[at : at + 1000])
        assert receive(line, len(data)) == data


def test_a_rate_is_shared_by_all_connections_and_the_sender_feels_it(made: Made, echo: str) -> None:
    rate, data = 1e6, os.urandom(200_000)
    address = made(Rule(rate=rate, directions=DOWN)).forward(echo)
    began = time.monotonic()
    with dial(address) as one, dial(address) as other:
        senders = [send(line, data) for line in (one, other)]
        assert receive(one, len(data)) == receive(other, len(data)) == data
        took_s = time.monotonic() - began
        assert took_s >= 0.95 * 2 * len(data) / rate
        for sender in senders:
            sender.join(10)


@pytest.mark.parametrize("directions", [UP, DOWN])
def test_a_reset_after_so_many_bytes(made: Made, echo: str, directions: frozenset[Direction]) -> None:
    told: list[str] = []
    proxy = made(Rule(reset_after=Span(1000, 1000), directions=directions), say=told.append)
    data = os.urandom(5000)
    with dial(proxy.forward(echo)) as line:
        line.sendall(data[:999])
        assert receive(line, 999) == data[:999]
        with suppress(ConnectionError):
            line.sendall(data[999:])
        assert receive(line) in (b"", data[999:1000])
    assert told == [f"connection 0 {next(iter(directions))}: is reset after 1000 bytes"]


def test_one_way_silence_keeps_the_connection(made: Made, echo: str) -> None:
    proxy = made(Rule(silent_after=Span(4, 4), directions=DOWN))
    with dial(proxy.forward(echo), limit_s=0.3) as line:
        line.sendall(b"12345")
        assert receive(line, 4) == b"1234"
        for _ in range(3):
            line.sendall(b"more")
        with pytest.raises(TimeoutError):
            line.recv(100)


def test_one_bit_is_flipped(made: Made, echo: str) -> None:
    data, told = os.urandom(LARGE), list[str]()
    proxy = made(Rule(flip_at=Span(0, LARGE - 1), directions=UP), seed=7, say=told.append)
    with dial(proxy.forward(echo)) as line:
        sender = send(line, data)
        found = receive(line, LARGE)
        sender.join(10)
    lane = Faults([Rule(flip_at=Span(0, LARGE - 1))], seed=7).decide(0, Direction.UP)
    differ = {at: a ^ b for at, (a, b) in enumerate(zip(found, data, strict=True)) if a != b}
    assert differ == {lane.flip_at: 1 << lane.flip_bit}
    assert told == [f"connection 0 up: bit {lane.flip_bit} of byte {lane.flip_at} is flipped"]


def test_rules_are_for_some_connections(made: Made, echo: str) -> None:
    address = made(Rule(reset_after=Span(0, 0), connections=frozenset({1}))).forward(echo)
    for number in range(3):
        with dial(address) as line:
            with suppress(ConnectionError):
                line.sendall(b"x")
            assert receive(line, 1) == (b"" if number == 1 else b"x")


def test_a_tap_sees_all_and_may_cut(made: Made, echo: str) -> None:
    seen = dict.fromkeys(Direction, b"")

    def tap(connection: int, direction: Direction, data: bytes) -> bool:
        seen[direction] += data
        return direction is Direction.DOWN and b"cut" in seen[Direction.UP]

    with dial(made(tap=tap).forward(echo)) as line:
        line.sendall(b"one")
        assert receive(line, 3) == b"one"
        line.sendall(b"cut")
        assert receive(line, 1) == b""
    assert seen == {Direction.UP: b"onecut", Direction.DOWN: b"onecut"}


# --- orders --------------------------------------------------------------------------------


@pytest.fixture
def other() -> Iterator[Callable[[str], subprocess.Popen[bytes]]]:
    """`other(address)`: another process that dials, sends lines and prints the answers."""
    started: list[subprocess.Popen[bytes]] = []

    def start(address: str) -> subprocess.Popen[bytes]:
        words = [sys.executable, "-c", SAY_HELLO, str(port(address))]
        started.append(subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def say(other: subprocess.Popen[bytes], word: bytes, *, limit_s: float = 10.0) -> bytes | None:
    """Have the process send a line; what came back in time."""
    assert other.stdin is not None
    other.stdin.write(word)
    other.stdin.flush()
    return heard(other, limit_s=limit_s)


def heard(other: subprocess.Popen[bytes], *, limit_s: float = 10.0) -> bytes | None:
    assert other.stdout is not None
    ready, _, _ = select.select([other.stdout], [], [], limit_s)
    return other.stdout.readline() if ready else None


def test_only_the_silent_process_is_cut_off_and_nothing_is_closed(
    made: Made, echo: str, other: Callable[[str], subprocess.Popen[bytes]]
) -> None:
    proxy = made()
    address = proxy.forward(echo)
    with dial(address) as own:
        silent = other(address)
        assert say(silent, b"one\n") == b"one\n"
        proxy.silence(silent.pid)
        assert say(silent, b"two\n", limit_s=0.3) is None
        own.sendall(b"three")
        assert own.recv(100) == b"three"
        assert silent.poll() is None, "its connection is still there"
        assert proxy.sent(silent.pid) == len(b"one\ntwo\n")
        proxy.release(silent.pid)
        assert heard(silent) == b"", "bytes are missing: it is reset"


def test_new_connections_of_a_silent_process_are_silent_too(made: Made, echo: str) -> None:
    proxy = made()
    address = proxy.forward(echo)
    proxy.silence(os.getpid())
    with dial(address, limit_s=0.3) as line:
        line.sendall(b"one")
        with pytest.raises(TimeoutError):
            line.recv(100)


def test_a_rate_may_be_of_each_process(made: Made, echo: str) -> None:
    rate, size = 4e4, 60_000
    address = made(Rule(rate=rate, each=True, directions=DOWN)).forward(echo)
    words = [sys.executable, "-c", RECEIVE_ALL, str(port(address)), str(size)]
    both = [subprocess.Popen(words, stdout=subprocess.PIPE) for _ in range(2)]
    took_s = [float(one.communicate(timeout=30)[0]) for one in both]
    assert min(took_s) >= 0.9 * size / rate
    assert max(took_s) <= 0.9 * 2 * size / rate, "as long as if they shared it"


def test_what_a_process_sends_is_kept_back_and_sent_on(
    made: Made, echo: str, other: Callable[[str], subprocess.Popen[bytes]]
) -> None:
    proxy = made()
    held = other(proxy.forward(echo))
    assert say(held, b"one\n") == b"one\n"
    proxy.hold(held.pid)
    assert say(held, b"two\n", limit_s=0.3) is None
    proxy.release(held.pid)
    assert heard(held) == b"two\n"


def test_what_was_kept_back_goes_on_though_its_sender_has_ended(made: Made) -> None:
    proxy = made()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        near = dial(proxy.forward("{}:{}".format(*listening.getsockname())))
        far, _ = listening.accept()
        with far:
            proxy.hold(os.getpid())
            near.sendall(b"last words")
            near.close()
            far.settimeout(0.3)
            with pytest.raises(TimeoutError):
                far.recv(100)
            far.sendall(b"to nobody")
            proxy.release(os.getpid())
            far.settimeout(10)
            assert receive(far, 100) == b"last words"


def test_a_partition_heals_without_a_loss(made: Made, echo: str) -> None:
    proxy = made()
    address = proxy.forward(echo)
    with dial(address) as line:
        proxy.partition()
        line.sendall(b"one")
        with dial(address) as new:
            new.sendall(b"new")
            assert not select.select([line, new], [], [], 0.3)[0]
            proxy.release()
            assert (receive(line, 3), receive(new, 3)) == (b"one", b"new")


def test_all_connections_can_be_reset(made: Made, echo: str) -> None:
    proxy = made()
    with dial(proxy.forward(echo)) as line:
        line.sendall(b"one")
        assert receive(line, 3) == b"one"
        proxy.reset_all()
        assert receive(line, 1) == b""


# --- gRPC ----------------------------------------------------------------------------------


class Served:
    """Answers a stream of messages with how many bytes it got, and remembers each call."""

    def __init__(self) -> None:
        self.calls: list[int] = []

    async def total(self, requests: AsyncIterator[bytes], context: object) -> bytes:
        self.calls.append(sum([len(request) async for request in requests]))
        return str(self.calls[-1]).encode()


async def call(address: str, messages: list[bytes]) -> bytes:
    async with grpc.aio.insecure_channel(address, [("grpc.enable_retries", 0)]) as channel:
        method = channel.stream_unary("/faults.Test/Total")

        async def requests() -> AsyncIterator[bytes]:
            for message in messages:
                yield message

        return bytes(await method(requests(), timeout=20))


def over_grpc(proxy: ProxyThread, messages: list[bytes]) -> tuple[bytes | grpc.StatusCode, list[int]]:
    """What the caller was answered, or the status it got; and what the server has seen."""

    async def run() -> tuple[bytes | grpc.StatusCode, list[int]]:
        served, server = Served(), grpc.aio.server()
        handler = grpc.stream_unary_rpc_method_handler(served.total)
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("faults.Test", {"Total": handler}),)
        )
        target = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        await server.start()
        try:
            return await call(proxy.forward(target), messages), served.calls
        except grpc.aio.AioRpcError as error:
            return error.code(), served.calls
        finally:
            await server.stop(None)

    return asyncio.run(run())


MESSAGES = [bytes(LARGE), bytes(LARGE), bytes(SMALL)]
BYTES = sum(map(len, MESSAGES))


def test_a_grpc_stream_goes_through_a_poor_link(made: Made) -> None:
    answer, calls = over_grpc(made(Rule(latency_s=0.02, jitter_s=0.02, rate=8e6)), MESSAGES)
    assert (answer, calls) == (str(BYTES).encode(), [BYTES])


def test_a_reset_in_the_middle_of_a_grpc_stream(made: Made) -> None:
    answer, _ = over_grpc(made(Rule(reset_after=Span(LARGE // 2, LARGE), directions=UP)), MESSAGES)
    assert answer is grpc.StatusCode.UNAVAILABLE


def test_the_answer_to_a_grpc_call_is_lost(made: Made) -> None:
    """The server has done it; who called cannot know, and must ask again."""
    told: list[str] = []
    proxy = made(Rule(lose_answers=1.0, answered_bytes=LARGE), say=told.append)
    answer, calls = over_grpc(proxy, MESSAGES)
    assert (answer, calls) == (grpc.StatusCode.UNAVAILABLE, [BYTES])
    assert len(told) == 1 and "reset with the answer" in told[0]
    answer, calls = over_grpc(proxy, [b"short"])
    assert (answer, calls) == (b"5", [5])


def test_both_means_both() -> None:
    assert BOTH == UP | DOWN
