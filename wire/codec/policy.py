"""Rules for parameters that are sent whole: "PATTERN=VALUES", of which the first that fits counts.

PATTERN is a glob over parameter names, or `1d` for parameters of at most one dimension. This module imports
neither numpy, numba nor torch.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from typing import NamedTuple

from wire.codec.values import Values
from wire.layout import Parameter

ONE_DIMENSIONAL = "1d"


class Rule(NamedTuple):
    """One rule."""

    pattern: str
    values: Values

    def fits(self, parameter: Parameter) -> bool:
        """Whether it speaks of this parameter."""
        if self.pattern == ONE_DIMENSIONAL:
            return len(parameter.shape) <= 1
        return fnmatch.fnmatchcase(parameter.name, self.pattern)


def rules(policy: Sequence[str]) -> tuple[Rule, ...]:
    """The rules of a policy. Raises: ValueError for a text that is none."""
    return tuple(_rule(text) for text in policy)


def _rule(text: str) -> Rule:
    pattern, equals, values = text.rpartition("=")
    if not equals or not pattern.strip():
        raise ValueError(f"rule {text!r}: expected PATTERN=VALUES, as in '1d=fp16' or '*.bias=fp32'")
    return Rule(pattern.strip(), Values.named(values.strip()))
