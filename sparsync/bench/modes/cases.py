"""The grid, and one cell of it: a `Case` says all that its result may depend on, and its digest is its name.

Learning rates are tuned for each (method, codec, number of workers), on the grid's first link, straggler pattern and
seed: `tuning` gives those cases, `rest` all others, at the rate that came out best.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

from sparsync.bench.modes.links import UNLIMITED, Link, shaping
from sparsync.bench.modes.methods import CLUSTER, NO_CODEC, Method
from sparsync.bench.modes.stragglers import NOBODY, Pattern
from wire.codec.values import Values
from wire.config import Config, PullConfig, PushConfig, complete, load
from wire.errors import UsageError

FORMAT = 5
"""Of a case and its result: raised when what a case measures changes, so that older results are not taken for it."""
DIGEST_LETTERS = 16
OWNED: Mapping[str, str] = {
    "run.seed": "--seeds",
    "run.steps": "--steps",
    **dict.fromkeys(("model.layers", "model.width", "model.heads"), "--model"),
    "data.source": "--data",
    "data.seq_len": "--seq-len",
    "data.batch_size": "--batch-size",
    "sync.units_per_step": "--streams",
    "optimizer.lr": "--lrs, at all of which every method is tuned",
    "sync.mode": "--modes",
    "cluster.workers": "--workers",
    "cluster.servers": "--servers",
    "run.eval_every": "--copies",
}
"""Key -> the option of `bench modes` that it belongs to."""


@dataclass(frozen=True)
class Workload:
    """What every case has in common.

    Attributes:
        steps: of `streams` units each, counted as inner steps: equal tokens for all methods.
        copies: how often the model is kept for evaluation, the end aside.
        windows: of held-out text that every model is evaluated on, the same for all.
        unit_s: a unit of a worker that is not slow takes at least so long; 0: as long as it computes.
        servers: of a cluster. settings: `section.key=value` for all clusters and baselines.
    """

    layers: int
    width: int
    heads: int
    seq_len: int
    batch_size: int
    streams: int
    steps: int
    copies: int
    windows: int
    servers: int
    unit_s: float
    source: str
    settings: tuple[str, ...]


@dataclass(frozen=True)
class Case:
    """One run.

    Attributes:
        settings: of method and codec, those of the workload not among them.
        shaped: how its processes are kept to the link (`links.shaping`).
    """

    method: str
    kind: str
    codec: str
    settings: tuple[str, ...]
    workers: int
    straggler: str
    link: str
    shaped: str
    lr: float
    seed: int
    work: Workload

    @cached_property
    def digest(self) -> str:
        """Of the whole configuration as well: a run under other defaults is another case."""
        text = json.dumps({"format": FORMAT, "config": self.config.to_json(), **asdict(self)}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:DIGEST_LETTERS]

    @cached_property
    def config(self) -> Config:
        """Everything that is read from a configuration. Raises: ConfigError."""
        settings = cluster_settings(self) if self.is_cluster else (*self.common, *self.work.settings)
        return complete(load(None, settings, {}).config)

    @property
    def sends(self) -> str:
        """What values go up and down, whatever the defaults were; empty of a baseline."""
        return sends(self.config) if self.is_cluster else ""

    @property
    def is_cluster(self) -> bool:
        return self.kind == CLUSTER

    @property
    def label(self) -> str:
        """Method and codec, as they stand in tables and plots."""
        return self.method if self.codec in (NO_CODEC, "default") else f"{self.method}, {self.codec}"

    @property
    def words(self) -> str:
        """For people who watch."""
        told = [self.label, f"{self.workers} workers" if self.workers > 1 else "1 process"]
        told += [word for word in (self.link, self.straggler) if word not in (UNLIMITED, NOBODY)]
        return ", ".join([*told, f"lr {self.lr:g}", f"seed {self.seed}"])

    @property
    def common(self) -> tuple[str, ...]:
        """Keys that clusters and baselines read alike."""
        work = self.work
        return (
            f"run.seed={self.seed}",
            f"run.steps={work.steps}",
            f"model.layers={work.layers}",
            f"model.width={work.width}",
            f"model.heads={work.heads}",
            f"data.source={json.dumps(work.source)}",
            f"data.seq_len={work.seq_len}",
            f"data.batch_size={work.batch_size}",
            f"sync.units_per_step={work.streams}",
            f"optimizer.lr={self.lr}",
        )


def case_of(told: Mapping[str, Any]) -> Case:
    """From `asdict`, or from its JSON."""
    work = Workload(**{**told["work"], "settings": tuple(told["work"]["settings"])})
    return Case(**{**told, "settings": tuple(told["settings"]), "work": work})


@dataclass(frozen=True)
class Grid:
    """What is measured.

    Attributes:
        cross: every link with every straggler pattern and number of workers; else these vary one at a time, beside the
            first of the others.
        namespaces: whether links are shaped by network namespaces.
    """

    methods: tuple[Method, ...]
    codecs: tuple[tuple[str, tuple[str, ...]], ...]
    workers: tuple[int, ...]
    stragglers: tuple[Pattern, ...]
    links: tuple[Link, ...]
    lrs: tuple[float, ...]
    seeds: tuple[int, ...]
    work: Workload
    cross: bool = False
    namespaces: bool = False

    def check(self) -> None:
        """Raises: UsageError, ConfigError."""
        ranks = any(not method.is_cluster and not method.alone for method in self.methods)
        for workers in self.workers:
            if not workers or (ranks and self.work.streams % workers):
                raise UsageError(
                    f"--workers {workers}: expected a divisor of --streams {self.work.streams}, so that the ranks of "
                    "the baselines have as many units each"
                )
        names = [method.name for method in self.methods], [name for name, _ in self.codecs]
        if twice := [name for some in names for name in some if some.count(name) > 1]:
            raise UsageError(
                f"{twice[0]} stands for more than one method or codec; give one another name, as in A:NAME+key=value"
            )
        given = [("-s", self.work.settings), *((f"--codecs {name}", keys) for name, keys in self.codecs)]
        given += [(f"--modes {one.name}", one.settings[1:]) for one in self.methods if one.is_cluster]
        for where, settings in given:
            _check_free(where, settings)
        for case in self.all():
            _ = case.config

    def all(self) -> list[Case]:
        """Every case at every learning rate."""
        return self._at(self.workers, self.stragglers, self.links, self.lrs, self.seeds)

    def tuning(self) -> list[Case]:
        """The cases that the learning rates are chosen by."""
        return self._at(self.workers, self.stragglers[:1], self.links[:1], self.lrs, self.seeds[:1])

    def rest(self, best: Mapping[tuple[str, str, int], float]) -> list[Case]:
        """All others that are measured. best: (method, codec, workers) -> learning rate; see `best_lrs`."""
        known = {case.digest for case in self.tuning()}
        return [
            case for case in self.all() if case.digest not in known and best.get(tuned_as(case)) == case.lr
        ]

    def _at(
        self,
        workers: Sequence[int],
        stragglers: Sequence[Pattern],
        links: Sequence[Link],
        lrs: Sequence[float],
        seeds: Sequence[int],
    ) -> list[Case]:
        """In an order in which what is compared stands close together; methods innermost, as machines drift."""
        found = dict[str, Case]()
        for link, straggler, count, seed, lr in itertools.product(links, stragglers, workers, seeds, lrs):
            varied = (link != self.links[0]) + (straggler != self.stragglers[0]) + (count != self.workers[0])
            if varied > 1 and not self.cross:
                continue
            for case in self._cases(count, straggler, link, lr, seed):
                found.setdefault(case.digest, case)
        return list(found.values())

    def _cases(self, workers: int, straggler: Pattern, link: Link, lr: float, seed: int) -> Iterator[Case]:
        for method in self.methods:
            codecs = self.codecs if method.is_cluster else ((NO_CODEC, ()),)
            for codec, settings in codecs:
                case = Case(
                    method=method.name,
                    kind=method.kind,
                    codec=codec,
                    settings=(*settings, *method.settings),
                    workers=workers,
                    straggler=straggler.name,
                    link=link.name,
                    shaped=shaping(link, cluster=method.is_cluster, namespaces=self.namespaces),
                    lr=lr,
                    seed=seed,
                    work=self.work,
                )
                unhindered = replace(case, workers=1, straggler=NOBODY, link=UNLIMITED, shaped=UNLIMITED)
                yield unhindered if method.alone else case


def _check_free(where: str, settings: Iterable[str]) -> None:
    """Raises: UsageError where a key is given that is the same for all, or that tables tell from elsewhere."""
    for setting in settings:
        if option := OWNED.get(setting.partition("=")[0]):
            raise UsageError(
                f"{where} sets {setting}, which every case of a grid is given: its tables would say otherwise; "
                f"expected {option}"
            )


def tuned_as(case: Case) -> tuple[str, str, int]:
    """What has a learning rate of its own."""
    return case.method, case.codec, case.workers


def best_lrs(losses: Iterable[tuple[Case, float | None]]) -> dict[tuple[str, str, int], float]:
    """The learning rate with the lowest loss of each; None, or not finite: diverged. Where all did, the lowest one."""

    def rank(one: tuple[Case, float | None]) -> tuple[float, float]:
        case, loss = one
        return loss if loss is not None and math.isfinite(loss) else math.inf, case.lr

    ranked = sorted(losses, key=rank)
    best = dict[tuple[str, str, int], float]()
    for case, _ in ranked:
        best.setdefault(tuned_as(case), case.lr)
    return best


def edge(lr: float, lrs: Sequence[float]) -> str:
    """Whether a rate lies at the edge of the grid it was chosen from, where a wider one might hold a better one."""
    if len(lrs) < 2:
        return "the only one"
    return {min(lrs): "lowest", max(lrs): "highest"}.get(lr, "")


# ── what a cluster is told ──────────────────────────────────────────────────────────────────────


def cluster_settings(case: Case) -> tuple[str, ...]:
    """Keys of the cluster's configuration; the later ones win."""
    return (
        *case.common,
        f"cluster.workers={case.workers}",
        f"cluster.servers={case.work.servers}",
        "run.eval_every=0",
        "telemetry.live=off",
        *case.settings,
        *case.work.settings,
    )


def sends(config: Config) -> str:
    """In words: values, what part of them, how coarse; up / down."""
    config = complete(config)

    def told(way: PushConfig | PullConfig) -> str:
        kept = "" if way.codec == "dense" or way.density is None else f", {4096 * way.density:g} of 4,096"
        coarse = f", coarse {way.coarse:g}" if way.coarse not in (None, 1.0) else ""
        return f"{Values.named(way.values, codec=way.codec).name.lower()}{kept}{coarse}"

    return f"{told(config.push)} / {told(config.pull)}"
