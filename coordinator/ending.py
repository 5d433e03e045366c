"""How a run ends: all its steps are done, somebody asks, or something went wrong. The last checkpoint comes first."""

from __future__ import annotations

from coordinator import actions as a
from coordinator import events as e
from coordinator.boundary import Boundary
from coordinator.desk import Desk, error_of
from coordinator.model import Model
from coordinator.pace import pace_of
from coordinator.records import Ended, Stopping

DESERTED = "stopped without a worker to take a last checkpoint with"


class Ending:
    """Ends the run once, and tells everybody."""

    def __init__(self, desk: Desk, boundary: Boundary, model: Model) -> None:
        self._desk = desk
        self._boundary = boundary
        self._model = model

    def end(self, reason: str, error: str) -> None:
        """The run is over. `error`: class name of what ended it, or empty."""
        state = self._desk.state
        if state.ended is not None:
            return
        ended = Ended(reason, error)
        self._desk.decide(ended)
        self._desk.note("ended", reason=reason, error=error, step=state.open_step)
        self._model.refuse_all(ended)
        self._boundary.wishes.answer(error_of(ended))
        for member in state.present("worker"):
            self._desk.tell(member.incarnation, a.End(reason, error))
        self._desk.command_all(a.FinishShard(reason))
        for member in state.present("ps"):
            if state.shard_of(member.incarnation) is None:
                self._desk.actions.append(a.CommandServer(member.incarnation, a.FinishShard(reason)))
        self._desk.actions.append(a.Quit())

    def stop(self, event: e.StopAsked) -> None:
        """Somebody asks for the end: after a checkpoint of the next closed step, or at once where there can be none."""
        state = self._desk.state
        too_late = not self._desk.drained(state.open_step + 1)
        self._desk.answer(event.key, a.Stopped(state.open_step + too_late))
        if state.final:
            self._wait_no_more(event.reason)
        elif state.ended is None:
            self._desk.note("stopping", reason=event.reason, step=state.open_step)
            if obstacle := self._obstacle():
                self.end(f"{obstacle}: {event.reason}", "Interrupted")
            else:
                self._desk.decide(Stopping(event.reason, "Interrupted"))

    def _wait_no_more(self, reason: str) -> None:
        """The last step is closed: its evaluations are not waited for, nor state of streams that nobody carries."""
        state = self._desk.state
        if state.ended is not None:
            return
        if pace_of(state.segment).exact and not state.deposited and not state.present("worker"):
            self.end(f"{DESERTED}: {reason}", "Interrupted")
        elif state.stopping is None:
            self._desk.decide(Stopping(reason, "Interrupted"))

    def _obstacle(self) -> str:
        """Why there will be no checkpoint to stop at, or nothing."""
        state = self._desk.state
        if state.open_step == state.first_step and state.last_close is None:
            return "stopped before the first closed step"
        if not state.present("worker"):
            return DESERTED
        if state.stopping is not None:
            return "asked to stop a second time, without a checkpoint of the open step"
        return ""

    def checkpoint_written(self, event: e.CheckpointWritten) -> None:
        """The last one ends the run."""
        self._boundary.written(event)
        stopping = self._desk.state.stopping
        if self._desk.state.final:
            reason, error = (stopping.reason, stopping.error) if stopping else ("all steps are done", "")
            self.end(reason, error)

    def checkpoint_failed(self, event: e.CheckpointFailed) -> None:
        """The last one ends the run with an error."""
        self._boundary.failed(event)
        if self._desk.state.final:
            self.end(f"the last checkpoint could not be written: {event.message}", "NotWritten")
