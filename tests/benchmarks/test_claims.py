"""Claims of losses: methods are found among runs whatever their rate, and verdicts follow from losses made by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.claims import BY_DEFAULT, CLAIMS, DELAYED, EXACTLY, LOCAL, Claim, best, findings, lines
from benchmarks.frontier_page import Row
from benchmarks.points import Point


def row(point: Point, *losses: float, ratio: float = 1.0, lr: float = 4e-3) -> Row:
    return Row(replace(point, lr=lr), dict(enumerate(losses)), ratio, (lr,))


CLAIM = Claim("sync", "nothing is lost", (BY_DEFAULT,), (EXACTLY,), most=0.01, fewer=16)


@pytest.mark.parametrize(
    ("losses", "ratio", "verdicts"), [((2.0, 2.02), 20.0, [True, True]), ((2.1, 2.0), 15.0, [False, False])]
)
def test_a_verdict_is_over_the_seeds_of_both(
    losses: tuple[float, ...], ratio: float, verdicts: list[bool]
) -> None:
    found = [row(BY_DEFAULT, *losses, ratio=ratio), row(EXACTLY, 2.0, 2.0, 9.0)]
    assert [finding.kept for _, finding in findings(CLAIM, found)] == verdicts


def test_of_several_methods_the_best_counts() -> None:
    found = [row(EXACTLY, 2.0), row(DELAYED, 1.9, lr=8e-3), row(LOCAL, 1.0)]
    chosen = best((EXACTLY, DELAYED), found)
    assert chosen is found[1]
    assert best((BY_DEFAULT,), found) is None


def test_what_was_not_run_is_neither_kept_nor_missed() -> None:
    for claim in CLAIMS:
        assert [finding.kept for _, finding in findings(claim, [])] == [None] * len(list(findings(claim, [])))
        assert all("not run" in line for line in lines(claim, []))


def test_least_is_the_other_way_round() -> None:
    worse = replace(CLAIM, most=float("inf"), least=0.03, fewer=0.0)
    for loss, verdict in ((2.1, True), (2.0, False)):
        (found,) = findings(worse, [row(BY_DEFAULT, loss), row(EXACTLY, 2.0)])
        assert (found[0], found[1].kept) == ("≥", verdict)


def test_every_claim_says_something() -> None:
    assert all(list(findings(claim, [])) for claim in CLAIMS)
    assert len({(claim.name, claim.says) for claim in CLAIMS}) == len(CLAIMS)
