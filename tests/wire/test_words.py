"""Words that are cut short where they come in: every text of what is told, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from wire.v1 import coordinator_pb2, shard_pb2
from wire.words import MOST_CHARACTERS, cut, cut_words

TOLD: tuple[type[Message], ...] = (
    coordinator_pb2.WorkerReport,
    coordinator_pb2.StopRequest,
    shard_pb2.ShardEvent,
    shard_pb2.Commit,
)
TEXT = FieldDescriptor.TYPE_STRING


def talk(message: Message, text: str) -> None:
    """Every field filled, every text with the same one; of the alternatives of a message the one that is set."""
    for field in message.DESCRIPTOR.fields:
        if (
            field.containing_oneof is not None
            and message.WhichOneof(field.containing_oneof.name) != field.name
        ):
            continue
        here = getattr(message, field.name)
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            here[text], here["short"] = 1.0, 2.0
        elif field.type == FieldDescriptor.TYPE_MESSAGE:
            inner = here.add() if field.is_repeated else here
            inner.SetInParent()
            talk(inner, text)
        elif field.type == TEXT and field.is_repeated:
            here.extend([text, "short"])
        elif field.type == TEXT:
            setattr(message, field.name, text)


def texts(message: Message) -> Iterator[str]:
    """All that stand in a message."""
    for field, value in message.ListFields():
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            yield from value
        elif field.type == FieldDescriptor.TYPE_MESSAGE:
            for inner in value if field.is_repeated else [value]:
                yield from texts(inner)
        elif field.type == TEXT:
            yield from value if field.is_repeated else [value]


def told(kind: type[Message]) -> Iterator[Message]:
    """One message of a kind for each of its alternatives."""
    if not kind.DESCRIPTOR.oneofs:
        yield kind()
        return
    for field in kind.DESCRIPTOR.oneofs[0].fields:
        message = kind()
        getattr(message, field.name).SetInParent()
        yield message


@pytest.mark.parametrize("kind", TOLD, ids=lambda kind: kind.DESCRIPTOR.name)
def test_no_text_of_what_is_told_stays_longer_than_the_limit(kind: type[Message]) -> None:
    cut_short = 0
    for message in told(kind):
        talk(message, "ü" * (3 * MOST_CHARACTERS))
        before = sorted(texts(message))
        cut_words(message)
        assert sorted(texts(message)) == sorted(cut(text) for text in before)
        assert all(len(text) <= MOST_CHARACTERS for text in texts(message))
        cut_short += any(len(text) > MOST_CHARACTERS for text in before)
    assert cut_short


@pytest.mark.parametrize("kind", TOLD, ids=lambda kind: kind.DESCRIPTOR.name)
def test_what_is_short_enough_stays_as_it_is(kind: type[Message]) -> None:
    for message in told(kind):
        talk(message, "w" * MOST_CHARACTERS)
        before = message.SerializeToString(deterministic=True)
        cut_words(message)
        assert message.SerializeToString(deterministic=True) == before


def test_of_a_long_text_the_beginning_is_kept() -> None:
    assert cut("a" + "b" * MOST_CHARACTERS) == "a" + "b" * (MOST_CHARACTERS - 2) + "…"
    assert cut("a" * MOST_CHARACTERS) == "a" * MOST_CHARACTERS
