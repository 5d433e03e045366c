"""Sections from the device to the host: one pinned buffer a group, copied beside the work on the next group."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import torch

from wire.codec.part import U8


def start_copy(tensors: tuple[torch.Tensor, ...]) -> Callable[[], list[U8]]:
    """Begin to copy; what is returned waits for the end and gives the bytes of each tensor.

    On CUDA the copies run on a stream of their own, behind what the current stream has been given so far.
    """
    raw = [tensor.contiguous().view(-1).view(torch.uint8) for tensor in tensors]
    device = raw[0].device
    if device.type != "cuda":
        return lambda: [tensor.numpy() for tensor in raw]
    sizes = [tensor.numel() for tensor in raw]
    host = torch.empty(sum(sizes), dtype=torch.uint8, device="cpu", pin_memory=True)
    stream, pieces = _stream(device), torch.split(host, sizes)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        for piece, tensor in zip(pieces, raw, strict=True):
            piece.copy_(tensor, non_blocking=True)
            tensor.record_stream(stream)
    copied = stream.record_event()

    def wait() -> list[U8]:
        copied.synchronize()
        return [piece.numpy() for piece in pieces]

    return wait


@lru_cache
def _stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
