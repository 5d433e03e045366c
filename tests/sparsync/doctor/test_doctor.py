"""What the doctor finds on machines that are ill, one illness each; and on this one nothing that stops the tests."""

from __future__ import annotations

import json
import resource
import socket
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from sparsync.authority import Authority
from sparsync.certificates import Signed, issue
from sparsync.cli import run
from sparsync.doctor import certificates, clocks, disk, limits, network, software
from sparsync.doctor.checks import CHECKS, examine
from sparsync.doctor.finding import Finding, Level
from sparsync.doctor.node import Asked, Node
from tests.conftest import Member, security
from tests.sparsync.cli.conftest import Answers, coordinator
from wire.clock import ManualClock
from wire.errors import PermissionRefused
from wire.ids import PROTOCOL_VERSION
from wire.rpc.identity import Peer, Role, Security
from wire.rpc.pem_files import PemFiles
from wire.version import VERSION

__all__ = ["coordinator"]
ROOT = Path(__file__).parents[3]
AT = "2026-11-22T12:00:00.000Z"
NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)


def well(finding: Finding) -> bool:
    return finding.level is Level.OK and not finding.remedy


def fails(finding: Finding, *words: str) -> bool:
    assert finding.level is Level.FAILURE, finding
    assert all(word in finding.found for word in words), finding
    return bool(finding.remedy)


def test_every_finding_has_a_name_of_its_own_and_a_remedy_where_it_is_needed(tmp_path: Path) -> None:
    findings = list(examine(Node(data_dir=tmp_path, listen=("127.0.0.1:0",))))
    assert len(findings) == len(CHECKS) == len({finding.what for finding in findings})
    assert all(bool(finding.remedy) == (finding.level is not Level.OK) for finding in findings)
    assert not [f for f in findings if f.found.startswith("the check itself failed")]


def test_each_check_has_a_row_in_the_page_in_their_order(tmp_path: Path) -> None:
    rows = [
        line.split("|")[1].strip()
        for line in (ROOT / "docs/doctor.md").read_text().splitlines()
        if "|" in line
    ]
    assert rows[2:] == [finding.what for finding in examine(Node(data_dir=tmp_path))]


def test_a_check_that_breaks_is_told_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(node: Node) -> Finding:
        raise KeyError("surprise")

    monkeypatch.setattr("sparsync.doctor.checks.CHECKS", (breaks, limits.open_files))
    first, second = examine(Node())
    assert fails(first, "KeyError", "surprise") and second.what == "open files"


# --- ports and names -----------------------------------------------------------------------------


def test_a_port_that_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        assert fails(network.ports(Node(listen=("127.0.0.1:0", address))), address)
    assert well(network.ports(Node(listen=("127.0.0.1:0", address))))


def test_listening_to_others_without_tls_is_refused(member: Member) -> None:
    assert fails(network.ports(Node(listen=("0.0.0.0:0",))), "without TLS")
    assert well(network.ports(Node(listen=("0.0.0.0:0",), security=member(Role.PS))))


def test_names_that_nobody_knows() -> None:
    nowhere = "no-such-host.invalid:7700"
    assert fails(network.coordinators_name(Node(coordinator=nowhere)), "no-such-host.invalid")
    assert fails(network.own_name(Node(advertise=nowhere)), "no-such-host.invalid")
    assert network.own_name(Node(advertise="localhost:7700")).level is Level.WARNING
    assert well(network.coordinators_name(Node(coordinator="localhost:7700")))


def test_what_is_no_address_is_refused() -> None:
    for check in (network.coordinators_name, network.coordinator):
        assert fails(check(Node(coordinator="host-a")), "host-a")
    assert fails(network.own_name(Node(advertise="host-b")), "host-b")


# --- the coordinator -----------------------------------------------------------------------------


def test_a_coordinator_that_answers(coordinator: Answers) -> None:
    at = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    told = {
        "run": "r1",
        "state": "running",
        "version": VERSION,
        "protocol_version": PROTOCOL_VERSION,
        "at": at,
    }
    coordinator.statuses = [told]
    node = Node(coordinator=coordinator.address)
    assert well(network.coordinator(node)) and "run r1, running" in network.coordinator(node).found
    assert well(software.versions(node)) and "at both ends" in software.versions(node).found
    assert well(clocks.wall_clock(node))


