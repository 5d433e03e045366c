"""One part: what its sections cost, how a part made by hand reads, and each wrong section refused."""

from __future__ import annotations

import hashlib
import math

import numpy as np
import pytest

from wire.codec.base import Blocks, DamagedFrame, Plane
from wire.codec.chain import push_codec
from wire.codec.frame import Indices, Kind, Section, Shape, build_header, build_part, read_header, read_part
from wire.codec.push import Push
from wire.codec.values import Values
from wire.layout import BLOCK

N = 64
BLOCKS = Blocks(*(np.arange(N), np.full(N, BLOCK, np.int32), np.arange(N)))
LIMITS = [1 << 20] * 5


def gaussian(seed: int = 0) -> Plane:
    return np.random.default_rng(seed).standard_normal((N, BLOCK)).astype(np.float32)


def topk(density: float, values: str = "sign1") -> Push:
    codec = push_codec(codec="topk", density=density, values=values, feedback="ef")
    assert isinstance(codec, Push)
    return codec


def encoded(codec: Push, gradient: Plane, blocks: Blocks = BLOCKS) -> bytes:
    return b"".join(codec.encode(gradient, {"residual": np.zeros_like(gradient)}, blocks))


def decoded(codec: Push, frame: bytes, blocks: Blocks = BLOCKS) -> Plane:
    into = np.zeros((blocks.count, BLOCK), np.float32)
    codec.add(frame, into, blocks)
    return into


def opened(codec: Push, frame: bytes, blocks: Blocks = BLOCKS) -> tuple[Indices, list[bytes], list[int]]:
    """(kind of indices, raw sections, stored lengths) of a frame of one part."""
    rest = read_header(memoryview(frame), Kind.PUSH, parts=1, blocks=blocks.count)
    shape = Shape(0, blocks.count, 0 if codec.chain.whole else 1, codec.chain.values)
    content, rest = read_part(rest, shape, LIMITS)
    indices, sections = content.open()
    return indices, [bytes(section) for section in sections], [stored for _, stored in content.table]


# ── what they cost ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("density", [1 / 64, 1 / 32, 1 / 16, 1 / 8, 1 / 4])
def test_indices_are_within_four_percent_of_the_entropy(density: float) -> None:
    codec = topk(density)
    stored = opened(codec, encoded(codec, gaussian()))[2][2]
    floor = math.log2(math.comb(BLOCK, int(BLOCK * density))) * N / 8
    assert floor * 0.99 < stored < floor * 1.04


def test_a_bitmap_takes_over_where_it_is_shorter() -> None:
    """Gaps of random indices cost 3.3 bits each at density 1/4, 2 at 1/2; a bitmap 4 and 2."""
    for density, kind in ((0.25, Indices.GAPS), (0.5, Indices.BITMAP)):
        codec = topk(density)
        frame = encoded(codec, gaussian())
        assert opened(codec, frame)[0] is kind
        assert np.count_nonzero(decoded(codec, frame)) == N * BLOCK * density


@pytest.mark.parametrize("values", [v.name.lower() for v in Values])
def test_dead_blocks_cost_next_to_nothing(values: str) -> None:
    codec = topk(0.25, values)
    frame = encoded(codec, np.zeros((N, BLOCK), np.float32))
    assert len(frame) < 24 + 60 + 60
    assert not decoded(codec, frame).any()


def test_whole_blocks_in_fp32_cost_a_header_and_a_part() -> None:
    codec = push_codec(codec="dense")
    blocks = Blocks(*(np.arange(3), np.array([4096, 904, 3], np.int32), np.arange(3)))
    frame = b"".join(codec.encode(gaussian(), {}, blocks))
    assert len(frame) == codec.max_frame_bytes(blocks) == 24 + 60 + 4 * 5003


def test_levels_are_bfloat16() -> None:
    codec = topk(0.25, "sign2")
    values = decoded(codec, encoded(codec, gaussian()))
    assert not (values.view(np.uint32) & 0xFFFF).any()
    assert all(np.unique(np.abs(row[row != 0])).size <= 4 for row in values)


def test_far_indices_escape() -> None:
    gradient = np.zeros((1, BLOCK), np.float32)
    where = [0, 255, 511, 767, 1278, 4095]
    gradient[0, where] = 1.0
    one, codec = BLOCKS.take(np.zeros(1, np.int64)), topk(1 / 64, "sign")
    frame = encoded(codec, gradient, one)
    assert np.flatnonzero(decoded(codec, frame, one)).tolist() == where
    assert opened(codec, frame, one)[1][2] == bytes([0, 254, 255, 0, 255, 0, 255, 255, 0] + [255] * 11 + [11])


