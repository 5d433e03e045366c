"""Taking office: a new run, one that resumes a checkpoint, or the one of which the journal says that it is not over.

Who is told to resume a checkpoint from which the run in the journal was begun continues that run: a service is started
with the same words each time. Whoever continues a run raises its term and journals that before it tells anybody
anything: servers that have obeyed the higher term refuse the lower one, and one that comes from a journal which is
behind.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from coordinator.aside import latest_timeline, put_aside
from coordinator.checkpoints import goes_on, kept_extra
from coordinator.journal import FILE, Journal
from coordinator.journal_check import find_damage
from coordinator.pace import pace_of
from coordinator.records import Began, Record, Reopened, Segment, switching_to
from coordinator.state import State
from wire.checkpoint import Manifest, load_manifest, newest
from wire.config import Config
from wire.errors import ConfigError, DamagedFile, NoInput, UsageError
from wire.rounds import Rounds

log = logging.getLogger(__name__)
OF_THE_PROCESS = frozenset({"security", "telemetry"})
"""Sections that say how this process is watched and whom it trusts: whoever continues a run may have other ones."""


@dataclass(frozen=True)
class Office:
    """What a coordinator begins with.

    Attributes:
        config: effective now; settings that were changed on the live run are changed.
        resumed: the data of the checkpoint that is being resumed (fields of `records.Dataset`).
        again: the run was begun by an earlier coordinator.
    """

    journal: Journal
    state: State
    config: Config
    resumed: Mapping[str, object] | None
    again: bool


def take_office(config: Config, out: Path, resume: Path | None) -> Office:
    """`resume`: a checkpoint, or a run directory: the newest good one in it.

    Raises: UsageError, ConfigError, NoInput, DamagedFile.
    """
    path = out / FILE
    if not path.exists():
        return _begin(config, out, _checkpoint(resume))
    for damage in find_damage(path):
        raise damage
    journal = Journal(path)
    if not journal.seq:  # whoever made it never journaled that it began
        journal.close()
        return _begin(config, out, _checkpoint(resume))
    began, state = _read(journal)
    if resume is None or _was_begun_from(resume, began, state, out):
        return _continue(journal, began, state, config, out)
    journal.close()
    manifest = _checkpoint(resume)
    assert manifest is not None
    if began.checkpoint == str(manifest.path.resolve()) and state.checkpointed is not None:
        raise _over(out, state)  # as a service that is started at every boot
    return _begin(config, out, manifest)


# --- a run that is not over ---------------------------------------------------------------------


def _read(journal: Journal) -> tuple[Began, State]:
    """How the run began, and where it stands."""
    began = next(journal.records())
    if not isinstance(began, Began):
        raise DamagedFile(
            f"{journal.path}: record 1 is no beginning of a run but {began}; restore it from a backup"
        )
    return began, journal.replay(Config.from_json(began.config).sync.units_per_step)


def _was_begun_from(resume: Path, began: Began, state: State, out: Path) -> bool:
    """Whether that is a run that goes on. Raises: UsageError where one goes on that was begun otherwise."""
    if state.dismissed:
        return False
    if began.checkpoint and Path(began.checkpoint).is_relative_to(resume.resolve()):
        log.info("%s is continued: it was begun from %s and is not over", out, began.checkpoint)
        return True
    raise UsageError(
        f"{out} holds a run that is not over, and was begun {_origin_of(began)}; continue it without --resume, or, to "
        f"begin anew from {resume}, give another directory, or move {out / FILE}* away"
    )


def _origin_of(began: Began) -> str:
    return f"from {began.checkpoint}" if began.checkpoint else "without a checkpoint"


def _over(out: Path, state: State) -> UsageError:
    assert state.ended is not None
    return UsageError(
        f"{out} holds a run already, which is over ({state.ended.reason}); give another directory, or continue it "
        f"from its newest checkpoint with --resume {out}"
    )


def _continue(journal: Journal, began: Began, state: State, config: Config, out: Path) -> Office:
    _check_config(began, config, out)
    if state.dismissed:
        raise _over(out, state)
    reopened = Reopened(state.term + 1, secrets.token_hex(16))
    state.apply(reopened)
    journal.append(
        reopened
    )  # durable with the first that the engine commits, before anything is told: it may wait
    needs_data = state.checkpoint and state.dataset is None
    resumed = dict(load_manifest(Path(state.checkpoint)).extra["dataset"]) if needs_data else None
    return Office(journal, state, _as_set(config, state), resumed, again=True)


def _check_config(began: Began, config: Config, out: Path) -> None:
    """Raises: ConfigError, naming the keys that differ."""
    before, now = Config.from_json(began.config).model_dump(), config.model_dump()
    differ = [
        f"{section}.{key} = {now[section][key]!r} (the run's: {before[section][key]!r})"
        for section in now
        if section not in OF_THE_PROCESS
        for key in now[section]
        if now[section][key] != before[section][key]
    ]
    if differ:
        raise ConfigError(
            f"{out} holds a run that is not over and was begun with another configuration: {', '.join(differ)}; "
            f"continue it with `--config {out / 'config.toml'}`, or give another directory"
        )


def _as_set(config: Config, state: State) -> Config:
    """With the mode that an operator asked for last."""
    wanted = state.switching or state.segment
    keys = ("mode", "staleness", "quorum", "deadline_s")
    return config.model_copy(
        update={"sync": config.sync.model_copy(update={key: getattr(wanted, key) for key in keys})}
    )


# --- a new one ------------------------------------------------------------------------------------


def _begin(config: Config, out: Path, manifest: Manifest | None) -> Office:
    if manifest is not None and manifest.extra["streams"] != config.sync.units_per_step:
        raise ConfigError(
            f"sync.units_per_step is {config.sync.units_per_step}, the checkpoint {manifest.path} was written with "
            f"{manifest.extra['streams']} streams; resume with the same"
        )
    if manifest is not None:
        put_aside(out)
    began = _beginning(config, out, manifest)
    journal, state = Journal(out / FILE), State(config.sync.units_per_step)
    first = Segment(0, began.first_step, **vars(switching_to(config)))
    _decide(journal, state, began, first)
    resumed = dict(manifest.extra["dataset"]) if manifest else None
    return Office(journal, state, config, resumed, again=False)


def _decide(journal: Journal, state: State, *records: Record) -> None:
    for record in records:
        state.apply(record)
        journal.append(record)
    journal.commit()


def _checkpoint(resume: Path | None) -> Manifest | None:
    """The checkpoint at `resume` (a step-N directory), or the newest good one of a run directory."""
    if resume is None:
        return None
    path = resume if (resume / "manifest.json").exists() else newest(resume)
    if path is None:
        raise NoInput(f"no complete checkpoint under {resume}; expected {resume}/checkpoints/step-N")
    return load_manifest(path)


def _beginning(config: Config, out: Path, manifest: Manifest | None) -> Began:
    nonce = secrets.token_hex(16)
    if manifest is None:
        run = f"{out.name}-{secrets.token_hex(2)}"
        return Began(run, 1, 1, nonce, first_step=0, checkpoint="", config=config.to_json())
    origin, first_step = _counting(config, manifest)
    deposits = manifest.extra["deposits"] and goes_on(manifest, config)
    return Began(
        manifest.run,
        timeline=max(manifest.timeline, latest_timeline(out)) + 1,
        term=1,
        nonce=nonce,
        first_step=first_step,
        checkpoint=str(manifest.path.resolve()),
        deposits=deposits,
        config=config.to_json(),
        origin=origin,
        handed=not (deposits and pace_of(switching_to(config)).exact) and kept_extra(manifest) is not None,
        norms=tuple(manifest.extra.get("norms", ())),
    )


def _counting(config: Config, manifest: Manifest) -> tuple[int, int]:
    """(origin, first round): as the checkpoint has them where its step begins a round of this run too, else anew."""
    origin, round_ = manifest.extra.get("origin", 0), manifest.extra.get("round", manifest.step)
    fits = Rounds.of(config, origin=origin).until(None).first_step(round_) == manifest.step
    return (origin, round_) if fits and goes_on(manifest, config) else (manifest.step, manifest.step)
