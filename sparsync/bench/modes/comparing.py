"""Results beside each other: those of one number of workers, straggler pattern and link form a `Group`, each method
of it at its best learning rate a `Row` over the seeds. Pure.

The reference of a group is DDP, or the one process where DDP was not measured, or else its first method. Its mean loss
in the end, and that plus `SLACK`, are what the times to loss are to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sparsync.bench.modes.cases import tuned_as
from sparsync.bench.modes.figures import Spread, loss_at, mean_staleness, ratio, reached_at, spread
from sparsync.bench.modes.links import UNLIMITED
from sparsync.bench.modes.methods import ONE
from sparsync.bench.modes.results import Measured

REFERENCES = ("ddp", ONE)
SLACK = 0.01
MOVED = ("bytes_pushed", "bytes_pulled", "bytes_state", "bytes_control")
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

    def over(self, figure: Callable[[Mapping[str, Any]], float | None]) -> Spread | None:
        """A figure of each result, over the seeds."""
        return spread(figure(run.result) for run in self.runs)


@dataclass(frozen=True)
class Row:
    """What a series comes to within its group. Shares are of time; ratios above 1 are gains over the reference."""

    label: str
    lr: float
    seeds: int
    loss: Spread | None
    against: float | None
    seconds_to: Spread | None
    sooner: float | None
    seconds_to_slack: Spread | None
    sooner_slack: float | None
    loss_at_time: Spread | None
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
        tokens, seconds: at which losses are compared: what every run has reached, and the end of the fastest method.
        target: the mean loss of the reference in the end.
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

    @property
    def title(self) -> str:
        return f"{self.workers} workers, link {self.link}, stragglers {self.straggler}"


def groups(measured: Iterable[Measured], best: Best) -> list[Group]:
    """Every group, of the runs that have not failed, at the best rates; methods in the order of all that came."""
    every = list(measured)
    place = {label: at for at, label in enumerate(dict.fromkeys(m.case.label for m in every))}
    runs = [m for m in every if not m.error and best.get(tuned_as(m.case)) == m.case.lr]
    runs.sort(key=lambda m: place[m.case.label])
    alone = [m for m in runs if m.case.kind == ONE]
    found = dict[tuple[int, str, str], list[Measured]]()
    for m in runs:
        if m.case.kind != ONE:
            found.setdefault((m.case.workers, m.case.straggler, m.case.link), []).append(m)
    if not found and alone:
        found[1, alone[0].case.straggler, alone[0].case.link] = []
    unlimited = {key[:2]: series_of([*alone, *own]) for key, own in found.items() if key[2] == UNLIMITED}
    return [
        compared(key, series_of([*alone, *own]), unlimited.get(key[:2], ())) for key, own in found.items()
    ]


def series_of(runs: Iterable[Measured]) -> tuple[Series, ...]:
    """One for each method and codec, in the order in which they come."""
    found = dict[str, list[Measured]]()
    for run in runs:
        found.setdefault(run.case.label, []).append(run)
    return tuple(Series(label, own[0].case.lr, tuple(own)) for label, own in found.items())


def compared(key: tuple[int, str, str], series: tuple[Series, ...], unlimited: Sequence[Series]) -> Group:
    """One group; unlimited: the same methods where the link is."""
    workers, straggler, link = key
    reference = next((s for kind in REFERENCES for s in series if s.kind == kind), series[0])
    alone = next((s for s in series if s.kind == ONE), None)
    tokens = min(run.result["tokens"] for s in series for run in s.runs)
    seconds = min(
        found.mean for s in series if s.kind != ONE or len(series) == 1 if (found := s.over(_seconds))
    )
    ends = reference.over(lambda r: loss_at(r["curve"], "tokens", tokens))
    target = ends.mean if ends is not None else None
    rates = {s.label: s.over(_rate) for s in unlimited}
    context = _Context(reference, alone, tokens, seconds, target, rates)
    rows = tuple(context.row(s) for s in series)
    return Group(workers, straggler, link, series, reference.label, tokens, seconds, target, rows)


@dataclass(frozen=True)
class _Context:
    """What a row needs of its group."""

    reference: Series
    alone: Series | None
    tokens: float
    seconds: float
    target: float | None
    unlimited: Mapping[str, Spread | None]

    def row(self, own: Series) -> Row:
        loss, rate = self._loss(own), own.over(_rate)
        workers = own.runs[0].case.workers
        alone = self.alone.over(_rate) if self.alone else None
        moved = own.over(_bytes)
        return Row(
            label=own.label,
            lr=own.lr,
            seeds=len(own.runs),
            loss=loss,
            against=_minus_one(ratio(_mean(loss), self.target)),
            seconds_to=self._time(own, 0.0),
            sooner=ratio(_mean(self._time(self.reference, 0.0)), _mean(self._time(own, 0.0))),
            seconds_to_slack=self._time(own, SLACK),
            sooner_slack=ratio(_mean(self._time(self.reference, SLACK)), _mean(self._time(own, SLACK))),
            loss_at_time=own.over(lambda r: loss_at(r["curve"], "seconds", self.seconds)),
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
            shaped=own.runs[0].result["shaped"],
        )

    def _loss(self, own: Series) -> Spread | None:
        return own.over(lambda r: loss_at(r["curve"], "tokens", self.tokens))

    def _time(self, own: Series, slack: float) -> Spread | None:
        if self.target is None:
            return None
        target = self.target * (1.0 + slack)
        return own.over(lambda r: reached_at(r["curve"], "seconds", target))


def _seconds(result: Mapping[str, Any]) -> float:
    return float(result["seconds"])


def _rate(result: Mapping[str, Any]) -> float | None:
    found = result["tokens_per_s"]
    return None if found is None else float(found)


def _bytes(result: Mapping[str, Any]) -> float:
    """Through all sockets of the workers, both ways: stream state that is deposited is as much traffic as a push."""
    return float(sum(result[key] for key in MOVED))


def _mean(found: Spread | None) -> float | None:
    return found.mean if found is not None else None


def _minus_one(value: float | None) -> float | None:
    return None if value is None else value - 1.0
