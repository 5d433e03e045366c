"""Dialling: channels with our settings, and a bounded, visible wait that says which stage fails.

Each pool ("control", "data", "state") has TCP connections of its own, so that heartbeats
never queue behind a gigabyte, and `wire.rpc.meter` can tell the pools' bytes apart: a
pool's keepalive timeout, which gRPC also sets as TCP_USER_TIMEOUT on each of its sockets,
is its mark.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from datetime import UTC, datetime
from typing import NamedTuple

import grpc
import grpc.aio

from wire.clock import Clock, Deadline, monotonic_clock
from wire.errors import Unreachable
from wire.rpc.address import format_address, parse_address
from wire.rpc.identity import Role, Security, server_name
from wire.rpc.pem_files import Pems
from wire.rpc.reloading import PemWatch, ReloadingChannel, channel_credentials

__all__ = ["KEEPALIVE_TIMEOUT_MS", "MAX_MESSAGE_BYTES", "open_channel", "parse_address", "reach"]

MAX_MESSAGE_BYTES = 32 << 20
KEEPALIVE_TIME_MS = 10_000
KEEPALIVE_TIMEOUT_MS = {"control": 5_100, "data": 5_200, "state": 5_300}
"""By pool. Different on purpose (the mark that the meter reads), and none is the server's."""
FIRST_LOOK_S = 0.5
SAY_EVERY_S = 3.0
PROBE_S = 2.0

_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.keepalive_time_ms", KEEPALIVE_TIME_MS),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 5_000),  # despite its name: the time that one attempt may take
    ("grpc.max_reconnect_backoff_ms", 300),  # a peer that is back is found within a second (P9)
    ("grpc.enable_http_proxy", 0),
    ("grpc.enable_retries", 0),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
)


def open_channel(address: str, security: Security, *, role: Role, pool: str) -> grpc.aio.Channel:
    """A channel with TCP connections of its own; it connects when first used, with TLS to a `role` only.

    Calls that begin after the TLS files were replaced use the new ones.

    Raises:
        ConfigError: `address` is none, or the TLS files are not right.
        KeyError: no such pool.
    """
    target = format_address(*parse_address(address))
    options: list[tuple[str, int | str]] = [
        *_OPTIONS,
        ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS[pool]),
    ]
    files = security.files
    if files is None:
        return grpc.aio.insecure_channel(target, options=options)
    options.append(("grpc.ssl_target_name_override", server_name(role)))

    def dial(pems: Pems) -> grpc.aio.Channel:
        return grpc.aio.secure_channel(target, channel_credentials(pems), options=options)

    return ReloadingChannel(PemWatch(files), dial)


async def reach(
    address: str,
    security: Security,
    *,
    role: Role,
    pool: str,
    timeout_s: float,
    say: Callable[[str], None],
    clock: Clock = monotonic_clock,
) -> grpc.aio.Channel:
    """A channel that is connected, waited for at most about `timeout_s` seconds.

    `say` hears what is being waited for: at the start, and every few seconds the stage that fails.

    Raises:
        ConfigError: `address` is none, or the TLS files are not right.
        Unreachable: at the end of the time, with the stage that fails and what to do.
    """
    deadline = Deadline(clock, timeout_s)
    channel = open_channel(address, security, role=role, pool=pool)
    ready = asyncio.ensure_future(channel.channel_ready())
    say(f"connecting to {address} (for at most {timeout_s:g} s)")
    pause_s = FIRST_LOOK_S
    try:
        while True:
            done, _ = await asyncio.wait({ready}, timeout=min(pause_s, deadline.remaining()))
            if done:
                await ready
                return channel
            finding = await diagnose(address, security, role)
            if deadline.passed and not ready.done():
                raise Unreachable(f"{address} could not be reached in {timeout_s:g} s: {finding}")
            if not ready.done():
                say(f"waiting for {address}, {deadline.remaining():.0f} s left: {finding}")
            pause_s = SAY_EVERY_S
    except BaseException:
        ready.cancel()
        await channel.close(None)
        raise


class Finding(NamedTuple):
    """The first stage of a connection that fails, and what to do about it."""

    stage: str
    found: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.stage}: {self.found}; {self.remedy}"


async def diagnose(address: str, security: Security, role: Role) -> Finding:
    """The first stage that fails at this moment: name resolution, connection, TLS handshake, gRPC.

    Takes at most `PROBE_S` for each stage.

    Raises:
        ConfigError: `address` is none, or the TLS files are not right.
    """
    host, port = parse_address(address)
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(PROBE_S):
            infos = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except TimeoutError:
        return Finding(
            "name resolution", f"no answer about {host!r} in {PROBE_S:g} s", "check the name server"
        )
    except socket.gaierror as error:
        return Finding(
            "name resolution",
            f"{host!r} is not known ({error.strerror})",
            "check the spelling, or give the IP address",
        )
    ips = sorted({str(info[4][0]) for info in infos})
    where = f"{host} is {', '.join(ips)}" if ips != [host] else host
    plain = await _probe(host, port, None, where)
    if isinstance(plain, Finding):
        return plain
    if not security.tls:
        encrypted = plain == b"" and not isinstance(await _probe(host, port, _any_tls(), where), Finding)
        return _TLS_UNEXPECTED if encrypted else _judge(plain, tls=False)
    protected = await _probe(host, port, security.ssl_context(), where, role)
    if isinstance(protected, Finding):
        return protected
    mend = _ours_to_mend(security) if protected == b"" else None
    return mend or _judge(protected, tls=True)


