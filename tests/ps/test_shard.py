"""The shard as a state machine: same records, same bits; against plain PyTorch; refusals change nothing."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import numpy as np
import pytest
import torch

from ps import exact
from ps.held import Held
from ps.ledger import Verdict
from ps.publish import Delta
from ps.records import Accept, Accepted, Close, Fence, Fenced
from ps.shard import Shard
from tests.ps.models import (
    ADAMW,
    LAYOUT,
    STREAMS,
    TRAINABLE,
    WHOLE,
    Cluster,
    Plane,
    bits,
    close,
    commit,
    dense,
    gradient,
    plane,
    sgd,
    spec_of,
    topk,
)
from wire.codec.base import Blocks, DamagedFrame, DeltaCodec, PushCodec
from wire.errors import BadUnit, ProtocolMismatch
from wire.ids import UnitId
from wire.layout import BLOCK, FROZEN
from wire.messages import OptimizerSpec

Codecs = tuple[PushCodec, DeltaCodec]
STEPS = 4
OPTIMIZERS = {
    "adamw": ADAMW,
    "sgd": sgd(),
    "momentum": sgd(momentum=0.9, decay=0.01),
    "nesterov": sgd(momentum=0.9, nesterov=True),
}


def run(servers: int = 1, *, codecs: Codecs | None = None, optimizer: OptimizerSpec = ADAMW) -> Cluster:
    cluster = Cluster(servers, codecs=codecs, optimizer=optimizer)
    for step in range(STEPS):
        cluster.step(step, empty=(1,) if step == 2 else ())
    return cluster


def state(cluster: Cluster) -> Mapping[str, bytes]:
    return {name: bits(cluster.whole(name)) for name in cluster.shards[0].planes()}


def in_torch(optimizer: OptimizerSpec) -> list[Plane]:
    """The same run as a plain PyTorch loop: units summed in stream order, divided once, fused optimizer."""
    start, parameters, groups = plane(1), [], [[] for _ in optimizer.groups]
    for p, first in zip(LAYOUT.parameters, LAYOUT.first_block, strict=False):
        values = start[first : first + p.blocks].reshape(-1)[: p.numel].reshape(p.shape)
        parameters.append(torch.nn.Parameter(torch.from_numpy(values.copy()), requires_grad=p.trainable))
        if p.group != FROZEN:
            groups[p.group].append(parameters[-1])
    kinds = {"adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}
    options = []
    for members, group in zip(groups, optimizer.groups, strict=True):
        chosen: dict[str, object] = {k: v for k, v in group.items() if k not in ("beta1", "beta2")}
        if "beta1" in group:
            chosen["betas"] = (group["beta1"], group["beta2"])
        chosen |= {k: bool(v) for k, v in group.items() if k in ("nesterov", "maximize")}
        options.append({"params": members, **chosen})
    inner = kinds[optimizer.kind](options, fused=True)
    for group, rate in zip(inner.param_groups, commit().learning_rates, strict=True):
        group["lr"] = rate
    for step in range(STEPS):
        units = [s for s in range(STREAMS) if not (step == 2 and s == 1)]
        for p, first, parameter in zip(LAYOUT.parameters, LAYOUT.first_block, parameters, strict=False):
            if p.trainable:
                grads = [gradient(step, s)[first : first + p.blocks].reshape(-1)[: p.numel] for s in units]
                total = torch.zeros(p.numel)
                for grad in grads:
                    total += torch.from_numpy(grad.copy())
                parameter.grad = (total / len(units)).reshape(p.shape)
        inner.step()
    return [parameter.detach().numpy().reshape(-1) for parameter in parameters]


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.parametrize("servers", [1, 3])
def test_dense_equals_plain_pytorch_bit_for_bit(optimizer: OptimizerSpec, servers: int) -> None:
    x = run(servers, optimizer=optimizer).whole("x")
    for p, first, want in zip(LAYOUT.parameters, LAYOUT.first_block, in_torch(optimizer), strict=False):
        have = x[first : first + p.blocks].reshape(-1)
        assert have[: p.numel].tobytes() == want.tobytes(), p.name
        assert not have[p.numel :].any(), "the padding stays zero"


@pytest.mark.parametrize("codecs", [dense(), topk()], ids=["dense", "topk"])
@pytest.mark.parametrize("servers", [2, 3, 5])
def test_the_number_of_shards_changes_nothing(codecs: Codecs, servers: int) -> None:
    assert state(run(servers, codecs=codecs)) == state(run(1, codecs=codecs))


@pytest.mark.parametrize("codecs", [dense(), topk()], ids=["dense", "topk"])
def test_the_order_of_arrival_changes_nothing(codecs: Codecs) -> None:
    seen = set()
    for order in itertools.permutations(range(STREAMS)):
        cluster = Cluster(2, codecs=codecs)
        cluster.step(0, order=order)
        cluster.step(1, order=order[::-1])
        seen.add(tuple(state(cluster).values()))
    assert len(seen) == 1


def test_a_sum_in_order_of_arrival_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """A planted bug: the order of the log instead of that of the streams. Three float32 values tell."""
    named = exact.named

    def arrived(record: Close, held: Mapping[int, Held], step: int, streams: int) -> list[Accepted]:
        due = named(record, held, step, streams)  # type: ignore[arg-type]
        return sorted(due, key=lambda unit: list(held).index(unit.unit.number(streams)))

    monkeypatch.setattr(exact, "named", arrived)
    with pytest.raises(AssertionError):
        test_the_order_of_arrival_changes_nothing(dense())


@pytest.mark.parametrize("codecs", [dense(), topk()], ids=["dense", "topk"])
def test_the_log_replayed_gives_the_same_planes_and_deltas(codecs: Codecs) -> None:
    first, second = Cluster(1, codecs=codecs), Cluster(1, codecs=codecs)
    log: list[Accept | Close | Fence] = []
    for step in range(3):
        log += [first.unit(0, step, s, empty="non_finite" * (s == step)) for s in (2, 0)]
        log += [Fence(step, 1, step + 1), first.unit(0, step, 1, attempt=step + 1), close(step)]
    published = [
        [result.frame for record in log if isinstance(result := cluster.shards[0].apply(record), Delta)]
        for cluster in (first, second)
    ]
    assert published[0] == published[1]
    assert state(first) == state(second)
    assert first.shards[0].scalars() == second.shards[0].scalars() == {"step": 3.0}


def test_a_dense_pull_publishes_x_itself() -> None:
    cluster = run(2)
    assert bits(cluster.whole("published")) == bits(cluster.whole("x"))


@pytest.mark.parametrize("codecs", [dense(), topk()], ids=["dense", "topk"])
def test_a_follower_of_the_deltas_holds_the_published_model(codecs: Codecs) -> None:
    cluster = run(3, codecs=codecs)
    replica = plane(1)
    for index, shard in enumerate(cluster.shards):
        for version in range(STEPS):
            delta = shard.deltas.get(version)
            assert delta is not None and delta.step == version
            cluster.pull.apply(delta.frame, replica, cluster.blocks(index))
    assert bits(replica) == bits(cluster.whole("published"))


def test_frozen_parameters_stay_and_no_plane_has_padding() -> None:
    cluster = run(2, codecs=topk())
    frozen = LAYOUT.select(trainable=False)
    rows = np.concatenate([np.arange(r.start, r.stop) for r in frozen])
    assert bits(cluster.whole("x")[rows]) == bits(plane(1)[rows])
    padding = np.arange(BLOCK) >= np.asarray(LAYOUT.lengths)[:, None]
    assert all(not cluster.whole(name)[padding].any() for name in cluster.shards[0].planes())


def test_a_step_of_empty_units_moves_nothing() -> None:
    cluster = run()
    before = state(cluster)
    cluster.step(STEPS, empty=(0, 1, 2))
    assert state(cluster) == before
    assert cluster.shards[0].scalars() == {"step": float(STEPS)}
    assert cluster.shards[0].deltas.version == STEPS + 1


def test_sum_adds_each_unit_once() -> None:
    """The audit: server SGD with lr 1 and `sum`, unit i pushes -1 at coordinate i."""
    cluster = Cluster(3, optimizer=sgd(), aggregate="sum")
    for index, shard in enumerate(cluster.shards):
        for stream in range(STREAMS):
            pushed = np.zeros((LAYOUT.blocks, BLOCK), np.float32)
            pushed[:, stream] = -1.0
            pushed[np.arange(BLOCK) >= np.asarray(LAYOUT.lengths)[:, None]] = 0.0
            frame = b"".join(cluster.push.encode(pushed, {}, cluster.blocks(index)))
            shard.apply(Accept(UnitId(1, 0, stream), 0, 7, commit((1.0, 1.0)), frame))
        shard.apply(close(0))
    moved = cluster.whole("x") - plane(1)
    rows = Blocks.of(LAYOUT, TRAINABLE).rows
    for stream in range(STREAMS):
        real = [r for r in rows if LAYOUT.lengths[r] > stream]
        assert np.allclose(moved[real, stream], 1.0, atol=1e-6)


# --- admission ---------------------------------------------------------------------------


def test_repeats_fences_and_late_pushes() -> None:
    cluster = Cluster()
    (shard,) = cluster.shards
    unit = cluster.unit(0, 0, 0)
    assert shard.apply(unit) is Verdict.ADMIT
    assert shard.apply(unit) is Verdict.ACCEPTED
    assert shard.apply(Fence(0, 0, 1)) == Fenced(Fence(0, 0, 1), accepted=True)
    assert shard.apply(Fence(0, 1, 1)) == Fenced(Fence(0, 1, 1), accepted=False)
    assert shard.apply(cluster.unit(0, 0, 1)) is Verdict.FENCED
    assert shard.apply(cluster.unit(0, 0, 1, attempt=1)) is Verdict.ADMIT
    assert shard.apply(cluster.unit(0, 0, 2)) is Verdict.ADMIT
    assert isinstance(shard.apply(close(0)), Delta)
    assert shard.apply(unit) is Verdict.SETTLED
    assert shard.apply(cluster.unit(0, 2, 0)) is Verdict.EARLY


def damaged(frame: bytes) -> list[bytes]:
    return [b"", frame[:-1], frame + b"\0", frame[:40] + bytes([frame[40] ^ 1]) + frame[41:]]


@pytest.mark.parametrize("codecs", [dense(), topk()], ids=["dense", "topk"])
def test_a_damaged_frame_changes_nothing(codecs: Codecs) -> None:
    cluster = Cluster(codecs=codecs)
    (shard,) = cluster.shards
    good = cluster.unit(0, 0, 0)
    before = state(cluster)
    for frame in damaged(good.frame):
        with pytest.raises(DamagedFrame):
            shard.apply(Accept(good.unit, 0, 7, good.commit, frame))
    assert state(cluster) == before and shard.held == {} and shard.ledger.accepted == {}
    assert shard.apply(good) is Verdict.ADMIT


def test_a_commit_without_its_learning_rates_is_refused() -> None:
    cluster = Cluster()
    good = cluster.unit(0, 0, 0)
    with pytest.raises(ProtocolMismatch, match="1 learning rates, the optimizer has 2"):
        cluster.shards[0].apply(Accept(good.unit, 0, 7, commit((0.1,)), good.frame))
    assert cluster.shards[0].held == {}


def test_a_close_that_contradicts_the_state_changes_nothing() -> None:
    cluster = Cluster()
    (shard,) = cluster.shards
    shard.apply(cluster.unit(0, 0, 0))
    before = state(cluster)
    for wrong in (close(0), close(1), Close(0, (0, 2), False, False, 0)):
        with pytest.raises(ProtocolMismatch, match="close of step"):
            shard.apply(wrong)
    assert state(cluster) == before and shard.deltas.version == 0 and list(shard.held) == [0]


def test_a_repeated_close_gives_the_same_delta() -> None:
    cluster = run()
    (shard,) = cluster.shards
    before = state(cluster)
    assert shard.apply(close(STEPS - 1)) is shard.deltas.get(STEPS - 1)
    assert state(cluster) == before


def test_a_model_that_overflows_ends_the_run_by_name() -> None:
    cluster = Cluster(optimizer=sgd())
    huge = np.where(plane(1) != 0, np.float32(3e38), np.float32(0))
    frame = b"".join(cluster.push.encode(huge, {}, cluster.blocks(0)))
    for stream in range(STREAMS):
        cluster.shards[0].apply(Accept(UnitId(1, 0, stream), 0, 7, commit(), frame))
    with np.errstate(over="ignore"), pytest.raises(BadUnit, match="step 0 made the model infinite"):
        cluster.shards[0].apply(close(0))


def test_initial_planes_are_fixed_once_the_run_has_begun() -> None:
    cluster = run()
    with pytest.raises(ProtocolMismatch, match="the run has begun"):
        cluster.shards[0].load("x", b"")


def test_a_shard_without_blocks_takes_part() -> None:
    """More servers than blocks: the surplus ones publish empty deltas."""
    push, pull = dense()
    shard = Shard(spec_of(1, (), streams=1), push, pull)
    assert shard.apply(Accept(UnitId(1, 0, 0), 0, 7, commit(), _empty_frame(push))) is Verdict.ADMIT
    assert isinstance(shard.apply(close(0, streams=1)), Delta)


def _empty_frame(push: PushCodec) -> bytes:
    return b"".join(push.encode(np.zeros((1, BLOCK), np.float32), {}, Blocks.of(LAYOUT, [])))


def test_the_whole_model_on_one_shard_is_the_layout() -> None:
    assert Cluster().shards[0].spec.ranges == WHOLE
