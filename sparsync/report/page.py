"""The page of a report: what came out, then loss, rates, members, staleness, bytes, and what went wrong."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sparsync.live import parse_event
from sparsync.page import Section, Table, document
from sparsync.plot import Losses, loss_svg, read_losses
from sparsync.quantities import (
    show,
    show_bytes,
    show_count,
    show_loss,
    show_number,
    show_ratio,
    show_seconds,
    show_share,
)
from sparsync.report import figures
from sparsync.report.history import History, read_history
from sparsync.report_lines import summary_lines
from sparsync.run_directory import RunDirectory, read_json, write_whole
from wire.errors import NoInput, UsageError

MAX_MISHAPS = 500

Summary = Mapping[str, Any]


def write_report(run: RunDirectory, path: Path | None = None) -> tuple[Path, History]:
    """The report of a run as a file, `report.html` of its directory unless another is named; and what it tells.

    Raises: NoInput, DamagedFile, UsageError.
    """
    history, losses = read_run(run)
    to = path or run.report
    try:
        write_whole(to, html(run, history, losses))
    except OSError as error:
        raise UsageError(
            f"{to} cannot be written ({error.strerror}); choose another place with --out"
        ) from None
    return to, history


def read_run(run: RunDirectory) -> tuple[History, Losses]:
    """What the events of a run tell. Raises NoInput where there are none."""
    if not run.events.is_file():
        raise NoInput(f"{run.path}: no events.jsonl there; expected the directory of a run, as runs/NAME")
    return read_history(_events(run)), read_losses(_events(run))


def _events(run: RunDirectory) -> Iterator[dict[str, Any]]:
    with run.events.open(encoding="utf-8", errors="replace") as lines:
        for text in lines:
            if (event := parse_event(text)) is not None:
                yield event


def html(run: RunDirectory, history: History, losses: Losses) -> str:
    """The whole file."""
    summary = read_json(run.summary)
    sections = [
        _loss(losses),
        _rates(history),
        _members(history),
        *_modes(history),
        _staleness(history, summary),
        _bytes(history, summary),
        *_workers(history),
        _mishaps(history),
    ]
    config = run.config.read_text(encoding="utf-8") if run.config.is_file() else ""
    raw = [("Configuration", "the effective configuration", config)] if config else []
    if summary is not None:
        raw.append(("Summary", "the summary as JSON", json.dumps(summary, indent=1)))
    return document(f"Report of {run.path.absolute().name}", _head(history, summary), sections, raw)


def _head(history: History, summary: Summary | None) -> Table:
    if summary is not None:
        rows = [(text[:9].strip(), text[9:]) for text in summary_lines(summary)]
        rows.append(("ended", show(summary.get("ended"))))
    else:
        newest = history.steps[-1][1] if history.steps else None
        state = history.ended or "no summary yet: it is live, or its coordinator did not end in order"
        rows = [("run", history.run), ("newest step", show(newest)), ("state", state)]
    rows.append(("began", f"{history.began_at}, timelines {history.timelines}"))
    return Table(("what came out", ""), rows)


def _loss(losses: Losses) -> Section:
    rows = [
        (model, show(max(curve)), show_loss(curve[max(curve)]), show_loss(min(curve.values())))
        for model, curve in losses.evaluated.items()
        if curve
    ]
    tables = [Table(("validation on", "newest step", "loss", "lowest loss"), rows)] if rows else []
    words = "Of training: the mean over the units of a step, and a smooth line over it. Of validation: as workers told."
    return Section("Loss", words, tables, [loss_svg(losses, title="loss by step")])


def _rates(history: History) -> Section:
    words = "Tokens of settled steps a second, over equal stretches of time; a stall shows as a valley."
    return Section("Rates", words, plots=[figures.rates_svg(history)])


def _members(history: History) -> Section:
    shown, known = len(figures.drawn(history)), len(history.processes)
    words = (
        "A row is one name, over all its incarnations. A gap: it was not in the run, or its coordinator was not there "
        "to see it."
        + (f" {known - shown} processes that nothing befell are left out." if known > shown else "")
    )
    plots = [figures.timeline_svg(history)]
    if figures.crew_changes(history):
        plots.append(figures.crew_svg(history))
    return Section("Members", words, plots=plots)


def _modes(history: History) -> list[Section]:
    if len(history.stages) < 2:
        return []
    rows = [(stage.mode, stage.step, show_seconds(stage.at_s)) for stage in history.stages]
    words = "The run went over to another pace at these steps."
    return [Section("Modes", words, [Table(("mode", "from step", "at"), rows)])]


def _staleness(history: History, summary: Summary | None) -> Section:
    newest: Mapping[str, Any] = history.figures[-1] if history.figures else {}
    told: Summary = summary or newest
    histogram: Mapping[str, int] = told.get("staleness") or {}
    if not any(count for value, count in histogram.items() if float(value)):
        words = "No unit was stale." if histogram else "Nothing is settled yet."
        return Section("Staleness", words)
    rows = [
        ("given back to senders, in units", show_number(told.get("mass_returned"))),
        ("norms of residuals that were lost", show_number(told.get("mass_lost"))),
    ]
    points = figures.mean_staleness(history)
    over_time = [figures.mean_staleness_svg(points)] if len(points) > 1 else []
    words = (
        "How many steps' worth of others' units were accepted since a unit was begun; counted, not estimated."
    )
    tables = [Table(("mass", ""), rows)]
    return Section("Staleness", words, tables, [figures.staleness_svg(histogram), *over_time])


def _bytes(history: History, summary: Summary | None) -> Section:
    newest: Mapping[str, Any] = history.figures[-1] if history.figures else {}
    told: Summary = summary or newest
    moved = (told.get("bytes_pushed") or 0) + (told.get("bytes_pulled") or 0)
    rows = [
        ("sent by workers", show_bytes(told.get("bytes_pushed"))),
        ("received by workers", show_bytes(told.get("bytes_pulled"))),
        ("dense training would move", show_bytes(told.get("bytes_dense"))),
        ("fewer than dense", show_ratio(told.get("bytes_dense"), moved)),
        ("stream state, both ways", show_bytes(told.get("bytes_state"))),
    ]
    words = (
        "At the workers' sockets, framing included; of the newest timeline in the table, of all in the plot."
    )
    plots = [figures.bytes_svg(history)] if history.figures else []
    return Section("Bytes", words, [Table(("bytes", ""), rows)], plots)


def _workers(history: History) -> list[Section]:
    if not history.workers:
        return []
    header = (
        "worker",
        "incarnation",
        "units",
        "s/unit",
        "tokens/s",
        "waiting",
        "stale",
        "sent",
        "received",
        "residual",
    )
    rows = [
        (
            show(w.get("name")),
            show(w.get("incarnation")),
            show(w.get("units")),
            show_seconds(w.get("unit_s")),
            show_count(w.get("tokens_per_s")),
            show_share(w.get("wait_share")),
            show_number(w.get("staleness")),
            show_bytes(w.get("bytes_pushed")),
            show_bytes(w.get("bytes_pulled")),
            show_number(w.get("residual_norm")),
        )
        for w in history.workers
    ]
    words = "Every incarnation that computed, as it stood when it left or the run ended; tokens/s while it computes."
    return [Section("Workers", words, [Table(header, rows)], [figures.waits_svg(history.workers)])]


def _mishaps(history: History) -> Section:
    if not history.mishaps:
        return Section(
            "Faults", "Nothing went wrong: nobody died, left before the end, was late or was refused."
        )
    shown = history.mishaps[:MAX_MISHAPS]
    more = len(history.mishaps) - len(shown)
    words = "Deaths, departures, refusals and stalls, and what became of them." + (
        f" The first {MAX_MISHAPS} of {len(history.mishaps)}; events.jsonl has all." if more else ""
    )
    rows = [(show_seconds(m.at_s), m.kind, m.who, m.words) for m in shown]
    return Section("Faults", words, [Table(("at", "what", "who", "why"), rows)], plain=True)