def test_a_coordinator_that_refuses_still_tells_version_and_clock(coordinator: Answers) -> None:
    coordinator.statuses = [PermissionRefused("worker/node1 may not call Status")]
    node = Node(coordinator=coordinator.address)
    assert node.asked is not None and node.asked.status is None
    assert "at both ends" in software.versions(node).found
    assert clocks.wall_clock(node).found == "as the coordinator's"


@pytest.mark.parametrize(
    ("told", "level"),
    [
        ({"version": VERSION, "protocol_version": PROTOCOL_VERSION + 1, "at": AT}, Level.FAILURE),
        ({"version": "9.9", "protocol_version": PROTOCOL_VERSION, "at": AT}, Level.WARNING),
        ({}, Level.OK),
    ],
)
def test_versions_at_both_ends(told: dict[str, Any], level: Level, coordinator: Answers) -> None:
    coordinator.statuses = [{"run": "r1", "state": "running", **told}]
    assert software.versions(Node(coordinator=coordinator.address)).level is level


def test_a_coordinator_that_is_not_there_is_told_by_the_stage_that_fails() -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        address = f"127.0.0.1:{gone.getsockname()[1]}"
    assert fails(network.coordinator(Node(coordinator=address)), address, "connection", "refuses")


# --- clocks --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("theirs_s", "skew_s", "level"),
    [
        (0.5, 0, Level.OK),
        (-1, 1, Level.OK),
        (-20, 20, Level.WARNING),
        (31, -30, Level.WARNING),
        (-4000, 4000, Level.FAILURE),
    ],
)
def test_clocks_apart(theirs_s: float, skew_s: float, level: Level) -> None:
    theirs = NOW + timedelta(seconds=theirs_s)
    said = {"at": theirs.isoformat(), "version": VERSION, "protocol_version": PROTOCOL_VERSION}
    asked = Asked(said, None, NOW, NOW + timedelta(seconds=1), 1.0)
    assert clocks.skew_of(asked, theirs) == timedelta(seconds=skew_s)
    node = Node()
    node.__dict__["asked"] = asked
    assert clocks.wall_clock(node).level is level


def test_a_clock_that_goes_back() -> None:
    class Backwards(ManualClock):
        def now(self) -> float:
            self._now -= 0.001
            return self._now

    assert fails(clocks.monotonic(Node(clock=Backwards())), "went back")
    assert clocks.monotonic(Node(clock=ManualClock())).level is Level.WARNING


def test_the_kernel_tells_of_its_time_or_nothing() -> None:
    state = clocks.kernel_time()
    assert state is None or (state[0] >= 0 and state[1] >= 0)


# --- TLS -----------------------------------------------------------------------------------------


TLS_CHECKS = (
    *(certificates.key, certificates.chain, certificates.expiry, certificates.identity, certificates.revoked),
)


def test_good_files(member: Member) -> None:
    node = Node(security=member(Role.WORKER, "node1"), name="node1.gpu0")
    assert all(well(check(node)) for check in TLS_CHECKS)
    assert all(well(check(Node())) for check in TLS_CHECKS)
    assert fails(certificates.identity(replace(node, name="node2")), "worker/node1", "node2")


def test_a_key_that_others_can_read(authority: Authority, tmp_path: Path) -> None:
    files = security(authority, Role.WORKER, "node1", out=tmp_path)
    assert files.tls_key is not None
    files.tls_key.chmod(0o644)
    finding = certificates.key(Node(security=files))
    assert fails(finding, "0644") and "chmod" in finding.found + finding.remedy


