"""State update, selection, quantiser and feedback of a group of parts, on the device of its planes."""

from __future__ import annotations

from typing import NamedTuple

import torch

from wire.codec.cuda import values
from wire.codec.cuda.group import INFINITY, MAGNITUDE, Group, put
from wire.codec.cuda.select import gaps_of, select
from wire.codec.feedback import Feedback
from wire.codec.part import Planes, Update
from wire.layout import BLOCK

Tensors = Planes[torch.Tensor]


class Made(NamedTuple):
    """A group's sections before they are cut into parts, on the device.

    counts, gap_sizes int16[n], scales int16[n, L]: bits of unsigned numbers. gaps uint8[…]: block after block.
    signs, codes uint8[n, …]: a row a block, zero behind its end. bad bool[n]: NaN or infinity in the block.
    """

    counts: torch.Tensor
    gap_sizes: torch.Tensor
    scales: torch.Tensor
    gaps: torch.Tensor
    signs: torch.Tensor
    codes: torch.Tensor
    bad: torch.Tensor


def encode_group(group: Group, update: Update, planes: Tensors) -> Made:
    """The sections of a group; moves the state in its rows."""
    c = _load(group, update, planes)
    keys = c.view(torch.int32) & MAGNITUDE
    largest = keys.amax(1)
    made = _encode_whole if group.chain.whole else _encode_top
    return made(group, update, planes.state, c, keys, largest)


def _load(group: Group, update: Update, planes: Tensors) -> torch.Tensor:
    """c float32[n, 4096], what is to be compressed, zero in the padding; the momentum is updated."""
    decay, keep, take = (float(weight) for weight in update.weights)
    source = planes.source[group.rows]
    if update.feedback is Feedback.PLAIN:
        c = source
    elif update.feedback is Feedback.CARRY:
        c = source + planes.state[group.rows]
    elif update.feedback is Feedback.RESIDUAL:
        c = (planes.state[group.rows] * decay).add_(source)
    else:
        if update.feedback is Feedback.MOMENTUM:
            source = (planes.momentum[group.rows] * keep).add_(source * take)
            put(planes.momentum, group.rows, group.inside, source)
        c = source - planes.state[group.rows]
    return c if group.inside is None else torch.where(group.inside, c, 0.0)


def _encode_whole(
    group: Group,
    update: Update,
    state: torch.Tensor,
    c: torch.Tensor,
    keys: torch.Tensor,
    largest: torch.Tensor,
) -> Made:
    kept = values.Kept(c, keys, largest, None, group.inside, group.numbers)
    coded = values.encode(kept, group.chain.values, group.chain.coarse, update.key)
    if update.feedback is Feedback.CARRY:
        put(state, group.rows, group.inside, torch.zeros_like(c))
    elif update.feedback is Feedback.RESIDUAL:
        put(state, group.rows, group.inside, c - coded.v)
    elif update.feedback is not Feedback.PLAIN:
        put(state, group.rows, group.inside, state[group.rows] + coded.v)
    none = torch.empty(0, dtype=torch.uint8, device=c.device)
    return _made(largest, group.kept, torch.zeros_like(group.kept), none, coded)


def _encode_top(
    group: Group,
    update: Update,
    state: torch.Tensor,
    c: torch.Tensor,
    keys: torch.Tensor,
    largest: torch.Tensor,
) -> Made:
    chosen = select(keys, group.kept, group.width)
    x = torch.where(chosen.valid, c.gather(1, chosen.places), 0.0)
    kept = values.Kept(
        x, x.view(torch.int32) & MAGNITUDE, largest, chosen.places, chosen.valid, group.numbers
    )
    coded = values.encode(kept, group.chain.values, group.chain.coarse, update.key)
    if update.feedback is Feedback.CARRY:
        put(state, group.rows, group.inside, torch.zeros_like(c))
    elif update.feedback is not Feedback.PLAIN:
        if update.feedback is Feedback.RESIDUAL:
            put(state, group.rows, group.inside, c)
        _feed_back(group, update, state, chosen.places, chosen.valid, coded.v)
    gaps, gap_sizes = gaps_of(chosen)
    return _made(largest, chosen.counts, gap_sizes, gaps, coded)


def _feed_back(
    group: Group,
    update: Update,
    state: torch.Tensor,
    places: torch.Tensor,
    valid: torch.Tensor,
    v: torch.Tensor,
) -> None:
    """state -= values, or += values, at their places; all others are written as they are.

    Read, added and written: an atomic add would flush denormal sums to zero on CUDA.
    """
    rows = group.rows
    first = torch.arange(rows.start, rows.stop, device=state.device) if isinstance(rows, slice) else rows
    where = (first[:, None] * BLOCK + places).view(-1)
    flat = state.view(-1)
    old = flat.index_select(0, where).view_as(v)
    new = old - v if update.feedback is Feedback.RESIDUAL else old + v
    flat.index_copy_(0, where, torch.where(valid, new, old).view(-1))


def _made(
    largest: torch.Tensor,
    counts: torch.Tensor,
    gap_sizes: torch.Tensor,
    gaps: torch.Tensor,
    coded: values.Coded,
) -> Made:
    counts, gap_sizes, scales = (t.to(torch.int16) for t in (counts, gap_sizes, coded.scales))
    return Made(counts, gap_sizes, scales, gaps, coded.signs, coded.codes, largest >= INFINITY)
