"""A log as it is found: the format to the byte, torn tails, damage, and what is made of them."""

from __future__ import annotations

import re
import struct
import tempfile
from pathlib import Path

import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from ps.log import Log, read_tail
from ps.log_files import list_files
from ps.log_format import Kind, build_file_header, build_header
from tests.ps.logs import Placed, Told, contents, open_log, parse, write_batches
from wire.errors import DamagedFile

PAGE = Path(__file__).resolve().parents[2] / "docs" / "log.md"
FIRST = "00000000000000000001.log"


def hexdump(data: bytes) -> str:
    lines = []
    for at in range(0, len(data), 16):
        part = data[at : at + 16]
        text = "".join(chr(b) if 32 <= b < 127 else "." for b in part)
        lines.append(f"{at:04x}  {part.hex(' '):<47}  {text}\n")
    return "".join(lines)


# --- the format ----------------------------------------------------------------------------------


def test_a_small_file_is_the_worked_example(tmp_path: Path) -> None:
    assert write_batches(tmp_path, [[b"hello"], [b""]], after=6) == [b"hello", b""]
    (path,) = tmp_path.iterdir()
    assert path.name == "00000000000000000007.log"
    (example,) = re.findall(
        r"^```hex\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )
    assert hexdump(path.read_bytes()) == example


def test_a_parser_written_from_the_page_reads_it(tmp_path: Path) -> None:
    write_batches(tmp_path, [[b"a", b"bc", b"def"], [b"g"]])
    assert parse((tmp_path / FIRST).read_bytes()) == [
        Placed(24, 1, 1, 0, 65),
        Placed(65, 1, 2, 1, 107),
        Placed(107, 1, 3, 1, 150),
        Placed(150, 1, 4, 3, 191),
        Placed(191, 2, 4, 4, 231),
    ]


# --- torn and damaged: any byte --------------------------------------------------------------------

batches = st.lists(st.lists(st.binary(max_size=60), min_size=1, max_size=4), min_size=1, max_size=5)


@settings(deadline=None, max_examples=60)
@given(batches=batches, cut=st.floats(0, 1), preallocated=st.booleans())
def test_a_cut_leaves_a_prefix(batches: list[list[bytes]], cut: float, preallocated: bool) -> None:
    """Cut anywhere, a log reads as a prefix, opens, and goes on behind it."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        written = write_batches(directory, batches, segment_bytes=400)
        files = list_files(directory)
        found = [(file.path, file.path.read_bytes()) for file in files]
        left = int(cut * sum(len(data) for _, data in found))
        expected = 0
        for path, data in found:
            kept = data[: max(left, 0)]
            left -= len(data)
            now = kept + bytes(len(data) - len(kept) if preallocated else 0)
            records = [item for item in parse(data) if item.kind == Kind.RECORD]
            expected += sum(
                data[r.offset : r.end] == now[r.offset : r.end] for r in records
            )  # cut zeros come back
            path.write_bytes(now)
            if not kept:
                path.unlink()
        assert contents(directory) == written[:expected]
        goes_on(directory, written[:expected])


def goes_on(directory: Path, before: list[bytes]) -> None:
    log = open_log(directory, Told(), after=len(before), segment_bytes=400)
    log.append([b"next"])
    log.close()
    assert contents(directory) == [*before, b"next"]


@settings(deadline=None, max_examples=150)
@given(batches=batches, data=st.data())
def test_a_flipped_bit_is_found_wherever_it_matters(batches: list[list[bytes]], data: st.DataObject) -> None:
    """Never a wrong or a reordered record; damage if a later record or mark proves that the record was durable."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        written = write_batches(directory, batches, segment_bytes=400)
        files = list_files(directory)
        which = data.draw(st.integers(0, len(files) - 1), label="file")
        path = files[which].path
        whole = path.read_bytes()
        if data.draw(st.booleans(), label="without the mark"):  # killed before it was written
            whole = whole[: parse(whole)[-2].end] if len(parse(whole)) > 1 else whole
        at = data.draw(st.integers(0, len(whole) - 1), label="offset")
        bit = data.draw(st.integers(0, 7), label="bit")
        items = parse(whole)
        path.write_bytes(flipped(whole, at, bit))
        hit = next((item for item in items if item.offset <= at < item.end), None)
        if hit is None:
            proven = True
        elif hit.kind == Kind.MARK:
            proven = False
        else:
            later = max((item.durable for item in items if item.offset > hit.offset), default=0)
            proven = which < len(files) - 1 or later >= hit.position
        if proven:
            with pytest.raises(DamagedFile, match=rf"{path.name}: offset {hit.offset if hit else 0}: "):
                contents(directory)
            with pytest.raises(DamagedFile) if path == files[-1].path else pytest.raises(ValueError):
                open_log(directory, Told(), after=0)
            assert path.read_bytes() == flipped(whole, at, bit), "damage is never trimmed"
        elif hit is not None:
            expected = hit.position if hit.kind == Kind.MARK else hit.position - 1
            expected = len(written) if which < len(files) - 1 else expected
            assert contents(directory) == written[:expected]
            goes_on(directory, written[:expected])


def flipped(data: bytes, at: int, bit: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :]


def test_every_bit_of_what_is_durable_is_covered(tmp_path: Path) -> None:
    """After a clean close, or whenever a mark stands behind: not one flip goes by."""
    write_batches(tmp_path, [[b"ab", b"c"], [b"d"]])
    path = tmp_path / FIRST
    whole = path.read_bytes()
    mark = parse(whole)[-1]
    for at in range(mark.offset):
        for bit in range(8):
            path.write_bytes(flipped(whole, at, bit))
            with pytest.raises(DamagedFile):
                contents(tmp_path)


# --- what a crash leaves ---------------------------------------------------------------------------


def file_of(first: int, *records: tuple[int, bytes]) -> bytes:
    """A file of (durable, payload)."""
    data = build_file_header(first)
    for number, (durable, payload) in enumerate(records):
        header = build_header(Kind.RECORD, first + number, durable, [memoryview(payload)], offset=len(data))
        data += header + payload
    return data


@pytest.mark.parametrize("hole", ["zeros", "garbage"])
def test_an_unacknowledged_batch_may_reach_the_disk_in_any_order(tmp_path: Path, hole: str) -> None:
    whole = bytearray(file_of(1, (0, b"first"), (1, b"second"), (1, b"third"), (1, b"fourth")))
    second = 24 + 45
    whole[second : second + 46] = bytes(46) if hole == "zeros" else b"\xa5" * 46
    (tmp_path / FIRST).write_bytes(whole + bytes(5000))
    assert contents(tmp_path) == [b"first"]
    goes_on(tmp_path, [b"first"])


@pytest.mark.parametrize("hole", ["zeros", "garbage"])
def test_a_hole_in_what_was_durable_is_damage(tmp_path: Path, hole: str) -> None:
    whole = bytearray(file_of(1, (0, b"first"), (1, b"second"), (1, b"third"), (2, b"fourth")))
    second = 24 + 45
    whole[second : second + 46] = bytes(46) if hole == "zeros" else b"\xa5" * 46
    (tmp_path / FIRST).write_bytes(whole + bytes(5000))
    with pytest.raises(
        DamagedFile, match=f"{FIRST}: offset 69: no valid record, though what stands at offset 160"
    ):
        contents(tmp_path)


def test_proof_is_found_across_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = bytearray(file_of(1, (0, b"first"), (1, bytes(300)), (2, b"third")))
    whole[30] ^= 1
    (tmp_path / FIRST).write_bytes(whole)
    for size in range(4, 90):
        monkeypatch.setattr("ps.log_files.CHUNK_BYTES", size)
        with pytest.raises(DamagedFile, match=f"{FIRST}: offset 24: "):
            contents(tmp_path)


def test_a_payload_that_quotes_a_log_proves_nothing(tmp_path: Path) -> None:
    quoted = file_of(1, (0, b"first"), (1, b"second"), (2, b"third"))
    whole = file_of(1, (0, b"first"), (1, quoted))
    (tmp_path / FIRST).write_bytes(whole[:-1] + b"?")
    assert contents(tmp_path) == [b"first"]


def test_stale_records_behind_the_start_of_the_next_file_do_not_count(tmp_path: Path) -> None:
    """A torn tail was cut off, but the cut did not reach the disk before the power went."""
    (tmp_path / FIRST).write_bytes(file_of(1, (0, b"first"), (1, b"stale"), (1, b"stale too")))
    (tmp_path / f"{2:020}.log").write_bytes(file_of(2, (1, b"second"), (2, b"third")))
    assert contents(tmp_path) == [b"first", b"second", b"third"]


def test_the_torn_tail_is_cut_off_and_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    whole = file_of(1, (0, b"first"), (1, b"second"))
    (tmp_path / FIRST).write_bytes(whole[:-2] + bytes(900))
    log = open_log(tmp_path, Told(), after=1)
    log.close()
    assert caplog.messages == [f"{tmp_path / FIRST}: torn tail cut off at offset 69: 44 bytes"]
    assert [(p.kind, p.position, p.durable) for p in parse((tmp_path / FIRST).read_bytes())] == [
        (1, 1, 0),
        (2, 1, 1),
    ]


def test_a_log_without_a_torn_tail_says_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_batches(tmp_path, [[b"a"], [b"b"]])
    open_log(tmp_path, Told(), after=2).close()
    (tmp_path / f"{3:020}.log").write_bytes(file_of(3, (2, b"c")) + bytes(900))
    open_log(tmp_path, Told(), after=3).close()
    assert caplog.messages == []


@pytest.mark.parametrize("size", [0, 10, 23, 24, 500])
def test_a_file_that_was_only_begun_is_none(tmp_path: Path, size: int) -> None:
    write_batches(tmp_path, [[b"a"], [b"b"]])
    (tmp_path / f"{3:020}.log").write_bytes(bytes(size) if size != 24 else build_file_header(3))
    assert contents(tmp_path) == [b"a", b"b"]
    goes_on(tmp_path, [b"a", b"b"])


def test_half_made_files_are_removed(tmp_path: Path) -> None:
    (tmp_path / "spare").write_bytes(b"x")
    (tmp_path / "spare.large").write_bytes(b"x")
    open_log(tmp_path, Told()).close()
    assert list(tmp_path.iterdir()) == []


# --- files ---------------------------------------------------------------------------------------


def three_files(directory: Path) -> list[Path]:
    write_batches(directory, [[bytes([n]) * 160] for n in range(10)], segment_bytes=1000)
    return [file.path for file in list_files(directory)]


def test_a_missing_file_in_the_middle_is_damage(tmp_path: Path) -> None:
    one, two, three = three_files(tmp_path)
    two.unlink()
    with pytest.raises(
        DamagedFile, match=f"{one.name}: offset 824: no valid record, but {three.name} follows, expected"
    ):
        contents(tmp_path)


def test_a_missing_file_at_the_start_is_damage_if_it_is_needed(tmp_path: Path) -> None:
    one, two, _ = three_files(tmp_path)
    one.unlink()
    with pytest.raises(DamagedFile, match=f"begins with {two.name}, expected a file that has record 4;"):
        contents(tmp_path, 3)
    assert len(contents(tmp_path, 4)) == 6


def test_files_that_are_not_needed_are_not_looked_at(tmp_path: Path) -> None:
    one, _, _ = three_files(tmp_path)
    one.write_bytes(b"damaged")
    assert len(contents(tmp_path, 4)) == 6


def test_a_file_under_another_name_is_damage(tmp_path: Path) -> None:
    _, two, three = three_files(tmp_path)
    two.write_bytes(three.read_bytes())
    with pytest.raises(DamagedFile, match=f"{two.name}: offset 0: first position 9, expected 5 by its name"):
        contents(tmp_path)


def test_another_version_is_named(tmp_path: Path) -> None:
    write_batches(tmp_path, [[b"a"]])
    whole = bytearray((tmp_path / FIRST).read_bytes())
    bare = struct.pack("<4sB3xQ", b"SPLF", 2, 1)
    whole[:16] = bare
    whole[16:24] = xxhash.xxh3_64_intdigest(bare).to_bytes(8, "little")
    (tmp_path / FIRST).write_bytes(whole)
    with pytest.raises(DamagedFile, match="format b'SPLF' version 2, expected b'SPLF' version 1"):
        contents(tmp_path)


def test_an_empty_directory_has_no_records(tmp_path: Path) -> None:
    assert contents(tmp_path) == contents(tmp_path, 5) == contents(tmp_path / "none") == []


def test_reading_is_lazy(tmp_path: Path) -> None:
    three_files(tmp_path)
    tail = read_tail(tmp_path, 2)
    assert next(tail)[0] == 3
    tail.close()  # type: ignore[attr-defined]


def test_a_length_is_not_trusted(tmp_path: Path) -> None:
    whole = bytearray(file_of(1, (0, b"first")))
    whole[32:40] = (1 << 62).to_bytes(8, "little")
    (tmp_path / FIRST).write_bytes(whole)
    assert contents(tmp_path) == []
    log: Log = open_log(tmp_path, Told())
    log.close()
