"""The arithmetic of the benchmarks: CPU curves, phases of a step, rates, bytes, and the pages they end up on."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from sparsync.bench import codec_report, cpu, load, phases, wire, wire_report
from sparsync.bench.about import about, commit, cpu_model
from sparsync.bench.figures import distribution
from sparsync.bench.report import Table, figure, text_table, write
from wire.errors import UsageError
from wire.layout import BLOCK


def test_a_distribution_has_the_median_of_all_values() -> None:
    assert distribution([3.0, 1.0, 2.0]) == {"n": 3, "min": 1.0, "median": 2.0, "max": 3.0}
    assert distribution([1.0, 2.0])["median"] == 1.5
    with pytest.raises(ValueError, match="no values"):
        distribution([])


# --- CPU ---------------------------------------------------------------------------------------


def stat_line(pid: int, name: str, parent: int, user: int, system: int) -> str:
    return f"{pid} ({name}) S {parent} 1 1 0 -1 4194304 1 2 3 4 {user} {system} 0 0 20 0 1 0 100 1 1"


def test_a_line_of_proc_is_read_whatever_the_process_is_called() -> None:
    found = cpu.parse_stat(stat_line(12, "a) (b c", 7, 3 * cpu.TICKS_PER_S, cpu.TICKS_PER_S))
    assert found == cpu.Process(12, 7, 4.0)


def test_descendants_are_found_at_any_depth_and_nobody_else() -> None:
    table = {pid: cpu.Process(pid, parent, 0.0) for pid, parent in ((2, 1), (3, 2), (4, 3), (5, 1))}
    assert {p.pid for p in cpu.descendants(table, 2)} == {3, 4}


@pytest.mark.parametrize(
    ("command", "role"),
    [
        ("python\0-P\0-m\0sparsync\0ps\0--name\0ps-0", "ps"),
        ("python\0-P\0-m\0sparsync\0worker\0--name\0worker-0", "worker"),
        ("python\0-P\0-m\0worker.heartbeat\0--pid\0worker", "heartbeat"),
        ("python\0-P\0-m\0sparsync.bench.raw\0client\x00100", "client"),
        ("sleep\x001", "other"),
    ],
)
def test_roles_are_known_by_their_command_line(command: str, role: str) -> None:
    assert cpu.role_of(command) == role


def test_cpu_between_two_moments_lies_on_the_lines_between_samples() -> None:
    watch = cpu.CpuWatch()
    watch._curves = {
        1: cpu.Curve("ps", [0.0, 1.0, 2.0], [0.0, 1.0, 1.0]),
        2: cpu.Curve("ps", [1.0, 2.0], [5.0, 6.0]),
        3: cpu.Curve("worker", [0.0, 4.0], [0.0, 2.0]),
    }
    assert watch.between(0.5, 1.5) == {"ps": 0.5 + 0.5, "worker": 0.5}


# --- a step ------------------------------------------------------------------------------------


def trace_of(samples: Sequence[tuple[float, float, float]]) -> list[tuple[float, int, int]]:
    return [(time, round(sent * 1000), round(received * 1000)) for time, sent, received in samples]


STEP = trace_of(
    [
        *[(10.0, 0, 0), (10.1, 0, 0), (10.2, 0.4, 0), (10.3, 1, 0), (10.4, 1, 0.001)],
        *[(10.5, 1, 0.5), (10.6, 1.002, 1), (10.7, 1.002, 1), (10.8, 1.002, 1)],
    ]
)
"""A push from 10.1 to 10.3, a pull from 10.4 to 10.6; a few bytes more each way are acknowledgements."""


def test_the_phases_of_a_step_follow_from_the_bytes_at_the_sockets() -> None:
    found = phases.spans(STEP, (10.0, 10.05, 10.15), 10.75)
    assert found is not None
    rounded = {phase: (round(a, 3), round(b, 3)) for phase, (a, b) in found.items()}
    assert rounded == {
        "collect and encode": (0.05, 0.15),
        "push": (0.2, 0.3),
        "settle": (0.3, 0.5),
        "pull": (0.5, 0.6),
        "apply": (0.6, 0.75),
    }


def test_a_turn_that_is_too_short_to_be_seen_has_no_phases() -> None:
    assert phases.spans(STEP[:3], (10.0, 10.0, 10.0), 10.2) is None
    assert phases.of_a_step([{"turns": [(0.0, 0.0, 0.0)], "trace": []}], first=0) == {}


def test_phases_are_medians_over_all_turns_of_all_workers() -> None:
    later = [(time + 1.0, sent, received) for time, sent, received in STEP]
    worker = {"turns": [(10.0, 10.05, 10.15), (11.0, 11.05, 11.35), (11.75, 0, 0)], "trace": STEP + later}
    found = phases.of_a_step([worker], first=0)
    assert found["collect and encode"]["end_s"] == pytest.approx((0.15 + 0.35) / 2)


# --- bench wire --------------------------------------------------------------------------------


OPTIONS = wire.Options(
    size=load.whole_blocks(100),
    workers=2,
    servers=2,
    codecs=("dense",),
    settings=(),
    seconds=1.0,
    rounds=1,
    quick=True,
)


@pytest.mark.parametrize("megabytes", [0.01, 1, 4, 64])
def test_the_synthetic_model_has_whole_blocks_and_the_size_asked_for(megabytes: float) -> None:
    size = load.whole_blocks(megabytes)
    assert 0 <= size - megabytes * 1e6 < 4 * BLOCK
    layout = load.layout(size // 4)
    assert layout.numel * 4 == size and set(layout.lengths) == {BLOCK}
    assert load.offset(7) + size // 4 <= len(load.numbers(size // 4))


def test_rates_count_the_model_one_way_and_cpu_both() -> None:
    watch = cpu.CpuWatch()
    watch._curves = {1: cpu.Curve("ps", [0.0, 10.0], [0.0, 10.0])}
    found = wire.rates(OPTIONS, 4.0, begin=2.0, end=7.0, cpu=watch)
    gigabytes = OPTIONS.size / 1e9
    assert found["gb_per_s"] == pytest.approx(4 * gigabytes)
    assert found["exchange_s"] == pytest.approx(0.5)  # two workers, four exchanges a second together
    assert found["cpu_s_per_gb"] == {"ps": pytest.approx(5.0 / (2 * 20 * gigabytes))}


def test_bytes_at_sockets_are_those_between_the_first_and_the_last_look() -> None:
    workers = [
        {"meter": [(3, 100, 1000), (5, 9, 9), (7, 500, 1800)]},
        {"meter": [(3, 0, 0), (4, 100, 200)]},
    ]
    assert wire.socket_bytes(workers) == (500 / 5, 1000 / 5)


def test_a_summary_keeps_each_number_and_all_roles() -> None:
    rounds = [
        {"gb_per_s": 1.0, "steps": 5, "cpu_s_per_gb": {"ps": 1.0, "worker": 2.0}},
        {"gb_per_s": 3.0, "steps": 6, "cpu_s_per_gb": {"ps": 2.0}},
    ]
    found = wire.summary(rounds)
    assert found["gb_per_s"]["median"] == 2.0
    assert found["cpu_s_per_gb"] == {"ps": 1.5, "worker": 1.0}
    assert found["cpu_s_per_gb_in_all"] == 2.5


# --- what it was measured on ---------------------------------------------------------------------


def test_a_result_tells_machine_versions_and_commit(tmp_path: Path) -> None:
    found: dict[str, Any] = about(device="a device")
    assert found["machine"]["cores"] >= 1 and found["machine"]["device"] == "a device"
    assert {"sparsync", "python", "torch", "numba", "grpcio"} <= {
        k for k, v in found["versions"].items() if v
    }
    assert commit(tmp_path) is None  # no checkout
    listing = tmp_path / "cpuinfo"
    listing.write_text("processor\t: 0\nmodel name\t: Some CPU: 2 GHz\n")
    assert cpu_model(listing) == "Some CPU: 2 GHz"
    assert cpu_model(tmp_path / "nothing")


# --- pages -----------------------------------------------------------------------------------------


class Links(HTMLParser):
    """What a page would load from elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [f"{tag} {key}" for key, _ in attrs if key in ("src", "href")]


