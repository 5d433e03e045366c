"""Links: rates as they are written; namespaces that shape, and that never stay."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from sparsync.bench.modes import links
from sparsync.bench.modes.links import NAMESPACES, NOT_SHAPED, PROXY, UNLIMITED, Network, link
from wire.errors import UsageError

RATE = 20e6
SENT = 1_500_000
SEND = """
import socket, sys, time
line = socket.create_connection((sys.argv[1], int(sys.argv[2])))
line.sendall(bytes(int(sys.argv[3])))
line.shutdown(socket.SHUT_WR)
line.recv(1)
"""
RECEIVE = """
import socket, time
listening = socket.create_server(("0.0.0.0", 0))
print(listening.getsockname()[1], flush=True)
line, _ = listening.accept()
size, began = 0, time.monotonic()
while data := line.recv(1 << 16):
    size += len(data)
print(size / (time.monotonic() - began), flush=True)
line.sendall(b".")
"""


@pytest.mark.parametrize(
    ("text", "rate"), [("unlimited", None), ("10mbit", 1e7), ("1.5gbit", 1.5e9), ("500kbit", 5e5)]
)
def test_rates_are_bits_a_second(text: str, rate: float | None) -> None:
    assert link(text).rate == rate


@pytest.mark.parametrize("text", ["", "10", "10mb", "0mbit", "fast"])
def test_what_is_no_rate_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--links"):
        link(text)


def test_without_namespaces_clusters_go_through_a_proxy_and_baselines_are_not_shaped() -> None:
    network = Network("not today")
    found = {}
    for cluster in (True, False):
        for rate in ("10mbit", UNLIMITED):
            with network.lines(link(rate), workers=2, cluster=cluster) as lines:
                found[cluster, rate] = (lines.shaped, lines.proxy_rate, lines.within(1))
    assert found[True, "10mbit"] == (PROXY, 1.25e6, ())
    assert found[False, "10mbit"] == (NOT_SHAPED, None, ())
    assert found[True, UNLIMITED] == found[False, UNLIMITED] == (UNLIMITED, None, ())


def test_a_burst_is_no_smaller_than_what_the_kernel_sends_at_once() -> None:
    assert links.tbf(1e7) == ("rate", "10000000bit", "burst", "65536b", "latency", "100ms")
    assert links.tbf(1e9)[3] == "625000b"


# --- with root -----------------------------------------------------------------------------------


@pytest.fixture
def no_namespaces_stay() -> Iterator[None]:
    before = set(links.ours())
    yield
    assert set(links.ours()) <= before


@pytest.mark.root
def test_a_namespace_can_be_made_here() -> None:
    assert Network().why_not == ""


@pytest.mark.root
@pytest.mark.usefixtures("no_namespaces_stay")
@pytest.mark.parametrize("way", ["up", "down", "across"])
def test_each_workers_cable_is_limited_in_both_directions(way: str) -> None:
    with Network().lines(
        link(f"{RATE:.0f}".removesuffix("000000") + "mbit"), workers=2, cluster=True
    ) as lines:
        assert (lines.shaped, lines.interface) == (NAMESPACES, "eth0")
        first, second = f"{links.SUBNET}{links.FIRST_WORKER}", f"{links.SUBNET}{links.FIRST_WORKER + 1}"
        sender, receiver, host = {
            "up": (lines.within(0), lines.hub, lines.host),
            "down": (lines.hub, lines.within(0), first),
            "across": (lines.within(0), lines.within(1), second),
        }[way]
        rate = transfer(sender, receiver, host)
    assert 0.7 * RATE / 8 < rate < 1.15 * RATE / 8, f"{rate * 8 / 1e6:.1f} Mbit/s"


def transfer(sender: tuple[str, ...], receiver: tuple[str, ...], host: str) -> float:
    """Bytes a second between two places."""
    with subprocess.Popen(
        [*receiver, sys.executable, "-c", RECEIVE], stdout=subprocess.PIPE, text=True
    ) as receiving:
        assert receiving.stdout is not None
        port = receiving.stdout.readline().strip()
        sending = [*sender, sys.executable, "-c", SEND, host, port, str(SENT)]
        subprocess.run(sending, check=True, timeout=30)
        return float(receiving.stdout.readline())


@pytest.mark.root
@pytest.mark.usefixtures("no_namespaces_stay")
def test_what_a_killed_process_left_is_swept_and_what_a_live_one_has_stays() -> None:
    script = (
        "import time\n"
        "from sparsync.bench.modes.links import namespaces\n"
        "with namespaces(1e7, workers=2):\n"
        "    print('made', flush=True)\n"
        "    time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as maker:
        assert maker.stdout is not None and maker.stdout.readline() == "made\n"
        made = {name for name in links.ours() if name.startswith(f"sparsync-{maker.pid}-")}
        assert len(made) == 3
        assert not made & set(links.sweep())
        assert made <= set(links.ours())
        os.kill(maker.pid, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while made & set(links.ours()) and time.monotonic() < deadline:
        links.sweep()
    assert not made & set(links.ours())


@pytest.mark.root
@pytest.mark.usefixtures("no_namespaces_stay")
def test_an_error_within_removes_them() -> None:
    with pytest.raises(RuntimeError, match="within"), links.namespaces(1e7, workers=1):
        raise RuntimeError("within")
