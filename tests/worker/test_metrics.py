"""What a worker tells Prometheus follows what it does."""

from __future__ import annotations

from tests.worker.test_driver import carried, numbers, tell
from tests.worker.toy import Worker, worker
from wire.metrics import METRICS
from worker.mailbox import Plan


def told(w: Worker) -> dict[tuple[str, ...], object]:
    samples = list(w.attached.samples())
    assert all(METRICS[sample.metric.name] is sample.metric for sample in samples)
    found = {(s.metric.name.removeprefix("sparsync_worker_"), *s.labels): s.value for s in samples}
    assert len(found) == len(samples), "each value once"
    return found


def test_before_the_first_plan_there_is_no_clock() -> None:
    found = told(worker())
    assert ("clock",) not in found and found["units_total",] == 0


def test_units_bytes_and_versions() -> None:
    w = worker()
    tell(w, Plan(carried(0, 1), 10))
    assert numbers(w, 2) == [0, 1]
    found = told(w)
    assert (found["units_total",], found["units_replayed_total",]) == (2, 0)
    assert 0 < float(str(found["encode_seconds_total",])) <= float(str(found["compute_seconds_total",]))
    assert (found["version", "0"], found["version", "1"]) == (0, 0)
    assert (found["socket_bytes_total", "data", "sent"], found["incarnation",]) == (7, 1)
    assert w.attached.clock() == found["clock",] == 0
