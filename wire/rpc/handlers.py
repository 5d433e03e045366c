"""gRPC's four kinds of handler, taken apart and put together again around another behaviour."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc

Behavior = Callable[[Any, Any], Any]
"""What a servicer does with (request or requests, context)."""


def behavior_of(handler: Any) -> Behavior:
    """The servicer's method behind `handler`."""
    kinds = {
        (False, False): handler.unary_unary,
        (False, True): handler.unary_stream,
        (True, False): handler.stream_unary,
        (True, True): handler.stream_stream,
    }
    behavior: Behavior = kinds[handler.request_streaming, handler.response_streaming]
    return behavior


def with_behavior(handler: Any, behavior: Behavior) -> grpc.RpcMethodHandler[Any, Any]:
    """`handler` with another behaviour; kind and serializers stay."""
    kinds: dict[tuple[bool, bool], Any] = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, False): grpc.stream_unary_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }
    make = kinds[handler.request_streaming, handler.response_streaming]
    made: grpc.RpcMethodHandler[Any, Any] = make(
        behavior, handler.request_deserializer, handler.response_serializer
    )
    return made