def test_the_frame_is_a_function_of_its_input_alone() -> None:
    """A golden digest of the raw sections, which no release of zstd can change."""
    gradient = (np.arange(N * BLOCK, dtype=np.int64) * 2654435761 % 65537 - 32768).astype(np.float32)
    codec = topk(1 / 16, "sign2")
    sections = opened(codec, encoded(codec, gradient.reshape(N, BLOCK)))[1]
    assert hashlib.sha256(b"".join(sections)).hexdigest() == (
        "1f83a6b44a72a43e6c938728425fc5c504d22cd7c0ed9848cd8e7ac80af32cee"
    )


# ── by hand ─────────────────────────────────────────────────────────────────────────────────────

TWELVE = Blocks(*(np.zeros(1, np.int64), np.full(1, 12, np.int32), np.zeros(1, np.int64)))
# Three of twelve elements are kept: counts 3, two levels, gaps, three signs, three one-bit codes.
GOOD = [b"\3\0", b"\0\x3f\x80\x3f", b"\1\0\2", b"\5", b"\2"]


def built(
    sections: list[bytes], values: Values, indices: Indices = Indices.GAPS, *, whole: bool = False
) -> bytes:
    stored: list[Section] = [(len(section), section) for section in sections]
    shape = Shape(0, 1, 0 if whole else 1, values)
    return build_header(Kind.PUSH, parts=1, blocks=1) + build_part(shape, indices, stored)


def rebuilt(sections: list[bytes], indices: Indices = Indices.GAPS) -> bytes:
    return built(sections, Values.SIGN1, indices)


def test_a_part_made_by_hand_decodes_as_documented() -> None:
    out = decoded(topk(0.25), rebuilt(GOOD), TWELVE)[0, :12]
    assert out.tolist() == [0, -0.5, 1, 0, 0, -0.5, 0, 0, 0, 0, 0, 0]


@pytest.mark.parametrize(
    "section, value",
    [
        pytest.param(0, b"\4\0", id="count above k"),
        pytest.param(0, b"\2\0", id="count below the gaps"),
        pytest.param(0, b"\3", id="half a count"),
        pytest.param(1, b"\0\xbf\x80\x3f", id="negative level"),
        pytest.param(1, b"\0\x80\x80\x3f", id="negative zero level"),
        pytest.param(1, b"\0\x3f\x80\x7f", id="infinite level"),
        pytest.param(1, b"\0\x3f\xc0\x7f", id="NaN level"),
        pytest.param(1, b"\0\x3f", id="a level too few"),
        pytest.param(2, b"\1\0\x09", id="index beyond the length"),
        pytest.param(2, b"\1\0\xff", id="escape beyond the length"),
        pytest.param(2, b"\1\0", id="a gap too few"),
        pytest.param(2, b"\1\0\2\0", id="a gap too many"),
        pytest.param(3, b"\x0d", id="sign bits behind the end"),
        pytest.param(3, b"", id="no signs"),
        pytest.param(3, b"\5\0", id="signs too long"),
        pytest.param(4, b"\x0a", id="code bits behind the end"),
        pytest.param(4, b"", id="no codes"),
    ],
)
def test_each_wrong_section_is_refused(section: int, value: bytes) -> None:
    sections = list(GOOD)
    sections[section] = value
    with pytest.raises(DamagedFrame):
        topk(0.25).validate(rebuilt(sections), TWELVE)


@pytest.mark.parametrize("bitmap", [b"\x26\x10", b"\x06\x00", b"\x2e\x00", b"\x26", b"\x26\0\0"])
def test_a_wrong_bitmap_is_refused(bitmap: bytes) -> None:
    codec = topk(0.25)
    good = [*GOOD[:2], b"\x26\x00", *GOOD[3:]]
    np.testing.assert_array_equal(
        decoded(codec, rebuilt(good, Indices.BITMAP), TWELVE), decoded(codec, rebuilt(GOOD), TWELVE)
    )
    with pytest.raises(DamagedFrame):
        codec.validate(rebuilt([*GOOD[:2], bitmap, *GOOD[3:]], Indices.BITMAP), TWELVE)


