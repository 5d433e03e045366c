"""The sections `push` and `pull`: how updates are compressed on their way up and down."""

from __future__ import annotations

from typing import Annotated, Literal, NamedTuple, Self

from pydantic import Field, model_validator

from wire.codec.policy import Rule, rules
from wire.codec.values import COARSEST, Values
from wire.config.arithmetic import default_of, told
from wire.config.section import Density, Policy, Section, ValueCode, Weight

CodecName = Literal["auto", "topk", "dense"]
Coarse = Annotated[float, Field(ge=1, le=COARSEST, allow_inf_nan=False)]
SIGNS = ("sign", "sign1", "sign2")
STEPPED = tuple(values.name.lower() for values in Values if values.stepped)


class PushConfig(Section):
    """Updates on their way up, from workers to parameter servers."""

    codec: CodecName = Field(
        "auto",
        description="`topk` sends the largest elements of each block; `dense` sends all of them; `auto` is `topk` "
        "where a density or values of signs are set, else `dense` in few bits with coarse steps",
    )
    density: Density | None = Field(
        None,
        description=f"share of each block's elements that `topk` sends; without it {told('push.density')}",
    )
    warmup_density: Density | None = Field(
        None,
        description="`topk`: share that the first step's units send; from there it falls, by the same factor a step, "
        "to `push.density` at step `push.warmup_steps`",
    )
    warmup_steps: int = Field(0, ge=0, description="steps over which `push.warmup_density` falls")
    values: ValueCode = Field(
        "auto",
        description="how a sent element is written: exactly, rounded (`int4` with a scale for each block, `mxint4` "
        "with one for each 64 elements), or as its sign with a level of 0, 1 or 2 bits; where the codec is "
        f"`auto` too, `auto` is {told('push.values')}; beside `dense` it is `fp32`, beside `topk` `sign1`",
    )
    coarse: Coarse | None = Field(
        None,
        description="of `int4` and `mxint4`: their steps are so many times those of least error, 1 to 16: fewer bits, "
        f"and more for the feedback to make good. Without it 1 where values were chosen, else {told('push.coarse')}",
    )
    feedback: Literal["auto", "none", "ef", "ef21"] = Field(
        "auto",
        description="what happens to the rest: `ef21` keeps an estimate on both sides, `ef` adds it to the next push, "
        "`none` is for `dense` with values that lose nothing on average (`int8` is then rounded at random); "
        "`auto` takes `none` where it may, else `ef21` for `topk` before AdamW in `sync` without a quorum and in "
        "`delayed`, else `ef`",
    )
    momentum: Weight = Field(
        1.0, description="share η of the new gradient in the average that `ef21` follows; 1: no averaging"
    )
    decay: Weight | None = Field(
        None,
        description="share β of the rest that `ef` keeps from unit to unit; below 1 old gradients are forgotten. "
        f"Without it {told('push.decay')}",
    )
    clip: float = Field(
        0.0,
        ge=0,
        allow_inf_nan=False,
        description="a push whose norm is above so many times the running median of the newest 32 steps counts for "
        "that much only; the rest goes back to its sender, for later pushes. Not in `delayed`. 0: all count in full",
    )
    policy: Policy = Field(
        None,
        description="parameters that are sent whole, as rules `PATTERN=VALUES` of which the first that fits counts; "
        "a pattern is a glob over names, or `1d` for norms and biases. Without it `1d=fp16`, and no rule where "
        "the codec is exact",
    )

    @model_validator(mode="after")
    def _nothing_is_lost_for_good(self) -> Self:
        _rules_of("push", self.policy)  # whatever the feedback
        if self.feedback == "none" and not self._leaves_no_rest:
            raise ValueError(
                f'push.feedback = "none" beside push.codec = "{chosen(self).codec}" with '
                f"{self._named} values would lose what is not sent: "
                'use "ef" or "ef21", or "dense" with fp32, fp16, bf16 or int8'
            )
        return self

    @property
    def _codes(self) -> list[Values]:
        codec, values, _ = chosen(self)
        return [Values.named(values, codec=codec), *(rule.values for rule in _rules_of("push", self.policy))]

    @property
    def _named(self) -> str:
        """The value codes in words; those of the default depend on the mode."""
        first, *others = (code.name.lower() for code in self._codes)
        return ", ".join(["four-bit" if chosen(self).by_default else first, *others])

    @property
    def _leaves_no_rest(self) -> bool:
        """Whether all is sent, and what is rounded is right in the mean."""
        return chosen(self).codec == "dense" and all(code.unbiased for code in self._codes)

    @model_validator(mode="after")
    def _weights_have_their_feedback(self) -> Self:
        """A weight that nothing reads is a mistake."""
        for key, value, reader in (("momentum", self.momentum, "ef21"), ("decay", self.decay, "ef")):
            if value not in (None, 1) and self.feedback not in ("auto", reader):
                raise ValueError(
                    f'push.{key} = {value:g} beside push.feedback = "{self.feedback}": only "{reader}" reads it; '
                    f"leave it at 1, or set push.feedback"
                )
        if self.momentum != 1 and self.feedback == "auto" and chosen(self).codec == "dense":
            raise ValueError(
                f'push.momentum = {self.momentum:g} beside whole blocks, for which push.feedback = "auto" is never '
                '"ef21", which reads it: leave it at 1, or set push.feedback, or push.codec = "topk"'
            )
        if self.decay not in (None, 1) and self.feedback == "auto" and self._leaves_no_rest:
            raise ValueError(
                f'push.decay = {self.decay:g} beside a codec that leaves no rest, for which push.feedback = "auto" is '
                '"none": leave it out, or set push.feedback = "ef", which reads it'
            )
        return self

    @model_validator(mode="after")
    def _codes_fit(self) -> Self:
        _check_coarse("push", self)
        _check_warmup("push", self)
        return self