def one(value: float) -> dict[str, float]:
    return distribution([value])


WIRE: dict[str, Any] = {
    "benchmark": "wire",
    "about": {"machine": {"cpu": "x"}, "versions": {"python": "3"}, "commit": None, "at": "now"},
    "options": {"mb": 64, "settings": ["a.b=<c>"], "rounds": None},
    "bare": {"gb_per_s": one(1.0), "exchange_s": one(0.1), "cpu_s_per_gb": {"client": 1.0}}
    | {"cpu_s_per_gb_in_all": 1.0},
    "runs": [
        {"codec": "dense", "gb_per_s": one(0.8), "share_of_bare": one(0.8), "exchange_s": one(0.125)}
        | {"cpu_s_per_gb": {"ps": 1.0, "worker": 2.0}, "cpu_s_per_gb_in_all": 3.0}
        | {"frame_bytes_pushed": 100.0, "frame_bytes_pulled": 200.0}
        | {"socket_bytes_pushed": one(101.0), "socket_bytes_pulled": one(202.0)}
        | {"phases": {"push": {"begin_s": 0.1, "end_s": 0.3}}}
    ],
}
CODEC: dict[str, Any] = {
    **WIRE,
    "benchmark": "codec",
    "quantisers": {"kept": 64, "sign_and_lloyd": 0.1, "uniform_published": 0.5, "uniform_even": 0.4}
    | {"ratio_to_published": 0.2, "ratio_to_even": 0.25},
    "sizes": [
        {
            "mb": 4.0,
            "baselines": {"memcpy": one(10.0)},
            "codecs": [
                {"codec": name, "encode_gb_per_s": one(1.0), "decode_gb_per_s": one(9.0)}
                | {"decode_share_of_encode": one(0.1), "encode_against_torch_topk": topk}
                | {"bits_a_parameter": bits, "index_bits_alone": alone, "bits_an_index": alone}
                | {"relative_error": 0.5}
                for name, bits, alone, topk in (
                    ("topk-64-sign1-ef", 0.15, 7.4, one(3.0)),
                    ("dense-int8", 8.0, None, None),
                )
            ],
        }
    ],
}


