"""The run's model: declared by every worker, cut over the servers once, loaded into them once.

The first declared one is the run's; it is answered when the servers hold it. Without a checkpoint to restore, one
worker is asked to upload its own, and the others wait until that is done.
"""

from __future__ import annotations

from coordinator import actions as a
from coordinator import events as e
from coordinator import records as r
from coordinator.desk import Desk, error_of
from coordinator.placement import place
from wire.errors import ModelMismatch, SparsyncError, StaleIncarnation
from wire.layout import Layout


class Model:
    """Who waits for an answer, who uploads, and which shards are configured."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._waiting: dict[str, e.Declare] = {}
        self._configured: set[int] = set()

    # --- declared ------------------------------------------------------------------------

    def declare(self, event: e.Declare) -> bool:
        """A worker tells its model. Returns whether it is the run's; if not, the worker was told why."""
        state = self._desk.state
        try:
            if state.ended is not None:
                raise error_of(state.ended)
            self._desk.worker(event.incarnation)
            if state.layout is not None:
                self._check(event)
        except SparsyncError as refusal:
            self._desk.answer(event.key, refusal)
            return False
        self._waiting[event.key] = event
        self.place()
        self._answer()
        return True

    def _check(self, event: e.Declare) -> None:
        """Raises: ModelMismatch, naming what differs."""
        state = self._desk.state
        assert state.layout is not None and state.optimizer is not None
        name = self._desk.name_of(event.incarnation)
        if event.layout != state.layout:
            raise ModelMismatch(f"worker {name}: {_difference(state.layout, event.layout)}")
        if event.optimizer != state.optimizer:
            raise ModelMismatch(
                f"worker {name}: its optimizer is {event.optimizer.kind} {list(event.optimizer.groups)}, the run's "
                f"{state.optimizer.kind} {list(state.optimizer.groups)}; use the same on every worker"
            )

    def _answer(self) -> None:
        """Answer the workers that wait: all once the model is loaded, before that one to upload it."""
        state = self._desk.state
        if len(self._configured) < len(state.placement) or not state.placement:
            return
        for key, event in list(self._waiting.items()):
            upload = not state.loaded
            if upload and (state.checkpoint or self._uploader not in (None, event.incarnation)):
                continue
            if upload and self._uploader is None:
                self._desk.decide(r.Uploading(event.incarnation))
            del self._waiting[key]
            self._desk.answer(key, a.Declared(state.placement, state.plan, upload))

    @property
    def _uploader(self) -> int | None:
        """The worker that was asked to upload, while it is in the run."""
        state = self._desk.state
        member = state.members.get(state.uploader)
        return state.uploader if member is not None and member.present else None

    def dismiss(self, incarnation: int, reason: str) -> None:
        """A worker is out of the run: it waits no more, and another one uploads."""
        for key in [k for k, told in self._waiting.items() if told.incarnation == incarnation]:
            del self._waiting[key]
            self._desk.answer(key, StaleIncarnation(f"given up: {reason}; join anew"))
        if self._desk.state.uploader == incarnation and not self._desk.state.loaded:
            self._answer()

    def refuse_all(self, ended: r.Ended) -> None:
        """The run is over: nobody waits any more."""
        for key in list(self._waiting):
            self._desk.answer(key, error_of(ended))
        self._waiting.clear()

    # --- on the shards -------------------------------------------------------------------

    def place(self) -> None:
        """The first declared model gets its servers, once all of those are here."""
        state = self._desk.state
        servers = sorted(state.present("ps"), key=lambda m: (len(m.name), m.name))[: self._desk.rules.servers]
        if state.placement or not self._waiting or len(servers) < self._desk.rules.servers:
            return
        first = next(iter(self._waiting.values()))
        parts = place(first.layout, len(servers))
        self._desk.decide(
            r.Modelled(
                parameters=tuple((p.name, p.shape, p.dtype, p.group) for p in first.layout.parameters),
                optimizer=first.optimizer.kind,
                groups=tuple(tuple(sorted(g.items())) for g in first.optimizer.groups),
                plan=state.plan + 1,
                placement=tuple(
                    (shard, m.address, m.incarnation, tuple((b.start, b.stop) for b in part))
                    for shard, (m, part) in enumerate(zip(servers, parts, strict=True))
                ),
            )
        )
        self._desk.note(
            "placed", parameters=first.layout.numel, blocks=first.layout.blocks, servers=len(servers)
        )
        self._desk.actions.append(a.OpenShards())
        for key, event in list(self._waiting.items()):
            try:
                self._check(event)
            except SparsyncError as refusal:
                del self._waiting[key]
                self._desk.answer(key, refusal)

    def configured(self, shard: int) -> None:
        """A shard knows its part of the model. Once all do, it can be loaded into them."""
        state = self._desk.state
        if shard in self._configured:
            return
        self._configured.add(shard)
        if len(self._configured) == len(state.placement):
            if state.checkpoint and not state.loaded:
                self._desk.actions.append(a.RestoreShards())
            self._answer()

    def unconfigured(self, shard: int) -> None:
        """Another server is to hold a shard that nothing was loaded into."""
        self._configured.discard(shard)

    def uploaded(self, incarnation: int) -> None:
        """A worker has sent its model to all shards."""
        if incarnation == self._uploader and not self._desk.state.loaded:
            self._loaded(f"uploaded by {self._desk.name_of(incarnation)}")

    def restored(self) -> None:
        """The shards hold the checkpoint."""
        self._loaded(f"checkpoint {self._desk.state.checkpoint}")

    def _loaded(self, source: str) -> None:
        self._desk.decide(r.Loaded(source))
        self._desk.note("loaded", source=source)
        self._answer()


def _difference(expected: Layout, found: Layout) -> str:
    """The first way in which two models differ."""
    names, other = [p.name for p in expected.parameters], [p.name for p in found.parameters]
    if names != other:
        extra, missing = sorted(set(other) - set(names)), sorted(set(names) - set(other))
        return f"its parameters differ from the run's: only here {extra[:3]}, only there {missing[:3]}"
    for want, have in zip(expected.parameters, found.parameters, strict=True):
        if want != have:
            return (
                f"parameter {want.name!r} has shape {list(have.shape)}, dtype {have.dtype}, group {have.group}; "
                f"the run's has {list(want.shape)}, {want.dtype}, {want.group}; build the same model on every worker"
            )
    return "its model equals the run's"
