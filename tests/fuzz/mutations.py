"""Mutations of frames and of streams of planes that know what they change: most come with checksums that fit.

Every function takes the generator that it draws from, so that a run is a function of its seed.
"""

from __future__ import annotations

import copy
import random
import struct
from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise

import zstandard

from tests.conformance.envelope import (
    CODES,
    COUNTS,
    HEADER_BYTES,
    INDICES,
    SCALES,
    SECTIONS,
    RawPart,
    join,
    split,
)

LENGTHS = (
    0,
    1,
    2,
    3,
    255,
    4095,
    4096,
    4097,
    1 << 15,
    1 << 16,
    1 << 24,
    (1 << 31) - 1,
    1 << 31,
    (1 << 32) - 1,
)
BYTES = (0, 1, 2, 0x7F, 0x80, 0xFE, 0xFF)
BFLOATS = (0x0000, 0x8000, 0x0001, 0x007F, 0x0080, 0x3F80, 0xBF80, 0x7F7F, 0x7F80, 0xFF80, 0x7FC0, 0xFFFF)
"""Zeros, denormals, one, the largest, infinities, NaNs."""
FLOATS = (
    0x00000000,
    0x80000000,
    0x00000001,
    0x7F7FFFFF,
    0xFF7FFFFF,
    0x7F800000,
    0xFF800000,
    0x7FC00000,
    0x7F800001,
)
TEN_GB = 10 * (1 << 30)
BOMBS = tuple(zstandard.compress(bytes([fill]) * size) for fill in (0, 255) for size in (1 << 16, 1 << 24))
ENDLESS = b"\x28\xb5\x2f\xfd\xe0" + struct.pack("<Q", TEN_GB) + b"\x01\x00\x00"
"""A zstd frame that tells a content of 10 GB and ends at once."""
PLAIN = zstandard.ZstdCompressor(level=1)
WITHOUT_SIZE = zstandard.ZstdCompressor(level=1, write_content_size=False)
WITH_CHECKSUM = zstandard.ZstdCompressor(level=1, write_checksum=True)
OPENER = zstandard.ZstdDecompressor()
WIDE = zstandard.ZstdCompressor(
    compression_params=zstandard.ZstdCompressionParameters(window_log=27, enable_ldm=True)
).compress(bytes(1000))

Seeds = Sequence[bytes]


def mutated_frame(rng: random.Random, frame: bytes, others: Seeds) -> bytes:
    """A frame that was good, changed in one to four places."""
    if rng.random() < 0.15:
        return _bytes_changed(rng, frame, others)
    head, parts = split(frame)
    head_bytes = bytearray(head)
    for _ in range(rng.randint(1, 4)):
        if parts and rng.random() < 0.92:
            rng.choice(OF_A_PART)(rng, rng.choice(parts))
        elif rng.random() < 0.7:
            parts = _parts_changed(rng, parts, others)
        else:
            head_bytes[rng.randrange(16)] = rng.choice(BYTES)
    made = join(bytes(head_bytes), parts)
    return made if rng.random() < 0.95 else _bytes_changed(rng, made, others)


def in_buffers(rng: random.Random, frame: bytes) -> tuple[bytes, ...]:
    """The frame cut where its parts begin, if it can be told, or anywhere; empty buffers among them."""
    try:
        cuts = [0, HEADER_BYTES, *accumulate((len(p.pack()) for p in split(frame)[1]), initial=HEADER_BYTES)]
    except struct.error:
        cuts = [0]
    chosen = [at for at in cuts if rng.random() < 0.7]
    if rng.random() < 0.3:
        chosen.append(rng.randint(0, len(frame)))
    return tuple(frame[a:b] for a, b in pairwise(sorted({0, *chosen, len(frame)}))) + (b"",) * rng.randrange(
        2
    )


# ── bytes ───────────────────────────────────────────────────────────────────────────────────────


