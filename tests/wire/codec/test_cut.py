from __future__ import annotations

import numpy as np
import pytest

from wire.codec.base import Blocks
from wire.codec.cut import LEAST_BLOCKS, MOST_BLOCKS, Chain, Classes, Cuts, main_chain
from wire.codec.policy import rules
from wire.codec.values import Values
from wire.layout import BLOCK, BlockRange, Layout, Parameter

LAYOUT = Layout(
    (
        Parameter("a.weight", (100, BLOCK), "float32", 0),
        Parameter("a.bias", (BLOCK,), "float32", 0),
        Parameter("b.weight", (100, BLOCK), "float32", 0),
        Parameter("b.bias", (3,), "float32", 0),
    )
)
ALL = Blocks.of(LAYOUT, [BlockRange(0, LAYOUT.blocks)])
MAIN = Chain(0.25, Values.SIGN1)


def test_every_block_is_in_one_part_and_classes_follow_each_other() -> None:
    classes = Classes.by_policy(LAYOUT, ["1d=fp16"])
    parts = Cuts(MAIN, classes).of(ALL)
    assert np.concatenate([p.blocks.numbers for p in parts]).tolist() == [
        *(n for n in range(202) if n not in (100, 201)),
        100,
        201,
    ]
    assert [p.first for p in parts] == [0, 64, 128, 192, 200]
    assert [p.chain.values for p in parts] == [Values.SIGN1] * 4 + [Values.FP16]


def test_a_shards_rows_are_its_own_and_numbers_are_the_layouts() -> None:
    owned = [BlockRange(100, 102), BlockRange(201, 202)]
    parts = Cuts(MAIN, Classes.by_policy(LAYOUT, ["1d=fp32"])).of(Blocks.of(LAYOUT, owned, local_to=owned))
    assert [(p.blocks.rows.tolist(), p.blocks.numbers.tolist()) for p in parts] == [
        ([1], [101]),
        ([0, 2], [100, 201]),
    ]


def test_a_cut_is_made_once() -> None:
    cuts = Cuts(MAIN, None)
    assert cuts.of(ALL) is cuts.of(ALL)
    assert cuts.of(Blocks.of(LAYOUT, [])) == ()


@pytest.mark.parametrize(
    "density, blocks",
    [(None, LEAST_BLOCKS), (1 / 4096, MOST_BLOCKS), (1 / 64, 512), (1 / 32, 256), (0.25, 64)],
)
def test_a_part_keeps_about_as_much_whatever_the_density(density: float | None, blocks: int) -> None:
    assert Chain(density, Values.SIGN1).part_blocks == blocks


def test_the_first_rule_that_fits_counts() -> None:
    classes = Classes.by_policy(LAYOUT, ["b.*=bf16", "1d=fp16", "*=int8"])
    assert classes is not None
    chosen = [classes.chains[classes.of_block[b] - 1].values for b in (0, 100, 101, 201)]
    assert chosen == [Values.INT8, Values.FP16, Values.BF16, Values.BF16]
    assert Classes.by_policy(LAYOUT, ["c.*=fp32"]) is None
    assert Classes.by_policy(LAYOUT, []) is None


@pytest.mark.parametrize("text", ["fp16", "=fp16", "1d=", "1d=fp17", " =fp16"])
def test_what_is_no_rule_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected"):
        rules([text])


def test_kept_is_negative_where_blocks_go_whole() -> None:
    assert set(Chain(None, Values.INT8).kept(ALL).tolist()) == {-1}
    assert Chain(1 / 64, Values.INT8).kept(ALL).tolist()[-2:] == [64, 1]


def test_the_main_chain_by_its_names() -> None:
    assert main_chain(codec="dense", density=1.0, values="auto") == Chain(None, Values.FP32)
    assert main_chain(codec="topk", density=0.5, values="auto") == Chain(0.5, Values.SIGN1)
    assert main_chain(codec="topk", density=0.5, values="int4") == Chain(0.5, Values.INT4)
    assert main_chain(codec="dense", density=1.0, values="int4", coarse=4) == Chain(
        None, Values.INT4, coarse=4
    )
    for wrong in (
        {"codec": "lz"},
        {"values": "fp64"},
        {"density": 0.0},
        {"coarse": 2.0},
        {"values": "int4", "coarse": 0.5},
        {"values": "int4", "coarse": 17.0},
    ):
        with pytest.raises(ValueError, match="expected"):
            main_chain(**({"codec": "topk", "density": 0.5, "values": "auto"} | wrong))
