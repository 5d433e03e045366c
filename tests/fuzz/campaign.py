"""A fuzzing campaign in this process: inputs from a seed, findings, times, and the most memory that it took.

Each input is a function of (seed, target, number). What counts as a finding: an error that is no refusal, a call of
more than a second of processor time, what a target's own check says, memory beyond bound x 1.1. The address space is
limited, so that what believes a declared size of gigabytes ends with MemoryError, a finding as well.
"""

from __future__ import annotations

import ctypes
import random
import resource
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import zstandard

from tests.conformance.combinations import push, sent
from tests.conformance.envelope import CODES, join, split
from tests.fuzz.targets import REFUSALS, Target, targets
from wire.codec.base import Blocks, DamagedFrame
from wire.layout import BLOCK

LONGEST_CALL_S = 1.0
ALLOWANCE = 1.1
HEADROOM_BYTES = 512 << 20
"""Of address space, beyond what the process has when it begins."""
MOST_FINDINGS = 20
LARGE = 512
"""Blocks of the frame whose memory is measured: 2 M elements."""


@dataclass
class Summary:
    """What a campaign found. Sizes are of resident memory; bounds are what decoders may take, beyond what was there."""

    seed: int
    inputs: int = 0
    accepted: int = 0
    refused: int = 0
    by_target: dict[str, tuple[int, int]] = field(default_factory=dict)
    """(inputs, accepted)."""
    slowest_s: float = 0.0
    slowest_target: str = ""
    large_bound_bytes: int = 0
    large_grown_bytes: int = 0
    bound_bytes: int = 0
    peak_bytes: int = 0
    wall_s: float = 0.0
    findings: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, object]:
        """As a dictionary."""
        return asdict(self)


def campaign(
    *, seed: int, inputs: int | None = None, seconds: float | None = None, only: str = ""
) -> Summary:
    """So many inputs, or as many as fit into the time; all targets in turn, or those whose name has `only` in it."""
    summary, chosen = Summary(seed), [target for target in targets() if only in target.name]
    begun = time.monotonic()
    for target in chosen:
        for good in target.seeds:
            target.check(random.Random(0), good, target.call(good))
    _memory_of_a_large_frame(summary)
    _limit_address_space()
    _reset_peak()
    # All frames here are small: nothing but the interpreter's own fragments may grow.
    summary.bound_bytes = _status("VmRSS") + (8 << 20)
    number = 0
    while inputs is None or summary.inputs < inputs:
        for target in chosen:
            _one(summary, target, random.Random(f"{seed}/{target.name}/{number}"))
        number += 1
        if (seconds is not None and time.monotonic() - begun > seconds) or len(
            summary.findings
        ) >= MOST_FINDINGS:
            break
    summary.peak_bytes, summary.wall_s = _status("VmHWM"), time.monotonic() - begun
    if summary.peak_bytes > ALLOWANCE * summary.bound_bytes:
        summary.findings.append(
            f"memory: {summary.peak_bytes} bytes at the peak, bound {summary.bound_bytes}"
        )
    return summary


def _one(summary: Summary, target: Target, rng: random.Random) -> None:
    """One input: mutated, decoded, checked."""
    data = target.mutate(rng, rng.choice(target.seeds))
    result, begun = None, time.process_time()
    try:
        result = target.call(data)
    except REFUSALS:
        pass
    except Exception as error:
        summary.findings.append(_finding(target, data, repr(error)))
    took = time.process_time() - begun
    if took > summary.slowest_s:
        summary.slowest_s, summary.slowest_target = took, target.name
    if took > LONGEST_CALL_S:
        summary.findings.append(_finding(target, data, f"{took:.2f} s"))
    try:
        target.check(rng, data, result)
    except Exception as error:
        summary.findings.append(_finding(target, data, repr(error)))
    summary.inputs += 1
    summary.accepted += result is not None
    summary.refused += result is None
    tried, taken = summary.by_target.get(target.name, (0, 0))
    summary.by_target[target.name] = (tried + 1, taken + (result is not None))


def _finding(target: Target, data: object, words: str) -> str:
    shown = data.hex() if isinstance(data, bytes) else repr(data)
    return f"{target.name}: {words}: {shown[:4000]}"


# ── memory ──────────────────────────────────────────────────────────────────────────────────────


def _memory_of_a_large_frame(summary: Summary) -> None:
    """Small frames that open into the most that their blocks allow, and frames that tell more than that.

    A decoder may hold the raw sections, and of each kept element its number (4 bytes) and its place (2).
    """
    numbers = np.arange(LARGE, dtype=np.int64)
    blocks = Blocks(numbers, np.full(LARGE, BLOCK, np.int32), numbers)
    codec = push("topk", 1.0, "sign2", "ef")
    frame = sent(
        codec, np.ones((LARGE, BLOCK), np.float32), {"residual": np.zeros((LARGE, BLOCK), np.float32)}, blocks
    )
    kept = int(codec.chain.kept(blocks).sum())
    summary.large_bound_bytes = codec.max_frame_bytes(blocks) + 6 * kept
    head, parts = split(frame)
    bomb = zstandard.compress(bytes(1 << 30))
    ctypes.CDLL(None).malloc_trim(0)
    _reset_peak()
    before = _status("VmRSS")
    codec.validate(frame, blocks)
    for raw in (parts[-1].raw[CODES], 1 << 30, 0xFFFFFFFF):
        parts[-1].raw[CODES], parts[-1].stored[CODES] = raw, bomb
        try:
            codec.validate(join(head, parts), blocks)
        except DamagedFrame:
            continue
        summary.findings.append(f"a bomb of 1 GiB behind a table that tells {raw} was accepted")
    summary.large_grown_bytes = _status("VmHWM") - before
    if summary.large_grown_bytes > ALLOWANCE * summary.large_bound_bytes:
        summary.findings.append(
            f"a large frame took {summary.large_grown_bytes}, bound {summary.large_bound_bytes}"
        )


def _limit_address_space() -> None:
    limit = _status("VmSize") + HEADROOM_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.getrlimit(resource.RLIMIT_AS)[1]))


def _reset_peak() -> None:
    """VmHWM begins anew at VmRSS; `getrusage` cannot do that, and would tell the compiler's peak."""
    Path("/proc/self/clear_refs").write_text("5")


def _status(name: str) -> int:
    """Bytes, of a line of /proc/self/status."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    (line,) = (line for line in lines if line.startswith(f"{name}:"))
    return int(line.split()[1]) << 10