def test_files_that_are_not_there_or_not_whole(member: Member, tmp_path: Path) -> None:
    files = member(Role.WORKER)
    assert fails(certificates.key(Node(security=replace(files, tls_key=tmp_path / "none"))), "no such file")
    assert fails(certificates.key(Node(security=Security(tls_ca=files.tls_ca))), "TLS needs three files")
    (tmp_path / "text.pem").write_text("hello")
    garbled = Node(security=replace(files, tls_ca=tmp_path / "text.pem"))
    assert fails(certificates.chain(garbled)) and fails(certificates.expiry(garbled))


def test_another_authoritys_certificate(member: Member, foreign_authority: Authority, tmp_path: Path) -> None:
    foreign = security(foreign_authority, Role.WORKER, "node1", out=tmp_path)
    mixed = replace(foreign, tls_ca=member(Role.WORKER).tls_ca)
    assert fails(certificates.chain(Node(security=mixed)), "is not signed by")


def test_a_certificate_that_others_lead_to(tmp_path: Path) -> None:
    root, now = signing("root"), datetime.now(UTC)
    between = signing("between", by=root)
    leaf = issue(between, Peer(Role.WORKER, "node1", ""), now=now)
    files = PemFiles(tmp_path / "ca.pem", tmp_path / "cert.pem", tmp_path / "key.pem")
    files.ca.write_bytes(root.pem)
    files.key.touch(mode=0o600)
    files.key.write_bytes(leaf.key_pem())
    for others, leads in (([between], True), ([], False), ([signing("between", by=root)], False)):
        files.cert.write_bytes(b"".join(signed.pem for signed in (leaf, *others)))
        finding = certificates.chain(Node(security=Security(False, *files)))
        assert well(finding) if leads else fails(finding, "is not signed by")
        assert (files.fault(now) is None) is leads


def signing(name: str, *, by: Signed | None = None) -> Signed:
    """A certificate that signs others."""
    now, key = datetime.now(UTC), ec.generate_private_key(ec.SECP256R1())
    named = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(named)
        .issuer_name(by.certificate.subject if by else named)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(by.key if by else key, hashes.SHA256())
    )
    return Signed(certificate, key)


@pytest.mark.parametrize(
    ("moment", "level"),
    [
        (timedelta(days=-9), Level.FAILURE),
        (timedelta(days=360), Level.WARNING),
        (timedelta(days=400), Level.FAILURE),
    ],
)
def test_dates(moment: timedelta, level: Level, member: Member, monkeypatch: pytest.MonkeyPatch) -> None:
    now = datetime.now(UTC) + moment
    monkeypatch.setattr(certificates, "wall_clock", lambda: now)
    finding = certificates.expiry(Node(security=member(Role.WORKER)))
    assert finding.level is level and finding.remedy


def test_a_certificate_that_is_revoked(tmp_path: Path) -> None:
    authority = Authority.create(tmp_path / "ca", now=datetime.now(UTC))
    files = security(authority, Role.WORKER, "node1", out=tmp_path / "node1")
    authority.revoke("worker/node1", now=datetime.now(UTC))
    listed = replace(files, tls_crl=tmp_path / "ca" / "crl.pem")
    assert fails(certificates.revoked(Node(security=listed)), "is revoked")


# --- the disk ------------------------------------------------------------------------------------


def test_a_directory_that_is_not_there_yet_is_that_above_it(tmp_path: Path) -> None:
    assert disk.existing(tmp_path / "a" / "b") == tmp_path
    assert "worst" in disk.fsync(Node(data_dir=tmp_path / "a")).found
    assert list(tmp_path.iterdir()) == []


def test_a_disk_without_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = disk.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda path: usage._replace(free=10**8))
    assert fails(disk.space(Node(data_dir=tmp_path)), "100 MB")


def test_memory_is_no_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(f"/dev/vda / ext4 rw 0 0\ntmpfs {tmp_path} tmpfs rw 0 0\n")
    monkeypatch.setattr(disk, "MOUNTS", mounts)
    assert disk.file_system(tmp_path / "deep") == "tmpfs" and disk.file_system(Path("/usr")) == "ext4"
    assert disk.fsync(Node(data_dir=tmp_path)).level is Level.WARNING


