"""What the roles of a run wrote down of their time, as one picture in Chrome's trace format.

A process of the picture is a role, a line of it a thread or what overlaps with others; arrows lead from a push to the
close of its step (or the delta that settled it) and to where its sender applied that. Times of one machine come from
one monotonic clock; those of several are laid beside each other by their wall clocks, and are as good as these.
Format: "Trace Event Format" of the Chromium project, which ui.perfetto.dev and chrome://tracing read.
"""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from wire.errors import DamagedFile, NoInput, ProtocolMismatch
from wire.rounds import Rounds
from wire.trace import PATH
from wire.trace_file import OLDER_FILE, TRACE_FILE, VERSION

ORDER = ("coordinator", "ps", "worker")
MAIN = "MainThread"
THREADS = {"shard_0": "shard", **{f"asyncio_{i}": f"decoding {i}" for i in range(64)}}
"""Lines that are threads, by what Python calls these."""
Unit = tuple[int, int]
"""Round and stream, as the servers count."""
Event = dict[str, Any]
T = TypeVar("T")


@dataclass(frozen=True)
class Told:
    """A span: `begin` and `end` in seconds, at first of the machine's clock."""

    name: str
    track: str
    begin: float
    end: float
    known: dict[str, Any]


@dataclass
class Process:
    """One start of a role, and what it told."""

    role: str
    id: str
    run: str
    pid: int
    machine: str
    rounds: Rounds
    anchors: list[tuple[float, float]] = field(default_factory=list)
    spans: list[Told] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.id if self.id.startswith(self.role) else f"{self.role} {self.id}"

    def steps(self, span: Told) -> range | None:
        """The steps that a span is of, as people count them; None where it is of none."""
        if "at" in span.known:
            return range(span.known["at"], span.known["at"] + 1)
        return self.rounds.steps_of(span.known["step"]) if "step" in span.known else None


# ── reading ─────────────────────────────────────────────────────────────────────────────────────


def read_processes(directories: Sequence[Path]) -> list[Process]:
    """All that wrote into `directories`, or right inside them: a run directory holds its servers and workers.

    Raises: NoInput where nothing was written; DamagedFile, ProtocolMismatch for what is no trace of ours.
    """
    found: dict[Path, None] = {}
    for directory in directories:
        for name in (OLDER_FILE, TRACE_FILE):
            found |= dict.fromkeys(sorted([*directory.glob(name), *directory.glob(f"*/{name}")]))
    processes: dict[tuple[str, str, int], Process] = {}
    for path in found:
        for process in _read(path):
            key = (process.machine, process.id, process.pid)
            known = processes.setdefault(key, process)
            if known is not process:
                known.anchors += process.anchors
                known.spans += process.spans
    if not processes:
        raise NoInput(
            f"{', '.join(map(str, directories))}: no {TRACE_FILE} there; roles write one with telemetry.trace = true, "
            "as in `sparsync train -s telemetry.trace=true`"
        )
    return sorted(processes.values(), key=lambda p: (ORDER.index(p.role), p.id, p.pid))


def _read(path: Path) -> Iterator[Process]:
    process: Process | None = None
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    for number, line in enumerate(lines, 1):
        try:
            told = json.loads(line)
            if isinstance(told, list):
                assert process is not None
                process.spans.append(Told(*told))
            elif "header" in told:
                if process is not None:
                    yield process
                process = _process(told["header"], path)
            else:
                assert process is not None
                process.anchors.append(tuple(told["anchor"]))
        except (ValueError, TypeError, KeyError, AssertionError):
            if number == len(lines):  # its writer was killed
                break
            raise DamagedFile(f"{path}, line {number}: no line of a trace; remove the file") from None
    if process is not None:
        yield process


def _process(header: dict[str, Any], path: Path) -> Process:
    if header["version"] != VERSION:
        raise ProtocolMismatch(
            f"{path} is a trace of version {header['version']}, this build reads version {VERSION}; use the one that "
            "wrote it"
        )
    known = {key: header[key] for key in ("role", "id", "run", "pid", "machine")}
    return Process(**known, rounds=Rounds(**header["rounds"]))


