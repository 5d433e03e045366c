"""What `bench codec` found, for people. Pure: a result in, tables and plots out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from sparsync.bench.report import Row, Section, Table, page
from sparsync.drawing import PALETTE, Bar, Frame, axes, bars, document, dot, legend, single

TITLE = "sparsync bench codec"
FEEDBACKS = ("none", "ef", "ef21", "pull")
LEGEND = {"none": "no feedback", "ef": "error feedback", "ef21": "EF21", "pull": "deltas (EF21-P)"}

Result = Mapping[str, Any]


def speed(size: Result) -> Table:
    """Medians of the rates, and of the ratios of each round."""
    rows: list[Row] = [(name, found["median"], None, None, None) for name, found in size["baselines"].items()]
    for found in size["codecs"]:
        topk = found["encode_against_torch_topk"]
        rates = (found["encode_gb_per_s"]["median"], found["decode_gb_per_s"]["median"])
        shares = (found["decode_share_of_encode"]["median"], topk["median"] if topk else None)
        rows.append((found["codec"], *rates, *shares))
    header = ("GB/s of fp32 input", "encode or run", "decode", "decode / encode", "encode / torch.topk")
    return Table(header, rows)


def sizes(size: Result) -> Table:
    """Bits and errors."""
    keys = ("codec", "bits_a_parameter", "index_bits_alone", "bits_an_index", "relative_error")
    rows = [[found[key] for key in keys] for found in size["codecs"]]
    header = ("codec", "bits a parameter", "bits an index, alone", "with counts, headers", "relative error")
    return Table(header, rows)


def quantiser_table(found: Mapping[str, float]) -> Table:
    """Relative mean squared error of two bits a value."""
    return Table(
        ("quantiser of two bits", "relative MSE", "ours / this"),
        [
            ("sign + one of two levels a block (Lloyd)", found["sign_and_lloyd"], 1.0),
            (
                "4 uniform bins over 6 σ, as published",
                found["uniform_published"],
                found["ratio_to_published"],
            ),
            ("4 uniform bins over 6 σ, even", found["uniform_even"], found["ratio_to_even"]),
        ],
    )


def tables(result: Result) -> list[Table]:
    """What a terminal shows."""
    shown = [table for size in result["sizes"] for table in (speed(size), sizes(size))]
    return [*shown, *([quantiser_table(result["quantisers"])] if result["quantisers"] else [])]


def sections(result: Result) -> list[Section]:
    found = [section for size in result["sizes"] for section in _size_sections(size)]
    if result["quantisers"]:
        found.append(
            Section(
                "Quantisers",
                f"Two bits a value, on the {result['quantisers']['kept']} largest values of each block of a residual.",
                [quantiser_table(result["quantisers"])],
            )
        )
    return found


def _size_sections(size: Result) -> list[Section]:
    codecs, name = size["codecs"], f"{size['mb']:g} MB"
    return [
        Section(
            f"Speed, {name}",
            "GB/s of float32 input. Encoding begins with fresh state; decoding takes the frame apart, checks "
            "included, and adds it to a plane. Ratios are medians of those of each round.",
            [speed(size)],
            [
                bars(f"Encode, {name}", _rates(size, "encode_gb_per_s"), unit="GB/s"),
                bars(f"Decode, {name}", _rates(size, "decode_gb_per_s"), unit="GB/s"),
            ],
        ),
        Section(
            f"Size and error, {name}",
            "Bits an index with counts and headers: everything that tells where values belong, that is the sections of "
            "indices and counts and all headers, tables and checksums. The error is of one frame from fresh state: "
            "what feedback sends later is not in it.",
            [sizes(size)],
            [trade(f"Error against size, {name}", codecs)],
        ),
    ]


def _rates(size: Result, key: str) -> list[Bar]:
    return [
        single(found["codec"], found[key]["median"], f"{found[key]['median']:.2f}")
        for found in size["codecs"]
    ]


def trade(title: str, codecs: Sequence[Result]) -> str:
    """Relative error by bits a parameter, the latter in powers of two; a colour for each feedback and for deltas."""
    points = [(math.log2(found["bits_a_parameter"]), found["relative_error"]) for found in codecs]
    frame = Frame.around([*points, (0.0, 0.0)])
    colours = dict(zip(FEEDBACKS, PALETTE, strict=False))
    kinds = [feedback_of(found["codec"]) for found in codecs]
    body = axes(frame, x="bits a parameter", y="relative error", x_text=lambda tick: f"{2**tick:.3g}")
    body += [
        dot(frame, point, colours[kind], found["codec"])
        for found, point, kind in zip(codecs, points, kinds, strict=True)
    ]
    return document(title, [*body, *legend((LEGEND[k], colours[k]) for k in FEEDBACKS if k in kinds)])


def feedback_of(codec: str) -> str:
    """The feedback in a codec's name; "pull" for a delta's."""
    last = codec.rpartition("-")[2]
    return last if last in FEEDBACKS else "none"


def html(result: Result) -> str:
    return page(TITLE, result, sections(result))