def _ours_to_mend(security: Security) -> Finding | None:
    """What we can see is wrong with our own certificate, where the other side closes without a word."""
    assert security.files is not None
    fault = security.files.fault(datetime.now(UTC))
    remedy = "renew it (sparsync certs renew), or check --tls-ca and this machine's clock"
    return (
        Finding("TLS handshake", f"it closed the connection; our certificate {fault}", remedy)
        if fault
        else None
    )


_TLS_UNEXPECTED = Finding(
    "TLS handshake", "it speaks TLS and we do not", "give --tls-ca, --tls-cert and --tls-key"
)


def _any_tls() -> ssl.SSLContext:
    """Finds out whether the peer speaks TLS at all; nothing is ever sent through it but a greeting."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"
"""What an HTTP/2 client says first (RFC 9113, 3.4): the preface and an empty SETTINGS frame."""
_SETTINGS_FRAME = 4
_TLS_ALERT = b"\x15\x03"
_HOSTNAME_MISMATCH = 62
"""OpenSSL's X509_V_ERR_HOSTNAME_MISMATCH."""


async def _probe(
    host: str, port: int, context: ssl.SSLContext | None, where: str, role: Role | None = None
) -> bytes | Finding | None:
    """First bytes of the answer to an HTTP/2 greeting (None: silence), or what failed before."""
    writer = None
    try:
        async with asyncio.timeout(PROBE_S):
            reader, writer = await asyncio.open_connection(
                host,
                port,
                ssl=context,
                server_hostname=(server_name(role) if role else host) if context else None,
            )
        writer.write(_PREFACE)
        try:
            async with asyncio.timeout(PROBE_S):
                return await reader.read(9)
        except TimeoutError:
            return None
    except ssl.SSLCertVerificationError as error:
        if role is not None and error.verify_code == _HOSTNAME_MISMATCH:
            return Finding(
                "TLS handshake",
                f"its certificate is not that of a {role} (no name {server_name(role)})",
                f"check the address, and that it was started with a certificate for the role {role}",
            )
        return Finding(
            "TLS handshake",
            f"its certificate is refused ({error.verify_message})",
            "check --tls-ca, the dates of its certificate and this machine's clock",
        )
    except ssl.SSLError as error:
        return Finding(
            "TLS handshake",
            f"it does not answer with TLS that we accept ({error.reason or error})",
            "check that it was started with --tls-ca, --tls-cert and --tls-key, and that its CA signed our certificate",
        )
    except ConnectionRefusedError:
        return Finding(
            "connection",
            f"{where}, port {port} refuses: nothing listens there (yet)",
            "check that it runs and the port",
        )
    except TimeoutError:
        stage = "TLS handshake" if context else "connection"
        return Finding(
            stage,
            f"{where}, port {port} does not answer within {PROBE_S:g} s",
            "check firewalls and routes, and that the machine is up",
        )
    except OSError as error:
        if writer:
            return b""
        if context:
            return Finding(
                "TLS handshake",
                f"it ended the connection ({error.strerror or error})",
                "check that TLS is spoken on that port",
            )
        return Finding(
            "connection", f"{where}, port {port}: {error.strerror or error}", "check routes and the address"
        )
    finally:
        if writer is not None:
            writer.transport.abort()  # nothing to wait for, nothing left when the loop ends


def _judge(answer: bytes | None, *, tls: bool) -> Finding:
    """What the first bytes after a connection say about the peer."""
    if answer and len(answer) >= 4 and answer[3] == _SETTINGS_FRAME:
        return Finding(
            "gRPC",
            "it answers, but the channel is not ready yet",
            "it may be overloaded: wait, or look at its log",
        )
    if answer and answer.startswith(_TLS_ALERT) and not tls:
        return _TLS_UNEXPECTED
    if answer:
        return Finding(
            "gRPC",
            f"what answers there speaks no gRPC (it said {answer!r})",
            "check the port: another service listens on it",
        )
    if answer == b"" and tls:
        return Finding(
            "TLS handshake", "it closed the connection", "check that its CA signed our certificate"
        )
    if answer == b"":
        return Finding(
            "gRPC", "it closed the connection at once", "check the port: another service listens on it"
        )
    return Finding(
        "gRPC",
        "it accepts connections and says nothing",
        "check the port; if it is the right one, the process hangs: look at its log",
    )
