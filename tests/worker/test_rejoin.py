"""A process's place in a run, taken anew: another incarnation, other connections, the same process."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.worker.far_end import serving
from wire.config import Config
from wire.errors import RunOver, WrongRun
from wire.ids import PROTOCOL_VERSION
from wire.rpc.access import InRun
from wire.rpc.identity import Security
from wire.v1 import coordinator_pb2, coordinator_pb2_grpc
from worker import heartbeat
from worker.heartbeat import Heartbeat
from worker.runtime import Attachment


class Handing(coordinator_pb2_grpc.CoordinatorServicer):
    """Hands out incarnations from 1; `hangs`: not after the first one."""

    def __init__(self, *, hangs: bool = False) -> None:
        self._hangs = hangs
        self.run, self.timeline = "a run", 1
        self.names: list[str] = []
        self.asked = threading.Event()

    async def Join(self, request: coordinator_pb2.JoinRequest, context: Any) -> coordinator_pb2.JoinReply:
        self.names.append(request.name)
        self.asked.set()
        if self._hangs:
            await asyncio.sleep(60)
        return self.reply(len(self.names) + 1)

    def reply(self, incarnation: int) -> coordinator_pb2.JoinReply:
        return coordinator_pb2.JoinReply(
            protocol_version=PROTOCOL_VERSION,
            run=self.run,
            timeline=self.timeline,
            incarnation=incarnation,
            config_json=Config().to_json(),
        )


@contextmanager
def attached(far_end: Handing) -> Iterator[Attachment]:
    """A process in the run of `far_end`."""
    with serving(far_end) as address:
        attachment = Attachment(
            coordinator=address,
            name="worker-3",
            security=Security(),
            reply=far_end.reply(1),
            heart=Heartbeat(),
            device=torch.device("cpu"),
        )
        try:
            yield attachment
        finally:
            attachment.detach()


def test_it_comes_back_under_its_name_as_another_incarnation(tmp_path: Path) -> None:
    far_end = Handing()
    with attached(far_end) as attachment:
        attachment.training = True
        attachment.write_identity(tmp_path / "identity.json")
        older, heart = attachment.transfer, attachment._heartbeat
        assert heart is not None
        attachment.rejoin()
        assert far_end.names == ["worker-3"]
        assert attachment.incarnation == 2
        assert attachment.transfer is not older
        assert heart._process.poll() == 0
        older.report(uploaded={})  # what is left of the older one says nothing, and hurts nobody
        older.flush(1.0)
        older.mailbox.on_taken()
        assert json.loads((tmp_path / "identity.json").read_text())["incarnation"] == 2
        assert not attachment.training, "a signal ends the process until its loop goes on"


def test_who_cannot_join_leaves_no_process_behind() -> None:
    with pytest.raises(RunOver), heartbeat.starting() as heart:
        raise RunOver("the run is over")
    assert heart._process.poll() == 0


def test_a_heartbeat_that_died_while_its_trainer_waited_to_join_is_started_anew() -> None:
    with serving(Handing()) as address, heartbeat.starting() as heart:
        died = heart._process
        died.kill()
        died.wait()
        heart.begin(address, Security(), run=InRun("a run", 1), incarnation=1, interval_s=0.1)
        assert heart._process is not died and heart._process.poll() is None
        heart.end()


def test_another_run_at_the_same_address_is_not_joined() -> None:
    far_end = Handing()
    with attached(far_end) as attachment:
        far_end.run = "another run"
        with pytest.raises(RunOver, match="a run is gone"):
            attachment.rejoin()
        attachment.detach()


def test_a_run_that_was_resumed_is_not_joined_with_what_was_read_before() -> None:
    far_end = Handing()
    with attached(far_end) as attachment:
        far_end.timeline = 2
        with pytest.raises(
            WrongRun, match="serves timeline 2 of run a run, this process was started for timeline 1"
        ):
            attachment.rejoin()
        attachment.detach()


def test_a_signal_ends_a_process_that_waits_to_come_back() -> None:
    far_end = Handing(hangs=True)
    before = signal.getsignal(signal.SIGTERM)

    def ask() -> None:
        far_end.asked.wait(30)
        os.kill(os.getpid(), signal.SIGTERM)

    with attached(far_end) as attachment:
        attachment.training = True
        signal.signal(signal.SIGTERM, attachment.on_signal)
        asking = threading.Thread(target=ask)
        asking.start()
        try:
            with pytest.raises(SystemExit) as ended:
                attachment.rejoin()
        finally:
            signal.signal(signal.SIGTERM, before)
            asking.join()
        assert ended.value.code == 0
