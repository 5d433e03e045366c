"""The run's life: joining, the model, the data, bad news, the end. Scripts tell the rest (tests/scenarios)."""

from __future__ import annotations

import subprocess
import sys

import pytest

from coordinator import actions as a
from coordinator import records as r
from coordinator.core import Core
from tests.coordinator.ground import LAYOUT, SPEC, began, rules
from tests.coordinator.runs import Run
from wire.errors import (
    DamagedFile,
    DataRefused,
    ModelMismatch,
    NameTaken,
    RunOver,
    SparsyncError,
    StaleIncarnation,
)
from wire.layout import Layout
from wire.messages import OptimizerSpec

OTHER = Layout(LAYOUT.parameters[:1])
FASTER = OptimizerSpec("sgd", ({"lr": 0.2, "momentum": 0.0},))


def test_the_coordinator_stays_light() -> None:
    """Resident memory ≤ 120 MB: the deciding code brings neither torch nor numba nor numpy."""
    heavy = ["torch", "numba", "numpy"]
    code = f"import coordinator.core, sys; print([m for m in {heavy} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


# --- joining


def test_incarnations_are_never_given_twice() -> None:
    run = Run()
    first = run.join("w").incarnation
    run.hear(a.BeatsEnded(first))
    run.now = 1.0
    run.hear(a.Tick())
    assert run.join("w").incarnation == first + 1 == 4


def test_a_name_in_use_is_refused() -> None:
    run = Run()
    run.join("w")
    refusal = run.join("w")
    assert isinstance(refusal, NameTaken) and "named 'w' is in the run already" in str(refusal)


def test_a_server_too_many_is_refused() -> None:
    refusal = Run().hear(a.Join("k", "ps", "ps9", "h:9", "", 0, "h"))[0]
    assert isinstance(refusal, a.Answer) and "cluster.servers" in str(refusal.value)


def test_other_numerics_are_refused_or_told() -> None:
    run = Run()
    run.join("w")
    assert isinstance(run.join("v", fingerprint="gpu"), ModelMismatch) and run.core.pure
    mixed = Run(mixed_fingerprints=True)
    mixed.join("w")
    assert isinstance(mixed.join("v", fingerprint="gpu"), a.Joined) and not mixed.core.pure


def test_other_numerics_are_refused_though_everybody_died() -> None:
    run = Run().begin()
    run.accept(0, 0, 1, 2, 3)
    run.hear(a.BeatsEnded(3), a.BeatsEnded(4))
    run.now = 1.0
    run.hear(a.Tick())
    assert isinstance(run.join("v", fingerprint="gpu"), ModelMismatch)
    assert isinstance(run.join("v"), a.Joined)


@pytest.mark.parametrize("event", [a.Attending, a.Progressed, a.WorkerLeaving, a.WorkerFailed, a.Ready])
def test_who_is_out_of_the_run_is_told_so(event: type) -> None:
    run = Run().begin()
    rest = {a.Progressed: (1.0,), a.WorkerLeaving: ("",), a.WorkerFailed: ("ScriptFailed", "", True)}
    arguments = rest.get(event, (1, "d", 2, 1, True, 0) if event is a.Ready else ())
    before = run.core.state.ended
    with pytest.raises(StaleIncarnation, match="never joined"):
        run.hear(event(99, *arguments))
    assert run.core.state.ended == before


# --- the model


def test_the_first_model_is_placed_once_all_servers_are_here() -> None:
    core = Core(rules(), began(4))
    hear = core.handle
    hear(a.Join("ps0", "ps", "ps0", "h:0", "", 0, "h"), 0.0)
    hear(a.Join("w", "worker", "w", "", "cpu", 1, "h"), 0.0)
    assert hear(a.Declare("d", 2, LAYOUT, SPEC), 0.0) == []
    actions = hear(a.Join("ps1", "ps", "ps1", "h:1", "", 0, "h"), 0.0)
    assert any(isinstance(action, a.OpenShards) for action in actions)
    assert core.state.layout == LAYOUT and core.state.optimizer == SPEC
    assert [s.address for s in core.state.placement] == ["h:0", "h:1"]


