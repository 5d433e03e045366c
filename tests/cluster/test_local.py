"""Local steps: a cluster computes what R copies of the loop compute in one process, whoever is killed meanwhile.

The loop below is the oracle: each stream's own optimizer takes the steps of a round from the same model, the
differences are summed in stream order, divided once, and torch's SGD takes the outer step.
"""

from __future__ import annotations

import json
import random
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.utils.data import default_collate

from sparsync.exporting import export, find_source
from sparsync.lm.corpus import prepare
from sparsync.lm.dataset import TokenDataset
from sparsync.lm.model import GPT
from sparsync.lm.train import CLIP_NORM, build_optimizer, build_scheduler
from tests.cluster.conftest import ROOT, Starter
from tests.cluster.running import command
from tests.cluster.test_digests import equal_runs
from tests.cluster.test_oracle import config_of, digest
from wire.config import Config
from wire.rounds import Rounds
from worker.data import Order
from worker.randomness import seed_all

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]
LOCAL = {"sync.mode": "local", "sync.local_steps": 4, "run.steps": 22, "optimizer.min_lr_ratio": 0.1}
SCRIPTS = ROOT / "tests" / "cluster" / "scripts"
AUDIT = ROOT / "examples" / "audit.py"
DENSE = {"push.codec": "dense", "pull.codec": "dense"}
MOMENTUM = {"optimizer.outer_lr": 0.7, "optimizer.outer_momentum": 0.9, "optimizer.outer_nesterov": "true"}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def train_alone(config: Config) -> nn.Module:
    """The run of `config` in this process, without any of Sparsync's servers, sessions or codecs."""
    seed_all("run", config.run.seed)
    text = prepare(config.data.source, config.data.cache_dir)
    dataset = TokenDataset(text.train, config.data.seq_len)
    model = GPT(config.model.layers, config.model.width, config.model.heads, context=config.data.seq_len)
    inner = build_optimizer(model, config.optimizer)
    scheduler = build_scheduler(inner, config.optimizer, total_steps=config.run.steps)
    rates, inner._opt_called = [], True  # the order is ours
    for _ in range(config.run.steps):
        rates.append([group["lr"] for group in inner.param_groups])
        scheduler.step()
    streams, rounds = config.sync.units_per_step, Rounds.of(config)
    order = Order(config.run.seed, len(dataset), config.data.batch_size, streams)
    states = [inner.state, *(defaultdict(dict) for _ in range(streams - 1))]
    published = [p.detach().clone() for p in model.parameters()]
    outer = torch.optim.SGD(
        [nn.Parameter(p.clone()) for p in published],
        lr=config.optimizer.outer_lr,
        momentum=config.optimizer.outer_momentum,
        nesterov=config.optimizer.outer_nesterov,
        fused=True,
    )
    x = outer.param_groups[0]["params"]
    for round_ in range(rounds.rounds_of(config.run.steps)):
        total = [torch.zeros_like(p) for p in published]
        for stream in range(streams):
            inner.state = states[stream]
            with torch.no_grad():
                for p, there in zip(model.parameters(), x, strict=True):
                    p.copy_(there)
            for step in rounds.steps_of(round_):
                for group, rate in zip(inner.param_groups, rates[step], strict=True):
                    group["lr"] = rate
                take_step(model, inner, dataset, order.indices(step, stream).tolist())
            for there, p, summed in zip(x, model.parameters(), total, strict=True):
                summed += there.detach() - p.detach()
        for there, summed in zip(x, total, strict=True):
            there.grad = summed / streams
        outer.step()
    with torch.no_grad():
        for p, there in zip(model.parameters(), x, strict=True):
            p.copy_(there)
    return model


def take_step(
    model: nn.Module, inner: torch.optim.Optimizer, dataset: TokenDataset, indices: list[int]
) -> None:
    x, y = default_collate([dataset[i] for i in indices])
    _, loss = model(x, y)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM)
    inner.step()
    inner.zero_grad()


