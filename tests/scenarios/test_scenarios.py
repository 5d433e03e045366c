"""Scenario scripts for membership and clocks: each line an event and what the coordinator does about it.

    event -> note; note; …

Notes must appear in the actions of the event in this order; others may stand between them, and `nothing` says that
there are none. A line without an arrow asks for nothing. `#` begins a comment. The scripts are the files *.txt here.

    rules KEY=N … [mode=M staleness=N quorum=N deadline=S]   before anything else: changes of the small run's rules
    start N                        N workers w1 … wN join, upload, are ready
    join NAME                      a worker joins, declares and is ready
    advance S s [silent NAME …]    S seconds pass in ticks of 0.1 s; all beat but the silent
    beats of NAME end              its heartbeat stream closes
    push NAME step=N stream=A,B [shard=K] [attempt=N] [lr=X] [bad]   units accepted (on one shard, or on all)
    settle N                       every shard has published the delta of step N
    fenced stream=A attempt=N [SHARD=yes|no …]          answers to a fence
    deposit NAME stream=A,B step=N [released]
    leave NAME · fail NAME · announce NAME · progress NAME · attend NAME
    evaluate NAME step=N           both evaluations of the end
    written N · checkpoint fails N · ask KEY (for a checkpoint) · stop · lost SHARD

and of elastic segments, whose units have numbers:

    accept NAME units=A,B [shard=K] [bad]       units accepted (on one shard, or on all)
    hold NAME LEASE=NEXT … [plan=N]             the answer to its newest plan (or to an older one)
    retired NAME [shard=K]                      nothing is taken from it any more
    set mode=M [staleness=N quorum=N deadline=S] · begun N [shard=K] · drain NAME
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from coordinator import actions as a
from coordinator import events as e
from coordinator import records as r
from coordinator.core import Core
from tests.coordinator.ground import EXACT, LAYOUT, SPEC, began, rules
from wire.errors import SparsyncError
from wire.ids import UnitId
from wire.messages import BAD_UNIT, Commit

MODE = {"mode", "staleness", "quorum", "deadline"}
BETWEEN = re.compile(r";(?![^()]*\))")
SCRIPTS = sorted(Path(__file__).parent.glob("*.txt"))


class Stage:
    """Plays the lines of a script to a core and writes its actions down as notes."""

    def __init__(self) -> None:
        self.now = 0.0
        self.core: Core | None = None
        self.changes: dict[str, int] = {"servers": 2}
        self.mode = EXACT
        self.incarnations: dict[str, int] = {}
        self.gone: dict[str, int] = {}
        self.plans: dict[int, int] = {}

    def play(self, line: str) -> list[str]:
        """The notes of one event."""
        words = line.split()
        if words[0] == "rules":
            options = dict(w.split("=") for w in words[1:])
            self.mode = _mode(options) if "mode" in options else EXACT
            self.changes |= {k: int(v) for k, v in options.items() if k not in MODE}
            return []
        if self.core is None:
            self._open()
        verb = "beats" if line.startswith("beats of") else words[0]
        act: Callable[[list[str]], Iterator[e.Event]] = getattr(self, f"_{verb}")
        notes: list[str] = []
        for event in act(words[1:]):
            notes += self.hear(event)
        return notes

    def hear(self, event: e.Event) -> list[str]:
        assert self.core is not None
        try:
            actions = self.core.handle(event, self.now)
        except SparsyncError as error:
            return [f"refused {type(error).__name__}"]
        for action in actions:
            if isinstance(action, a.Answer) and isinstance(action.value, a.Joined):
                self.incarnations[action.key] = action.value.incarnation
            if isinstance(action, a.Tell) and isinstance(action.order, a.Plan):
                self.plans[action.incarnation] = action.order.number
        return [note for action in actions for note in self._notes(action)]

    def _open(self) -> None:
        streams = int(self.changes.get("units_per_step", 4))
        self.core = Core(rules(**self.changes), began(streams, mode=self.mode))
        for shard in range(self.changes["servers"]):
            self.hear(e.Join(f"ps{shard}", "ps", f"ps{shard}", f"h:{shard}", "", 0, "h"))

    # --- events

    def _start(self, words: list[str]) -> Iterator[e.Event]:
        names = [f"w{i + 1}" for i in range(int(words[0]))]
        for name in names:
            yield e.Join(name, "worker", name, "", "cpu", 1, "h")
            yield e.Declare(f"declare {name}", self.incarnations[name], LAYOUT, SPEC)
        assert self.core is not None
        for placed in self.core.state.placement:
            yield e.ShardAttached(placed.shard, placed.incarnation, False, 0)
            yield e.ShardConfigured(placed.shard)
        yield e.Uploaded(self.incarnations["w1"])
        yield from (e.Beat(self.incarnations[name]) for name in names)
        yield from (self._readiness(name) for name in names)

    def _join(self, words: list[str]) -> Iterator[e.Event]:
        name = words[0]
        yield e.Join(name, "worker", name, "", "cpu", 1, "h")
        yield e.Beat(self.incarnations[name])
        yield e.Declare(f"declare {name}", self.incarnations[name], LAYOUT, SPEC)
        yield self._readiness(name)

    def _readiness(self, name: str) -> e.Ready:
        return e.Ready(self.incarnations[name], 100, "d", 2, 1, True, 0)

    def _advance(self, words: list[str]) -> Iterator[e.Event]:
        silent = set(words[words.index("silent") + 1 :]) if "silent" in words else set()
        until = self.now + float(words[0])
        while self.now < until - 1e-9:
            self.now += 0.1
            yield from (e.Beat(i) for name, i in self.incarnations.items() if name not in silent)
            yield e.Tick()

    def _beats(self, words: list[str]) -> Iterator[e.Event]:
        name = words[1]
        self.gone[name] = self.incarnations.pop(name)
        yield e.BeatsEnded(self.gone[name])

    def _push(self, words: list[str]) -> Iterator[e.Event]:
        options = dict(w.split("=") for w in words[1:] if "=" in w)
        shards = self._shards(options)
        reason = f"{BAD_UNIT}loss is NaN" if "bad" in words else ""
        commit = Commit(reason, 8, 64, 2.0, 1.0, (float(options.get("lr", "0.1")),))
        for stream in map(int, options["stream"].split(",")):
            unit = UnitId(1, int(options["step"]), stream)
            for shard in shards:
                attempt = int(options.get("attempt", "0"))
                yield e.UnitAccepted(shard, unit, attempt, self.incarnations[words[0]], commit)

    def _shards(self, options: dict[str, str]) -> Sequence[int]:
        return [int(options["shard"])] if "shard" in options else range(self.changes["servers"])

    def _accept(self, words: list[str]) -> Iterator[e.Event]:
        options = dict(w.split("=") for w in words[1:] if "=" in w)
        commit = Commit(f"{BAD_UNIT}loss is NaN" if "bad" in words else "", 8, 64, 2.0, 1.0, (0.1,))
        streams = int(self.changes.get("units_per_step", 4))
        for number in map(int, options["units"].split(",")):
            unit = UnitId(1, *divmod(number, streams))
            for shard in self._shards(options):
                yield e.UnitAccepted(shard, unit, 0, self.incarnations[words[0]], commit)

    def _hold(self, words: list[str]) -> Iterator[e.Event]:
        options = dict(w.split("=") for w in words[1:])
        incarnation = self.incarnations[words[0]]
        plan = int(options.pop("plan", self.plans[incarnation]))
        yield e.Holding(incarnation, plan, tuple((int(lease), int(n)) for lease, n in options.items()))

    def _flushed(self, words: list[str]) -> Iterator[e.Event]:
        options = dict(w.split("=") for w in words[1:])
        norm = float(options.get("left", "0"))
        yield e.Flushed(self.incarnations[words[0]], int(options.get("segment", "0")), norm)

    def _retired(self, words: list[str]) -> Iterator[e.Event]:
        options = dict(w.split("=") for w in words[1:])
        incarnation = (self.gone | self.incarnations)[words[0]]
        yield from (e.WorkerRetired(shard, incarnation) for shard in self._shards(options))

    def _set(self, words: list[str]) -> Iterator[e.Event]:
        yield e.SetAsked("set", _mode(dict(w.split("=") for w in words)))

    def _begun(self, words: list[str]) -> Iterator[e.Event]:
        options = dict(w.split("=") for w in words[1:])
        yield from (e.SegmentBegun(shard, int(words[0])) for shard in self._shards(options))

    def _drain(self, words: list[str]) -> Iterator[e.Event]:
        yield e.DrainAsked("drain", words[0])

    def _settle(self, words: list[str]) -> Iterator[e.Event]:
        yield from (e.StepSettled(shard, int(words[0])) for shard in range(self.changes["servers"]))

    def _fenced(self, words: list[str]) -> Iterator[e.Event]:
        assert self.core is not None
        options = dict(w.split("=") for w in words)
        stream, attempt = int(options.pop("stream")), int(options.pop("attempt"))
        for shard, stands in options.items():
            step = self.core.state.open_step
            yield e.FenceAnswered(int(shard), step, stream, attempt, stands == "yes")

    def _deposit(self, words: list[str]) -> Iterator[e.Event]:
        options = dict(w.split("=") for w in words[1:] if "=" in w)
        for stream in map(int, options["stream"].split(",")):
            yield e.StreamDeposited(
                self.incarnations[words[0]],
                stream,
                int(options["step"]),
                "released" in words,
                self.core.state.lanes[stream].attempt,
            )

    def _leave(self, words: list[str]) -> Iterator[e.Event]:
        yield e.WorkerLeaving(self.incarnations[words[0]], "SIGTERM")

    def _fail(self, words: list[str]) -> Iterator[e.Event]:
        yield e.WorkerFailed(self.incarnations[words[0]], "ScriptFailed", "it raised")

    def _announce(self, words: list[str]) -> Iterator[e.Event]:
        yield e.Announced(self.incarnations[words[0]], "evaluate")

    def _progress(self, words: list[str]) -> Iterator[e.Event]:
        options = dict(w.split("=") for w in words[1:])
        yield e.Progressed(self.incarnations[words[0]], 1.0, float(options.get("held", "0")))

    def _attend(self, words: list[str]) -> Iterator[e.Event]:
        yield e.Attending(self.incarnations[words[0]])

    def _evaluate(self, words: list[str]) -> Iterator[e.Event]:
        step = int(words[1].removeprefix("step="))
        for model in ("published", "x"):
            yield e.LossEvaluated(self.incarnations[words[0]], step, model, 2.5, 1.0)

    def _written(self, words: list[str]) -> Iterator[e.Event]:
        yield e.CheckpointWritten(int(words[0]), f"step-{words[0]}", "x", "p")

    def _checkpoint(self, words: list[str]) -> Iterator[e.Event]:
        yield e.CheckpointFailed(int(words[1]), "disk full")

    def _ask(self, words: list[str]) -> Iterator[e.Event]:
        yield e.CheckpointAsked(words[0])

    def _stop(self, words: list[str]) -> Iterator[e.Event]:
        yield e.StopAsked("stop", "an operator asked")

    def _lost(self, words: list[str]) -> Iterator[e.Event]:
        assert self.core is not None
        yield e.LineRefused(self.core.state.placement[int(words[0])].incarnation, "gone")

    # --- actions

    def _notes(self, action: a.Action) -> Iterator[str]:
        match action:
            case a.Tell(incarnation, a.Plan(elastic=True) as plan):
                told = ", ".join(self._lease(order) for order in plan.leases)
                takes_on = f" takes on {list(plan.inherits)}" * bool(plan.inherits)
                yield f"plan {self._name(incarnation)} [{told}]" + " leave" * plan.leave + takes_on
            case a.Tell(incarnation, a.Plan(assignments=assignments, drained=drained)):
                told = ", ".join(self._assignment(s) for s in assignments)
                yield f"plan {self._name(incarnation)} [{told}]" + f" drained {list(drained)}" * bool(drained)
            case a.Tell(incarnation, a.End(_, error)):
                yield f"end {self._name(incarnation)}" + (f" {error}" if error else "")
            case a.Command(0, a.CloseStep() as close):
                more = f" late {list(close.late)}" * bool(close.late)
                more += " deposit" * close.deposit + " final" * close.final + " pause" * close.pause
                more += " drain" * close.drain
                yield f"close {close.step} {list(close.streams)}{more}"
            case a.Command(0, a.FenceStream() as fence):
                yield f"fence stream={fence.stream} step={fence.step} attempt={fence.attempt}"
            case a.Command(0, a.RetireWorker(incarnation)):
                yield f"retire {self._name(incarnation)}"
            case a.Command(0, a.BeginSegment(number, step)):
                yield f"begin segment {number} step={step}"
            case a.Answer(key, a.Saved(step)):
                yield f"saved {step} for {key}"
            case a.Answer(_, SparsyncError() as refusal):
                yield f"refused {type(refusal).__name__}"
            case a.Journal(r.Lost(incarnation, norm)):
                yield f"lost {norm:g} of {self._name(incarnation)}"
            case a.Journal(r.Counted(low)):
                yield f"count {low}"
            case a.Journal(r.Barred(step)):
                yield "bar lifted" if step is None else f"bar {step}"
            case a.Command(0, a.FinishShard()):
                yield "finish"
            case a.WriteCheckpoint(step):
                yield f"checkpoint {step}"
            case a.Journal(r.Departed(incarnation, reason, dead)):
                yield f"{'evict' if dead else 'left'} {self._name(incarnation)} ({reason})"
            case a.Journal(r.Stopping(_, error)):
                yield f"stopping {error}"
            case a.Journal(r.Ended(reason, error)):
                yield f"ended {error or 'well'} ({reason})"

    @staticmethod
    def _lease(order: a.LeaseOrder) -> str:
        """`L1 4..40/4`: units 4, 8, … below 40; `L1 back`: nothing more of it is to be begun."""
        span = order.span
        text = f"L{order.lease} {span.start}..{span.stop}/{span.stride}" if span else f"L{order.lease} back"
        return text + "".join(f" {number} only {list(need)}" for number, need in order.partial)

    def _assignment(self, s: a.Assignment) -> str:
        text = f"{s.stream}@{s.step}"
        text += f" a{s.attempt}" * bool(s.attempt)
        text += f" only {list(s.send_to)}" * bool(s.send_to)
        text += f" from {s.deposit}" if s.deposit is not None else ""
        return text + " release" * s.release

    def _name(self, incarnation: int) -> str:
        assert self.core is not None
        return self.core.state.members[incarnation].name


def _mode(options: dict[str, str]) -> r.Switching:
    """What `mode=M staleness=N quorum=N deadline=S` asks for."""
    keys = {k: int(options[k]) if k in options else None for k in ("staleness", "quorum")}
    return r.Switching(options["mode"], **keys, deadline_s=float(options.get("deadline", "1")))


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_script(path: Path) -> None:
    stage = Stage()
    for number, raw in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        line = raw.partition("#")[0].strip()
        if not line:
            continue
        event, _, wanted = line.partition("->")
        notes = stage.play(event.strip())
        expected = [w.strip() for w in BETWEEN.split(wanted)] if wanted else []
        where = f"{path.name}:{number}: {event.strip()}\n  said {notes}\n  not  {expected}"
        if expected == ["nothing"]:
            assert notes == [], where
        else:
            rest = iter(notes)
            assert all(any(note == want for note in rest) for want in expected), where


def test_there_are_scripts() -> None:
    assert len(SCRIPTS) >= 10
