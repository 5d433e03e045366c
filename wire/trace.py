"""Spans of what a process does, on the path of a gradient and beside it; nothing while nobody has asked for them.

The stages of the path have the names of ARCHITECTURE.md, section 3. A span is told to whoever is installed
(wire/trace_file.py) when it ends, on the thread that it ended on. Steps in spans are as coordinator and servers count
them; who reads a trace is told steps as people count (sparsync/tracing.py). Off, a span costs a call and a dictionary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

from wire.clock import monotonic_clock

PATH = (
    "collect",
    "compress",
    "push",
    "admit",
    "accept",
    "log",
    "aggregate",
    "optimize",
    "publish",
    "follow",
    "apply",
)
"""Stages of the path of a gradient, in order."""
BESIDE = (
    "step",
    "close",
    "journal",
    "unit",
    "wait",
    "settle",
    "record",
    "decode",
    "foresee",
    "deposit",
    "evaluate",
)
"""What else is told."""

Listener = Callable[[str, str, float, float, dict[str, Any]], None]
"""Takes (name, track, begin, end, what is known of it). Track: "" is that of the thread."""

_listener: Listener | None = None


def listen(listener: Listener | None) -> None:
    """From now on tell spans to `listener`, and to nobody else; None: to nobody."""
    global _listener
    _listener = listener


def begin() -> float:
    """Now, for `done`; 0 where nobody listens."""
    return monotonic_clock.now() if _listener is not None else 0.0


def done(name: str, began: float, *, track: str = "", **known: Any) -> None:
    """What began then has ended; nothing where nobody listened at that time."""
    if _listener is not None and began:
        _listener(name, track, began, monotonic_clock.now(), known)


class Span:
    """The time in a block, of which nobody wants to hear."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def know(self, **more: Any) -> None:
        """What has come out meanwhile."""


class _Told(Span):
    """One of which somebody does."""

    def __init__(self, name: str, track: str, known: dict[str, Any]) -> None:
        self._name, self._track, self._known = name, track, known
        self._began = 0.0

    def __enter__(self) -> Self:
        self._began = monotonic_clock.now()
        return self

    def __exit__(self, *error: object) -> None:
        if isinstance(error[0], type):
            self._known["failed"] = error[0].__name__
        done(self._name, self._began, track=self._track, **self._known)

    def know(self, **more: Any) -> None:
        self._known.update(more)


_UNHEARD = Span()


def span(name: str, *, track: str = "", **known: Any) -> Span:
    """The time in a block. `track`: the line where it is shown, if not that of its thread."""
    return _Told(name, track, known) if _listener is not None else _UNHEARD
