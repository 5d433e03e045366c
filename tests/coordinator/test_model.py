"""The model's way onto the shards: declared, placed, uploaded or restored, once each."""

from __future__ import annotations

from coordinator import actions as a
from coordinator import events as e
from coordinator.core import Core
from tests.coordinator.ground import LAYOUT, SPEC, began, rules
from tests.coordinator.runs import Run
from wire.errors import ModelMismatch, StaleIncarnation
from wire.layout import Layout
from wire.messages import OptimizerSpec

OTHER = Layout(LAYOUT.parameters[:1])
FASTER = OptimizerSpec("sgd", ({"lr": 0.2, "momentum": 0.0},))


def test_the_first_model_is_placed_once_all_servers_are_here() -> None:
    core = Core(rules(), began(4))
    hear = core.handle
    hear(e.Join("ps0", "ps", "ps0", "h:0", "", 0, "h"), 0.0)
    hear(e.Join("w", "worker", "w", "", "cpu", 1, "h"), 0.0)
    assert hear(e.Declare("d", 2, LAYOUT, SPEC), 0.0) == []
    actions = hear(e.Join("ps1", "ps", "ps1", "h:1", "", 0, "h"), 0.0)
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
        core.handle(e.Join(name, "worker", name, "", "cpu", 1, "h"), 0.0)
    core.handle(e.Declare("first", 1, LAYOUT, SPEC), 0.0)
    core.handle(e.Declare("second", 2, OTHER, SPEC), 0.0)
    actions = core.handle(e.Join("ps", "ps", "ps", "h", "", 0, "h"), 0.0)
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
    assert uploads(run, run.hear(e.Uploaded(4))) == {}
    assert uploads(run, run.hear(e.Uploaded(3))) == {"d4": False, "d5": False}
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
        run.hear(e.Beat(i))
    run.configure()
    run.hear(e.BeatsEnded(3))
    run.now = 1.0
    assert uploads(run, run.hear(e.Tick())) == {"d4": True}
    assert uploads(run, run.hear(e.Uploaded(3))) == {} and not run.core.state.loaded


def test_a_worker_given_up_while_it_waits_gets_an_answer() -> None:
    run = Run()
    run.join("w")
    run.declare(3)
    run.now = 16.0
    answers = run.only(a.Answer, run.hear(e.Tick()))
    assert [type(x.value) for x in answers] == [StaleIncarnation]


def test_a_shard_that_was_configured_before_its_line_broke_counts() -> None:
    run = Run()
    run.join("w")
    run.declare(3)
    run.hear(e.ShardAttached(0, 1, False, 0), e.ShardConfigured(0), e.ShardAttached(1, 2, False, 0))
    assert uploads(run, run.hear(e.ShardAttached(1, 2, True, 0))) == {"d3": True}


def test_a_checkpoint_is_restored_once_and_nobody_uploads() -> None:
    run = Run(first_step=4, checkpoint="step-4")
    run.join("w")
    run.declare(3)
    actions = run.configure() + run.hear(e.ShardAttached(0, 1, True, 4))
    assert run.kinds(actions).count("RestoreShards") == 1 and uploads(run, actions) == {}
    assert uploads(run, run.hear(e.ShardRestored())) == {"d3": False}
