"""The codecs that `bench codec` measures, of pushes and of deltas. Imports nothing heavy: `--codec` names them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from wire.errors import UsageError

PULL = "pull"
KEPT = (32, 64, 128, 256, 1024)
"""Of a block's 4,096 elements."""
MAGNITUDES = ("sign", "sign1", "sign2")
WHOLE = (
    ("fp32", "none"),
    ("bf16", "none"),
    ("fp16", "none"),
    ("int8", "none"),
    ("int4", "ef"),
    ("mxint4", "ef"),
)
ESTIMATED = (64, 256)
"""Numbers of kept elements that are also measured with an estimate on both sides (EF21)."""
PULLED = (("topk", 256, "sign1"), ("topk", 1024, "sign1"), ("dense", 4096, "mxint4"), ("dense", 4096, "fp32"))
"""Codecs of the way down: what a server publishes."""
HEADLINE = "topk-64-sign1-ef"
"""The codec that the targets speak of."""
QUICK = (HEADLINE, "dense-int8")


@dataclass(frozen=True)
class Case:
    """One codec. kept: elements of a block of 4,096; all of them for "dense". feedback: "pull" for the way down."""

    codec: str
    kept: int
    values: str
    feedback: str

    @property
    def name(self) -> str:
        form = f"topk-{self.kept}" if self.codec == "topk" else "dense"
        return f"{form}-{self.values}" + (f"-{self.feedback}" if self.feedback != "none" else "")

    @property
    def pulled(self) -> bool:
        """Whether it is a delta's codec, not a push's."""
        return self.feedback == PULL

    @property
    def density(self) -> float:
        return self.kept / 4096


CASES = (
    *(Case("topk", kept, values, "ef") for kept in KEPT for values in MAGNITUDES),
    *(Case("topk", kept, "sign1", "ef21") for kept in ESTIMATED),
    *(Case("dense", 4096, values, feedback) for values, feedback in WHOLE),
    *(Case(codec, kept, values, PULL) for codec, kept, values in PULLED),
)


def chosen(patterns: Sequence[str], *, device: str) -> tuple[Case, ...]:
    """The cases whose name fits one of the patterns (`*` stands for anything); all without patterns.

    Servers publish on the host: on another `device` there are no deltas.
    Raises: UsageError for a pattern that fits none.
    """
    there = [case for case in CASES if device == "cpu" or not case.pulled]
    for pattern in patterns:
        if not any(fnmatchcase(case.name, pattern) for case in there):
            known = ", ".join(case.name for case in there)
            raise UsageError(
                f"--codec {pattern}: no such codec on {device}; expected one of {known}, or a pattern with *"
            )
    return tuple(case for case in there if not patterns or any(fnmatchcase(case.name, p) for p in patterns))
