"""What happens in a cluster of processes, and what may be done about it: the words of `sparsync.supervision`."""

from __future__ import annotations

from dataclasses import dataclass
from signal import Signals


@dataclass(frozen=True)
class Serving:
    """The coordinator has told its address; the other roles have been started."""


@dataclass(frozen=True)
class Joined:
    """A worker has joined the run."""

    process: str


@dataclass(frozen=True)
class Exited:
    """A process ended. `code` is its exit code, or minus the number of the signal that killed it."""

    process: str
    code: int


@dataclass(frozen=True)
class Seen:
    """What the coordinator's status said."""

    state: str
    step: int


@dataclass(frozen=True)
class UserInterrupt:
    """SIGINT, SIGTERM or SIGHUP reached the launcher."""


@dataclass(frozen=True)
class StopAnswered:
    """The coordinator's answer to Stop: the step after which the run ends; None: no answer came."""

    at_step: int | None


@dataclass(frozen=True)
class Tick:
    """Time has passed."""


Event = Serving | Joined | Exited | Seen | UserInterrupt | StopAnswered | Tick


@dataclass(frozen=True)
class Start:
    """Start this process again."""

    process: str


@dataclass(frozen=True)
class RequestStop:
    """Ask the coordinator to end the run after the next closed step."""

    reason: str


@dataclass(frozen=True)
class Send:
    """Send a signal to each of these processes."""

    signal: Signals
    processes: tuple[str, ...]


@dataclass(frozen=True)
class Say:
    """Tell the user."""

    text: str


Action = Start | RequestStop | Send | Say