def test_a_second_model_must_be_the_same() -> None:
    run = Run()
    for name in "wvu":
        run.join(name)
    run.declare(3)
    assert "only here [], only there ['b']" in str(run.answer(run.declare(4, layout=OTHER)))
    assert "its optimizer is sgd" in str(run.answer(run.declare(5, spec=FASTER)))


def test_models_that_wait_are_compared_with_the_one_that_is_placed() -> None:
    core = Core(rules(servers=1), began(4))
    for name in "wv":
        core.handle(a.Join(name, "worker", name, "", "cpu", 1, "h"), 0.0)
    core.handle(a.Declare("first", 1, LAYOUT, SPEC), 0.0)
    core.handle(a.Declare("second", 2, OTHER, SPEC), 0.0)
    actions = core.handle(a.Join("ps", "ps", "ps", "h", "", 0, "h"), 0.0)
    (refusal,) = [x for x in actions if isinstance(x, a.Answer) and x.key == "second"]
    assert isinstance(refusal.value, ModelMismatch)


def uploads(run: Run, actions: list[a.Action]) -> dict[str, bool]:
    answers = run.only(a.Answer, actions)
    return {x.key: x.value.upload for x in answers if isinstance(x.value, a.Declared)}


def test_one_worker_uploads_and_the_others_wait() -> None:
    run = Run()
    for i in (3, 4, 5):
        run.join(f"w{i}")
        run.declare(i)
    assert uploads(run, run.configure()) == {"d3": True}
    assert uploads(run, run.hear(a.Uploaded(4))) == {}
    assert uploads(run, run.hear(a.Uploaded(3))) == {"d4": False, "d5": False}
    run.join("late")
    assert uploads(run, run.declare(6)) == {"d6": False}


def test_the_uploader_that_asks_again_is_told_again() -> None:
    run = Run()
    run.join("w")
    run.declare(3)
    assert uploads(run, run.configure()) == {"d3": True}
    assert uploads(run, run.declare(3, key="again")) == {"again": True}


def test_the_uploader_dies_and_the_next_one_uploads() -> None:
    run = Run()
    for i in (3, 4):
        run.join(f"w{i}")
        run.declare(i)
        run.hear(a.Beat(i))
    run.configure()
    run.hear(a.BeatsEnded(3))
    run.now = 1.0
    assert uploads(run, run.hear(a.Tick())) == {"d4": True}
    assert uploads(run, run.hear(a.Uploaded(3))) == {} and not run.core.state.loaded


def test_a_worker_given_up_while_it_waits_gets_an_answer() -> None:
    run = Run()
    run.join("w")
    run.declare(3)
    run.now = 16.0
    answers = run.only(a.Answer, run.hear(a.Tick()))
    assert [type(x.value) for x in answers] == [StaleIncarnation]


def test_a_shard_that_was_configured_before_its_line_broke_counts() -> None:
    run = Run()
    run.join("w")
    run.declare(3)
    run.hear(a.ShardAttached(0, 1, False, 0), a.ShardConfigured(0), a.ShardAttached(1, 2, False, 0))
    assert uploads(run, run.hear(a.ShardAttached(1, 2, True, 0))) == {"d3": True}


def test_a_checkpoint_is_restored_once_and_nobody_uploads() -> None:
    run = Run(first_step=4, checkpoint="step-4")
    run.join("w")
    run.declare(3)
    actions = run.configure() + run.hear(a.ShardAttached(0, 1, True, 4))
    assert run.kinds(actions).count("RestoreShards") == 1 and uploads(run, actions) == {}
    assert uploads(run, run.hear(a.ShardRestored())) == {"d3": False}


def test_a_server_started_anew_has_lost_its_shard() -> None:
    run = Run().begin()
    run.hear(a.ShardAttached(1, 77, False, 0))
    assert run.core.state.ended is not None and run.core.state.ended.error == "ServerLost"


# --- the data


