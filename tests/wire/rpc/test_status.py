"""Errors cross the wire as the same class, from all four kinds of handler."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest

from wire.errors import (
    Busy,
    Interrupted,
    ProtocolMismatch,
    ScriptFailed,
    SparsyncError,
    StaleIncarnation,
    Unreachable,
)
from wire.rpc.channel import open_channel
from wire.rpc.identity import Role, Security
from wire.rpc.server import Serving, serve
from wire.rpc.status import BROKEN_HERE, RetryHint, exit_code_of, to_error

SERVICE = "test.Raiser"
KINDS = ["UnaryUnary", "UnaryStream", "StreamUnary", "StreamStream", "WriteStream", "ReadStream"]
ERRORS: dict[bytes, Exception] = {
    **{c.__name__.encode(): c(f"{c.__name__} — naïve ∂") for c in SparsyncError.__subclasses__()},
    b"bug": ZeroDivisionError("by zero"),
    b"long": Busy("€" * 100_000),
    b"later": RetryHint.put(Busy("come back"), 250),
}


def fail(request: bytes) -> None:
    if request in ERRORS:
        raise ERRORS[request]


async def unary_unary(request: bytes, context: Any) -> bytes:
    fail(request)
    return request


async def unary_stream(request: bytes, context: Any) -> AsyncIterator[bytes]:
    yield b"first"
    fail(request)
    yield request


async def stream_unary(requests: AsyncIterator[bytes], context: Any) -> bytes:
    seen = []
    async for request in requests:
        fail(request)
        seen.append(request)
    return b"".join(seen)


async def stream_stream(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
    async for request in requests:
        yield b"first"
        fail(request)
        yield request


async def write_stream(request: bytes, context: Any) -> None:
    await context.write(b"first")
    fail(request)
    await context.write(request)


async def read_stream(requests: Any, context: Any) -> None:
    await write_stream(await context.read(), context)


async def aborting(request: bytes, context: Any) -> bytes:
    await context.abort(grpc.StatusCode.OUT_OF_RANGE, "said by the handler")


closed = asyncio.Event()


async def endless(request: bytes, context: Any) -> AsyncIterator[bytes]:
    try:
        while True:
            yield b"tick"
            await asyncio.sleep(0.01)
    finally:
        closed.set()


def add(server: grpc.aio.Server) -> None:
    handlers = {
        "UnaryUnary": grpc.unary_unary_rpc_method_handler(unary_unary),
        "UnaryStream": grpc.unary_stream_rpc_method_handler(unary_stream),
        "StreamUnary": grpc.stream_unary_rpc_method_handler(stream_unary),
        "StreamStream": grpc.stream_stream_rpc_method_handler(stream_stream),
        "WriteStream": grpc.unary_stream_rpc_method_handler(write_stream),
        "ReadStream": grpc.stream_stream_rpc_method_handler(read_stream),
        "Aborting": grpc.unary_unary_rpc_method_handler(aborting),
        "Endless": grpc.unary_stream_rpc_method_handler(endless),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))


@contextlib.asynccontextmanager
async def raiser() -> AsyncIterator[tuple[Serving, grpc.aio.Channel]]:
    serving = await serve(listen="127.0.0.1:0", security=Security(), add=add, services=[])
    channel = open_channel(serving.address, Security(), role=Role.COORDINATOR, pool="control")
    try:
        yield serving, channel
    finally:
        await channel.close(None)
        await serving.stop(0)


async def call(channel: grpc.aio.Channel, kind: str, request: bytes) -> list[bytes]:
    """All replies of one call with one request."""

    async def requests() -> AsyncIterator[bytes]:
        yield request

    path = f"/{SERVICE}/{kind}"
    if kind in ("UnaryUnary", "Aborting", "Missing"):
        return [await channel.unary_unary(path)(request)]
    if kind in ("UnaryStream", "WriteStream"):
        return [reply async for reply in channel.unary_stream(path)(request)]
    if kind == "StreamUnary":
        return [await channel.stream_unary(path)(requests())]
    return [reply async for reply in channel.stream_stream(path)(requests())]


async def failure(channel: grpc.aio.Channel, kind: str, request: bytes) -> SparsyncError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(channel, kind, request)
    return to_error(caught.value, peer="test-peer")


@pytest.mark.parametrize("kind", KINDS)
def test_good_calls_pass_unchanged(kind: str) -> None:
    async def main() -> None:
        async with raiser() as (_, channel):
            replies = await call(channel, kind, b"hello")
            assert replies == ([b"hello"] if kind in ("UnaryUnary", "StreamUnary") else [b"first", b"hello"])

    asyncio.run(main())


@pytest.mark.parametrize("kind", KINDS)
def test_every_class_comes_back_as_itself(kind: str) -> None:
    async def main() -> None:
        async with raiser() as (_, channel):
            for cls in SparsyncError.__subclasses__():
                error = await failure(channel, kind, cls.__name__.encode())
                assert type(error) is cls
                assert str(error) == f"{cls.__name__} — naïve ∂"

    asyncio.run(main())


@pytest.mark.parametrize("kind", ["UnaryStream", "StreamStream", "WriteStream", "ReadStream"])
def test_replies_before_the_error_arrive(kind: str) -> None:
    async def main() -> None:
        async with raiser() as (_, channel):
            replies = []
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                path = f"/{SERVICE}/{kind}"
                if kind in ("UnaryStream", "WriteStream"):
                    stream = channel.unary_stream(path)(b"StaleIncarnation")
                else:
                    stream = channel.stream_stream(path)(iter([b"StaleIncarnation"]))
                async for reply in stream:
                    replies.append(reply)
            assert replies == [b"first"]
            assert type(to_error(caught.value, peer="p")) is StaleIncarnation

    asyncio.run(main())


@pytest.mark.parametrize("kind", KINDS)
def test_bugs_are_internal_and_logged_with_traceback(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with raiser() as (_, channel):
            error = await failure(channel, kind, b"bug")
            assert type(error) is SparsyncError
            assert "ZeroDivisionError: by zero" in str(error) and "test-peer" in str(error)

    with caplog.at_level(logging.ERROR):
        asyncio.run(main())
    ours = [r for r in caplog.records if r.name == "wire.rpc.status"]
    assert len(ours) == 1 and ours[0].exc_info and f"/{SERVICE}/{kind}" in ours[0].getMessage()


def test_a_very_long_message_is_cut_not_dropped() -> None:
    async def main() -> None:
        async with raiser() as (_, channel):
            error = await failure(channel, "UnaryUnary", b"long")
            assert type(error) is Busy
            assert str(error).endswith("€…") and len(str(error)) > 300

    asyncio.run(main())


def test_the_pause_that_the_server_asks_for_arrives() -> None:
    async def main() -> None:
        async with raiser() as (_, channel):
            assert RetryHint.of(await failure(channel, "StreamStream", b"later")) == 250
            assert RetryHint.of(await failure(channel, "StreamStream", b"Busy")) is None

    asyncio.run(main())


def test_a_handler_may_abort_by_itself(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with raiser() as (_, channel):
            error = await failure(channel, "Aborting", b"")
            assert "said by the handler" in str(error) and "OUT_OF_RANGE" in str(error)

    asyncio.run(main())
    assert [r for r in caplog.records if r.name == "wire.rpc.status"] == []


def test_a_call_that_does_not_exist_is_a_protocol_mismatch() -> None:
    async def main() -> None:
        async with raiser() as (_, channel):
            assert type(await failure(channel, "Missing", b"")) is ProtocolMismatch

    asyncio.run(main())


def test_a_client_that_goes_closes_the_generator() -> None:
    async def main() -> None:
        async with raiser() as (_, channel):
            stream = channel.unary_stream(f"/{SERVICE}/Endless")(b"")
            assert await stream.read() == b"tick"
            stream.cancel()
            async with asyncio.timeout(5):
                await closed.wait()

    asyncio.run(main())


def test_a_server_that_dies_is_unreachable_by_name() -> None:
    async def main() -> None:
        async with raiser() as (serving, channel):
            stream = channel.unary_stream(f"/{SERVICE}/Endless")(b"")
            assert await stream.read() == b"tick"
            await serving.server.stop(0)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                while True:
                    await stream.read()
            error = to_error(caught.value, peer="server 3 at 10.0.0.5:7000")
            assert type(error) is Unreachable and "server 3 at 10.0.0.5:7000" in str(error)

    asyncio.run(main())


def test_a_call_that_broke_on_this_side_is_worth_a_retry() -> None:
    empty = grpc.aio.Metadata()
    broken = grpc.aio.AioRpcError(grpc.StatusCode.INTERNAL, empty, empty, details=BROKEN_HERE)
    assert isinstance(to_error(broken, peer="server 0"), Unreachable)
    theirs = grpc.aio.AioRpcError(grpc.StatusCode.INTERNAL, empty, empty, details="a bug")
    assert not to_error(theirs, peer="server 0").retry


def test_exit_codes() -> None:
    assert exit_code_of(StaleIncarnation("x")) == 83
    assert exit_code_of(ScriptFailed("x")) == 70
    assert exit_code_of(KeyboardInterrupt()) == exit_code_of(Interrupted("x")) == 130
    assert exit_code_of(ValueError("x")) == 1