def test_the_run_is_the_oracles(train: Starter, settings: dict[str, object], seed: int) -> None:
    """Dense, with Nesterov's momentum; a short last round; while a worker is killed, whose heir replays its streams."""
    changes = {**LOCAL, **DENSE, **MOMENTUM, "durability.stream_state_every": 2}
    expected = digest(train_alone(config_of({**settings, **changes})))
    run = train(changes)
    run.wait_for_step(random.Random(seed).choice([3, 7, 11]))
    run.kill_worker(run.carriers()[-1])
    summary = run.finish()
    assert summary["params_digest"] == summary["published_digest"] == expected
    assert (summary["steps"], summary["units_settled"], summary["samples"]) == (22, 6 * 4, 22 * 4 * 2)
    assert [e["step"] for e in run.events("step")] == [3, 7, 11, 15, 19, 21]
    assert [e["step"] for e in run.events("evaluated") if e["model"] == "published"] == [0, 12, 20, 22]
    assert [path.name for path in (run.out / "checkpoints").iterdir()] == ["step-22"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [{"optimizer.name": "adamw"}, {"optimizer.name": "sgd", "optimizer.lr": 0.1}],
    ids=["adamw", "sgd"],
)
def test_plain_averaging_is_the_oracles(
    train: Starter, settings: dict[str, object], changes: dict[str, object]
) -> None:
    changes = {**LOCAL, **DENSE, "sync.warmup_rounds": 2, "sync.warmup_local_steps": 2, **changes}
    summary = train(changes).finish()
    assert summary["params_digest"] == digest(train_alone(config_of({**settings, **changes})))


@pytest.mark.slow
@pytest.mark.parametrize("aggregate", ["mean", "count"])
def test_machines_change_nothing(train: Starter, aggregate: str) -> None:
    changes = {**LOCAL, "optimizer.aggregate": aggregate}
    first = train(changes).finish()
    for servers, workers in ((1, 1), (4, 3), (2, 4)):
        flags = ["--servers", str(servers), "--workers", str(workers)]
        equal_runs(first, train(changes, flags=flags).finish())


@pytest.mark.slow
def test_a_run_is_resumed_on_other_machines(train: Starter) -> None:
    """With the moments of each stream: the bits are those of the run that went through."""
    steady = {**LOCAL, "optimizer.min_lr_ratio": 1}
    whole = train(steady).finish()
    half = train({**steady, "run.steps": 12})
    half.finish()
    flags = ["--servers", "1", "--workers", "3"]
    resumed = train({"run.steps": 22}, out=half.out, flags=flags).finish()
    for key in ("steps", "params_digest", "published_digest"):
        assert resumed[key] == whole[key], key


@pytest.mark.slow
def test_a_run_that_began_step_by_step_goes_on_with_local_steps(train: Starter) -> None:
    begun = train({"run.steps": 10})
    begun.finish()
    run = train({"run.steps": 21, "sync.mode": "local", "sync.local_steps": 4}, out=begun.out)
    summary = run.finish()
    assert summary["steps"] == 21
    assert [e["step"] for e in run.events("step")] == [13, 17, 20]
    assert summary["val_loss"] < 5.3


def test_one_who_waits_for_nobody_goes_on_from_its_own_steps(train: Starter) -> None:
    """Alone, with dense codecs, it computes what it would if it waited for each of its deltas, but for rounding."""
    changes = {**LOCAL, **DENSE, "sync.units_per_step": 1, "run.steps": 60}
    flags = ["--workers", "1", "--servers", "2"]
    waited = train(changes, flags=flags)
    found = waited.finish()
    run = train({**changes, "sync.mode": "async"}, flags=flags)
    summary = run.finish()
    assert summary["steps"] == found["steps"] == 60
    there, here = (newest_model(each.out) for each in (waited, run))
    for name, value in there.items():
        assert torch.allclose(here[name], value, rtol=0, atol=2e-5), name


def newest_model(out: Path) -> dict[str, torch.Tensor]:
    export(find_source(out, step=None, say=print), out / "model", model="x")
    return load_file(out / "model" / "model.safetensors")


AUDITED = {
    "local": {"sync.mode": "local", "sync.local_steps": 3},
    "single": {"sync.mode": "local", "sync.local_steps": 1},
    "quorum": {"sync.mode": "local", "sync.local_steps": 2, "sync.quorum": 3, "sync.deadline_s": 0.02},
    "bounded": {"sync.mode": "local", "sync.local_steps": 3, "sync.staleness": 2},
    "async": {"sync.mode": "async", "sync.local_steps": 3},
}


