"""What the frontier is made of: one run as a value, and the sweeps that lead to it.

Every method has the same grid of learning rates. Sweeps are small enough to be read as a list of questions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields, replace
from typing import Any

from benchmarks.one_process import Workload

WORK = Workload(layers=4, width=144, heads=4, seq_len=64, batch_size=4, steps=2400)
SMALL = Workload(layers=2, width=128, heads=4, seq_len=64, batch_size=4, steps=800)
"""For finding one's way; nothing is concluded from it."""
LEARNING_RATES = (2e-3, 4e-3, 8e-3)


@dataclass(frozen=True)
class Codec:
    """One direction. `density` 1 sends whole blocks; "dense" beside it means exactly."""

    density: float = 1.0
    values: str = "fp32"
    feedback: str = "none"
    decay: float = 1.0
    policy: tuple[str, ...] = ()
    coarse: float = 1.0

    @property
    def kind(self) -> str:
        return "dense" if self.density == 1.0 else "topk"


EXACT = Codec()


def sparse(k: int, values: str = "sign1", *, feedback: str = "ef", decay: float = 1.0) -> Codec:
    """k of each 4,096; norms and biases in fp16."""
    return Codec(k / 4096, values, feedback, decay, ("1d=fp16",))


@dataclass(frozen=True)
class Point:
    """One run. `gamma`: of the merge. `alpha`, `momentum`: of the outer step. `lag`: versions that units are
    behind, `ahead`: `sync.look_ahead`. `speeds`: of the workers of `async`; `late`: their pushes take effect
    after their next unit has begun, as over a network. `optimizer`: of `ddp` and `local`. `warmup`: steps of it.
    `streams`: R. `remembers`: what deltas leave out is kept for later ones; `returns`: so is what staleness takes.
    `own`: rounds of `async` begin where their worker's own pushes on their way take x̂, times that."""

    method: str
    lr: float
    local_steps: int = 1
    up: Codec = EXACT
    down: Codec = EXACT
    alpha: float = 1.0
    momentum: float = 0.0
    gamma: float = 0.0
    beta1: float = 0.9
    lag: int = 0
    ahead: float = 0.0
    speeds: tuple[float, ...] = ()
    late: bool = False
    optimizer: str = "adamw"
    warmup: int = 100
    streams: int = 4
    remembers: bool = True
    returns: bool = True
    own: float = 0.0
    seed: int = 0
    work: Workload = field(default=WORK)

    @classmethod
    def of(cls, raw: dict[str, Any]) -> Point:
        known = {f.name for f in fields(cls)}
        raw = {name: value for name, value in raw.items() if name in known}
        raw["speeds"] = tuple(raw.get("speeds", ()))
        for name, kind in (("up", Codec), ("down", Codec), ("work", Workload)):
            if name in raw:
                given = dict(raw[name])
                if "policy" in given:
                    given["policy"] = tuple(given["policy"])
                if "coarse" in given:
                    given["coarse"] = float(given["coarse"])
                raw[name] = kind(**given)
        return cls(**raw)


INT8 = Codec(values="int8", policy=("1d=fp16",))


def int4(coarse: float = 1.0, feedback: str = "none") -> Codec:
    """Whole blocks in int4 with steps so coarse; norms and biases in fp16."""
    return Codec(values="int4", feedback=feedback, policy=("1d=fp16",), coarse=coarse)


def mxint4(coarse: float = 1.0, feedback: str = "none") -> Codec:
    """The same with a scale for each 64 elements."""
    return replace(int4(coarse, feedback), values="mxint4")


BY_DEFAULT = Point("step", 0.0, up=mxint4(4.0, "ef"), down=mxint4(5.0))
"""What per-step modes send."""
QUARTER = Codec(1 / 4, "sign1", "ef21", policy=("1d=fp16",))
SPARSE_STEP = Point("step", 0.0, up=QUARTER, down=sparse(1024, feedback="none"), beta1=0.5)
"""What they sent once (docs/decisions/0025)."""


def rates(point: Point) -> Iterator[Point]:
    return (replace(point, lr=lr) for lr in LEARNING_RATES)


