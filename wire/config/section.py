"""What all sections of the configuration share, and the kinds of value that several of them hold."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Count = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Density = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
Weight = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
ValueCode = Literal["auto", "fp32", "fp16", "bf16", "int8", "int4", "sign", "sign1", "sign2", "mxint4"]
Policy = tuple[str, ...] | None


class Section(BaseModel):
    """What all sections share: frozen, strict types, no unknown keys."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")