# ── one time for all ────────────────────────────────────────────────────────────────────────────


def offsets(processes: Iterable[Process]) -> dict[str, float]:
    """What to add to the clock of each machine for seconds since the epoch: one figure a machine, so that what happens
    there keeps its order.
    """
    found: defaultdict[str, list[float]] = defaultdict(list)
    for process in processes:
        found[process.machine] += [utc_s - monotonic_s for monotonic_s, utc_s in process.anchors]
    return {machine: statistics.median(differences) for machine, differences in found.items()}


def told_steps(processes: Iterable[Process]) -> range | None:
    """From the first to the last step that a span is of; None where there is none."""
    found = [
        steps for process in processes for span in process.spans if (steps := process.steps(span)) is not None
    ]
    if not found:
        return None
    return range(min(steps.start for steps in found), max(_stop(steps) for steps in found))


def within(processes: Sequence[Process], steps: range) -> None:
    """Keep the spans of these steps, and of the others those that overlap with them."""
    shift = offsets(processes)
    kept = [
        (span.begin + shift[process.machine], span.end + shift[process.machine])
        for process in processes
        for span in process.spans
        if _overlap(process.steps(span), steps)
    ]
    first, last = (min(begin for begin, _ in kept), max(end for _, end in kept)) if kept else (0.0, 0.0)
    for process in processes:
        by = shift[process.machine]
        process.spans = [
            span
            for span in process.spans
            if (
                _overlap(of, steps)
                if (of := process.steps(span)) is not None
                else span.end + by > first and span.begin + by < last
            )
        ]


def _overlap(of: range | None, steps: range) -> bool:
    return of is not None and of.start < steps.stop and steps.start < _stop(of)


def _stop(steps: range) -> int:
    """Behind the last of a span's steps; one that is of none counts as its first."""
    return max(steps.stop, steps.start + 1)


# ── the picture ─────────────────────────────────────────────────────────────────────────────────


def picture(processes: Sequence[Process]) -> dict[str, Any]:
    """The trace as Chrome reads it; times begin at zero."""
    shift = offsets(processes)
    begins = [span.begin + shift[process.machine] for process in processes for span in process.spans]
    origin = min(begins, default=0.0)
    events: list[Event] = []
    places: dict[int, tuple[int, int]] = {}
    """Span, by its identity -> (process, line) in the picture."""
    for number, process in enumerate(processes, 1):
        by = shift[process.machine] - origin
        process.spans = [Told(s.name, s.track, s.begin + by, s.end + by, s.known) for s in process.spans]
        events += _named(number, process)
        for line, (track, spans) in enumerate(_lines(process), 1):
            events.append(_meta("thread_name", number, line, {"name": track}))
            events.append(_meta("thread_sort_index", number, line, {"sort_index": line}))
            places |= {id(span): (number, line) for span in spans}
            events += [_slice(span, process, number, line) for span in spans]
    events += _arrows(processes, places)
    return {
        "displayTimeUnit": "ms",
        "otherData": {"run": ", ".join(sorted({p.run for p in processes})), "began_utc_s": origin},
        "traceEvents": events,
    }


def _named(number: int, process: Process) -> list[Event]:
    return [
        _meta("process_name", number, 0, {"name": f"{process.name} (pid {process.pid})"}),
        _meta("process_sort_index", number, 0, {"sort_index": number}),
    ]


def _meta(name: str, pid: int, tid: int, arguments: Event) -> Event:
    return {"name": name, "ph": "M", "pid": pid, "tid": tid, "args": arguments}


def _slice(span: Told, process: Process, pid: int, tid: int) -> Event:
    known = {key: value for key, value in span.known.items() if key not in ("step", "at")}
    if (steps := process.steps(span)) is not None:
        known = {"step": steps.start, **({"last_step": steps[-1]} if len(steps) > 1 else {}), **known}
    if isinstance(units := known.get("units"), list):
        known["units"] = [[process.rounds.first_step(round_), stream] for round_, stream in units]
    return {
        "name": span.name,
        "cat": "path" if span.name in PATH else "beside",
        "ph": "X",
        "ts": _us(span.begin),
        "dur": _us(span.end - span.begin),
        "pid": pid,
        "tid": tid,
        "args": known,
    }


