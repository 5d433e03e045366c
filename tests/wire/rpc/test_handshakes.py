"""What gRPC says of handshakes on standard error reaches the audit log, and everything else goes where it went."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sparsync.authority import Authority
from tests.credentials import expired, foreign, self_signed
from tests.wire.rpc.test_gate import TRANSPORT, audited, outcome, run, server
from wire.rpc.audit import AUDIT_FILE, Audit
from wire.rpc.channel import open_channel
from wire.rpc.handshakes import METHOD, reason_of, told_handshakes
from wire.rpc.identity import Role, Security

SAID = (
    "I1122 18:12:32.068822   23173 ssl_transport_security.cc:2563] Handshake failed with error SSL_ERROR_SSL: "
    "error:1000007d:SSL routines:OPENSSL_internal:CERTIFICATE_VERIFY_FAILED: certificate has expired"
)
SCRIPT = """
import logging, os, sys
from pathlib import Path
from wire.rpc.audit import Audit
from wire.rpc.handshakes import told_handshakes
logging.basicConfig(stream=sys.stderr, format="%(message)s")
with told_handshakes(Audit(Path(sys.argv[1]))):
    logging.warning("logged within")
    print("printed within", file=sys.stderr)
    os.write(2, b"native within\\n" + b"x" * 200_000 + b"\\nHandshake failed with error SSL_ERROR_SSL: no\\n")
    os.write(2, b"no end")
if len(sys.argv) == 2:
    logging.warning(" logged behind")
    os.write(2, b"native behind\\n")
"""


def test_lines_of_handshakes_are_told_from_others() -> None:
    assert (
        reason_of(SAID) == "SSL routines:OPENSSL_internal:CERTIFICATE_VERIFY_FAILED: certificate has expired"
    )
    assert reason_of("I1122 chttp2_transport.cc:1403] Got goaway [2]") is None


def test_nothing_on_standard_error_is_lost_or_said_twice(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path / AUDIT_FILE)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    within = ["logged within", "printed within", "native within", "x" * 200_000, "Handshake failed", "no end"]
    behind = ["logged behind", "native behind"]
    assert [done.stderr.count(said) for said in (*within, *behind)] == [1] * 8
    assert max(map(done.stderr.index, within)) < min(map(done.stderr.index, behind))
    (line,) = [json.loads(told) for told in (tmp_path / AUDIT_FILE).read_text().splitlines()]
    assert (line["method"], line["reason"], line["result"]) == (METHOD, "no", "refused")


def test_where_standard_error_takes_nothing_native_code_goes_on(tmp_path: Path) -> None:
    """More than a pipe holds is written while the disk is full."""
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, str(tmp_path / AUDIT_FILE), "full"],
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
            stderr=full,
            timeout=60,
            check=False,
        )
    (line,) = [json.loads(told) for told in (tmp_path / AUDIT_FILE).read_text().splitlines()]
    assert (line["method"], done.returncode) == (METHOD, 0)


@pytest.mark.parametrize(
    ("credential", "reason"),
    [
        ("expired", "certificate has expired"),
        ("self-signed", "self signed certificate"),
        ("another authority", "unable to get local issuer certificate"),
    ],
)
def test_who_does_not_get_through_the_handshake_is_written_down(
    credential: str,
    reason: str,
    authority: Authority,
    foreign_authority: Authority,
    member: Any,
    tmp_path: Path,
) -> None:
    def bearer() -> Security:
        out = tmp_path / "stranger"
        if credential == "expired":
            return expired(authority, Role.OPERATOR, "ann", out)
        if credential == "self-signed":
            return self_signed(authority, out)
        return foreign(foreign_authority, authority, Role.OPERATOR, "ann", out)

    async def main() -> None:
        async with server(member(Role.COORDINATOR), tmp_path / "own") as (serving, _):
            channel = open_channel(serving.address, bearer(), role=Role.COORDINATOR, pool="control")
            assert (await outcome(channel, "/sparsync.v1.Coordinator/Stop")).startswith(TRANSPORT)
            await channel.close(None)
        async with asyncio.timeout(10):
            while not (tmp_path / AUDIT_FILE).exists():  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    (tmp_path / "own").mkdir()
    audit = Audit(tmp_path / AUDIT_FILE)
    with told_handshakes(audit):
        run(main())
    audit.close()
    assert reason in audited(tmp_path)[0]["reason"]
