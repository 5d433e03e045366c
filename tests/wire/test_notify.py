"""sd_notify against a socket of the test's own: what is sent, when, and that nobody is held up where none listens."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from wire.clock import ManualClock
from wire.notify import Notify

WATCHED = {"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        listening.setblocking(False)
        yield listening


def heard(manager: socket.socket) -> list[str]:
    messages = []
    while True:
        try:
            messages.append(manager.recv(4096).decode())
        except BlockingIOError:
            return messages


def line(manager: socket.socket, clock: ManualClock | None = None, **environ: str) -> Notify:
    return Notify({"NOTIFY_SOCKET": manager.getsockname(), **environ}, clock=clock or ManualClock())


def test_it_tells_of_start_and_state(manager: socket.socket) -> None:
    notify = line(manager)
    notify.ready("serves")
    notify.status("step 3\nREADY=0")
    notify.stopping("over")
    assert heard(manager) == [
        "READY=1\nSTATUS=serves",
        "STATUS=step 3 READY=0",
        "STOPPING=1\nSTATUS=over",
    ]


def test_an_abstract_socket_is_one_too() -> None:
    name = f"\0sparsync-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(name)
        Notify({"NOTIFY_SOCKET": "@" + name[1:]}).status("here")
        assert listening.recv(100) == b"STATUS=here"


def test_progress_is_passed_on_once_a_second_and_never_by_itself(manager: socket.socket) -> None:
    clock = ManualClock()
    notify = line(manager, clock, **WATCHED)
    clock.advance(60)
    assert heard(manager) == []
    for _ in range(10):
        notify.alive()
        clock.advance(0.25)
    assert heard(manager) == ["WATCHDOG=1"] * 3


def test_a_new_limit_counts_from_now_and_an_old_one_is_not_told_again(manager: socket.socket) -> None:
    notify = line(manager, **WATCHED)
    notify.limit(120)
    notify.limit(120)
    notify.limit(0.5)
    assert heard(manager) == ["WATCHDOG_USEC=120000000\nWATCHDOG=1", "WATCHDOG_USEC=500000\nWATCHDOG=1"]


@pytest.mark.parametrize("environ", [{}, {"WATCHDOG_USEC": "0"}, WATCHED | {"WATCHDOG_PID": "1"}])
def test_who_is_not_watched_says_nothing_of_it(manager: socket.socket, environ: dict[str, str]) -> None:
    notify = line(manager, **environ)
    notify.alive()
    notify.limit(120)
    assert heard(manager) == []


def test_the_start_is_extended_as_long_as_it_gets_on(manager: socket.socket) -> None:
    clock = ManualClock()
    notify = line(manager, clock)
    for _ in range(60):
        notify.extend_start(60)
        clock.advance(1)
    assert heard(manager) == ["EXTEND_TIMEOUT_USEC=60000000"] * 6


def test_what_is_granted_already_is_not_taken_back(manager: socket.socket) -> None:
    clock = ManualClock()
    notify = line(manager, clock)
    notify.extend_start(600)
    notify.extend_start(60)
    assert heard(manager) == ["EXTEND_TIMEOUT_USEC=600000000"]


def test_nobody_is_held_up_where_none_listens_or_nothing_is_read(
    manager: socket.socket, tmp_path: Path
) -> None:
    Notify({}).ready("alone")
    Notify({"NOTIFY_SOCKET": str(tmp_path / "nowhere")}).ready("alone")
    notify = line(manager)
    for _ in range(10_000):
        notify.status("x" * 100)
    assert heard(manager)
