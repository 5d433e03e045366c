"""The file of an image: what goes in comes out, and whatever happens to a byte of it is noticed and named."""

from __future__ import annotations

import json
import random
import re
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from ps.image import MAGIC, PREFIX, VERSION, Tree, decode, digest, encode
from wire.errors import DamagedFile, ProtocolMismatch

names = st.text(max_size=5).filter(lambda name: not name.endswith("$"))
arrays = st.builds(
    lambda dtype, shape: np.arange(np.prod(shape), dtype=dtype).reshape(shape),
    st.sampled_from(["<f4", "<f8", "<i4", "<i8", "|u1"]),
    st.lists(st.integers(0, 3), max_size=3),
)
leaves = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=9), st.binary(max_size=20), arrays
)
trees = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=4),
    max_leaves=25,
)


def image_of(tree: Tree) -> bytes:
    header, blobs = encode(tree)
    return b"".join([header, *blobs])


def same(one: Any, two: Any) -> bool:
    """Equal in kind, and to the bit."""
    if type(one) is not type(two):
        return False
    if isinstance(one, np.ndarray):
        return one.dtype == two.dtype and one.shape == two.shape and one.tobytes() == two.tobytes()
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(same(one[k], two[k]) for k in one)
    if isinstance(one, list):
        return len(one) == len(two) and all(map(same, one, two))
    return repr(one) == repr(two)


@settings(max_examples=200, deadline=None)
@given(trees)
def test_what_goes_in_comes_out(tree: Tree) -> None:
    back = decode(image_of(tree))
    assert same(back, tree)
    assert image_of(back) == image_of(tree)


def test_of_what_looks_alike_the_kind_stays() -> None:
    tree = {
        "i": 1,
        "f": 1.0,
        "b": True,
        "zero": -0.0,
        "big": 1 << 64,
        "bytes": b"",
        "flat": np.array(3, np.float32),
    }
    back = decode(image_of(tree))
    assert isinstance(back, dict) and {k: type(v) for k, v in back.items()} == {
        k: type(v) for k, v in tree.items()
    }
    assert str(back["zero"]) == "-0.0" and back["flat"].shape == ()


def test_views_become_what_they_show() -> None:
    plane = np.arange(24, dtype=np.float32).reshape(4, 6)
    back: Any = decode(image_of({"cut": plane[::2, 1:3], "part": memoryview(b"abcdef")[2:4], "pair": (1, 2)}))
    assert back["cut"].tolist() == plane[::2, 1:3].tolist()
    assert (back["part"], back["pair"]) == (b"cd", [1, 2])


def test_arrays_are_not_copied_on_the_way_out_and_are_ones_own_on_the_way_in() -> None:
    plane = np.zeros((2, 3), np.float32)
    header, (blob,) = encode({"plane": plane})
    assert np.shares_memory(np.frombuffer(blob, np.uint8), plane)
    back: Any = decode(header + bytes(blob))
    back["plane"][:] = 1.0
    assert not plane.any()


def test_equal_states_have_equal_digests() -> None:
    one = {"identity": {"name": "a"}, "x": np.ones(3, np.float32), "n": {"a": 1, "b": 2}}
    two = {"n": {"b": 2, "a": 1}, "x": np.ones(3, np.float32), "identity": {"name": "b"}}
    assert digest(encode(one)[0]) == digest(encode(two)[0])
    for other in ({**one, "x": np.array([1, 1, -1], np.float32)}, {**one, "n": {"a": 1}}, {**one, "m": None}):
        assert digest(encode(one)[0]) != digest(encode(other)[0])


@pytest.mark.parametrize(
    "tree",
    [
        {"a": {1, 2}},
        {"a": np.float32(1)},
        {"a": np.zeros(2, np.complex64)},
        {"a": np.array(["x"], object)},
        {"identity": {"a": b"blob"}},
    ],
    ids=str,
)
def test_what_is_no_tree(tree: Any) -> None:
    with pytest.raises(TypeError, match="image"):
        encode(tree)


@pytest.mark.parametrize("tree", [{"$": 0}, {"a": [{"$": 0, "b": b"x"}]}], ids=str)
def test_the_key_that_stands_for_blobs_is_not_free(tree: Any) -> None:
    with pytest.raises(ValueError, match="stands for blobs"):
        encode(tree)


# --- damage ---------------------------------------------------------------------------------------

SMALL = image_of(
    {
        "identity": {"run": "r"},
        "x": np.arange(6, dtype=np.float32).reshape(2, 3),
        "frames": [b"abc", b"", b"defgh"],
        "steps": [1, 2.5, None, float("nan")],
    }
)


