"""Checkpoints: planes streamed from the shards into files by offset, and back. One chunk is held at a time.

    model.safetensors               x, parameter by parameter
    published.safetensors           x̂
    PLANE.safetensors               every other plane of the shards (moments, sum of estimates)
    stream-S.PLANE.safetensors      state of stream S, trainable parameters only
    stream-S.extra                  its buffers, scaler and user objects (a safetensors blob)
    stream-S.inner                  with local steps: its worker's optimizer (the same; in pieces on the shards)
    stream-S.course                 in `delayed`: what it knows of where x̂ goes (the same)
    handed.extra                    the same of the worker that evaluates, in an elastic segment

The data section of each tensor file is the padding-free concatenation of its blocks in block
order, whichever shard owned them: a run resumes on any number of servers.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import logging
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from coordinator.pace import pace_of
from coordinator.shards import ShardLine
from coordinator.state import State
from wire.checkpoint import BlobWriter, CheckpointWriter, Manifest, load_manifest
from wire.config import Config
from wire.errors import ModelMismatch, SparsyncError
from wire.layout import FROZEN, BlockRange, Layout, intersect
from wire.messages import ShardPlacement, term_to_proto
from wire.rpc.planes import cut
from wire.tensor_file import TensorFileReader, TensorFileWriter, chunks
from wire.v1 import common_pb2, shard_pb2

log = logging.getLogger(__name__)
T = TypeVar("T")
Table = Sequence[Sequence[Any]]
"""A model as a manifest has it: name, shape, dtype and group of each parameter."""
FILES = {"x": "model", "published": "published"}
HANDED = "handed"
"""The blob that a worker hands over in an elastic segment."""
CHUNK_BYTES = 1 << 20
RETRY_S = 0.5
ELEMENT_BYTES = 4
PIECES = ("inner", "course")
"""Blobs of a stream of which each shard has a piece."""
BLOBS = (".extra", *(f".{name}" for name in PIECES))
"""What of a stream's state is no plane."""
RESERVE_BYTES = 16 << 20
"""Left free on the disk, which the journal and the events may share with the checkpoints."""


class _Extents:
    """Where the bytes of one shard's blocks lie in a file that holds the blocks of `held`."""

    def __init__(self, layout: Layout, held: Sequence[BlockRange], owned: Sequence[BlockRange]) -> None:
        self.spans: list[tuple[int, int]] = []
        offset = 0
        for kept in held:
            first = layout.first_element(kept.start)
            for part in intersect([kept], owned):
                start, stop = layout.first_element(part.start), layout.first_element(part.stop)
                self.spans.append((ELEMENT_BYTES * (offset + start - first), ELEMENT_BYTES * (stop - start)))
            offset += layout.first_element(kept.stop) - first

    @property
    def bytes(self) -> int:
        return sum(size for _, size in self.spans)

    def pieces(self, position: int, size: int) -> Iterator[tuple[int, int]]:
        """(file offset, size) of `size` bytes from `position` of the shard's own sequence on."""
        for offset, length in self.spans:
            if size <= 0:
                return
            if position < length:
                take = min(size, length - position)
                yield offset + position, take
                position, size = 0, size - take
            else:
                position -= length


class _PlaneFile:
    """One tensor file and how far each shard has filled it."""

    def __init__(self, writer: TensorFileWriter) -> None:
        self.writer = writer
        self.position = 0

    def put(self, data: bytes, extents: _Extents) -> None:
        begin = 0
        for offset, size in extents.pieces(self.position, len(data)):
            self.writer.write(offset, data[begin : begin + size])
            begin += size
        self.position += len(data)


