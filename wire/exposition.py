"""Metrics over HTTP: one thread listens, one a connection answers, with TLS as the role has it.

Values are asked for when somebody scrapes, and shown beside what prometheus_client knows of the process. This module
is imported only where metrics were asked for. A connection is bounded in time and number, so that nobody can hold the
role up here; its handshake happens on its own thread, with the certificate files as they are by then. Viewers,
operators and the coordinator may read, and everybody his own.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import socket
import ssl
import threading
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from socketserver import TCPServer
from typing import Any, Self

from prometheus_client import PlatformCollector, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.core import (
    Metric as Family,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector, CollectorRegistry

from wire.clock import wall_anchor
from wire.errors import PermissionRefused, PortTaken, SparsyncError, Unidentified
from wire.memory import held
from wire.metrics import BUILD, CERTIFICATE_END, MALLOC, METRICS, Distribution, Metric, Samples
from wire.rpc.address import format_address, parse_address
from wire.rpc.identity import Peer, Role, Security, peer_in
from wire.rpc.pem_files import PemFiles

log = logging.getLogger(__name__)
Refusal = Mapping[str, object]
PATH = "/metrics"
READERS = frozenset({Role.VIEWER, Role.OPERATOR, Role.COORDINATOR})
"""Who may read everybody's."""
CONNECTION_S = 10.0
"""From being accepted to being answered, at each step of the way."""
CONNECTIONS = 16
ANSWER_S = 5.0
"""An event loop that has not answered by then is too busy."""
TARGETS = "metrics"
"""A directory of files, one a role, that say where it serves, as Prometheus' file_sd_configs reads them."""


