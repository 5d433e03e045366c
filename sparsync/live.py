"""Live progress of a run: a table on a terminal, plain lines elsewhere.

`status` is the object that the coordinator's Status call returns; each key may be missing or null
early on. `progress_line`, `event_line` and `render` are pure; the displays add a place to write to
and a pace. Every display takes notes (one line of text) beside the progress.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import click

from sparsync.quantities import (
    show,
    show_bytes,
    show_count,
    show_loss,
    show_ratio,
    show_seconds,
    show_share,
)

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

Status = Mapping[str, Any]

LINE_EVERY_S = 5.0
MAX_ROWS = 24
"""Workers shown in the table; a terminal is not much higher."""
PACE_WINDOW_S = 60.0
STATE_STYLES = {
    "computing": "green",
    "ready": "green",
    "waiting": "yellow",
    "evaluating": "cyan",
    "dead": "bold red",
    "left": "dim",
}


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
        self._live.update(
            render(status, eta_s=self._pace.remaining_s(status.get("total_steps"))), refresh=True
        )

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
    parts.append(f"{_saved(status)} fewer bytes than dense")
    parts.append(_workers_in_words(status))
    if (state := status.get("state")) not in (None, "running"):
        parts.insert(0, f"[{state}{_why(status)}]")
    return "  ".join(parts)


def _saved(status: Status) -> str:
    moved = (status.get("bytes_pushed") or 0) + (status.get("bytes_pulled") or 0)
    return show_ratio(status.get("bytes_dense"), moved)


def _workers_in_words(status: Status) -> str:
    workers = newest_of_each_name(status.get("workers") or [])
    gone = [f"{show(w.get('name'))} {w['state']}" for w in workers if w.get("state") in ("dead", "left")]
    present = len(workers) - len(gone)
    words = f"{present} worker{'' if present == 1 else 's'}"
    return words + (f" ({', '.join(gone)})" if gone else "")


def newest_of_each_name(members: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The last incarnation of each process: one that was started again is in the status twice."""
    return list({show(m.get("name")): m for m in members}.values())


def _why(event: Mapping[str, Any]) -> str:
    return f": {event['reason']}" if event.get("reason") else ""


def _evaluated(event: Mapping[str, Any]) -> str:
    of = "" if event.get("model") in (None, "published") else f" of {event['model']}"
    return f"validation loss{of} at step {show(event.get('step'))}: {show_loss(event.get('loss'))}"


def _died(event: Mapping[str, Any]) -> str:
    streams = " ".join(str(stream) for stream in event.get("streams") or [])
    return f"{show(event.get('name'))} died{_why(event)}" + (
        f"; streams {streams} go to others" if streams else ""
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
    "died": _died,
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


# ── the table ───────────────────────────────────────────────────────────────────────────────────


def render(status: Status, *, eta_s: float | None = None) -> RenderableType:
    """The whole picture for a terminal: progress, figures, a row for each worker and each server."""
    from rich.console import Group
    from rich.text import Text

    parts: list[RenderableType] = [_progress(status, eta_s), _figures(status)]
    if status.get("reason") and status.get("state") != "running":
        parts.insert(1, Text(f"{show(status.get('state'))}: {status['reason']}", style="yellow"))
    if status.get("workers"):
        parts.append(_workers(status))
    if status.get("servers"):
        parts.append(_servers(status))
    return Group(*parts)


def _progress(status: Status, eta_s: float | None) -> Table:
    from rich.progress_bar import ProgressBar
    from rich.table import Table

    step, total = status.get("step") or 0, status.get("total_steps") or 0
    grid = Table.grid(padding=(0, 2))
    grid.add_row(
        f"[bold]step {step}/{show(total or None)}[/]",
        ProgressBar(total=total or 1, completed=step, width=40),
        f"{show(status.get('state'))}, {show_seconds(eta_s)} to go" if eta_s else show(status.get("state")),
    )
    return grid


def _figures(status: Status) -> Table:
    from rich.table import Table

    value = show_loss(status.get("val_loss"))
    at = f" (step {status['val_loss_step']})" if status.get("val_loss_step") is not None else ""
    grid = Table.grid(padding=(0, 3))
    grid.add_row(
        f"loss [bold]{show_loss(status.get('loss'))}[/]",
        f"validation [bold]{value}[/]{at}",
        f"[bold]{show_count(status.get('tokens_per_s'))}[/] tokens/s",
    )
    grid.add_row(
        f"sent {show_bytes(status.get('bytes_pushed'))}",
        f"received {show_bytes(status.get('bytes_pulled'))}",
        f"[bold]{_saved(status)}[/] fewer bytes than dense",
    )
    return grid


def _workers(status: Status) -> Table:
    from rich.table import Table

    table = Table(box=None, header_style="dim", padding=(0, 2, 0, 0))
    for heading in ("worker", "state", "streams"):
        table.add_column(heading)
    for heading in ("units", "s/unit", "tokens/s", "waiting"):
        table.add_column(heading, justify="right")
    workers = newest_of_each_name(status["workers"])
    for w in workers[:MAX_ROWS]:
        state = show(w.get("state"))
        table.add_row(
            show(w.get("name")),
            f"[{STATE_STYLES.get(state, 'default')}]{state}[/]",
            " ".join(str(s) for s in w.get("streams") or []) or "–",
            show(w.get("units")),
            show_seconds(w.get("unit_s")),
            show_count(w.get("tokens_per_s")),
            show_share(w.get("wait_share")),
        )
    if len(workers) > MAX_ROWS:
        table.add_row(f"… and {len(workers) - MAX_ROWS} more")
    return table


def _servers(status: Status) -> Table:
    from rich.table import Table

    table = Table(box=None, header_style="dim", padding=(0, 2, 0, 0))
    for heading in ("server", "address"):
        table.add_column(heading)
    for heading in ("version", "blocks", "delta"):
        table.add_column(heading, justify="right")
    for s in status["servers"][:MAX_ROWS]:
        table.add_row(
            show(s.get("name")),
            show(s.get("address")),
            show(s.get("version")),
            show(s.get("blocks")),
            show_bytes(s.get("delta_bytes")),
        )
    return table
