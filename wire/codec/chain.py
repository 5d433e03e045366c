"""From configuration to codec."""

from __future__ import annotations

from wire.codec.base import DeltaCodec, PushCodec
from wire.codec.dense import DenseDelta, DensePush
from wire.codec.topk import Feedback, TopkDelta, TopkPush
from wire.config import Config


def push_codec(
    *, codec: str, density: float, feedback: str, momentum: float, magnitude_bits: int, carries: bool = False
) -> PushCodec:
    """`codec`: "dense" (all but `carries` is then without meaning) or "topk".

    density: kept share of each block. feedback: "ef21" (EF21-SGDM, for optimizers on the server) or "ef" (error
    feedback, for linear consumers). momentum: weight eta of a new gradient in EF21-SGDM, 1 = none.
    magnitude_bits: 0, 1 or 2. carries: whether what is pushed may be given back in part.
    Raises: ValueError for a value out of range.
    """
    if codec == "dense":
        return DensePush(carries)
    if codec != "topk":
        raise ValueError(f"push codec {codec!r}: expected 'dense' or 'topk'")
    kinds = {"ef": Feedback.RESIDUAL, "ef21": Feedback.TRACK if momentum == 1 else Feedback.MOMENTUM}
    if feedback not in kinds:
        raise ValueError(f"feedback {feedback!r}: expected 'ef21' or 'ef'")
    return TopkPush(density=density, magnitude_bits=magnitude_bits, feedback=kinds[feedback], eta=momentum)


def delta_codec(*, codec: str, density: float, magnitude_bits: int) -> DeltaCodec:
    """`codec`: "dense" (sets; the other arguments are then without meaning) or "topk" (EF21-P).

    Raises: ValueError for a value out of range.
    """
    if codec == "dense":
        return DenseDelta()
    if codec != "topk":
        raise ValueError(f"pull codec {codec!r}: expected 'dense' or 'topk'")
    return TopkDelta(density=density, magnitude_bits=magnitude_bits)


def codecs_of(config: Config, *, optimizer: str, elastic: bool = False) -> tuple[PushCodec, DeltaCodec]:
    """The codecs of a run whose servers run `optimizer` ("adamw" or "sgd").

    In an `elastic` segment what is pushed may be given back in part.

    `push.feedback = "auto"` is EF21-SGDM before AdamW, which would take error feedback's spikes for large
    second moments, and error feedback before SGD, a linear consumer. In an elastic segment it is error
    feedback before both: estimates of single units are repeated there by each publication, noise and all,
    while moments that reach back over more publications smooth spikes (docs/decisions/0013).
    """
    push, pull = config.push, config.pull
    feedback = push.feedback
    if feedback == "auto":
        feedback = "ef21" if optimizer == "adamw" and not elastic else "ef"
    return (
        push_codec(
            codec=push.codec,
            density=push.density,
            feedback=feedback,
            momentum=push.momentum,
            magnitude_bits=push.magnitude_bits,
            carries=elastic,
        ),
        delta_codec(codec=pull.codec, density=pull.density, magnitude_bits=pull.magnitude_bits),
    )
