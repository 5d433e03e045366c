"""Live progress of a run: the table of `sparsync.run_table` on a terminal, plain lines elsewhere.

`status` is the object that the coordinator's Status call returns; each key may be missing or null
early on. `progress_line` and `event_line` are pure; the displays add a place to write to and a pace.
Every display takes notes (one line of text) beside the progress.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, Protocol

import click

from sparsync.quantities import show, show_bytes, show_count, show_loss
from sparsync.run_table import Status, newest_of_each_name, pace_words, render, saved

LINE_EVERY_S = 5.0
MAX_ROWS = 24
"""Workers shown in the table; a terminal is not much higher."""
PACE_WINDOW_S = 60.0


class Display(Protocol):
    """Where progress goes."""

    def note(self, text: str) -> None:
        """One line, at once."""
        ...

    def update(self, status: Status, now: float) -> None:
        """The newest status; shown when it is time to."""
        ...

    def close(self) -> None: ...


class NoDisplay:
    """Shows nothing."""

    def note(self, text: str) -> None:
        pass

    def update(self, status: Status, now: float) -> None:
        pass

    def close(self) -> None:
        pass


class PlainLines:
    """One line every `LINE_EVERY_S` on standard error, and the notes."""

    def __init__(self) -> None:
        self._due = 0.0

    def note(self, text: str) -> None:
        click.echo(text, err=True)

    def update(self, status: Status, now: float) -> None:
        if now >= self._due and status.get("state") is not None:
            self._due = now + LINE_EVERY_S
            click.echo(progress_line(status), err=True)

    def close(self) -> None:
        pass


class JsonLines:
    """Each status as one line on standard output; the notes on standard error."""

    def note(self, text: str) -> None:
        click.echo(text, err=True)

    def update(self, status: Status, now: float) -> None:
        click.echo(json.dumps(status))

    def close(self) -> None:
        pass


class LiveTable:
    """The table, drawn anew at each update; notes scroll by above it."""

    def __init__(self, *, stderr: bool) -> None:
        from rich.console import Console
        from rich.live import Live

        self._console = Console(stderr=stderr, highlight=False)
        self._pace = Pace()
        self._live = Live(
            console=self._console, auto_refresh=False, redirect_stdout=False, redirect_stderr=False
        )
        self._live.start()

    def note(self, text: str) -> None:
        from rich.text import Text

        # A Text of its own: options of print would hold for the table below it too.
        self._console.print(Text(text, no_wrap=True, overflow="ignore"))

    def update(self, status: Status, now: float) -> None:
        self._pace.observe(now, status.get("step"))
        eta_s = self._pace.remaining_s(status.get("total_steps"))
        self._live.update(render(status, eta_s=eta_s, max_rows=MAX_ROWS), refresh=True)

    def close(self) -> None:
        self._live.stop()


def open_display(
    kind: Literal["auto", "table", "plain", "off"], *, terminal: bool, json_out: bool
) -> Display:
    """The display for `telemetry.live`. `terminal`: standard output is one; `json_out`: it is kept for data."""
    if kind == "off":
        return NoDisplay()
    if kind == "table" or (kind == "auto" and terminal and not json_out):
        return LiveTable(stderr=json_out)
    return PlainLines()


class Pace:
    """Time to go, from the steps of the last `PACE_WINDOW_S`."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def observe(self, now: float, step: int | None) -> None:
        if step is None or (self._seen and step == self._seen[-1][1]):
            return
        self._seen.append((now, step))
        while now - self._seen[0][0] > PACE_WINDOW_S and len(self._seen) > 2:
            self._seen.popleft()

    def remaining_s(self, total: int | None) -> float | None:
        """Seconds until step `total` at this pace; None while that is not known."""
        if not total or len(self._seen) < 2:
            return None
        (start_s, first), (end_s, last) = self._seen[0], self._seen[-1]
        if last <= first:
            return None
        return max(0, total - last) * (end_s - start_s) / (last - first)


# ── plain lines ─────────────────────────────────────────────────────────────────────────────────


def progress_line(status: Status) -> str:
    """The run in one line."""
    sent, received = status.get("bytes_pushed"), status.get("bytes_pulled")
    parts = [
        f"step {show(status.get('step') or 0)}/{show(status.get('total_steps') or None)}",
        f"loss {show_loss(status.get('loss'))}",
    ]
    if status.get("val_loss") is not None:
        parts.append(f"val {show_loss(status['val_loss'])} (step {show(status.get('val_loss_step'))})")
    parts.append(f"{show_count(status.get('tokens_per_s'))} tokens/s")
    parts.append(f"sent {show_bytes(sent)}")
    parts.append(f"received {show_bytes(received)}")
    parts.append(f"{saved(status)} fewer bytes than dense")
    parts += [*pace_words(status), _workers_in_words(status)]
    if (state := status.get("state")) not in (None, "running"):
        parts.insert(0, f"[{state}{_why(status)}]")
    return "  ".join(parts)