def local(h: int, k: int, kept: int, **more: Any) -> Point:
    """H local steps; k of each 4,096 up, `kept` down."""
    return Point("local", 0.0, h, up=sparse(k), down=sparse(kept, feedback="none"), **more)


def dense(h: int) -> Iterator[Point]:
    """DiLoCo without compression: plain averaging, and with Nesterov's outer step."""
    yield Point("local", 0.0, h)
    yield Point("local", 0.0, h, alpha=0.7, momentum=0.9)


def baseline() -> Iterator[Point]:
    """DDP, and dense DiLoCo."""
    for point in (Point("ddp", 0.0), *dense(5), *dense(15)):
        yield from rates(point)


def step() -> Iterator[Point]:
    """Per-step codecs: what they cost at equal tokens."""
    yield from rates(Point("step", 0.0))
    yield from rates(Point("step", 0.0, up=INT8, down=INT8))
    for coarse in (1.0, 2.0, 3.0, 4.0, 6.0):
        yield from rates(Point("step", 0.0, up=int4(coarse, "ef"), down=int4(coarse)))
    for up, down in ((3.0, 4.0), (4.0, 5.0), (4.0, 6.0), (6.0, 7.0)):
        yield from rates(Point("step", 0.0, up=mxint4(up, "ef"), down=mxint4(down)))
    yield from rates(replace(BY_DEFAULT, beta1=0.5))
    yield from rates(SPARSE_STEP)


def delayed() -> Iterator[Point]:
    """One step behind, exact and as compressed by default."""
    for beta1, ahead in ((0.5, 0.0), (0.9, 0.0), (0.5, 2.5), (0.9, 2.5)):
        yield from rates(Point("step", 0.0, lag=1, beta1=beta1, ahead=ahead))
    yield from rates(replace(BY_DEFAULT, lag=1, beta1=0.9, ahead=2.5))


def asynchronous() -> Iterator[Point]:
    """Workers of four speeds, with and without looking ahead, exact and compressed by default; and over a network."""
    race = Point("async", 0.0, speeds=(1, 1, 2, 4))
    for beta1, ahead in ((0.9, 0.0), (0.9, 2.5), (0.95, 3.5)):
        yield from rates(replace(race, beta1=beta1, ahead=ahead))
    yield from rates(replace(BY_DEFAULT, method="async", speeds=race.speeds, ahead=2.5))
    for warmup in (60, 100, 200):
        late = replace(BY_DEFAULT, method="async", speeds=race.speeds, ahead=2.5, late=True, warmup=warmup)
        yield from rates(late)


def density() -> Iterator[Point]:
    """Where bytes are best saved: by fewer rounds, or by sparser ones."""
    for h, k in ((2, 64), (4, 64), (4, 128), (4, 256), (8, 128), (8, 256), (15, 256), (15, 512)):
        yield from rates(local(h, k, 2 * k))


def merge() -> Iterator[Point]:
    """γ and α, at one point of the sweep before."""
    for gamma, alpha in ((0.5, 1.0), (1.0, 0.7), (0.0, 0.7), (0.0, 1.4)):
        yield from rates(local(4, 128, 256, gamma=gamma, alpha=alpha))


def outer() -> Iterator[Point]:
    """Outer momentum, and a residual that forgets."""
    yield from rates(local(4, 128, 256, alpha=0.7, momentum=0.9))
    yield from rates(local(4, 128, 256, momentum=0.5))
    yield from rates(replace(local(4, 128, 256), up=sparse(128, decay=0.95)))


def muon() -> Iterator[Point]:
    """Local steps whose hidden matrices Muon steps, as by default, and DDP with it."""
    yield from rates(Point("ddp", 0.0, optimizer="muon"))
    for h, coarse in ((1, 4.0), (2, 6.0), (4, 6.0), (8, 6.0), (15, 4.0), (15, 6.0), (30, 4.0), (30, 6.0)):
        codec = int4(coarse)
        yield from rates(
            Point("local", 0.0, h, up=replace(codec, feedback="ef"), down=codec, optimizer="muon")
        )
    yield from rates(Point("local", 0.0, 15, optimizer="muon"))


SWEEPS: dict[str, Callable[[], Iterator[Point]]] = {
    sweep.__name__: sweep for sweep in (baseline, step, delayed, asynchronous, density, merge, outer, muon)
}
