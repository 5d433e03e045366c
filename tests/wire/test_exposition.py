"""Metrics over real sockets: who may read what, in which form, and what becomes of those who do not behave."""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_open
from prometheus_client.parser import text_string_to_metric_families as parse

from sparsync.authority import Authority
from tests.conftest import Member, security
from tests.credentials import of_nobody
from wire import metrics as m
from wire.errors import ConfigError, PermissionRefused, PortTaken
from wire.exposition import CONNECTIONS, TARGETS, Exposition, OwnProcess, on_loop
from wire.metrics import Distribution, Samples
from wire.rpc.identity import Role, Security, server_name

ANY = "127.0.0.1:0"
LIMIT_S = 20.0


def samples() -> Samples:
    waits = Distribution((0.1, 1.0))
    for seconds in (0.05, 0.5, 0.5, 5.0):
        waits.observe(seconds)
    return [m.STEP(12), m.JOINS(3, "worker"), m.JOINS(2, "ps"), m.LOOP_LAG(waits)]


@contextmanager
def exposed(secured: Security = Security(), make: Any = samples, **more: Any) -> Iterator[Exposition]:  # noqa: B008
    with closing(Exposition(ANY, secured, make, **more)) as exposition:
        yield exposition


@contextmanager
def serving(secured: Security, directory: Path, *, role: str, id: str, **more: Any) -> Iterator[Exposition]:
    with Exposition.serving(
        ANY,
        secured,
        samples,
        role=role,
        id=id,
        run="r",
        places=[directory.parent / "absent", directory],
        **more,
    ) as exposition:
        yield exposition


def ask(
    exposition: Exposition, path: str = "/metrics", *, context: ssl.SSLContext | None = None, accept: str = ""
) -> tuple[int, str, str]:
    """(status, content type, text)."""
    port = exposition.address.rpartition(":")[2]
    host = "localhost" if context else "127.0.0.1"
    scheme = "https" if context else "http"
    request = urllib.request.Request(f"{scheme}://{host}:{port}{path}", headers={"Accept": accept})
    try:
        with urllib.request.urlopen(request, timeout=LIMIT_S, context=context) as reply:
            return reply.status, reply.headers["Content-Type"], reply.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers["Content-Type"], error.read().decode()


class Named(ssl.SSLContext):
    """As Prometheus' `server_name`: asks for a role's name, whatever the address."""

    role: Role

    def wrap_socket(self, *arguments: Any, **more: Any) -> ssl.SSLSocket:
        return super().wrap_socket(*arguments, **more | {"server_hostname": server_name(self.role)})


