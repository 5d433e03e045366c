"""What is claimed of losses, and what the runs of `frontier.py` say: benchmarks/results/claims.md.

    python -m benchmarks.claims 5 --lrs 4e-3,8e-3 [--seeds 0,1,2] [--part 0/2]     runs what claim 5 needs
    python -m benchmarks.claims                                                    only the page

A claim puts one method beside another, each at the best of the learning rates that it was run at (by seed 0), over the
seeds of both. Runs are kept in benchmarks/results/frontier.jsonl, and none is repeated. What needs real processes,
bits and times, is in `experiments.py`.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from benchmarks.figures import RESULTS, table
from benchmarks.findings import Finding, at_least, at_most
from benchmarks.frontier import Store, complete, options
from benchmarks.frontier_page import Row, codec, method, outer, rows
from benchmarks.points import BY_DEFAULT, EXACT, WORK, Point, int4, rates, sparse

# --- methods; the learning rate is put in later -----------------------------------------------

EXACTLY = Point("step", 0.0)
"""`sync` with dense codecs."""
DELAYED = replace(BY_DEFAULT, lag=1, ahead=2.5)
LATE = replace(BY_DEFAULT, method="async", speeds=(1.0, 1.0, 2.0, 4.0), ahead=2.5, late=True, warmup=200)
SYNC_SLOWLY = replace(BY_DEFAULT, warmup=200)

DDP, DDP_MUON = Point("ddp", 0.0), Point("ddp", 0.0, optimizer="muon")
LOCAL = Point("local", 0.0, 15, up=int4(6.0, "ef"), down=int4(6.0), optimizer="muon")
"""`local` by default."""
LOCAL_LATE = replace(LOCAL, method="async", speeds=LATE.speeds, late=True, own=1.0)
LOCAL_EXACTLY = replace(LOCAL, up=EXACT, down=EXACT)
DILOCO = Point("local", 0.0, 15, alpha=0.7, momentum=0.9)

FORGETFUL = replace(LOCAL, up=replace(LOCAL.up, decay=1e-6))
"""Without error feedback, as near as the configuration lets us."""

SPARSE = replace(LOCAL, up=sparse(64), down=sparse(128, feedback="none"))
PLAIN = (SPARSE, replace(SPARSE, alpha=0.7))
MOMENTA = (replace(SPARSE, alpha=0.7, momentum=0.9), replace(SPARSE, alpha=0.7, momentum=0.3))
"""DiLoCo's outer step, and a little momentum that comes to the same length of step."""
EIGHT = replace(SPARSE, streams=8, work=replace(WORK, batch_size=2))
"""Eight streams, and as many tokens a step."""
UNCOUNTED = (EIGHT, replace(EIGHT, alpha=1.4))
"""γ = 0, and with longer steps, which are another thing that counting comes to."""
COUNTED = tuple(replace(EIGHT, gamma=gamma) for gamma in (0.5, 1.0))
DENSE_DELTAS = replace(LOCAL, down=EXACT)
ONE = replace(BY_DEFAULT, streams=1, warmup=200, work=replace(WORK, batch_size=16))


def stale(steps: int) -> Point:
    """So many workers with one unit a step between them that each is behind by what the others send meanwhile."""
    return replace(ONE, method="async", speeds=(1.0,) * (steps + 1), ahead=2.5)


# --- claims -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Claim:
    """The loss of `ours` is above that of `theirs` by a share of `most` at most, or of `least` at least.

    Attributes:
        name: by which it is asked for: the number of the experiment, where it is one.
        fewer: bytes both ways than theirs, at least so many times.
    """

    name: str
    says: str
    ours: tuple[Point, ...]
    theirs: tuple[Point, ...]
    most: float = math.inf
    least: float = -math.inf
    fewer: float = 0.0


