"""The golden vectors: frames byte for byte, read by our decoder and by one that was written from the document alone."""

from __future__ import annotations

import json
import math
import re
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conformance import golden, reader
from tests.conformance.combinations import (
    ALL,
    BY_POLICY,
    delta,
    describe,
    fresh,
    noise,
    parametrized,
    push,
    received,
    sent,
    some_pushes,
)
from tests.conformance.envelope import split
from wire.codec.base import Blocks
from wire.codec.cut import Chain, Classes
from wire.codec.delta import Delta
from wire.codec.push import Push
from wire.codec.values import Values

PROTOCOL = Path(__file__).resolve().parents[2] / "docs" / "protocol.md"
VECTORS = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(golden.DIRECTORY.glob("*.json"))]
each_vector = pytest.mark.parametrize("vector", VECTORS, ids=lambda v: v["name"])
KINDS = {"push": 1, "delta": 2}


def chains_of(main: Chain, classes: Classes | None) -> list[reader.Chain]:
    return [reader.Chain(c.density, int(c.values)) for c in (main, *(classes.chains if classes else ()))]


def blocks_of(blocks: Blocks, classes: Classes | None) -> list[reader.Block]:
    of_block = classes.of_block if classes else np.zeros(int(blocks.numbers.max(initial=0)) + 1, np.uint8)
    return [
        reader.Block(int(number), int(length), int(of_block[number]))
        for number, length in zip(blocks.numbers, blocks.lengths, strict=True)
    ]


def read_vector(vector: dict[str, Any], frame: bytes) -> list[reader.Decoded]:
    """A frame of a vector through the second decoder, which is told what a vector says, and nothing else."""
    layout = golden.layout_of(vector["parameters"])
    classes = Classes.by_policy(layout, vector["policy"])
    codec = vector["codec"]
    density = None if codec["codec"] == "dense" else codec["density"]
    chains = chains_of(Chain(density, Values.named(codec["values"])), classes)
    of_block = classes.of_block if classes else [0] * layout.blocks
    blocks = [reader.Block(n, length, int(of_block[n])) for n, length in enumerate(layout.lengths)]
    return reader.read(frame, kind=KINDS[vector["kind"]], blocks=blocks, chains=chains)


def test_each_case_has_a_vector() -> None:
    assert sorted(v["name"] for v in VECTORS) == sorted(case.name for case in golden.cases())
    for case in golden.cases():
        (vector,) = (v for v in VECTORS if v["name"] == case.name)
        assert json.loads(json.dumps(case._asdict())) == {key: vector[key] for key in case._fields}


@each_vector
def test_frames_are_made_byte_for_byte(vector: dict[str, Any]) -> None:
    made = list(golden.frames(vector))
    assert [frame.hex() for frame, _ in made] == vector["frames"]
    lengths = golden.layout_of(vector["parameters"]).lengths
    for (_, into), decoded in zip(made, vector["decoded"], strict=True):
        assert [golden.words(row[:n].tolist()) for row, n in zip(into, lengths, strict=True)] == decoded


@each_vector
def test_no_section_is_squeezed_so_that_no_zstd_can_change_them(vector: dict[str, Any]) -> None:
    for frame in vector["frames"]:
        for part in split(bytes.fromhex(frame))[1]:
            assert part.raw == [len(stored) for stored in part.stored]


@each_vector
def test_the_document_suffices_to_read_them(vector: dict[str, Any]) -> None:
    for frame, decoded in zip(vector["frames"], vector["decoded"], strict=True):
        blocks = read_vector(vector, bytes.fromhex(frame))
        assert len(blocks) == len(decoded)
        for block in blocks:
            expected = [
                struct.unpack("<f", struct.pack("<I", int(w, 16)))[0] for w in decoded[block.number].split()
            ]
            # Added to zero as the vector's readers do: -0.0 is then 0.0 but where a delta sets.
            found = [
                block.values.get(i, 0.0) + (0.0 if not block.sets else -0.0) for i in range(len(expected))
            ]
            assert golden.words(found) == golden.words(expected)


