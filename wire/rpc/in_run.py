"""Calls that say to which run they belong, so that a process of another run refuses them.

The run stands in the metadata of a call, some forty bytes. A channel as stubs take it, not an interceptor: that
would queue every message of a stream once more.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import grpc.aio

from wire.rpc.access import RUN_KEY, InRun


class InRunChannel:
    """`channel` for stubs whose calls belong to `run`. Who opened the channel closes it."""

    def __init__(self, channel: grpc.aio.Channel, run: InRun) -> None:
        self._channel: Any = channel
        self._metadata = ((RUN_KEY, str(run)),)

    def unary_unary(self, *args: Any, **kwargs: Any) -> Callable[..., Any]:
        return self._tell(self._channel.unary_unary(*args, **kwargs))

    def unary_stream(self, *args: Any, **kwargs: Any) -> Callable[..., Any]:
        return self._tell(self._channel.unary_stream(*args, **kwargs))

    def stream_unary(self, *args: Any, **kwargs: Any) -> Callable[..., Any]:
        return self._tell(self._channel.stream_unary(*args, **kwargs))

    def stream_stream(self, *args: Any, **kwargs: Any) -> Callable[..., Any]:
        return self._tell(self._channel.stream_stream(*args, **kwargs))

    def _tell(self, call: Callable[..., Any]) -> Callable[..., Any]:
        return partial(call, metadata=self._metadata)
