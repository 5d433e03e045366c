"""`sparsync bench codec`: how fast, how small and how exact each codec is, on real pseudo-gradients.

In every round each codec encodes the same plane with fresh state and decodes the frame into a plane of zeros; a copy
of memory and `torch.topk` a block take their turns between them. Rates count the float32 input. Decoding is taking the
frame apart, checks included, and adding it to a plane. Bits an index count everything that tells where values belong:
the sections of indices and of counts, and all headers, tables and checksums.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
import torch

from sparsync.bench import quantisers
from sparsync.bench.about import about
from sparsync.bench.cases import Case
from sparsync.bench.figures import distribution
from sparsync.bench.frames import index_bits, sections_of
from sparsync.bench.gradients import Updates, gaussian, real_updates, tiled
from sparsync.bench.load import BLOCK_BYTES
from sparsync.bench.memory import Memory
from wire.clock import monotonic_clock
from wire.codec.base import Blocks, Plane
from wire.codec.chain import delta_codec, push_codec
from wire.layout import BLOCK, BlockRange, Layout, Parameter
from wire.memory import keep_freed_memory

GB = 1e9
ROUNDS, WARM_UP_STEPS, INNER_STEPS = 3, 20, 8
QUICK_WARM_UP_STEPS, QUICK_INNER_STEPS = 4, 2
"""Of the training that makes pseudo-gradients."""
QUANTISED = 64
"""Kept elements a block whose values the quantisers are compared on."""
DECODES = 4
"""In a row, a round."""

T = TypeVar("T")
Say = Callable[[str], None]


@dataclass(frozen=True)
class Options:
    """What is measured.

    sizes: bytes of float32, whole blocks. kind: of input ("updates", "gradients", "gaussian"). device: "cpu" or "cuda";
    deltas are published by servers, on the host alone.
    """

    sizes: tuple[int, ...]
    cases: tuple[Case, ...]
    rounds: int
    kind: str
    source: str
    seed: int
    threads: int
    device: str
    quick: bool

    @property
    def inner_steps(self) -> int:
        return QUICK_INNER_STEPS if self.quick else INNER_STEPS


def measure(options: Options, say: Say) -> dict[str, Any]:
    """The whole benchmark as one JSON object. Raises: ConfigError where the device is not there."""
    keep_freed_memory()  # as servers and workers do
    memory = Memory.named(options.device)
    torch.set_num_threads(options.threads)
    updates = make_updates(options, say)
    matrix = []
    for size in options.sizes:
        blocks = size // BLOCK_BYTES
        plane = gaussian(blocks, seed=options.seed) if updates is None else tiled(updates.rounds, blocks)
        matrix.append({"mb": size / 1e6, **measure_size(options, plane, memory, say)})
    return {
        "benchmark": "codec",
        "about": about(device=memory.name),
        "options": {
            "mb": [size / 1e6 for size in options.sizes],
            "rounds": options.rounds,
            "input": options.kind,
            "source": options.source if updates else None,
            "inner_steps": options.inner_steps if updates else None,
            "seed": options.seed,
            "threads": options.threads,
            "device": options.device,
        },
        "sizes": matrix,
        "quantisers": quantisers.compare(updates.rounds, updates.first_blocks, kept=QUANTISED)
        if updates
        else None,
    }


def make_updates(options: Options, say: Say) -> Updates | None:
    """Real input; None where it is to be Gaussian."""
    if options.kind == "gaussian":
        return None
    say(f"training the default model on {options.source!r} for a moment")
    return real_updates(
        rounds=1 if options.quick else ROUNDS,
        warm_up=QUICK_WARM_UP_STEPS if options.quick else WARM_UP_STEPS,
        inner_steps=options.inner_steps,
        kind=options.kind,
        seed=options.seed,
        source=options.source,
    )


# ── one size ────────────────────────────────────────────────────────────────────────────────────


def measure_size(options: Options, plane: Plane, memory: Memory, say: Say) -> dict[str, Any]:
    """Baselines and all cases on one plane, [blocks, 4096]."""
    layout = Layout((Parameter("input", plane.shape, "float32", 0),))
    blocks = Blocks.of(layout, [BlockRange(0, layout.blocks)])
    bench = Bench(memory, memory.hold(plane), memory.zeros(*plane.shape), blocks, options.threads)
    subjects = [Subject(case, bench) for case in options.cases]
    magnitudes = torch.as_tensor(bench.plane).abs()
    baselines: dict[str, Callable[[], object]] = {"memcpy": bench.copy}
    for kept in kept_of(options.cases):
        choosing = functools.partial(torch.topk, magnitudes, kept, dim=1, sorted=False)
        baselines[f"torch_topk_{kept}"] = choosing
    seconds: dict[str, list[float]] = {name: [] for name in baselines}
    for subject in subjects:
        subject.warm_up()
    for number in range(options.rounds):
        for name, work in baselines.items():
            seconds[name].append(bench.timed(work)[0])
        for subject in subjects:
            subject.round()
        say(f"{plane.nbytes / 1e6:.0f} MB: round {number + 1} of {options.rounds}")
    rate = plane.nbytes / GB
    return {
        "elements": plane.size,
        "baselines": {name: distribution(rate / s for s in took) for name, took in seconds.items()},
        "codecs": [subject.result(seconds) for subject in subjects],
    }


def kept_of(cases: Sequence[Case]) -> list[int]:
    """The numbers of kept elements that top-k baselines are needed for."""
    return sorted({case.kept for case in cases if case.codec == "topk"})


@dataclass(frozen=True)
class Bench:
    """What all subjects share: the input, and a plane to decode into, both [blocks, 4096] in `memory`."""

    memory: Memory
    plane: Any
    out: Any
    blocks: Blocks
    threads: int

    def timed(self, work: Callable[[], T]) -> tuple[float, T]:
        """(seconds until it was done, what it returned)."""
        self.memory.wait()
        begin = monotonic_clock.now()
        done = work()
        self.memory.wait()
        return monotonic_clock.now() - begin, done

    def copy(self) -> None:
        self.out[:] = self.plane

    def zeros(self) -> Any:
        """A plane of zeros like the input."""
        return self.memory.zeros(self.blocks.count, BLOCK)


class Way(Protocol):
    """One codec in one direction, with the state that it keeps."""

    def forget(self) -> None:
        """Back to the state of a start: zeros."""
        ...

    def encode(self, plane: Any) -> bytes:
        """The frame of `plane`."""
        ...

    def decode(self, frame: bytes, out: Any) -> None:
        """Take a frame apart, with all checks, and do to `out` what it says."""
        ...


class Pushing:
    """A worker encodes a gradient, a server adds it up."""

    def __init__(self, case: Case, bench: Bench) -> None:
        self._blocks = bench.blocks
        self._codec = push_codec(
            codec=case.codec,
            density=case.density,
            values=case.values,
            feedback=case.feedback,
            threads=bench.threads,
        )
        self._state = {name: bench.zeros() for name in self._codec.state_planes}

    def forget(self) -> None:
        for state in self._state.values():
            state[:] = 0.0

    def encode(self, plane: Any) -> bytes:
        return b"".join(self._codec.encode(plane, self._state, self._blocks))

    def decode(self, frame: bytes, out: Any) -> None:
        self._codec.add(frame, out, self._blocks)


class Publishing:
    """A server moves its published model towards x, a worker follows."""

    def __init__(self, case: Case, bench: Bench) -> None:
        self._blocks = bench.blocks
        self._codec = delta_codec(
            codec=case.codec, density=case.density, values=case.values, threads=bench.threads
        )
        self._published = bench.zeros()

    def forget(self) -> None:
        self._published[:] = 0.0

    def encode(self, plane: Any) -> bytes:
        return b"".join(self._codec.publish(plane, self._published, self._blocks))

    def decode(self, frame: bytes, out: Any) -> None:
        self._codec.apply(frame, out, self._blocks)


class Subject:
    """One codec, and what was measured of it."""

    def __init__(self, case: Case, bench: Bench) -> None:
        self._case, self._bench = case, bench
        kind = Publishing if case.pulled else Pushing
        self._way: Way = kind(case, bench)
        self._encode_s, self._decode_s = list[float](), list[float]()

    def warm_up(self) -> None:
        """Load kernels, touch memory; and see how far one frame is from the input."""
        bench = self._bench
        self._frame = self._way.encode(bench.plane)
        bench.out[:] = 0.0
        self._way.decode(self._frame, bench.out)
        self._error = relative_error(bench.memory.fetch(bench.plane), bench.memory.fetch(bench.out))

    def round(self) -> None:
        """Encode with fresh state and decode again; the latter some times, for it is over soon."""
        self._way.forget()
        took, self._frame = self._bench.timed(lambda: self._way.encode(self._bench.plane))
        self._encode_s.append(took)
        took, _ = self._bench.timed(self._decode)
        self._decode_s.append(took / DECODES)

    def _decode(self) -> None:
        for _ in range(DECODES):
            self._way.decode(self._frame, self._bench.out)

    def result(self, baselines: Mapping[str, Sequence[float]]) -> dict[str, Any]:
        """Rates, ratios of each round, sizes and error. baselines: seconds of each round."""
        blocks, case = self._bench.blocks, self._case
        rate = 4 * blocks.elements / GB
        sizes = sections_of(self._frame)
        topk = baselines.get(f"torch_topk_{case.kept}") if case.codec == "topk" else None
        return {
            "codec": case.name,
            "encode_gb_per_s": distribution(rate / s for s in self._encode_s),
            "decode_gb_per_s": distribution(rate / s for s in self._decode_s),
            "encode_against_memcpy": ratios(baselines["memcpy"], self._encode_s),
            "encode_against_torch_topk": ratios(topk, self._encode_s) if topk else None,
            "decode_share_of_encode": ratios(self._decode_s, self._encode_s),
            "frame_bytes": len(self._frame),
            "bits_a_parameter": 8 * len(self._frame) / blocks.elements,
            **index_bits(sizes, kept=case.kept * blocks.count if case.codec == "topk" else 0),
            "sections": sizes,
            "relative_error": self._error,
        }


def ratios(a: Sequence[float], b: Sequence[float]) -> dict[str, float]:
    """Of `a` to `b`, round by round."""
    return distribution(x / y for x, y in zip(a, b, strict=True))


def relative_error(wanted: Plane, found: Plane) -> float:
    """‖wanted − found‖ / ‖wanted‖; `found` is left as their difference."""
    np.subtract(wanted, found, out=found)
    return float(np.sqrt(sum_of_squares(found) / sum_of_squares(wanted)))


def sum_of_squares(plane: Plane) -> float:
    """In float64, block by block, so that no plane is copied."""
    return sum(float(np.square(row, dtype=np.float64).sum()) for row in plane)
