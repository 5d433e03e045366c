"""A server that comes back is who its certificate says, whatever it brings."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.coordinator.test_metrics import Office, play
from wire.errors import PermissionRefused
from wire.rpc.access import InRun
from wire.rpc.identity import Peer, Role


def test_who_may_go_on_as_a_server_of_the_run(tmp_path: Path) -> None:
    """By the certificate, not by the name: that may be given anew, as by a launcher's rank."""

    async def scene(office: Office) -> None:
        await office.join("node1.0", "ps")
        await office.join("node1.1")
        state, engine = office.engine.state, office.engine
        here = InRun(state.run, state.timeline)
        node1, node2 = Peer(Role.PS, "node1", "1"), Peer(Role.PS, "node2", "2")
        for peer in (node1, Peer(Role.PS, "node1.0", "3"), Peer.anyone()):
            engine.check_held(peer, here, 1)
        with pytest.raises(
            PermissionRefused, match=r"ps/node2 brings the shard of server 'node1.0' \(incarnation 1\)"
        ):
            engine.check_held(node2, here, 1)
        for elsewhere, incarnation in (
            (InRun("another", 1), 1),
            (InRun(state.run, 9), 1),
            (here, 2),
            (here, 9),
            (here, 0),
        ):
            engine.check_held(node2, elsewhere, incarnation)

    play(scene, tmp_path)