@pytest.mark.slow
@pytest.mark.parametrize("pace", AUDITED)
def test_each_step_counts_once(train: Starter, pace: str, seed: int) -> None:
    """The audit tensor, one element a step and stream: at every pace, while workers are killed (P2, P18)."""
    draw, steps = random.Random(seed), 100
    changes = {
        **DENSE,
        **AUDITED[pace],
        "optimizer.aggregate": "sum",
        "run.steps": steps,
        "run.eval_every": 0,
    }
    run = train(changes, flags=["--workers", "3", "--servers", "2"], script=[AUDIT, "--pause", "0.05"])
    for step in sorted(draw.sample(range(5, 80), 2)):
        run.wait_for_step(step)
        deaths = len(run.events("died"))
        run.kill_worker(draw.choice(sorted(run.pids("worker"))))
        run.wait_for_another("died", deaths, limit_s=10)
    summary = run.finish()
    audit = json.loads((run.out / "audit.json").read_text())
    assert (audit["units"], audit["applied_once"], audit["wrong"]) == (4 * steps, 4 * steps, {})
    assert audit["copies_agree"] and audit["elsewhere_zero"]
    assert summary["steps"] == steps


@pytest.mark.slow
def test_the_pace_of_local_steps_is_live(train: Starter, environ: dict[str, str]) -> None:
    """From one pace to another and back at boundaries; nothing is counted twice, nothing left out."""
    changes = {
        **DENSE,
        **AUDITED["local"],
        "optimizer.aggregate": "sum",
        "run.steps": 480,
        "run.eval_every": 0,
    }
    run = train(changes, flags=["--workers", "3", "--servers", "2"], script=[AUDIT, "--pause", "0.05"])
    for after, mode in ((20, "async"), (120, "local"), (240, "ssp")):
        run.wait_for_step(after)
        command("set", run.out, f"sync.mode={mode}", environ=environ).check_returncode()
    run.finish()
    audit = json.loads((run.out / "audit.json").read_text())
    assert (audit["applied_once"], audit["wrong"]) == (4 * 480, {})
    assert [e["mode"] for e in run.events("segment")] == ["async", "local", "ssp"]


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adafactor", "nadam"])
def test_any_optimizer_whoever_carries_its_state(train: Starter, optimizer: str, seed: int) -> None:
    """Its moments, the schedule that drives it, batch norm: all as if nobody had died, and on one worker."""
    changes = {
        "sync.mode": "local",
        "sync.local_steps": 4,
        "run.steps": 60,
        "durability.stream_state_every": 3,
    }
    script = [SCRIPTS / "inner.py", optimizer]
    alone = train(changes, flags=["--workers", "1", "--servers", "1"], script=script).finish()
    run = train(changes, flags=["--workers", "3", "--servers", "2"], script=script)
    run.wait_for_step(random.Random(seed).choice([11, 19, 31]))
    run.kill_worker(run.carriers()[-1])
    summary = run.finish()
    equal_runs(alone, summary)
    assert len(run.events("died")) == 1


@pytest.mark.parametrize("fault", ["spoils", "breaks"])
def test_what_is_not_gone_on_with_leaves_no_trace(train: Starter, fault: str) -> None:
    """Steps of a unit that is computed again, or by somebody else, are not in what counts: model and moments."""
    changes = {
        "sync.mode": "local",
        "sync.local_steps": 4,
        "run.steps": 32,
        "durability.stream_state_every": 3,
    }
    flags = ["--workers", "2", "--servers", "1"]
    sound = train(changes, flags=flags, script=[SCRIPTS / "inner.py", "nadam"]).finish()
    run = train(changes, flags=flags, script=[SCRIPTS / "inner.py", "nadam", fault])
    equal_runs(sound, run.finish())
    assert len(run.events("leaving")) == (fault == "breaks")


@pytest.mark.slow
def test_a_bad_step_makes_its_unit_bad(train: Starter) -> None:
    changes = {"sync.mode": "local", "sync.local_steps": 2, "run.steps": 8, "run.on_bad_unit": "skip"}
    run = train(changes, script=[SCRIPTS / "faulty.py", "nan"])
    summary = run.finish()
    assert (summary["steps"], summary["units_settled"], summary["units_empty"]) == (8, 12, 4)
    assert {(e["step"], e["stream"]) for e in run.events("bad_unit")} == {(2, stream) for stream in range(4)}
