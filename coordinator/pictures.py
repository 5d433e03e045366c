"""What TensorBoard shows of a run: scalars of each step that closes, of evaluations, and of users' scripts."""

from __future__ import annotations

from collections.abc import Mapping

from coordinator.accounts import Accounts
from coordinator.core import Core
from coordinator.records import Closed, Counted, Evaluated, Record
from coordinator.tensorboard import Board


class Pictures:
    """Drawn as records become durable. Times (`now`) are of the run's monotonic clock."""

    def __init__(self, board: Board, core: Core, accounts: Accounts) -> None:
        self._board = board
        self._core = core
        self._accounts = accounts

    def draw(self, record: Record, now: float) -> None:
        """What a record adds to them; the accounts have it already."""
        if isinstance(record, Closed | Counted):
            step = self._core.desk.rounds.first_step(self._core.state.open_step)
            self._board.write(step, self._scalars(record.loss, now), now)
        elif isinstance(record, Evaluated):
            self._board.write(record.step, {f"loss/{record.model}": record.loss}, now)

    def draw_users(self, step: int, values: Mapping[str, float], now: float) -> None:
        """What a script logged under `step`."""
        self._board.write(step, {f"user/{name}": value for name, value in values.items()}, now)

    def close(self) -> None:
        """Everything drawn is in the file."""
        self._board.close()

    def _scalars(self, loss: float | None, now: float) -> dict[str, float]:
        """Of each step."""
        totals, rate = self._core.state.totals, self._accounts.tokens_per_s()
        units = sum(totals.staleness.values())
        stale = sum(steps * count for steps, count in totals.staleness.items())
        return {
            **({"loss/train": loss} if loss is not None else {}),
            **({"rate/tokens_per_s": rate} if rate is not None else {}),
            **({"rate/wait_share": share} if (share := self._accounts.wait_share()) is not None else {}),
            "run/workers": float(len(self._core.crew.ready)),
            "run/stragglers": float(len(self._core.crew.stragglers(now))),
            "run/recoveries": float(self._core.state.recoveries),
            "run/samples": float(totals.samples),
            "run/units_empty": float(totals.empty),
            "run/staleness_mean": stale / units if units else 0.0,
            "run/mass_returned": totals.returned,
            "run/mass_held": self._core.residuals.held,
            "bytes/pushed": float(self._accounts.total("bytes_pushed")),
            "bytes/pulled": float(self._accounts.total("bytes_pulled")),
        }
