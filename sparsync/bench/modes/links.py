"""The network between the processes of one case: loopback, or a link of its own for each worker.

A shaped link is made of network namespaces: each worker, or rank, in one of its own, joined by a bridge in another
one where coordinator and servers run; `tc tbf` limits both ends of every worker's cable, so each worker sends and
receives at the rate. No interface is ever made outside these namespaces, and with them all goes. Their names carry the
process id of who made them: `sweep` removes what dead ones left. Where that is not possible, clusters go through a
proxy in user space (`scripts/cluster.py`), and baselines are not shaped.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from sparsync.faults.proc import lives
from wire.errors import SparsyncError, UsageError

UNLIMITED = "unlimited"
NAMESPACES, PROXY, NOT_SHAPED = "namespaces", "proxy", "not shaped"
RATE = re.compile(r"(\d+(?:\.\d+)?)(k|m|g)bit")
UNITS = {"k": 1e3, "m": 1e6, "g": 1e9}
OURS = re.compile(r"sparsync-(\d+)-\w+")
SUBNET = "10.213.0."
HUB_ADDRESS = f"{SUBNET}1"
FIRST_WORKER = 10
MOST_WORKERS = 200
QUEUE_S = 0.1
"""What the buffer in front of a limited link holds, as a cheap router's does."""
BURST_S = 0.005
LEAST_BURST = 1 << 16
"""tbf lets so many bytes through at once; no less than one segment that the kernel offloads."""
COMMAND_S = 20.0


@dataclass(frozen=True)
class Link:
    """Of each worker. `rate`: bits a second in each direction; None: no limit."""

    name: str
    rate: float | None = None


def link(text: str) -> Link:
    """Raises: UsageError."""
    if text == UNLIMITED:
        return Link(text)
    found = RATE.fullmatch(text)
    if found is None or float(found[1]) <= 0:
        raise UsageError(f"--links {text}: expected {UNLIMITED}, or a rate such as 10mbit, 1gbit or 500kbit")
    return Link(text, float(found[1]) * UNITS[found[2]])


def shaping(link: Link, *, cluster: bool, namespaces: bool) -> str:
    """How processes are kept to a link: `NAMESPACES`, `PROXY`, `NOT_SHAPED`; `UNLIMITED` where nothing is to be."""
    if link.rate is None:
        return UNLIMITED
    return NAMESPACES if namespaces else (PROXY if cluster else NOT_SHAPED)


@dataclass(frozen=True)
class Lines:
    """Where the processes of a case run and listen.

    Attributes:
        hub: words before the command of whoever is no worker. workers: of each worker.
        host: that coordinator and servers listen on. interface: that workers reach each other by.
        shaped: `NAMESPACES`, `PROXY`, `NOT_SHAPED`, or `UNLIMITED` where nothing was to be shaped.
        proxy_rate: bytes a second of a worker, in each direction, for the proxy to keep.
    """

    shaped: str
    hub: tuple[str, ...] = ()
    workers: tuple[tuple[str, ...], ...] = ()
    host: str = "127.0.0.1"
    interface: str = "lo"
    proxy_rate: float | None = None

    def within(self, worker: int) -> tuple[str, ...]:
        return self.workers[worker] if self.workers else ()


class Network:
    """Makes the lines of one case after the other.

    Args:
        refused: why namespaces are not to be used, though they may be possible.

    Attributes:
        why_not: why there are no namespaces; empty where there are.
    """

    def __init__(self, refused: str = "") -> None:
        self.why_not = refused or _why_no_namespaces()

    @contextmanager
    def lines(self, link: Link, *, workers: int, cluster: bool) -> Iterator[Lines]:
        """Raises: SparsyncError."""
        shaped = shaping(link, cluster=cluster, namespaces=not self.why_not)
        if shaped == NAMESPACES and link.rate is not None:
            with namespaces(link.rate, workers=workers) as lines:
                yield lines
        else:
            yield Lines(
                shaped, proxy_rate=link.rate / 8 if shaped == PROXY and link.rate is not None else None
            )


@contextmanager
def namespaces(rate: float, *, workers: int) -> Iterator[Lines]:
    """A hub and so many workers, each behind a cable of `rate` bits a second.

    Raises: SparsyncError.
    """
    if workers > MOST_WORKERS:
        raise UsageError(f"--workers {workers}: expected at most {MOST_WORKERS} behind links of their own")
    hub, *spokes = names = [
        f"sparsync-{os.getpid()}-{n}" for n in ("hub", *(f"w{i}" for i in range(workers)))
    ]
    try:
        for name in names:
            _ip("netns", "add", name)
            _ip("-n", name, "link", "set", "lo", "up")
        _ip("-n", hub, "link", "add", "br0", "type", "bridge")
        _ip("-n", hub, "address", "add", f"{HUB_ADDRESS}/24", "dev", "br0")
        _ip("-n", hub, "link", "set", "br0", "up")
        for number, spoke in enumerate(spokes):
            _connect(hub, spoke, number, rate)
        enter = ("ip", "netns", "exec")
        yield Lines(
            NAMESPACES,
            hub=(*enter, hub),
            workers=tuple((*enter, spoke) for spoke in spokes),
            host=HUB_ADDRESS,
            interface="eth0",
        )
    finally:
        for name in names:
            _remove(name)


def _connect(hub: str, spoke: str, number: int, rate: float) -> None:
    """A cable from a worker's eth0 to the bridge, limited at both ends."""
    port = f"v{number}"
    _ip("-n", hub, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", spoke)
    _ip("-n", hub, "link", "set", port, "master", "br0")
    _ip("-n", spoke, "address", "add", f"{SUBNET}{FIRST_WORKER + number}/24", "dev", "eth0")
    for namespace, end in ((hub, port), (spoke, "eth0")):
        _run("tc", "-n", namespace, "qdisc", "add", "dev", end, "root", "tbf", *tbf(rate))
        _ip("-n", namespace, "link", "set", end, "up")


def tbf(rate: float) -> tuple[str, ...]:
    """Its parameters at `rate` bits a second."""
    burst = max(LEAST_BURST, round(rate / 8 * BURST_S))
    return ("rate", f"{round(rate)}bit", "burst", f"{burst}b", "latency", f"{QUEUE_S * 1e3:g}ms")


def sweep() -> list[str]:
    """Removes the namespaces that processes which are dead by now have left; their names."""
    left = [name for name in ours() if not lives(int(name.split("-")[1]))]
    for name in left:
        _remove(name)
    return left


def ours() -> list[str]:
    """All namespaces that some process made for this."""
    told = _run("ip", "netns", "list")
    return [line.split()[0] for line in told.splitlines() if line and OURS.fullmatch(line.split()[0])]


def _why_no_namespaces() -> str:
    """Tries one, after having removed what was left."""
    if os.geteuid() != 0:
        return "not root"
    if missing := [tool for tool in ("ip", "tc") if shutil.which(tool) is None]:
        return f"no {' and no '.join(missing)} here (iproute2)"
    try:
        sweep()
        with namespaces(1e8, workers=1):
            return ""
    except SparsyncError as error:
        return str(error)


def _remove(name: str) -> None:
    with suppress(SparsyncError):  # it was not made
        _ip("netns", "delete", name)


def _ip(*words: str) -> str:
    return _run("ip", *words)


def _run(*words: str) -> str:
    """Raises: SparsyncError."""
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=COMMAND_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SparsyncError(f"{' '.join(words)}: {error}") from None
    if done.returncode:
        raise SparsyncError(f"{' '.join(words)}: {done.stderr.strip() or done.returncode}")
    return done.stdout
