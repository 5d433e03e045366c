"""A run as a picture, whatever of its status is known, on wide and narrow terminals."""

from __future__ import annotations

import io
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from sparsync.run_table import SERVER_COLUMNS, WORKER_COLUMNS, print_status, render
from tests.sparsync.statuses import ASYNC, SYNC


def drawn(status: dict[str, Any], *, width: int = 200, **options: Any) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(render(status, **options))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def words(line: str) -> str:
    return " ".join(line.split())


def headings(picture: str, first: str) -> list[str]:
    (line,) = (line for line in picture.splitlines() if line.startswith(f"{first} "))
    return line.split()


def test_a_synchronous_run() -> None:
    lines = drawn(SYNC, eta_s=125).splitlines()
    assert lines[0].strip() == "r1  mode sync  segment 0"
    assert lines[1].startswith("step 120/400") and lines[1].rstrip().endswith("running, 2:05 to go")
    assert words(lines[2]) == "loss 2.9134 validation 2.8700 (step 100) 18.2k tokens/s"
    assert words(lines[3]) == "sent 24.1 MB received 20.9 MB 24.0x fewer bytes than dense"
    assert words(lines[4]) == "worker state streams units s/unit tokens/s waiting beat"
    assert words(lines[5]) == "worker-0 computing 0 1 240 0.21 s 9.1k 7% 0.30 s"
    assert words(lines[6]) == "worker-1 dead – – – – – –"
    assert words(lines[7]) == "server shard address version blocks delta"
    assert words(lines[8]) == "ps-0 0 127.0.0.1:4001 120 390 7 B"


def test_an_elastic_run() -> None:
    lines = drawn(ASYNC).splitlines()
    assert lines[0].strip() == "r1  mode async  segment 2  switching to sync  slowest clock 117"
    assert lines[4].rstrip() == (
        "staleness █▂▁ 0 to 2, mean 0.21   3.25 units' worth given back   "
        "residuals of norm 0.125 lost with the dead   4 late units owed"
    )
    assert words(lines[5]) == (
        "worker state leased units s/unit tokens/s waiting stale sent received residual beat"
    )
    row = "worker-0 computing, straggler 36 240 0.21 s 9.1k 7% 0.208 12.0 MB 9.0 MB 1.75 0.30 s"
    assert words(lines[6]) == row
    assert " ".join(headings(drawn(ASYNC), "server")) == "server shard address version blocks delta"


@pytest.mark.parametrize("width", [60, 80, 100, 120, 200])
def test_a_narrow_terminal_goes_without_the_columns_that_matter_least(width: int) -> None:
    picture = drawn(ASYNC, width=width)
    kept = headings(picture, "worker")
    assert all(len(line) <= width for line in picture.splitlines())
    needed = [c.heading for c in WORKER_COLUMNS if not c.rank and c.heading != "streams"]
    assert [h for h in kept if h in needed] == needed
    spare = sorted((c.rank, c.heading) for c in WORKER_COLUMNS if c.rank)
    shown = [heading in kept for _, heading in spare]
    assert shown == sorted(shown, reverse=True), "the highest ranks go first"


def test_what_is_amiss_with_servers_is_told() -> None:
    servers = [
        {"name": "ps-0", "role": "primary", "away_s": 3.2, "in_sync": True},
        {"name": "ps-1", "role": "primary", "away_s": None, "in_sync": False},
        {"name": "ps-2", "role": "standby", "away_s": None, "in_sync": True},
        {"name": "ps-3", "role": "spare", "away_s": None},
    ]
    rows = [words(line) for line in drawn({"servers": servers}).splitlines() if line.startswith("ps-")]
    assert rows == [
        "ps-0 primary, away for 3.20 s",
        "ps-1 primary, not in sync",
        "ps-2 standby, in sync",
        "ps-3 spare",
    ]


def test_who_is_the_slowest_of_several() -> None:
    timed = [{"name": f"w{i}", "unit_s": s} for i, s in enumerate((0.2, 0.9, 0.3, None))]
    assert "s/unit 0.20 s to 0.90 s, median 0.30 s; slowest w1, 3.0 medians" in drawn({"workers": timed})
    assert "slowest" not in drawn({"workers": timed[:2]})


def test_plain_text_for_everyone_stands_at_the_top() -> None:
    assert drawn({**SYNC, "insecure": True}).splitlines()[1].startswith("insecure: plain text")
    assert "insecure" not in drawn(SYNC)


def test_names_are_no_markup() -> None:
    odd = {"workers": [{"name": "[bold]w[/]", "state": "[red]"}], "run": "[x]", "reason": "[y]", "state": "z"}
    assert "[bold]w[/]" in drawn(odd) and "[red]" in drawn(odd) and "z: [y]" in drawn(odd)


def test_a_long_list_of_workers_is_cut_where_it_is_told_to() -> None:
    many = {"workers": [{"name": f"worker-{i}"} for i in range(100)]}
    assert "… and 76 more" in drawn(many, max_rows=24) and "worker-24" not in drawn(many, max_rows=24)
    assert "worker-99" in drawn(many) and "more" not in drawn(many)


def test_a_worker_that_was_started_again_is_shown_once() -> None:
    twice = {"workers": [{"name": "worker-0", "state": "dead"}, {"name": "worker-0", "state": "computing"}]}
    assert drawn(twice).count("worker-0") == 1 and "dead" not in drawn(twice)


def test_a_file_gets_the_whole_picture(capsys: pytest.CaptureFixture[str]) -> None:
    print_status(ASYNC)
    out, err = capsys.readouterr()
    assert out == drawn(ASYNC) and "\x1b" not in out and err == ""


KEYS = [key for key in ASYNC if key not in ("workers", "servers", "staleness", "stragglers")]
VALUES = st.none() | st.integers(0, 10**12)


@given(st.dictionaries(st.sampled_from(KEYS), VALUES), st.booleans(), st.integers(20, 200))
def test_any_key_may_be_missing_or_null(status: dict[str, Any], rows: bool, width: int) -> None:
    if rows:
        status |= {
            "workers": [dict.fromkeys(ASYNC["workers"][0]), {}],
            "servers": [dict.fromkeys(ASYNC["servers"][0]), {}],
            "staleness": None,
            "stragglers": None,
        }
    assert drawn(status, width=width)


def test_columns_have_names_of_their_own() -> None:
    for columns in (WORKER_COLUMNS, SERVER_COLUMNS):
        assert len({c.heading for c in columns}) == len(columns)
        assert columns[0].rank == 0
