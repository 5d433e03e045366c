"""The whole configuration as one frozen tree: its keys, and its ways out and back in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Self

from pydantic import BaseModel, ValidationError, model_validator
from pydantic.fields import FieldInfo

from wire.config.schema import (
    ClusterConfig,
    DataConfig,
    DurabilityConfig,
    ModelConfig,
    OptimizerConfig,
    RunConfig,
    SecurityConfig,
    SyncConfig,
    TelemetryConfig,
)
from wire.config.section import Section
from wire.config.updates import PullConfig, PushConfig, check_falls
from wire.config.words import explain, toml_value
from wire.errors import ConfigError
from wire.words import printable


class Config(Section):
    """The whole tree."""

    run: RunConfig = RunConfig()
    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    sync: SyncConfig = SyncConfig()
    push: PushConfig = PushConfig()
    pull: PullConfig = PullConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    cluster: ClusterConfig = ClusterConfig()
    durability: DurabilityConfig = DurabilityConfig()
    security: SecurityConfig = SecurityConfig()
    telemetry: TelemetryConfig = TelemetryConfig()

    @model_validator(mode="after")
    def _keys_fit_the_arithmetic(self) -> Self:
        """What only a run with local steps reads is a mistake elsewhere, and so is what it cannot do."""
        optimizer, local = self.optimizer, self.sync.is_local
        check_falls("push", self.push, local=local)
        check_falls("pull", self.pull, local=local)
        here = {
            'optimizer.aggregate = "count"': optimizer.aggregate == "count",
            'optimizer.name = "muon"': optimizer.name == "muon",
            "optimizer.weights": optimizer.weights is not None,
            "optimizer.outer_lr": optimizer.outer_lr != 1,
            "optimizer.outer_momentum": optimizer.outer_momentum != 0,
            "sync.warmup_rounds": self.sync.warmup_rounds != 0,
        }
        if not local and (given := [key for key, found in here.items() if found]):
            raise ValueError(
                f"{', '.join(given)} beside sync.mode = {self.sync.mode!r} and one step a unit: only a run with local "
                "steps reads that; set sync.mode=local, or sync.local_steps above 1"
            )
        if local and self.push.feedback == "ef21":
            raise ValueError(
                'push.feedback = "ef21" beside local steps: differences are added up, not estimated; use "ef" or "auto"'
            )
        if local and self.push.feedback == "auto" and self.push.momentum != 1:
            raise ValueError(
                f'push.momentum = {self.push.momentum:g} beside local steps and push.feedback = "auto", which is "ef" '
                'there: only "ef21" reads it; leave it at 1'
            )
        if optimizer.aggregate != "count" and optimizer.count_power != _default(
            OptimizerConfig, "count_power"
        ):
            raise ValueError(
                f'optimizer.count_power = {optimizer.count_power:g} beside optimizer.aggregate = "'
                f'{optimizer.aggregate}": only "count" reads it; set that, or leave count_power out'
            )
        asked = self.sync.look_ahead not in (0, _default(SyncConfig, "look_ahead"))
        if local and self.sync.mode != "local" and asked:
            raise ValueError(
                f"sync.look_ahead = {self.sync.look_ahead:g} beside local steps: only units of one step read it; "
                "leave it out, or set sync.local_steps = 1"
            )
        if optimizer.aggregate == "sum" and optimizer.weights == "tokens":
            raise ValueError(
                'optimizer.weights = "tokens" beside optimizer.aggregate = "sum": there each unit counts whole; leave '
                "one of them out"
            )
        return self

    @model_validator(mode="after")
    def _clipped_pushes_come_back(self) -> Self:
        if self.push.clip and self.sync.mode == "delayed":
            raise ValueError(
                f'push.clip = {self.push.clip:g} beside sync.mode = "delayed": a stream that is handed over there '
                "could not take along what of its last push comes back; set push.clip = 0, or another sync.mode"
            )
        if self.push.clip and self.optimizer.aggregate == "sum":
            raise ValueError(
                f'push.clip = {self.push.clip:g} beside optimizer.aggregate = "sum": there every unit counts in full; '
                'set push.clip = 0, or aggregate "mean"'
            )
        return self

    def to_json(self) -> str:
        return self.model_dump_json()

    @classmethod
    def from_json(cls, text: str | bytes) -> Config:
        """Reads what `to_json` wrote. Raises ConfigError where another build wrote something else."""
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            raise ConfigError(explain(error, dict(fields()), {}, "the coordinator")) from None

    def to_toml(self, origins: Mapping[str, str] | None = None) -> str:
        """The effective configuration; `load` of it gives the same tree. With `origins`, each line tells its own."""
        lines = []
        for section in sections():
            lines += ["", f"[{section}]"]
            for key, value in self.model_dump()[section].items():
                if value is None or (key == "steps" and self.run.epochs is not None):
                    continue
                origin = f"  # {printable(origins[f'{section}.{key}'])}" if origins else ""
                lines.append(f"{key} = {toml_value(value)}{origin}")
        return "\n".join(lines[1:]) + "\n"


def _default(section: type[BaseModel], key: str) -> object:
    return section.model_fields[key].default


def sections() -> Mapping[str, type[BaseModel]]:
    """The sections by name, in order."""
    return {name: _model(field) for name, field in Config.model_fields.items()}


def fields() -> Iterator[tuple[str, FieldInfo]]:
    """Every `section.key` with its field, in order."""
    for section, model in sections().items():
        for key, field in model.model_fields.items():
            yield f"{section}.{key}", field


def _model(field: FieldInfo) -> type[BaseModel]:
    assert isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
    return field.annotation
