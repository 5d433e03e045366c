"""From what a case's processes left to one result. Pure: events, summary and lines of recorders in, a JSON object out.

Seconds are counted from the moment that the first unit begins, on the machine's monotonic clock: start of processes,
imports and the upload of the model are left out, for all alike. `s` of an event is put on that clock by the copies,
which tell their moment themselves. Tokens are those of the steps that events.jsonl has closed, or where
units settle as they arrive those that workers have pushed, what is on its way included; bytes those at the
workers' sockets, between two looks in proportion to time, and in the end those of the summary: `bytes_up` and
`bytes_down` of pushes and deltas; `bytes_state` of deposits and the upload, and `bytes_control` with the coordinator,
both ways.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sparsync.bench.modes.figures import finite

ROUNDED_S = 0.001
"""`s` of an event is rounded to this; a copy that it enables may seem to be earlier."""
WARM_UP = 0.1
"""Share of the tokens before which no rate and no share of time is taken."""
MOST_STEPS = 200
"""Of the training loss kept in a result; events.jsonl has all."""
KEPT = (
    *("steps", "tokens", "wall_s", "train_loss", "val_loss", "val_loss_server", "pure", "params"),
    *("params_digest", "published_digest", "data_digest", "units_settled", "units_empty", "staleness"),
    *(
        "mass_returned",
        "bytes_pushed",
        "bytes_pulled",
        "bytes_state",
        "bytes_dense",
        "recoveries",
        "restarts",
    ),
)
WAYS = ("up", "down", "state", "control")
LOSSES = ("train_loss", "val_loss", "val_loss_server")
SPENT = ("computed_s", "slept_s", "sent_s", "waited_s", "kept_s")

Event = Mapping[str, Any]
Line = Mapping[str, Any]


def result(
    *,
    events: Sequence[Event],
    summary: Mapping[str, Any],
    workers: Mapping[str, Sequence[Line]],
    losses: Mapping[int, float | None],
    arrives: bool = False,
) -> dict[str, Any]:
    """One case's.

    Args:
        events: of events.jsonl, in their order. summary: of the run.
        workers: lines of each recorder.
        losses: validation loss of each copy by its number; None where it is not finite.
        arrives: whether units settle as they arrive: the model is then ahead of the steps of which every unit is in.

    Raises: ValueError where something that every case has is not there.
    """
    lines = {name: whole(told) for name, told in workers.items() if told}
    if not lines:
        raise ValueError("no worker has recorded anything")
    offset = offset_s(events)
    begun = min(told[0]["at"] for told in lines.values()) - offset
    steps = closes(events, begun)
    if not steps:
        raise ValueError("no step was closed")
    curve = points(events, losses, steps=steps, lines=lines, offset=offset, begun=begun)
    if arrives:
        curve = [point | {"tokens": max(point["tokens"], point["tokens_sent"])} for point in curve]
    final = {
        "seconds": steps[-1][0],
        "tokens": summary["tokens"],
        "bytes_up": summary["bytes_pushed"],
        "bytes_down": summary["bytes_pulled"],
        "bytes_state": summary["bytes_state"],
        "bytes_control": sum(told[-1]["control"] for told in lines.values()),
        "loss": finite(summary["val_loss"]),
    }
    return {
        **{name: summary.get(name) for name in KEPT},
        **{name: finite(summary.get(name)) for name in LOSSES},
        "curve": [*curve, final],
        "train": thinned(steps),
        "bytes_control": final["bytes_control"],
        "seconds": steps[-1][0],
        "tokens_per_s": rate(steps),
        "shares": shares(lines.values()),
        "workers": {name: shares([told]) for name, told in lines.items()},
        "copies_s": round(sum(told[-1]["kept_s"] for told in lines.values()), 3),
    }


def offset_s(events: Iterable[Event]) -> float:
    """What `s` of an event lacks to the monotonic clock: a copy's moment is told before its event is written.

    Raises: ValueError for no copy.
    """
    found = [event["copied_at"] - event["s"] for event in events if "copied_at" in event]
    if not found:
        raise ValueError("no copy of the model was told of")
    return float(max(found))


def closes(events: Iterable[Event], begun: float) -> list[tuple[float, int, float | None]]:
    """(seconds, tokens so far, training loss) at the close of each step."""
    found, tokens = list[tuple[float, int, float | None]](), 0
    for event in events:
        if event["event"] == "step":
            tokens += event["tokens"]
            found.append((round(event["s"] - begun, 3), tokens, finite(event["loss"])))
    return found


def points(
    events: Iterable[Event],
    losses: Mapping[int, float | None],
    *,
    steps: Sequence[tuple[float, int, float | None]],
    lines: Mapping[str, Sequence[Line]],
    offset: float,
    begun: float,
) -> list[dict[str, Any]]:
    """One of each copy that was evaluated."""
    closed = [seconds for seconds, _, _ in steps]
    found = []
    for event in events:
        if "copied_at" not in event or int(event["copy"]) not in losses:
            continue
        seconds = event["copied_at"] - offset - begun
        before = bisect_right(closed, seconds + ROUNDED_S)
        found.append(
            {
                "seconds": round(max(0.0, seconds), 3),
                "tokens": steps[before - 1][1] if before else 0,
                "tokens_sent": moved(lines.values(), event["copied_at"], "tokens_pushed"),
                **{f"bytes_{way}": moved(lines.values(), event["copied_at"], way) for way in WAYS},
                "loss": losses[int(event["copy"])],
            }
        )
    return sorted(found, key=lambda point: float(point["seconds"]))


def moved(lines: Iterable[Sequence[Line]], at: float, way: str) -> int:
    """Bytes, or tokens, that all workers have moved until then."""
    return round(sum(_at(told, at, way) for told in lines))


def _at(lines: Sequence[Line], at: float, key: str) -> float:
    """A cumulative figure, between two lines in proportion; what it was last behind the last."""
    behind = bisect_right([line["at"] for line in lines], at)
    if behind == 0:
        return 0.0
    if behind == len(lines):
        return float(lines[-1][key])
    before, after = lines[behind - 1], lines[behind]
    share = (at - before["at"]) / (after["at"] - before["at"])
    return float(before[key] + share * (after[key] - before[key]))


def whole(lines: Sequence[Line]) -> list[dict[str, Any]]:
    """The lines of all processes of one name as if they were of one: what a later one begins with adds to it."""
    found, base, last = list[dict[str, Any]](), dict[str, float](), dict[str, Any]()
    for line in lines:
        if last and line["units"] < last["units"]:
            base = {key: base.get(key, 0) + value for key, value in last.items() if key != "at"}
        last = dict(line)
        found.append({k: v if k == "at" else v + base.get(k, 0) for k, v in line.items()})
    return found


def thinned(steps: Sequence[tuple[float, int, float | None]]) -> list[tuple[float, int, float | None]]:
    """Every n-th, the last one included."""
    every = -(-len(steps) // MOST_STEPS)
    return list(reversed(steps[::-1][::every]))


def rate(steps: Sequence[tuple[float, int, float | None]]) -> float | None:
    """Tokens a second behind the warm-up; None where nothing is."""
    first = next((s for s in steps if s[1] >= WARM_UP * steps[-1][1]), steps[-1])
    seconds = steps[-1][0] - first[0]
    return round((steps[-1][1] - first[1]) / seconds, 1) if seconds > 0 else None


def shares(workers: Iterable[Sequence[Line]]) -> dict[str, float] | None:
    """How the time went behind the warm-up, as shares; None where there is none."""
    totals = dict.fromkeys(SPENT, 0.0)
    for lines in workers:
        first = next((line for line in lines if line["tokens"] >= WARM_UP * lines[-1]["tokens"]), lines[-1])
        for kind in SPENT:
            totals[kind] += lines[-1][kind] - first[kind]
    spent = sum(totals.values())
    if spent <= 0:
        return None
    return {kind.removesuffix("_s"): round(seconds / spent, 4) for kind, seconds in totals.items()}
