"""A server that was killed at any moment is what it was, for all that it had told anybody (P1, P2, P11)."""

from __future__ import annotations

import errno
import random
import shutil
import threading
from pathlib import Path

import pytest

from ps import recovery
from ps.log_files import list_files
from ps.records import Deposit, Mark, Record
from ps.recovery import load_identity, recover, save_identity
from ps.snapshots import Snapshots
from ps.terms import TermGuard
from tests.ps.histories import ARRIVAL, EXACT, NAMED, History, outcome
from tests.ps.lives import Life, digest_of, replayed
from tests.ps.serving import ROOM, identity_of, owning, play
from tests.ps.test_holdings import CODECS, config_of
from wire.errors import Busy, DamagedFile
from wire.ids import Term

CODEC_NAMES = sorted(CODECS)
KINDS = (EXACT, NAMED, ARRIVAL)


def history_of(seed: int) -> History:
    return History(seed, config_of(CODECS[CODEC_NAMES[seed % len(CODEC_NAMES)]]), kind=KINDS[seed % 3])


async def first_life(life: Life, history: History, *, records: int, level: str = "os") -> None:
    async with owning(life.home, room=ROOM, level=level) as owner:
        owner.configure(history.spec, lambda: history.holdings(life.home))
        await owner.begin()
        life.begun = True
        life.witness(owner)
        await life.live(owner, history, records=records)
        life.die("in the end")


def test_recovery_tells_of_each_record_that_it_has_replayed(tmp_path: Path) -> None:
    """As its service manager waits for: an image, then one record after the other."""
    history = history_of(1)
    life = Life(tmp_path / "life", [], random.Random(1))
    play(first_life(life, history, records=20, level="os"))
    told: list[None] = []
    recovered = recover(life.home, progressed=lambda: told.append(None))
    assert recovered is not None
    image = Snapshots(life.home).newest_good(print)
    assert image is not None
    assert len(told) == 1 + recovered.position - image[0]


async def next_life(life: Life, history: History, *, records: int, level: str) -> None:
    recovered = recover(life.home)
    assert recovered is not None
    async with owning(life.home, room=ROOM, level=level) as owner:
        owner.adopt(recovered, recovered.holdings.identity, replicas=0)
        life.witness(owner)
        await owner.serve()
        await life.live(owner, history, records=records)
        life.die("in the end")