CLAIMS = (
    Claim("sync", "four bits cost `sync` nothing", (BY_DEFAULT,), (EXACTLY,), most=0.003, fewer=16),
    Claim("delayed", "a delay of one step costs nothing", (DELAYED,), (BY_DEFAULT,), most=0.005),
    Claim("3", "`local` against DDP with AdamW", (LOCAL,), (DDP,), most=0.01, fewer=300),
    Claim("3", "`local` against DDP with Muon", (LOCAL,), (DDP_MUON,), most=0.01, fewer=300),
    Claim(
        "3",
        "a thousand times fewer bytes, against DDP with AdamW",
        (replace(LOCAL, local_steps=48),),
        (DDP,),
        most=0.01,
        fewer=1000,
    ),
    Claim("4", "`local` against dense local steps, same H", (LOCAL,), (LOCAL_EXACTLY,), most=0.005, fewer=16),
    Claim("4", "`local` against DiLoCo, same H", (LOCAL,), (DILOCO,), most=0.005, fewer=16),
    Claim("5", "without error feedback `local` is worse", (FORGETFUL,), (LOCAL,), least=0.03),
    Claim("6", "outer momentum gains nothing where 1/64 is sent", PLAIN, MOMENTA, most=0.003),
    Claim("7", "γ ≥ 1/2 gains where eight send 1/64 each", COUNTED, UNCOUNTED, most=-0.005),
    *(
        Claim(
            "10",
            f"deltas of {kept} of 4,096, against dense ones",
            (replace(LOCAL, down=sparse(kept, feedback="none")),),
            (DENSE_DELTAS,),
            most=most,
        )
        for kept, most in ((128, 0.005), (64, 0.01))
    ),
    Claim(
        "11",
        "deltas that forget what they left out are worse",
        (replace(LOCAL, remembers=False),),
        (LOCAL,),
        least=0.03,
    ),
    Claim(
        "12",
        "`async` over a network, speeds 1:1:2:4, against `sync`",
        (LATE,),
        (BY_DEFAULT, SYNC_SLOWLY),
        most=0.01,
    ),
    Claim(
        "12",
        "`async` with local steps, over a network, speeds 1:1:2:4, against `local`",
        (LOCAL_LATE,),
        (LOCAL,),
        most=0.01,
    ),
    *(
        Claim("13", f"units {steps} steps stale", (stale(steps),), (ONE,), most=most)
        for steps, most in ((2, 0.007), (4, 0.015), (8, 0.03))
    ),
    *(
        Claim(
            "13",
            f"{steps} steps stale, what is damped away returns",
            (stale(steps),),
            (replace(stale(steps), returns=False),),
            most=0.0,
        )
        for steps in (4, 8)
    ),
)


# --- verdicts ---------------------------------------------------------------------------------


def best(methods: Iterable[Point], found: Iterable[Row]) -> Row | None:
    """Of these methods the run with the lowest loss, at whichever rate; None where none was run."""
    of_them = [row for row in found if replace(row.point, lr=0.0, seed=0) in methods]
    return min(of_them, key=lambda row: row.losses[0], default=None)


def findings(claim: Claim, found: Sequence[Row]) -> Iterator[tuple[str, Finding]]:
    """Each with the sign between it and its limit."""
    ours, theirs = best(claim.ours, found), best(claim.theirs, found)
    gap = ours.gap(theirs) if ours and theirs else None
    if math.isfinite(claim.most):
        yield "≤", at_most(claim.says, gap, claim.most)
    if math.isfinite(claim.least):
        yield "≥", at_least(claim.says, gap, claim.least)
    if claim.fewer:
        fewer = ours.ratio / theirs.ratio if ours and theirs else None
        yield "≥", at_least("fewer bytes, both ways", fewer, claim.fewer)


# --- the page ---------------------------------------------------------------------------------

VERDICTS = {None: "not run", True: "kept", False: "MISSED"}
HEADER = ("", "claim", "found", "limit", "", "loss", "of", "loss", "against")


def lines(claim: Claim, found: Sequence[Row]) -> Iterator[list[object]]:
    told = [*_told(best(claim.ours, found)), *_told(best(claim.theirs, found))]
    for sign, finding in findings(claim, found):
        as_text = "{:,.0f}x" if finding.limit >= 1 else "{:+.2%}"
        figure = "–" if finding.found is None else as_text.format(finding.found)
        limit, verdict = f"{sign} {as_text.format(finding.limit)}", VERDICTS[finding.kept]
        yield [claim.name, finding.claim, figure, limit, verdict, *told]
        told = [""] * len(told)


def _told(row: Row | None) -> tuple[str, str]:
    """A row's losses, and what it is of."""
    if row is None:
        return "–", "–"
    losses = ", ".join(f"{row.losses[seed]:.3f}" for seed in sorted(row.losses))
    of = f"{method(row.point)}; {codec(row.point.up)} / {codec(row.point.down)}; {outer(row.point)}"
    return losses, f"{of}; lr {row.point.lr:g} of {', '.join(f'{rate:g}' for rate in row.rates)}"


def page(found: Sequence[Row]) -> str:
    work = WORK
    return (
        "# What is claimed of losses\n\n"
        f"One process with the real codecs, {work.steps:,} steps of 16 x {work.seq_len} bytes of text, a model of "
        f"{work.layers} layers of width {work.width}; R = 4 where nothing else is said. Losses are on held-out "
        "text, of seeds 0, 1, …; what was found is over the seeds of both, at the best of the learning rates "
        "listed (by seed 0). One seed says nothing below a percent, three little below half of one. "
        "`python -m benchmarks.claims` ([program](../claims.py), [every run](frontier.jsonl)).\n\n"
        + table(HEADER, (line for claim in CLAIMS for line in lines(claim, found)))
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", nargs="*", choices=[*dict.fromkeys(claim.name for claim in CLAIMS), []])
    chosen = options(parser).parse_args()
    asked = [claim for claim in CLAIMS if claim.name in chosen.name]
    methods = dict.fromkeys(point for claim in asked for point in (*claim.ours, *claim.theirs))
    complete((at for point in methods for at in rates(point)), chosen)
    written = RESULTS / "claims.md"
    written.write_text(page(rows(Store(chosen.store).runs())))
    print(written)


if __name__ == "__main__":
    main()
