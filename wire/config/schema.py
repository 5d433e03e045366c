"""The sections of the configuration: what each key is, what it accepts, and which keys must fit each other.

docs/configuration.md is made from the descriptions below, and those of `push` and `pull` in updates.py.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from wire.config.arithmetic import default_of, told
from wire.config.section import Count, Seconds, Section


class RunConfig(Section):
    """The training job as a whole."""

    seed: int = Field(
        0, ge=0, lt=2**63, description="seeds the initial model, the order of samples and all random numbers"
    )
    steps: Count = Field(
        300, description="steps to train; ignored when `run.epochs` is given (giving both is an error)"
    )
    epochs: Count | None = Field(None, description="passes over the data, instead of `run.steps`")
    checkpoint_every: int = Field(0, ge=0, description="steps between checkpoints; 0: only at the end")
    keep_checkpoints: int = Field(
        3,
        ge=0,
        description="checkpoints that stay in the run directory: once one more is whole and was read back, the oldest "
        "beyond these goes; 0: all stay",
    )
    on_bad_unit: Literal["stop", "skip"] = Field(
        "stop",
        description="what happens when the same unit is bad (NaN or Inf) three times: "
        "end the run, or count it as empty",
    )
    eval_every: int = Field(
        50, ge=0, description="steps between evaluations of the built-in trainer; 0: only at the end"
    )


class ModelConfig(Section):
    """The built-in language model; a script of your own does not read it."""

    layers: Count = Field(4, description="transformer blocks")
    width: Count = Field(256, description="size of the residual stream; a multiple of `model.heads`")
    heads: Count = Field(4, description="attention heads")

    @model_validator(mode="after")
    def _heads_divide_width(self) -> Self:
        if self.width % self.heads:
            raise ValueError(
                f"model.width = {self.width} is no multiple of model.heads = {self.heads}; change one of them"
            )
        return self


class DataConfig(Section):
    """What is trained on."""

    source: str = Field(
        "stdlib",
        min_length=1,
        description="name of a corpus (`sparsync data list`), or a file or directory of text",
    )
    seq_len: Count = Field(128, description="tokens a sample")
    batch_size: Count = Field(4, description="samples a unit of the built-in trainer")
    cache_dir: str | None = Field(
        None, description="where prepared tokens are kept; without it, the user's cache directory"
    )


class SyncConfig(Section):
    """How workers keep in step."""

    mode: Literal["sync", "delayed", "ssp", "async", "local"] = Field(
        "sync",
        description="pace of the run: `sync` closes a step when every unit of it is in; `delayed` does so too, but "
        "computes a step's units on the model that the step before began with, so that communication hides behind "
        "compute; `ssp` settles units on arrival and bounds how far ahead the fastest stream may be; `async` settles "
        "on arrival, without a bound; `local` keeps the pace of `sync` (with `sync.staleness` that of `ssp`), with "
        "`sync.local_steps` steps to a unit. "
        "Live: `sparsync set sync.mode=async`",
    )
    local_steps: Count | None = Field(
        None,
        description="steps that a worker's own optimizer takes for one unit (H), before it pushes the difference to "
        "the servers' outer optimizer. 1: in `local` the same, in other modes the servers run the optimizer. "
        f"Without it {told('sync.local_steps')}",
    )
    warmup_rounds: int = Field(
        0,
        ge=0,
        description="local steps: units of each stream, in the beginning, that take `sync.warmup_local_steps` steps",
    )
    warmup_local_steps: Count = Field(
        1, description="`sync.warmup_rounds`: steps of a unit in the beginning, at most `sync.local_steps`"
    )
    staleness: Count | None = Field(
        None,
        description="`ssp`: steps that a stream may be ahead of the slowest one; without it, 3. `delayed`: 1, and "
        "nothing else. `local`: rounds, and without it none. Live",
    )
    look_ahead: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(
        2.5,
        description="`delayed`, `ssp`, `async` and `sync.quorum`, with one step a unit: gradients are computed where "
        "the model is going. `delayed`: by its momentum, and this many times what the stream's unit on its way is "
        "expected to do; else this many times the way that it is expected to go at its last move's pace. 0: on the "
        "model as it is",
    )
    quorum: Count | None = Field(
        None,
        description="`sync`, `local`: close a step with this many of its units once `sync.deadline_s` is over, and "
        "settle the others late; the result then depends on the machines. Without it, all. Live",
    )
    deadline_s: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(
        1.0, description="`sync.quorum`: how long a step waits for all its units. Live"
    )
    damping: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(
        0.5,
        description="a unit that is τ steps stale counts by (1 + max(0, τ - 1)) to the power of minus this; the rest "
        'goes back to its sender. 0 (and `optimizer.aggregate = "sum"`): in full',
    )
    max_staleness: Annotated[float, Field(gt=0, allow_inf_nan=False)] = Field(
        8.0, description="a unit that is more steps stale goes back to its sender whole (not with `sum`)"
    )
    units_per_step: Count = Field(
        4,
        description="streams that a step is cut into; the result depends on it, and never on the number of workers. "
        "In `ssp` and `async` no less than their number: with fewer, units are more than a step late",
    )

    @model_validator(mode="after")
    def _keys_fit_the_mode(self) -> Self:
        if (
            self.staleness is not None
            and self.mode not in ("ssp", "local")
            and (self.mode, self.staleness) != ("delayed", 1)
        ):
            raise ValueError(
                f"sync.staleness = {self.staleness} beside sync.mode = {self.mode!r}: only `ssp` and `local` have a "
                "bound to set; in `delayed` it is 1"
            )
        if self.quorum is not None and self.mode not in ("sync", "local"):
            raise ValueError(
                f"sync.quorum = {self.quorum} beside sync.mode = {self.mode!r}: only `sync` and `local` close steps "
                "short"
            )
        if self.quorum is not None and self.staleness is not None:
            raise ValueError(
                f"sync.quorum = {self.quorum} beside sync.staleness = {self.staleness}: with a bound units settle on "
                "arrival, no step is closed; leave one of them out"
            )
        if self.quorum is not None and self.quorum > self.units_per_step:
            raise ValueError(
                f"sync.quorum = {self.quorum} is more than sync.units_per_step = {self.units_per_step}"
            )
        return self

    @model_validator(mode="after")
    def _warmup_is_short(self) -> Self:
        if self.warmup_local_steps != 1 and not self.warmup_rounds:
            raise ValueError(
                f"sync.warmup_local_steps = {self.warmup_local_steps} beside sync.warmup_rounds = 0: there is no "
                "warm-up to read it; set warmup_rounds, or leave both out"
            )
        if self.warmup_rounds and self.warmup_local_steps > self.steps_a_round:
            raise ValueError(
                f"sync.warmup_local_steps = {self.warmup_local_steps} is more than the {self.steps_a_round} steps of a "
                "unit (sync.local_steps): a run begins with fewer, or leave sync.warmup_rounds at 0"
            )
        return self

    @property
    def is_local(self) -> bool:
        """Whether workers step their own optimizer, and the servers one on what comes of it."""
        return self.mode == "local" or (self.local_steps or 1) > 1

    @property
    def steps_a_round(self) -> int:
        """H."""
        return self.local_steps or int(default_of("sync.local_steps", local=self.is_local))


class OptimizerConfig(Section):
    """The optimizer: `aggregate`, `count_power`, `weights`, `outer_*` for any script, the rest for the built-in one."""

    name: Literal["adamw", "sgd", "muon"] | None = Field(
        None,
        description="which optimizer the built-in trainer takes: the servers run it, or with local steps the workers. "
        f"`muon`, with local steps only: Muon for the matrices between embedding and head, AdamW for all else; "
        f"learning rates mean the same for both. Without it {told('optimizer.name')}",
    )
    lr: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = Field(
        None, description=f"peak learning rate. Without it {told('optimizer.lr')}"
    )
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(
        0.1, description="weight decay of matrices"
    )
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = Field(
        (0.9, 0.95),
        description="AdamW's decay rates of the first and second moment; the first is better low with `ef21`, whose "
        "estimates lag like momentum (benchmarks/results/codec_defaults.md)",
    )
    schedule: Literal["cosine", "linear", "constant"] = Field(
        "cosine",
        description="how the learning rate goes on after the warm-up: it falls to `optimizer.min_lr_ratio` as a half "
        "cosine or in a straight line until the run ends, or stays; by the step of the unit, in every mode",
    )
    warmup_steps: int = Field(
        60,
        ge=0,
        description="steps over which the learning rate rises from 0; by 2e-5 a step or little more where units may "
        "be late (`async`, `ssp`, a quorum: docs/numerics.md)",
    )
    min_lr_ratio: Annotated[float, Field(ge=0, le=1)] = Field(
        0.1, description="learning rate at the end, as a share of the peak; not read by `constant`"
    )
    aggregate: Literal["mean", "sum", "count"] = Field(
        "mean",
        description="how the units of a step become one gradient; `count`, with local steps: by how many of the units "
        "sent an element (`optimizer.count_power`)",
    )
    count_power: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = Field(
        0.5,
        description="`count`: of R units n sent an element; their sum there is divided by n to the power of this times "
        "R to the power of the rest. 0 is the mean over all, 1 the mean over those that sent it; units settled on "
        "arrival know no n, and count R to this power times as much",
    )
    weights: Literal["uniform", "tokens"] | None = Field(
        None,
        description="local steps, not with `sum`: what a unit counts beside others, each the same or by its tokens. "
        f"Without it {told('optimizer.weights')}",
    )
    outer_lr: Annotated[float, Field(gt=0, allow_inf_nan=False)] = Field(
        1.0, description="local steps: learning rate α of the servers' outer SGD on the workers' differences"
    )
    outer_momentum: Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)] = Field(
        0.0, description="local steps: momentum of the outer SGD; of use where pushes are dense"
    )
    outer_nesterov: bool = Field(
        False, description="local steps: Nesterov's form of that momentum, as DiLoCo has it"
    )

    @model_validator(mode="after")
    def _nesterov_has_momentum(self) -> Self:
        if self.outer_nesterov and not self.outer_momentum:
            raise ValueError(
                "optimizer.outer_nesterov = true beside optimizer.outer_momentum = 0: it needs momentum, as 0.9"
            )
        return self


class ClusterConfig(Section):
    """Processes, their time limits and their memory."""

    servers: Count = Field(2, description="parameter servers; the run begins when all are there")
    workers: Count = Field(2, description="workers; those beyond `sync.units_per_step` stand by as spares")
    min_workers: Count | None = Field(
        None,
        description="workers that must be there for the run to begin; without it, all of `cluster.workers`",
    )
    compute_threads: Count = Field(
        1, description="threads that each process computes with; the result may depend on it"
    )
    planes: Literal["auto", "host", "device"] = Field(
        "auto",
        description="where workers keep the published model, gradients and residuals, and compress: in host memory, or "
        "on the device that the model is on. `auto`: there where it is a GPU. The bits are the same; GPU memory pays "
        "4 bytes a parameter for the gradient, and as many for each stream's residual",
    )
    restarts: int = Field(3, ge=0, description="times that `sparsync train` starts each dead role again")
    admit_bytes: int = Field(
        256 * 2**20,
        ge=2**20,
        description="bytes of pushes that a server holds at once; beyond that it answers `Busy`. At least one step of "
        "them, in `delayed` two, under a quorum also the late ones of 8 steps: `units_per_step` - `quorum` each",
    )
    heartbeat_interval_s: Seconds = Field(1.0, description="time between two heartbeats of a process")
    suspect_s: Seconds = Field(3.0, description="silence after which a process is shown as suspect")
    dead_s: Seconds = Field(
        4.8, description="silence after which a process is given up and its units go to others"
    )
    straggler_s: Seconds = Field(
        5.0,
        description="a live worker whose unit takes longer than this and than three median units, while another one "
        "waits, is given up; it comes back by itself and is dealt work by its speed. Not in `async`: nobody waits",
    )
    progress_timeout_s: Seconds = Field(
        60.0, description="time without progress on a unit after which a live worker is given up"
    )
    allow_mixed_fingerprints: bool = Field(
        False,
        description="admit workers whose torch build, device or CPU differ; the result is then not reproducible",
    )

    @property
    def workers_to_begin(self) -> int:
        """Workers that must have joined for the run to begin."""
        return self.workers if self.min_workers is None else self.min_workers

    @model_validator(mode="after")
    def _limits_in_order(self) -> Self:
        if not self.heartbeat_interval_s < self.suspect_s < self.dead_s:
            raise ValueError(
                f"cluster.heartbeat_interval_s = {self.heartbeat_interval_s:g}, suspect_s = {self.suspect_s:g} and "
                f"dead_s = {self.dead_s:g} must rise in this order"
            )
        if self.min_workers is not None and self.min_workers > self.workers:
            raise ValueError(
                f"cluster.min_workers = {self.min_workers} is more than cluster.workers = {self.workers}"
            )
        return self


class DurabilityConfig(Section):
    """What survives which failure."""

    ack: Literal["memory", "os", "disk"] = Field(
        "os",
        description="how safe a push is when it is acknowledged: in the server's `memory` alone; with the operating "
        "system (`os`), where it survives the end of the process; on `disk`, where it survives a power failure",
    )
    replicas: Literal[0, 1] = Field(
        0,
        description="standby servers a shard, which survive the loss of a server's machine; with 1 twice "
        "`cluster.servers` server processes are needed",
    )
    stream_state_every: Count = Field(
        32,
        description="units of a stream between two deposits of its state (residual, buffers, with local steps the "
        "moments of the worker's optimizer); an heir replays at most these",
    )


class SecurityConfig(Section):
    """Who may connect. Without TLS every server listens on loopback only."""

    insecure: bool = Field(
        False, description="listen beyond loopback without TLS; logged, and shown in status"
    )
    tls_ca: str | None = Field(
        None, description="PEM file of the authority that signs every role's certificate"
    )
    tls_cert: str | None = Field(None, description="PEM file of this process's certificate")
    tls_key: str | None = Field(None, description="PEM file of its private key")
    tls_crl: str | None = Field(
        None,
        description="PEM file of the authority's list of revoked certificates; looked at each second by each role",
    )
    authority: str | None = Field(
        None,
        description="directory of `sparsync certs init`, for `sparsync train`: it issues each process a certificate",
    )

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        """Whether the files are whole is known with the flags only, each of which stands for one (`Security.tls`)."""
        files = any((self.tls_ca, self.tls_cert, self.tls_key))
        if self.authority is not None and (self.insecure or files):
            raise ValueError("security.authority beside TLS files or insecure = true: remove one of the two")
        if self.insecure and files:
            raise ValueError("security.insecure = true beside TLS files: remove one of the two")
        return self


class TelemetryConfig(Section):
    """What is shown and logged."""

    live: Literal["auto", "table", "plain", "off"] = Field(
        "auto",
        description="progress shown: a live table, plain lines, nothing; `auto` takes the table on a terminal",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="least severe level that is logged"
    )
    log_format: Literal["text", "json"] = Field(
        "text",
        description="lines of the roles' logs: text, or one JSON object a line with role, id and clock as fields; "
        "`--log-format` of a role goes first",
    )
    metrics: str | None = Field(
        None,
        min_length=1,
        description="HOST:PORT where each role serves metrics for Prometheus (docs/metrics.md), with its own TLS; "
        "with port 0 any free one, which stands in `metrics/` of the run directory. `--metrics` of a role goes first; "
        "without either none are served",
    )
    trace: bool = Field(
        False,
        description="each role writes what it does and when into `trace.jsonl` of its directory, the newest 64 MiB; "
        "`sparsync trace` makes one picture of them",
    )
