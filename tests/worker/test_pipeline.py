"""The way of a push and of a delta, over real connections: part by part, as fast as the slower side, whole or not."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import grpc
import numpy as np
import pytest
from numpy.typing import NDArray

from ps.holdings import Holdings
from ps.owner import Owner
from ps.records import Accept, Close, Segment, ShardSpec
from ps.shard import Shard
from ps.store import Store
from tests.ps.room import room_but
from tests.ps.serving import identity_of, place, service_of
from tests.worker.far_end import serving
from wire.codec.base import Blocks, DamagedFrame
from wire.codec.chain import delta_codec, push_codec
from wire.codec.dense import pack
from wire.config import Config
from wire.ids import UnitId
from wire.layout import BLOCK, BlockRange, Layout, Parameter
from wire.messages import Commit, OptimizerSpec, ShardPlacement, placement_to_proto
from wire.rpc.access import InRun
from wire.rpc.frames import add_shard_service
from wire.rpc.identity import Security
from wire.v1 import coordinator_pb2, coordinator_pb2_grpc, shard_pb2, shard_pb2_grpc
from worker.deltas import Delta
from worker.mailbox import AHEAD_BYTES
from worker.outgoing import Outgoing
from worker.transfer import Transfer

Plane = NDArray[np.float32]
T = TypeVar("T")
LIMIT_S = 10.0
PROMPT_S = 5.0
MIB = 1 << 20
INCARNATION, STREAMS = 7, 3
LAYOUT = Layout((Parameter("weight", (150, BLOCK), "float32", 0), Parameter("bias", (7,), "float32", 0)))
"""Of three parts."""
WHOLE = (BlockRange(0, LAYOUT.blocks),)
BLOCKS = Blocks.of(LAYOUT, WHOLE)
SGD = OptimizerSpec(
    "sgd", ({"lr": 0.1, "momentum": 0.0, "weight_decay": 0.0, "nesterov": 0.0, "maximize": 0.0},)
)
COMMIT = Commit("", 8, 64, 1.0, 1.0, (0.1,))
PUSH = push_codec(codec="topk", density=0.25, feedback="ef21", values="sign2")
PULL = delta_codec(codec="topk", density=0.25, values="sign2")
SPEC = ShardSpec(0, 1, 1, LAYOUT, WHOLE, SGD, STREAMS, "mean", Segment(0, 0))
UNIT = UnitId(1, 0, 0)


def plane(seed: int) -> Plane:
    """Noise in all real elements: float32 [blocks, 4096]."""
    values = np.random.default_rng(seed).standard_normal((LAYOUT.blocks, BLOCK)).astype(np.float32)
    return np.where(np.arange(BLOCK) < np.asarray(LAYOUT.lengths)[:, None], values, np.float32(0))


def state() -> dict[str, Plane]:
    """Of a stream that begins."""
    return {name: np.zeros((LAYOUT.blocks, BLOCK), np.float32) for name in PUSH.state_planes}


def pieces_of(seed: int) -> list[bytes]:
    """Of the first frame of a stream."""
    return list(PUSH.encode(plane(seed), state(), BLOCKS))


def eventually(condition: Callable[[], bool]) -> None:
    """Wait for what another thread does."""
    end = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.002)


def promptly(call: Callable[[], object]) -> None:
    """`call` returns, and soon."""
    calling = threading.Thread(target=call, daemon=True)
    calling.start()
    calling.join(PROMPT_S)
    assert not calling.is_alive(), f"it takes longer than {PROMPT_S} s"


class Coordinator(coordinator_pb2_grpc.CoordinatorServicer):
    """Places one shard, at its own address."""

    address = ""

    async def Declare(self, request: Any, context: Any) -> coordinator_pb2.DeclareReply:
        self._loop = asyncio.get_running_loop()
        placement = placement_to_proto([ShardPlacement(0, self.address, 5, WHOLE)])
        return coordinator_pb2.DeclareReply(placement=placement, plan=1)

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        """Run `work` where the servers run."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(LIMIT_S)


@contextmanager
def meeting(shard: Recorder | Pourer | Server) -> Iterator[tuple[Transfer, Coordinator]]:
    """A worker's transfer that is connected to `shard`; a server of the test's own speaks as generated code does."""
    coordinator = Coordinator()

    def add(server: grpc.aio.Server) -> None:
        if isinstance(shard, Server):
            shard.add_to(server)
        else:
            shard_pb2_grpc.add_ShardServicer_to_server(shard, server)

    with serving(coordinator, add_others=add) as coordinator.address:
        transfer = Transfer(
            coordinator=coordinator.address,
            security=Security(),
            run=InRun("a run", 1),
            incarnation=INCARNATION,
        )
        try:
            assert not transfer.do_declare(LAYOUT, SGD)
            yield transfer, coordinator
        finally:
            promptly(transfer.close)
            if isinstance(shard, Server):
                shard.owner.close(forget=False)


