"""TLS files that are replaced while a process runs: new connections use the new ones, without a restart.

A server looks at its files at each handshake. A client looks at each call: where they have changed the call goes over
a new connection, calls that are under way end on the old one. Files that do not fit together, as while they are being
replaced, are told of once and passed over: what was good before is used until they do.

Where an older certificate of ours is revoked meanwhile, the calls that still show it end as if their connection had
broken (`is_outdated`): who made them makes them again, with the newer one.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self
from weakref import WeakSet

import grpc
import grpc.aio

from wire.errors import SparsyncError
from wire.rpc.pem_files import PemFiles, Pems

log = logging.getLogger(__name__)


_shown: set[str] = set()
"""Serial numbers of all certificates that this process has shown, or would have."""
_watches: WeakSet[PemWatch] = WeakSet()


def is_outdated(refusal: str) -> bool:
    """Whether a refusal names a certificate that this process has shown, and has another for by now. Any thread."""
    named = {serial for serial in tuple(_shown) if serial in refusal}
    if not named:
        return False
    watches = list(_watches)
    for watch in watches:
        watch.look()
    return not named & {watch.pems.serial() for watch in watches}


class PemWatch:
    """The newest content of the files that was whole.

    Raises: about the files, as `PemFiles.read`; only here at the start.
    """

    def __init__(self, files: PemFiles) -> None:
        self._files = files
        self._stamp = files.stamp()
        self._looking = threading.Lock()
        self.pems: Pems = files.read()
        _shown.add(self.pems.serial())
        _watches.add(self)

    def look(self) -> None:
        """Has `pems` be what stands in the files, if they were replaced and are good. Any thread."""
        stamp = self._files.stamp()
        if stamp == self._stamp:
            return
        with self._looking:
            if stamp == self._stamp:
                return
            self._stamp = stamp
            try:
                pems = self._files.read()
            except (SparsyncError, OSError) as error:
                log.warning("new TLS files are not used, the earlier ones are: %s", error)
                return
            if pems != self.pems:
                self.pems = pems
                _shown.add(pems.serial())
                log.info("new TLS files are used from now on: %s", self._files.cert)


def server_credentials(files: PemFiles) -> grpc.ServerCredentials:
    """Demands a certificate of every client, and shows the newest of ours."""
    watch = PemWatch(files)
    used = watch.pems

    def look() -> grpc.ServerCertificateConfiguration | None:
        nonlocal used
        watch.look()
        if watch.pems is used:
            return None
        used = watch.pems
        return _server_side(used)

    return grpc.dynamic_ssl_server_credentials(
        _server_side(used),
        look,  # type: ignore[arg-type]  # None means: as before
        require_client_authentication=True,
    )


def _server_side(pems: Pems) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([(pems.key, pems.cert)], root_certificates=pems.ca)


def channel_credentials(pems: Pems) -> grpc.ChannelCredentials:
    """Shows our certificate, and checks the server's."""
    return grpc.ssl_channel_credentials(
        root_certificates=pems.ca, private_key=pems.key, certificate_chain=pems.cert
    )


class ReloadingChannel(grpc.aio.Channel):
    """A channel whose calls go over connections that are made with the newest files; on one event loop.

    Args:
        dial: a channel with these files.
    """

    def __init__(self, watch: PemWatch, dial: Callable[[Pems], grpc.aio.Channel]) -> None:
        self._watch, self._dial = watch, dial
        self._pems = watch.pems
        self._channel = dial(self._pems)
        self._calls: dict[grpc.aio.Channel, int] = {self._channel: 0}
        """Of every channel that is open, how many are under way."""
        self._closing: set[asyncio.Task[None]] = set()
        self._closed = False

    def newest(self) -> grpc.aio.Channel:
        """The channel for calls that begin now."""
        self._watch.look()
        if not self._closed and self._watch.pems is not self._pems:
            self._pems = self._watch.pems
            older, self._channel = self._channel, self._dial(self._pems)
            self._calls[self._channel] = 0
            self._leave(older)
        return self._channel

    def count(self, channel: grpc.aio.Channel, call: grpc.aio.Call) -> None:
        """Keep the channel of a call that has begun until that is done."""
        if channel in self._calls:
            self._calls[channel] += 1
            call.add_done_callback(lambda _: self._done(channel))

    def _done(self, channel: grpc.aio.Channel) -> None:
        if channel in self._calls:
            self._calls[channel] -= 1
            self._leave(channel)

    def _leave(self, channel: grpc.aio.Channel) -> None:
        """Close an older channel that nobody uses any more."""
        if channel is not self._channel and self._calls[channel] == 0:
            del self._calls[channel]
            closing = asyncio.get_running_loop().create_task(channel.close(None))
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)

    def unary_unary(self, *arguments: Any, **options: Any) -> Any:
        return _Method(self, lambda channel: channel.unary_unary(*arguments, **options))

    def unary_stream(self, *arguments: Any, **options: Any) -> Any:
        return _Method(self, lambda channel: channel.unary_stream(*arguments, **options))

    def stream_unary(self, *arguments: Any, **options: Any) -> Any:
        return _Method(self, lambda channel: channel.stream_unary(*arguments, **options))

    def stream_stream(self, *arguments: Any, **options: Any) -> Any:
        return _Method(self, lambda channel: channel.stream_stream(*arguments, **options))

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        return self.newest().get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        await self.newest().wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        await self.newest().channel_ready()

    async def close(self, grace: float | None = None) -> None:
        self._closed = True
        channels = list(self._calls)
        self._calls.clear()
        await asyncio.gather(*self._closing, *(channel.close(grace) for channel in channels))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close(None)


class _Method:
    """A method of a service, to be called over the newest channel."""

    def __init__(self, owner: ReloadingChannel, bind: Callable[[grpc.aio.Channel], Any]) -> None:
        self._owner, self._bind = owner, bind
        self._channel: grpc.aio.Channel | None = None
        self._call: Any = None

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        channel = self._owner.newest()
        if channel is not self._channel:
            self._channel, self._call = channel, self._bind(channel)
        call = self._call(*arguments, **options)
        self._owner.count(channel, call)
        return call
