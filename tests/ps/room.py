"""How much of a server's room for pushes is taken, by what it still admits."""

from __future__ import annotations

from ps.owner import Owner
from wire.errors import Busy


def takes(owner: Owner, frame_bytes: int) -> bool:
    """Whether so many more bytes would be admitted; nothing has changed."""
    try:
        owner.admit(frame_bytes)
    except Busy:
        return False
    owner.release(frame_bytes)
    return True


def room_but(owner: Owner, taken_bytes: int) -> bool:
    """Whether just so many bytes are taken."""
    left = owner.admit_bytes - taken_bytes
    return takes(owner, left) and not takes(owner, left + 1)
