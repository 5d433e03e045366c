"""Golden vectors: configurations, inputs by a formula in integers, and the frames that any implementation must make.

`python -m tests.conformance.golden` writes them anew: only for a new version of the frame.

A vector holds its configuration, the parameters (name, shape) whose blocks are all in one frame, and for each step the
frame and what a reader makes of it. Step s has the input x_s: element i of block b is the float32 with the bits

    h = hash(s 2^24 + b 4096 + i)          hash: of the random numbers in docs/protocol.md, mod 2^32
    0 where h mod 13 = 0, else (h and 0x80000000) + (118 + (h >> 23) mod 16) 2^23 + (h and 0x7FFFFF)

A push encodes x_s as unit s; a delta publishes x_s over what was published before. All state begins at zero.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tests.conformance.reader import mixed
from wire.codec.base import Blocks, Plane
from wire.codec.chain import delta_codec, push_codec
from wire.codec.cut import Classes
from wire.layout import BLOCK, BlockRange, Layout, Parameter

DIRECTORY = Path(__file__).parent / "vectors"
PUSH, DELTA = "push", "delta"

SHORT = (("a", [1]), ("b", [2]), ("c", [3, 5]), ("d", [33]))
"""Short blocks of 1, 2, 15 and 33 elements."""
LONG = (("w", [700]), ("v", [40, 7]))
"""Blocks long enough for gaps of 255 and more."""
GROUPS = (("a", [65]),)
"""A group of 64, and one of what is left."""
HALF = (("a", [150]),)
"""Half of it is more than a group."""
MIXED = (("layer.weight", [5, 8]), ("layer.bias", [5]), ("norm.scale", [9]), ("head.weight", [11, 3]))


class Case(NamedTuple):
    """One vector before its frames are made."""

    name: str
    kind: str
    parameters: tuple[tuple[str, list[int]], ...]
    codec: dict[str, Any]
    policy: tuple[str, ...] = ()
    steps: int = 2


def cases() -> Iterator[Case]:
    """All value codes, whole and top-k; both forms of indices; feedback, policy, random rounding; deltas that set."""
    for values in ("fp32", "fp16", "bf16", "int8", "int4", "sign", "sign1", "sign2", "mxint4"):
        yield Case(f"push-dense-{values}-ef", PUSH, SHORT, whole(values, feedback="ef"))
        yield Case(f"push-topk-{values}-bitmap", PUSH, SHORT, top(0.5, values, feedback="ef"))
        yield Case(f"push-topk-{values}-gaps", PUSH, LONG, top(1 / 100, values, feedback="ef"))
    yield Case("push-dense-fp32-none", PUSH, SHORT, whole("fp32", feedback="none"), steps=1)
    yield Case("push-dense-int8-random", PUSH, SHORT, whole("int8", feedback="none"))
    yield Case(
        "push-dense-int4-coarse", PUSH, SHORT, whole("int4", coarse=4.0, feedback="ef"), ("1d=fp16",), steps=3
    )
    yield Case("push-dense-mxint4-groups", PUSH, GROUPS, whole("mxint4", coarse=1.5, feedback="ef"))
    yield Case("push-topk-mxint4-groups", PUSH, HALF, top(0.5, "mxint4", feedback="ef"))
    yield Case("push-topk-sign1-decay", PUSH, SHORT, top(0.2, "sign1", feedback="ef", decay=0.95), steps=3)
    yield Case("push-topk-sign2-ef21", PUSH, SHORT, top(0.2, "sign2", feedback="ef21"))
    yield Case(
        "push-topk-int4-ef21-momentum", PUSH, SHORT, top(0.5, "int4", feedback="ef21", momentum=0.25), steps=3
    )
    policy = ("norm.*=fp32", "1d=fp16", "head.*=int8")
    yield Case("push-topk-policy", PUSH, MIXED, top(0.25, "sign1", feedback="ef"), policy)
    yield Case("delta-dense-fp32-set", DELTA, SHORT, whole("fp32"))
    yield Case("delta-dense-int8", DELTA, SHORT, whole("int8"))
    yield Case("delta-dense-int4-coarse", DELTA, SHORT, whole("int4", coarse=6.0))
    yield Case("delta-dense-mxint4-coarse", DELTA, SHORT, whole("mxint4", coarse=6.0))
    yield Case("delta-topk-sign1", DELTA, LONG, top(1 / 64, "sign1"))
    yield Case("delta-topk-policy", DELTA, MIXED, top(0.25, "sign2"), ("1d=fp32",))
    yield Case("push-no-blocks", PUSH, (), whole("fp32", feedback="none"), steps=1)


def whole(values: str, **more: Any) -> dict[str, Any]:
    """A codec of whole blocks."""
    return {"codec": "dense", "values": values, **more}


def top(density: float, values: str, **more: Any) -> dict[str, Any]:
    """A top-k codec."""
    return {"codec": "topk", "density": density, "values": values, **more}


def layout_of(parameters: Any) -> Layout:
    """The layout of (name, shape) pairs."""
    return Layout(tuple(Parameter(name, tuple(shape), "float32", 0) for name, shape in parameters))


def plane(step: int, blocks: Blocks) -> Plane:
    """x_s."""
    made = np.zeros((blocks.count, BLOCK), np.uint32)
    for row, length in enumerate(blocks.lengths):
        for i in range(int(length)):
            h = mixed((step << 24) + row * BLOCK + i)
            if h % 13:
                made[row, i] = (h & 0x80000000) + ((118 + (h >> 23) % 16) << 23) + (h & 0x7FFFFF)
    return made.view(np.float32)


def frames(vector: dict[str, Any]) -> Iterator[tuple[bytes, Plane]]:
    """Each step's frame, and what it does to a plane of zeros."""
    layout = layout_of(vector["parameters"])
    blocks = Blocks.of(layout, [BlockRange(0, layout.blocks)] if layout.blocks else [])
    classes = Classes.by_policy(layout, vector["policy"])
    held: dict[str, Plane] = {}
    for step in range(vector["steps"]):
        x, into = plane(step, blocks), np.zeros((blocks.count, BLOCK), np.float32)
        if vector["kind"] == DELTA:
            delta = delta_codec(**vector["codec"], classes=classes)
            frame = b"".join(delta.publish(x, held.setdefault("published", np.zeros_like(x)), blocks))
            delta.apply(frame, into, blocks)
        else:
            push = push_codec(**vector["codec"], classes=classes)
            for name in push.state_planes:
                held.setdefault(name, np.zeros_like(x))
            frame = b"".join(push.encode(x, held, blocks, unit=step))
            push.add(frame, into, blocks)
        yield frame, into


def words(values: Any) -> str:
    """float32 numbers as the hexadecimal digits of their bits."""
    count = len(values)
    return " ".join(f"{word:08x}" for word in struct.unpack(f"<{count}I", struct.pack(f"<{count}f", *values)))


def document(case: Case) -> dict[str, Any]:
    """A case with its frames."""
    vector: dict[str, Any] = {**case._asdict(), "frames": [], "decoded": []}
    for frame, into in frames(vector):
        vector["frames"].append(frame.hex())
        lengths = layout_of(case.parameters).lengths
        vector["decoded"].append([words(row[:n].tolist()) for row, n in zip(into, lengths, strict=True)])
    return vector


def main() -> None:
    """Write all vectors."""
    DIRECTORY.mkdir(exist_ok=True)
    for case in cases():
        text = json.dumps(document(case), indent=1)
        (DIRECTORY / f"{case.name}.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
