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
from sparsync.bench.gradients import Updates, gaussian, real_updates, tiled
from sparsync.bench.load import BLOCK_BYTES
from wire.clock import monotonic_clock
from wire.codec.base import Blocks, Plane
from wire.codec.chain import delta_codec, push_codec
from wire.codec.frame import ENTRY, HEADER, PART_HEADER_BYTES, TABLE_AT
from wire.layout import BLOCK, BlockRange, Layout, Parameter

GB = 1e9
ROUNDS, WARM_UP_STEPS, INNER_STEPS = 3, 20, 8
QUICK_WARM_UP_STEPS, QUICK_INNER_STEPS = 4, 2
"""Of the training that makes pseudo-gradients."""
QUANTISED = 64
"""Kept elements a block whose values the quantisers are compared on."""
DECODES = 4
"""In a row, a round."""
SECTIONS = ("counts", "scales", "indices", "signs", "codes")

T = TypeVar("T")
Say = Callable[[str], None]


@dataclass(frozen=True)
class Options:
    """What is measured. sizes: bytes of float32, whole blocks; kind: of input ("updates", "gradients", "gaussian")."""

    sizes: tuple[int, ...]
    cases: tuple[Case, ...]
    rounds: int
    kind: str
    source: str
    seed: int
    threads: int
    quick: bool

    @property
    def inner_steps(self) -> int:
        return QUICK_INNER_STEPS if self.quick else INNER_STEPS


