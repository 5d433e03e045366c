"""When a worker is taken for stuck: the coordinator's rule, doubled, from the units of its own."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.worker.far_end import serving
from tests.worker.test_rejoin import Handing
from tests.worker.toy import worker
from wire.clock import ManualClock
from wire.notify import Notify
from wire.rpc.access import InRun
from wire.rpc.identity import Security
from worker.transfer import Transfer
from worker.vitals import EXCUSED_S, Vitals, in_words

LEAST_S = 60.0


class Manager:
    """A service manager: when it would have restarted the worker, by what it heard."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.setblocking(False)
        self.clock = ManualClock()
        self.limit_s = 0.0
        self.fed_at = 0.0
        self.status = ""
        environ = {"NOTIFY_SOCKET": str(path), "WATCHDOG_USEC": "1", "WATCHDOG_PID": str(os.getpid())}
        self.vitals = Vitals(Notify(environ, clock=self.clock), run="abc", least_s=LEAST_S, clock=self.clock)

    def hear(self) -> None:
        while True:
            try:
                lines = self._socket.recv(4096).decode().splitlines()
            except BlockingIOError:
                return
            for key, _, value in (line.partition("=") for line in lines):
                if key == "WATCHDOG_USEC":
                    self.limit_s = int(value) / 1e6
                elif key == "WATCHDOG":
                    self.fed_at = self.clock.now()
                elif key == "STATUS":
                    self.status = value

    @property
    def left_s(self) -> float:
        self.hear()
        return self.fed_at + self.limit_s - self.clock.now()

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    manager = Manager(tmp_path / "notify")
    yield manager
    manager.close()


def test_what_the_script_does_before_its_loop_is_its_own_affair(manager: Manager) -> None:
    manager.vitals.joined("node1.gpu0")
    assert manager.left_s == EXCUSED_S
    assert manager.status == "run abc: joined as node1.gpu0"


def test_a_first_unit_may_compile(manager: Manager) -> None:
    manager.vitals.progressed()
    assert manager.left_s == 10 * LEAST_S


def test_the_limit_is_twice_the_coordinators(manager: Manager) -> None:
    manager.vitals.progressed(unit_s=2.0)
    assert manager.left_s == 2 * LEAST_S
    for _ in range(3):
        manager.vitals.progressed(unit_s=30.0)
    assert manager.left_s == 2 * 10 * 30.0


def test_nothing_feeds_it_but_progress(manager: Manager) -> None:
    manager.vitals.progressed(unit_s=2.0)
    assert manager.left_s == 120
    manager.clock.advance(100)
    assert manager.left_s == 20
    manager.vitals.tell("35 units")
    assert manager.left_s == 20, "words prove nothing"
    manager.vitals.progressed()
    assert manager.left_s == 120


def test_an_evaluation_is_excused_until_it_is_over(manager: Manager) -> None:
    manager.vitals.progressed(unit_s=2.0)
    manager.vitals.excuse()
    manager.hear()
    manager.clock.advance(5000)
    assert manager.left_s > 0
    manager.vitals.progressed()
    assert manager.left_s == 120


def test_what_it_does_is_told_every_few_seconds(manager: Manager) -> None:
    manager.vitals.tell("one")
    manager.vitals.tell("two")
    manager.hear()
    assert manager.status == "run abc: one"
    manager.clock.advance(5)
    manager.vitals.tell("three")
    manager.hear()
    assert manager.status == "run abc: three"


def test_progress_in_words() -> None:
    told = {"units": 35, "replayed": 5, "compute_s": 8.4, "wait_s": 1.2}
    assert in_words(told) == "35 units, 0.21 s a unit, waits 12%"
    assert in_words({"units": 0, "replayed": 0, "compute_s": 0.0, "wait_s": 3.0}) == "0 units"


def test_waiting_counts_where_the_network_thread_is_at_work() -> None:
    with serving(Handing()) as address:
        transfer = Transfer(coordinator=address, security=Security(), run=InRun("a run", 1), incarnation=1)
        try:
            assert transfer.answers()
            assert transfer._echo.wait(10)
            assert transfer.answers()
        finally:
            transfer.close()


def test_waiting_does_not_count_where_it_hangs() -> None:
    with serving(Handing()) as address:
        transfer = Transfer(coordinator=address, security=Security(), run=InRun("a run", 1), incarnation=1)
        begun, released = threading.Event(), threading.Event()

        def hang() -> None:
            begun.set()
            released.wait(30)

        try:
            transfer._loop.call_soon_threadsafe(hang)
            assert begun.wait(10)
            assert transfer.answers(), "what was asked before it hung was answered"
            assert not any(transfer.answers() for _ in range(10))
            released.set()
            assert transfer._echo.wait(10)
            assert transfer.answers()
        finally:
            released.set()
            transfer.close()


def test_a_turn_of_waiting_asks() -> None:
    w = worker()
    w.driver._listen()
    w.driver._wait()
    assert w.attached.waited == 1
    w.driver._told_to_go()
    assert w.attached.waited == 2
