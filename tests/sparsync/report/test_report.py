"""What a report tells of a run: who was there when, what went wrong, how fast it went; any events make a page."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsync.cli import run
from sparsync.plot import read_losses
from sparsync.report import figures
from sparsync.report.history import AWAY, HERE, MISHAPS, History, Stretch, read_history
from sparsync.report.page import html
from sparsync.run_directory import RunDirectory

SVG = "{http://www.w3.org/2000/svg}"
Event = dict[str, Any]


def event(s: float, kind: str, **fields: Any) -> Event:
    return {"t": "2026-11-22T16:51:38.135Z", "s": s, "event": kind, **fields}


def step(s: float, number: int, tokens: int = 100) -> Event:
    return event(s, "step", step=number, loss=3.0 - number / 10, samples=4, tokens=tokens)


def totals(s: float, pushed: int, **staleness: int) -> Event:
    histogram = {key.removeprefix("_"): count for key, count in staleness.items()}
    return event(s, "totals", step=0, bytes_pushed=pushed, bytes_pulled=2 * pushed, staleness=histogram)


STORY = [
    event(0, "began", run="r1", timeline=1),
    event(1, "joined", name="ps-0", role="ps"),
    event(2, "joined", name="worker-0", role="worker"),
    event(3, "joined", name="worker-1", role="worker"),
    event(4, "begun", workers=2, step=0),
    step(5, 0),
    totals(5, 1000, _0=4),
    event(6, "died", name="worker-1", reason="its heartbeats ended", streams=[2, 3]),
    event(7, "server_away", name="ps-0", shard=0, reason="its line is broken"),
    event(9, "server_back", name="ps-0", shard=0, seconds=2.0),
    event(10, "joined", name="worker-1", role="worker"),
    step(12, 1),
    totals(12, 3000, _0=6, _2=2),
    event(13, "contributed", name="worker-0", incarnation=1, units=8, unit_s=0.5, wait_share=0.25),
    event(14, "ended", reason="all steps are done", error="", step=2),
    event(15, "left", name="worker-0", reason="all steps are done"),
]


def test_who_was_in_the_run_when() -> None:
    history = read_history(STORY)
    worker, server = history.processes["worker-1"], history.processes["ps-0"]
    assert worker.stretches == [Stretch(HERE, 3, 6), Stretch(HERE, 10, 14)]
    assert worker.joins == 2 and not worker.present
    assert server.stretches == [Stretch(HERE, 1, 7), Stretch(AWAY, 7, 9), Stretch(HERE, 9, 14)]
    assert history.processes["coordinator"].stretches == [Stretch(HERE, 0, 14)]
    assert history.crew == [(1, 0), (2, 1), (3, 2), (6, 1), (10, 2), (15, 0)]


def test_what_went_wrong_and_not_how_it_ended() -> None:
    history = read_history(STORY)
    assert [(m.at_s, m.kind, m.who) for m in history.mishaps] == [
        (6, "died", "worker-1"),
        (7, "server away", "ps-0"),
        (9, "server back", "ps-0"),
    ]
    assert history.mishaps[0].words == "its heartbeats ended; streams 2 3 go to others"
    assert history.ended == "all steps are done"


def test_a_rate_is_tokens_over_the_time_since_the_step_before() -> None:
    points = figures.rate_points(read_history(STORY))
    assert all(rate == pytest.approx(100 if s < 5 else 100 / 7) for s, rate in points if abs(s - 5) > 0.1)
    many = [event(0, "begun"), *(step(1 + i, i) for i in range(1000))]
    points = figures.rate_points(read_history(many))
    assert len(points) == figures.MAX_POINTS and all(rate == pytest.approx(100) for _, rate in points)


MICROSECONDS = st.integers(0, 10**8).map(lambda number: number / 1e6)


@given(st.lists(st.tuples(MICROSECONDS, st.integers(0, 1000)), min_size=2, max_size=50))
def test_no_token_is_lost_between_stretches(told: list[tuple[float, int]]) -> None:
    ordered = sorted(told)
    history = read_history(
        [event(0, "begun"), *(step(s, i, tokens) for i, (s, tokens) in enumerate(ordered))]
    )
    points = figures.rate_points(history)
    wide = ordered[-1][0] / figures.MAX_POINTS
    total = sum(tokens for _, tokens in told)
    assert not points or sum(rate * wide for _, rate in points) == pytest.approx(total)


def test_a_stall_shows_as_a_valley() -> None:
    stalled = [event(0, "begun"), step(1, 0), step(2, 1), step(62, 2), step(63, 3)]
    assert min(rate for _, rate in figures.rate_points(read_history(stalled))) == pytest.approx(100 / 60)


def test_staleness_over_time_is_of_what_was_settled_since() -> None:
    assert figures.mean_staleness(read_history(STORY)) == [(5, 0.0), (12, 1.0)]


def test_a_resume_goes_on_where_the_timeline_before_ended() -> None:
    again = [
        event(0, "began", run="r1", timeline=2),
        event(1, "joined", name="worker-0", role="worker"),
        totals(3, 500),
    ]
    history = read_history([*STORY, *again])
    assert history.timelines == 2 and history.end_s == 18
    assert history.processes["worker-0"].stretches[-1] == Stretch(HERE, 16)
    assert history.figures[-1]["bytes_pushed"] == 3500 and history.ended == ""
    assert history.mishaps[-1].kind == "resumed"


def test_bytes_never_fall_while_a_coordinator_that_is_back_hears_of_them() -> None:
    history = read_history(
        [*STORY[:-3], event(13, "reopened", address="a:1"), totals(14, 0), totals(19, 3200)]
    )
    assert [figure["bytes_pushed"] for figure in history.figures] == [1000, 3000, 3000, 3200]
    assert history.processes["coordinator"].joins == 2


def test_of_many_processes_those_with_a_story_are_drawn() -> None:
    joined = [event(i, "joined", name=f"worker-{i}", role="worker") for i in range(200)]
    history = read_history([*joined, event(300, "died", name="worker-150", reason="x")])
    names = [process.name for process in figures.drawn(history)]
    assert len(names) == figures.MAX_ROWS and "worker-150" in names
    assert names.index("worker-9") < names.index("worker-10")


# --- the page ------------------------------------------------------------------------------------


class Outline(HTMLParser):
    """Headings, and whether anything outside the file is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.headings: list[str] = []
        self.outside: list[str] = []
        self._within = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._within = tag
        self.outside += [v or "" for k, v in attrs if k in ("src", "href", "srcset")]
        self.outside += [tag] if tag in ("script", "link", "iframe") else []

    def handle_data(self, data: str) -> None:
        if self._within == "h2" and data.strip():
            self.headings.append(data.strip())


