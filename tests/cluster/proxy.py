"""A fault proxy in front of a server that is to listen behind it."""

from __future__ import annotations

import socket
from typing import Any

from sparsync.faults.background import ProxyThread


class Front(ProxyThread):
    """Attributes: `target`, a free address where the server is to listen; `address`, what is to be dialled instead."""

    def __init__(self, **more: Any) -> None:
        super().__init__(**more)
        with socket.create_server(("127.0.0.1", 0)) as found:
            self.target = "{}:{}".format(*found.getsockname())
        self.address = self.forward(self.target)
