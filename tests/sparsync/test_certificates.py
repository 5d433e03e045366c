"""Certificates as others read them: openssl, and a verifier that is not ours."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from sparsync.authority import Authority, expiring, read_list
from sparsync.certificates import BACK, DAYS, issue, new_authority
from wire.errors import ConfigError, UsageError
from wire.rpc.identity import Peer, Role, Security

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)


def san(certificate: x509.Certificate) -> tuple[list[str], list[str]]:
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    return uris, names.get_values_for_type(x509.DNSName)


def test_what_stands_in_a_certificate() -> None:
    authority = new_authority("test", now=NOW)
    for role in Role:
        found = issue(authority, Peer(role, "node1", ""), now=NOW).certificate
        serves = role in (Role.COORDINATOR, Role.PS, Role.WORKER)
        assert san(found) == ([f"sparsync://{role}/node1"], [f"{role}.sparsync"] if serves else [])
        assert found.not_valid_before_utc == NOW - timedelta(hours=2)
        assert found.not_valid_after_utc == NOW + timedelta(days=DAYS[role])
        usage = found.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        assert (x509.ExtendedKeyUsageOID.SERVER_AUTH in usage) is serves


def test_another_verifier_takes_it_for_its_role_only() -> None:
    authority = new_authority("test", now=NOW)
    policy = PolicyBuilder().store(Store([authority.certificate])).time(NOW)
    for role in (Role.COORDINATOR, Role.PS):
        found = issue(authority, Peer(role, "x", ""), now=NOW).certificate
        policy.build_server_verifier(x509.DNSName(f"{role}.sparsync")).verify(found, [])
        policy.build_client_verifier().verify(found, [])
    worker = issue(authority, Peer(Role.WORKER, "x", ""), now=NOW).certificate
    policy.build_client_verifier().verify(worker, [])
    with pytest.raises(VerificationError):
        policy.build_server_verifier(x509.DNSName("coordinator.sparsync")).verify(worker, [])
    late = PolicyBuilder().store(Store([authority.certificate])).time(NOW + timedelta(days=366))
    with pytest.raises(VerificationError):
        late.build_client_verifier().verify(worker, [])


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the openssl command")
def test_openssl_verifies_chain_and_list(tmp_path: Path) -> None:
    now = datetime.now(UTC)
    authority = Authority.create(tmp_path / "ca", now=now)
    _, files = authority.issue(Role.WORKER, "node1", now=now)
    crl = authority.directory / "crl.pem"
    command = [
        "openssl",
        "verify",
        "-x509_strict",
        "-crl_check",
        "-CAfile",
        files.ca,
        "-CRLfile",
        crl,
        files.cert,
    ]

    def verify() -> str:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
        return done.stdout + done.stderr

    assert verify().strip().endswith("OK")
    authority.revoke("node1", now=now)
    assert "certificate revoked" in verify()


def test_no_certificate_outlives_its_authority() -> None:
    authority = new_authority("test", now=NOW, days=10)
    found = issue(authority, Peer(Role.WORKER, "x", ""), now=NOW).certificate
    assert found.not_valid_after_utc == authority.certificate.not_valid_after_utc
    with pytest.raises(UsageError, match="ended on 2026-12-02"):
        issue(authority, Peer(Role.WORKER, "x", ""), now=NOW + timedelta(days=11))


def test_which_end_soon(tmp_path: Path) -> None:
    authority = Authority.create(tmp_path, now=NOW)
    for name, days in (("week", 7.0), ("year", 365.0), ("renewed", 7.0), ("revoked", 7.0)):
        authority.issue(Role.WORKER, name, now=NOW, days=days)
    authority.issue(Role.WORKER, "renewed", now=NOW + BACK, days=90, again=True)
    authority.revoke("revoked", now=NOW)
    soon = expiring(authority.issued(), now=NOW + timedelta(days=1), days=10)
    assert [one.peer.name for one in soon] == ["week"]


def test_who_revoke_at_a_time_all_do(tmp_path: Path) -> None:
    names = [f"node{number}" for number in range(6)]
    authority = Authority.create(tmp_path, now=NOW)
    for name in names:
        authority.issue(Role.WORKER, name, now=NOW)
    together = threading.Barrier(len(names))

    def revoke(name: str) -> None:
        mine = Authority(tmp_path)
        together.wait(20)
        mine.revoke(name, now=NOW)

    with ThreadPoolExecutor(len(names)) as pool:
        list(pool.map(revoke, names))
    assert [one.peer.name for one in authority.issued() if one.revoked] == names
    assert read_list(tmp_path).extensions.get_extension_for_class(x509.CRLNumber).value.crl_number == 7


def test_an_authority_and_the_key_of_another_do_not_fit(tmp_path: Path) -> None:
    for name in ("a", "b"):
        Authority.create(tmp_path / name, now=NOW)
    shutil.copy(tmp_path / "a/ca.key", tmp_path / "b/ca.key")
    with pytest.raises(ConfigError, match="not the certificate's own"):
        Authority(tmp_path / "b")


def test_files_are_whole_or_not_there(tmp_path: Path) -> None:
    authority = Authority.create(tmp_path / "ca", now=NOW)
    authority.issue(Role.WORKER, "node1", now=NOW)
    assert [path for path in (tmp_path / "ca").rglob(".*") if path.is_file()] == []


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the openssl command")
def test_an_authority_that_is_not_ours_can_do_it_as_the_page_says(tmp_path: Path) -> None:
    Authority.create(tmp_path, now=datetime.now(UTC))
    page = (Path(__file__).parents[2] / "docs/security.md").read_text()
    (lines,) = re.findall(r"```bash\n(openssl.*?)```", page, re.DOTALL)
    script = "umask 077\n" + lines.replace("sparsync ", f"{sys.executable} -P -m sparsync ")
    done = subprocess.run(
        ["bash", "-ec", script], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0 and done.stdout.startswith("worker/node1 "), done.stderr
    ours = Security(False, tmp_path / "ca.pem", tmp_path / "cert.pem", tmp_path / "key.pem")
    assert str(ours.own()) == "worker/node1"
    assert san(x509.load_pem_x509_certificate((tmp_path / "cert.pem").read_bytes()))[1] == ["worker.sparsync"]
