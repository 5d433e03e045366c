"""TLS files: all or none, named when they are wrong; plain text stays on loopback; certificates name who calls."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from wire.config import SecurityConfig
from wire.errors import ConfigError, NoInput, PermissionRefused, Unidentified
from wire.rpc.identity import Peer, Role, Security, identity_uri, peer_in, peer_of
from wire.rpc.pem_files import Pems

FILES = {"tls_ca": Path("ca"), "tls_cert": Path("cert"), "tls_key": Path("key")}


def read(security: Security) -> Pems:
    assert security.files is not None
    return security.files.read()


def test_all_three_files_or_none() -> None:
    assert not Security().tls
    assert Security(**FILES).tls
    for left_out in FILES:
        flag = "--" + left_out.replace("_", "-")
        with pytest.raises(ConfigError, match=f"{flag} is missing"):
            _ = Security(**{k: v for k, v in FILES.items() if k != left_out}).tls
    with pytest.raises(ConfigError, match="--tls-cert and --tls-key are missing"):
        _ = Security(tls_ca=Path("ca")).tls


def test_plain_text_listens_on_loopback_only() -> None:
    Security().check_listen("127.0.0.1")
    Security().check_listen("::1")
    Security(insecure=True).check_listen("0.0.0.0")
    Security(**FILES).check_listen("0.0.0.0")
    for host in ("0.0.0.0", "::", "10.0.0.1", "node1"):
        with pytest.raises(PermissionRefused, match=r"--tls-ca.*--insecure"):
            Security().check_listen(host)


def test_plain_text_has_no_files() -> None:
    assert Security().files is None and Security(insecure=True).files is None


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(NoInput, match=r"--tls-ca ca: no such file"):
        read(Security(**FILES))


def test_good_files_are_read(certificates: dict[str, Security]) -> None:
    assert read(certificates["ours"]).cert.startswith(b"-----BEGIN CERTIFICATE")


def test_wrong_content_is_named(certificates: dict[str, Security], tmp_path: Path) -> None:
    ours, foreign = certificates["ours"], certificates["foreign"]
    junk = tmp_path / "junk.pem"
    junk.write_text("not a certificate")
    with pytest.raises(ConfigError, match=r"--tls-ca .*junk\.pem holds no CA"):
        read(Security(tls_ca=junk, tls_cert=ours.tls_cert, tls_key=ours.tls_key))
    with pytest.raises(ConfigError, match="no certificate with its own private key"):
        read(Security(tls_ca=ours.tls_ca, tls_cert=ours.tls_cert, tls_key=foreign.tls_key))


class Call:
    """A servicer context of a connection with these properties."""

    def __init__(self, **properties: list[bytes]) -> None:
        self._properties = properties

    def auth_context(self) -> dict[str, list[bytes]]:
        return self._properties


def call_of(security: Security) -> Call:
    assert security.tls_cert is not None
    return Call(transport_security_type=[b"ssl"], x509_pem_cert=[security.tls_cert.read_bytes()])


def test_the_caller_is_whom_its_certificate_names(member: Any) -> None:
    for role in Role:
        peer = peer_of(call_of(member(role, "node1.gpu0")))
        assert (peer.role, peer.name, str(peer)) == (role, "node1.gpu0", f"{role}/node1.gpu0")
        assert member(role, "node1.gpu0").own() == peer
    assert Security().own() == Peer.anyone() == peer_of(Call(transport_security_type=[b"insecure"]))


def test_without_a_certificate_nobody_is_anybody() -> None:
    for properties in ({}, {"transport_security_type": [b"ssl"]}):
        with pytest.raises(Unidentified, match="no certificate"):
            peer_of(Call(**properties))


@pytest.mark.parametrize(
    "uris",
    [
        (),
        ("spiffe://cluster/worker/node1",),
        ("sparsync://worker/node1", "sparsync://operator/node1"),
        ("sparsync://root/node1",),
        ("sparsync://worker/",),
        ("sparsync://worker/a/b",),
        ("sparsync://worker/node1?role=operator",),
        ("sparsync:operator/node1",),
    ],
)
def test_a_certificate_that_names_nobody_is_refused(uris: tuple[str, ...]) -> None:
    with pytest.raises(Unidentified, match="expected exactly one URI sparsync://"):
        peer_in(certificate_with(uris))


def test_other_names_beside_ours_do_no_harm() -> None:
    peer = peer_in(certificate_with(("spiffe://cluster/x", "sparsync://ps/ps-0")))
    assert (peer.role, peer.name) == (Role.PS, "ps-0")


def certificate_with(uris: tuple[str, ...]) -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "sparsync://operator/common")])
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(uri) for uri in uris]
    begin = datetime(2026, 1, 1, tzinfo=UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(begin + timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([*names, x509.DNSName("operator.sparsync")]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM)


def test_a_certificate_covers_its_name_and_what_follows_a_dot() -> None:
    peer = Peer(Role.WORKER, "node1", "1")
    assert all(map(peer.covers, ("node1", "node1.0", "node1.gpu1.x")))
    assert not any(map(peer.covers, ("node", "node10", "node2", "node1-0", "", "other.node1")))
    assert Peer.anyone().covers("whoever")


@pytest.mark.parametrize("name", ["", "a/b", "a b", "-a", "a.", "ä", "x" * 64, "a\n"])
def test_what_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="is no name for a certificate"):
        identity_uri(Role.WORKER, name)


@pytest.mark.parametrize("mode", [0o644, 0o604, 0o660, 0o666, 0o602])
def test_a_key_that_others_can_read_is_refused(member: Any, tmp_path: Path, mode: int) -> None:
    security = with_key_mode(member(Role.WORKER), tmp_path, mode)
    for use in (
        security.own,
        lambda: read(security),
        security.ssl_context,
    ):
        with pytest.raises(PermissionRefused, match=f"mode {mode:04o}.*chmod"):
            use()


def test_a_key_for_its_owner_alone_is_taken(member: Any, tmp_path: Path) -> None:
    for mode in (0o600, 0o400):
        assert read(with_key_mode(member(Role.WORKER), tmp_path, mode)).key


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to others")
def test_a_key_of_somebody_else_is_refused_and_roots_may_be_for_a_group(member: Any, tmp_path: Path) -> None:
    security = with_key_mode(member(Role.WORKER), tmp_path, 0o640)
    assert read(security).key
    assert security.tls_key is not None
    os.chown(security.tls_key, 12345, 0)
    with pytest.raises(PermissionRefused, match="belongs to user 12345"):
        read(security)


def with_key_mode(security: Security, directory: Path, mode: int) -> Security:
    assert security.tls_key is not None
    key = directory / "key.pem"
    key.unlink(missing_ok=True)
    shutil.copy(security.tls_key, key)
    key.chmod(mode)
    return replace(security, tls_key=key)


def test_an_encrypted_key_is_refused_without_a_question(member: Any, tmp_path: Path) -> None:
    ours = member(Role.WORKER)
    key = tmp_path / "key.pem"
    key.touch(mode=0o600)
    private = serialization.load_pem_private_key(ours.tls_key.read_bytes(), None)
    hidden = serialization.BestAvailableEncryption(b"secret")
    key.write_bytes(
        private.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, hidden)
    )
    with pytest.raises(ConfigError, match="is encrypted"):
        replace(ours, tls_key=key).own()


def test_without_a_name_one_takes_the_certificates(member: Any) -> None:
    ours = member(Role.WORKER, "node1")
    assert ours.name_as(Role.WORKER, None, otherwise="host-7") == "node1"
    assert ours.name_as(Role.WORKER, "node1.gpu0", otherwise="host-7") == "node1.gpu0"
    assert Security().name_as(Role.WORKER, None, otherwise="host-7") == "host-7"
    assert Security().name_as(Role.WORKER, "any", otherwise="host-7") == "any"


def test_what_our_own_certificate_does_not_say_we_are_not(member: Any) -> None:
    ours = member(Role.WORKER, "node1")
    with pytest.raises(PermissionRefused, match="for worker/node1, and this is a ps"):
        ours.name_as(Role.PS, None, otherwise="ps-0")
    with pytest.raises(PermissionRefused, match=r"may join as node1 or node1\.X, not as node2"):
        ours.name_as(Role.WORKER, "node2", otherwise="")


def test_the_section_of_a_configuration(member: Any) -> None:
    ours = member(Role.WORKER)
    section = SecurityConfig(tls_ca=str(ours.tls_ca), tls_cert=str(ours.tls_cert), tls_key=str(ours.tls_key))
    assert Security.configured(section) == ours
    assert Security.configured(SecurityConfig()) == Security()
