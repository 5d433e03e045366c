"""Credentials that a server must refuse, each for a reason of its own, beside the good ones of tests/conftest.py."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from sparsync.authority import Authority
from sparsync.certificates import Signed, load_signed
from wire.rpc.identity import Role, Security

LONG_AGO = timedelta(days=30)


def of_nobody(authority: Authority, out: Path) -> Security:
    """A certificate of the right authority that names nobody in a run."""
    return _written(_leaf(_signer(authority)), out, ca=authority.directory / "ca.pem")


def self_signed(authority: Authority, out: Path) -> Security:
    """A certificate that signs itself, and says that it is an operator."""
    key = ec.generate_private_key(ec.SECP256R1())
    return _written(
        _leaf(None, key=key, uri="sparsync://operator/ann"), out, ca=authority.directory / "ca.pem"
    )


def expired(authority: Authority, role: Role, name: str, out: Path) -> Security:
    """A good one of once."""
    then = datetime.now(UTC) - LONG_AGO
    _, files = authority.issue(role, name, now=then, days=1, out=out, again=True)
    return Security(False, *files)


def foreign(theirs: Authority, ours: Authority, role: Role, name: str, out: Path) -> Security:
    """Of an authority that the server does not know; the bearer trusts the server's."""
    _, files = theirs.issue(role, name, now=datetime.now(UTC), out=out, again=True)
    return Security(False, ours.directory / "ca.pem", files.cert, files.key)


def revoked_list(authority: Authority, *members: Security) -> bytes:
    """The authority's list after it revoked these."""
    for member in members:
        authority.revoke(member.own().serial, now=datetime.now(UTC))
    return (authority.directory / "crl.pem").read_bytes()


def _signer(authority: Authority) -> Signed:
    read = (authority.directory / name for name in ("ca.pem", "ca.key"))
    return load_signed(*(path.read_bytes() for path in read))


def _leaf(signer: Signed | None, *, key: ec.EllipticCurvePrivateKey | None = None, uri: str = "") -> Signed:
    key = key or ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.oid.NameOID.COMMON_NAME, "stranger")])
    now = datetime.now(UTC)
    building = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(signer.certificate.subject if signer else name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    )
    if uri:
        names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)])
        building = building.add_extension(names, critical=False)
    return Signed(building.sign(signer.key if signer else key, hashes.SHA256()), key)


def _written(leaf: Signed, out: Path, *, ca: Path) -> Security:
    out.mkdir(parents=True, exist_ok=True)
    cert, key = out / "cert.pem", out / "key.pem"
    cert.write_bytes(leaf.pem)
    key.touch(mode=0o600)
    key.write_bytes(leaf.key_pem())
    return Security(False, ca, cert, key)
