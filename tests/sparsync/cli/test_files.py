"""Files and directories that the system refuses: a line that names them, and the exit code that says why."""

from __future__ import annotations

import errno
import os

import pytest

from sparsync.cli import root, run


@pytest.mark.parametrize(
    ("number", "code", "advice"),
    [
        (errno.EACCES, 77, "open to user"),
        (errno.EROFS, 77, "open to user"),
        (errno.ENOENT, 66, "a path that is given is wrong"),
        (errno.ENOSPC, 73, "make room"),
    ],
)
def test_what_the_system_refuses_is_no_fault_of_ours(
    number: int, code: int, advice: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(**_: object) -> None:
        raise OSError(number, os.strerror(number), "/data/x")

    monkeypatch.setattr(root, "main", refuse)
    assert run(["status"]) == code
    told = capsys.readouterr().err
    assert told.startswith(f"error: /data/x: {os.strerror(number)}; ") and advice in told


@pytest.mark.parametrize(
    ("error", "command"),
    [
        (OSError(errno.EACCES, "no"), "status"),
        (OSError(errno.EIO, "no", "/data/x"), "status"),
        (OSError(errno.EACCES, "no", "/data/x"), "ps"),
    ],
)
def test_any_other_error_goes_up_with_its_traceback(
    error: OSError, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(**_: object) -> None:
        raise error

    monkeypatch.setattr(root, "main", fail)
    with pytest.raises(OSError, match="no"):
        run([command])