@pytest.mark.parametrize(
    ("html", "plots", "words"),
    [
        (wire_report.html(WIRE), 3, ["80%", "1.01", "push", "a.b=&lt;c&gt;"]),
        (codec_report.html(CODEC), 3, ["topk-64-sign1-ef", "0.15", "error feedback", "Lloyd"]),
    ],
)
def test_a_page_needs_nothing_else_and_holds_the_whole_result(
    html: str, plots: int, words: list[str]
) -> None:
    links = Links()
    links.feed(html)
    assert links.found == []
    drawn = re.findall(r"<svg.*?</svg>", html, re.DOTALL)
    assert len(drawn) == plots
    for svg in drawn:
        ElementTree.fromstring(svg)
    assert [word for word in words if word not in html] == []


def test_tables_line_up_on_a_terminal() -> None:
    lines = text_table(Table(("name", "GB/s"), [("dense", 0.123456), ("topk", None)]))
    assert lines == ["name     GB/s", "dense  0.1235", "topk        –"]
    assert len(codec_report.tables(CODEC)) == 3
    assert figure(7) == "7"


def test_results_are_written_as_json_and_html(tmp_path: Path) -> None:
    paths = write(tmp_path / "new", "wire", WIRE, "<html></html>")
    assert [path.name for path in paths] == ["wire.json", "wire.html"]
    assert json.loads(paths[0].read_text()) == WIRE
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot create it"):
        write(tmp_path / "file", "wire", WIRE, "")
