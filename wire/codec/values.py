"""The closed list of value codes: what an element looks like in a frame, and how many bits it takes.

| code  | bits an element | scales a block (bfloat16 but mxint4) | an element stands for                         |
|-------|-----------------|--------------------------------------|-----------------------------------------------|
| fp32  | 32              | –                                    | itself                                        |
| fp16  | 16              | 1, a power of two                    | half-precision number x scale                 |
| bf16  | 16              | –                                    | the nearest bfloat16 number                   |
| int8  | 8               | 1                                    | -127..127 x scale                             |
| int4  | 4               | 1                                    | -7..7 x scale                                 |
| sign  | 1               | 1                                    | ± the level                                   |
| sign1 | 1 + 1           | 2, ascending                         | ± one of two levels (Lloyd's of the block)    |
| sign2 | 1 + 2           | 4, ascending                         | ± one of four levels                          |
| mxint4| 4               | a byte for each 64: its exponent     | -7..7 x a power of two                        |

The last one is made after the microscaling formats of the Open Compute Project (OCP MX, 2023).

This module imports neither numba nor torch.
"""

from __future__ import annotations

import enum

from wire.layout import BLOCK


class Values(enum.IntEnum):
    """A value code; the number stands in frames."""

    FP32 = 0
    FP16 = 1
    BF16 = 2
    INT8 = 3
    INT4 = 4
    SIGN = 5
    SIGN1 = 6
    SIGN2 = 7
    MXINT4 = 8

    @property
    def scales(self) -> int:
        """Numbers a block, of mxint4 the most."""
        return _SCALES[self]

    @property
    def grouped(self) -> bool:
        """Whether each group of elements has its own scale."""
        return self is Values.MXINT4

    @property
    def code_bits(self) -> int:
        """Bits an element in the section of codes."""
        return _CODE_BITS[self]

    @property
    def signed_apart(self) -> bool:
        """Whether signs have a section of their own."""
        return self in (Values.SIGN, Values.SIGN1, Values.SIGN2)

    @property
    def entropy(self) -> bool:
        """Whether codes are worth a try of zstd: their numbers are far from equally frequent."""
        return self in (Values.INT4, Values.SIGN1, Values.SIGN2, Values.MXINT4)

    @property
    def stepped(self) -> bool:
        """Whether its steps may be coarse."""
        return self in (Values.INT4, Values.MXINT4)

    @property
    def unbiased(self) -> bool:
        """Whether it can do without feedback: exact, nearly so, or rounded stochastically."""
        return self <= Values.INT8

    @classmethod
    def named(cls, name: str, *, codec: str = "dense") -> Values:
        """By its name in the configuration; "auto" is what `codec` stands for. Raises: ValueError for another name."""
        if name == "auto":
            return AUTO[codec]
        if name.upper() not in cls.__members__:
            raise ValueError(f"values {name!r}: expected one of {', '.join(v.name.lower() for v in cls)}")
        return cls[name.upper()]


AUTO = {"dense": Values.FP32, "topk": Values.SIGN1}
"""What "auto" means beside each codec."""
COARSEST = 16.0
"""Of int4 and mxint4, by how much steps may be longer: next to nothing is sent then but the largest elements."""
GROUP = 64
"""Elements of a block, of those that are kept, that share a scale in mxint4."""
GROUPS = BLOCK // GROUP
"""Of a whole block."""
_SCALES = (0, 1, 0, 1, 1, 1, 2, 4, GROUPS)
_CODE_BITS = (32, 16, 16, 8, 4, 0, 1, 2, 4)
