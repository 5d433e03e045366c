"""`sparsync data`: data on standard output, exit codes, quick help."""

import json
from pathlib import Path

import pytest

from sparsync.cli import run


def test_list_names_what_prepare_takes(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["data", "list", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows] == ["stdlib"]
    assert run(["data", "list"]) == 0
    assert capsys.readouterr().out.startswith("stdlib ")


def test_prepare_prints_a_digest_and_reuses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = tmp_path / "text.txt"
    text.write_text("some text\n" * 100)
    arguments = ["data", "prepare", str(text), "--cache-dir", str(tmp_path / "cache")]
    assert run([*arguments, "--json"]) == 0
    prepared = json.loads(capsys.readouterr().out)
    assert Path(prepared["train"]).stat().st_size == prepared["train_tokens"]
    assert run(arguments) == 0
    shown = capsys.readouterr()
    assert prepared["digest"] in shown.out
    assert "found in the cache" in shown.err


def test_errors_have_their_exit_codes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["data", "prepare", "stdlb"]) == 66
    assert "did you mean 'stdlib'" in capsys.readouterr().err
    assert run(["data", "prepare", str(tmp_path), "--cache-dir", str(tmp_path / "cache")]) == 65
    assert "no text files" in capsys.readouterr().err
