"""Durations, sizes and spans of bytes as people write them on a command line: `500ms`, `5m`, `64k`, `1M..8M`."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from sparsync.faults.rules import Span

    ParamType = click.ParamType[Any]
else:
    ParamType = click.ParamType

AMOUNT = re.compile(r"(\d+(?:\.\d+)?)([A-Za-z]*)")
SECONDS = {"": 1.0, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
BYTES = {"": 1.0, "B": 1.0, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9}


class Amount(ParamType):
    """A number with one of some units; plain ones are in the first."""

    def __init__(self, name: str, units: dict[str, float], example: str) -> None:
        self.name, self._units, self._example = name, units, example

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float | int):
            return float(value)
        found = AMOUNT.fullmatch(value)
        if found is None or found[2] not in self._units:
            units = ", ".join(unit for unit in self._units if unit)
            self.fail(f"{value!r}; expected a number with one of {units}, as in {self._example}", param, ctx)
        return float(found[1]) * self._units[found[2]]


class Bytes(ParamType):
    """`LOW..HIGH`, or one number for both."""

    name = "bytes"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Span:
        from sparsync.faults.rules import Span

        low, dots, high = str(value).partition("..")
        ends = [int(SIZE.convert(word, param, ctx)) for word in (low, high if dots else low)]
        try:
            return Span(*ends)
        except ValueError as error:
            self.fail(str(error), param, ctx)


DURATION = Amount("duration", SECONDS, "500ms or 5m")
SIZE = Amount("size", BYTES, "64k or 10M")
SPAN = Bytes()
