"""Every metric that a role serves: its name, kind, labels and meaning; docs/metrics.md is made from here.

Names follow Prometheus: `sparsync_`, then `run_` (what the coordinator knows of the run), `coordinator_`, `ps_` or
`worker_` (of that process), then the thing with its base unit; counters end in `_total`. A role's own module says the
values (coordinator/metrics.py, ps/metrics.py, worker/metrics.py), from state that is there anyway, when it is scraped.
Nothing here knows prometheus_client; wire/exposition.py does.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

Kind = Literal["gauge", "counter", "histogram"]

SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
"""Upper bounds for what a disk or an event loop may take."""
STEPS = (0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0)
"""Upper bounds of staleness."""


class Distribution:
    """How often values fell below each of some bounds, and their sum. One thread observes; any may read.

    Args:
        bounds: upper ones, inclusive, rising; what is above them all is counted too.
    """

    def __init__(self, bounds: tuple[float, ...] = SECONDS) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    @classmethod
    def of(cls, counted: Mapping[int, int], bounds: tuple[float, ...]) -> Distribution:
        """Of values that were counted one by one."""
        made = cls(bounds)
        for value, count in counted.items():
            made.counts[bisect_left(bounds, value)] += count
            made.sum += value * count
        return made

    def observe(self, value: float) -> None:
        """Count one value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value


class Sample(NamedTuple):
    """One value of a metric, under values of its labels in their order."""

    metric: Metric
    labels: tuple[str, ...]
    value: float | Distribution


Samples = Iterable[Sample]