def page_of(directory: Path, events: list[Event]) -> str:
    return html(RunDirectory(directory), read_history(events), read_losses(events))


def test_the_page_needs_no_other_file(tmp_path: Path) -> None:
    (tmp_path / "summary.json").write_text(
        json.dumps({"run": "r1", "mode": "sync", "staleness": {"0": 6, "2": 2}})
    )
    (tmp_path / "config.toml").write_text("[run]\nseed = 1\n")
    text = page_of(tmp_path, STORY)
    outline = Outline()
    outline.feed(text)
    sections = [
        "Loss",
        "Rates",
        "Members",
        "Staleness",
        "Bytes",
        "Workers",
        "Faults",
        "Configuration",
        "Summary",
    ]
    assert outline.headings == sections and outline.outside == []
    assert "streams 2 3 go to others" in text and "seed = 1" in text


def test_a_run_that_was_quiet_says_so(tmp_path: Path) -> None:
    text = page_of(tmp_path, [event(0, "began", run="r1", timeline=1), event(1, "begun")])
    assert "Nothing went wrong" in text and "no summary yet" in text


def test_names_and_reasons_are_no_markup(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>"
    text = page_of(
        tmp_path, [event(1, "joined", name=evil, role="worker"), event(2, "died", name=evil, reason=evil)]
    )
    assert "<script" not in text


numbers = st.integers(-5, 10**9) | st.floats(allow_nan=False, allow_infinity=False, width=32)
kinds = st.sampled_from(
    [*MISHAPS, *(e["event"] for e in STORY), "segment", "standby", "checkpoint", "unheard of"]
)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            kinds,
            st.floats(0, 1e6),
            st.fixed_dictionaries(
                {},
                optional={
                    "name": st.sampled_from(["a", "b-1", "b-2"]),
                    "role": st.sampled_from(["ps", "worker"]),
                    "step": st.integers(0, 99),
                    "loss": numbers,
                    "tokens": st.integers(0, 10**6),
                    "bytes_pushed": st.integers(0, 10**12),
                    "staleness": st.dictionaries(st.sampled_from(["0", "1.5"]), st.integers(0, 9)),
                    "wait_share": st.none() | st.floats(0, 1),
                    "residual_norm": st.none() | st.floats(0, 10),
                },
            ),
        ),
        max_size=40,
    )
)
def test_any_story_makes_a_page_with_sound_plots(told: list[tuple[str, float, Event]]) -> None:
    events = [event(s, kind, **fields) for kind, s, fields in told]
    for contributed in (e for e in events if e["event"] == "contributed"):
        contributed["staleness"] = contributed["s"]  # of a worker it is a mean
    assert isinstance(read_history(events), History)
    text = page_of(Path("/nowhere"), events)
    for begin in range(text.count("<svg")):
        svg = text.split("<svg")[begin + 1].partition("</svg>")[0]
        assert ElementTree.fromstring(f"<svg{svg}</svg>").tag == f"{SVG}svg"


# --- the command ---------------------------------------------------------------------------------


def test_the_command_writes_the_page_and_tells_what_it_is_drawn_from(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "events.jsonl").write_text("\n".join([*map(json.dumps, STORY), '{"event": "st']))
    assert run(["report", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'report.html'}\n"
    assert run(["report", str(tmp_path), "--json", "--out", str(tmp_path / "else.html")]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["report"] == str(tmp_path / "else.html") and len(found["steps"]) == 2
    assert (tmp_path / "report.html").read_text() == (tmp_path / "else.html").read_text()


def test_what_is_no_run_directory_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["report", str(tmp_path)]) == 66
    assert "expected the directory of a run" in capsys.readouterr().err
