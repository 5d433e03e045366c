"""Who goes by which incarnation: what is decided, and what is waited for."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

import pytest

from ps import callers as module
from ps.callers import Callers
from ps.members import Member, Members
from wire.errors import PermissionRefused, StaleIncarnation, Unreachable
from wire.rpc.identity import Peer, Role
from wire.v1 import shard_pb2

NODE1, NODE2 = Peer(Role.WORKER, "node1", "1"), Peer(Role.WORKER, "node2", "2")
PS = Peer(Role.PS, "node1", "3")


def meet(
    *members: tuple[int, str, str], uploader: int = 0, evaluator: int = 0, standby: int = 0
) -> shard_pb2.Meet:
    told = [shard_pb2.Member(incarnation=i, role=role, name=name) for i, role, name in members]
    return shard_pb2.Meet(members=told, uploader=uploader, evaluator=evaluator, standby=standby)


def judge(asked: Awaitable[None]) -> None:
    asyncio.run(asyncio.wait_for(asked, 10))


@pytest.fixture
def told() -> Callers:
    found = Callers()
    found.meet(meet((1, "ps", "node1"), (2, "worker", "node1.gpu0"), (4, "worker", "node2"), uploader=2))
    return found


def test_members_are_never_forgotten() -> None:
    members = Members()
    assert members.find(1) is None
    for incarnation in (1, 3):
        members.meet([Member(incarnation, "worker", "w")], uploader=0)
    assert members.find(1) == Member(1, "worker", "w") and members.find(4) is None
    for never in (0, 2):
        with pytest.raises(StaleIncarnation, match=f"incarnation {never} never joined"):
            members.find(never)


def test_everybody_goes_by_his_own(told: Callers) -> None:
    judge(told.check(NODE1, 2))
    judge(told.check(NODE2, 4))
    judge(told.check(PS, 1))
    judge(told.check_uploader(NODE1, 2))


@pytest.mark.parametrize(("peer", "incarnation"), [(NODE2, 2), (NODE1, 4), (NODE1, 1), (PS, 2)])
def test_nobody_goes_by_anothers(told: Callers, peer: Peer, incarnation: int) -> None:
    with pytest.raises(PermissionRefused, match=f"{peer} speaks as incarnation {incarnation}"):
        judge(told.check(peer, incarnation))


def test_in_plain_text_nothing_is_known_and_nothing_asked() -> None:
    judge(Callers().check(Peer.anyone(), 7))
    judge(Callers().check_uploader(Peer.anyone(), 7))
    judge(Callers().check_reader(Peer.anyone(), 7))
    judge(Callers().check_standby(Peer.anyone(), 7))
    judge(Callers().check_evaluator(Peer.anyone(), 7))


def test_viewers_and_operators_read_as_nobody(told: Callers) -> None:
    for role in (Role.VIEWER, Role.OPERATOR):
        judge(told.check_reader(Peer(role, "ann", "9"), 0))
    with pytest.raises(PermissionRefused):
        judge(told.check_reader(NODE1, 4))


def test_a_worker_that_is_faster_than_the_word_of_it_waits(told: Callers) -> None:
    async def main() -> None:
        for number, asking in ((5, told.check(NODE2, 5)), (6, told.check_uploader(NODE2, 6))):
            waiting = asyncio.ensure_future(asking)
            await asyncio.sleep(0)
            assert not waiting.done()
            told.meet(meet((number, "worker", "node2"), uploader=number))
            await waiting

    judge(main())


def test_a_word_that_does_not_come_is_no_refusal(told: Callers, monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker calls again: the line to the coordinator may be broken."""
    monkeypatch.setattr(module, "TOLD_S", 0.01)
    with pytest.raises(Unreachable, match="not told yet who incarnation 5 is"):
        judge(told.check(NODE2, 5))


def test_who_was_not_asked_does_not_upload(told: Callers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TOLD_S", 0.01)
    with pytest.raises(PermissionRefused, match=r"worker/node2 \(incarnation 4\).*but 2 was asked"):
        judge(told.check_uploader(NODE2, 4))


def test_the_standby_alone_follows_the_log(told: Callers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TOLD_S", 0.01)
    with pytest.raises(PermissionRefused, match=r"ps/node1 \(incarnation 1\).*its standby is nobody"):
        judge(told.check_standby(PS, 1))
    told.meet(meet(standby=1))
    judge(told.check_standby(PS, 1))
    told.meet(meet(standby=6))
    with pytest.raises(PermissionRefused, match="its standby is 6"):
        judge(told.check_standby(PS, 1))


def test_x_is_for_whoever_was_asked_to_evaluate_it(told: Callers, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ever: one that is being relieved may be at work. One that was not is to ask again: the word may be on its way."""
    monkeypatch.setattr(module, "TOLD_S", 0.01)
    with pytest.raises(Unreachable, match="nobody was asked to: call again"):
        judge(told.check_evaluator(NODE1, 2))
    for evaluator in (2, 4, 0):
        told.meet(meet(evaluator=evaluator))
    judge(told.check_evaluator(NODE1, 2))
    judge(told.check_evaluator(NODE2, 4))
    with pytest.raises(Unreachable, match="2, 4 was asked to"):
        judge(told.check_evaluator(NODE2, 7))
    for role in (Role.VIEWER, Role.OPERATOR):
        judge(told.check_evaluator(Peer(role, "ann", "9"), 0))


def test_who_is_asked_is_faster_than_the_word_of_it(told: Callers) -> None:
    async def main() -> None:
        for asking, word in (
            (told.check_standby(PS, 1), meet(standby=1)),
            (told.check_evaluator(NODE2, 4), meet(evaluator=4)),
        ):
            waiting = asyncio.ensure_future(asking)
            await asyncio.sleep(0)
            assert not waiting.done()
            told.meet(word)
            await waiting

    judge(main())
