"""A run whose processes speak to each other over mutual TLS: the same bits, and nobody else is let in."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from sparsync.authority import Authority
from tests.cluster.conftest import Starter
from tests.cluster.running import command
from wire.errors import Unreachable

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(200)]


def test_over_tls_a_run_computes_the_same_bits(
    train: Starter,
    undisturbed: Callable[[str], dict[str, Any]],
    authority: Authority,
    environ: dict[str, str],
) -> None:
    run = train({"push.codec": "topk", "pull.codec": "topk", "security.authority": authority.directory})
    run.wait_for("joined")  # the first: there is time until the last has come
    looked = command("status", str(run.out), "--json", environ=environ)
    assert looked.returncode == 0 and json.loads(looked.stdout)["insecure"] is False
    plain = command("status", "--coordinator", run.address, environ=environ)
    assert plain.returncode == Unreachable.exit_code
    summary, plain_summary = run.finish(), undisturbed("topk")
    for digest in ("params_digest", "published_digest"):
        assert summary[digest] == plain_summary[digest]
