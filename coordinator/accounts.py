"""What workers tell of themselves, summed for status and summary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from wire.v1 import coordinator_pb2

BYTES_ELEMENT = 4
RATE_WINDOW_S = 10.0


@dataclass
class WorkerAccount:
    """The newest report of one incarnation: cumulative figures since its start."""

    report: coordinator_pb2.Progress = field(default_factory=coordinator_pb2.Progress)
    activity: str = "starting"
    tokens: int = 0
    unit_s: float = 0.0
    at: float = 0.0


class Accounts:
    """Reports of all incarnations; the dead ones stay in the sums.

    Args:
        told: incarnation -> what it said last, of those that were gone before this coordinator came.
    """

    def __init__(self, told: Mapping[int, Sequence[tuple[str, float]]]) -> None:
        self.workers: dict[int, WorkerAccount] = {}
        for incarnation, figures in told.items():
            for name, value in figures:
                setattr(self.of(incarnation).report, name, value)
        self._rate: list[tuple[float, int]] = []

    def of(self, incarnation: int) -> WorkerAccount:
        return self.workers.setdefault(incarnation, WorkerAccount())

    def report(self, incarnation: int, report: coordinator_pb2.Progress, now: float) -> None:
        account = self.of(incarnation)
        account.report, account.at = report, now
        account.activity = "computing" if report.unit_s > 0 else "waiting"
        if report.unit_s > 0:
            account.unit_s = report.unit_s

    def total(self, name: str) -> int:
        """Sum of a cumulative field of Progress over all incarnations."""
        return sum(int(getattr(account.report, name)) for account in self.workers.values())

    def wait_share(self) -> float | None:
        """Of all time that workers have told of, the share that they waited; None before they told of any."""
        reports = [account.report for account in self.workers.values()]
        waited_s = sum(report.wait_s for report in reports)
        busy_s = waited_s + sum(report.compute_s for report in reports)
        return waited_s / busy_s if busy_s else None

    def settled(self, tokens: int, now: float) -> None:
        """A step closed; `tokens` is the run's sum so far."""
        self._rate = [(at, n) for at, n in self._rate if now - at <= RATE_WINDOW_S]
        self._rate.append((now, tokens))

    def tokens_per_s(self) -> float | None:
        """Over the last ten seconds of settled steps."""
        if len(self._rate) < 2 or self._rate[-1][0] <= self._rate[0][0]:
            return None
        (begin, before), (end, after) = self._rate[0], self._rate[-1]
        return (after - before) / (end - begin)

    def bytes_dense(self, parameters: int, units_pushed: int, *, steps_a_round: float = 1.0) -> int:
        """What dense fp32 would have moved, once a step: 4 B x parameters x (units pushed + whole-model pulls)."""
        return round(BYTES_ELEMENT * parameters * (units_pushed + self.total("pulls")) * steps_a_round)
