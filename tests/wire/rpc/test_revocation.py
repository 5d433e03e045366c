"""Revocation lists: signed by who may, the newest of each authority, kept, and looked at again when a file changes."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from sparsync.authority import Authority
from sparsync.certificates import load_signed
from wire.errors import ConfigError, DamagedFile, NotWritten, PermissionRefused
from wire.rpc.identity import Role
from wire.rpc.revocation import MOST_BYTES, Revocations, read_lists

NOW = datetime.now(UTC)


class Office:
    """An authority, and a role that trusts it."""

    def __init__(self, directory: Path) -> None:
        self.authority = Authority.create(directory / "authority", now=NOW)
        self.ca = directory / "ca.pem"
        self.ca.write_bytes((self.authority.directory / "ca.pem").read_bytes())
        self.kept = directory / "kept.pem"
        self.told: list[frozenset[str]] = []

    @property
    def list(self) -> Path:
        return self.authority.directory / "crl.pem"

    def revoke(self, name: str) -> tuple[str, bytes]:
        """Issues and revokes a certificate: its serial number, and the list with it."""
        issued, _ = self.authority.issue(Role.WORKER, name, now=NOW)
        self.authority.revoke(issued.peer.serial, now=NOW)
        return issued.peer.serial, self.list.read_bytes()

    def role(self, given: Path | None = None) -> Revocations:
        return Revocations(self.ca, kept=self.kept, given=given, tell=self.told.append)


@pytest.fixture
def office(tmp_path: Path) -> Office:
    return Office(tmp_path)


@pytest.fixture
def make_office(tmp_path: Path) -> Callable[[str], Office]:
    def make(name: str) -> Office:
        (tmp_path / name).mkdir()
        return Office(tmp_path / name)

    return make


def test_a_list_names_all_that_was_revoked(office: Office) -> None:
    (empty,) = read_lists(office.list.read_bytes(), office.ca.read_bytes())
    assert (empty.number, empty.serials) == (1, frozenset())
    first, _ = office.revoke("node1")
    second, pem = office.revoke("node2")
    (found,) = read_lists(pem, office.ca.read_bytes())
    assert (found.number, found.serials) == (3, {first, second})


def test_the_newest_list_holds(office: Office) -> None:
    role = office.role()
    assert office.told == [frozenset()]
    first, older = office.revoke("node1")
    second, newer = office.revoke("node2")
    assert role.take(newer) and role.serials == {first, second}
    assert not role.take(newer) and not role.take(older)
    assert role.serials == {first, second}
    assert office.told == [frozenset(), frozenset({first, second})]


def test_what_was_taken_is_known_after_a_restart(office: Office) -> None:
    serial, pem = office.revoke("node1")
    office.role().take(pem)
    office.told.clear()
    assert office.role().serials == {serial}
    assert office.told == [frozenset({serial})]


def test_what_was_kept_and_is_damaged_stops_a_start(office: Office) -> None:
    office.kept.write_bytes(b"-----BEGIN X509 CRL-----\nrubbish\n-----END X509 CRL-----\n")
    with pytest.raises(DamagedFile, match=r"kept\.pem: .*newest list"):
        office.role()


def test_a_list_of_somebody_else_is_refused(office: Office, make_office: Callable[[str], Office]) -> None:
    role = office.role()
    _, foreign = make_office("foreign").revoke("node1")
    with pytest.raises(PermissionRefused, match="signed by no authority"):
        role.take(foreign)
    assert not office.kept.exists() and role.serials == frozenset()


def test_a_list_that_a_member_signs_in_the_authoritys_name_is_refused(office: Office) -> None:
    _, files = office.authority.issue(Role.OPERATOR, "eve", now=NOW)
    eve = load_signed(files.cert.read_bytes(), files.key.read_bytes())
    forged = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(office.authority.certificate.subject)
        .last_update(NOW)
        .next_update(datetime(2050, 1, 1))
        .add_extension(x509.CRLNumber(99), critical=False)
        .sign(eve.key, hashes.SHA256())
        .public_bytes(serialization.Encoding.PEM)
    )
    with pytest.raises(PermissionRefused, match="signed by no authority"):
        office.role().take(forged)
    trusting = office.ca.read_bytes() + files.cert.read_bytes()
    with pytest.raises(PermissionRefused, match="signed by no authority"):
        read_lists(forged, trusting)


def test_a_flipped_bit_is_noticed(office: Office) -> None:
    _, pem = office.revoke("node1")
    found = x509.load_pem_x509_crl(pem)
    der = bytearray(found.public_bytes(serialization.Encoding.DER))
    at = der.find(found.tbs_certlist_bytes) + len(found.tbs_certlist_bytes) - 5
    der[at] ^= 1
    with pytest.raises((PermissionRefused, ConfigError)):
        flipped = x509.load_der_x509_crl(bytes(der)).public_bytes(serialization.Encoding.PEM)
        read_lists(flipped, office.ca.read_bytes())


def test_what_is_no_list_is_refused(office: Office) -> None:
    for rubbish in (b"", b"rubbish", office.ca.read_bytes(), bytes(5 << 20)):
        with pytest.raises(ConfigError, match="no revocation list"):
            office.role().take(rubbish)


def test_two_authorities_have_a_list_each(office: Office, make_office: Callable[[str], Office]) -> None:
    other = make_office("other")
    office.ca.write_bytes(office.ca.read_bytes() + other.ca.read_bytes())
    first, ours = office.revoke("node1")
    second, theirs = other.revoke("node1")
    role = office.role()
    assert role.take(ours) and role.take(theirs)
    assert role.serials == office.role().serials == {first, second}


def test_lists_of_an_authority_that_was_left_behind_are_nothing(
    office: Office, make_office: Callable[[str], Office]
) -> None:
    other = make_office("other")
    _, ours = office.revoke("node1")
    serial, theirs = other.revoke("node1")
    office.role().take(ours)
    office.ca.write_bytes(other.ca.read_bytes())
    role = office.role()
    assert role.serials == frozenset()
    assert role.take(ours + theirs) and role.serials == {serial}
    with pytest.raises(PermissionRefused, match="signed by no authority"):
        role.take(ours)


def test_a_file_is_looked_at_when_it_changes(office: Office, caplog: pytest.LogCaptureFixture) -> None:
    role = office.role(office.list)
    office.told.clear()
    role.look()
    assert office.told == []
    serial, pem = office.revoke("node1")
    role.look()
    assert role.serials == {serial}
    with caplog.at_level(logging.WARNING):
        office.list.write_bytes(pem[: len(pem) // 2])  # as a copy that is under way
        role.look()
        role.look()
    assert len(caplog.records) == 1 and "what was revoked before stays so" in caplog.text
    assert role.serials == {serial}
    office.list.write_bytes(pem)
    second, _ = office.revoke("node2")
    role.look()
    assert role.serials == {serial, second}


def test_a_file_that_is_not_there_at_the_start_is_named(office: Office, tmp_path: Path) -> None:
    with pytest.raises(PermissionRefused, match=r"--tls-crl .*nowhere\.pem cannot be read"):
        office.role(tmp_path / "nowhere.pem")


@pytest.fixture
def full_disk(office: Office) -> Callable[[bool], None]:
    """Nothing can be kept while it is: there is a directory in the place of the file that is written."""
    partial = office.kept.with_name(office.kept.name + ".partial")
    return lambda full: partial.mkdir() if full else partial.rmdir()


def test_what_cannot_be_kept_holds_already(office: Office, full_disk: Callable[[bool], None]) -> None:
    serial, pem = office.revoke("node1")
    role = office.role()
    office.told.clear()
    full_disk(True)
    for _ in range(2):  # a repeat is no success either
        with pytest.raises(NotWritten, match=r"kept\.pem cannot be written .*: what is revoked is refused"):
            role.take(pem)
    assert office.told == [frozenset({serial})] * 2 and not office.kept.exists()
    full_disk(False)
    assert role.take(pem)
    assert office.role().serials == {serial}
    assert not role.take(pem)


def test_what_could_not_be_kept_is_kept_later(
    office: Office, full_disk: Callable[[bool], None], caplog: pytest.LogCaptureFixture
) -> None:
    serial, pem = office.revoke("node1")
    role = office.role()
    full_disk(True)
    with pytest.raises(NotWritten):
        role.take(pem)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            role.look()
    assert len(caplog.records) == 1
    full_disk(False)
    role.look()
    assert office.role().serials == {serial}


def test_a_given_file_holds_though_it_cannot_be_kept(
    office: Office, full_disk: Callable[[bool], None]
) -> None:
    first, _ = office.revoke("node1")
    full_disk(True)
    role = office.role(office.list)  # as at the start of a role whose disk is full
    second, _ = office.revoke("node2")
    role.look()
    assert office.told == [frozenset({first}), frozenset({first, second})]
    full_disk(False)
    role.look()
    assert office.role().serials == {first, second}


def test_a_given_file_that_could_not_be_read_is_looked_at_again(office: Office) -> None:
    """It is the same file then: only whether it can be read has changed."""
    role = office.role(office.list)
    serial, _ = office.revoke("node1")
    ca = office.ca.read_bytes()
    office.ca.unlink()
    role.look()
    assert role.serials == frozenset()
    office.ca.write_bytes(ca)
    role.look()
    assert role.serials == {serial}


def test_each_authoritys_list_may_be_as_long_as_one_may_be(
    office: Office, make_office: Callable[[str], Office]
) -> None:
    def padded(pem: bytes) -> bytes:
        return pem.rstrip() + b"\n" * (MOST_BYTES * 3 // 5)

    other = make_office("other")
    office.ca.write_bytes(office.ca.read_bytes() + other.ca.read_bytes())
    first, ours = office.revoke("node1")
    second, theirs = other.revoke("node1")
    role = office.role()
    for pem in (ours, theirs):
        role.take(padded(pem))
    assert len(role.pem) > MOST_BYTES
    assert role.serials == office.role().serials == {first, second}
    with pytest.raises(ConfigError, match="no revocation list"):
        role.take(2 * padded(ours).replace(b"\n-----END", b"\n" * MOST_BYTES + b"-----END"))