class CheckpointTaker:
    """Writes one checkpoint of `state`'s open step, from shards that stand at it; people call it `step`.

    `lines` are to the primaries, by shard. Of one that ends meanwhile nothing more is asked.
    """

    def __init__(
        self, directory: Path, state: State, lines: Sequence[ShardLine], config: Config, step: int
    ) -> None:
        assert state.layout is not None
        self._state = state
        self._layout = state.layout
        self._lines = list(zip((placed.ranges for placed in state.placement), lines, strict=True))
        self._directory = directory
        self._config = config
        self._step = step
        self._writer = CheckpointWriter(directory, step)
        self._everything = [BlockRange(0, self._layout.blocks)]
        self._trainable = self._layout.select(trainable=True)

    async def take(self) -> tuple[Path, dict[str, str]]:
        """The finished checkpoint and the sha256 of each tensor file's data.

        Raises: OSError, SparsyncError; what was written so far is then removed.
        """
        try:
            described = await self._describe()
            self._check_room(described)
            digests = {p: await self._plane(p) for p in described.planes}
            if self._state.deposited:
                await self._streams()
            elif self._state.handed == self._state.open_step:
                await self._handed()
            extra = self._manifest(described)
            return await asyncio.to_thread(self._writer.commit, extra), digests
        except BaseException:
            self._writer.abort()
            raise

    async def _describe(self) -> shard_pb2.DescribeReply:
        """What the shards hold; all alike, but one without a trainable block has no scalars."""
        replies = [await _describe(line) for _, line in self._lines]
        return max(replies, key=lambda reply: len(reply.scalars))

    def _check_room(self, described: shard_pb2.DescribeReply) -> None:
        """Nothing is begun that cannot be finished: the run's journal needs the same disk. Raises OSError."""
        needed = ELEMENT_BYTES * self._layout.numel * len(described.planes)
        if self._state.deposited:
            lanes = len(described.stream_planes) * len(self._state.lanes)
            needed += ELEMENT_BYTES * lanes * self._layout.elements(self._trainable)
        free = shutil.disk_usage(self._directory).free
        if free < needed + RESERVE_BYTES:
            raise OSError(
                errno.ENOSPC,
                f"{self._directory} has {free} bytes free, a checkpoint needs {needed + RESERVE_BYTES}",
            )

    async def _collect(self, line: ShardLine, plane: str) -> AsyncIterator[common_pb2.PlaneChunk]:
        term, seq = line.term()
        request = shard_pb2.CollectRequest(
            term=term_to_proto(term, journal_seq=seq), step=self._state.open_step, plane=plane
        )
        with line.calling() as stub:
            async for chunk in stub.Collect(request):
                yield chunk

    def _entries(self, *, trainable_only: bool) -> list[tuple[str, str, tuple[int, ...]]]:
        return [
            (p.name, "F32", p.shape) for p in self._layout.parameters if p.trainable or not trainable_only
        ]

    async def _plane(self, plane: str) -> str:
        name = f"{FILES.get(plane, plane)}.safetensors"
        metadata = {"plane": plane, "step": str(self._step)}
        writer = self._writer.file(name, self._entries(trainable_only=False), metadata)
        for owned, line in self._lines:
            file = _PlaneFile(writer)
            extents = _Extents(self._layout, self._everything, owned)
            async for chunk in self._collect(line, plane):
                if chunk.data:
                    file.put(chunk.data, extents)
        return await asyncio.to_thread(writer.close)

    async def _streams(self) -> None:
        writers: dict[str, TensorFileWriter] = {}
        blobs: dict[str, BlobWriter] = {}
        for owned, line in self._lines:
            extents = _Extents(self._layout, self._trainable, owned)
            file, blob = None, None
            async for chunk in self._collect(line, "deposits"):
                if chunk.HasField("header"):
                    name = chunk.header.plane.replace("/", ".")
                    file, blob = None, None
                    if name.endswith(BLOBS):
                        blob = blobs[name] = blobs.get(name) or self._writer.blob(name)
                    else:
                        file = _PlaneFile(writers.get(name) or self._stream_file(name, writers))
                elif file is not None:
                    file.put(chunk.data, extents)
                elif blob is not None:
                    blob.write(chunk.data)
        for writer in writers.values():
            await asyncio.to_thread(writer.close)
        for written in blobs.values():
            await asyncio.to_thread(written.close)

    async def _handed(self) -> None:
        blob = self._writer.blob(f"{HANDED}.extra")
        (_, first), *_ = self._lines
        async for chunk in self._collect(first, HANDED):
            blob.write(chunk.data)
        await asyncio.to_thread(blob.close)

    def _stream_file(self, name: str, writers: dict[str, TensorFileWriter]) -> TensorFileWriter:
        entries = self._entries(trainable_only=True)
        writers[name] = self._writer.file(f"{name}.safetensors", entries, {"plane": name})
        return writers[name]

    def _manifest(self, described: shard_pb2.DescribeReply) -> Mapping[str, Any]:
        assert self._state.dataset is not None
        config_digest = hashlib.sha256(self._config.to_json().encode()).hexdigest()
        return {
            "round": self._state.open_step,
            "origin": self._state.origin,
            "local": self._config.sync.is_local,
            "run": self._state.run,
            "timeline": self._state.timeline,
            "config_digest": config_digest,
            "layout": [[p.name, list(p.shape), p.dtype, p.group] for p in self._layout.parameters],
            "planes": list(described.planes),
            "stream_planes": list(described.stream_planes),
            "scalars": dict(described.scalars),
            "streams": len(self._state.lanes),
            "deposits": self._state.deposited,
            "dataset": asdict(self._state.dataset),
            "norms": list(self._state.norms),
        }


async def _describe(line: ShardLine) -> shard_pb2.DescribeReply:
    """What a shard holds. Raises: Unreachable where it has none yet."""
    term, seq = line.term()
    request = shard_pb2.DescribeRequest(term=term_to_proto(term, journal_seq=seq))
    with line.calling() as stub:
        reply: shard_pb2.DescribeReply = await stub.Describe(request)
        return reply