@dataclass(frozen=True)
class Metric:
    """A declared metric; calling it makes a sample."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()

    def __call__(self, value: float | Distribution, *labels: str) -> Sample:
        assert len(labels) == len(self.labels), (self.name, labels)
        return Sample(self, labels, value)


METRICS: dict[str, Metric] = {}
"""All of them by name, in the order of the page."""


def _declare(kind: Kind, name: str, help: str, *labels: str) -> Metric:
    metric = Metric(f"sparsync_{name}", kind, help, labels)
    assert metric.name not in METRICS, name
    assert (kind == "counter") == name.endswith("_total"), name
    METRICS[metric.name] = metric
    return metric


def _gauge(name: str, help: str, *labels: str) -> Metric:
    return _declare("gauge", name, help, *labels)


def _counter(name: str, help: str, *labels: str) -> Metric:
    return _declare("counter", name, help, *labels)


def _histogram(name: str, help: str, *labels: str) -> Metric:
    return _declare("histogram", name, help, *labels)


# ── every role ──────────────────────────────────────────────────────────────────────────────────

BUILD = _gauge(
    "build_info", "1, with the version of Sparsync, the role and its name in the run", "version", "role", "id"
)
MALLOC = _gauge(
    "malloc_bytes",
    "memory that the C library's malloc has given out (used), or keeps between that (free); only with glibc. "
    "A leak grows in what is used; what only resident memory shows is holes",
    "state",
)
CERTIFICATE_END = _gauge(
    "certificate_end_timestamp_seconds",
    "Unix time when the certificate in --tls-cert ends; absent in plain text",
)

# ── the run, as its coordinator knows it ────────────────────────────────────────────────────────

RUN = _gauge(
    "run_info",
    "1, with the run's name, mode, and whether its result is a pure function",
    "name",
    "mode",
    "pure",
)
STATE = _gauge("run_state", "1 for the state that the run is in, 0 for the others", "state")
TIMELINE = _gauge("run_timeline", "timeline: 1, and one more after each resume")
TERM = _gauge("run_term", "term of the coordinator: one more whenever it was started again on its journal")
SEGMENT = _gauge("run_segment", "segment: so many times the run has gone over to another pace")
STEP = _gauge("run_step", "open step; all units of so many steps are on every server")
CLOCK = _gauge("run_clock", "step before which every unit is accepted everywhere; the slowest shard's")
PLANNED = _gauge("run_planned_steps", "steps of the whole run, once they are known")
CHECKPOINT = _gauge(
    "run_checkpoint_step", "step of the newest checkpoint of this timeline, once there is one"
)
MEMBERS = _gauge(
    "run_members", "processes that are in the run: alive, suspect (silent) or leaving", "role", "state"
)
JOINS = _counter("run_joins_total", "processes that have joined, each start of one counted", "role")
LEAVES = _counter(
    "run_leaves_total", "processes that are out of the run again: left, or given up as dead", "role", "how"
)
RECOVERIES = _counter(
    "run_recoveries_total", "departures of workers that left work behind which others had to take over"
)
STRAGGLERS = _gauge("run_stragglers", "workers that were too slow of late, and are dealt less work")
STRAGGLED = _counter(
    "run_straggled_units_total", "times that a unit of a slow worker was given to another one", "worker"
)
SETTLED = _counter("run_units_settled_total", "units that are in the model")
EMPTY = _counter(
    "run_units_empty_total", "units that were settled empty: end of an epoch, overflow, not finite"
)
OWED = _gauge(
    "run_units_owed", "units that came too late for a step closed by quorum, and are not settled yet"
)
SAMPLES = _counter("run_samples_total", "samples of settled units")
TOKENS = _counter("run_tokens_total", "tokens of settled units")
LOSS = _gauge("run_loss", "training loss: mean over the units of the newest closed step")
VALIDATION = _gauge(
    "run_validation_loss", "newest validation loss, of the published model or of the servers' own x", "model"
)
STALENESS = _histogram("run_staleness_steps", "staleness of settled units, in steps")
RETURNED = _gauge(
    "run_mass_returned_units", "what damping, clipping and late settling gave back to its senders, in units"
)
HELD = _gauge("run_mass_held", "sum of the norms of the residuals that workers hold for later pushes")
LOST = _gauge("run_mass_lost", "sum of the norms of the residuals that went with dead workers")
RUN_BYTES = _counter(
    "run_bytes_total", "bytes at the workers' sockets as they told them: pushed, pulled or state", "direction"
)
DENSE_BYTES = _counter("run_dense_bytes_total", "bytes that dense float32 training would have moved")
UNIT_SECONDS = _gauge("run_worker_unit_seconds", "seconds that a worker's newest unit took", "worker")
WAIT_SHARE = _gauge(
    "run_worker_wait_ratio", "share of its time that a worker has spent waiting for the others", "worker"
)
BEAT_AGE = _gauge("run_worker_beat_age_seconds", "seconds since a worker was last heard", "worker")
AWAY = _gauge(
    "run_server_away_seconds", "seconds for which a server cannot be reached; 0 while it is there", "server"
)

# ── the coordinator's process ───────────────────────────────────────────────────────────────────

JOURNAL_RECORDS = _counter("coordinator_journal_records_total", "records in the journal")
JOURNAL_SYNC = _histogram(
    "coordinator_journal_fsync_seconds", "time that decisions waited for the disk, a commit each"
)
JOURNAL_STALLED = _gauge(
    "coordinator_journal_stalled", "1 while the disk has no room for the journal: nothing is decided"
)
LOOP_LAG = _histogram("coordinator_event_loop_lag_seconds", "how late the event loop's tick of 0.1 s came")

# ── a parameter server ──────────────────────────────────────────────────────────────────────────

SHARD = _gauge("ps_info", "1, with the shard that is served or followed, and as what", "shard", "standing")
PS_TERM = _gauge("ps_term", "term under which this server is its shard's primary; 0 where it is none")
PS_STEP = _gauge("ps_clock", "step that this server's newest delta led to")
PUSHES = _counter(
    "ps_pushes_total", "pushes by what became of them: accepted, or the reason of the refusal", "outcome"
)
DELTAS = _counter("ps_deltas_total", "deltas that were published: the shard's version")
DELTA_BYTES = _counter("ps_delta_bytes_total", "bytes of the deltas that were published, each counted once")
FOLLOWERS = _gauge("ps_followers", "calls that follow the deltas")
PS_BYTES = _counter(
    "ps_socket_bytes_total",
    "bytes at the sockets: connections that were accepted, and by pool those that were dialled",
    "pool",
    "direction",
)
PUSH_BYTES = _counter("ps_push_bytes_total", "bytes of the frames that were pushed, whatever became of them")
ADMITTED = _gauge("ps_admitted_bytes", "bytes of pushes that are arriving, or wait to be settled")
ADMIT_LIMIT = _gauge(
    "ps_admit_limit_bytes", "bytes of pushes beyond which others are refused: cluster.admit_bytes"
)
HELD_UNITS = _gauge("ps_held_units", "accepted units that are not settled")
LOG_RECORDS = _counter("ps_log_records_total", "records in the shard's log, from its beginning")
LOG_BYTES = _counter("ps_log_bytes_total", "bytes that this process has handed to its log")
LOG_SIZE = _gauge("ps_log_size_bytes", "bytes of the log's files on the disk")
LOG_WRITE = _histogram("ps_log_write_seconds", "time that a batch of records took to write")
LOG_SYNC = _histogram(
    "ps_log_fsync_seconds", "time that a batch of records took to fsync; only at durability.ack = disk"
)
LOG_STALLED = _gauge("ps_log_stalled", "1 while the log cannot be written: nothing is acknowledged")
IMAGE_TIME = _gauge("ps_image_timestamp_seconds", "when the newest image of the shard was written")
REPLAY_BYTES = _gauge(
    "ps_replay_bytes", "bytes of the log behind the newest image: what a restart reads again"
)
REPLAY_SECONDS = _gauge("ps_replay_seconds", "time that applying what a restart replays took the first time")
IN_SYNC = _gauge(
    "ps_standby_in_sync",
    "whether a standby holds all that was acknowledged; of primaries, where there is to be one",
)
LAG_RECORDS = _gauge(
    "ps_standby_lag_records", "records that the standby that is waited for does not hold yet"
)
LAG_BYTES = _gauge("ps_standby_lag_bytes", "bytes of these records")

# ── a worker ────────────────────────────────────────────────────────────────────────────────────

INCARNATION = _gauge(
    "worker_incarnation", "incarnation: another one whenever it was given up and has joined anew"
)
WORKER_CLOCK = _gauge("worker_clock", "step of the unit at hand; between units how far the model has come")
UNITS = _counter("worker_units_total", "units that were computed, replayed ones not counted")
REPLAYED = _counter(
    "worker_units_replayed_total", "units that were computed again to recover a stream's state"
)
COMPUTE = _counter(
    "worker_compute_seconds_total",
    "time in units, from their beginning until they were handed to the network",
)
ENCODE = _counter("worker_encode_seconds_total", "time of that spent compressing pushes")
WAIT = _counter("worker_wait_seconds_total", "time without a unit: waiting for others, or for work")
UNIT = _gauge("worker_unit_seconds", "time that the newest unit took")
UNDER_WAY = _gauge("worker_units_under_way", "units that were pushed and are not acknowledged")
WORKER_BYTES = _counter(
    "worker_socket_bytes_total",
    "bytes at the sockets by pool: control, data (pushes, deltas) or state",
    "pool",
    "direction",
)
PULLS = _counter("worker_pulls_total", "whole-model pulls: deltas of all shards, or snapshots")
RESIDUAL = _gauge(
    "worker_residual_norm", "norm of what is held back for later pushes; 0 where streams are deposited"
)
VERSION = _gauge("worker_version", "version of a shard's part of the model that this worker holds", "shard")
