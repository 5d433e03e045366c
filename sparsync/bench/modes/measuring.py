"""The whole benchmark: first the learning rates are tuned, then all else is measured at the best ones.

Results come from the store where they are there. A case that fails is told and left out of the comparison; the next
call runs it again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from sparsync.bench.about import about
from sparsync.bench.modes.cases import Case, Grid, best_lrs, edge, tuned_as
from sparsync.bench.modes.comparing import groups
from sparsync.bench.modes.links import Network, link
from sparsync.bench.modes.results import Measured, Store
from sparsync.bench.modes.running import Failed, run
from sparsync.quantities import show_seconds
from wire.clock import monotonic_clock

VOCABULARY = 256
"""Of the built-in model: bytes."""
Say = Callable[[str], None]


class Campaign:
    """Measures cases one after the other.

    Args:
        limit_s: of one case, beside what a dense gradient takes on its link (`allowed_s`).
    """

    def __init__(self, store: Store, network: Network, say: Say, *, limit_s: float) -> None:
        self._store, self._network, self._say, self._limit_s = store, network, say, limit_s
        self._took = list[float]()

    def measure(self, cases: Sequence[Case], *, of: int, done: int = 0) -> list[Measured]:
        """All of them; the number of the first is `done` + 1 of about `of`."""
        found = []
        for number, case in enumerate(cases, start=done + 1):
            known = self._store.find(case)
            measured = known or self._run(case)
            found.append(measured)
            self._say(f"[{number}/{of}] {case.words}: {self._outcome(measured, known=known is not None)}")
            if (left := of - number) and self._took:
                mean = sum(self._took) / len(self._took)
                self._say(f"        at most {show_seconds(left * mean)} left")
        return found

    def _run(self, case: Case) -> Measured:
        began = monotonic_clock.now()
        try:
            directory = self._store.directory(case)
            found = run(case, directory, network=self._network, limit_s=allowed_s(case, self._limit_s))
        except Failed as error:
            return Measured(case, {}, str(error))
        self._took.append(monotonic_clock.now() - began)
        return self._store.keep(case, found | {"about": about(), "took_s": round(self._took[-1], 2)})

    def _outcome(self, measured: Measured, *, known: bool) -> str:
        if measured.error:
            return f"FAILED: {measured.error}"
        told = measured.result
        loss = "diverged" if measured.loss is None else f"loss {measured.loss:.4f}"
        rate = f"{told['tokens_per_s']:,.0f} tokens/s" if told["tokens_per_s"] else "no rate"
        return f"{loss} after {show_seconds(told['seconds'])}, {rate}{', known' if known else ''}"


def allowed_s(case: Case, limit_s: float) -> float:
    """How long a case may take: `limit_s`, and thrice what float32 gradients of all its units take on its link."""
    rate = link(case.link).rate
    if rate is None:
        return limit_s
    work = case.work
    elements = 12 * work.layers * work.width**2 + (2 * VOCABULARY + work.seq_len) * work.width
    frames = max(
        2.0, work.streams / case.workers
    )  # a ring sends less than two gradients, a dense push one a unit
    return limit_s + 3.0 * work.steps * frames * 32 * elements / rate


def measure(grid: Grid, out: Path, network: Network, say: Say, *, limit_s: float) -> dict[str, Any]:
    """The whole benchmark as one JSON object. Raises: UsageError, ConfigError, SparsyncError."""
    grid = replace(grid, namespaces=not network.why_not)
    grid.check()
    if network.why_not and any(one.rate is not None for one in grid.links):
        say(
            f"no network namespaces ({network.why_not}): clusters go through a proxy, baselines are NOT shaped"
        )
    campaign = Campaign(Store(out), network, say, limit_s=limit_s)
    tuning = grid.tuning()
    expected = len(tuning) + len(grid.rest(best_lrs((case, None) for case in tuning)))
    measured = campaign.measure(tuning, of=expected)
    best = best_lrs((m.case, m.loss) for m in measured)
    measured += campaign.measure(grid.rest(best), of=expected, done=len(tuning))
    return {
        "benchmark": "modes",
        "about": about(),
        "options": options(grid),
        "namespaces": not network.why_not,
        "learning_rates": [
            {"method": m.case.label, "workers": m.case.workers, "lr": m.case.lr, "val_loss": m.loss}
            | {
                "best": best[tuned_as(m.case)] == m.case.lr,
                "edge": edge(m.case.lr, grid.lrs),
                "error": m.error,
            }
            for m in measured
            if m.case in tuning
        ],
        "best": [{"key": list(key), "lr": lr, "edge": edge(lr, grid.lrs)} for key, lr in best.items()],
        "groups": [
            {
                "workers": group.workers,
                "straggler": group.straggler,
                "link": group.link,
                "reference": group.reference,
                "equal_tokens": group.tokens,
                "equal_seconds": group.seconds,
                "target": group.target,
                "absent": list(group.absent),
                "reference_missing": group.without or None,
                "rows": [asdict(row) for row in group.rows],
            }
            for group in groups(measured, best)
        ],
        "cases": [m.told() for m in measured],
    }


def options(grid: Grid) -> dict[str, object]:
    """The grid in words."""
    work = asdict(grid.work)
    return {
        "methods": [method.name for method in grid.methods],
        "codecs": [name for name, _ in grid.codecs],
        "workers": list(grid.workers),
        "stragglers": [pattern.name for pattern in grid.stragglers],
        "links": [one.name for one in grid.links],
        "lrs": list(grid.lrs),
        "seeds": list(grid.seeds),
        **{key: value for key, value in work.items() if value not in ((), 0.0)},
    }