def refusal(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    with pytest.raises(DamagedFile) as refused:
        decode(path)
    with pytest.raises(DamagedFile):
        decode(data)
    return str(refused.value)


def offset_in(message: str, path: Path) -> int:
    found = re.match(re.escape(str(path)) + r", offset (\d+): .*; use an older image", message)
    assert found, message
    return int(found[1])


def test_one_flipped_bit_in_any_byte(tmp_path: Path) -> None:
    """It is named with the offset where that begins which does not match its checksum any more."""
    path, rnd = tmp_path / "one.image", random.Random(1)
    text = PREFIX.unpack_from(SMALL)[2]
    blobs = PREFIX.size + text
    for at in range(len(SMALL)):
        data = bytearray(SMALL)
        data[at] ^= 1 << rnd.randrange(8)
        found = offset_in(refusal(path, bytes(data)), path)
        if at < PREFIX.size:
            assert found == 0
        elif at < blobs:
            assert found == PREFIX.size
        else:
            assert blobs <= found <= at


def test_any_cut_and_anything_behind(tmp_path: Path) -> None:
    path = tmp_path / "one.image"
    for size in range(len(SMALL)):
        assert offset_in(refusal(path, SMALL[:size]), path) <= size
    assert offset_in(refusal(path, SMALL + b"\0"), path) == len(SMALL)
    assert offset_in(refusal(path, b"\0" * 200), path) == 0


def sealed(
    text: bytes, blobs: bytes = b"", *, version: int = VERSION, says: tuple[int, int] | None = None
) -> bytes:
    """An image with good checksums around whatever text and blobs."""
    sizes = says or (len(text), len(blobs))
    head = PREFIX.pack(MAGIC, version, *sizes, xxhash.xxh3_64_intdigest(text), 0)[: PREFIX.size - 8]
    return head + xxhash.xxh3_64_intdigest(head).to_bytes(8, "little") + text + blobs


def text_of(table: Any, tree: str) -> bytes:
    return f"null\n{json.dumps(table)}\n{tree}".encode()


SUM = xxhash.xxh3_64_intdigest(b"abcd")


def test_sealed_makes_images() -> None:
    array: Any = decode(sealed(text_of([[4, SUM, "|u1", [2, 2]]], '{"a":{"$":0}}'), b"abcd"))
    assert array["a"].tobytes() == b"abcd"


@pytest.mark.parametrize(
    "data",
    [
        sealed(b"", says=(1 << 60, 0)),
        sealed(b"", says=(0, 1 << 60)),
        sealed(b"null\n[]\nnull", says=(12, (1 << 64) - 1)),
        sealed(b"null\n[]"),
        sealed(b"null\n[]\n{"),
        sealed(b"null\n[]\n\xff"),
        sealed(b'{"a":1}\n[]\nnull'),
        sealed(text_of([], "[" * 100_000)),
        sealed(text_of([], '{"$":0}')),
        sealed(text_of([[4, SUM]], "null"), b"abcd"),
        sealed(text_of([[4, SUM]], '[{"$":0},{"$":0}]'), b"abcd"),
        sealed(text_of([[4, SUM]], '{"$":-1}'), b"abcd"),
        sealed(text_of([[4, SUM]], '{"$":[0]}'), b"abcd"),
        sealed(text_of([[4, SUM]], '{"$":true}'), b"abcd"),
        sealed(text_of([[1 << 62, SUM]], '{"$":0}'), b"abcd"),
        sealed(text_of([[-4, SUM], [8, SUM]], '[{"$":0},{"$":1}]'), b"abcd"),
        sealed(text_of([["4", SUM]], '{"$":0}'), b"abcd"),
        sealed(text_of([[4]], '{"$":0}'), b"abcd"),
        sealed(text_of([[4, SUM, "|u1"]], '{"$":0}'), b"abcd"),
        sealed(text_of([[4, SUM, "|O", [1]]], '{"$":0}'), b"abcd"),
        sealed(text_of([[4, SUM, "<f4", [2]]], '{"$":0}'), b"abcd"),
        sealed(text_of([[4, SUM, "<f4", [-1, -1]]], '{"$":0}'), b"abcd"),
        sealed(text_of([[4, SUM, "<f4", ["1"]]], '{"$":0}'), b"abcd"),
        sealed(text_of([[0, 0, "<f4", [0, 1 << 60]]], '{"$":0}')),
        sealed(text_of([[4, SUM, "<f4", [1.0]]], '{"$":0}'), b"abcd"),
    ],
)
def test_no_memory_on_its_word(data: bytes, tmp_path: Path) -> None:
    """Whatever stands in it, with checksums that fit: refused, and never more taken than a few times its size."""
    tracemalloc.start()
    try:
        refusal(tmp_path / "one.image", data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 20 * len(data) + 200_000


def test_an_image_of_a_later_build() -> None:
    with pytest.raises(ProtocolMismatch, match="version 2, this build reads 1"):
        decode(sealed(b"null\n[]\nnull", version=2))
