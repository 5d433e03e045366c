"""What `bench modes` found, for people. Pure: groups and the result in, tables and plots out.

A method has one colour throughout; baselines are dashed. Every seed is a line of its own.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sparsync.bench.modes.comparing import SLACK, Group, Row, Series, groups
from sparsync.bench.modes.figures import Spread, along
from sparsync.bench.modes.methods import CLUSTER
from sparsync.bench.modes.results import measured_of
from sparsync.bench.modes.words import ENDED, words
from sparsync.bench.report import Section, Table, page
from sparsync.drawing import (
    PALETTE,
    Bar,
    Frame,
    Key,
    axes,
    bars,
    document,
    dot,
    keys,
    line,
    note,
    single,
    stacked,
)
from sparsync.quantities import show_bytes

TITLE = "sparsync bench modes"
EARLY = 0.1
"""Share of the tokens before which losses are too high to be drawn beside those that count."""
WIDTH = 1.6
SHARES = {
    "computed": "computing",
    "slept": "made slow",
    "sent": "encoding, optimizer",
    "waited": "waiting, receiving",
    "kept": "copies for evaluation",
}
AT_EDGE = {
    "": "best",
    "lowest": "best, at the LOWER EDGE of the grid",
    "highest": "best, at the UPPER EDGE of the grid",
    "the only one": "not tuned: the only one",
}
STALE = ((0, 0, "0"), (1, 1, "1"), (2, 2, "2"), (3, 4, "3 to 4"), (5, 8, "5 to 8"), (9, math.inf, "over 8"))
AXES = {
    "seconds": "seconds since the first unit began",
    "tokens": "tokens",
    "bytes": "bytes of all sockets, both ways",
}

Result = Mapping[str, Any]


def groups_of(result: Result) -> list[Group]:
    """From the JSON object of the whole benchmark."""
    best = {(m, codec, workers): one["lr"] for one in result["best"] for m, codec, workers in [one["key"]]}
    return groups((measured_of(told) for told in result["cases"]), best)


# ── tables ──────────────────────────────────────────────────────────────────────────────────────


def percent(value: float | None) -> str | None:
    return None if value is None else f"{value:.0%}"


def times(value: Spread | float | None) -> str | None:
    if isinstance(value, Spread):
        return f"{value.mean:.3g}x" + (f" ± {value.sd:.2g}" if value.n > 1 else "")
    return None if value is None else f"{value:.3g}x"


def gap(found: Spread | None) -> str | None:
    """As a signed share."""
    if found is None:
        return None
    return f"{found.mean:+.2%}" + (f" ± {found.sd:.2%}" if found.n > 1 else "")


def marked(found: Spread | None, *, ended: bool) -> str | None:
    return None if found is None else f"{found}{ENDED if ended else ''}"


def until(found: Spread | None, reached: int, seeds: int) -> Spread | str | None:
    """A time to loss; or how many seeds have one, where some have not."""
    return f"{reached} of {seeds} seeds" if found is None and reached else found


def whole(found: Spread | None) -> str | None:
    """Of large numbers."""
    if found is None:
        return None
    return f"{found.mean:,.0f}" + (f" ± {found.sd:,.0f}" if found.n > 1 else "")


def reached(row: Row) -> list[object]:
    """Loss and time."""
    return [
        *(row.label, f"{row.lr:g}", row.loss, gap(row.against)),
        *(until(row.seconds_to, row.reached, row.seeds), times(row.sooner)),
        *(until(row.seconds_to_slack, row.reached_slack, row.seeds), times(row.sooner_slack)),
        marked(row.loss_at_time, ended=row.ended > 0),
    ]


def moved(row: Row) -> list[object]:
    """Rates and bytes."""
    waiting = row.waiting
    return [
        *(row.label, whole(row.tokens_per_s), percent(row.efficiency), percent(row.of_unlimited)),
        f"{waiting.mean:.1%}" if waiting else None,
        *(show_bytes(found.mean) if found else None for found in (row.bytes_up, row.bytes_down)),
        *(show_bytes(found.mean) if found else None for found in (row.bytes_state, row.bytes_control)),
        *(times(row.fewer_bytes), row.staleness, row.recoveries, row.shaped),
    ]


def tables_of(group: Group) -> tuple[Table, Table]:
    first = (
        *("method", "lr", f"loss at {group.tokens:,.0f} tokens", f"against {group.reference}"),
        *("s to its loss", "sooner", f"s to its loss + {SLACK:.0%}", "sooner"),
        f"loss at {group.seconds:.3g} s",
    )
    second = (
        *("method", "tokens/s", "efficiency", "of unlimited", "waiting", "up", "down", "state", "control"),
        *("fewer bytes", "staleness", "recoveries", "shaped by"),
    )
    return Table(first, [*map(reached, group.rows)]), Table(second, [*map(moved, group.rows)])


def learning_rates(result: Result) -> Table:
    """Every rate that was tried."""
    rows = [
        [f"{one['method']}, {one['workers']} workers", f"{one['lr']:g}", one["val_loss"], _verdict(one)]
        for one in result["learning_rates"]
    ]
    return Table(("tuned", "learning rate", "loss in the end", ""), rows)


def codecs(result: Result) -> Table:
    """What each cluster sent, whatever the defaults are by now."""
    found = {
        measured_of(told).case.label: told.get("sends", "") for told in result["cases"] if not told["error"]
    }
    return Table(("method", "up / down"), [(label, sends) for label, sends in found.items() if sends])


def _verdict(one: Mapping[str, Any]) -> str:
    if one["error"]:
        return "failed"
    if one["val_loss"] is None:
        return "diverged"
    return AT_EDGE[one["edge"]] if one["best"] else ""


def tables(result: Result) -> list[Table]:
    """For a terminal."""
    return [table for group in groups_of(result) for table in _titled(group)]


def _titled(group: Group) -> list[Table]:
    first, second = tables_of(group)
    return [Table((group.title,), []), first, second]


# ── plots ───────────────────────────────────────────────────────────────────────────────────────


def colours(found: Sequence[Group]) -> dict[str, Key]:
    """By label, the same in every group."""
    labels = dict.fromkeys((s.label, s.kind != CLUSTER) for group in found for s in group.series)
    own = {False: 0, True: 0}
    entries = dict[str, Key]()
    for label, is_baseline in labels:
        at = own[is_baseline] + (3 if is_baseline else 0)
        own[is_baseline] += 1
        entries[label] = Key(label, PALETTE[at % len(PALETTE)], is_baseline)
    return entries


def loss_plot(group: Group, axis: str, known: Mapping[str, Key]) -> str:
    """Every run's loss along an axis; bytes in powers of ten."""
    title = f"Loss against {axis}: {group.title}"
    cut = max((_late(s, group.tokens) for s in group.series), default=math.inf)
    lines = [
        (known[s.label], points)
        for s in group.series
        for run in s.runs
        if (points := drawn(run.result, axis, cut))
    ]
    if not lines:
        return document(title, [note("nothing to draw")])
    frame = Frame.around([point for _, points in lines for point in points])
    scale = _power if axis == "bytes" else (_thousands if axis == "tokens" else None)
    texts = {"x_text": scale} if scale else {}
    body = axes(frame, x=AXES[axis], y="validation loss", **texts)
    for key, points in lines:
        body.append(line(frame, points, key.colour, WIDTH, dashed=key.dashed))
        body.append(dot(frame, points[-1], key.colour, f"{key.name}: {points[-1][1]:.4f}"))
    return document(title, body)