def push(
    transfer: Transfer,
    pieces: Iterable[bytes],
    unit: UnitId = UNIT,
    *,
    most_bytes: int = PUSH.max_frame_bytes(BLOCKS),
) -> None:
    transfer.begin_push(0, unit, 0, pieces, COMMIT, base=unit.step, most_bytes=most_bytes)


def taken(transfer: Transfer) -> Sequence[Delta]:
    """The next deltas. Raises: what the network thread met."""
    while not (deltas := transfer.mailbox.take_deltas()):
        transfer.mailbox.wait()
    return deltas


def opened(delta: Delta) -> Delta:
    """As a replica opens it."""
    return replace(delta, move=PULL.decode(delta.frame, BLOCKS))


class Server:
    """A server that a coordinator has taken in, in a coordinator's process."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def add_to(self, server: grpc.aio.Server) -> None:
        """On the event loop."""
        self.owner = Owner(self._path, admit_bytes=1 << 24)
        service, _, _ = service_of(self.owner, place(Config()))
        add_shard_service(service, server)

    def begin(self, coordinator: Coordinator) -> None:
        """Configure its shard and give it its parameters."""
        coordinator.do(self.owner.read(self._configure))
        coordinator.do(self.owner.begin())

    def _configure(self) -> None:
        shard = Shard(SPEC, PUSH, PULL)
        holdings = Holdings(shard, Store(self._path), identity_of(Config()))
        self.owner.configure(SPEC, lambda: holdings)
        for name in ("x", "published"):
            shard.load(name, pack(plane(0), BLOCKS))


def answered(transfer: Transfer) -> bool:
    """Whether no push is under way, and nothing went wrong."""
    transfer.mailbox.check()
    return transfer.mailbox.units_under_way == 0


# --- pushes -----------------------------------------------------------------------------------------


class Recorder(shard_pb2_grpc.ShardServicer):
    """A server that keeps what each call brings, message by message.

    breaks: call i breaks after so many messages of a frame. reads: where it is not set, a call that
    begins takes no message beyond its header.
    """

    def __init__(self, *breaks: int) -> None:
        self._breaks = breaks
        self.calls: list[list[bytes]] = []
        self.declared: list[int] = []
        self.reads = threading.Event()
        self.reads.set()

    async def Push(self, request_iterator: AsyncIterator[shard_pb2.PushChunk], context: Any) -> Any:
        frame: list[bytes] = []
        breaks_after = self._breaks[len(self.calls)] if len(self.calls) < len(self._breaks) else -1
        self.calls.append(frame)
        async for chunk in request_iterator:
            if chunk.HasField("commit"):
                return shard_pb2.PushReply(outcome=shard_pb2.PushReply.ACCEPTED)
            if chunk.HasField("header"):
                self.declared.append(chunk.header.frame_bytes)
                await asyncio.to_thread(self.reads.wait, LIMIT_S)
            else:
                frame.append(bytes(chunk.data))
            if len(frame) == breaks_after:
                await context.abort(grpc.StatusCode.UNAVAILABLE, "the network broke")
        raise AssertionError("a push without a commit")

    def has(self, call: int, frame: bytes) -> bool:
        """Whether the call of that number has brought exactly this."""
        return len(self.calls) > call and b"".join(self.calls[call]) == frame


def test_each_part_is_there_before_the_next_is_made() -> None:
    far_end, pieces = Recorder(), pieces_of(1)
    assert len(pieces) == 1 + 3, "a header and three parts"

    def made() -> Iterator[bytes]:
        before = b""
        for piece in pieces:
            eventually(lambda: not before or far_end.has(0, before))  # noqa: B023
            yield piece
            before += piece

    with meeting(far_end) as (transfer, _):
        push(transfer, made())
        eventually(lambda: answered(transfer))
        assert transfer.mailbox.accepted == 1
    (messages,) = far_end.calls
    assert messages == pieces, "a message for each piece, as each waited for the one before"
    assert far_end.declared[0] > len(b"".join(pieces))


def test_what_is_made_at_once_arrives_whole_in_messages_that_decode() -> None:
    far_end = Recorder()
    with meeting(far_end) as (transfer, _):
        push(transfer, PUSH.encode(plane(1), state(), BLOCKS))
        eventually(lambda: answered(transfer))
    (messages,) = far_end.calls
    assert b"".join(messages) == b"".join(pieces_of(1))
    sums = [np.zeros((LAYOUT.blocks, BLOCK), np.float32) for _ in range(2)]
    PUSH.add(tuple(messages), sums[0], BLOCKS)
    PUSH.add(b"".join(messages), sums[1], BLOCKS)
    assert sums[0].tobytes() == sums[1].tobytes()


def test_a_repeat_in_the_middle_of_the_encoding_has_the_same_bytes_from_the_beginning() -> None:
    far_end, pieces = Recorder(1, 2), pieces_of(1)

    def made() -> Iterator[bytes]:
        yield pieces[0]
        eventually(lambda: far_end.has(1, pieces[0]))
        yield pieces[1]
        eventually(lambda: far_end.has(2, b"".join(pieces[:2])))
        yield from pieces[2:]

    with meeting(far_end) as (transfer, _):
        push(transfer, made())
        eventually(lambda: answered(transfer))
        assert transfer.mailbox.accepted == 1
    frames = [b"".join(call) for call in far_end.calls]
    assert frames == [pieces[0], b"".join(pieces[:2]), b"".join(pieces)]
    assert len(set(far_end.declared)) == 1


def test_a_repeat_hears_of_every_piece_though_the_broken_call_listens_too() -> None:
    """gRPC lets a broken call wait for its next message; it is told first, while the repeat is still sending."""

    async def both() -> None:
        frame = Outgoing(asyncio.get_running_loop(), most_bytes=MIB)
        frame.add(b"one")
        broken, repeat = frame.chunks(), frame.chunks()
        assert await anext(broken) == (b"one",)
        waiting = asyncio.create_task(anext(broken))
        await asyncio.sleep(0)
        assert await anext(repeat) == (b"one",)
        frame.add(b"two")
        frame.finish()
        assert await waiting == (b"two",)
        async with asyncio.timeout(PROMPT_S):
            assert [chunk async for chunk in repeat] == [(b"two",)]

    asyncio.run(both())


def test_a_repeat_that_nobody_reads_for_a_while() -> None:
    far_end, pieces = Recorder(1), [bytes(8 * MIB), b"the rest"]

    def made() -> Iterator[bytes]:
        yield pieces[0]
        eventually(lambda: far_end.has(0, pieces[0]))
        far_end.reads.clear()
        eventually(lambda: len(far_end.declared) == 2)
        yield pieces[1]

    with meeting(far_end) as (transfer, _):
        push(transfer, made(), most_bytes=16 * MIB)
        assert not answered(transfer)
        far_end.reads.set()
        eventually(lambda: answered(transfer))
    assert far_end.has(1, b"".join(pieces))


class Pourer(shard_pb2_grpc.ShardServicer):
    """A server that would stream `count` deltas of one frame; a delta is counted as sent when gRPC has taken it."""

    def __init__(self, count: int, frame: bytes) -> None:
        self._count, self._frame = count, frame
        self.sent: list[int] = []
        """By call, newest last."""
        self.over = 0
        """Calls that are over."""

    async def Follow(
        self, request: shard_pb2.FollowRequest, context: Any
    ) -> AsyncIterator[shard_pb2.DeltaChunk]:
        call = len(self.sent)
        self.sent.append(0)
        context.add_done_callback(self._note)
        for version in range(request.from_version, self._count):
            header = shard_pb2.DeltaHeader(
                version=version,
                step=version,
                closes=True,
                frame_bytes=len(self._frame),
                final=version == self._count - 1,
            )
            yield shard_pb2.DeltaChunk(header=header)
            yield shard_pb2.DeltaChunk(data=self._frame)
            self.sent[call] += 1

    def _note(self, context: Any) -> None:
        self.over += 1

    def stalls(self, transfer: Transfer) -> bool:
        """Whether the newest call goes no further: the mailbox is full, and what was on its way has come to rest."""
        eventually(lambda: transfer.mailbox.crowded(0))
        before = self.sent[-1]
        time.sleep(0.1)
        return self.sent[-1] == before


def test_an_encoder_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    server = Server(tmp_path)

    def made() -> Iterator[bytes]:
        yield from pieces_of(1)[:2]
        raise FloatingPointError("gradient and state together overflow")

    with meeting(server) as (transfer, coordinator):
        server.begin(coordinator)
        with pytest.raises(FloatingPointError):
            push(transfer, made())
        push(transfer, pieces_of(2), UnitId(1, 0, 1))
        eventually(lambda: transfer.mailbox.units_under_way == 1)
        transfer.mailbox.check()
        assert transfer.mailbox.accepted == 1
        promptly(transfer.close)
        eventually(lambda: room_but(server.owner, len(b"".join(pieces_of(2)))))
        assert list(server.owner.shard.held) == [1]
        assert server.owner.shard.ledger.accepted == {(0, 1): 0}


def test_an_encoder_that_fails_after_the_answer_holds_up_no_close(tmp_path: Path) -> None:
    """The unit is settled already: the server answers before it has read anything."""
    server = Server(tmp_path)

    with meeting(server) as (transfer, coordinator):
        server.begin(coordinator)
        coordinator.do(server.owner.apply(Close(0, (), deposit=False, final=False, retain_from=0)))

        def made() -> Iterator[bytes]:
            yield pieces_of(1)[0]
            eventually(lambda: answered(transfer))
            raise FloatingPointError("gradient and state together overflow")

        with pytest.raises(FloatingPointError):
            push(transfer, made())
        began = time.monotonic()
        promptly(transfer.close)
        assert time.monotonic() - began < 0.9, "it waited for a call that is over"


def test_streamed_frames_make_the_bits_that_whole_ones_make(tmp_path: Path) -> None:
    """Two steps of three streams, there and back, beside a shard that is handed its records whole."""
    server, whole = Server(tmp_path), Shard(SPEC, PUSH, PULL)
    for name in ("x", "published"):
        whole.load(name, pack(plane(0), BLOCKS))
    states, replica = [state() for _ in range(STREAMS)], plane(0)
    with meeting(server) as (transfer, coordinator):
        server.begin(coordinator)
        transfer.begin_following([0], [0], opened)
        for step in range(2):
            for stream in range(STREAMS):
                unit = UnitId(1, step, stream)
                pieces = list(PUSH.encode(plane(10 * step + stream), states[stream], BLOCKS))
                push(transfer, iter(pieces), unit)
                whole.apply(Accept(unit, 0, INCARNATION, COMMIT, b"".join(pieces)))
            eventually(lambda: answered(transfer))
            close = Close(step, tuple(range(STREAMS)), deposit=False, final=step == 1, retain_from=0)
            coordinator.do(server.owner.apply(close))
            whole.apply(close)
            (delta,) = taken(transfer)
            assert delta.move is not None
            delta.move.apply_to(replica)
        assert room_but(server.owner, 0)
    assert transfer.mailbox.accepted == 2 * STREAMS
    for name, expected in whole.planes().items():
        assert server.owner.shard.planes()[name].tobytes() == expected.tobytes(), name
    assert replica.tobytes() == whole.planes()["published"].tobytes()


# --- deltas -----------------------------------------------------------------------------------------


def test_a_server_is_read_no_further_than_the_worker_takes() -> None:
    pourer = Pourer(1000, bytes(MIB))
    with meeting(pourer) as (transfer, _):
        transfer.begin_following([0], [0], lambda delta: delta)
        eventually(lambda: pourer.stalls(transfer))
        stalled_at = pourer.sent[-1]
        assert AHEAD_BYTES // MIB <= stalled_at < 100, "what waits here and on the way, of 1,000"
        versions = [taken(transfer)[0].version for _ in range(10)]
        eventually(lambda: pourer.sent[-1] > stalled_at)
        eventually(lambda: pourer.stalls(transfer))
        assert pourer.sent[-1] < 110
        versions += [taken(transfer)[0].version for _ in range(990)]
        assert versions == list(range(1000))
        eventually(lambda: pourer.over == 1)
        transfer.mailbox.check()


def test_following_anew_while_the_old_one_stalls() -> None:
    pourer = Pourer(1000, bytes(MIB))
    with meeting(pourer) as (transfer, _):
        transfer.begin_following([0], [0], lambda delta: delta)
        eventually(lambda: pourer.stalls(transfer))
        transfer.begin_following([970], [970], lambda delta: delta)
        assert [taken(transfer)[0].version for _ in range(30)] == list(range(970, 1000))
        eventually(lambda: pourer.over == 2)
        assert pourer.sent[0] < 100 and pourer.sent[1] == 30
        assert not transfer.mailbox.take_deltas()
        transfer.mailbox.check()


def test_closing_while_a_server_is_held_up() -> None:
    pourer = Pourer(1000, bytes(MIB))
    with meeting(pourer) as (transfer, _):
        transfer.begin_following([0], [0], lambda delta: delta)
        eventually(lambda: pourer.stalls(transfer))
        promptly(transfer.close)
        eventually(lambda: pourer.over == 1)


def test_a_delta_that_does_not_decode_ends_the_training_thread_wherever_it_waits() -> None:
    x, published = plane(1), plane(2)
    frame = bytearray(b"".join(PULL.publish(x, published, BLOCKS)))
    frame[-1] ^= 1
    pourer = Pourer(1000, bytes(frame))
    with meeting(pourer) as (transfer, _):
        transfer.begin_following([0], [0], opened)
        with pytest.raises(DamagedFrame, match="checksum"):
            taken(transfer)
        with pytest.raises(DamagedFrame, match="checksum"):
            transfer.mailbox.check()
        assert not transfer.mailbox.take_deltas()
        eventually(lambda: pourer.over == 1)
