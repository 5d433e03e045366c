"""What frames consist of."""

from __future__ import annotations

from collections.abc import Mapping

from wire.codec.frame import ENTRY, HEADER, PART_HEADER_BYTES, TABLE_AT

SECTIONS = ("counts", "scales", "indices", "signs", "codes")


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
