"""A second decoder of frames, written from docs/protocol.md: plain Python, nothing of `wire.codec`, no numpy.

Slow and without mercy: it shows that the document suffices, and that both readings of it are one.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import xxhash
import zstandard

FP32, FP16, BF16, INT8, INT4, SIGN, SIGN1, SIGN2, MXINT4 = range(9)
BLOCK, GROUP = 4096, 64
SCALES = {FP32: 0, FP16: 1, BF16: 0, INT8: 1, INT4: 1, SIGN: 1, SIGN1: 2, SIGN2: 4}
CODE_BITS = {FP32: 32, FP16: 16, BF16: 16, INT8: 8, INT4: 4, SIGN: 0, SIGN1: 1, SIGN2: 2, MXINT4: 4}


class Refused(Exception):
    """What is read is no frame of the blocks that it is said to be of."""


class Block(NamedTuple):
    """A block as both sides know it. chain: 0 is the main one."""

    number: int
    length: int
    chain: int = 0


class Chain(NamedTuple):
    """density: None where blocks are sent whole."""

    density: float | None
    values: int


class Decoded(NamedTuple):
    """What a frame says of one block: float32 numbers (as Python floats) by index. sets: instead of being added."""

    number: int
    values: dict[int, float]
    sets: bool


def demand(condition: bool, words: str) -> None:
    """Raises: Refused."""
    if not condition:
        raise Refused(words)


def float32(x: float) -> float:
    """x rounded to float32, ties to even."""
    try:
        rounded: float = struct.unpack("<f", struct.pack("<f", x))[0]
    except OverflowError:
        raise Refused("a number beyond float32") from None
    return rounded


def cut(blocks: Sequence[Block], chains: Sequence[Chain]) -> Iterator[tuple[int, Chain, list[Block]]]:
    """(first, chain, blocks) of each part."""
    first = 0
    for number, chain in enumerate(chains):
        of_class = [block for block in blocks if block.chain == number]
        kept = BLOCK if chain.density is None else max(math.ceil(chain.density * BLOCK), 1)
        size = min(max(32768 // kept, 64), 512)
        for start in range(0, len(of_class), size):
            yield first + start, chain, of_class[start : start + size]
        first += len(of_class)


def read(frame: bytes, *, kind: int, blocks: Sequence[Block], chains: Sequence[Chain]) -> list[Decoded]:
    """All blocks of a frame, in its order. Raises: Refused."""
    parts = list(cut(blocks, chains))
    demand(len(frame) >= 24, "no room for a header")
    head = struct.unpack_from("<4sBBHIIQ", frame)
    demand(head[:6] == (b"SPFR", 1, kind, 0, len(parts), len(blocks)), "another header")
    demand(head[6] == xxhash.xxh3_64_intdigest(frame[:16]), "checksum of the header")
    decoded, at = [], 24
    for first, chain, of_part in parts:
        sections, indices, at = read_part(frame, at, first, chain, of_part)
        for block, values in zip(of_part, read_blocks(sections, indices, chain, of_part), strict=True):
            sets = kind == 2 and chain == (None, FP32)
            decoded.append(Decoded(block.number, values, sets))
    demand(at == len(frame), "bytes behind the last part")
    return decoded


def read_part(
    frame: bytes, at: int, first: int, chain: Chain, blocks: list[Block]
) -> tuple[list[bytes], int, int]:
    """(raw sections, kind of the indices, where the part ends)."""
    demand(len(frame) >= at + 60, "no room for a part")
    *told, indices, zero, checksum = struct.unpack_from("<IIBBBBQ", frame, at)
    demand(told == [first, len(blocks), chain.density is not None, chain.values], "another part")
    demand(zero == 0 and indices in ((0,) if chain.density is None else (1, 2)), "indices of another kind")
    table = list(struct.iter_unpack("<II", frame[at + 20 : at + 60]))
    end = at + 60 + sum(stored for _, stored in table)
    demand(end <= len(frame), "a part that ends behind the frame")
    demand(checksum == xxhash.xxh3_64_intdigest(frame[at : at + 12] + frame[at + 20 : end]), "checksum")
    sections, start = [], at + 60
    for (raw, stored), limit in zip(table, limits(chain, blocks), strict=True):
        demand(raw <= limit, "a section longer than it can be")
        sections.append(expand(frame[start : start + stored], raw))
        start += stored
    return sections, indices, end


def limits(chain: Chain, blocks: list[Block]) -> tuple[int, ...]:
    """The longest that each section can be."""
    lengths = [block.length for block in blocks]
    density = chain.density
    kept = lengths if density is None else [max(math.ceil(density * n), 1) for n in lengths]
    gaps = sum(k + (n - k) // 255 for k, n in zip(kept, lengths, strict=True))
    bitmap = sum((n + 7) // 8 for n in lengths)
    return (
        0 if density is None else 2 * len(blocks),
        sum(map(groups, kept)) if chain.values == MXINT4 else 2 * SCALES[chain.values] * len(blocks),
        0 if density is None else max(gaps, bitmap),
        sum((k + 7) // 8 for k in kept) if SIGN <= chain.values <= SIGN2 else 0,
        sum((k * CODE_BITS[chain.values] + 7) // 8 for k in kept),
    )


def expand(stored: bytes, raw: int) -> bytes:
    """The raw section."""
    if len(stored) == raw:
        return stored
    demand(len(stored) < raw, "a stored section that is longer than its raw form")
    demand(zstandard.frame_content_size(stored) == raw, "another content size")
    return zstandard.ZstdDecompressor().decompress(stored, max_output_size=raw, allow_extra_data=False)


def read_blocks(
    sections: list[bytes], kind: int, chain: Chain, blocks: list[Block]
) -> Iterator[dict[int, float]]:
    """Values by index of each block."""
    counts_raw, scales_raw, indices_raw, signs, codes = (Bytes(section) for section in sections)
    for block in blocks:
        if chain.density is None:
            count, indices = block.length, list(range(block.length))
        else:
            (count,) = counts_raw.unpack("<H")
            demand(count <= max(math.ceil(chain.density * block.length), 1), "too many elements")
            bitmap = kind == 2
            indices = (
                read_bitmap(indices_raw, count, block) if bitmap else read_gaps(indices_raw, count, block)
            )
        if chain.values == MXINT4:
            scales = [power_of_two(scales_raw.unpack("<B")[0]) for _ in range(groups(count))]
        else:
            scales = [bfloat16(scales_raw.unpack("<H")[0]) for _ in range(SCALES[chain.values])]
        demand(all(math.isfinite(s) and math.copysign(1, s) > 0 for s in scales), "a scale that is none")
        numbers = read_values(chain.values, count, scales, signs, codes)
        demand(all(math.isfinite(x) for x in numbers), "a number that is none")
        yield dict(zip(indices, numbers, strict=True))
    demand(
        not any(map(len, (counts_raw, scales_raw, indices_raw, signs, codes))), "a section that is too long"
    )


class Bytes:
    """A section that is read from its beginning to its end."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def __len__(self) -> int:
        return len(self._data)

    def take(self, size: int) -> bytes:
        """The next bytes."""
        demand(size <= len(self._data), "a section that is too short")
        taken, self._data = self._data[:size], self._data[size:]
        return taken

    def unpack(self, form: str) -> tuple[int, ...]:
        """The next numbers."""
        return struct.unpack(form, self.take(struct.calcsize(form)))

    def fields(self, count: int, bits: int) -> list[int]:
        """The next `count` fields of so many bits each, low bits first; what fills up the last byte is zero."""
        whole = int.from_bytes(self.take((count * bits + 7) // 8), "little")
        demand(whole >> (count * bits) == 0, "bits behind the end of a block")
        return [(whole >> (n * bits)) & ((1 << bits) - 1) for n in range(count)]


def read_gaps(data: Bytes, count: int, block: Block) -> list[int]:
    """Ascending indices from the distances between them."""
    indices, at = [], 0
    for _ in range(count):
        while (gap := data.unpack("<B")[0]) == 255:
            at += 255
        at += gap
        demand(at < block.length, "an index behind the block")
        indices.append(at)
        at += 1
    return indices


def read_bitmap(data: Bytes, count: int, block: Block) -> list[int]:
    """Ascending indices from one bit an element."""
    indices = [i for i, bit in enumerate(data.fields(block.length, 1)) if bit]
    demand(len(indices) == count, "another count")
    return indices


def read_values(kind: int, count: int, scales: list[float], signs: Bytes, codes: Bytes) -> list[float]:
    """`count` numbers of one block."""
    if kind == FP32:
        return list(codes.unpack(f"<{count}f"))
    if kind == FP16:
        return [float32(half * scales[0]) for half in codes.unpack(f"<{count}e")]
    if kind == BF16:
        return [bfloat16(bits) for bits in codes.unpack(f"<{count}H")]
    if kind == INT8:
        return [float32(integer(bits, 8) * scales[0]) for bits in codes.fields(count, 8)]
    if kind == INT4:
        return [float32(integer(bits, 4) * scales[0]) for bits in codes.fields(count, 4)]
    if kind == MXINT4:
        return [
            float32(integer(bits, 4) * scales[j // GROUP]) for j, bits in enumerate(codes.fields(count, 4))
        ]
    negative, levels = signs.fields(count, 1), codes.fields(count, CODE_BITS[kind])
    return [-scales[level] if minus else scales[level] for minus, level in zip(negative, levels, strict=True)]


def bfloat16(bits: int) -> float:
    """The number whose upper 16 float32 bits these are."""
    number: float = struct.unpack("<f", struct.pack("<I", bits << 16))[0]
    return number


def groups(count: int) -> int:
    """Of so many elements."""
    return (count + GROUP - 1) // GROUP


def power_of_two(exponent: int) -> float:
    """What a group's byte stands for."""
    demand(exponent < 255, "a scale that is none")
    return 2.0 ** (exponent - 127) if exponent else 0.0


def integer(field: int, bits: int) -> float:
    """Two's complement; the least of all is no code. -0 is 0: a product of it is 0.0."""
    q = field - (1 << bits) if field >> (bits - 1) else field
    demand(q != -(1 << (bits - 1)), "a code that no writer makes")
    return float(q)


def mixed(x: int) -> int:
    """The hash of the random numbers, mod 2^32."""
    x ^= x >> 16
    x = x * 0x7FEB352D & 0xFFFFFFFF
    x ^= x >> 15
    x = x * 0x846CA68B & 0xFFFFFFFF
    return x ^ x >> 16


def random_number(unit: int, number: int, i: int) -> int:
    """24 bits for element i of block `number` in that unit."""
    seed = 0
    for word in (unit + 1, number):
        for half in (word & 0xFFFFFFFF, word >> 32):
            seed = mixed(seed ^ half)
    return mixed((seed + 0x9E3779B9 * i) & 0xFFFFFFFF) >> 8