async def take_checkpoint(
    directory: Path, state: State, lines: Callable[[], Sequence[ShardLine]], *, config: Config, step: int
) -> tuple[Path, dict[str, str]]:
    """As `CheckpointTaker.take`, begun again while a server is away.

    lines: to the primaries, by shard, as they are when it is asked: who comes back has another.

    Raises: OSError, SparsyncError.
    """
    return await _insist(
        state,
        f"the checkpoint of step {step}",
        lambda: CheckpointTaker(directory, state, lines(), config, step).take(),
    )


async def load_checkpoint(
    path: Path, state: State, lines: Callable[[], Sequence[ShardLine]], *, config: Config
) -> None:
    """As `CheckpointLoader.load`, likewise."""
    await _insist(
        state, f"loading {path}", lambda: CheckpointLoader(path, state, lines(), config=config).load()
    )


async def _insist(state: State, what: str, attempt: Callable[[], Awaitable[T]]) -> T:
    """What `attempt` returns, begun again while a server is away: it may come back, and the run waits for it anyway.

    Raises: what no other attempt makes better; once the run has ended, anything.
    """
    while True:
        try:
            return await attempt()
        except SparsyncError as error:
            if not error.retry or state.ended is not None:
                raise
            log.warning("%s is begun again: %s", what, error)
        await asyncio.sleep(RETRY_S)


