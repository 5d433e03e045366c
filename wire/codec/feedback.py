"""What becomes of the part of an update that is not sent: state planes and their arithmetic, block by block.

C is selection and values together, c what they take in, C(c) what a reader decodes.

    plain     c = u                                              exact or unbiased values need nothing
    carry     c = u + carry; carry = 0                           the same, where a receiver may give pushes back
    residual  e = decay e + u; c = e; e = c - C(c)               error feedback, arXiv 1809.07599
    track     c = u - g; g = g + C(c)                            EF21, 2106.05203; of x - x̂: EF21-P, 2209.15218
    momentum  m = (1 - eta) m + eta u; c = m - g; g = g + C(c)   EF21-SGDM, 2305.15155
"""

from __future__ import annotations

import enum


class Feedback(enum.IntEnum):
    """The numbers are the kernels' modes."""

    PLAIN = 0
    CARRY = 1
    RESIDUAL = 2
    TRACK = 3
    MOMENTUM = 4

    @property
    def planes(self) -> tuple[str, ...]:
        """Names of the state planes; the last one holds what is held back, or what frames add up to."""
        return _PLANES[self]

    @property
    def estimates(self) -> bool:
        """Whether the receiver keeps the sum of all frames."""
        return self >= Feedback.TRACK


_PLANES = ((), ("carry",), ("residual",), ("estimate",), ("momentum", "estimate"))
