"""What the page of `bench modes` says of a group: how to read it, and what was not as it should be. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from sparsync.bench.modes.comparing import Group
from sparsync.bench.modes.links import NAMESPACES, NOT_SHAPED, PROXY

ENDED = " †"
"""Behind a loss at equal time where a run had ended before."""
HOW = (
    "Losses at equal tokens and at equal time lie on straight lines between evaluated copies of the model; nobody "
    "evaluates while the clock runs. Seconds count from the first unit's begin; rates and shares leave out the first "
    "tenth. Bytes are those at all sockets of the workers: up and down of pushes and deltas; state (deposits of "
    "streams, the first upload) and control (the coordinator) both ways; fewer bytes counts all four. Efficiency is "
    "against so many times the one process. Waiting of DDP is communication that no computing hides."
)


def words(group: Group) -> str:
    return " ".join([*_how(group), *_warnings(group)])


def _how(group: Group) -> Iterator[str]:
    seeds = min(row.seeds for row in group.rows)
    yield f"Mean and standard deviation over {seeds} seeds." if seeds > 1 else "One seed: no spread is known."
    yield (
        f"What is held against {group.reference} is held against its run with the same seed: times are to the loss "
        "that it ends with."
    )
    yield HOW


def _warnings(group: Group) -> Iterator[str]:
    shaped = {row.shaped for row in group.rows}
    if any(row.ended for row in group.rows):
        yield f"{ENDED.strip()} at least one run had ended before that time, and is taken at its last loss."
    if shaped & {NAMESPACES, PROXY}:
        yield (
            "Only the links of workers and ranks are limited, each in both directions; servers and coordinator "
            "send and receive for all of them at once, without a limit of their own."
        )
    if group.without:
        yield (
            f"THE REFERENCE {group.without.upper()} FAILED HERE: losses and bytes are held against {group.reference} "
            "instead."
        )
    if len({series.conditions for series in group.series}) > 1:
        yield (
            "Times are compared only between runs that were straggled and shaped alike; elsewhere stands a dash."
        )
    if group.absent:
        yield f"Failed, and not in the table or with fewer seeds: {'; '.join(group.absent)}."
    if PROXY in shaped or NOT_SHAPED in shaped:
        yield (
            "The link of the clusters was shaped by a proxy in user space, which takes CPU of its own; THE BASELINES "
            "WERE NOT SHAPED, since there are no network namespaces here: do not compare their times."
        )
