"""A server that was restored from an image and one that went on: the same bits and answers, whatever comes."""

from __future__ import annotations

import dataclasses
import errno
import itertools
from collections import Counter, deque
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

import ps.publish
import ps.staleness
from ps.aggregate import Aggregate
from ps.held import Held
from ps.holdings import Holdings, Identity, shard_codecs
from ps.image import decode, digest, encode
from ps.ledger import Verdict
from ps.optimizer import Optimizer
from ps.publish import Delta
from ps.records import Close, Deposit, Fence, Mark, Record, Segment
from tests.ps.histories import ARRIVAL, EXACT, NAMED, History, outcome
from tests.ps.models import ADAMW, STREAMS, sgd
from wire.codec.base import buffers_of
from wire.config import Config, PushConfig
from wire.errors import Busy, ConfigError, NoInput, ProtocolMismatch
from wire.messages import OptimizerSpec

DISCIPLINES = {"exact": EXACT, "named": NAMED, "arrival": ARRIVAL}
CODECS = {
    "dense": {"codec": "dense", "feedback": "none"},
    "ef": {"codec": "topk", "feedback": "ef", "decay": 0.9},
    "ef21": {"codec": "topk", "feedback": "ef21"},
    "ef21-sgdm": {"codec": "topk", "feedback": "ef21", "momentum": 0.3},
}
OPTIMIZERS = {"adamw": ADAMW, "sgd": sgd(), "momentum": sgd(momentum=0.9, decay=0.01)}
RECORDS = 100