def _us(seconds: float) -> float:
    return round(seconds * 1e6, 3)


def _lines(process: Process) -> list[tuple[str, list[Told]]]:
    """Spans by line: those of one track, on several lines where they overlap without lying in each other."""
    tracks: defaultdict[str, list[Told]] = defaultdict(list)
    main = "training" if process.role == "worker" else "event loop"
    for span in process.spans:
        tracks[THREADS.get(span.track, main if span.track == MAIN else span.track)].append(span)
    lines = []
    for track, told in sorted(tracks.items(), key=lambda named: (named[0] != main, named[0])):
        for count, line in enumerate(_nested(sorted(told, key=lambda s: (s.begin, -s.end))), 1):
            lines.append((track if count == 1 else f"{track} ({count})", line))
    return lines


def _nested(spans: Iterable[Told]) -> list[list[Told]]:
    """Spans in order of their begin, dealt to as few lines as it takes."""
    lines: list[tuple[list[Told], list[float]]] = []
    for span in spans:
        line, open_until = next((there for there in lines if _fits(span, there[1])), ([], []))
        if not line:
            lines.append((line, open_until))
        line.append(span)
        open_until.append(span.end)
    return [line for line, _ in lines]


def _fits(span: Told, open_until: list[float]) -> bool:
    """Whether a line is free where a span begins, or shows one that it lies in; what is over by then is let go."""
    while open_until and open_until[-1] <= span.begin:
        open_until.pop()
    return not open_until or span.end <= open_until[-1]


# ── arrows ──────────────────────────────────────────────────────────────────────────────────────


def _arrows(processes: Sequence[Process], places: dict[int, tuple[int, int]]) -> Iterator[Event]:
    """From each unit's first push to its close, and to where its sender applied that."""
    closes = _first(
        (span.known["step"], span)
        for p in processes
        for span in p.spans
        if p.role == "coordinator" and span.name == "close"
    )
    published = _first(
        (tuple(unit), span)
        for p in processes
        for span in p.spans
        if span.name == "publish"
        for unit in span.known.get("units", ())
    )
    for process in processes:
        applied = sorted((s for s in process.spans if s.name == "apply"), key=lambda s: s.begin)
        for unit, push in _first((_unit(s), s) for s in process.spans if s.name == "push").items():
            middle = closes.get(unit[0]) or published.get(unit)
            if middle is None or middle.end < push.begin:
                continue
            end = next((span for span in applied if _holds(span, unit, middle)), None)
            yield from _arrow(f"{process.id}/{process.pid}/{unit[0]}/{unit[1]}", [push, middle, end], places)


def _unit(span: Told) -> Unit:
    return span.known["step"], span.known["stream"]


def _holds(apply: Told, unit: Unit, middle: Told) -> bool:
    """Whether `apply` brought the unit, which `middle` settled, into the model of its sender."""
    if middle.name == "close":
        return bool(apply.known["closes"]) and apply.known["step"] == unit[0]
    return bool(apply.known["versions"].get(str(middle.known["shard"])) == middle.known["version"])


def _arrow(name: str, spans: Sequence[Told | None], places: dict[int, tuple[int, int]]) -> Iterator[Event]:
    there = [span for span in spans if span is not None]
    for place, span in enumerate(there):
        pid, tid = places[id(span)]
        phase = "s" if place == 0 else "f" if place == len(there) - 1 else "t"
        event = {
            "name": "unit",
            "cat": "unit",
            "ph": phase,
            "id": name,
            "ts": _us(span.begin),
            "pid": pid,
            "tid": tid,
        }
        yield event | ({"bp": "e"} if phase == "f" else {})


def _first(pairs: Iterable[tuple[T, Told]]) -> dict[T, Told]:
    """By key, the span that began first."""
    found: dict[T, Told] = {}
    for key, span in pairs:
        if key not in found or span.begin < found[key].begin:
            found[key] = span
    return found
