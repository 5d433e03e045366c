"""From configuration to codec."""

from __future__ import annotations

from wire.codec.base import DeltaCodec, PushCodec
from wire.codec.cut import Chain, Classes, main_chain, unbiased
from wire.codec.delta import Delta
from wire.codec.feedback import Feedback
from wire.codec.push import Push
from wire.codec.warmup import Warmup
from wire.config import Config, PullConfig, PushConfig, complete
from wire.layout import Layout
from wire.rounds import Rounds

LOSSY_POLICY = ("1d=fp16",)
"""Where a configuration names no policy and its codec loses something: norms and biases are worth their bytes."""


def push_codec(
    *,
    codec: str,
    density: float = 1.0,
    values: str = "auto",
    coarse: float = 1.0,
    feedback: str = "none",
    momentum: float = 1.0,
    decay: float = 1.0,
    carries: bool = False,
    classes: Classes | None = None,
    threads: int = 1,
    warmup: Warmup | None = None,
    streams: int = 1,
) -> PushCodec:
    """`codec`: "dense" (whole blocks; `density` is then without meaning) or "topk".

    density: kept share of each block. values: their code, "auto" = fp32 for whole blocks and sign1 for top-k.
    coarse: by how much steps of int4 and mxint4 are longer than those of least error, 1 to 16.
    feedback: "ef21" (EF21-SGDM, for optimizers on the server), "ef" (error feedback, for linear consumers) or
    "none" (for whole blocks in values that are exact or unbiased). momentum: weight eta of a new gradient in
    EF21-SGDM, 1 = none. decay: of the residual of "ef". carries: whether what is pushed may be given back in part.
    warmup: density by step, which ends at `density`; streams: units of a step.
    Raises: ValueError for a value out of range, or a combination that would lose mass for good.
    """
    densest = warmup.first if warmup else None
    chain = main_chain(codec=codec, density=density, values=values, densest=densest, coarse=coarse)
    kinds = {
        "none": Feedback.CARRY if carries else Feedback.PLAIN,
        "ef": Feedback.RESIDUAL,
        "ef21": Feedback.TRACK if momentum == 1 else Feedback.MOMENTUM,
    }
    if feedback not in kinds:
        raise ValueError(f"feedback {feedback!r}: expected 'ef21', 'ef' or 'none'")
    if feedback == "none" and not unbiased(chain, classes):
        raise ValueError(
            f"feedback 'none' with codec {codec!r} and values {chain.values.name.lower()!r}, or those of its policy, "
            "would lose what is not sent: use 'ef' or 'ef21', or codec 'dense' with fp32, fp16, bf16 or int8"
        )
    return Push(chain, kinds[feedback], decay, momentum, classes, threads, warmup, streams)


FLUSH = push_codec(codec="dense")
"""The codec of what a leaver held back: exact, whatever that of pushes is."""


def delta_codec(
    *,
    codec: str,
    density: float = 1.0,
    values: str = "auto",
    coarse: float = 1.0,
    classes: Classes | None = None,
    threads: int = 1,
    warmup: Warmup | None = None,
) -> DeltaCodec:
    """`codec`: "dense" (whole blocks; in fp32 they are set, not added) or "topk". coarse, warmup: as of `push_codec`.

    Raises: ValueError for a value out of range.
    """
    densest = warmup.first if warmup else None
    chain = main_chain(codec=codec, density=density, values=values, densest=densest, coarse=coarse)
    return Delta(chain, classes, threads, warmup)


def codecs_of(
    config: Config, layout: Layout, *, optimizer: str, elastic: bool = False
) -> tuple[PushCodec, DeltaCodec]:
    """The codecs of a run whose servers run `optimizer` ("adamw" or "sgd") on a model of that layout.

    In an `elastic` segment, and where pushes are clipped, what is pushed may be given back in part.

    `push.feedback = "auto"` is none where values can do without. Else it is EF21-SGDM for top-k before AdamW, which
    would take the spikes of what waited long for large second moments, and error feedback for whole blocks, where
    little waits long (docs/decisions/0025, 0029), and before SGD, a linear consumer. In an elastic
    segment it is error feedback before both: estimates of single units are repeated there by each publication, noise
    and all, while moments that reach back over more publications smooth spikes (docs/decisions/0013).
    """
    config = complete(config)
    push, pull = config.push, config.pull
    assert push.density is not None and push.decay is not None and pull.density is not None
    assert push.coarse is not None and pull.coarse is not None
    up = main_chain(codec=push.codec, density=push.density, values=push.values)
    down = main_chain(codec=pull.codec, density=pull.density, values=pull.values)
    feedback: str = push.feedback
    up_classes = _classes(layout, up, push.policy)
    if feedback == "auto":
        lossless = "none" if unbiased(up, up_classes) else "ef"
        spiky = not up.whole and optimizer == "adamw" and not elastic
        feedback = "ef21" if lossless == "ef" and spiky else lossless
    threads, rounds = config.cluster.compute_threads, Rounds.of(config).until(None)
    return (
        push_codec(
            codec=push.codec,
            density=push.density,
            values=push.values,
            coarse=push.coarse,
            feedback=feedback,
            momentum=push.momentum,
            decay=push.decay,
            carries=elastic or push.clip > 0,
            classes=up_classes,
            threads=threads,
            warmup=_warmup(push, push.density, rounds),
            streams=config.sync.units_per_step,
        ),
        delta_codec(
            codec=pull.codec,
            density=pull.density,
            values=pull.values,
            coarse=pull.coarse,
            classes=_classes(layout, down, pull.policy),
            threads=threads,
            warmup=_warmup(pull, pull.density, rounds),
        ),
    )


def _warmup(way: PushConfig | PullConfig, density: float, rounds: Rounds) -> Warmup | None:
    """With local steps it falls from unit to unit, until so many steps are behind."""
    if way.warmup_density is None:
        return None
    return Warmup(way.warmup_density, density, rounds.rounds_of(way.warmup_steps))


def _classes(layout: Layout, chain: Chain, policy: tuple[str, ...] | None) -> Classes | None:
    if policy is None:
        policy = () if chain.exact else LOSSY_POLICY
    return Classes.by_policy(layout, policy)
