"""All that one server holds of a run, in memory and on its disk, changed by records alone.

The shard (ps/shard.py) and what workers' recovery needs beside it (ps/store.py), under one `apply`: so the log brings
back both, a standby has both, and one image (ps/image.py) shows both. `image` and `restore` are inverses: a server
that was restored and one that went on give the same bits and the same answers to the same later records.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

from ps.image import ASIDE, Tree
from ps.ledger import Verdict
from ps.publish import Delta
from ps.records import Close, Deposit, Record, Segment, ShardSpec
from ps.shard import Answer, Shard
from ps.store import Store
from ps.trees import spec_from_tree
from wire.codec.base import DeltaCodec, PushCodec
from wire.codec.chain import codecs_of
from wire.codec.dense import pack
from wire.config import Config
from wire.errors import ProtocolMismatch
from wire.ids import HANDED_OVER


@dataclass(frozen=True)
class Identity:
    """Whose shard it is: in the image, but no part of the state, and another one on a standby.

    Attributes:
        config_json: the run's configuration, as every process has it from its coordinator.
        term: of the primary.
    """

    run: str
    timeline: int
    incarnation: int
    config_json: str
    term: int = 1


class Codecs(NamedTuple):
    """Of the pushes and deltas of one shard."""

    push: PushCodec
    pull: DeltaCodec
    elastic_push: PushCodec


def shard_codecs(spec: ShardSpec, config: Config) -> Codecs:
    """The codecs that a run's configuration means for a shard."""
    optimizer = spec.optimizer.kind
    push, pull = codecs_of(config, spec.layout, optimizer=optimizer)
    elastic_push, _ = codecs_of(config, spec.layout, optimizer=optimizer, elastic=True)
    return Codecs(push, pull, elastic_push)


def build(spec: ShardSpec, identity: Identity, directory: Path) -> Holdings:
    """A new shard, whose planes are zero, with nothing in `directory` yet."""
    push, pull, elastic_push = shard_codecs(spec, Config.from_json(identity.config_json))
    return Holdings(Shard(spec, push, pull, elastic_push=elastic_push), Store(directory), identity)


class Holdings:
    """A shard and its store. Not thread-safe: one owner applies records."""

    def __init__(self, shard: Shard, store: Store, identity: Identity) -> None:
        self.shard = shard
        self.store = store
        self.identity = identity

    def begin(self) -> None:
        """The initial planes are in: keep x̂ as the first base. Before the first record, and part of no record."""
        self._save_base()

    def apply(self, record: Record) -> Answer:
        """Change the state by one record.

        Returns:
            What `Shard.apply` returns. Of a deposit its verdict: ADMIT, or what refuses it, and changed nothing:
            FENCED (a newer attempt holds the stream), OVER (of no use any more), EARLY, FOREIGN.

        Raises: what `Shard.apply` raises; Busy for a deposit while the disk is full. Nothing has changed then.
        """
        if isinstance(record, Deposit):
            return self._deposit(record)
        shard = self.shard
        version, segment = shard.deltas.version, shard.segment
        answer = shard.apply(record)
        if isinstance(record, Close) and isinstance(answer, Delta) and answer.version == version:
            self._keep(record)
        if isinstance(record, Segment) and shard.segment != segment and not record.elastic:
            self._save_base()
        return answer

    def judge_deposit(self, stream: int, step: int, attempt: int) -> Verdict:
        """What to do with a deposit; changes nothing.

        One that was under way when its segment ended is of no use to anybody, and no fault of its sender. What a
        worker hands over in an elastic segment has a place of its own, and may come while it can begin others.
        """
        shard = self.shard
        if stream == HANDED_OVER:
            return Verdict.ADMIT if shard.segment.step <= step <= shard.ledger.step else Verdict.OVER
        if stream >= shard.spec.streams:
            return Verdict.FOREIGN
        if attempt < shard.ledger.fences.get(stream, 0):
            return Verdict.FENCED
        if not shard.segment.elastic and step > shard.ledger.step + shard.segment.lag + 1:
            return Verdict.EARLY  # x̂ of that step is not there to compute on
        over = shard.segment.elastic or step < shard.segment.step
        return Verdict.OVER if over else Verdict.ADMIT

    def image(self) -> Tree:
        """All of it as it is between two records; nothing in it changes any more."""
        return {ASIDE: asdict(self.identity), "shard": self.shard.image(), "store": self.store.image()}

    @classmethod
    def restore(cls, tree: Tree, directory: Path) -> Self:
        """What `image` showed, with its files in `directory`, which is emptied of others.

        Raises: ProtocolMismatch where the tree is not one that `image` makes.
        """
        image: Any = tree
        try:
            identity = Identity(**image[ASIDE])
            config = Config.from_json(identity.config_json)
            spec = spec_from_tree(image["shard"]["spec"])
            push, pull, elastic_push = shard_codecs(spec, config)
            shard = Shard(spec, push, pull, elastic_push=elastic_push)
            shard.restore(image["shard"])
            store = Store(directory)
            store.restore(image["store"])
        except (KeyError, TypeError, ValueError) as error:
            raise ProtocolMismatch(
                f"this is not the image of a shard that this build makes ({error!r}): use the build that made it"
            ) from error
        return cls(shard, store, identity)

    def _deposit(self, record: Deposit) -> Verdict:
        verdict = self.judge_deposit(record.stream, record.step, record.attempt)
        if verdict is Verdict.ADMIT:
            self.store.save_deposit(record.stream, record.step, record.planes)
        return verdict

    def _keep(self, record: Close) -> None:
        """After a close: what replays may need, and no more."""
        if record.deposit:
            self._save_base()
        self.store.trim_bases(record.retain_from)
        self.store.trim_deposits(record.retain_from)

    def _save_base(self) -> None:
        shard = self.shard
        packed = pack(shard.planes()["published"], shard.blocks)
        self.store.save_base(shard.ledger.step, shard.deltas.version, packed)
