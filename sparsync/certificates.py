"""Making certificates: an authority, what it signs for one role and name, and its list of the revoked.

Who someone is stands in the URI SAN (`sparsync://ROLE/NAME`), what a client checks of whom it dials in the
DNS SAN (`ROLE.sparsync`); no certificate holds an address. Everything is ECDSA on P-256 and begins two
hours back, so that a clock that is off refuses nobody (P16). Nothing here touches a file.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from wire.errors import ConfigError, UsageError
from wire.rpc.identity import SERVING, Peer, Role, identity_uri, server_name

BACK = timedelta(hours=2)
AUTHORITY_DAYS = 3650
DAYS = {Role.COORDINATOR: 365, Role.PS: 365, Role.WORKER: 365, Role.OPERATOR: 90, Role.VIEWER: 90}
"""How long a certificate is good: a machine's for a year, a person's for a quarter."""
LIST_DAYS = 3650
"""Nobody looks at when a list of the revoked would be due again: the newest one holds."""


class Signed(NamedTuple):
    """A certificate and its private key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    def key_pem(self, passphrase: bytes | None = None) -> bytes:
        """The key in PEM form, encrypted where there is a passphrase."""
        hidden: serialization.KeySerializationEncryption = serialization.NoEncryption()
        if passphrase is not None:
            hidden = serialization.BestAvailableEncryption(passphrase)
        return self.key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, hidden)


def new_authority(common_name: str, *, now: datetime, days: float = AUTHORITY_DAYS) -> Signed:
    """A certificate that signs others, and itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = _named(common_name)
    usage = _usage(sign_certificates=True)
    certificate = (
        _begun(name, name, key, now=now, until=now + timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .sign(key, hashes.SHA256())
    )
    return Signed(certificate, key)


def issue(authority: Signed, peer: Peer, *, now: datetime, days: float | None = None) -> Signed:
    """A certificate for a role and a name, with a new key; it never outlives the authority.

    Raises: UsageError where the authority's own time is over.
    """
    assert peer.role is not None
    ends = authority.certificate.not_valid_after_utc
    if ends <= now:
        raise UsageError(
            f"the authority's certificate ended on {ends:%Y-%m-%d}; make a new one with `sparsync certs init`"
        )
    key = ec.generate_private_key(ec.SECP256R1())
    until = min(ends, now + timedelta(days=DAYS[peer.role] if days is None else days))
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(identity_uri(peer.role, peer.name))]
    purposes = [ExtendedKeyUsageOID.CLIENT_AUTH]
    if peer.role in SERVING:
        names.append(x509.DNSName(server_name(peer.role)))
        purposes.append(ExtendedKeyUsageOID.SERVER_AUTH)
    issuer = authority.certificate.subject
    certificate = (
        _begun(_named(f"{peer.role}/{peer.name}"), issuer, key, now=now, until=until)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(sign_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(_key_of(authority.certificate), critical=False)
        .sign(authority.key, hashes.SHA256())
    )
    return Signed(certificate, key)


def revocation_list(
    authority: Signed, revoked: Mapping[int, datetime], *, number: int, now: datetime
) -> x509.CertificateRevocationList:
    """The signed list of the serial numbers that hold no more, each with the time since when.

    `number` is greater than that of every list before: the greatest is the newest.
    """
    building = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(authority.certificate.subject)
        .last_update(now - BACK)
        .next_update(now + timedelta(days=LIST_DAYS))
        .add_extension(x509.CRLNumber(number), critical=False)
        .add_extension(_key_of(authority.certificate), critical=False)
    )
    for serial, since in revoked.items():
        entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(since).build()
        building = building.add_revoked_certificate(entry)
    return building.sign(authority.key, hashes.SHA256())


def load_signed(certificate: bytes, key: bytes, passphrase: bytes | None = None) -> Signed:
    """What `Signed.pem` and `Signed.key_pem` wrote.

    Raises: ConfigError where they are not a certificate with its own key, or the passphrase is not the key's.
    """
    try:
        found = x509.load_pem_x509_certificate(certificate)
        private = serialization.load_pem_private_key(key, passphrase)
    except TypeError:  # encrypted and no passphrase, or the reverse
        asked = "is encrypted: give --passphrase-file" if passphrase is None else "is not encrypted"
        raise ConfigError(f"the authority's key {asked}") from None
    except ValueError as error:
        wrong = "or the passphrase is wrong " if passphrase is not None else ""
        raise ConfigError(f"no certificate and key in PEM form {wrong}({error})") from None
    if not isinstance(private, ec.EllipticCurvePrivateKey) or private.public_key() != found.public_key():
        raise ConfigError("the key is not the certificate's own")
    return Signed(found, private)


def _begun(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    *,
    now: datetime,
    until: datetime,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACK)
        .not_valid_after(until)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _named(common_name: str) -> x509.Name:
    words = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Sparsync")]
    return x509.Name([*words, x509.NameAttribute(NameOID.COMMON_NAME, common_name[:64])])


def _key_of(certificate: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    own = certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own)


def _usage(*, sign_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not sign_certificates,
        key_cert_sign=sign_certificates,
        crl_sign=sign_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