@pytest.fixture(autouse=True)
def short_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is remembered of long histories has an end within short ones."""
    monkeypatch.setattr(ps.publish, "RETAINED", 3)
    monkeypatch.setattr(ps.publish, "RETAINED_ALWAYS", 2)
    monkeypatch.setattr(ps.staleness, "HISTORY", (6, 12))


def config_of(codec: Mapping[str, object], *, aggregate: str = "mean") -> Config:
    pull = {"codec": "dense" if codec["codec"] == "dense" else "topk"}
    return Config.model_validate({"push": codec, "pull": pull, "optimizer": {"aggregate": aggregate}})


def written(holdings: Holdings) -> bytes:
    header, blobs = encode(holdings.image())
    return b"".join([header, *blobs])


def restored(image: bytes, directory: Path) -> Holdings:
    return Holdings.restore(decode(image), directory)


# --- all of the state, whether an image knows of it or not ----------------------------------------

SCRATCH = {"_gradient", "_gradients", "_torch", "_steps", "_decoded_bytes"}
"""Derived, or written anew before it is read."""


def inside(part: object) -> object:
    """Everything that a part is made of, as values that compare; of caches nothing."""
    match part:
        case np.ndarray():
            return part.dtype.str, part.shape, part.tobytes()
        case Held():
            return inside(part.unit), b"".join(buffers_of(part.frame))
        case Aggregate():
            return inside(part.planes())
        case dict():
            return sorted((repr(key), inside(value)) for key, value in part.items())
        case set():
            return sorted(part)
        case tuple() | list() | deque():
            return [inside(value) for value in part]
    if dataclasses.is_dataclass(part):
        return {f.name: inside(getattr(part, f.name)) for f in dataclasses.fields(part)}
    if type(part).__module__.startswith("ps."):
        return {name: inside(value) for name, value in vars(part).items() if name not in SCRATCH}
    return repr(part) if isinstance(part, float) else part


def shard_inside(holdings: Holdings) -> object:
    shared = {"spec", "blocks", "trainable", "_push", "_elastic_push", "_pull", "_shop", "_codec", "_blocks"}
    whole = inside({k: v for k, v in vars(holdings.shard).items() if k not in shared})
    return _without(whole, shared)


def _without(tree: object, names: set[str]) -> object:
    if isinstance(tree, dict):
        return {name: _without(value, names) for name, value in tree.items() if name not in names}
    if isinstance(tree, list | tuple):
        return [_without(value, names) for value in tree]
    return tree


def test_the_oracle_sees_what_an_image_could_forget(tmp_path: Path) -> None:
    history = History(1, config_of(CODECS["dense"]))
    one, two = history.holdings(tmp_path / "1"), history.holdings(tmp_path / "2")
    assert shard_inside(one) == shard_inside(two)
    two.shard._optimizer._taken = 1.0
    assert shard_inside(one) != shard_inside(two)
    assert {"_names", "_spec", "_taken", "_planes"} == vars(
        Optimizer(ADAMW, [], np.zeros((0, 4096), "f4"))
    ).keys() - {
        *SCRATCH,
        "_groups",
    }


# --- conformance ----------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)
@pytest.mark.parametrize("kind", DISCIPLINES.values(), ids=DISCIPLINES)
def test_it_goes_on_as_if_nothing_had_been(
    kind: tuple[bool, bool], codec: Mapping[str, object], optimizer: OptimizerSpec, tmp_path: Path
) -> None:
    """Restored at every 25th record of one segment; that restored first goes on to the end."""
    history = History(7, config_of(codec), optimizer=optimizer, kind=kind, turns=False)
    compare(history, tmp_path, every=25, records=RECORDS)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("aggregate", ["mean", "sum"])
def test_at_every_record_of_many_segments(seed: int, aggregate: str, tmp_path: Path) -> None:
    codec = [*CODECS.values()][seed % len(CODECS)]
    kind = [EXACT, NAMED, ARRIVAL][seed % 3]
    compare(History(seed, config_of(codec, aggregate=aggregate), kind=kind), tmp_path, every=1, records=45)


def compare(history: History, directory: Path, *, every: int, records: int) -> None:
    """One that never stops, the first one restored, and the newest one restored from the one before it."""
    first = history.holdings(directory / "0")
    all_of_them = [first]
    homes = (directory / str(number) for number in itertools.count(1))
    seen = Counter[str]()
    for count in range(1, records + 1):
        record = history.next(first.shard)
        answers = [outcome(one, record) for one in all_of_them]
        assert all(answer == answers[0] for answer in answers), (count, record, answers)
        seen[_told(record, answers[0])] += 1
        if count % every == 0:
            image = written(first)
            all_of_them = [*all_of_them[:2], restored(written(all_of_them[-1]), next(homes))]
            assert all(written(one) == image for one in all_of_them), count
            inner = shard_inside(first)
            assert all(shard_inside(one) == inner for one in all_of_them), count
    assert seen["Delta"] > records // 25, seen


def _told(record: Record, answer: object) -> str:
    return "Delta" if isinstance(answer, Delta) else f"{type(record).__name__} {answer!s:.20}"


def test_histories_come_by_everything(tmp_path: Path) -> None:
    """The oracle above is worth what its histories hold."""
    seen, kinds = Counter[str](), set()
    for seed in range(6):
        history = History(seed, config_of(CODECS["ef"]), kind=[EXACT, NAMED, ARRIVAL][seed % 3])
        holdings = history.holdings(tmp_path / str(seed))
        for _ in range(300):
            record = history.next(holdings.shard)
            answer = outcome(holdings, record)
            what = answer.name if isinstance(answer, Verdict) else type(answer).__name__
            seen[f"{type(record).__name__} {what}"] += 1
            shard = holdings.shard
            kinds.add((shard.segment.elastic, shard.segment.arrival, shard.deltas.between))
    wanted = {
        *(f"Accept {name}" for name in ("ADMIT", "ACCEPTED", "FENCED", "SETTLED", "EARLY", "tuple")),
        *(f"Deposit {name}" for name in ("ADMIT", "FENCED", "FOREIGN", "OVER")),
        *(f"Flush {name}" for name in ("ADMIT", "ACCEPTED", "FENCED", "tuple")),
        *(f"Close {name}" for name in ("Delta", "tuple")),
        *(f"Publish {name}" for name in ("Delta", "NoneType")),
        *(f"Segment {name}" for name in ("NoneType", "tuple")),
        *("Fence Fenced", "Advance NoneType", "Retire NoneType", "Mark NoneType"),
    }
    assert wanted <= seen.keys(), sorted(wanted - seen.keys())
    assert kinds == {(*EXACT, True), (*NAMED, True), (*ARRIVAL, True), (*ARRIVAL, False)}


def test_an_image_stays_what_it_was(tmp_path: Path) -> None:
    """Taken between two records, written while later ones change, trim and unlink what it shows."""
    history = History(3, config_of(CODECS["ef21"]), kind=EXACT)
    holdings = history.holdings(tmp_path)
    for round_ in range(12):
        for _ in range(round_ * 3):
            outcome(holdings, history.next(holdings.shard))
        tree, now = holdings.image(), written(holdings)
        for _ in range(40):
            outcome(holdings, history.next(holdings.shard))
            holdings.store.unlink(holdings.store.take_discarded())
        header, blobs = encode(tree)
        assert b"".join([header, *blobs]) == now


def test_a_standby_and_its_primary(tmp_path: Path) -> None:
    """Frames arrive in other pieces there, and it is another process; the digests are equal all the same."""
    history = History(5, config_of(CODECS["ef"]), kind=ARRIVAL)
    primary = history.holdings(tmp_path / "primary", incarnation=1)
    standby = history.holdings(tmp_path / "standby", incarnation=2)
    for _ in range(150):
        record = history.next(primary.shard)
        outcome(primary, record)
        if hasattr(record, "frame"):
            record = dataclasses.replace(record, frame=b"".join(buffers_of(record.frame)))
        outcome(standby, record)
        one, two = encode(primary.image())[0], encode(standby.image())[0]
        assert digest(one) == digest(two) and one != two


# --- bases and deposits ---------------------------------------------------------------------------


def begun(path: Path, *, kind: tuple[bool, bool] = EXACT) -> Holdings:
    return History(0, config_of(CODECS["dense"]), kind=kind).holdings(path)


def close(step: int, *, deposit: bool = False, retain_from: int = 0) -> Close:
    return Close(step, (), deposit, False, retain_from)


def steps_of(holdings: Holdings) -> list[int]:
    return [base["step"] for base in holdings.store.image()["bases"]]


def test_bases_at_closes_with_deposit_and_where_exact_segments_begin(tmp_path: Path) -> None:
    holdings = begun(tmp_path)
    for step in range(4):
        holdings.apply(close(step, deposit=step == 1))
    assert steps_of(holdings) == [0, 2]
    holdings.apply(Segment(1, 4))
    assert steps_of(holdings) == [0, 2, 4]
    holdings.apply(Segment(2, 4, elastic=True))
    holdings.apply(close(4, deposit=True, retain_from=3))
    assert steps_of(holdings) == [2, 4, 5]


def test_repeats_change_nothing(tmp_path: Path) -> None:
    """They are not logged, so they must not."""
    holdings = begun(tmp_path)
    for step in range(3):
        holdings.apply(close(step, deposit=True))
    holdings.apply(Segment(1, 3))
    holdings.apply(close(3))
    before = written(holdings)
    for record in (close(2, deposit=True, retain_from=3), holdings.shard.segment, Mark()):
        holdings.apply(record)
        assert written(holdings) == before
    assert not holdings.store.discarded


def test_deposits_are_refused_as_their_segments_end_and_fences_rise(tmp_path: Path) -> None:
    holdings, planes = begun(tmp_path), {"residual": b"r", "extra": b""}
    assert holdings.apply(Deposit(0, 0, 0, planes)) is Verdict.ADMIT
    assert holdings.apply(Deposit(STREAMS, 0, 0, planes)) is Verdict.FOREIGN
    holdings.apply(Fence(0, 1, 2))
    assert holdings.apply(Deposit(1, 0, 1, planes)) is Verdict.FENCED
    assert holdings.apply(Deposit(1, 0, 2, planes)) is Verdict.ADMIT
    holdings.apply(close(0))
    holdings.apply(Segment(1, 1))
    assert holdings.apply(Deposit(0, 0, 0, planes)) is Verdict.OVER
    holdings.apply(Segment(2, 1, elastic=True))
    assert holdings.apply(Deposit(0, 1, 0, planes)) is Verdict.OVER
    again = restored(written(holdings), tmp_path / "again")
    assert {n: p.read_bytes() for n, p in again.store.deposit(0, 0).items()} == planes


def test_what_is_not_in_the_image_is_not_on_the_disk(tmp_path: Path) -> None:
    image = written(begun(tmp_path))
    (tmp_path / "base" / "9-9").write_bytes(b"of a record that was lost")
    (tmp_path / "streams" / "0" / "3").mkdir(parents=True)
    again = restored(image, tmp_path)
    assert [path.name for path in (tmp_path / "base").iterdir()] == ["0-0"]
    assert not list((tmp_path / "streams").iterdir())
    with pytest.raises(NoInput):
        again.store.deposit(0, 3)


def test_a_full_disk_loses_no_base_and_puts_deposits_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    holdings, other = begun(tmp_path / "full"), begun(tmp_path / "roomy")
    other.apply(close(0, deposit=True))
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        holdings.apply(close(0, deposit=True))
        with pytest.raises(Busy, match="disk is full"):
            holdings.apply(Deposit(0, 1, 0, {"residual": b"r"}))
    assert holdings.store.load_base(1) == other.store.load_base(1)
    assert written(holdings) == written(other)
    holdings.apply(close(1, retain_from=2))
    holdings.store.unlink(holdings.store.take_discarded())


# --- what is restored -----------------------------------------------------------------------------


def test_identity_comes_back_and_is_no_part_of_the_state(tmp_path: Path) -> None:
    holdings = begun(tmp_path / "1")
    before = encode(holdings.image())[0]
    holdings.identity = Identity("other", 2, 3, holdings.identity.config_json, term=4)
    after = encode(holdings.image())[0]
    assert before != after and digest(before) == digest(after)
    again = restored(written(holdings), tmp_path / "2")
    assert again.identity == holdings.identity
    assert again.shard.spec == holdings.shard.spec


def test_codecs_of_exact_and_elastic_segments_differ(tmp_path: Path) -> None:
    spec = begun(tmp_path).shard.spec
    codecs = shard_codecs(spec, Config(push=PushConfig(codec="topk")))
    assert codecs.push.estimates and not codecs.elastic_push.estimates


def test_an_image_of_something_else(tmp_path: Path) -> None:
    tree = decode(written(begun(tmp_path / "1")))
    assert isinstance(tree, dict)
    for broken in (
        {},
        {**tree, "store": {}},
        {**tree, "shard": {**tree["shard"], "x": np.zeros((1, 4096), np.float32)}},
        {**tree, "shard": {**tree["shard"], "optimizer": {"taken": 0.0, "planes": {}}}},
    ):
        with pytest.raises(ProtocolMismatch, match="use the build that made it"):
            Holdings.restore(broken, tmp_path / "2")
    with pytest.raises(ConfigError):
        Holdings.restore({**tree, "identity": {**tree["identity"], "config_json": "{"}}, tmp_path / "2")