@pytest.mark.parametrize(
    ("samples", "batch_size", "accumulate", "epochs", "steps"),
    [(100, 2, 1, 1, 13), (96, 2, 1, 1, 12), (97, 2, 1, 2, 26), (1, 8, 4, 3, 3), (100, 2, 2, 1, 7)],
)
def test_steps_of_epochs(samples: int, batch_size: int, accumulate: int, epochs: int, steps: int) -> None:
    """ceil(samples / (batch · accumulate · streams)) steps an epoch: units never span two."""
    run = Run(steps=None, epochs=epochs)
    run.declare(run.join("w").incarnation)
    run.ready(3, samples=samples, batch_size=batch_size, accumulate=accumulate)
    assert run.core.state.dataset is not None and run.core.state.dataset.total_steps == steps


@pytest.mark.parametrize(
    ("changes", "data", "told"),
    [
        ({}, {"samples": 0}, "the dataset is empty"),
        ({"steps": None, "epochs": 1}, {"samples": 0, "batch_size": 0}, "run.epochs needs a dataset"),
        ({"first_step": 10, "checkpoint": "c"}, {}, "nothing is left to do"),
    ],
)
def test_data_that_gives_no_run(changes: dict[str, object], data: dict[str, object], told: str) -> None:
    run = Run(**changes)  # type: ignore[arg-type]
    run.declare(run.join("w").incarnation)
    run.ready(3, **data)
    assert run.core.state.ended is not None and told in run.core.state.ended.reason
    assert run.core.state.ended.error == DataRefused.__name__


def test_other_data_is_refused_by_name_and_the_run_goes_on() -> None:
    run = Run().begin()
    run.declare(run.join("w9").incarnation)
    (order,) = run.only(a.Tell, run.ready(5, digest="e"))
    assert order.incarnation == 5 and isinstance(order.order, a.End) and "w9" in order.order.reason
    assert run.core.state.ended is None


# --- the end


def test_a_worker_whose_failure_is_everybodys_ends_the_run() -> None:
    run = Run().begin()
    actions = run.hear(a.WorkerFailed(3, "ScriptFailed", "boom", True))
    assert run.core.state.ended == r.Ended("worker w0: boom", "ScriptFailed")
    assert run.kinds(actions)[-1] == "Quit"


def test_a_worker_that_fails_alone_is_a_death() -> None:
    run = Run().begin()
    run.hear(a.WorkerFailed(3, "ScriptFailed", "boom", False))
    assert run.core.state.ended is None and run.core.state.members[3].dead


def test_nobody_joins_what_is_over() -> None:
    run = Run().begin()
    run.hear(a.ShardRefused(0, "DamagedFile", "disk"))
    assert isinstance(run.join("late"), RunOver)
    assert run.hear(a.Tick(), a.Progressed(3, 1.0)) == []


def test_who_declares_too_late_learns_how_it_ended() -> None:
    run = Run().begin()
    run.hear(a.ShardRefused(0, "DamagedFile", "disk"))
    (answer,) = run.only(a.Answer, run.declare(3))
    assert isinstance(answer.value, DamagedFile) and answer.key == "d3"


def test_a_shard_whose_line_broke_at_the_end_is_told_to_finish() -> None:
    run = Run().begin()
    run.hear(a.StopAsked("s", "why"))
    assert run.hear(a.ShardAttached(1, 2, True, 0)) == [
        a.Command(1, a.FinishShard("stopped before the first closed step: why"))
    ]


def test_who_waits_when_the_run_ends_gets_the_error() -> None:
    run = Run()
    run.join("w")
    run.declare(3)
    actions = run.hear(a.StopAsked("s", "why"))
    (answer,) = [x for x in run.only(a.Answer, actions) if x.key == "d3"]
    assert isinstance(answer.value, SparsyncError) and "before the first closed step" in str(answer.value)


def test_the_deciding_code_reveals_nothing_before_it_is_journaled() -> None:
    run = Run().begin()
    kinds = run.kinds(run.accept(0, 0, 1, 2, 3))
    assert kinds[:2] == ["Journal", "Command"]
