"""Who may enter: one process a name, as many servers as are configured, workers that compute alike."""

from __future__ import annotations

import pytest

from coordinator import actions as a
from coordinator import events as e
from coordinator.admission import MOST_FINGERPRINT, address_of, check_words, shown
from tests.coordinator.runs import Run
from wire.errors import ConfigError, ModelMismatch, NameTaken, UsageError


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


@pytest.mark.parametrize("name", ["w", "node1.gpu0", "host name-12", "~" * 255])
def test_names_that_can_be_kept(name: str) -> None:
    check_words("worker", name, "{}" * (MOST_FINGERPRINT // 2))


@pytest.mark.parametrize(
    "name", ["", "w" * 256, "w" * (17 << 20), "w\n", "\x1b[2J", "w\x7f", "größe", "w\u202e"]
)
def test_a_name_that_is_too_long_or_no_text_for_a_terminal_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="is no name for a process of a run") as refusal:
        check_words("worker", name, "")
    assert str(refusal.value).isprintable() and len(str(refusal.value)) < 400


@pytest.mark.parametrize("fingerprint", ["x" * (MOST_FINGERPRINT + 1), "{\n}"])
def test_so_is_a_fingerprint(fingerprint: str) -> None:
    with pytest.raises(UsageError, match="a fingerprint of"):
        check_words("worker", "w", fingerprint)


def test_servers_have_addresses_and_nobody_else() -> None:
    assert address_of("ps", "[fd00::5]:7070") == "[fd00::5]:7070" and address_of("worker", "h:1") == ""
    for other in ("", "node1", "unix:/run/sock", "dns://evil/h:1", "h:1\n", "h" * (17 << 20)):
        with pytest.raises(ConfigError, match="no address") as refusal:
            address_of("ps", other)
        assert len(str(refusal.value)) < 1000


def test_a_hosts_name_is_for_people_to_read() -> None:
    assert (
        shown("node1.example") == "node1.example"
        and shown("a\x1b[2J\n") == "a?[2J?"
        and shown("x" * 999) == "x" * 255
    )