def measure(options: Options, say: Say) -> dict[str, Any]:
    """The whole benchmark as one JSON object."""
    torch.set_num_threads(options.threads)
    updates = make_updates(options, say)
    matrix = []
    for size in options.sizes:
        blocks = size // BLOCK_BYTES
        plane = gaussian(blocks, seed=options.seed) if updates is None else tiled(updates.rounds, blocks)
        matrix.append({"mb": size / 1e6, **measure_size(options, plane, say)})
    return {
        "benchmark": "codec",
        "about": about(device="cpu"),
        "options": {
            "mb": [size / 1e6 for size in options.sizes],
            "rounds": options.rounds,
            "input": options.kind,
            "source": options.source if updates else None,
            "inner_steps": options.inner_steps if updates else None,
            "seed": options.seed,
            "threads": options.threads,
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


def measure_size(options: Options, plane: Plane, say: Say) -> dict[str, Any]:
    """Baselines and all cases on one plane, [blocks, 4096]."""
    layout = Layout((Parameter("input", plane.shape, "float32", 0),))
    blocks = Blocks.of(layout, [BlockRange(0, layout.blocks)])
    out = np.zeros_like(plane)
    subjects = [Subject(case, plane, out, blocks, threads=options.threads) for case in options.cases]
    seconds: dict[str, list[float]] = {"memcpy": []}
    seconds |= {f"torch_topk_{kept}": [] for kept in kept_of(options.cases)}
    magnitudes = torch.from_numpy(np.abs(plane))
    for subject in subjects:
        subject.warm_up()
    for number in range(options.rounds):
        seconds["memcpy"].append(timed(functools.partial(np.copyto, out, plane))[0])
        for kept in kept_of(options.cases):
            took, _ = timed(functools.partial(torch.topk, magnitudes, kept, dim=1, sorted=False))
            seconds[f"torch_topk_{kept}"].append(took)
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


def timed(work: Callable[[], T]) -> tuple[float, T]:
    """(seconds, what it returned)."""
    begin = monotonic_clock.now()
    done = work()
    return monotonic_clock.now() - begin, done


class Way(Protocol):
    """One codec in one direction, with the state that it keeps."""

    def forget(self) -> None:
        """Back to the state of a start: zeros."""
        ...

    def encode(self, plane: Plane) -> bytes:
        """The frame of `plane`."""
        ...

    def decode(self, frame: bytes, out: Plane) -> None:
        """Take a frame apart, with all checks, and do to `out` what it says."""
        ...


class Pushing:
    """A worker encodes a gradient, a server adds it up."""

    def __init__(self, case: Case, blocks: Blocks, *, threads: int) -> None:
        self._blocks = blocks
        self._codec = push_codec(
            codec=case.codec,
            density=case.density,
            values=case.values,
            feedback=case.feedback,
            threads=threads,
        )
        shape = (blocks.count, BLOCK)
        self._state = {name: np.zeros(shape, np.float32) for name in self._codec.state_planes}

    def forget(self) -> None:
        for state in self._state.values():
            state[:] = 0.0

    def encode(self, plane: Plane) -> bytes:
        return b"".join(self._codec.encode(plane, self._state, self._blocks))

    def decode(self, frame: bytes, out: Plane) -> None:
        self._codec.add(frame, out, self._blocks)


class Publishing:
    """A server moves its published model towards x, a worker follows."""

    def __init__(self, case: Case, blocks: Blocks, *, threads: int) -> None:
        self._blocks = blocks
        self._codec = delta_codec(codec=case.codec, density=case.density, values=case.values, threads=threads)
        self._published = np.zeros((blocks.count, BLOCK), np.float32)

    def forget(self) -> None:
        self._published[:] = 0.0

    def encode(self, plane: Plane) -> bytes:
        return self._codec.publish(plane, self._published, self._blocks)

    def decode(self, frame: bytes, out: Plane) -> None:
        self._codec.apply(frame, out, self._blocks)


class Subject:
    """One codec, and what was measured of it.

    Args:
        plane: the input. out: a plane to decode into, shared by all.
    """

    def __init__(self, case: Case, plane: Plane, out: Plane, blocks: Blocks, *, threads: int) -> None:
        self._case, self._plane, self._out = case, plane, out
        kind = Publishing if case.pulled else Pushing
        self._way: Way = kind(case, blocks, threads=threads)
        self._encode_s, self._decode_s = list[float](), list[float]()

    def warm_up(self) -> None:
        """Load kernels, touch memory; and see how far one frame is from the input."""
        self._frame = self._way.encode(self._plane)
        self._out[:] = 0.0
        self._way.decode(self._frame, self._out)
        self._error = relative_error(self._plane, self._out)

    def round(self) -> None:
        """Encode with fresh state and decode again; the latter some times, for it is over soon."""
        self._way.forget()
        took, self._frame = timed(lambda: self._way.encode(self._plane))
        self._encode_s.append(took)
        took, _ = timed(self._decode)
        self._decode_s.append(took / DECODES)

    def _decode(self) -> None:
        for _ in range(DECODES):
            self._way.decode(self._frame, self._out)

    def result(self, baselines: Mapping[str, Sequence[float]]) -> dict[str, Any]:
        """Rates, ratios of each round, sizes and error. baselines: seconds of each round."""
        rate, case = self._plane.nbytes / GB, self._case
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
            "bits_a_parameter": 8 * len(self._frame) / self._plane.size,
            **index_bits(sizes, kept=case.kept * len(self._plane) if case.codec == "topk" else 0),
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


# ── frames ──────────────────────────────────────────────────────────────────────────────────────


def sections_of(frame: bytes) -> dict[str, int]:
    """Stored bytes of a frame by what they are for: each kind of section in all parts, and `headers`, the rest."""
    sizes, at = dict.fromkeys(SECTIONS, 0), HEADER.size
    while at < len(frame):
        table = ENTRY.iter_unpack(frame[at + TABLE_AT : at + PART_HEADER_BYTES])
        at += PART_HEADER_BYTES
        for name, (_, stored) in zip(SECTIONS, table, strict=True):
            sizes[name] += stored
            at += stored
    return {**sizes, "headers": len(frame) - sum(sizes.values())}


def index_bits(sizes: Mapping[str, int], *, kept: int) -> dict[str, float | None]:
    """Bits that tell where a kept value belongs: of the indices alone, and with counts and all headers."""
    if not kept:
        return {"index_bits_alone": None, "bits_an_index": None}
    where = sizes["indices"] + sizes["counts"] + sizes["headers"]
    return {"index_bits_alone": 8 * sizes["indices"] / kept, "bits_an_index": 8 * where / kept}
