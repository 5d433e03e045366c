"""A worker of `local` in the simulations of `frontier.py`."""

from __future__ import annotations

from benchmarks.one_process import Model
from benchmarks.points import Point
from benchmarks.servers import CLIP_NORM, Servers, own_optimizer, set_rate, share_of_peak
from wire.codec.base import Plane


class Stream:
    """Its moments, its residual, its parameters while it works."""

    def __init__(self, point: Point, model: Model, servers: Servers) -> None:
        self._point, self._model = point, model
        self.state = {name: model.plane() for name in servers.push.state_planes}
        self._own = model.plane()
        self._optimizer = own_optimizer(point, model)

    def work(self, base: Plane, stream: int, first: int, last: int) -> Plane:
        """Steps first … last - 1 of stream number `stream` from `base`; the difference."""
        self._own[:] = base
        self._model.bind(self._own)
        for step in range(first, last):
            self._model.backward(step * self._point.streams + stream, clip_norm=CLIP_NORM)
            set_rate(self._optimizer, self._point.lr * share_of_peak(step, self._point))
            self._optimizer.step()
        return base - self._own