@pytest.mark.parametrize("seed", range(6))
def test_a_shard_comes_back_as_it_was(seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three lives; each begins with one of the deaths of the one before, and each death is looked at."""
    rnd, history, level = random.Random(seed), history_of(seed), "os" if seed % 2 else "disk"
    life = Life(tmp_path / "life-0", [], rnd)
    with life.watched(monkeypatch):
        play(first_life(life, history, records=60, level=level))
    for number in (1, 2):
        for death in life.deaths:
            recovered = recover(death.directory)
            assert recovered is not None, death
            assert death.revealed <= recovered.position <= len(life.records), death
            records = life.records[: recovered.position]
            undisturbed = replayed(history, records, tmp_path / "undisturbed")
            assert digest_of(recovered.holdings) == digest_of(undisturbed), death
            for record in life.records[recovered.position :][:10]:
                assert outcome(recovered.holdings, record) == outcome(undisturbed, record), death
        death = rnd.choice(life.deaths)
        shutil.rmtree(life.home)
        home = Path(shutil.copytree(death.directory, tmp_path / f"life-{number}"))
        found = recover(home)
        assert found is not None
        life = Life(home, life.records[: found.position], rnd, revealed=death.revealed, begun=True)
        with life.watched(monkeypatch):
            play(next_life(life, history, records=40, level=level))
    assert len(life.records) > found.position, "it went on"


def test_a_log_without_a_tail_is_the_image(tmp_path: Path) -> None:
    history = history_of(0)
    life = Life(tmp_path / "life", [], random.Random(0))
    play(first_life(life, history, records=0))
    recovered = recover(life.home)
    assert recovered is not None and recovered.position == 0
    assert digest_of(recovered.holdings) == digest_of(history.holdings(tmp_path / "new"))


def test_nothing_is_nothing(tmp_path: Path) -> None:
    assert recover(tmp_path) is None
    assert load_identity(tmp_path) is None


def test_who_a_server_was_is_kept(tmp_path: Path) -> None:
    identity = identity_of()
    save_identity(tmp_path, identity)
    assert load_identity(tmp_path) == (identity.run, identity.timeline, identity.incarnation)


def marked(tmp_path: Path) -> tuple[Path, History, list[Record]]:
    """A server with two images and a log behind both."""
    history = history_of(1)
    life = Life(tmp_path / "marked", [], random.Random(1))

    async def whole() -> None:
        async with owning(life.home, room=ROOM) as owner:
            owner.configure(history.spec, lambda: history.holdings(life.home))
            await owner.begin()
            life.witness(owner)
            for _ in range(2):
                await life.live(owner, history, records=15)
                await owner.apply(Mark())
                saving = owner.archive._saving
                assert saving is not None
                saving.result(30)
            await life.live(owner, history, records=15)

    play(whole())
    return life.home, history, life.records


def damage(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 0x40
    path.write_bytes(data)


def test_a_damaged_image_costs_a_longer_replay(tmp_path: Path) -> None:
    home, history, records = marked(tmp_path)
    newest = max((home / "snapshots").glob("*.image"))
    damage(newest, newest.stat().st_size // 2)
    recovered = recover(home)
    assert recovered is not None and recovered.position == len(records)
    assert digest_of(recovered.holdings) == digest_of(replayed(history, records, tmp_path / "undisturbed"))


@pytest.mark.parametrize("where", ["every image", "the log"])
def test_less_than_was_acknowledged_is_not_served(tmp_path: Path, where: str) -> None:
    home, _, records = marked(tmp_path)
    if where == "every image":
        hurt = sorted((home / "snapshots").glob("*.image"))
        for path in hurt:
            damage(path, path.stat().st_size - 9)
    else:
        hurt = [list_files(home / "log")[-1].path]
        damage(hurt[0], hurt[0].stat().st_size // 2)
    with pytest.raises(DamagedFile, match=hurt[0].name):
        recover(home)
    assert records


def full_at(monkeypatch: pytest.MonkeyPatch, times: int) -> list[Path]:
    """The disk has no room for the next so many deposits; the files that were tried."""
    tried: list[Path] = []
    write = Path.write_bytes

    def no_room(path: Path, data: bytes) -> int:
        if "streams" in path.parts:
            tried.append(path)
            if len(tried) <= times:
                raise OSError(errno.ENOSPC, "No space left on device")
        return write(path, data)

    monkeypatch.setattr(Path, "write_bytes", no_room)
    monkeypatch.setattr(recovery, "FULL_RETRY_S", 0.01)
    return tried


@pytest.mark.parametrize("times", [1, 3, 6])
def test_a_full_disk_is_waited_for(times: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the replay writes beside the log finds no room: in the image, or in a record; it is the same state."""
    history = History(1, config_of(CODECS[CODEC_NAMES[0]]), kind=EXACT)
    life = Life(tmp_path / "life", [], random.Random(0))
    play(first_life(life, history, records=80))
    assert any(isinstance(record, Deposit) for record in life.records)
    expected = digest_of(replayed(history, life.records, tmp_path / "undisturbed"))
    tried = full_at(monkeypatch, times)
    recovered = recover(life.home)
    assert recovered is not None and len(tried) > times
    assert digest_of(recovered.holdings) == expected


def test_who_is_asked_to_end_waits_for_no_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    history = History(1, config_of(CODECS[CODEC_NAMES[0]]), kind=EXACT)
    life = Life(tmp_path / "life", [], random.Random(0))
    play(first_life(life, history, records=80))
    full_at(monkeypatch, 1_000_000)
    ended = threading.Event()
    threading.Timer(0.2, ended.set).start()
    with pytest.raises(Busy, match="the disk is full"):
        recover(life.home, ended=ended)
    monkeypatch.undo()
    assert recover(life.home) is not None


# --- what is nobody's any more --------------------------------------------------------------------


def left_behind(path: Path) -> Path:
    """The directory of a server that was killed, and had obeyed a term."""
    history, life = history_of(1), Life(path / "life", [], random.Random(1))
    play(first_life(life, history, records=20))
    save_identity(life.home, identity_of())
    TermGuard(life.home / "term.json").obey(Term(7, b"a"), 9)
    return life.home


async def clear(home: Path) -> None:
    async with owning(home) as owner:
        await owner.clear()


def test_a_server_that_joins_with_nothing_has_obeyed_nobody(tmp_path: Path) -> None:
    """As one with an empty directory: the same timeline may be begun once more, by another coordinator."""
    home = left_behind(tmp_path)
    play(clear(home))
    TermGuard(home / "term.json").obey(Term(1, b"b"), 1)
    assert recover(home) is None and load_identity(home) is None
    assert {path.name for path in home.iterdir()} == {"log", "snapshots", "term.json"}
    assert not list(home.glob("log/*")) and not list(home.glob("snapshots/*"))


def test_whom_it_obeyed_is_known_as_long_as_anything_of_the_shard_is_there(tmp_path: Path) -> None:
    home = left_behind(tmp_path)
    (home / "snapshots" / "held").mkdir()
    with pytest.raises(IsADirectoryError):
        play(clear(home))
    assert TermGuard(home / "term.json").term == Term(7, b"a")


def test_nothing_stays_of_a_run_that_is_over(tmp_path: Path) -> None:
    home = left_behind(tmp_path)

    async def end() -> None:
        recovered = recover(home)
        assert recovered is not None
        async with owning(home) as owner:
            owner.adopt(recovered, identity_of(), replicas=0)
        owner.close(forget=True)

    play(end())
    assert [path for path in home.rglob("*") if path.is_file()] == []
