"""What a shell is told when a person presses the tabulator."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sparsync.cli.completion import USE


def complete(environ: dict[str, str], *words: str) -> list[str]:
    """What bash would offer for the last of `words`."""
    asked = {
        "_SPARSYNC_COMPLETE": "bash_complete",
        "COMP_WORDS": " ".join(words),
        "COMP_CWORD": str(len(words) - 1),
    }
    command = [sys.executable, "-c", "from sparsync.cli import main; main()"]
    done = subprocess.run(
        command, env={**environ, **asked}, capture_output=True, text=True, timeout=60, check=True
    )
    return [line.partition(",")[2] for line in done.stdout.splitlines()]


def test_commands_options_choices_and_keys(environ: dict[str, str]) -> None:
    assert complete(environ, "sparsync", "re") == ["report"]
    assert "--published" in complete(environ, "sparsync", "export", "--")
    assert complete(environ, "sparsync", "completion", "z") == ["zsh"]
    assert complete(environ, "sparsync", "train", "-s", "sync.quo") == ["sync.quorum="]


@pytest.mark.parametrize("shell", USE)
def test_the_script_is_one_of_that_shell(shell: str, environ: dict[str, str], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sparsync", "completion", shell]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60, check=True)
    assert "_SPARSYNC_COMPLETE" in done.stdout
    if shutil.which(shell) is not None:
        (tmp_path / "script").write_text(done.stdout)
        subprocess.run([shell, "-n", str(tmp_path / "script")], check=True, timeout=30)