def test_the_vectors_hold_what_there_is_to_hold() -> None:
    parts = [part for v in VECTORS for frame in v["frames"] for part in split(bytes.fromhex(frame))[1]]
    assert {part.indices for part in parts} == {0, 1, 2}
    assert {(part.selection, part.values) for part in parts} == {(s, int(v)) for s in (0, 1) for v in Values}
    assert any(b"\xff" in part.sections[2] for part in parts if part.indices == 1)
    assert max(part.first for part in parts) > 0


def test_int8_is_rounded_at_random_as_documented() -> None:
    """By the formula of the document, in Python's integers and float64: the products here are exact in it."""
    (vector,) = (v for v in VECTORS if v["name"] == "push-dense-int8-random")
    blocks = Blocks.of(
        layout := golden.layout_of(vector["parameters"]), [golden.BlockRange(0, layout.blocks)]
    )
    ups = 0
    for unit, frame in enumerate(vector["frames"]):
        (part,) = split(bytes.fromhex(frame))[1]
        scales, codes = struct.unpack("<4H", part.sections[1]), iter(part.sections[4])
        for row, x in enumerate(golden.plane(unit, blocks)):
            scale = reader.bfloat16(scales[row])
            assert scale > 0 or not x.any()
            inverse = np.float32(1 / scale if scale else 0)
            if float(inverse) * scale > 1:
                inverse = np.nextafter(inverse, np.float32(0))
            for i in range(int(blocks.lengths[row])):
                y = float(abs(x[i]) * inverse)
                q = min(math.floor(y) + ((y % 1) * 2**24 > reader.random_number(unit, row, i)), 127)
                ups += q > math.floor(y)
                assert next(codes) == (-q if x[i] < 0 else q) & 255
    assert ups > 20


@parametrized(some_pushes())
def test_both_decoders_agree_on_squeezed_frames(codec: Push) -> None:
    frame = sent(codec, noise(2), fresh(codec))
    values = received(codec, frame)
    blocks = blocks_of(ALL, codec.classes)
    for block in reader.read(frame, kind=1, blocks=blocks, chains=chains_of(codec.chain, codec.classes)):
        row = np.zeros(values.shape[1], np.float32)
        row[list(block.values)] = list(block.values.values())
        np.testing.assert_array_equal(values[block.number], row)


def test_a_delta_of_many_parts_reads_the_same() -> None:
    codec: Delta = delta("topk", 1 / 64, "sign2", classes=BY_POLICY)
    published = np.zeros_like(noise(0))
    frame = b"".join(codec.publish(noise(0), published, ALL))
    blocks = reader.read(
        frame, kind=2, blocks=blocks_of(ALL, BY_POLICY), chains=chains_of(codec.chain, BY_POLICY)
    )
    for block in blocks:
        for i, value in block.values.items():
            assert published[block.number, i] == value
    assert {block.sets for block in blocks} == {True, False}, describe(codec)


# ── the example in the document ─────────────────────────────────────────────────────────────────

ROW = re.compile(r"^\| (\d+) \| ([^|]+) \| `([0-9a-f ]+)` \|", re.MULTILINE)


def example() -> Push:
    """40 elements of one parameter, top-k at density 1/16 with sign1: three are kept."""
    return push("topk", 1 / 16, "sign1", "ef")


def test_the_example_in_the_document_is_what_the_code_makes() -> None:
    section = (
        PROTOCOL.read_text(encoding="utf-8")
        .partition("### A whole frame, byte by byte")[2]
        .partition("\n## ")[0]
    )
    rows = [(int(offset), bytes.fromhex(data)) for offset, _, data in ROW.findall(section)]
    frame, at = b"".join(data for _, data in rows), 0
    for offset, data in rows:
        assert offset == at
        at += len(data)
    gradient = np.zeros((1, 4096), np.float32)
    gradient[0, [1, 7, 30, 31]] = -0.5, 1.0, 0.25, -0.5
    zero = np.zeros(1, np.int64)
    blocks = Blocks(zero, np.full(1, 40, np.int32), zero)
    state = {"residual": np.zeros_like(gradient)}
    assert sent(example(), gradient, state, blocks) == frame
    assert state["residual"][0, :40].nonzero()[0].tolist() == [30]
    (block,) = reader.read(frame, kind=1, blocks=[reader.Block(0, 40)], chains=[reader.Chain(1 / 16, 6)])
    assert block.values == {1: -0.5, 7: 1.0, 31: -0.5}
