"""The model's parameters as planes, and the inner optimizer as a specification.

x̂ lives in one float32 plane [blocks, 4096]; where a parameter is float32 and at the same place its data
*is* a view of that plane, so that applying a delta moves the model and x̂ takes no memory of
its own. Other parameters are copied and rounded after each apply. With local steps, or where units look ahead, those
that are trained have memory of their own, which stands away from x̂ within a unit; the plane of gradients then says how
far ahead the unit began, until what came of it is collected there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from wire.codec.base import Blocks
from wire.codec.device import device_of
from wire.errors import ModelMismatch
from wire.layout import BLOCK, DTYPES, FROZEN, Layout, Parameter
from wire.messages import OptimizerSpec
from worker.planes import HOST, plane_of

COMPILED_PREFIX = "_orig_mod."


class Parameters:
    """The parameters of `model`, bound to the plane of x̂.

    Args:
        model: already on its device.
        inner: the optimizer whose groups say what is trained.
        moves: whether it is stepped here.
        place: where planes are (`worker/planes.py`).

    Raises:
        ModelMismatch: a parameter that cannot be cut into blocks (lazy, sharded, of another dtype).
    """

    def __init__(
        self,
        model: nn.Module,
        inner: torch.optim.Optimizer,
        *,
        moves: bool = False,
        place: torch.device | None = HOST,
    ) -> None:
        self._moves = moves
        self._shown, self._ahead = True, False
        self._named = [(plain_name(name), p) for name, p in model.named_parameters()]
        groups = {id(p): i for i, group in enumerate(inner.param_groups) for p in group["params"]}
        unknown = groups.keys() - {id(p) for _, p in self._named}
        if unknown:
            raise ModelMismatch(
                f"the optimizer steps {len(unknown)} parameters that are not the model's; build it from "
                "model.parameters()"
            )
        self.layout = Layout(tuple(_describe(name, p, groups) for name, p in self._named))
        # Torch's memory begins at 64 bytes, as that of any model does: the bits of some kernels may depend on it.
        self._trainable = Blocks.of(self.layout, self.layout.select(trainable=True))
        elements = self.layout.blocks * BLOCK
        self._flat = torch.zeros(elements, dtype=torch.float32, device="cpu" if place is HOST else place)
        self._flat_gradient = torch.zeros_like(self._flat)
        self.published = plane_of(self._flat, place)
        self.gradient = plane_of(self._flat_gradient, place)
        self._bind()

    def _spans(self) -> list[tuple[nn.Parameter, Parameter, int]]:
        """(parameter, its description, first element of the flat plane)."""
        starts = [first * BLOCK for first in self.layout.first_block[:-1]]
        return [
            (p, described, start)
            for (_, p), described, start in zip(self._named, self.layout.parameters, starts, strict=True)
        ]

    def _bind(self) -> None:
        """Copy the model into the plane, and make float32 parameters at its place views of it."""
        self._copied: list[tuple[nn.Parameter, torch.Tensor]] = []
        for p, described, start in self._spans():
            view = self._flat[start : start + described.numel].view(p.shape)
            view.copy_(p.detach())
            own = self._moves and described.trainable
            if p.dtype == torch.float32 and p.device == self._flat.device and not own:
                p.data = view
            else:
                self._copied.append((p, view))

    def refresh(self) -> None:
        """Bring the parameters that are no views up to the plane."""
        with torch.no_grad():
            for p, view in self._copied:
                p.copy_(view)
        self._shown, self._ahead = True, False

    def named_copies(self) -> dict[str, torch.Tensor]:
        """x̂ by the names of the parameters, in their dtypes, whatever the model shows; new memory on the CPU."""
        views = (self._flat[start : start + d.numel].view(p.shape) for p, d, start in self._spans())
        return {
            name: view.to("cpu", p.dtype, copy=True)
            for (name, p), view in zip(self._named, views, strict=True)
        }

    def look_ahead(self) -> None:
        """Have the trained parameters stand at x̂ + the offset that `gradient` holds, until x̂ is shown or moves."""
        self._part()
        with torch.no_grad():
            for p, described, start in self._spans():
                if described.trainable:
                    here = slice(start, start + described.numel)
                    p.copy_((self._flat[here] + self._flat_gradient[here]).view(p.shape))
        self._shown, self._ahead = False, True

    def _part(self) -> None:
        """Give the trained parameters memory of their own."""
        copied = {id(p) for p, _ in self._copied}
        for p, described, _ in self._spans():
            if described.trainable and id(p) not in copied:
                self._copied.append((p, p.data))
                p.data = p.data.clone()

    def show(self) -> None:
        """Have the model show x̂, where steps were taken away from it."""
        if not self._shown:
            self.refresh()

    def moved(self) -> None:
        """A step was taken away from x̂."""
        self._shown = False

    def collect_difference(self) -> float:
        """How far the trained parameters are from where the unit began, into `gradient`; the squared norm of it.

        That is x̂, or as far ahead of it as `look_ahead` went, rounded as the parameter is; descent: x̂ - θ. Not finite
        where any element is not.
        """
        for p, described, start in self._spans():
            if not described.trainable:
                continue
            here = slice(start, start + described.numel)
            target, published = (flat[here].view(p.shape) for flat in (self._flat_gradient, self._flat))
            began = (published + target if self._ahead else published).to(p.dtype).float()
            target.copy_(p.detach())
            torch.sub(began, target, out=target)
        return self._norm_sq()

    def gradient_norm(self) -> float:
        """Of all gradients as they are; not finite where any element is not, or where it is too large for its type."""
        found = [p.grad for _, p in self._named if p.grad is not None]
        dense = [g.coalesce().values() if g.is_sparse else g for g in found]
        return float(nn.utils.get_total_norm(dense)) if dense else 0.0

    def collect(self) -> float:
        """Gradients of the trained parameters into `gradient`; the squared norm of all of them.

        A parameter without gradient counts as zeros, a sparse one is made dense. The norm is
        not finite when any element is not.
        """
        for p, described, start in self._spans():
            if not described.trainable:
                continue
            target = self._flat_gradient[start : start + described.numel].view(p.shape)
            if p.grad is None:
                target.zero_()
                continue
            grad = p.grad.coalesce().to_dense() if p.grad.is_sparse else p.grad
            target.copy_(grad)
        return self._norm_sq()

    def _norm_sq(self) -> float:
        """Of what was collected."""
        return device_of(self.gradient).square_sum(self.gradient, self._trainable)

    def first_bad_gradient(self) -> str:
        """Name of a parameter whose gradient is not finite."""
        bad = (name for name, p in self._named if p.grad is not None and not _finite(p.grad))
        return next(bad, "?")

    def first_bad_parameter(self) -> str:
        """Name of a parameter that is not finite."""
        return next((name for name, p in self._named if not _finite(p.detach())), "?")


def _finite(gradient: torch.Tensor) -> bool:
    values = gradient.coalesce().values() if gradient.is_sparse else gradient
    return bool(torch.isfinite(values).all())


def plain_name(name: str) -> str:
    """A name in the model as written, whether it is compiled here or not."""
    return name.replace(COMPILED_PREFIX, "")


def _describe(name: str, p: nn.Parameter, groups: Mapping[int, int]) -> Parameter:
    if isinstance(p, nn.parameter.UninitializedParameter):
        raise ModelMismatch(f"parameter {name!r} has no shape yet; run one forward pass before sparsync.join")
    if type(p.data).__name__ == "DTensor":
        raise ModelMismatch(f"parameter {name!r} is a DTensor: sharded models (FSDP) are not supported")
    dtype = str(p.dtype).removeprefix("torch.")
    if dtype not in DTYPES:
        raise ModelMismatch(f"parameter {name!r} is {dtype}; expected one of {', '.join(DTYPES)}")
    if p.numel() == 0:
        raise ModelMismatch(f"parameter {name!r} is empty; remove it from the model")
    group = groups.get(id(p), FROZEN) if p.requires_grad else FROZEN
    return Parameter(name, tuple(p.shape), dtype, group)


SPECIFIED = {torch.optim.AdamW: "adamw", torch.optim.SGD: "sgd"}


def specify(inner: torch.optim.Optimizer) -> OptimizerSpec:
    """What the servers are to run in place of `inner`.

    Raises: ModelMismatch for an optimizer, or an option of one, that they do not run.
    """
    kind = SPECIFIED.get(type(inner))
    if kind is None:
        raise ModelMismatch(
            f"the servers cannot run {type(inner).__name__}: expected torch.optim.SGD or torch.optim.AdamW in "
            "per-step modes"
        )
    return OptimizerSpec(kind, tuple(_options(kind, group) for group in inner.param_groups))


def _options(kind: str, group: Mapping[str, Any]) -> dict[str, float]:
    if kind == "adamw":
        if group.get("amsgrad"):
            raise ModelMismatch("AdamW with amsgrad=True is not run by the servers; use amsgrad=False")
        betas: tuple[float, float] = group["betas"]
        named = {"beta1": betas[0], "beta2": betas[1], **{k: group[k] for k in ("lr", "eps", "weight_decay")}}
    else:
        if group.get("dampening"):
            raise ModelMismatch(f"SGD with dampening={group['dampening']} is not run by the servers; use 0")
        named = {k: group[k] for k in ("lr", "momentum", "weight_decay", "nesterov")}
    named["maximize"] = group["maximize"]
    return {k: float(v) for k, v in named.items()}


def learning_rates(inner: torch.optim.Optimizer) -> tuple[float, ...]:
    """The learning rate of each parameter group, now."""
    return tuple(float(group["lr"]) for group in inner.param_groups)
