"""The grid: which cases, in which order, under which names."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import pytest

from sparsync.bench.modes import links, methods, stragglers
from sparsync.bench.modes.cases import Grid, best_lrs, case_of, edge, tuned_as
from tests.sparsync.modes.curves import WORK, case
from wire.config import arithmetic
from wire.errors import ConfigError, UsageError


def grid(**other: object) -> Grid:
    told = {
        "methods": (
            methods.mode("sync"),
            methods.mode("async"),
            methods.baseline("ddp"),
            methods.baseline("one"),
        ),
        "codecs": (methods.codec("default"),),
        "workers": (2,),
        "stragglers": tuple(map(stragglers.pattern, ("none", "slow:1/4"))),
        "links": tuple(map(links.link, ("unlimited", "10mbit"))),
        "lrs": (1e-3, 2e-3),
        "seeds": (0, 1),
        "work": WORK,
    }
    return Grid(**{**told, **other})  # type: ignore[arg-type]


def test_a_digest_is_of_all_that_a_case_says() -> None:
    one = case()
    others = [replace(one, seed=1), replace(one, lr=2e-3), replace(one, work=replace(WORK, steps=101))]
    others.append(replace(one, shaped="proxy"))
    assert len({one.digest, *(other.digest for other in others)}) == 5
    assert case_of(json.loads(json.dumps(asdict(one)))) == one
    assert case_of(json.loads(json.dumps(asdict(one)))).digest == one.digest


def test_a_run_under_other_defaults_is_another_case(monkeypatch: pytest.MonkeyPatch) -> None:
    before, dense = case(), case(codec="dense", settings=("push.codec=dense", "pull.codec=dense"))
    assert before.sends == "mxint4, coarse 4 / mxint4, coarse 5" and dense.sends == "fp32 / fp32"
    assert replace(before, kind="ddp").sends == ""
    monkeypatch.setitem(arithmetic.BY_ARITHMETIC, "push.values", ("int4", "int4"))
    after = replace(before)
    assert after.sends == "int4, coarse 4 / mxint4, coarse 5"
    assert after.digest != before.digest and replace(dense).digest == dense.digest


def test_rates_are_tuned_once_and_the_best_is_taken_everywhere_else() -> None:
    whole = grid()
    tuning = whole.tuning()
    assert {(c.link, c.straggler, c.seed) for c in tuning} == {("unlimited", "none", 0)}
    assert len(tuning) == 4 * 2
    best = best_lrs((c, 3.0 - 100 * c.lr) for c in tuning)
    assert set(best.values()) == {2e-3}
    rest = whole.rest(best)
    assert {c.lr for c in rest} == {2e-3}
    # 3 methods with others at 3 pairs of link and pattern and 2 seeds, without the tuned ones; one process at 2 seeds.
    assert len(rest) == 3 * (3 * 2 - 1) + 1
    assert not {c.digest for c in tuning} & {c.digest for c in rest}


def test_links_and_patterns_vary_one_at_a_time_unless_crossed() -> None:
    pairs = {(c.link, c.straggler) for c in grid().all()}
    assert pairs == {("unlimited", "none"), ("10mbit", "none"), ("unlimited", "slow:1/4")}
    assert ("10mbit", "slow:1/4") in {(c.link, c.straggler) for c in grid(cross=True).all()}


def test_a_case_says_how_its_link_is_shaped() -> None:
    def found(*, namespaces: bool) -> set[tuple[str, str, str]]:
        return {
            (c.kind, c.link, c.shaped) for c in grid(namespaces=namespaces).all() if c.straggler == "none"
        }

    unlimited = {(kind, "unlimited", "unlimited") for kind in ("cluster", "ddp", "one")}
    assert found(namespaces=True) - unlimited == {
        *(("cluster", "10mbit", "namespaces"), ("ddp", "10mbit", "namespaces"))
    }
    assert found(namespaces=False) - unlimited == {
        *(("cluster", "10mbit", "proxy"), ("ddp", "10mbit", "not shaped"))
    }


def test_one_process_is_the_same_case_everywhere() -> None:
    alone = [c for c in grid(cross=True).all() if c.kind == "one"]
    assert {(c.workers, c.link, c.straggler) for c in alone} == {(1, "unlimited", "none")}
    assert len(alone) == 2 * 2


def test_a_rate_that_diverged_is_worse_than_any_other() -> None:
    found = best_lrs([(case(lr=1e-3), None), (case(lr=2e-3), 9.0), (case(lr=4e-3), None)])
    assert found == {tuned_as(case()): 2e-3}
    assert best_lrs([(case(lr=2e-3), None), (case(lr=1e-3), None)]) == {tuned_as(case()): 1e-3}


def test_what_is_no_number_breaks_no_order() -> None:
    lrs, losses = (1e-3, 2e-3, 4e-3, 8e-3), (5.0, float("nan"), 3.0, float("inf"))
    found = best_lrs((case(lr=lr), loss) for lr, loss in zip(lrs, losses, strict=True))
    assert found == {tuned_as(case()): 4e-3}


def test_rates_at_the_edge_of_a_grid_are_known() -> None:
    lrs = (1e-3, 2e-3, 4e-3)
    assert [edge(lr, lrs) for lr in lrs] == ["lowest", "", "highest"]
    assert edge(1e-3, (1e-3,)) == "the only one"


def test_a_clusters_configuration_is_that_of_its_case() -> None:
    one = case("async", codec="dense", settings=("push.codec=dense", "sync.mode=async"), lr=3e-3, seed=5)
    config = one.config
    assert (config.sync.mode, config.push.codec, config.optimizer.lr) == ("async", "dense", 3e-3)
    assert (config.run.seed, config.run.steps, config.model.width) == (5, WORK.steps, WORK.width)
    assert config.run.eval_every == 0


def test_what_cannot_be_compared_is_refused_before_anything_runs() -> None:
    with pytest.raises(UsageError, match="divisor of --streams 4"):
        grid(workers=(3,)).check()
    grid(workers=(3, 9), methods=(methods.mode("sync"), methods.baseline("one"))).check()
    with pytest.raises(ConfigError, match=r"push\.density"):
        grid(work=replace(WORK, settings=("push.density=7",))).check()
    with pytest.raises(UsageError, match=r"-s sets optimizer\.lr=1e-2.*expected --lrs"):
        grid(work=replace(WORK, settings=("optimizer.lr=1e-2",))).check()
    with pytest.raises(UsageError, match=r"--modes sync\+run\.steps=9 sets run\.steps=9.*expected --steps"):
        grid(methods=(methods.mode("sync+run.steps=9"),)).check()
    with pytest.raises(UsageError, match=r"--codecs .* sets sync\.mode=async.*expected --modes"):
        grid(codecs=(methods.codec("dense+sync.mode=async"),)).check()
    with pytest.raises(UsageError, match="A stands for more than one"):
        grid(methods=(methods.mode("A:sync"), methods.mode("A:async"))).check()
    grid().check()


@pytest.mark.parametrize("text", ["synk", "sync+push.nothing=1"])
def test_an_unknown_mode_or_key_is_refused(text: str) -> None:
    with pytest.raises((UsageError, ConfigError)):
        methods.mode(text)


@pytest.mark.parametrize("text", ["dpp", "ddp+rank=1", "diloco+local_steps=many"])
def test_an_unknown_baseline_or_key_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        methods.baseline(text)


def test_a_baseline_says_all_its_keys() -> None:
    assert methods.values(methods.baseline("diloco+local_steps=30+muon=1").settings) == {
        "muon": 1.0,
        "local_steps": 30.0,
        "outer_lr": 0.7,
        "outer_momentum": 0.9,
    }


def test_an_alias_is_what_tables_call_it() -> None:
    short = methods.mode("quick:async+sync.damping=0")
    assert (short.name, short.settings) == ("quick", ("sync.mode=async", "sync.damping=0"))
    assert methods.mode("async+sync.damping=0").name == "async+sync.damping=0"
    assert methods.codec("tiny:default+push.density=0.01")[0] == "tiny"
    assert methods.baseline("H30:diloco+local_steps=30").name == "H30"


def test_commas_inside_brackets_part_nothing() -> None:
    text = "sync, local+optimizer.betas=[0.9,0.95] ,async"
    assert methods.words([text]) == ["sync", "local+optimizer.betas=[0.9,0.95]", "async"]
