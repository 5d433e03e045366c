"""Who may enter: one process a name, as many servers as are configured, workers that compute alike."""

from __future__ import annotations

from coordinator import actions as a
from coordinator import events as e
from tests.coordinator.runs import Run
from wire.errors import ModelMismatch, NameTaken


def test_a_name_in_use_is_refused() -> None:
    run = Run()
    run.join("w")
    refusal = run.join("w")
    assert isinstance(refusal, NameTaken) and "named 'w' is in the run already" in str(refusal)


def test_a_server_too_many_is_refused() -> None:
    refusal = Run().hear(e.Join("k", "ps", "ps9", "h:9", "", 0, "h"))[0]
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
    run.hear(e.BeatsEnded(3), e.BeatsEnded(4))
    run.now = 1.0
    run.hear(e.Tick())
    assert isinstance(run.join("v", fingerprint="gpu"), ModelMismatch)
    assert isinstance(run.join("v"), a.Joined)
