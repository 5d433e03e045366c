"""Which process serves which shard: servers that join, go away and come back (promises: P10, P11).

A server that comes back with what it held is the same incarnation, maybe at another address; whoever serves a shard
after another process, or elsewhere, does so under a higher term. A shard whose server is away is waited for, or its
standby takes over (`standbys`); only one that lives in memory alone is lost with its server. What a shard must still
hold is compared with what was decided: a run does not go on with less.
"""

from __future__ import annotations

from collections.abc import Callable

from coordinator import actions as a
from coordinator import events as e
from coordinator import records as r
from coordinator.admission import enter, refuse
from coordinator.desk import Desk
from coordinator.entries import Member
from coordinator.model import Model
from coordinator.pace import pace_of
from coordinator.patience import Patience
from coordinator.presence import Presence
from coordinator.standbys import Standbys
from wire.errors import NameTaken, RunOver, SparsyncError, UsageError

LOST_AFTER_S = 15.0
"""A server that held its shard in memory alone is lost when it is away for so long."""
REFUSALS, REFUSALS_S = 10, 60.0
"""A server that ends its line with an error so many times within so many seconds does not get better."""


class Servers:
    """The servers of the run. Decisions are in the journal.

    Args:
        end: ends the run, with a reason and the class name of an error.
    """

    def __init__(
        self, desk: Desk, model: Model, patience: Patience, *, end: Callable[[str, str], None]
    ) -> None:
        self._desk = desk
        self._model = model
        self._patience = patience
        self._end = end
        self.presence = Presence(suspect_s=desk.rules.suspect_s, dead_s=desk.rules.dead_s)
        self.standbys = Standbys(desk, self.presence)
        self._stalled: dict[int, str] = {}
        self._refusals: dict[int, list[float]] = {}
        self._looked_at = 0.0

    def reopen(self, now: float) -> None:
        """This coordinator goes on with a run that another process began: its servers are yet to be reached."""
        for member in self._desk.state.present("ps"):
            self.presence.expect(member.incarnation, now)
        self._desk.actions.append(a.OpenShards())
        self.standbys.dismiss_again()

    # --- joining -------------------------------------------------------------------------

    def join(self, event: e.Join, now: float) -> None:
        """A server asks to enter, or to go on with what it holds."""
        state = self._desk.state
        try:
            if state.ended is not None:
                raise RunOver(f"run {state.run} is over ({state.ended.reason}); start a new one")
            self._join(event, now)
        except SparsyncError as refusal:
            refuse(self._desk, event, refusal)

    def _join(self, event: e.Join, now: float) -> None:
        state = self._desk.state
        member = self._holder(event)
        shard = None if member is None else state.shard_of(member.incarnation)
        if member is not None and not self.presence.broken(member.incarnation):
            raise _taken(member)
        self._check_address(event)
        if shard is not None and self.standbys.may_take_over(shard):
            self.standbys.promote(shard, "its server was started again")
        elif member is not None:
            self._return(member, event, now)
            return
        namesake = next((m for m in state.present("ps") if m.name == event.name), None)
        heir_of = None if namesake is None else self._clear(namesake)
        if heir_of is None:
            self._check_room()
        incarnation = enter(self._desk, event)
        self.presence.expect(incarnation, now)
        if heir_of is not None:
            self._inherit(heir_of, incarnation, event.address)
        self._desk.actions.append(a.Dial(incarnation))

    def _check_address(self, event: e.Join) -> None:
        """Whoever comes to an address ends the line to who is there: nobody may, while that one is reached.

        Raises: NameTaken, which is asked again: one that is gone is known to be within seconds.
        """
        for member in self._desk.state.present("ps"):
            here = member.address == event.address and not self.presence.broken(member.incarnation)
            if here and member.name != event.name:
                raise NameTaken(
                    f"server {member.name!r} is at {event.address} already (pid {member.pid} on {member.host}); give "
                    "this one another --listen or --advertise, or wait until the other is given up"
                )

    def _holder(self, event: e.Join) -> Member | None:
        """The member whose shard this process has on its disk, while the run still counts on it."""
        state = self._desk.state
        member = state.members.get(event.held)
        mine = (event.run, event.timeline) == (state.run, state.timeline)
        if member is None or not mine or member.role != "ps" or not member.present:
            return None
        serves = state.shard_of(event.held) is not None or state.stands_for(event.held) is not None
        return member if serves else None

    def _return(self, member: Member, event: e.Join, now: float) -> None:
        """A server is back, with what it held."""
        desk, shard = self._desk, self._desk.state.shard_of(member.incarnation)
        desk.decide(r.Returned(member.incarnation, event.address, event.pid, event.host))
        if shard is None:
            self.standbys.part(member.incarnation, "it was started again")
        else:
            term = desk.state.placement[shard].term + 1
            desk.decide(r.Moved(shard, event.address, member.incarnation, term))
            self.standbys.line_over(shard)
            desk.note("moved", shard=shard, name=member.name, address=event.address, term=term)
        desk.note("rejoined", role="ps", name=member.name, incarnation=member.incarnation, pid=event.pid)
        desk.answer(event.key, a.Joined(member.incarnation))
        self.presence.expect(member.incarnation, now)
        desk.actions.append(a.Dial(member.incarnation))
        if shard is not None:
            self.standbys.redirect(shard)
            self.standbys.stand(shard)

    def _clear(self, namesake: Member) -> int | None:
        """Make way for a process that joins with nothing, under the name of a server that is there no more.

        Returns the shard that it inherits: one that nothing was loaded into. Raises: the refusal.
        """
        state, incarnation = self._desk.state, namesake.incarnation
        if not self.presence.broken(incarnation):
            raise _taken(namesake)
        shard = state.shard_of(incarnation)
        if shard is None:
            self._drop(incarnation, "it was started again with nothing")
            return None
        if self.standbys.promote(shard, "its server was started again with nothing"):
            return None
        if not self._may_come_back(shard):
            lost = f"server {shard} at {namesake.address} was started anew and lost its shard"
            self._end(lost, "ServerLost")
            raise RunOver(f"run {state.run} is over ({lost}); start a new one")
        if not self._on_disk:  # its standby has all of it, and is waited for
            raise _taken(namesake)
        if state.loaded:
            raise UsageError(
                f"server {namesake.name!r} of run {state.run} keeps shard {shard} in its --data-dir (it ran on "
                f"{namesake.host}), and this process found nothing in its own; start it with that directory, or end "
                "the run and resume the newest checkpoint"
            )
        return shard

    def _inherit(self, shard: int, incarnation: int, address: str) -> None:
        """A shard that nothing was loaded into has another server."""
        placed = self._desk.state.placement[shard]
        self._desk.decide(r.Moved(shard, address, incarnation, placed.term + 1))
        self._desk.note(
            "moved", shard=shard, name=self._desk.name_of(incarnation), address=address, term=placed.term + 1
        )
        self.standbys.dismiss(placed.incarnation, "it was started again with nothing")
        self._model.unconfigured(shard)
        self.standbys.redirect(shard)

    def _check_room(self) -> None:
        """Raises: UsageError where the run has its servers."""
        state, rules = self._desk.state, self._desk.rules
        most = rules.servers * (1 + rules.replicas)
        if len(state.present("ps")) < most and not (state.placement and not rules.replicas):
            return
        if rules.replicas and any(self.standbys.lacking(s.shard) for s in state.placement):
            return
        raise UsageError(
            f"the run has its {most} servers; raise cluster.servers and start a new run to use more"
        )

    # --- lines ---------------------------------------------------------------------------

    def attached(self, event: e.ShardAttached, now: float) -> bool:
        """A primary's line is open. Returns whether it serves, and what it may have missed is to be told again."""
        placed = self._desk.state.placement[event.shard]
        if event.incarnation != placed.incarnation:
            reason = f"server {event.shard} at {placed.address} was started anew and lost its shard"
            self.presence.broke(placed.incarnation, reason, now)
            if not self._may_come_back(event.shard):
                self._end(reason, "ServerLost")
            return False
        self._back(placed.incarnation, self.presence.opened(placed.incarnation, now), now)
        self._stalled.pop(event.shard, None)
        if event.standing:
            self._desk.actions.append(a.Command(event.shard, a.Promote(placed.term)))
            return False
        self.standbys.told(event)
        self.standbys.appoint()
        return True

    def lost(self, event: e.ShardAttached, known: set[int]) -> str:
        """What was decided and the shard does not hold any more, in words, or nothing.

        `known`: numbers of the units that are not counted yet and were told to stand there.
        """
        state = self._desk.state
        found = f"server {event.shard} at {state.placement[event.shard].address}"
        if not event.configured:
            return f"{found} was started anew and lost its shard" if state.loaded else ""
        found += f" is back at step {event.step}"
        advice = (
            "it lost what it had acknowledged (durability.ack is below disk?): resume the newest checkpoint"
        )
        if event.step < self._closed_everywhere:
            return f"{found}, all before step {self._closed_everywhere} was closed there; {advice}"
        if event.segment + 1 < state.segment.number:
            return (
                f"{found} in segment {event.segment}, the run is in segment {state.segment.number}; {advice}"
            )
        arrival = pace_of(state.segment).arrival and event.segment == state.segment.number
        if arrival and event.clock is not None and event.clock * state.streams < state.low:
            counted = state.low // state.streams
            return f"{found} and clock {event.clock}, all before clock {counted} was accepted there; {advice}"
        told = {accepted.unit.number(state.streams) for accepted in event.accepted}
        if missing := known - told:
            return f"{found} without unit {min(missing)}, which was accepted there; {advice}"
        return ""

    @property
    def _closed_everywhere(self) -> int:
        """Every shard has closed all before this step: but for the last close, which is told again."""
        state = self._desk.state
        last = state.last_close
        if last is None or pace_of(state.segment).arrival:
            return state.segment.step
        return max(last.step, state.segment.step)

    def server_attached(self, event: e.ServerAttached, now: float) -> None:
        """The line to a server that is no primary is open."""
        state = self._desk.state
        member = state.members.get(event.incarnation)
        if state.ended is not None:
            self._desk.actions.append(a.CommandServer(event.incarnation, a.FinishShard(state.ended.reason)))
        elif event.found != event.incarnation:
            self.presence.broke(event.incarnation, "another process answers there", now)
        elif member is not None and member.present:
            self._back(event.incarnation, self.presence.opened(event.incarnation, now), now)
            shard = state.stands_for(event.incarnation)
            if shard is not None:
                self.standbys.stand(shard)
            self.standbys.appoint()

    def alive(self, event: e.ServerAlive, now: float) -> None:
        self._back(event.incarnation, self.presence.alive(event.incarnation, now), now)

    def broke(self, event: e.LineBroken, now: float) -> None:
        member = self._desk.state.members.get(event.incarnation)
        if member is not None and member.present:
            self.presence.broke(event.incarnation, event.reason, now)
            if (shard := self._desk.state.shard_of(event.incarnation)) is not None:
                self.standbys.line_over(shard)

    def refused(self, event: e.LineRefused, now: float) -> None:
        """A server ends its line with an error of its own. It may be started again; that it goes on so helps nobody."""
        recent = [at for at in self._refusals.get(event.incarnation, []) if now - at < REFUSALS_S]
        self._refusals[event.incarnation] = recent = [*recent, now]
        shard = self._desk.state.shard_of(event.incarnation)
        if shard is not None and (not self._may_come_back(shard) or len(recent) >= REFUSALS):
            self._end(event.reason, "ServerLost")
        else:
            self.broke(e.LineBroken(event.incarnation, event.reason), now)

    def stalled(self, event: e.ShardStalled) -> None:
        """A shard cannot write its log, or can again."""
        self._stalled.pop(event.shard, None)
        if event.reason:
            self._stalled[event.shard] = event.reason
        self._desk.note("stalled" if event.reason else "goes_on", shard=event.shard, reason=event.reason)

    # --- time ----------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """Who is away, and what comes of it."""
        for incarnation, reason in self.presence.gone(now):
            self._gone(incarnation, reason)
        for placed in self._desk.state.placement:
            away_s = self.presence.away_s(placed.incarnation, now)
            if away_s is None or self.standbys.promote(
                placed.shard, self.presence.reason(placed.incarnation)
            ):
                continue
            if not self._may_come_back(placed.shard) and away_s > LOST_AFTER_S:
                self._end(self.presence.reason(placed.incarnation), "ServerLost")
        self.standbys.tick()
        if self._hesitant(now):
            self._patience.excuse(now - self._looked_at, now)
        self._looked_at = now

    def excuse(self, late_s: float, now: float) -> None:
        """Nobody could be heard for the last `late_s`."""
        self.presence.excuse(late_s, now)
        self._looked_at = now

    def _hesitant(self, now: float) -> bool:
        placement = self._desk.state.placement
        return bool(self._stalled) or any(self.presence.hesitant(s.incarnation, now) for s in placement)

    def _gone(self, incarnation: int, reason: str) -> None:
        """A server is away."""
        state = self._desk.state
        shard, name = state.shard_of(incarnation), self._desk.name_of(incarnation)
        stands_for = state.stands_for(incarnation)
        if shard is None and stands_for is None:
            self._drop(incarnation, reason)
            return
        told = shard if shard is not None else stands_for
        self._desk.note(
            "server_away", shard=told, name=name, address=state.members[incarnation].address, reason=reason
        )

    def _drop(self, incarnation: int, reason: str) -> None:
        """A server that is no primary is out of the run."""
        self._desk.note("died", name=self._desk.name_of(incarnation), reason=reason)
        self.standbys.part(incarnation, reason)
        self.standbys.dismiss(incarnation, reason)

    def _back(self, incarnation: int, away_s: float | None, now: float) -> None:
        """A server is there again. Nobody is blamed for what could not be done meanwhile."""
        if away_s is None:
            return
        state = self._desk.state
        shard = state.shard_of(incarnation)
        told = shard if shard is not None else state.stands_for(incarnation)
        self._desk.note(
            "server_back", shard=told, name=self._desk.name_of(incarnation), seconds=round(away_s, 3)
        )
        self._patience.pardon(now)

    @property
    def _on_disk(self) -> bool:
        return self._desk.rules.ack != "memory"

    def _may_come_back(self, shard: int) -> bool:
        """Whether there is anything to wait for: a log on a disk, or a standby that has all of it."""
        standby = self._desk.state.standbys.get(shard)
        return self._on_disk or (standby is not None and standby.in_sync)

    # --- what is told --------------------------------------------------------------------

    def waits_for(self, now: float) -> str:
        """Which servers the run waits for, in words, or nothing."""
        waits = []
        for placed in self._desk.state.placement:
            who = f"server {placed.shard} at {placed.address}"
            away_s = self.presence.away_s(placed.incarnation, now)
            if away_s is not None:
                waits.append(f"{who} is away for {away_s:.0f} s ({self.presence.reason(placed.incarnation)})")
            elif placed.shard in self._stalled:
                waits.append(f"{who} acknowledges nothing: {self._stalled[placed.shard]}")
        return "; ".join(waits)

    def role(self, incarnation: int) -> str:
        """primary, standby or spare."""
        if self._desk.state.shard_of(incarnation) is not None:
            return "primary"
        return "standby" if self._desk.state.stands_for(incarnation) is not None else "spare"


def _taken(member: Member) -> NameTaken:
    return NameTaken(
        f"a ps named {member.name!r} is in the run already (pid {member.pid} on {member.host}); "
        "give this one another --name, or wait until the other is given up"
    )