def drawn(result: Mapping[str, Any], axis: str, cut: float) -> list[tuple[float, float]]:
    """The points below `cut`, in the units of the plot."""
    found = [
        (along(p, axis), p["loss"]) for p in result["curve"] if p["loss"] is not None and p["loss"] <= cut
    ]
    return [(math.log10(x), y) for x, y in found if x > 0] if axis == "bytes" else found


def _late(series: Series, tokens: float) -> float:
    """The highest loss behind the early part."""
    losses = [
        p["loss"]
        for run in series.runs
        for p in run.result["curve"]
        if p["loss"] is not None and p["tokens"] >= EARLY * tokens
    ]
    return max(losses, default=0.0)


def _power(value: float) -> str:
    return show_bytes(10**value)


def _thousands(value: float) -> str:
    return f"{value / 1e6:g}M" if value >= 1e6 else f"{value / 1e3:g}k"


def waiting_plot(group: Group) -> str:
    rows = [stacked(s.label, _shares(s), _told(row)) for s, row in zip(group.series, group.rows, strict=True)]
    return bars(
        f"Where the time goes: {group.title}", rows, unit="share of the workers' time, warm-up dropped"
    )


def _shares(series: Series) -> list[tuple[str, float]]:
    found = [run.result["shares"] for run in series.runs if run.result["shares"]]
    return [
        (name, sum(shares[key] for shares in found) / len(found) if found else 0.0)
        for key, name in SHARES.items()
    ]


