"""How the units of a segment are settled: three disciplines behind one signature, chosen by the segment.

| discipline | segment          | a frame is            | settled by                            | makes           |
|------------|------------------|-----------------------|---------------------------------------|-----------------|
| Exact      | exact, lag       | held                  | the close of its step, stream order   | a step          |
| Named      | elastic          | held                  | the close that names it               | a step          |
| Arrival    | elastic, arrival | added when it arrives | the next publication, in log order    | k / R of a step |

So R units move the model as far as one step, however publications group them (with the rule "sum" each
unit counts whole, so there a publication is a step). What a leaver flushes (elastic only) is added when it arrives, to
whatever is settled next; alone it makes 1 / R of a step, as one unit would. Deterministic, as the shard is.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from ps.elastic import Arrival, Named
from ps.exact import Exact
from ps.held import Held, Move, Plane, Workshop
from ps.ledger import ElasticLedger, Ledger
from ps.publish import DeltaLog
from ps.records import Accept, Accepted, Close, Flush, Segment
from ps.trees import State


class Discipline(Protocol):
    """State of one segment.

    Attributes:
        held: accepted and not settled, by unit number, in the order of the log.
        flushes: accepted and not settled.
    """

    held: dict[int, Held]

    @property
    def flushes(self) -> int: ...

    @property
    def ledger(self) -> Ledger | ElasticLedger: ...

    @property
    def lanes(self) -> int:
        """Workers that sent units in this segment and are not retired."""
        ...

    def weigh(self, record: Accept, version: int) -> tuple[int, float]:
        """(behind, factor) of a unit that is accepted while the published model is at `version`.

        Raises: ProtocolMismatch where it was computed from a version that does not exist.
        """
        ...

    def take(self, record: Accept, unit: Accepted, version: int) -> None:
        """Keep an admitted unit. Raises: DamagedFrame, before anything has changed."""
        ...

    def flush(self, record: Flush) -> None:
        """Add what a leaver held back to what is settled next.

        Raises: ProtocolMismatch where nothing is held back; DamagedFrame. Nothing has changed then.
        """
        ...

    def due(self, record: Close) -> list[Accepted]:
        """What this close settles, in order, each with the factor that it then has; changes nothing.

        Raises: ProtocolMismatch where it contradicts the state.
        """
        ...

    def hold_to(self, bound: float) -> None:
        """Where units settle on arrival: of those accepted from now on counts what this bound on their norms lets."""
        ...

    def pending(self) -> list[Accepted]:
        """What a publication settles, in order."""
        ...

    def move(self, units: Sequence[Accepted]) -> Move | None:
        """The step that `units` and all flushes make; None where nothing contributes. Valid until the next call."""
        ...

    def settled(self, units: Iterable[Accepted]) -> None:
        """These units are in the model now, and all that was flushed."""
        ...

    def retire(self, incarnation: int) -> None:
        """Take this worker's estimate out of the sum."""
        ...

    def trim(self, deltas: DeltaLog, retain_from: int) -> None:
        """Forget deltas that nobody needs; those from step `retain_from` on are needed for replays."""
        ...

    def planes(self) -> dict[str, Plane]:
        """What a checkpoint holds of it."""
        ...

    def image(self) -> State: ...

    def restore(self, tree: State) -> None:
        """Become what `image` showed, from a discipline of the same segment that has taken nothing."""
        ...


def discipline(shop: Workshop, segment: Segment, fences: dict[int, int], version: int) -> Discipline:
    """The discipline of a segment that begins while the published model is at `version`."""
    if not segment.elastic:
        return Exact(shop, segment, fences, version)
    kind = Arrival if segment.arrival else Named
    return kind(shop, segment, fences, version)