def _bytes_changed(rng: random.Random, data: bytes, others: Seeds) -> bytes:
    changed, at = bytearray(data), rng.randrange(len(data)) if data else 0
    match rng.randrange(8):
        case 0:
            return data[:at]
        case 1:
            return data + rng.randbytes(rng.randint(1, 100))
        case 2:
            return data + rng.choice(others)
        case 3:
            return data[:at] + data[at + rng.randint(1, 16) :]
        case 4:
            return data[:at] + rng.randbytes(rng.randint(1, 16)) + data[at:]
        case 5:
            return data[:at] + rng.choice(others)[at:]
        case 6 if data:
            changed[at] ^= 1 << rng.randrange(8)
        case _ if data:
            changed[at] = rng.choice(BYTES)
    return bytes(changed)


# ── a part ──────────────────────────────────────────────────────────────────────────────────────


def _field(rng: random.Random, part: RawPart) -> None:
    name = rng.choice(("first", "blocks", "selection", "values", "indices", "zero"))
    wide = name in ("first", "blocks")
    setattr(part, name, rng.choice(LENGTHS) if wide else rng.choice((0, 1, 2, 3, 4, 5, 6, 7, 8, 255)))


def _length(rng: random.Random, part: RawPart) -> None:
    section, near = rng.randrange(SECTIONS), rng.randint(-2, 2)
    if rng.random() < 0.5:
        part.raw[section] = rng.choice(
            (min(max(part.raw[section] + near, 0), LENGTHS[-1]), rng.choice(LENGTHS), TEN_GB & 0xFFFFFFFF)
        )
    else:
        part.told[section] = rng.choice((max(len(part.stored[section]) + near, 0), rng.choice(LENGTHS)))


def _stored_bytes(rng: random.Random, part: RawPart) -> None:
    section = rng.randrange(SECTIONS)
    data = bytearray(part.stored[section])
    if data:
        data[rng.randrange(len(data))] = rng.choice((*BYTES, rng.randrange(256)))
    part.stored[section] = bytes(data)


def _content(part: RawPart, section: int) -> bytearray:
    """The raw section; of one that another mutation has broken, what is stored."""
    stored = part.stored[section]
    if len(stored) == part.raw[section]:
        return bytearray(stored)
    try:
        if not 0 < zstandard.frame_content_size(stored) <= 1 << 16:
            return bytearray(stored)
        return bytearray(OPENER.decompress(stored))
    except zstandard.ZstdError:
        return bytearray(stored)


def _put(rng: random.Random, part: RawPart, section: int, data: bytes) -> None:
    part.put(section, data, squeezed=rng.random() < 0.5)


def _resized(rng: random.Random, part: RawPart) -> None:
    section = rng.randrange(SECTIONS)
    data = _content(part, section)
    by = rng.choice((1, 1, 2, 4, 100))
    longer = data + rng.choice((bytes(by), b"\xff" * by, rng.randbytes(by)))
    _put(rng, part, section, bytes(longer if rng.random() < 0.5 else data[:-by]))


def _counts(rng: random.Random, part: RawPart) -> None:
    """Another count of one block; often taken from, or given to, another one."""
    data = _content(part, COUNTS)
    counts = list(struct.unpack(f"<{len(data) // 2}H", data[: len(data) & ~1]))
    if counts:
        at, by = rng.randrange(len(counts)), rng.choice((-2, -1, 1, 2))
        counts[at] = rng.choice((0, counts[at] + by, counts[at] + by, 4096, 4097, 0xFFFF)) & 0xFFFF
        if rng.random() < 0.5:
            other = rng.randrange(len(counts))
            counts[other] = (counts[other] - by) & 0xFFFF
    _put(rng, part, COUNTS, struct.pack(f"<{len(counts)}H", *counts))


