"""The PEM files of TLS: the key, the chain, the dates, and whom the certificate names."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from sparsync.doctor.finding import Finding, failure, ok, refused, warning
from sparsync.doctor.node import Node, wall_clock
from wire.errors import ConfigError, NoInput, PermissionRefused, SparsyncError
from wire.rpc.identity import peer_in
from wire.rpc.pem_files import PemFiles, refuse_open_key, signer
from wire.rpc.revocation import read_lists

if TYPE_CHECKING:
    from cryptography import x509

SOON = timedelta(days=14)
PLAIN = "plain text: no TLS files are given"
RENEW = "issue a new one: sparsync certs renew"


def key(node: Node) -> Finding:
    """Whether the key is its owner's alone, and that of the certificate."""
    what = "TLS key"
    try:
        files = node.security.files
        if files is None:
            return ok(what, PLAIN)
        refuse_open_key(files.key)
        files.read()
    except SparsyncError as error:
        return refused(what, error)
    mode = files.key.stat().st_mode & 0o777
    return ok(what, f"{files.key} is the certificate's, mode {mode:04o}")


def chain(node: Node) -> Finding:
    """Whether the authority that we trust has signed the certificate that we show, or one that leads there."""
    what, files = "TLS chain", _files(node)
    if files is None:
        return ok(what, PLAIN)
    try:
        shown, trusted = _certificates(files.cert), _certificates(files.ca)
    except SparsyncError as error:
        return refused(what, error)
    authority = signer(shown, trusted)
    if authority is None:
        return failure(
            what,
            f"{files.cert} (issuer {_told(shown[0].issuer)}) is not signed by {files.ca} "
            f"({', '.join(_told(ca.subject) for ca in trusted)})",
            "give the --tls-ca of the authority that issued it, or have that one issue another",
        )
    return ok(what, f"{files.cert} is signed by {_told(authority.subject)}")


def expiry(node: Node) -> Finding:
    """Whether certificate and authority are valid now, and for how long."""
    what, files = "TLS dates", _files(node)
    if files is None:
        return ok(what, PLAIN)
    now = wall_clock()
    try:
        dated = {files.cert: _certificates(files.cert)[:1], files.ca: _certificates(files.ca)}
    except SparsyncError as error:
        return refused(what, error)
    for path, certificates in dated.items():
        for found in certificates:
            if now < found.not_valid_before_utc:
                begin = f"{found.not_valid_before_utc:%Y-%m-%d %H:%M} UTC"
                return failure(what, f"{path} is not valid before {begin}", "check this machine's clock")
            if now > found.not_valid_after_utc:
                return failure(what, f"{path} has expired on {found.not_valid_after_utc:%Y-%m-%d}", RENEW)
    ends = [
        (found.not_valid_after_utc, path) for path, certificates in dated.items() for found in certificates
    ]
    until, path = min(ends)
    told = f"{path} is valid for {(until - now).days} days more, until {until:%Y-%m-%d}"
    return warning(what, told, RENEW) if until - now < SOON else ok(what, told)


def identity(node: Node) -> Finding:
    """Whom the certificate names, and whether that covers the name in the run."""
    what, files = "TLS identity", _files(node)
    if files is None:
        return ok(what, PLAIN)
    try:
        peer = peer_in(files.cert.read_bytes())
    except (SparsyncError, OSError, ValueError) as error:
        return refused(what, error)
    if node.name is not None and not peer.covers(node.name):
        return failure(
            what,
            f"{files.cert} names {peer}, which does not cover {node.name}",
            f"issue one for {node.name}, or give it --name {peer.name}, or {peer.name}. and more",
        )
    return ok(what, f"{peer}, serial {peer.serial}")


def revoked(node: Node) -> Finding:
    """Whether the list of the revoked can be read, and we are not on it."""
    what, files, path = "TLS revocations", _files(node), node.security.tls_crl
    if files is None:
        return ok(what, PLAIN)
    if path is None:
        return ok(what, "no list is given; --tls-crl FILE would be looked at each second")
    try:
        lists = read_lists(path.read_bytes(), files.ca.read_bytes())
        serial = peer_in(files.cert.read_bytes()).serial
    except OSError as error:
        return failure(what, f"{path}: {error.strerror}", "give the authority's crl.pem")
    except SparsyncError as error:
        return refused(what, error)
    if any(serial in known.serials for known in lists):
        return failure(
            what, f"{files.cert} (serial {serial}) is revoked", "issue another: sparsync certs issue"
        )
    return ok(what, f"{sum(len(known.serials) for known in lists)} in {path}, ours not among them")


def _files(node: Node) -> PemFiles | None:
    """Where the files stand; None too where they are not given as a whole: that is told with the key."""
    try:
        return node.security.files
    except ConfigError:
        return None


def _certificates(path: Path) -> list[x509.Certificate]:
    from cryptography import x509

    try:
        return x509.load_pem_x509_certificates(path.read_bytes())
    except FileNotFoundError:
        raise NoInput(f"{path}: no such file; give the path of a PEM file") from None
    except OSError as error:
        raise PermissionRefused(f"{path} cannot be read ({error.strerror}); check owner and mode") from None
    except ValueError as error:
        raise ConfigError(f"{path} holds no certificate in PEM form ({error}); issue it again") from None


def _told(name: x509.Name) -> str:
    return name.rfc4514_string() or "nameless"