def _workers_in_words(status: Status) -> str:
    workers = newest_of_each_name(status.get("workers") or [])
    gone = [
        f"{show(w.get('name'))} {show(w['state'])}" for w in workers if w.get("state") in ("dead", "left")
    ]
    slow = [f"{show(w.get('name'))} straggler" for w in workers if w.get("straggler")]
    present = len(workers) - len(gone)
    words = f"{present} worker{'' if present == 1 else 's'}"
    return words + (f" ({', '.join(gone + slow)})" if gone or slow else "")


def _why(event: Mapping[str, Any]) -> str:
    return f": {show(event['reason'])}" if event.get("reason") else ""


def _evaluated(event: Mapping[str, Any]) -> str:
    of = "" if event.get("model") in (None, "published") else f" of {show(event['model'])}"
    return f"validation loss{of} at step {show(event.get('step'))}: {show_loss(event.get('loss'))}"


def _handed_over(event: Mapping[str, Any]) -> str:
    streams = " ".join(str(stream) for stream in event.get("streams") or [])
    return _why(event) + (f"; streams {streams} go to others" if streams else "")


def _late(event: Mapping[str, Any]) -> str:
    workers, units = event.get("workers") or 0, event.get("units_per_step") or 0
    if workers > units:
        why = f"{workers} workers with sync.units_per_step = {units}; have as many units a step as workers"
    else:
        why = "pushes and deltas take long beside a unit; have larger units, or sync.local_steps"
    return (
        f"units are {show(event.get('steps'))} steps late in the mean, which costs loss: {why}. An exact pace "
        "(sync.mode=sync, no sync.quorum) has none that are late"
    )


def _failed(event: Mapping[str, Any]) -> str:
    return f"{show(event.get('name'))} failed: {show(event.get('error'))}: {show(event.get('message'))}"


NOTED: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "joined": lambda e: f"{show(e.get('name'))} joined",
    "join_refused": lambda e: f"{show(e.get('name'))} was refused{_why(e)}",
    "begun": lambda e: f"training begins at step {show(e.get('step'))} with {show(e.get('workers'))} workers",
    "evaluated": _evaluated,
    "checkpoint": lambda e: f"checkpoint of step {show(e.get('step'))}: {show(e.get('path'))}",
    "checkpoint_failed": lambda e: f"checkpoint of step {show(e.get('step'))} failed: {show(e.get('error'))}",
    "bad_unit": lambda e: f"empty unit, step {show(e.get('step'))} stream {show(e.get('stream'))}{_why(e)}",
    "waiting": lambda e: f"waiting{_why(e)}",
    "died": lambda e: f"{show(e.get('name'))} died{_handed_over(e)}",
    "straggled": lambda e: f"{show(e.get('name'))} is too slow{_handed_over(e)}",
    "left": lambda e: f"{show(e.get('name'))} left{_handed_over(e)}",
    "late_units": _late,
    "switching": lambda e: f"the run goes over to {show(e.get('mode'))} at the next boundary",
    "segment": lambda e: f"mode {show(e.get('mode'))} from step {show(e.get('step'))} on",
    "failed": _failed,
    "stopping": lambda e: f"the run ends after step {show(e.get('step'))}{_why(e)}",
    "ended": lambda e: f"the run has ended{_why(e)}",
}
"""Events of note, and what is said of each; all others are for reports."""


def event_line(event: Mapping[str, Any]) -> str | None:
    """What a person is told of an event in events.jsonl; None: nothing."""
    say = NOTED.get(str(event.get("event")))
    return say(event) if say else None


class EventTail:
    """Follows an events.jsonl from its present end; a line that is not finished waits for its rest."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = path.stat().st_size if path.exists() else 0

    def read(self) -> list[dict[str, Any]]:
        """The events that were added since the last call."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._offset)
                whole, newline, _ = file.read().rpartition(b"\n")
        except FileNotFoundError:
            return []
        self._offset += len(whole) + len(newline)
        return [event for line in whole.splitlines() if (event := parse_event(line)) is not None]


def parse_event(line: bytes | str) -> dict[str, Any] | None:
    """One line of events.jsonl; None where it is no JSON object."""
    try:
        event = json.loads(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) else None
