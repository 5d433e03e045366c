"""From configuration to codec: what is chosen, and what would lose mass for good and is refused."""

from __future__ import annotations

import pytest

from wire.codec.chain import FLUSH, codecs_of, delta_codec, push_codec
from wire.codec.cut import Classes
from wire.codec.delta import Delta
from wire.codec.push import Push
from wire.codec.values import Values
from wire.config import load
from wire.layout import Layout, Parameter

LAYOUT = Layout((Parameter("w", (64, 64), "float32", 0), Parameter("b", (64,), "float32", 0)))
ONLY_MATRICES = Layout((Parameter("w", (64, 64), "float32", 0),))


def made(
    *overrides: str, optimizer: str = "adamw", elastic: bool = False, layout: Layout = LAYOUT
) -> tuple[Push, Delta]:
    push, delta = codecs_of(load(None, overrides, {}).config, layout, optimizer=optimizer, elastic=elastic)
    assert isinstance(push, Push)
    assert isinstance(delta, Delta)
    return push, delta


@pytest.mark.parametrize(
    "feedback, momentum, planes",
    [("ef", 1.0, ("residual",)), ("ef21", 1.0, ("estimate",)), ("ef21", 0.5, ("momentum", "estimate"))],
)
def test_feedback_and_momentum_choose_the_state(
    feedback: str, momentum: float, planes: tuple[str, ...]
) -> None:
    codec = push_codec(codec="topk", density=0.5, feedback=feedback, momentum=momentum)
    assert codec.state_planes == planes
    assert codec.estimates is (feedback == "ef21")


def test_without_feedback_there_is_state_only_where_pushes_come_back() -> None:
    assert push_codec(codec="dense").state_planes == ()
    assert push_codec(codec="dense", carries=True).state_planes == ("carry",)
    assert isinstance(FLUSH, Push)
    assert FLUSH.chain.exact
    assert FLUSH.state_planes == ()


@pytest.mark.parametrize(
    "key, value",
    [("codec", "lz"), ("density", 0.0), ("density", 1.5), ("values", "fp64"), ("feedback", "ef14"), ("momentum", 0.0),
     ("momentum", 1.1), ("decay", 0.0), ("decay", 2.0)],
)  # fmt: skip
def test_nonsense_is_refused(key: str, value: object) -> None:
    good = {"codec": "topk", "density": 0.5, "feedback": "ef21", "momentum": 1.0, "decay": 1.0}
    with pytest.raises(ValueError, match=f"{value}.*expected"):
        push_codec(**{**good, key: value})  # type: ignore[arg-type]
    if key in ("codec", "density", "values"):
        with pytest.raises(ValueError, match=f"{value}.*expected"):
            delta_codec(**{"codec": "topk", "density": 0.5, key: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("codec", ["dense", "topk"])
@pytest.mark.parametrize("values", [v.name.lower() for v in Values])
def test_what_loses_something_for_good_needs_feedback(codec: str, values: str) -> None:
    if codec == "dense" and Values.named(values).unbiased:
        push_codec(codec=codec, values=values, feedback="none")
    else:
        with pytest.raises(ValueError, match="'ef' or 'ef21'"):
            push_codec(codec=codec, values=values, feedback="none")


def test_a_policy_that_loses_something_needs_feedback() -> None:
    for rule, fine in (("1d=int8", True), ("1d=int4", False), ("*=sign", False)):
        classes = Classes.by_policy(LAYOUT, [rule])
        if fine:
            push_codec(codec="dense", classes=classes)
        else:
            with pytest.raises(ValueError, match="policy"):
                push_codec(codec="dense", classes=classes)
    assert made("push.codec=dense", 'push.policy=["1d=int4"]', optimizer="sgd")[0].state_planes == (
        "residual",
    )
    # A rule that fits no parameter loses nothing.
    assert not made("push.codec=dense", 'push.policy=["1d=int4"]', layout=ONLY_MATRICES)[0].state_planes


@pytest.mark.parametrize(
    "overrides, optimizer, elastic, planes",
    [
        ((), "adamw", False, ("residual",)),
        (("push.density=0.1",), "adamw", False, ("estimate",)),
        (("push.density=0.1",), "adamw", True, ("residual",)),
        (("push.codec=topk", "push.momentum=0.2"), "adamw", False, ("momentum", "estimate")),
        ((), "adamw", True, ("residual",)),
        ((), "sgd", False, ("residual",)),
        (("push.feedback=ef",), "adamw", False, ("residual",)),
        (("push.feedback=ef21", "push.momentum=1"), "sgd", False, ("estimate",)),
        (("push.codec=dense",), "adamw", False, ()),
        (("push.codec=dense",), "adamw", True, ("carry",)),
        (("push.codec=dense", "push.values=int8"), "adamw", False, ()),
        (("push.codec=dense", "push.values=int4"), "sgd", False, ("residual",)),
        (("push.codec=dense", "push.feedback=ef"), "sgd", False, ("residual",)),
    ],
)
def test_feedback_follows_from_optimizer_and_segment(
    overrides: tuple[str, ...], optimizer: str, elastic: bool, planes: tuple[str, ...]
) -> None:
    assert made(*overrides, optimizer=optimizer, elastic=elastic)[0].state_planes == planes


def test_norms_and_biases_are_sent_whole_unless_a_policy_says_otherwise() -> None:
    lossy = made()
    for codec in lossy:
        assert codec.classes is not None
        assert codec.classes.of_block.tolist() == [0, 1]
        assert [c.values for c in codec.classes.chains] == [Values.FP16]
    for codec in (*made("push.policy=[]", "pull.policy=[]"), *made("push.codec=dense", "pull.codec=dense")):
        assert codec.classes is None
    chosen = made('push.policy=["w=int8", "*=bf16"]')[0].classes
    assert chosen is not None
    assert [chosen.chains[n - 1].values for n in chosen.of_block] == [Values.INT8, Values.BF16]


def test_the_configurations_numbers_arrive() -> None:
    push, delta = made(
        "push.density=0.125", "push.values=int4", "push.feedback=ef", "push.decay=0.95", "pull.density=0.25",
        "pull.values=sign2", "cluster.compute_threads=3",
    )  # fmt: skip
    assert (push.chain.density, push.chain.values, push.decay, push.threads) == (0.125, Values.INT4, 0.95, 3)
    assert (delta.chain.density, delta.chain.values, delta.threads) == (0.25, Values.SIGN2, 3)
