"""Results beside each other: those of one number of workers, straggler pattern and link form a `Group`, each method
of it at its best learning rate a `Row` over the seeds. Pure.

The reference of a group is DDP, or the one process where DDP was not measured, or else its first method. What is
compared with it is compared seed by seed: times to loss are to the loss in the end of its run with the same seed, which
it reaches therefore, and to that plus `SLACK`. Times are compared only between runs that were
straggled and shaped alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sparsync.bench.modes.cases import Case, tuned_as
from sparsync.bench.modes.figures import Spread, loss_at, loss_by, mean_staleness, ratio, reached_at, spread
from sparsync.bench.modes.links import UNLIMITED
from sparsync.bench.modes.methods import CLUSTER, ONE
from sparsync.bench.modes.results import Measured

REFERENCES = ("ddp", ONE)
SLACK = 0.01
MOVED = ("bytes_pushed", "bytes_pulled", "bytes_state", "bytes_control")
Result = Mapping[str, Any]
Key = tuple[int, str, str]
"""Of a group: workers, straggler pattern, link."""
Best = Mapping[tuple[str, str, int], float]


@dataclass(frozen=True)
class Series:
    """One method at one learning rate, a run for each seed."""

    label: str
    lr: float
    runs: tuple[Measured, ...]

    @property
    def kind(self) -> str:
        return self.runs[0].case.kind

    @property
    def conditions(self) -> tuple[str, str, str]:
        """What its times depend on beside itself: where these differ, times are not compared."""
        case = self.runs[0].case
        return case.straggler, case.link, case.shaped

    @property
    def results(self) -> dict[int, Result]:
        """By seed."""
        return {run.case.seed: run.result for run in self.runs}

    def over(self, figure: Callable[[Result], float | None]) -> Spread | None:
        """A figure of each result, over the seeds."""
        return spread(figure(run.result) for run in self.runs)

    def beside(self, other: Series, figure: Callable[[Result, Result], float | None]) -> list[float | None]:
        """A figure of each result and the other's of the same seed; only of seeds that both have."""
        theirs = other.results
        return [figure(own, theirs[seed]) for seed, own in self.results.items() if seed in theirs]


@dataclass(frozen=True)
class Row:
    """What a series comes to within its group. Shares are of time; ratios above 1 are gains over the reference.

    Attributes:
        ended: how many seeds have ended before that time, and are taken at their last loss.
        reached, reached_slack: how many seeds come to the reference's loss; the times are None unless all do.
    """

    label: str
    lr: float
    seeds: int
    loss: Spread | None
    against: Spread | None
    reached: int
    seconds_to: Spread | None
    sooner: Spread | None
    reached_slack: int
    seconds_to_slack: Spread | None
    sooner_slack: Spread | None
    loss_at_time: Spread | None
    ended: int
    tokens_per_s: Spread | None
    efficiency: float | None
    of_unlimited: float | None
    waiting: Spread | None
    bytes_up: Spread | None
    bytes_down: Spread | None
    bytes_state: Spread | None
    bytes_control: Spread | None
    fewer_bytes: float | None
    staleness: Spread | None
    recoveries: float
    shaped: str


@dataclass(frozen=True)
class Group:
    """What is compared.

    Attributes:
        tokens, seconds: at which losses are compared: what every run has reached, and the mean end of the fastest
            method.
        target: the mean loss of the reference in the end.
        absent: what failed here, with why; it is in no row, or with fewer seeds.
        without: the reference that was asked for and has no run here, so that another one stands in; else empty.
    """

    workers: int
    straggler: str
    link: str
    series: tuple[Series, ...]
    reference: str
    tokens: float
    seconds: float
    target: float | None
    rows: tuple[Row, ...]
    absent: tuple[str, ...] = ()
    without: str = ""

    @property
    def title(self) -> str:
        return f"{self.workers} workers, link {self.link}, stragglers {self.straggler}"


def groups(measured: Iterable[Measured], best: Best) -> list[Group]:
    """Every group, of the runs that have not failed, at the best rates; methods in the order of all that came."""
    every = list(measured)
    place = {label: at for at, label in enumerate(dict.fromkeys(m.case.label for m in every))}
    chosen = [m for m in every if best.get(tuned_as(m.case)) == m.case.lr]
    chosen.sort(key=lambda m: place[m.case.label])
    runs = [m for m in chosen if not m.error]
    alone = [m for m in runs if m.case.kind == ONE]
    found = dict[Key, list[Measured]]()
    for m in runs:
        if m.case.kind != ONE:
            found.setdefault(_key(m.case), []).append(m)
    if not found and alone:
        found[1, alone[0].case.straggler, alone[0].case.link] = []
    unlimited = {key[:2]: series_of([*alone, *own]) for key, own in found.items() if key[2] == UNLIMITED}
    failed = [m for m in chosen if m.error]
    return [
        compared(
            key,
            series_of([*alone, *own]),
            unlimited.get(key[:2], ()),
            [m for m in failed if m.case.kind == ONE or _key(m.case) == key],
        )
        for key, own in found.items()
    ]


def _key(case: Case) -> Key:
    return case.workers, case.straggler, case.link


def series_of(runs: Iterable[Measured]) -> tuple[Series, ...]:
    """One for each method and codec, in the order in which they come."""
    found = dict[str, list[Measured]]()
    for run in runs:
        found.setdefault(run.case.label, []).append(run)
    return tuple(Series(label, own[0].case.lr, tuple(own)) for label, own in found.items())


