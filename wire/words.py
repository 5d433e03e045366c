"""What others say in words, cut short where it comes in: reasons, messages, names of errors and activities.

Such words are kept, journaled and told on to everybody, and whoever sends them decides how long they are and what is in
them: they are cut where they come in, and `printable` where they stand in a line for people. Identities are compared
and never cut: whoever takes one says how long it may be.
"""

from __future__ import annotations

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

MOST_CHARACTERS = 2000


def cut(text: str) -> str:
    """`text`, or its beginning with an ellipsis where it is longer than what is kept."""
    return text if len(text) <= MOST_CHARACTERS else text[: MOST_CHARACTERS - 1] + "…"


def printable(text: str) -> str:
    """`text` without what would break a line or a terminal."""
    return "".join(c if c.isprintable() or c == "\t" else "?" for c in text)


def cut_words(message: Message) -> None:
    """Cut every text in `message` short, keys of maps too, and in all that is in it."""
    if message.ByteSize() <= MOST_CHARACTERS:
        return  # nearly every one: no text in it can be longer
    for field, value in message.ListFields():
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            _cut_keys(value)
        elif field.type == FieldDescriptor.TYPE_MESSAGE:
            for inner in value if field.is_repeated else [value]:
                cut_words(inner)
        elif field.type == FieldDescriptor.TYPE_STRING and field.is_repeated:
            value[:] = [cut(text) for text in value]
        elif field.type == FieldDescriptor.TYPE_STRING:
            setattr(message, field.name, cut(value))


def _cut_keys(entries: dict[str, object]) -> None:
    """Of maps from words to numbers, as the contract has them where it is told what goes on."""
    for key in [key for key in entries if len(key) > MOST_CHARACTERS]:
        entries[cut(key)] = entries.pop(key)