class Exposition:
    """Serves the metrics of one process until it is closed.

    Args:
        listen: host:port; port 0: any free one.
        samples: called for each scrape, on a thread of its own. Raises: TimeoutError where the role is too busy.
        refuse: says of a caller why he may not read, or nothing; not asked in plain text.
        refused: takes what stands in the audit log of a refusal, on the thread of the call.

    Attributes:
        address: host:port that was bound.

    Raises:
        ConfigError, NoInput: `listen` is no address, or the TLS files are not right.
        PermissionRefused: security forbids to listen there, or others can read the key.
        PortTaken: the port is in use, or the address is not this machine's.
    """

    def __init__(
        self,
        listen: str,
        security: Security,
        samples: Callable[[], Samples],
        *,
        refuse: Callable[[Peer], str] = lambda peer: "",
        refused: Callable[[Refusal], object] = lambda refusal: None,
    ) -> None:
        host, port = parse_address(listen)
        security.check_listen(host)
        contexts = Contexts(security.files) if security.files is not None else None
        registry = CollectorRegistry()
        OwnProcess(registry=registry)
        PlatformCollector(registry=registry)
        registry.register(_Declared(samples))
        try:
            self._server = _Server(host, port, registry, contexts, refuse, refused)
        except OSError as error:
            raise PortTaken(
                f"--metrics {listen}: cannot listen there ({error.strerror}); choose another port, or 0 for any"
            ) from error
        self.address = format_address(host, self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True)
        self._thread.start()
        log.info("metrics are served on %s%s", self.address, PATH)

    @classmethod
    @contextmanager
    def serving(
        cls,
        listen: str,
        security: Security,
        samples: Callable[[], Samples],
        *,
        role: str,
        id: str,
        run: str,
        places: Sequence[Path],
        denied: Callable[[str], bool] = lambda serial: False,
        refused: Callable[[Refusal], object] = lambda refusal: None,
    ) -> Iterator[Self]:
        """Serve the metrics of `role`, which is called `id` in the run, and tell where.

        Args:
            places: directories; the first that there is, and that takes it, gets TARGETS/ID.json.
            denied: whether the certificate of a serial number is revoked.
        """

        def refuse(peer: Peer) -> str:
            if denied(peer.serial):
                return f"the certificate of {peer} is revoked"
            own = peer.role == role and peer.covers(id)
            return "" if own or peer.role in READERS else f"{peer} may not read the metrics of {role} {id}"

        build = BUILD(1, _version(), role, id)

        def all_samples() -> Samples:
            return (build, *_memory(), *_certificate(security), *samples())

        exposition = cls(listen, security, all_samples, refuse=refuse, refused=refused)
        told = _tell(places, id, [{"targets": [exposition.address], "labels": {"instance": id, "run": run}}])
        try:
            yield exposition
        finally:
            if told is not None:
                told.unlink(missing_ok=True)
            exposition.close()

    def close(self) -> None:
        """Take no more connections."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _tell(places: Sequence[Path], id: str, targets: object) -> Path | None:
    """The file in which it stands now; None where no place takes it, which ends nothing."""
    for place in places:
        path = place / TARGETS / f"{id}.json"
        try:
            if place.is_dir():
                path.parent.mkdir(exist_ok=True)
                path.write_text(json.dumps(targets) + "\n")
                return path
        except OSError as error:
            log.info("%s is not written: %s", path, error.strerror)
    return None


def _memory() -> Samples:
    if (now := held()) is not None:
        yield MALLOC(now.used, "used")
        yield MALLOC(now.free, "free")


def _certificate(security: Security) -> Samples:
    """When our certificate ends, as the file is now; nothing while that is being replaced."""
    if security.files is not None:
        with suppress(OSError, ValueError):
            yield CERTIFICATE_END(security.files.dates()[1].timestamp())


def _version() -> str:
    try:
        return version("sparsync")
    except PackageNotFoundError:  # run from a source tree that was never installed
        return "unknown"


def on_loop(samples: Callable[[], Awaitable[Samples]]) -> Callable[[], Samples]:
    """Has the running event loop make the samples, for other threads. Raises, there: TimeoutError."""
    loop = asyncio.get_running_loop()

    async def make() -> Samples:
        return await samples()

    def ask() -> Samples:
        if loop.is_closed():
            raise TimeoutError("the event loop has ended")
        return asyncio.run_coroutine_threadsafe(make(), loop).result(ANSWER_S)

    return ask


class OwnProcess(ProcessCollector):
    """`process_*` in a sandbox too: one that shows nothing but processes hides when the machine was started."""

    def _boot_time(self) -> float:
        try:
            return float(super()._boot_time())  # type: ignore[no-untyped-call]
        except OSError:
            anchor = wall_anchor()
            return anchor.utc_s - anchor.monotonic_s


class _Declared(Collector):
    """Samples as prometheus_client wants them; what is not declared in wire/metrics.py cannot be shown."""

    def __init__(self, samples: Callable[[], Samples]) -> None:
        self._samples = samples

    def describe(self) -> Iterable[Family]:
        """Nothing is read before somebody asks."""
        return [_family(metric) for metric in METRICS.values()]

    def collect(self) -> Iterator[Family]:
        families: dict[str, Any] = {}
        for metric, labels, value in self._samples():
            family = families.get(metric.name) or families.setdefault(metric.name, _family(metric))
            if isinstance(value, Distribution):
                family.add_metric(labels, _cumulative(value), value.sum)
            else:
                family.add_metric(labels, value)
        yield from families.values()


_FAMILIES = {"gauge": GaugeMetricFamily, "counter": CounterMetricFamily, "histogram": HistogramMetricFamily}


def _family(metric: Metric) -> Any:
    """Of prometheus_client: one of its three kinds, which differ in what they take."""
    return _FAMILIES[metric.kind](metric.name, metric.help, labels=metric.labels)


def _cumulative(of: Distribution) -> list[tuple[str, float]]:
    counts, total = list(of.counts), 0
    buckets = []
    for bound, count in zip((*of.bounds, math.inf), counts, strict=True):
        total += count
        buckets.append(("+Inf" if bound == math.inf else repr(bound), float(total)))
    return buckets


def _refusal(
    peer: Peer | None, address: str, reason: str, *, error: type[SparsyncError] = PermissionRefused
) -> Refusal:
    """As the gate writes them (wire/rpc/gate.py)."""
    return {
        "who": peer.name if peer else "",
        "role": str(peer.role) if peer else "",
        "serial": peer.serial if peer else "",
        "from": address,
        "method": PATH,
        "result": "refused",
        "code": error.status,
        "error": error.__name__,
        "reason": reason,
    }


class Contexts:
    """The listening side of TLS for Python's own sockets; demands a certificate of every client.

    Made anew when the files change; while they do not fit together the one before holds.

    Raises: ConfigError, NoInput, PermissionRefused: about the PEM files, by name.
    """

    def __init__(self, files: PemFiles) -> None:
        self._files = files
        self._stamp, self._context = files.stamp(), _context(files)

    def newest(self) -> ssl.SSLContext:
        """As the files are now."""
        stamp = self._files.stamp()
        if stamp != self._stamp:
            try:
                self._context = _context(self._files)
            except SparsyncError as error:
                log.warning("metrics keep the certificate that they have: %s", error)
            self._stamp = stamp
        return self._context


def _context(files: PemFiles) -> ssl.SSLContext:
    files.read()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(files.ca))
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(files.cert, files.key)
    return context


class _Server(HTTPServer):
    """One thread a connection, so many at most; whoever comes beyond that is closed."""

    def __init__(
        self,
        host: str,
        port: int,
        registry: CollectorRegistry,
        contexts: Contexts | None,
        refuse: Callable[[Peer], str],
        refused: Callable[[Refusal], object],
    ) -> None:
        self.registry, self.refuse, self.refused = registry, refuse, refused
        self._contexts = contexts
        self._room = threading.BoundedSemaphore(CONNECTIONS)
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__((host, port), _Handler)

    def server_bind(self) -> None:
        """Without HTTPServer's, which asks DNS for a name of the host, while the role's event loop waits."""
        TCPServer.server_bind(self)

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._room.acquire(blocking=False):
            self.shutdown_request(request)
            return
        threading.Thread(
            target=self._answer, args=(request, client_address), name="metrics-call", daemon=True
        ).start()

    def _answer(self, request: socket.socket, client_address: Any) -> None:
        try:
            request.settimeout(CONNECTION_S)
            if self._contexts is not None:
                request = self._contexts.newest().wrap_socket(request, server_side=True)
            self.finish_request(request, client_address)
        except ssl.SSLError as error:
            self.refused(
                _refusal(None, client_address[0], f"the TLS handshake failed: {error.reason or error}")
            )
        except OSError as error:
            log.info("a scrape from %s came to nothing: %s", client_address[0], error)
        finally:
            self.shutdown_request(request)
            self._room.release()


class _Handler(BaseHTTPRequestHandler):
    """GET /metrics, and nothing else; HTTP/1.0, so that every connection ends with its answer."""

    server: _Server
    timeout = CONNECTION_S
    server_version = "sparsync"
    sys_version = ""

    def do_GET(self) -> None:
        if self.path.partition("?")[0] != PATH:
            self._say(HTTPStatus.NOT_FOUND, f"metrics are at {PATH}\n")
            return
        if refusal := self._refusal():
            self._say(HTTPStatus.FORBIDDEN, f"{refusal}\n")
            return
        encode, kind = choose_encoder(self.headers.get("Accept", ""))
        try:
            text = encode(self.server.registry)
        except TimeoutError:
            self._say(HTTPStatus.SERVICE_UNAVAILABLE, "this process is too busy to say; ask again\n")
            return
        self._send(HTTPStatus.OK, kind, text)

    def _refusal(self) -> str:
        """Why the caller may not read; empty: he may."""
        if not isinstance(self.connection, ssl.SSLSocket):
            return ""
        certificate = self.connection.getpeercert(binary_form=True)
        assert certificate is not None  # the handshake demands one
        try:
            peer = peer_in(ssl.DER_cert_to_PEM_cert(certificate).encode())
        except Unidentified as error:
            self.server.refused(_refusal(None, self.client_address[0], str(error), error=Unidentified))
            return str(error)
        if reason := self.server.refuse(peer):
            self.server.refused(_refusal(peer, self.client_address[0], reason))
        return reason

    def _say(self, status: HTTPStatus, text: str) -> None:
        self._send(status, "text/plain; charset=utf-8", text.encode())

    def _send(self, status: HTTPStatus, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        log.debug(format, *args)