def compared(
    key: Key, series: tuple[Series, ...], unlimited: Sequence[Series], failed: Sequence[Measured] = ()
) -> Group:
    """One group; unlimited: the same methods where the link is. failed: what was to be in it."""
    workers, straggler, link = key
    reference = next((s for kind in REFERENCES for s in series if s.kind == kind), series[0])
    ahead = REFERENCES[: REFERENCES.index(reference.kind)] if reference.kind in REFERENCES else REFERENCES
    without = next((kind for kind in ahead if any(m.case.kind == kind for m in failed)), "")
    alone = next((s for s in series if s.kind == ONE), None)
    tokens = min(run.result["tokens"] for s in series for run in s.runs)
    company = [s for s in series if s.kind != ONE] or [reference]
    here = next((s for s in company if s.kind == CLUSTER), company[0]).conditions
    seconds = min(found.mean for s in company if s.conditions == here if (found := s.over(_seconds)))
    target = _mean(reference.over(lambda r: loss_at(r["curve"], "tokens", tokens)))
    rates = {s.label: s.over(_rate) for s in unlimited}
    context = _Context(reference, alone, tokens, seconds, here, rates)
    rows = tuple(context.row(s) for s in series)
    absent = tuple(f"{m.case.label} (seed {m.case.seed}): {m.error.splitlines()[0]}" for m in failed)
    return Group(
        workers, straggler, link, series, reference.label, tokens, seconds, target, rows, absent, without
    )


@dataclass(frozen=True)
class _Context:
    """What a row needs of its group. `here`: its conditions; the one process has others where a link is slow."""

    reference: Series
    alone: Series | None
    tokens: float
    seconds: float
    here: tuple[str, str, str]
    unlimited: Mapping[str, Spread | None]

    def row(self, own: Series) -> Row:
        loss, rate = self._loss(own), own.over(_rate)
        workers = own.runs[0].case.workers
        alone = self.alone.over(_rate) if self.alone else None
        moved = own.over(_bytes)
        is_here = own.conditions == self.here
        to, to_slack = self._times(own, 0.0), self._times(own, SLACK)
        return Row(
            label=own.label,
            lr=own.lr,
            seeds=len(own.runs),
            loss=loss,
            against=spread(own.beside(self.reference, self._against)),
            reached=_found(to),
            seconds_to=spread(to),
            sooner=self._sooner(own, 0.0),
            reached_slack=_found(to_slack),
            seconds_to_slack=spread(to_slack),
            sooner_slack=self._sooner(own, SLACK),
            loss_at_time=own.over(self._at_time) if is_here else None,
            ended=sum(_seconds(run.result) < self.seconds for run in own.runs) if is_here else 0,
            tokens_per_s=rate,
            efficiency=ratio(_mean(rate), workers * alone.mean if alone else None),
            of_unlimited=ratio(_mean(rate), _mean(self.unlimited.get(own.label))),
            waiting=own.over(lambda r: r["shares"]["waited"] if r["shares"] else None),
            bytes_up=own.over(lambda r: r["bytes_pushed"]),
            bytes_down=own.over(lambda r: r["bytes_pulled"]),
            bytes_state=own.over(lambda r: r["bytes_state"]),
            bytes_control=own.over(lambda r: r["bytes_control"]),
            fewer_bytes=ratio(_mean(self.reference.over(_bytes)) or None, _mean(moved)),
            staleness=own.over(lambda r: mean_staleness(r["staleness"])),
            recoveries=sum(run.result["recoveries"] for run in own.runs) / len(own.runs),
            shaped=own.runs[0].case.shaped,
        )

    def _end(self, result: Result) -> float | None:
        return loss_at(result["curve"], "tokens", self.tokens)

    def _at_time(self, result: Result) -> float | None:
        return loss_by(result["curve"], "seconds", self.seconds)

    def _loss(self, own: Series) -> Spread | None:
        return own.over(self._end)

    def _against(self, own: Result, theirs: Result) -> float | None:
        return _minus_one(ratio(self._end(own), self._end(theirs)))

    def _time(self, own: Result, theirs: Result, slack: float) -> float | None:
        """Until `own` is at the loss that `theirs` ends with, of the same seed; None: never."""
        end = self._end(theirs)
        return None if end is None else reached_at(own["curve"], "seconds", end * (1.0 + slack))

    def _times(self, own: Series, slack: float) -> list[float | None]:
        return own.beside(self.reference, lambda ours, theirs: self._time(ours, theirs, slack))

    def _sooner(self, own: Series, slack: float) -> Spread | None:
        if own.conditions != self.reference.conditions:
            return None

        def gain(ours: Result, theirs: Result) -> float | None:
            return ratio(self._time(theirs, theirs, slack), self._time(ours, theirs, slack))

        return spread(own.beside(self.reference, gain))


def _seconds(result: Result) -> float:
    return float(result["seconds"])


def _rate(result: Result) -> float | None:
    found = result["tokens_per_s"]
    return None if found is None else float(found)


def _bytes(result: Result) -> float:
    """Through all sockets of the workers, both ways: stream state that is deposited is as much traffic as a push."""
    return float(sum(result[key] for key in MOVED))


def _mean(found: Spread | None) -> float | None:
    return found.mean if found is not None else None


def _found(values: Iterable[float | None]) -> int:
    return sum(value is not None for value in values)


def _minus_one(value: float | None) -> float | None:
    return None if value is None else value - 1.0
