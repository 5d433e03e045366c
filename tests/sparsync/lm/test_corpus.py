"""Corpora: what is found, how it is split, and a cache that survives races and damage."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sparsync.lm import corpus
from sparsync.lm.corpus import Prepared, default_cache_dir, find_files, prepare, split_of
from wire.errors import ConfigError, DataRefused, NoInput


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """A directory of 200 small distinct texts, with things beside them that are none."""
    root = tmp_path / "texts"
    (root / "deep").mkdir(parents=True)
    for i in range(200):
        (root / ("deep" if i % 2 else ".") / f"{i:03}.txt").write_text(f"text number {i}\n" * 20)
    (root / "copy-of-7.txt").write_bytes((root / "deep" / "007.txt").read_bytes())
    (root / "empty.txt").touch()
    (root / ".hidden").write_text("hidden")
    (root / "binary.dat").write_bytes(b"\x00\x01")
    return root


def split_files(root: Path, split: str) -> set[bytes]:
    contents = {path.read_bytes() for path in root.rglob("*.txt") if path.stat().st_size}
    return {c for c in contents if split_of(hashlib.sha256(c).hexdigest()) == split}


def test_files_are_split_by_hash_and_written_once(texts: Path, tmp_path: Path) -> None:
    prepared = prepare(str(texts), tmp_path / "cache")
    train, val = prepared.train.read_bytes(), prepared.val.read_bytes()
    assert prepared.documents == 200
    assert (prepared.train_tokens, prepared.val_tokens) == (len(train), len(val))
    assert set(train.split(b"\0")[:-1]) == split_files(texts, "train")
    assert set(val.split(b"\0")[:-1]) == split_files(texts, "val")
    assert 0 < len(val) < 0.2 * len(train)
    assert b"hidden" not in train + val


def test_the_digest_names_contents_not_places(texts: Path, tmp_path: Path) -> None:
    first = prepare(str(texts), tmp_path / "cache")
    moved = texts.rename(tmp_path / "elsewhere")
    second = prepare(str(moved), tmp_path / "other-cache")
    assert second.digest == first.digest
    (moved / "000.txt").write_text("changed")
    third = prepare(str(moved), tmp_path / "other-cache")
    assert third.digest != first.digest
    assert not third.reused


def test_a_second_call_reuses_the_first_one_s_files(texts: Path, tmp_path: Path) -> None:
    first = prepare(str(texts), tmp_path / "cache")
    written = first.train.stat().st_mtime_ns
    second = prepare(str(texts), tmp_path / "cache")
    assert (first.reused, second.reused) == (False, True)
    assert second.digest == first.digest
    assert second.train.stat().st_mtime_ns == written


@pytest.mark.parametrize("name", ["train.bin", "val.bin", "meta.json"])
@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_a_damaged_cache_is_noticed_and_rebuilt(texts: Path, tmp_path: Path, name: str, damage: str) -> None:
    first = prepare(str(texts), tmp_path / "cache")
    good = {n: (first.train.parent / n).read_bytes() for n in ("train.bin", "val.bin", "meta.json")}
    victim = first.train.parent / name
    if damage == "flip":
        # In the manifest the middle is inside a document's hash: valid JSON that tells something else.
        content = bytearray(good[name])
        middle = (
            content.index(b'"sha256": "', len(content) // 2) + 15
            if name == "meta.json"
            else len(content) // 2
        )
        content[middle] = ord("a") if content[middle] != ord("a") else ord("b")
        victim.write_bytes(content)
    elif damage == "truncate":
        victim.write_bytes(good[name][:-10])
    else:
        victim.unlink()
    second = prepare(str(texts), tmp_path / "cache")
    assert not second.reused
    assert second.digest == first.digest
    assert {n: (second.train.parent / n).read_bytes() for n in good} == good


def test_one_file_gives_its_last_bytes_to_validation(tmp_path: Path) -> None:
    text = tmp_path / "book.txt"
    text.write_bytes(bytes(range(1, 101)) * 100)
    prepared = prepare(str(text), tmp_path / "cache")
    assert prepared.train.read_bytes() + prepared.val.read_bytes() == text.read_bytes() + b"\0"
    assert prepared.val_tokens == pytest.approx(500, abs=1)


def test_a_killed_process_s_leftovers_do_no_harm(texts: Path, tmp_path: Path) -> None:
    target = prepare(str(texts), tmp_path / "cache").train.parent
    leftover = target.rename(target.with_name(f".{target.name}.partial"))
    prepared = prepare(str(texts), tmp_path / "cache")
    assert prepared.train.parent == target
    assert not leftover.exists()


def test_processes_that_prepare_at_once_agree(texts: Path, tmp_path: Path) -> None:
    code = (
        "import sys, json; from sparsync.lm.corpus import prepare;"
        "print(json.dumps(prepare(sys.argv[1], sys.argv[2]).as_json()))"
    )
    command = [sys.executable, "-c", code, str(texts), str(tmp_path / "cache")]
    cwd = Path(corpus.__file__).parents[2]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, cwd=cwd) for _ in range(4)]
    answers = [json.loads(process.communicate()[0]) for process in processes]
    assert all(process.returncode == 0 for process in processes)
    assert sorted(answer.pop("reused") for answer in answers) == [False, True, True, True]
    assert all(answer == answers[0] for answer in answers)


def test_unknown_sources_are_refused_with_the_nearest_name() -> None:
    with pytest.raises(NoInput, match=r"did you mean 'stdlib'.*sparsync data list"):
        prepare("stdlb")
    with pytest.raises(NoInput, match=r"/no/such/place.*expected one of stdlib"):
        prepare("/no/such/place")
    with pytest.raises(NoInput):
        prepare("")


def test_a_source_without_text_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "nothing.txt").touch()
    with pytest.raises(DataRefused, match="no text files"):
        prepare(str(empty), tmp_path / "cache")
    with pytest.raises(DataRefused, match="no text files"):
        prepare(str(empty / "nothing.txt"), tmp_path / "cache")
    (empty / "image.png").write_bytes(b"\x89PNG\x00")
    with pytest.raises(DataRefused, match="all of its 1 files are empty or binary"):
        prepare(str(empty), tmp_path / "cache")
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".lock"]


def test_a_cache_that_cannot_be_written_is_refused(texts: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"cannot write to .*; set data\.cache_dir"):
        prepare(str(texts), tmp_path / "file" / "cache")


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_an_unreadable_file_is_named(texts: Path, tmp_path: Path) -> None:
    (texts / "000.txt").chmod(0)
    with pytest.raises(DataRefused, match=r"cannot read .*000\.txt"):
        prepare(str(texts), tmp_path / "cache")


def test_stdlib_is_found_without_installed_packages() -> None:
    files = find_files("stdlib")
    names = [file.name for file in files]
    assert {"ast.py", "json/decoder.py"} <= set(names)
    assert names == sorted(names)
    assert all(file.size_bytes <= corpus.MAX_STDLIB_FILE_BYTES for file in files)
    assert not any("site-packages" in name for name in names)


def test_cache_directory_follows_the_environment() -> None:
    assert default_cache_dir({"XDG_CACHE_HOME": "/caches"}) == Path("/caches/sparsync/data")
    assert default_cache_dir({}) == Path.home() / ".cache/sparsync/data"


def test_as_json_is_plain() -> None:
    prepared = Prepared("stdlib", Path("/t"), Path("/v"), "d", 1, 2, 3, True)
    assert json.loads(json.dumps(prepared.as_json()))["train"] == "/t"
