"""The end of a worker's process."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from worker import runtime

SIGNALS = (signal.SIGTERM, signal.SIGINT)


@pytest.fixture
def handlers() -> Iterator[None]:
    before = [signal.getsignal(number) for number in SIGNALS]
    yield
    for number, handler in zip(SIGNALS, before, strict=True):
        signal.signal(number, handler)


def test_once_the_script_has_ended_no_signal_changes_the_exit_code(handlers: None) -> None:
    """P17: service managers send SIGTERM again, and a shell to the whole group."""
    runtime._end_in_peace()
    for number in SIGNALS:
        assert signal.getsignal(number) is signal.SIG_IGN, (
            "what is ignored stays so while the interpreter ends"
        )
        os.kill(os.getpid(), number)
