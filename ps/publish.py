"""The published model's log: deltas from a retained version on, each encoded once for all readers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from ps.trees import State
from wire.codec.base import frame_bytes
from wire.ids import UnitId

# What is kept of an elastic segment, whose readers take a live snapshot rather than a long tail.
RETAINED_BYTES = 64 << 20
RETAINED = 16_384
RETAINED_ALWAYS = 8


@dataclass(frozen=True)
class Outcome:
    """What became of a unit: `factor` of it is in the model, the rest goes back to its sender."""

    unit: UnitId
    factor: float


@dataclass(frozen=True)
class Delta:
    """Takes the published model of this shard from `version` to `version` + 1.

    Attributes:
        step: the one that is open until then; with `closes`, the one that it closes.
        clock: after it; every unit of earlier steps stands here.
        pause: the segment ends here.
        drain: the units of step + 2 are computed on all that is settled before them, though units lag here.
    """

    version: int
    step: int
    outcomes: Sequence[Outcome]
    frame: tuple[bytes, ...]
    deposit: bool
    final: bool
    closes: bool = True
    clock: int = 0
    pause: bool = False
    drain: bool = False

    @cached_property
    def frame_bytes(self) -> int:
        """Of the frame, which is kept in the pieces that it was made in."""
        return frame_bytes(self.frame)


def _delta_to_tree(delta: Delta) -> State:
    """The frame stays in its pieces: messages are cut between them."""
    return {
        "version": delta.version,
        "step": delta.step,
        "outcomes": [[*outcome.unit, outcome.factor] for outcome in delta.outcomes],
        "frame": list(delta.frame),
        "deposit": delta.deposit,
        "final": delta.final,
        "closes": delta.closes,
        "clock": delta.clock,
        "pause": delta.pause,
        "drain": delta.drain,
    }


def _delta_from_tree(tree: State) -> Delta:
    outcomes = tuple(
        Outcome(UnitId(timeline, step, stream), factor) for timeline, step, stream, factor in tree["outcomes"]
    )
    return Delta(**{**tree, "outcomes": outcomes, "frame": tuple(tree["frame"])})


class DeltaLog:
    """Deltas `base` ≤ version < `version`, in memory.

    Versions count deltas, of which some close a step: while each one does, versions are steps. One thread appends
    and trims while others read: `get` sees a delta or none, never another one.
    """

    def __init__(self, base: int) -> None:
        self.base = base
        self.version = base
        """The newest version: that of the published plane."""
        self.clock = base
        """That of the newest delta, as a follower at `version` knows it; a log begins at the version of its step."""
        self.between = True
        """Nothing was settled since the newest close."""
        self.final = False
        self._deltas: dict[int, Delta] = {}
        self._closing: dict[int, Delta] = {}
        self._bytes = 0

    def append(self, delta: Delta) -> None:
        assert delta.version == self.version, (delta.version, self.version)
        self._deltas[delta.version] = delta
        self._bytes += delta.frame_bytes
        if delta.closes:
            self._closing[delta.step] = delta
        self.version += 1
        self.clock = delta.clock
        self.between = delta.closes
        self.final = delta.final

    def get(self, version: int) -> Delta | None:
        """The delta that starts at `version`, or None while it is not published yet.

        Raises:
            KeyError: it is older than what is retained.
        """
        delta = self._deltas.get(version)
        if delta is None and version < self.base:
            raise KeyError(f"delta {version} is no longer retained, the oldest is {self.base}")
        return delta

    def closing(self, step: int) -> Delta | None:
        """The delta that closed `step`, while it is retained; the newest one of all always is."""
        return self._closing.get(step)

    def trim(self, retain_from: int) -> None:
        """Forget the deltas before version `retain_from`."""
        first, self.base = self.base, min(max(retain_from, self.base), self.version)
        for version in range(first, self.base):
            self._bytes -= self._deltas.pop(version).frame_bytes
        newest = max(self._closing, default=0)
        self._closing = {s: d for s, d in self._closing.items() if d.version >= self.base or s == newest}

    def trim_steps(self, retain_from: int) -> None:
        """Forget the deltas before the version at which step `retain_from` began."""
        self.trim(
            max((d.version + 1 for s, d in self._closing.items() if s < retain_from), default=self.base)
        )

    def image(self) -> State:
        """Deltas by version; one below `base` is that of the newest close."""
        kept = {delta.version: delta for delta in (*self._closing.values(), *self._deltas.values())}
        return {
            "base": self.base,
            "version": self.version,
            "clock": self.clock,
            "between": self.between,
            "final": self.final,
            "deltas": [_delta_to_tree(kept[version]) for version in sorted(kept)],
        }

    def restore(self, tree: State) -> None:
        kept = [_delta_from_tree(delta) for delta in tree["deltas"]]
        self.base, self.version, self.clock = tree["base"], tree["version"], tree["clock"]
        self.between, self.final = tree["between"], tree["final"]
        self._deltas = {delta.version: delta for delta in kept if delta.version >= self.base}
        self._closing = {delta.step: delta for delta in kept if delta.closes}
        self._bytes = sum(delta.frame_bytes for delta in self._deltas.values())

    def bound(self, model_bytes: int) -> None:
        """Forget the oldest deltas beyond `RETAINED`, `RETAINED_BYTES` and the size of the model, but never the newest.

        So whoever can follow at all still can from the model as it was when its transfer began.
        """
        base, size = self.base, self._bytes
        most = max(RETAINED_BYTES, model_bytes)
        while self.version - base > RETAINED_ALWAYS and (self.version - base > RETAINED or size > most):
            size -= self._deltas[base].frame_bytes
            base += 1
        self.trim(base)
