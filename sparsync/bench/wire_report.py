"""What `bench wire` found, for people. Pure: a result in, tables and plots out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sparsync.bench.report import Row, Section, Table, page
from sparsync.drawing import Bar, Part, bars, single, stacked

TITLE = "sparsync bench wire"

Result = Mapping[str, Any]


def speed(result: Result) -> Table:
    """GB/s each way, its share of bare streams (the pairs' median, lowest and highest), CPU."""
    bare = result["bare"]
    took = (bare["exchange_s"]["median"], bare["cpu_s_per_gb_in_all"])
    rows: list[Row] = [("bare grpc.aio streams", bare["gb_per_s"]["median"], None, None, *took)]
    for run in result["runs"]:
        share = run["share_of_bare"]
        reached = (f"{share['median']:.0%}", f"{share['min']:.0%} to {share['max']:.0%}")
        took = (run["exchange_s"]["median"], run["cpu_s_per_gb_in_all"])
        rows.append((run["codec"], run["gb_per_s"]["median"], *reached, *took))
    header = ("path", "GB/s each way", "of bare streams", "pairs", "s an exchange", "CPU s/GB")
    return Table(header, rows)


def accounting(result: Result) -> Table:
    """Bytes of one worker's step: frames by the codec's count, and those at the sockets."""
    rows = list[Row]()
    for run in result["runs"]:
        for way in ("pushed", "pulled"):
            frames, sockets = run[f"frame_bytes_{way}"], run[f"socket_bytes_{way}"]["median"]
            rows.append((f"{run['codec']} {way}", frames, sockets, sockets / frames))
    return Table(("bytes a worker and step", "frames", "at the sockets", "sockets / frames"), rows)


def phases(result: Result) -> Table:
    """When each phase of a step begins and ends."""
    rows = [
        [f"{run['codec']}: {name}", span["begin_s"], span["end_s"], span["end_s"] - span["begin_s"]]
        for run in result["runs"]
        for name, span in run["phases"].items()
    ]
    return Table(("phase of a step", "begins, s", "ends, s", "takes, s"), rows)


def sections(result: Result) -> list[Section]:
    bare, runs = result["bare"], result["runs"]
    rates = [single("bare grpc.aio streams", bare["gb_per_s"]["median"], figure_of(bare["gb_per_s"]))]
    rates += [single(run["codec"], run["gb_per_s"]["median"], figure_of(run["gb_per_s"])) for run in runs]
    cpu = [
        stacked(name, found["cpu_s_per_gb"].items(), f"{found['cpu_s_per_gb_in_all']:.2f}")
        for name, found in [("bare grpc.aio streams", bare), *((run["codec"], run) for run in runs)]
    ]
    plots = [
        bars(f"{run['codec']}: a step as a worker sees it", timeline(run["phases"]), unit="seconds")
        for run in runs
        if run["phases"]
    ]
    return [
        Section(
            "Speed",
            "The float32 model moved each way by all workers together, against bare streams of as many processes in "
            "the same rounds. CPU seconds are of all processes, for a GB of model moved in either direction.",
            [speed(result)],
            [
                bars("Model moved each way", rates, unit="GB/s"),
                bars("CPU seconds for a GB of model", cpu, unit="CPU s/GB"),
            ],
        ),
        Section(
            "Bytes",
            "What the sockets of the data connections moved, against the lengths of the frames.",
            [accounting(result)],
        ),
        Section(
            "Phases",
            "From a run of its own, traced at the sockets, so its sum is a little above that of the runs above. "
            "Settle: all is pushed and nothing has come yet; it holds the close of the step, aggregation, the "
            "optimizer and the making of the delta.",
            [phases(result)],
            plots,
        ),
    ]


def figure_of(found: Mapping[str, float]) -> str:
    """The median, and how far the rounds lie apart."""
    return f"{found['median']:.3f} ({found['min']:.3f} to {found['max']:.3f})"


def timeline(spans: Mapping[str, Mapping[str, float]]) -> list[Bar]:
    """One bar a phase, where it lies in the step."""
    return [
        Bar(name, (Part(name, span["begin_s"], span["end_s"]),), f"{span['end_s'] - span['begin_s']:.3f} s")
        for name, span in spans.items()
    ]


def html(result: Result) -> str:
    return page(TITLE, result, sections(result))