class CheckpointLoader:
    """Sends a checkpoint to the shards of a run that resumes it: whole to each, whatever an earlier attempt brought.

    `lines` are to the primaries, by shard. The checkpoint's files were checked when this coordinator took office.
    """

    def __init__(self, path: Path, state: State, lines: Sequence[ShardLine], *, config: Config) -> None:
        assert state.layout is not None
        self._path = path
        self._state = state
        self._layout = state.layout
        self._lines = list(zip(state.placement, lines, strict=True))
        self._manifest: Manifest = load_manifest(path, verify=False)
        self._alike = goes_on(self._manifest, config)
        self._failure: Exception | None = None

    async def load(self) -> None:
        """Raises: ModelMismatch when the run is of another shape; DamagedFile when a file is damaged; Unreachable."""
        described = [await _describe(line) for _, line in self._lines]  # nothing is sent while one is away
        self._described = described[0]
        self._check(self._described)
        for placed, line in self._lines:
            try:
                with line.calling() as stub:
                    await stub.Restore(self._read(self._chunks(placed, line)))
            except asyncio.CancelledError:
                if self._failure is not None:
                    raise self._failure from None
                raise

    async def _read(
        self, chunks: AsyncIterator[shard_pb2.RestoreChunk]
    ) -> AsyncIterator[shard_pb2.RestoreChunk]:
        """`chunks`. Of what is raised there gRPC says nothing, and cancels the call."""
        try:
            async for chunk in chunks:
                yield chunk
        except Exception as error:
            self._failure = error
            raise

    def _check(self, described: shard_pb2.DescribeReply) -> None:
        extra = self._manifest.extra
        kept = self._manifest.layout
        now = [[p.name, list(p.shape), p.dtype, p.group] for p in self._layout.parameters]
        pairs: list[tuple[str, Any, Any]] = [
            ("parameters", _without_groups(kept), _without_groups(now)),
            ("parameter groups (optimizer.name)", self._groups(kept), self._groups(now)),
            ("planes (optimizer)", *self._planes(described)),
            ("stream state (push.codec)", *self._stream_planes(described)),
            ("streams (sync.units_per_step)", extra["streams"], len(self._state.lanes)),
        ]
        for what, expected, found in pairs:
            if expected != found:
                raise ModelMismatch(
                    f"checkpoint {self._path} has other {what} than this run: found {_brief(found)}, expected "
                    f"{_brief(expected)}; resume with the model and configuration that it was written with"
                )

    def _groups(self, layout: Table) -> list[int]:
        """Of each parameter, where the same optimizer goes on."""
        return [group for *_, group in layout] if self._alike else []

    def _planes(self, described: shard_pb2.DescribeReply) -> tuple[list[str], list[str]]:
        """Those of the checkpoint and of the run, where the same optimizer goes on."""
        return (
            (_lasting(self._manifest.extra["planes"]), _lasting(described.planes))
            if self._alike
            else ([], [])
        )

    def _stream_planes(self, described: shard_pb2.DescribeReply) -> tuple[list[str], list[str]]:
        """Those of the checkpoint and of the run, where both keep streams' state: elastic segments do not."""
        kept, found = self._manifest.extra["stream_planes"], list(described.stream_planes)
        return (kept, found) if self._exact(described) else ([], [])

    def _exact(self, described: shard_pb2.DescribeReply) -> bool:
        """Whether the streams go on from their state in the checkpoint."""
        return self._alike and bool(self._manifest.extra["deposits"]) and pace_of(self._state.segment).exact

    async def _chunks(self, placed: ShardPlacement, line: ShardLine) -> AsyncIterator[shard_pb2.RestoreChunk]:
        term, seq = line.term()
        extra = self._manifest.extra
        header = shard_pb2.RestoreHeader(
            term=term_to_proto(term, journal_seq=seq),
            step=self._state.first_step,
            scalars=extra["scalars"] if self._alike else {},
            deposits=self._exact(self._described),
        )
        yield shard_pb2.RestoreChunk(header=header)
        everything = _Extents(self._layout, [BlockRange(0, self._layout.blocks)], placed.ranges)
        trainable = _Extents(self._layout, self._layout.select(trainable=True), placed.ranges)
        wanted = set(self._described.planes) if self._alike else set(FILES)
        for plane in set(extra["planes"]) & wanted:
            for chunk in self._plane(plane, f"{FILES.get(plane, plane)}.safetensors", everything):
                yield chunk
        for stream in range(extra["streams"] if self._exact(self._described) else 0):
            for plane in extra["stream_planes"]:
                name = f"stream-{stream}/{plane}"
                for chunk in self._plane(name, f"stream-{stream}.{plane}.safetensors", trainable):
                    yield chunk
            for name, file, piece in self._blobs(stream, placed.shard):
                for chunk in self._blob(f"stream-{stream}/{name}", file, piece):
                    yield chunk
        kept = kept_extra(self._manifest)
        if placed.shard == 0 and kept is not None and not self._exact(self._described):
            for chunk in self._blob(HANDED, kept, range(self._manifest.files[kept.name].bytes)):
                yield chunk

    def _blobs(self, stream: int, shard: int) -> Iterator[tuple[str, Path, range]]:
        """What of a stream is no plane: name, file, bytes. The first shard has the extra, each a piece of others."""
        trainable = self._layout.select(trainable=True)
        owned = [self._layout.elements(intersect(placed.ranges, trainable)) for placed, _ in self._lines]
        for name in ("extra", *PIECES):
            file = f"stream-{stream}.{name}"
            if (entry := self._manifest.files.get(file)) is None:
                continue
            if name in PIECES:
                yield name, self._path / file, cut(entry.bytes, owned)[shard]
            elif shard == 0:
                yield name, self._path / file, range(entry.bytes)

    def _plane(self, plane: str, file: str, extents: _Extents) -> Iterator[shard_pb2.RestoreChunk]:
        yield _restore(common_pb2.PlaneChunk(header=common_pb2.PlaneHeader(plane=plane, bytes=extents.bytes)))
        with TensorFileReader(self._path / file) as reader:
            for offset, length in extents.spans:
                for start in range(offset, offset + length, CHUNK_BYTES):
                    size = min(CHUNK_BYTES, offset + length - start)
                    yield _restore(common_pb2.PlaneChunk(data=reader.read(start, size)))

    def _blob(self, plane: str, file: Path, piece: range) -> Iterator[shard_pb2.RestoreChunk]:
        header = common_pb2.PlaneHeader(plane=plane, bytes=len(piece))
        yield _restore(common_pb2.PlaneChunk(header=header))
        for data in chunks(file, piece.start, len(piece)):
            yield _restore(common_pb2.PlaneChunk(data=data))


def goes_on(manifest: Manifest, config: Config) -> bool:
    """Whether who ran the optimizer when the checkpoint was written, servers or workers, does so in a run of `config`.

    Else x and x̂ alone are of use, and every optimizer begins anew.
    """
    return bool(manifest.extra.get("local", False)) == config.sync.is_local


def kept_extra(manifest: Manifest) -> Path | None:
    """The file of a checkpoint with what a worker kept beside the parameters: handed over, or of the first stream."""
    names = [name for name in (f"{HANDED}.extra", "stream-0.extra") if name in manifest.files]
    return manifest.path / names[0] if names else None


def _restore(plane: common_pb2.PlaneChunk) -> shard_pb2.RestoreChunk:
    return shard_pb2.RestoreChunk(plane=plane)


def _lasting(planes: Iterable[str]) -> list[str]:
    """Without the sum of estimates, which begins at zero where the streams do."""
    return sorted(set(planes) - {"aggregate"})


def _without_groups(layout: Table) -> Table:
    """Of the group only whether there is one: a frozen parameter stays what it is."""
    return [[*what, group == FROZEN] for *what, group in layout]


def _brief(value: object) -> str:
    text = str(value)
    return text if len(text) <= 200 else text[:200] + " …"
