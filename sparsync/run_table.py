"""A run as one picture for a terminal: head, figures, a row for each worker and each server. Pure.

`status` is the object of docs/status.md; each key may be missing or null. The one way in which `train`,
`status` and `top` draw a run. A column of which nothing is known is left out; where the terminal is too
narrow, so are those of the highest rank.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sparsync.quantities import (
    UNKNOWN,
    show,
    show_bytes,
    show_count,
    show_histogram,
    show_loss,
    show_number,
    show_ratio,
    show_seconds,
    show_share,
)

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.table import Table

Status = Mapping[str, Any]
Row = Mapping[str, Any]

PLAIN_WIDTH = 200
"""Columns where nothing is known about the reader, as in a file."""
GAP = 2
INSECURE = "insecure: plain text, open to everyone who can reach it"
STATE_STYLES = {
    "computing": "green",
    "ready": "green",
    "waiting": "yellow",
    "evaluating": "cyan",
    "leaving": "yellow",
    "suspect": "red",
    "dead": "bold red",
    "left": "dim",
}


def render(status: Status, *, eta_s: float | None = None, max_rows: int | None = None) -> RenderableType:
    """The whole picture. `max_rows`: of workers and of servers; None: all."""
    from rich.console import Group
    from rich.text import Text

    parts: list[RenderableType] = [Text(_head(status)), _progress(status, eta_s), _figures(status)]
    if status.get("reason") and status.get("state") != "running":
        parts.insert(2, Text(f"{show(status.get('state'))}: {show(status['reason'])}", style="yellow"))
    if status.get("insecure"):
        parts.insert(1, Text(INSECURE, style="bold red"))
    if happened := pace_words(status):
        parts.append(Text("   ".join(happened)))
    if workers := newest_of_each_name(status.get("workers") or []):
        if spread := spread_words(workers):
            parts.append(Text(spread))
        parts.append(FittedTable(WORKER_COLUMNS, workers, max_rows))
    if servers := status.get("servers"):
        parts.append(FittedTable(SERVER_COLUMNS, servers, max_rows))
    return Group(*parts)


def print_status(status: Status) -> None:
    """The picture once, whole, on standard output."""
    from rich.console import Console

    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = PLAIN_WIDTH
    console.print(render(status))


def newest_of_each_name(members: Sequence[Row]) -> list[Row]:
    """The last incarnation of each process: one that was started again is in the status twice."""
    return list({show(m.get("name")): m for m in members}.values())


def saved(status: Status) -> str:
    """How many times fewer bytes than dense."""
    moved = (status.get("bytes_pushed") or 0) + (status.get("bytes_pulled") or 0)
    return show_ratio(status.get("bytes_dense"), moved)


def spread_words(workers: Sequence[Row]) -> str:
    """How far apart the workers' speeds are, and who is the slowest; nothing of fewer than three."""
    timed = sorted(
        (w["unit_s"], show(w.get("name"))) for w in workers if w.get("unit_s") and not w.get("gone")
    )
    if len(timed) < 3:
        return ""
    (fastest, _), (middle, _), (slowest, name) = timed[0], timed[len(timed) // 2], timed[-1]
    return (
        f"s/unit {show_seconds(fastest)} to {show_seconds(slowest)}, median {show_seconds(middle)}; "
        f"slowest {name}, {slowest / middle:.1f} medians"
    )


def pace_words(status: Status) -> list[str]:
    """What a pace without full steps brings about, as far as there is any of it; of a status or of a summary."""
    histogram = status.get("staleness") or {}
    words = []
    if any(count for staleness, count in histogram.items() if float(staleness)):
        words.append(f"staleness {show_histogram(histogram)}")
    if status.get("mass_returned"):
        words.append(f"{show_number(status['mass_returned'])} units' worth given back")
    if status.get("mass_lost"):
        words.append(f"residuals of norm {show_number(status['mass_lost'])} lost with the dead")
    if status.get("units_owed"):
        words.append(f"{show(status['units_owed'])} late units owed")
    return words


# ── above the tables ────────────────────────────────────────────────────────────────────────────


def _head(status: Status) -> str:
    parts = [show(status.get("run")), f"mode {show(status.get('mode'))}"]
    if status.get("segment") is not None:
        parts.append(f"segment {status['segment']}")
    if status.get("switching"):
        parts.append(f"switching to {status['switching']}")
    if status.get("clock") is not None and status["clock"] != status.get("step"):
        parts.append(f"slowest clock {status['clock']}")
    return "  ".join(parts)


def _progress(status: Status, eta_s: float | None) -> Table:
    from rich.progress_bar import ProgressBar
    from rich.table import Table

    step, total = status.get("step") or 0, status.get("total_steps") or 0
    grid = Table.grid(padding=(0, GAP))
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
    cells = [
        f"loss [bold]{show_loss(status.get('loss'))}[/]",
        f"validation [bold]{value}[/]{at}",
        f"[bold]{show_count(status.get('tokens_per_s'))}[/] tokens/s",
        f"sent {show_bytes(status.get('bytes_pushed'))}",
        f"received {show_bytes(status.get('bytes_pulled'))}",
        f"[bold]{saved(status)}[/] fewer bytes than dense",
    ]
    grid = Table.grid(padding=(0, GAP + 1))
    for first in range(0, len(cells), 3):
        grid.add_row(*cells[first : first + 3])
    return grid


# ── rows and columns ────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Column:
    """One column: what stands in it, and how soon a narrow terminal goes without (rank 0: never)."""

    heading: str
    cell: Callable[[Row], str]
    rank: int = 0
    right: bool = True
    style: Callable[[Row], str] | None = None


def _of(key: str, shown: Callable[[Any], str]) -> Callable[[Row], str]:
    return lambda row: shown(row.get(key))


def _nonzero(shown: Callable[[Any], str]) -> Callable[[Any], str]:
    return lambda value: shown(value or None)


def _state(worker: Row) -> str:
    return show(worker.get("state")) + (", straggler" if worker.get("straggler") else "")


def _state_style(worker: Row) -> str:
    return (
        "bold yellow" if worker.get("straggler") else STATE_STYLES.get(show(worker.get("state")), "default")
    )


def _streams(worker: Row) -> str:
    return " ".join(str(stream) for stream in worker.get("streams") or []) or UNKNOWN


def _role(server: Row) -> str:
    """What a server is for, and what is amiss."""
    words = [show(server.get("role"))]
    if server.get("away_s") is not None:
        words.append(f"away for {show_seconds(server['away_s'])}")
    elif server.get("in_sync") is not None:
        words.append("in sync" if server["in_sync"] else "not in sync")
    return ", ".join(words)


def _role_style(server: Row) -> str:
    if server.get("away_s") is not None:
        return "bold red"
    return "yellow" if server.get("in_sync") is False else "default"


WORKER_COLUMNS = (
    Column("worker", _of("name", show), right=False),
    Column("state", _state, right=False, style=_state_style),
    Column("streams", _streams, right=False),
    Column("leased", _of("leases", show)),
    Column("units", _of("units", show)),
    Column("s/unit", _of("unit_s", show_seconds)),
    Column("tokens/s", _of("tokens_per_s", show_count), rank=1),
    Column("waiting", _of("wait_share", show_share)),
    Column("stale", _of("staleness", show_number), rank=2),
    Column("sent", _of("bytes_pushed", show_bytes), rank=4),
    Column("received", _of("bytes_pulled", show_bytes), rank=5),
    Column("residual", _of("residual_norm", _nonzero(show_number)), rank=6),
    Column("beat", _of("beat_age_s", show_seconds), rank=3),
)
SERVER_COLUMNS = (
    Column("server", _of("name", show), right=False),
    Column("shard", _of("shard", show), rank=2),
    Column("role", _role, rank=3, right=False, style=_role_style),
    Column("address", _of("address", show), right=False),
    Column("version", _of("version", show)),
    Column("blocks", _of("blocks", show), rank=1),
    Column("delta", _of("delta_bytes", show_bytes)),
)


class FittedTable:
    """A table of `rows` that fits the width which it is drawn in; rows beyond `max_rows` are counted only."""

    def __init__(self, columns: Sequence[Column], rows: Sequence[Row], max_rows: int | None) -> None:
        self._rows = rows[:max_rows]
        self._left_out = len(rows) - len(self._rows)
        cells = {c: [c.cell(row) for row in self._rows] for c in columns}
        self._cells = {
            c: texts for c, texts in cells.items() if c is columns[0] or any(t != UNKNOWN for t in texts)
        }

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        from rich.table import Table
        from rich.text import Text

        columns = self._fitting(options.max_width)
        table = Table(box=None, header_style="dim", padding=(0, GAP, 0, 0))
        for column in columns:
            table.add_column(column.heading, justify="right" if column.right else "left")
        for i, row in enumerate(self._rows):
            table.add_row(*(Text(self._cells[c][i], style=c.style(row) if c.style else "") for c in columns))
        if self._left_out:
            table.add_row(f"… and {self._left_out} more")
        yield table

    def _fitting(self, width: int) -> list[Column]:
        from rich.cells import cell_len

        wide = {
            c: GAP + max(cell_len(text) for text in (c.heading, *texts)) for c, texts in self._cells.items()
        }
        columns = list(wide)
        while sum(wide[c] for c in columns) > width and (spare := [c for c in columns if c.rank]):
            columns.remove(max(spare, key=lambda c: c.rank))
        return columns
