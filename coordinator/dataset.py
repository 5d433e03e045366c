"""The run's data: told by the first ready worker, checked against the run, and the same for all the others."""

from __future__ import annotations

from collections.abc import Mapping

from coordinator import events as e
from coordinator.desk import Desk
from coordinator.records import Dataset

MOST_DIGEST, SHOWN = 255, 40
"""Characters of a digest: as many as are kept, and as are shown of a longer one."""


class Data:
    """Whether a worker's data are fit for the run.

    Args:
        resumed: the data of the checkpoint that is being resumed (fields of `records.Dataset`).
    """

    def __init__(self, desk: Desk, resumed: Mapping[str, object] | None) -> None:
        self._desk = desk
        self._resumed = resumed

    def take(self, event: e.Ready) -> str:
        """Make the first ready worker's data the run's. Returns why no run can be made of them, or nothing."""
        if problem := self._problem(event):
            return problem
        dataset = self._dataset(event)
        self._desk.decide(dataset)
        self._desk.note("dataset", samples=event.samples, digest=event.digest, total_steps=dataset.steps)
        return ""

    def difference(self, event: e.Ready) -> str:
        """How the data of a later worker differ from the run's, or nothing."""
        found, expected = self._dataset(event), self._desk.state.dataset
        assert expected is not None
        if found == expected:
            return ""
        return (
            f"worker {self._desk.name_of(event.incarnation)} has other data or batches than the run: found "
            f"{_told(found)}, expected {_told(expected)}; prepare the same data on every machine"
        )

    def _dataset(self, event: e.Ready) -> Dataset:
        steps = self._steps(event)
        return Dataset(
            event.samples,
            event.digest,
            event.batch_size,
            event.accumulate,
            event.evaluates,
            event.evaluate_every,
            self._desk.rules.rounds.until(steps).rounds_of(steps),
            steps,
        )

    def _problem(self, event: e.Ready) -> str:
        first_step = self._desk.state.first_step
        if event.samples == 0 and event.batch_size > 0:
            return "the dataset is empty: found 0 samples, expected at least one"
        if len(event.digest) > MOST_DIGEST:
            return (
                f"the dataset's digest has more than {MOST_DIGEST} characters ({event.digest[:SHOWN]!a}…): it is "
                "kept and compared whole; make it a hash"
            )
        if self._desk.rules.epochs is not None and event.samples == 0:
            return "run.epochs needs a dataset: session.units() has no epochs; set run.steps instead"
        for name, found in (
            ("samples", event.samples),
            ("digest", event.digest),
            ("batch_size", event.batch_size),
            ("accumulate", event.accumulate),
        ):
            if self._resumed is not None and self._resumed[name] != found:
                return (
                    f"the checkpoint was trained on data with {name} {self._resumed[name]!r}, found {found!r}: its "
                    "samples would not be counted once; resume with the same data and batches"
                )
        steps = self._steps(event)
        first = self._desk.rules.rounds.until(steps).first_step(first_step)
        if first >= steps:
            return (
                f"the checkpoint is of step {first} and the run has {steps} steps: nothing is left to do; raise "
                "run.steps"
            )
        return ""

    def _steps(self, event: e.Ready) -> int:
        rules = self._desk.rules
        if rules.epochs is None:
            assert rules.steps is not None
            return rules.steps
        a_step = event.batch_size * event.accumulate * rules.units_per_step
        return rules.epochs * -(-event.samples // max(a_step, 1))


def _told(dataset: Dataset) -> str:
    return (
        f"{dataset.samples} samples (digest {dataset.digest[:12] or 'none'}), batches of {dataset.batch_size} "
        f"x {dataset.accumulate}, evaluation every {dataset.evaluate_every}"
    )
