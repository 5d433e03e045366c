"""A run whose processes speak to each other over mutual TLS: the same bits, and nobody else is let in."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from sparsync.authority import Authority
from tests.cluster.conftest import Starter
from tests.cluster.running import command
from tests.cluster.test_coordinator_restart import PACED
from tests.cluster.test_digests import equal_runs
from wire.errors import Unreachable
from wire.rpc.identity import peer_in

SETTINGS = {"run.steps": 40, "cluster.servers": 2, "durability.stream_state_every": 5}
pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]


def test_over_tls_a_run_computes_the_same_bits(
    train: Starter,
    undisturbed: Callable[[str], dict[str, Any]],
    authority: Authority,
    environ: dict[str, str],
) -> None:
    run = train({"security.authority": authority.directory})
    run.wait_for("joined")  # the first: there is time until the last has come
    looked = command("status", str(run.out), "--json", environ=environ)
    assert looked.returncode == 0 and json.loads(looked.stdout)["insecure"] is False
    plain = command("status", "--coordinator", run.address, environ=environ)
    assert plain.returncode == Unreachable.exit_code
    equal_runs(run.finish(), undisturbed("auto"))


@pytest.mark.slow
def test_a_run_goes_on_under_another_authority_without_a_restart(train: Starter, tmp_path: Path) -> None:
    """All files are replaced; then the coordinator is killed, and all others have to reach its successor.

    That shows a certificate of the new authority and believes no other, so it is reached with the new files alone.
    """
    earlier, later = (
        Authority.create(tmp_path / name, now=datetime.now(UTC)) for name in ("earlier", "later")
    )
    alone = train(SETTINGS, flags=["--workers", "1"], script=[PACED]).finish()
    run = train({**SETTINGS, "security.authority": earlier.directory}, script=[PACED, "--pause", "0.05"])
    run.wait_for_step(5)
    for folder in (run.out / "tls").iterdir():
        role = peer_in((folder / "cert.pem").read_bytes()).role
        assert role is not None
        later.issue(role, folder.name, now=datetime.now(UTC), out=folder)
    shutil.copy(later.directory / "crl.pem", earlier.directory / "crl.pem")
    run.kill(run.pid_of("coordinator"))
    run.wait_for("reopened")
    (run.out / "hurry").touch()
    summary = run.finish()
    assert summary["recoveries"] == 0 and not run.events("died"), run.story()
    equal_runs(summary, alone)


@pytest.mark.slow
def test_certificates_are_changed_and_the_older_ones_revoked_without_a_restart(
    train: Starter, tmp_path: Path
) -> None:
    authority = Authority.create(tmp_path / "authority", now=datetime.now(UTC))
    alone = train(SETTINGS, flags=["--workers", "1"], script=[PACED]).finish()
    run = train({**SETTINGS, "security.authority": authority.directory}, script=[PACED, "--pause", "0.1"])
    run.wait_for_step(5)
    older = [peer_in(path.read_bytes()) for path in (run.out / "tls").glob("*/cert.pem")]
    for peer in older:
        assert peer.role is not None
        authority.issue(
            peer.role, peer.name, now=datetime.now(UTC), out=run.out / "tls" / peer.name, again=True
        )
    for peer in older:
        authority.revoke(peer.serial, now=datetime.now(UTC))
    run.wait_for_step(run.events("step")[-1]["step"] + 10)
    (run.out / "hurry").touch()
    summary = run.finish()
    told = "".join(path.read_text() for path in (run.out / "logs").glob("*.log"))
    assert told.count("an older certificate of ours was refused") > 1
    assert summary["restarts"] == 0 and not run.events("died"), run.story()
    equal_runs(summary, alone)