def client(own: Security | None, ca: Security, *, of: Role) -> Named:
    context = Named(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(ca.tls_ca)
    context.role = of
    if own is not None:
        context.load_cert_chain(str(own.tls_cert), str(own.tls_key))
    return context


# --- what is told ------------------------------------------------------------------------------------


def test_values_are_read_when_somebody_scrapes() -> None:
    values = iter((1, 2))
    with exposed(make=lambda: [m.STEP(next(values))]) as exposition:
        assert "sparsync_run_step 1.0\n" in ask(exposition)[2]
        assert "sparsync_run_step 2.0\n" in ask(exposition)[2]


def test_both_forms_parse_and_say_the_same() -> None:
    with exposed() as exposition:
        _, kind, text = ask(exposition)
        _, open_kind, open_text = ask(exposition, accept="application/openmetrics-text; version=1.0.0")
    assert kind.startswith("text/plain; version=0.0.4") and open_kind.startswith(
        "application/openmetrics-text"
    )
    for families in (parse(text), parse_open(open_text)):
        found = {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in families
            for sample in family.samples
        }
        assert found["sparsync_run_step", ()] == 12
        assert found["sparsync_run_joins_total", (("role", "worker"),)] == 3
        lag = "sparsync_coordinator_event_loop_lag_seconds"
        assert [found[f"{lag}_bucket", (("le", le),)] for le in ("0.1", "1.0", "+Inf")] == [1, 3, 4]
        assert (found[f"{lag}_count", ()], found[f"{lag}_sum", ()]) == (4, 6.05)
        assert found["process_resident_memory_bytes", ()] > 1 << 20


def test_a_process_is_told_of_where_nothing_else_is_shown(tmp_path: Path) -> None:
    """As with ProcSubset=pid in a unit: /proc holds processes and no more."""
    (tmp_path / "self").symlink_to("/proc/self")
    shown, whole = OwnProcess(proc=str(tmp_path), registry=None), OwnProcess(registry=None)
    values = [
        {s.name: s.value for family in each.collect() for s in family.samples} for each in (shown, whole)
    ]
    assert values[0].keys() == values[1].keys() > {"process_cpu_seconds_total", "process_open_fds"}
    assert values[0]["process_start_time_seconds"] == pytest.approx(
        values[1]["process_start_time_seconds"], abs=60
    )


def test_only_metrics_are_served() -> None:
    with exposed() as exposition:
        assert ask(exposition, "/")[0] == 404
        assert ask(exposition, "/metrics?x=1")[0] == 200


def test_a_role_tells_where_it_is_scraped(tmp_path: Path) -> None:
    with serving(Security(), tmp_path, role="ps", id="ps-3") as exposition:
        told = json.loads((tmp_path / TARGETS / "ps-3.json").read_text())
        assert told == [{"targets": [exposition.address], "labels": {"instance": "ps-3", "run": "r"}}]
        text = ask(exposition)[2]
        assert 'sparsync_build_info{id="ps-3",role="ps",' in text
        assert 'sparsync_malloc_bytes{state="used"} ' in text
    assert list((tmp_path / TARGETS).iterdir()) == []


def test_a_directory_that_takes_no_file_ends_nothing(tmp_path: Path) -> None:
    with serving(Security(), tmp_path / "none", role="ps", id="ps-3") as exposition:
        assert ask(exposition)[0] == 200


def test_a_loop_is_asked_where_it_runs() -> None:
    async def scene() -> None:
        async def make() -> Samples:
            assert threading.current_thread() is threading.main_thread()
            return [m.STEP(5)]

        with exposed(make=on_loop(make)) as exposition:
            status, _, text = await asyncio.to_thread(ask, exposition)
            assert (status, "sparsync_run_step 5.0" in text) == (200, True)

    asyncio.run(scene())


def test_a_role_that_is_too_busy_says_so() -> None:
    def busy() -> Samples:
        raise TimeoutError

    with exposed(make=busy) as exposition:
        assert ask(exposition)[0] == 503


# --- where and by whom ---------------------------------------------------------------------------------


def test_plain_text_stays_on_this_machine() -> None:
    with pytest.raises(PermissionRefused, match="without TLS"):
        Exposition("0.0.0.0:0", Security(), samples)
    with closing(Exposition("0.0.0.0:0", Security(insecure=True), samples)):
        pass


def test_an_address_that_is_none_or_taken_is_told() -> None:
    with pytest.raises(ConfigError, match="is no address"):
        Exposition("9100", Security(), samples)
    with exposed() as exposition, pytest.raises(PortTaken, match="cannot listen there"):
        Exposition(exposition.address, Security(), samples)


def test_no_name_is_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """The role's event loop would wait for a name server that does not answer."""

    def look_up(*arguments: object) -> None:
        raise AssertionError(f"asked for the name of {arguments}")

    for name in ("getfqdn", "gethostbyaddr", "getnameinfo"):
        monkeypatch.setattr(socket, name, look_up)
    with exposed() as exposition:
        assert ask(exposition)[0] == 200


@pytest.mark.parametrize(
    ("role", "name", "status"),
    [
        (Role.VIEWER, "prometheus", 200),
        (Role.OPERATOR, "anna", 200),
        (Role.COORDINATOR, "coordinator", 200),
        (Role.PS, "ps-3", 200),
        (Role.PS, "ps-4", 403),
        (Role.WORKER, "ps-3", 403),
    ],
)
def test_who_may_read_a_servers_metrics(
    role: Role, name: str, status: int, member: Member, tmp_path: Path
) -> None:
    own, refused = member(Role.PS, "ps-3"), list[Mapping[str, object]]()
    with serving(own, tmp_path, role="ps", id="ps-3", refused=refused.append) as exposition:
        found, _, text = ask(exposition, context=client(member(role, name), own, of=Role.PS))
    assert found == status
    told = [(line["who"], line["role"], line["method"], line["result"]) for line in refused]
    assert told == ([(name, role, "/metrics", "refused")] if status == 403 else [])
    assert ("sparsync_run_step" in text) is (status == 200)
    assert ("may not read" in text) is (status == 403)


def test_a_certificate_is_demanded_and_has_to_be_of_the_authority(
    member: Member, foreign_authority: Authority, tmp_path: Path
) -> None:
    own = member(Role.PS, "ps-3")
    foreign = security(foreign_authority, Role.VIEWER, "prometheus", out=tmp_path)
    refused: list[Mapping[str, object]] = []
    with serving(own, tmp_path, role="ps", id="ps-3", refused=refused.append) as exposition:
        for caller in (None, foreign):
            with pytest.raises(OSError):
                ask(exposition, context=client(caller, own, of=Role.PS))
        with pytest.raises(OSError):
            ask(exposition)
    assert [str(line["reason"]).startswith("the TLS handshake failed") for line in refused] == [True] * 3


def test_a_certificate_that_names_nobody_reads_nothing(
    member: Member, authority: Authority, tmp_path: Path
) -> None:
    own, refused = member(Role.PS, "ps-3"), list[Mapping[str, object]]()
    with serving(own, tmp_path, role="ps", id="ps-3", refused=refused.append) as exposition:
        context = client(of_nobody(authority, tmp_path / "nobody"), own, of=Role.PS)
        status, _, text = ask(exposition, context=context)
    assert (status, "names nobody" in text) == (403, True)
    assert [(line["who"], line["method"], line["code"]) for line in refused] == [
        ("", "/metrics", "UNAUTHENTICATED")
    ]


def test_a_revoked_certificate_reads_nothing(member: Member, tmp_path: Path) -> None:
    own, viewer = member(Role.PS, "ps-3"), member(Role.VIEWER, "prometheus")
    revoked = viewer.own().serial
    with serving(own, tmp_path, role="ps", id="ps-3", denied=lambda serial: serial == revoked) as exposition:
        status, _, text = ask(exposition, context=client(viewer, own, of=Role.PS))
    assert (status, "is revoked" in text) == (403, True)


def test_new_files_are_used_from_the_next_connection_on(authority: Authority, tmp_path: Path) -> None:
    own = security(authority, Role.PS, "ps-3", out=tmp_path / "ps")
    viewer = security(authority, Role.VIEWER, "prometheus", out=tmp_path / "viewer")

    def shown(exposition: Exposition) -> Any:
        host, _, port = exposition.address.rpartition(":")
        context = client(viewer, own, of=Role.PS)
        with (
            socket.create_connection((host, int(port)), timeout=LIMIT_S) as plain,
            context.wrap_socket(plain) as wrapped,
        ):
            return wrapped.getpeercert(binary_form=True)

    with serving(own, tmp_path, role="ps", id="ps-3") as exposition:
        before = shown(exposition)
        security(authority, Role.PS, "ps-3", out=tmp_path / "ps")
        assert shown(exposition) != before


def test_when_the_certificate_ends_is_told(member: Member, tmp_path: Path) -> None:
    own = member(Role.PS, "ps-3")
    with serving(own, tmp_path, role="ps", id="ps-3") as exposition:
        _, _, text = ask(exposition, context=client(own, own, of=Role.PS))
    assert own.tls_cert is not None
    ends = x509.load_pem_x509_certificate(own.tls_cert.read_bytes()).not_valid_after_utc.timestamp()
    (line,) = (line for line in text.splitlines() if line.startswith("sparsync_certificate_end"))
    assert float(line.split()[1]) == ends


def test_those_who_say_nothing_keep_nobody_else_out() -> None:
    with exposed() as exposition:
        host, _, port = exposition.address.rpartition(":")
        silent = [
            socket.create_connection((host, int(port)), timeout=LIMIT_S) for _ in range(CONNECTIONS + 2)
        ]
        closed = [one for one in silent[CONNECTIONS:] if one.recv(1) == b""]
        assert len(closed) == 2, "beyond the bound a connection is closed at once"
        for one in silent:
            one.close()
        for _ in range(100):  # those that are gone are noticed by their threads
            try:
                assert ask(exposition)[0] == 200
                break
            except OSError:
                threading.Event().wait(0.02)
        else:
            pytest.fail("the places of those who went were not given back")


# --- what it costs who does not ask ------------------------------------------------------------------------


@pytest.mark.parametrize("module", ["coordinator.runtime", "ps.runtime", "worker.runtime"])
def test_who_serves_no_metrics_does_not_load_them(module: str) -> None:
    code = f"import sys, {module}; sys.exit('prometheus_client' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool (Debian package prometheus) is not installed"
)
def test_promtool_has_nothing_to_say() -> None:
    def everything() -> Samples:
        for metric in m.METRICS.values():
            value = Distribution() if metric.kind == "histogram" else 1
            yield metric(value, *(f"some {label}" for label in metric.labels))

    with exposed(make=everything) as exposition:
        text = ask(exposition)[2]
    done = subprocess.run(
        ["promtool", "check", "metrics"], input=text, text=True, capture_output=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
