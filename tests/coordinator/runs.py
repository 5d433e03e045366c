"""A core that is driven event by event up to the point that a test is about."""

from __future__ import annotations

from typing import Any, TypeVar

from coordinator import actions as a
from coordinator import events as e
from coordinator import records as r
from coordinator.core import Core
from tests.coordinator.ground import EXACT, LAYOUT, SPEC, began, rules
from wire.ids import UnitId
from wire.messages import Commit

A = TypeVar("A")


class Run:
    """Two servers, and workers 3, 4 … as they join."""

    def __init__(
        self, *, first_step: int = 0, checkpoint: str = "", mode: r.Switching = EXACT, **changes: Any
    ) -> None:
        self.now = 0.0
        streams = changes.get("units_per_step", 4)
        state = began(streams, first_step=first_step, checkpoint=checkpoint, mode=mode)
        self.core = Core(rules(**changes), state)
        for shard in range(2):
            self.hear(e.Join(f"ps{shard}", "ps", f"ps{shard}", f"h:{shard}", "", 0, "h"))

    def hear(self, *events: e.Event) -> list[a.Action]:
        return [action for event in events for action in self.core.handle(event, self.now)]

    def only(self, kind: type[A], actions: list[a.Action]) -> list[A]:
        return [action for action in actions if isinstance(action, kind)]

    def answer(self, actions: list[a.Action]) -> Any:
        (answer,) = self.only(a.Answer, actions)
        return answer.value

    def join(self, name: str, *, fingerprint: str = "cpu") -> Any:
        return self.answer(self.hear(e.Join(name, "worker", name, "", fingerprint, 1, "h")))

    def declare(
        self, incarnation: int, *, key: str = "", layout: Any = LAYOUT, spec: Any = SPEC
    ) -> list[a.Action]:
        return self.hear(e.Declare(key or f"d{incarnation}", incarnation, layout, spec))

    def configure(self) -> list[a.Action]:
        return self.hear(
            *(e.ShardAttached(s, s + 1, False, self.core.state.first_step) for s in range(2)),
            *(e.ShardConfigured(s) for s in range(2)),
        )

    def ready(self, incarnation: int, **changes: Any) -> list[a.Action]:
        fields = {"samples": 100, "digest": "d", "batch_size": 2, "accumulate": 1, "evaluates": True}
        return self.hear(e.Ready(incarnation, **(fields | {"evaluate_every": 0} | changes)))

    def begin(self, workers: int = 2) -> Run:
        """Workers 3 … at work on step 0."""
        for i in range(workers):
            self.declare(self.join(f"w{i}").incarnation)
        self.configure()
        self.hear(e.Uploaded(3))
        for i in range(workers):
            self.hear(e.Beat(3 + i))
            self.ready(3 + i)
        return self

    def accept(
        self, step: int, *streams: int, shards: tuple[int, ...] = (0, 1), **commit: Any
    ) -> list[a.Action]:
        fields = {"empty_reason": "", "samples": 8, "tokens": 64, "loss": 2.0, "norm_sq": 1.0}
        told = Commit(**(fields | {"learning_rates": (0.1,)} | commit))
        return self.hear(
            *(e.UnitAccepted(shard, UnitId(1, step, s), 0, 3, told) for s in streams for shard in shards)
        )

    def settle(self, step: int) -> list[a.Action]:
        return self.hear(*(e.StepSettled(shard, step) for shard in range(2)))

    def deposit(self, step: int, *streams: int) -> list[a.Action]:
        """The holders of these streams, or of all, have left their state before `step` on every shard."""
        lanes = [lane for lane in self.core.state.lanes if lane.stream in streams or not streams]
        return self.hear(*(e.StreamDeposited(lane.holder, lane.stream, step, False) for lane in lanes))

    def plans(self, actions: list[a.Action]) -> dict[int, a.Plan]:
        """The last plan of each worker that is told one."""
        tells = self.only(a.Tell, actions)
        return {tell.incarnation: tell.order for tell in tells if isinstance(tell.order, a.Plan)}

    def hold(self, incarnation: int, plan: a.Plan, following: int | None = None) -> list[a.Action]:
        """A worker answers a plan: nothing of a lease is begun, or all before `following`."""
        begun = [
            (o.lease, o.span.start if following is None else o.span.first_from(following))
            for o in plan.leases
        ]
        return self.hear(e.Holding(incarnation, plan.number, tuple(begun)))

    def held(self) -> dict[int, list[tuple[int, int, int]]]:
        """Worker -> the spans (start, stop, stride) that it holds."""
        spans: dict[int, list[tuple[int, int, int]]] = {}
        for lease in self.core.state.leases.values():
            spans.setdefault(lease.holder, []).append((lease.span.start, lease.span.stop, lease.span.stride))
        return spans

    def kinds(self, actions: list[a.Action]) -> list[str]:
        return [type(action).__name__ for action in actions]