class PullConfig(Section):
    """Deltas on their way down, from parameter servers to workers."""

    codec: CodecName = Field(
        "auto",
        description="`topk` publishes the largest differences of each block; `dense` publishes all of them, and in "
        "`fp32` x itself; `auto` as of `push.codec`",
    )
    density: Density | None = Field(
        None,
        description=f"share of each block's elements that `topk` publishes; without it {told('pull.density')}",
    )
    warmup_density: Density | None = Field(
        None, description="`topk`: share that the first step's delta publishes; as `push.warmup_density`"
    )
    warmup_steps: int = Field(0, ge=0, description="steps over which `pull.warmup_density` falls")
    values: ValueCode = Field(
        "auto", description="how a published element is written; as `push.values`, rounded to nearest"
    )
    coarse: Coarse | None = Field(
        None,
        description=f"as `push.coarse`. Without it 1 where values were chosen, else {told('pull.coarse')}",
    )
    policy: Policy = Field(None, description="parameters that are published whole; as `push.policy`")

    @model_validator(mode="after")
    def _policy_is_one(self) -> Self:
        _rules_of("pull", self.policy)
        return self

    @model_validator(mode="after")
    def _codes_fit(self) -> Self:
        _check_coarse("pull", self)
        _check_warmup("pull", self)
        return self


class Chosen(NamedTuple):
    """The codec and the values of one way; by_default: nobody asked for these values, and local steps have others."""

    codec: Literal["topk", "dense"]
    values: ValueCode
    by_default: bool


def chosen(way: PushConfig | PullConfig) -> Chosen:
    """What "auto" stands for."""
    if way.codec != "auto":
        return Chosen(way.codec, way.values, by_default=False)
    if way.density is not None or way.warmup_density is not None or way.values in SIGNS:
        return Chosen("topk", way.values, by_default=False)
    by_default = way.values == "auto"
    return Chosen("dense", default_of("push.values", local=False) if by_default else way.values, by_default)


def _check_coarse(section: str, way: PushConfig | PullConfig) -> None:
    """Raises: ValueError where nothing reads the key."""
    codec, values, _ = chosen(way)
    if way.coarse not in (None, 1) and values not in STEPPED:
        raise ValueError(
            f'{section}.coarse = {way.coarse:g} beside {section}.codec = "{codec}" and {section}.values = "{values}": '
            f'only "int4" and "mxint4" read it; leave it out, or set {section}.values'
        )


def _check_warmup(section: str, way: PushConfig | PullConfig) -> None:
    """Raises: ValueError where the keys of a density warm-up do not fit each other."""
    first, steps = way.warmup_density, way.warmup_steps
    if (first is None) != (steps == 0):
        raise ValueError(
            f"{section}.warmup_density = {'none' if first is None else f'{first:g}'} beside {section}.warmup_steps = "
            f"{steps}: set both, or neither"
        )
    if first is not None and chosen(way).codec != "topk":
        raise ValueError(
            f'{section}.warmup_density = {first:g} beside {section}.codec = "{way.codec}": only "topk" leaves '
            "anything out"
        )


def check_falls(section: str, way: PushConfig | PullConfig, *, local: bool) -> None:
    """Raises: ValueError where a density warm-up would rise."""
    first, last = way.warmup_density, way.density
    if last is None:
        last = default_of(f"{section}.density", local=local)
    if first is not None and first < last:
        raise ValueError(
            f"{section}.warmup_density = {first:g} is below {section}.density = {last:g}: the first steps are denser, "
            "or as dense"
        )


def _rules_of(section: str, policy: tuple[str, ...] | None) -> tuple[Rule, ...]:
    """Raises: ValueError for a rule that is none."""
    try:
        return rules(policy or ())
    except ValueError as error:
        raise ValueError(f"{section}.policy: {error}") from None