def test_where_kernels_are_kept(tmp_path: Path) -> None:
    assert str(tmp_path) in disk.kernel_cache(Node(environ={"NUMBA_CACHE_DIR": str(tmp_path)})).found
    assert well(disk.kernel_cache(Node()))


# --- limits --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("limit", "level"), [(100, Level.FAILURE), (1024, Level.WARNING), (8192, Level.OK)])
def test_open_files(limit: int, level: Level, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits.resource, "getrlimit", lambda which: (limit, resource.RLIM_INFINITY))
    assert limits.open_files(Node()).level is level


def test_a_control_group_limits_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "CGROUP", tmp_path)
    control_group(tmp_path, limit="1000000000")
    assert limits.available_bytes() == 500_000_000
    assert fails(limits.memory(Node()), "500 MB")
    control_group(tmp_path, limit="max")
    assert limits.available_bytes() != 500_000_000


def test_files_that_the_kernel_gives_back_are_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "CGROUP", tmp_path)
    control_group(tmp_path, limit="1000000000", inactive_file=300_000_000)
    assert limits.available_bytes() == 800_000_000


def test_memory_is_limited_by_our_own_group_and_those_above_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a machine, whose mount shows all groups; in a container ours is its root."""
    (tmp_path / "cgroup").write_text("4:memory:/other\n0::/system.slice/ps.service\n")
    monkeypatch.setattr(limits, "OWN_CGROUP", tmp_path / "cgroup")
    monkeypatch.setattr(limits, "CGROUP", tmp_path)
    control_group(tmp_path / "system.slice", limit="max")
    control_group(tmp_path / "system.slice/ps.service", limit="700000000")
    control_group(tmp_path / "other", limit="600000000")
    assert limits.available_bytes() == 200_000_000
    control_group(tmp_path / "system.slice", limit="650000000")
    assert limits.available_bytes() == 150_000_000


def control_group(directory: Path, *, limit: str, inactive_file: int = 0) -> None:
    """One that uses 500 MB, of which so much are files that were not read lately."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "memory.current").write_text("500000000\n")
    (directory / "memory.max").write_text(f"{limit}\n")
    (directory / "memory.stat").write_text(f"anon 200000000\ninactive_file {inactive_file}\nactive_file 7\n")


# --- the command ---------------------------------------------------------------------------------


def examined(*words: str, cwd: Path) -> tuple[int, dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, "-P", "-m", "sparsync", "doctor", "--json", *words],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.stderr == "" or "Warning" in done.stderr, done.stderr
    return done.returncode, json.loads(done.stdout)


def test_the_command_tells_by_its_exit_code(tmp_path: Path) -> None:
    code, found = examined("--listen", "127.0.0.1:0", cwd=tmp_path)
    failed = [finding for finding in found["findings"] if finding["level"] == "failure"]
    assert (code, found["good"]) == ((85, False) if failed else (0, True)), failed
    with socket.create_server(("127.0.0.1", 0)) as taken:
        code, found = examined("--listen", f"127.0.0.1:{taken.getsockname()[1]}", cwd=tmp_path)
    assert code == 85 and not found["good"]
    assert [f["what"] for f in found["findings"] if f["level"] == "failure" and f["what"] == "ports"]


def test_a_script_beside_a_file_of_our_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "train.py").write_text("")
    (tmp_path / "worker.py").write_text("")
    assert fails(software.shadows(Node(script=tmp_path / "train.py")), str(tmp_path / "worker.py"))
    monkeypatch.chdir(tmp_path)
    assert software.shadows(Node()).level is Level.WARNING
    assert fails(software.shadows(Node(script=tmp_path / "none.py")), "no such script")


def test_lines_for_people(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = (Finding(Level.OK, "ports", "fine"), Finding(Level.FAILURE, "disk space", "none", "make room"))
    monkeypatch.setattr("sparsync.doctor.checks.CHECKS", tuple(lambda node, f=f: f for f in found))
    assert run(["doctor"]) == 85
    out, err = capsys.readouterr()
    assert out.splitlines() == [
        "ok       ports       fine",
        "failure  disk space  none",
        "                     → make room",
    ]
    assert err == "1 failure\n"