def test_other_indices_than_the_selection_has_are_refused() -> None:
    with pytest.raises(DamagedFrame, match=r"NONE in a part of top-k"):
        topk(0.25).validate(rebuilt(GOOD, Indices.NONE), TWELVE)
    whole = built([b"", b"", b"", b"", bytes(48)], Values.FP32, Indices.GAPS, whole=True)
    with pytest.raises(DamagedFrame, match=r"GAPS in a part of whole blocks"):
        push_codec(codec="dense").validate(whole, TWELVE)


@pytest.mark.parametrize("values", [v for v in Values if v is not Values.SIGN1])
def test_other_values_than_configured_are_refused(values: Values) -> None:
    with pytest.raises(DamagedFrame, match="one configuration everywhere"):
        topk(0.25).validate(built(GOOD, values), TWELVE)


ONE = b"\x80\x3f"
"""1.0 in bfloat16."""


@pytest.mark.parametrize(
    "values, scale, codes, expected",
    [
        pytest.param("fp32", b"", b"\0\0\0\xc0\0\0\x80\x3f\1\0\0\0", [-2.0, 1.0, 2.0**-149], id="fp32"),
        pytest.param("fp16", b"\x80\x3f", b"\0\xc0\0\x3c\1\0", [-2.0, 1.0, 2.0**-24], id="fp16"),
        pytest.param("fp16", b"\0\x40", b"\0\xc0\0\x3c\0\0", [-4.0, 2.0, 0.0], id="fp16 scaled"),
        pytest.param("bf16", b"", b"\0\xc0\x80\x3f\1\0", [-2.0, 1.0, 2.0**-133], id="bf16"),
        pytest.param("int8", b"\0\x3f", b"\x81\1\0", [-63.5, 0.5, 0.0], id="int8"),
        pytest.param("int4", b"\0\x3f", b"\x79\1", [-3.5, 3.5, 0.5], id="int4"),
        pytest.param("mxint4", b"\x7e", b"\x79\1", [-3.5, 3.5, 0.5], id="mxint4"),
        pytest.param("mxint4", b"\0", b"\x79\1", [0.0, 0.0, 0.0], id="mxint4 of nothing"),
    ],
)
def test_values_made_by_hand_decode_as_documented(
    values: str, scale: bytes, codes: bytes, expected: list[float]
) -> None:
    frame = built([b"\3\0", scale, b"\1\0\2", b"", codes], Values.named(values))
    assert decoded(topk(0.25, values), frame, TWELVE)[0, [1, 2, 5]].tolist() == expected


@pytest.mark.parametrize(
    "values, scale, codes",
    [
        pytest.param("fp32", b"", b"\0\0\x80\x7f" + bytes(8), id="infinite fp32"),
        pytest.param("fp32", b"", b"\0\0\xc0\xff" + bytes(8), id="NaN fp32"),
        pytest.param("fp16", ONE, b"\0\x7c\0\0\0\0", id="infinite fp16"),
        pytest.param("fp16", ONE, b"\1\xfc\0\0\0\0", id="NaN fp16"),
        pytest.param("fp16", b"\x7f\x7f", b"\0\x40\0\0\0\0", id="fp16 that overflows"),
        pytest.param("bf16", b"", b"\x80\xff\0\0\0\0", id="infinite bf16"),
        pytest.param("int8", ONE, b"\x80\0\0", id="-128"),
        pytest.param("int8", b"\x7f\x7f", b"\2\0\0", id="int8 that overflows"),
        pytest.param("int4", ONE, b"\x08\0", id="-8"),
        pytest.param("int4", ONE, b"\1\x10", id="a nibble behind the end"),
        pytest.param("int4", b"\x7f\x7f", b"\2\0", id="int4 that overflows"),
        pytest.param("mxint4", b"\x7f", b"\x08\0", id="-8 of a group"),
        pytest.param("mxint4", b"\xff", b"\1\0", id="an exponent of 255"),
        pytest.param("mxint4", b"\xfe", b"\2\0", id="mxint4 that overflows"),
        pytest.param("mxint4", b"\x7f\x7f", b"\1\0", id="a scale too many"),
        pytest.param("mxint4", b"", b"\1\0", id="a scale too few"),
    ],
)
def test_codes_that_no_writer_makes_are_refused(values: str, scale: bytes, codes: bytes) -> None:
    frame = built([b"\3\0", scale, b"\1\0\2", b"", codes], Values.named(values))
    with pytest.raises(DamagedFrame):
        topk(0.25, values).validate(frame, TWELVE)
