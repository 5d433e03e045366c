"""What a role tells the service manager: systemd's sd_notify protocol, datagrams to $NOTIFY_SOCKET; silent without it.

READY=1 once it serves, STATUS for people, WATCHDOG=1 only from the loop that proves progress: `alive` is called
where something was done, never by a timer beside the work. A message that finds no room is dropped, the next one
says the same. Protocol: sd_notify(3).
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping

from wire.clock import Clock, monotonic_clock

ALIVE_EVERY_S = 1.0
"""Progress may be told as often as it is made; it is passed on so often at most."""
EXTENSIONS = 6
"""So many times within the time that it grants, an extension of the start is passed on."""
MICROSECONDS = 1_000_000


class Notify:
    """This process's line to its service manager.

    Args:
        environ: its NOTIFY_SOCKET, and WATCHDOG_USEC where it is watched.
    """

    def __init__(self, environ: Mapping[str, str], *, clock: Clock = monotonic_clock) -> None:
        path = environ.get("NOTIFY_SOCKET", "")
        self._path = "\0" + path[1:] if path.startswith("@") else path
        watched = environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        self._watched = watched and environ.get("WATCHDOG_USEC", "0") != "0"
        self._clock = clock
        self._alive_at = float("-inf")
        self._starts_until = float("-inf")
        self._limit_s = 0.0

    def ready(self, status: str) -> None:
        """It serves; the start is over."""
        self._send("READY=1", f"STATUS={status}")

    def status(self, text: str) -> None:
        """What `systemctl status` shows."""
        self._send(f"STATUS={text}")

    def extend_start(self, seconds: float) -> None:
        """The start makes progress: it may take so long from now on, if it would be over time."""
        until = self._clock.now() + seconds
        if until - self._starts_until >= seconds / EXTENSIONS:
            self._starts_until = until
            self._send(f"EXTEND_TIMEOUT_USEC={round(seconds * MICROSECONDS)}")

    def alive(self) -> None:
        """Something was done just now."""
        now = self._clock.now()
        if self._watched and now - self._alive_at >= ALIVE_EVERY_S:
            self._alive_at = now
            self._send("WATCHDOG=1")

    def limit(self, seconds: float) -> None:
        """From now on it is taken for stuck when it was not `alive` for so long. Nothing where nobody watches."""
        if self._watched and seconds != self._limit_s:
            self._limit_s = seconds
            self._alive_at = self._clock.now()
            self._send(f"WATCHDOG_USEC={round(seconds * MICROSECONDS)}", "WATCHDOG=1")

    def stopping(self, reason: str) -> None:
        """It is about to end."""
        self._send("STOPPING=1", f"STATUS={reason}")

    def _send(self, *lines: str) -> None:
        if not self._path:
            return
        message = "\n".join(line.replace("\n", " ") for line in lines)
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as line:
                line.sendto(message.encode(), self._path)
        except (
            OSError
        ):  # nobody listens, or too much waits there: the service manager may be away, the work goes on
            return
