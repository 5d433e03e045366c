"""Handshakes that fail, in the audit log: gRPC tells of them on standard error, and nowhere else.

What native code writes to standard error passes through a pipe. Every line goes on to where it would have gone;
what it says of a handshake is written down as well. Python's own log goes past the pipe, so that nothing of it waits
for this thread or is lost with it.

| thread       | owns              | blocks on              |
|--------------|-------------------|------------------------|
| handshakes   | the pipe's end    | lines of native code   |
"""

from __future__ import annotations

import logging
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BufferedWriter, FileIO, TextIOWrapper
from typing import Any, TextIO

from wire.rpc.audit import Audit

FAILED = re.compile(r"Handshake failed with error (?:SSL_ERROR_\w+: )?(?:error:\w+:)?(?P<reason>.+)")
METHOD = "(TLS handshake)"
"""In the place of a method: there was no call yet."""
STANDARD_ERROR = 2
MOST_BYTES = 1 << 16


def reason_of(line: str) -> str | None:
    """Why a handshake failed, where a line of gRPC's log tells of one."""
    found = FAILED.search(line)
    return found["reason"].strip() if found else None


@contextmanager
def told_handshakes(audit: Audit) -> Iterator[None]:
    """Within, `audit` has a line of every handshake that fails in this process, whoever began it."""
    unknown = dict.fromkeys(("who", "role", "serial", "from", "error"), "")

    def tell(line: str) -> None:
        if (reason := reason_of(line)) is not None:
            told = {"method": METHOD, "result": "refused", "code": "UNAVAILABLE", "reason": reason}
            audit.refuse(unknown | told)

    own = os.dup(STANDARD_ERROR)
    reading, writing = os.pipe()
    os.dup2(writing, STANDARD_ERROR)
    os.close(writing)
    thread = threading.Thread(target=_copy, args=(reading, own, tell), name="handshakes", daemon=True)
    thread.start()
    try:
        with _python_writes_to(own):
            yield
    finally:
        os.dup2(own, STANDARD_ERROR)  # the pipe has no other writer: its reader ends
        thread.join()
        os.close(reading)
        os.close(own)


def _copy(reading: int, own: int, tell: Callable[[str], None]) -> None:
    """Hand on what comes, and tell its lines, to the end: native code would wait for whoever reads no more."""
    rest = b""
    out = _dropping(own)
    while data := os.read(reading, MOST_BYTES):
        out.write(data)
        out.flush()
        *lines, rest = (rest + data).split(b"\n")
        rest = rest[-MOST_BYTES:]
        for line in lines:
            tell(line.decode(errors="replace"))


@contextmanager
def _python_writes_to(descriptor: int) -> Iterator[None]:
    """`sys.stderr`, and whatever logs to it, is this file within."""
    before = sys.stderr
    with TextIOWrapper(_dropping(descriptor), errors="backslashreplace", line_buffering=True) as stream:
        sys.stderr = stream
        handlers = _redirect(before, stream)
        try:
            yield
        finally:
            sys.stderr = before
            for handler in handlers:
                handler.setStream(before)


class _Dropping(FileIO):
    """What cannot be written, on a full disk or to a reader that went, is dropped: nobody fails or waits for it."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data) or len(data)  # None where it would have to wait
        except OSError:
            return len(data)


def _dropping(descriptor: int) -> BufferedWriter:
    return BufferedWriter(_Dropping(descriptor, "w", closefd=False))


def _redirect(before: TextIO, stream: TextIO) -> list[logging.StreamHandler[TextIO]]:
    own = [
        h for h in logging.getLogger().handlers if isinstance(h, logging.StreamHandler) and h.stream is before
    ]
    for handler in own:
        handler.setStream(stream)
    return own