def _told(row: Row) -> str:
    return f"{row.waiting.mean:.0%} waiting" if row.waiting else ""


def staleness_plot(group: Group) -> str:
    """Of the clusters; a baseline has none."""
    rows = [_stale_bar(s) for s in group.series if s.kind == CLUSTER]
    return bars(f"Staleness of units, in steps: {group.title}", rows, unit="share of the units")


def _stale_bar(series: Series) -> Bar:
    units = dict.fromkeys((name for _, _, name in STALE), 0)
    for run in series.runs:
        for steps, n in (run.result["staleness"] or {}).items():
            units[next(name for low, high, name in STALE if low <= int(steps) <= high)] += n
    total = sum(units.values()) or 1
    return stacked(series.label, [(name, n / total) for name, n in units.items()])


def rate_plot(group: Group) -> str:
    rows = [
        single(row.label, row.tokens_per_s.mean, whole(row.tokens_per_s) or "")
        for row in group.rows
        if row.tokens_per_s
    ]
    return bars(f"Tokens a second: {group.title}", rows, unit="tokens/s")


# ── the page ────────────────────────────────────────────────────────────────────────────────────


def sections(result: Result) -> list[Section]:
    found = groups_of(result)
    known = colours(found)
    return [
        *(section(group, known) for group in found),
        Section(
            "Learning rates",
            "Every method was tried at each of these, on the first link, straggler pattern and seed; what is compared "
            "above is each at its best. One at an edge of the grid may have a better one beyond it.",
            [learning_rates(result)],
        ),
        Section(
            "Codecs",
            "What values went up and down; of whole blocks, where no number of elements stands.",
            [codecs(result)],
        ),
        *origins(result),
        *failures(result),
    ]


def section(group: Group, known: Mapping[str, Key]) -> Section:
    entries = [known[s.label] for s in group.series]
    is_stale = any(s.kind == CLUSTER for s in group.series)
    plots = [
        *(drawing for axis in AXES for drawing in (keys(entries), loss_plot(group, axis, known))),
        *(rate_plot(group), waiting_plot(group)),
        *([staleness_plot(group)] if is_stale else []),
    ]
    return Section(group.title, words(group), tables_of(group), plots)


def origins(result: Result) -> Iterable[Section]:
    """Where results come from more than one commit or machine: which, and how many of each."""
    kept = [told["about"] for told in result["cases"] if not told["error"] and "about" in told]
    count = Counter(
        (str(about["commit"]), about["machine"]["cpu"], about["machine"].get("cores")) for about in kept
    )
    if len(count) > 1:
        yield Section(
            "Measured at more than one commit or machine",
            "Results that were there already are not measured again: these were not all measured by the same code on "
            "the same machine. Times of different rows are comparable only where both are the same; another --out "
            "measures everything anew.",
            [Table(("commit", "machine", "cores", "runs"), [[*key, n] for key, n in count.items()])],
        )


def failures(result: Result) -> Iterable[Section]:
    rows = [
        (measured_of(told).case.words, told["error"].splitlines()[0])
        for told in result["cases"]
        if told["error"]
    ]
    if rows:
        yield Section(
            "Failed", "Left out above; the same command tries them again.", [Table(("case", "why"), rows)]
        )


def html(result: Result) -> str:
    return page(TITLE, result, sections(result))
