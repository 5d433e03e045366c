"""Standbys: a second server a shard that follows its log, and takes over when the primary is gone (design: section 2).

A standby counts as in sync from the record of it on, which is journaled when the primary has told that it waits for the
standby, until the record that ends that, which is journaled before the primary is told to acknowledge alone. So whoever
is recorded as in sync holds all that was ever acknowledged, and nobody else is promoted. A new line begins with what is
recorded, and the primary goes by that: a word that was lost with the old line was never spoken.
"""

from __future__ import annotations

from coordinator import actions as a
from coordinator import events as e
from coordinator import records as r
from coordinator.desk import Desk
from coordinator.presence import Presence
from wire.messages import ShardPlacement


class Standbys:
    """Who stands by for which shard. Decisions are in the journal."""

    def __init__(self, desk: Desk, presence: Presence) -> None:
        self._desk = desk
        self._presence = presence
        self._leaving: set[tuple[int, int]] = set()
        """(shard, standby that its primary was told to wait for no more), until it answers or the word is lost."""
        self._strangers: dict[int, int] = {}
        """Shard -> who follows it and is not to: its standby no more, or away; its primary is told so at ticks."""

    # --- following -----------------------------------------------------------------------

    def appoint(self) -> None:
        """Give every shard a standby that is there, as far as there are spare servers."""
        state = self._desk.state
        if not self._desk.rules.replicas or not state.loaded or state.ended is not None:
            return
        for placed in state.placement:
            if (
                self.lacking(placed.shard)
                and self._presence.here(placed.incarnation)
                and (spare := self._spare())
            ):
                self._appoint(placed.shard, spare)

    def lacking(self, shard: int) -> bool:
        """Whether a shard has no standby, or only one that is away."""
        standby = self._desk.state.standbys.get(shard)
        return standby is None or self._presence.away(standby.incarnation)

    def _spare(self) -> int | None:
        state = self._desk.state
        spares = (
            m.incarnation
            for m in state.present("ps")
            if state.shard_of(m.incarnation) is None and state.stands_for(m.incarnation) is None
        )
        return next((i for i in spares if self._presence.here(i)), None)

    def _appoint(self, shard: int, incarnation: int) -> None:
        older = self._desk.state.standbys.get(shard)
        if older is not None:
            self._part(shard, "it is away, and another server takes its place")
        self._desk.decide(r.Stood(shard, incarnation))
        self._desk.note("standby", shard=shard, name=self._desk.name_of(incarnation), incarnation=incarnation)
        if older is not None:
            self.dismiss(older.incarnation, f"server {self._desk.name_of(incarnation)} has taken its place")
        self.stand(shard)

    def stand(self, shard: int) -> None:
        """Tell the standby of a shard, if there is one, whom to follow."""
        placed, standby = self._desk.state.placement[shard], self._desk.state.standbys.get(shard)
        if standby is not None:
            order = a.StandBy(shard, placed.address, placed.term)
            self._desk.actions.append(a.CommandServer(standby.incarnation, order))

    # --- in sync, or not -----------------------------------------------------------------

    def told(self, event: e.ShardAttached) -> None:
        """A primary's line is open: whom it waits for.

        That it waits is no news, for it was told so; here the word that ends it may be on its way already. A word that
        was said before this line began is lost: the line began without that standby.
        """
        self._leaving &= {(event.shard, event.recorded)} | {w for w in self._leaving if w[0] != event.shard}
        standby = self._desk.state.standbys.get(event.shard)
        if standby is not None and standby.in_sync and standby.incarnation != event.standby:
            self._part(event.shard, "its primary waits for it no more")
            self.stand(event.shard)

    def in_sync(self, event: e.StandbyInSync) -> None:
        """A primary waits for its standby from now on. Before it has told its state this counts for nothing yet."""
        if not self._presence.here(self._desk.state.placement[event.shard].incarnation):
            return  # it is told again behind the state
        standby = self._desk.state.standbys.get(event.shard)
        if standby is None or standby.incarnation != event.standby or self._presence.away(event.standby):
            self._strangers[event.shard] = event.standby
        elif not standby.in_sync and (event.shard, event.standby) not in self._leaving:  # else an older word
            self._desk.decide(r.InSynced(event.shard, event.standby))
            self._desk.note("in_sync", shard=event.shard, name=self._desk.name_of(event.standby))

    def left(self, event: e.StandbyLeft) -> None:
        """A primary waits for its standby no more; what it tells of it from now on is new."""
        self._leaving.discard((event.shard, event.standby))

    def line_over(self, shard: int) -> None:
        """No word of the old line is heard or obeyed any more; the next one begins with what is recorded."""
        self._leaving = {word for word in self._leaving if word[0] != shard}

    def parted(self, event: e.StandbyParted) -> None:
        """A primary waits in vain: let it go on alone, and have the standby begin anew."""
        standby = self._desk.state.standbys.get(event.shard)
        if standby is None or standby.incarnation != event.standby:
            self._strangers[event.shard] = event.standby
            return
        if standby.in_sync:
            self._part(event.shard, event.reason)
        elif (event.shard, event.standby) not in self._leaving:
            self._leave_alone(event.shard, event.standby)  # that it was in sync at all was not heard
        if event.diverged:
            name = self._desk.name_of(event.standby)
            self._desk.note("diverged", shard=event.shard, name=name, reason=event.reason)
            self.dismiss(event.standby, f"its state is not the primary's: {event.reason}")
            self.appoint()
        else:
            self.stand(event.shard)

    def tick(self) -> None:
        """No primary that answers waits for a standby that is away; of two that are away the first one back serves."""
        for placed in self._desk.state.placement:
            standby = self._desk.state.standbys.get(placed.shard)
            if standby is None or not self._presence.answers(placed.incarnation):
                continue
            if self._presence.away(standby.incarnation):
                self._part(placed.shard, self._presence.reason(standby.incarnation))
        for shard, stranger in self._strangers.items():
            self._leave_alone(shard, stranger)
        self._strangers.clear()
        self.appoint()

    def part(self, incarnation: int, reason: str) -> None:
        """Whatever a standby holds, it is not all any more."""
        shard = self._desk.state.stands_for(incarnation)
        if shard is not None:
            self._part(shard, reason)

    def _part(self, shard: int, reason: str) -> None:
        standby = self._desk.state.standbys[shard]
        if standby.in_sync:
            self._desk.decide(r.Parted(shard, standby.incarnation, reason))
            name = self._desk.name_of(standby.incarnation)
            self._desk.note("parted", shard=shard, name=name, reason=reason)
            self._leave_alone(shard, standby.incarnation)

    def _leave_alone(self, shard: int, standby: int) -> None:
        self._leaving.add((shard, standby))
        self._desk.actions.append(a.Command(shard, a.LeaveAlone(standby)))

    # --- taking over ---------------------------------------------------------------------

    def promote(self, shard: int, reason: str) -> bool:
        """Have the standby take over, if it may. Returns whether it does."""
        if not self.may_take_over(shard):
            return False
        state = self._desk.state
        placed, new = state.placement[shard], state.members[state.standbys[shard].incarnation]
        term = placed.term + 1
        self._desk.decide(r.Promoted(shard, new.incarnation, new.address, term, reason))
        self.line_over(shard)
        self._desk.note("promoted", shard=shard, name=new.name, address=new.address, term=term, reason=reason)
        self.dismiss(placed.incarnation, f"server {new.name} has taken its shard over: {reason}")
        self._desk.actions.append(a.CommandServer(new.incarnation, a.Promote(term)))
        self.redirect(shard)
        return True

    def may_take_over(self, shard: int) -> bool:
        """Whether the standby of a shard is recorded as in sync, and is there."""
        standby = self._desk.state.standbys.get(shard)
        return standby is not None and standby.in_sync and self._presence.here(standby.incarnation)

    def redirect(self, shard: int) -> None:
        """Tell every worker where a shard is served."""
        for member in self._desk.state.present("worker"):
            self._desk.tell(member.incarnation, _redirect(self._desk.state.placement[shard]))

    def remind(self, incarnation: int) -> None:
        """Tell a worker where the shards are served that were moved ever since the run began."""
        for placed in self._desk.state.placement:
            if placed.term > 1:
                self._desk.tell(incarnation, _redirect(placed))

    def dismiss(self, incarnation: int, reason: str) -> None:
        """A server is out of the run; should it be there, it is told so and joins anew."""
        self._desk.decide(r.Departed(incarnation, reason, dead=True))
        self._presence.forget(incarnation)
        self._desk.actions.append(a.Dismiss(incarnation, reason))

    def dismiss_again(self) -> None:
        """Whoever was dismissed and has not joined since may still not know it."""
        members = [m for m in self._desk.state.members.values() if m.role == "ps"]
        newest = {m.name: m for m in members}
        present = {m.address for m in members if m.present}
        for member in newest.values():
            if not member.present and member.address not in present:
                self._desk.actions.append(a.Dismiss(member.incarnation, member.gone))


def _redirect(placed: ShardPlacement) -> a.Redirect:
    return a.Redirect(placed.shard, placed.address, placed.incarnation, placed.term)