def _scales(rng: random.Random, part: RawPart) -> None:
    data = _content(part, SCALES)
    if len(data) >= 2:
        at = 2 * rng.randrange(len(data) // 2)
        data[at : at + 2] = struct.pack("<H", rng.choice((*BFLOATS, rng.randrange(1 << 16))))
    _put(rng, part, SCALES, bytes(data))


def _indices(rng: random.Random, part: RawPart) -> None:
    """Beyond the block, twice, out of order, escaped without end; or as a bitmap of other bits."""
    data = _content(part, INDICES)
    if data:
        at = rng.randrange(len(data))
        match rng.randrange(6):
            case 0:
                data[at] = 255
            case 1:
                data[at] = rng.randrange(256)
            case 2:
                data[at:] = b"\xff" * (len(data) - at)
            case 3:
                data[at:at] = b"\xff" * rng.randint(1, 20)
            case 4:
                data[at:] = data[at:][::-1]
            case _:
                part.indices = rng.choice((1, 2))
    _put(rng, part, INDICES, bytes(data))


def _codes(rng: random.Random, part: RawPart) -> None:
    section = rng.choice((CODES, CODES, CODES - 1))
    data = _content(part, section)
    if data:
        at = rng.randrange(len(data))
        if rng.random() < 0.3:
            data[at : at + 4] = struct.pack("<I", rng.choice(FLOATS))[: len(data) - at]
        else:
            data[at] = rng.choice((*BYTES, 0x08, 0x88, rng.randrange(256)))
    _put(rng, part, section, bytes(data))


def _zstd(rng: random.Random, part: RawPart) -> None:
    """A zstd frame that is not what the table says, or is more than that."""
    section = rng.randrange(SECTIONS)
    raw, data = part.raw[section], bytes(_content(part, section))
    kind = rng.randrange(8)
    if kind == 0:
        made = rng.choice((*BOMBS, ENDLESS, WIDE, b"(\xb5/\xfd"))
    else:
        small = (WITHOUT_SIZE if kind == 1 else WITH_CHECKSUM if kind == 2 else PLAIN).compress(data)
        made = rng.choice((small, small, small + small, small[:-1], small + b"x"))
    part.stored[section] = made
    part.raw[section] = rng.choice((raw, raw, len(data), len(made) + 1, 1 << 24))


OF_A_PART: tuple[Callable[[random.Random, RawPart], None], ...] = (
    _field, _length, _stored_bytes, _resized, _zstd,
    *(2 * (_counts, _scales, _indices, _codes)),
)  # fmt: skip


# ── parts ───────────────────────────────────────────────────────────────────────────────────────


def _parts_changed(rng: random.Random, parts: list[RawPart], others: Seeds) -> list[RawPart]:
    """Left out, twice, in another order, of another frame, or with sections of another frame."""
    changed, strange = list(parts), split(rng.choice(others))[1]
    match rng.randrange(5):
        case 0 if changed:
            del changed[rng.randrange(len(changed))]
        case 1 if changed:
            changed.insert(rng.randrange(len(changed)), copy.deepcopy(rng.choice(changed)))
        case 2:
            rng.shuffle(changed)
        case 3 if strange:
            changed[rng.randint(0, len(changed)) :] = [rng.choice(strange)]
        case _ if strange and changed:
            mine, other, section = rng.choice(changed), rng.choice(strange), rng.randrange(SECTIONS)
            mine.raw[section], mine.stored[section] = other.raw[section], other.stored[section]
    return changed


# ── planes ──────────────────────────────────────────────────────────────────────────────────────

Message = tuple[str, int, int] | bytes | None
"""A header (name, bytes, crc32), data, or an empty message."""
SIZES = (0, 1, (1 << 20) + 1, (1 << 32) - 1, 1 << 32, TEN_GB, (1 << 63) - 1, (1 << 64) - 1)


def mutated_messages(rng: random.Random, messages: Sequence[Message]) -> list[Message]:
    """A stream of planes, changed in one to three places."""
    changed = list(messages)
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(changed) + 1)
        here = changed[at] if at < len(changed) else None
        match rng.randrange(6):
            case 0:
                del changed[at : at + 1]
            case 1:
                changed.insert(at, rng.choice(messages))
            case 2:
                changed.insert(at, rng.choice((None, b"", bytes(rng.choice((1, 100, (1 << 20) + 1))))))
            case 3:
                rng.shuffle(changed)
            case _ if isinstance(here, tuple):
                name, size, crc = here
                changed[at] = rng.choice(
                    (
                        (name, rng.choice((*SIZES, size ^ 1)), crc),
                        (name, size, crc ^ 1),
                        ("strange", size, crc),
                        here,
                    )
                )
            case _ if isinstance(here, bytes):
                changed[at] = _bytes_changed(rng, here, [here])
    return changed
