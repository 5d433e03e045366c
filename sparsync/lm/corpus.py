"""Corpora: text on this machine, found by name or path, turned into token files with a digest.

A token is a byte; byte 0 ends a document. `prepare` writes `train.bin`, `val.bin` and the manifest
`meta.json` into one directory of the cache, named by a fingerprint of the files (paths, sizes, times).
The digest covers contents only, so machines with equal files agree on it wherever they keep them.
Invariants: a cached directory appears by one rename under a lock; its bytes are hashed before each reuse.
"""

from __future__ import annotations

import difflib
import fcntl
import hashlib
import json
import logging
import os
import re
import shutil
import sys
import sysconfig
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from wire.config import environment
from wire.errors import ConfigError, DataRefused, NoInput

log = logging.getLogger(__name__)

FORMAT = 1
SEPARATOR = b"\x00"
VALIDATION_SHARE = 0.05
MAX_STDLIB_FILE_BYTES = 400_000
"""Larger files of the standard library are tables (codecs, pydoc topics), not code."""
MANIFEST = "meta.json"
TOKEN_FILES = ("train.bin", "val.bin")

Split = Literal["train", "val"]


@dataclass(frozen=True)
class Corpus:
    """A corpus that goes by a name: where its files are, and what a person wants to know about it."""

    name: str
    description: str
    licence: str
    find: Callable[[], list[SourceFile]]


@dataclass(frozen=True)
class SourceFile:
    """One text file; `name` is its path relative to the corpus, with forward slashes."""

    name: str
    path: Path
    size_bytes: int
    modified_ns: int


@dataclass(frozen=True)
class Document:
    """One file as it stands in the manifest: its content hash, and the side on which it ended up."""

    name: str
    sha256: str
    split: str


@dataclass(frozen=True)
class Prepared:
    """Token files ready for training, with the digest that names their content."""

    source: str
    train: Path
    val: Path
    digest: str
    train_tokens: int
    val_tokens: int
    documents: int
    reused: bool

    def as_json(self) -> dict[str, Any]:
        """The same as plain JSON types."""
        return {key: str(value) if isinstance(value, Path) else value for key, value in asdict(self).items()}


def prepare(source: str, cache_dir: Path | str | None = None) -> Prepared:
    """Token files of a named corpus, or of a text file or directory; from the cache where it is intact.

    Several processes may prepare at once: one works, the others wait for it.
    Raises: NoInput where there is no such corpus or path; DataRefused where it holds no usable text;
    ConfigError where the cache cannot be written to.
    """
    files = find_files(source)
    cache = Path(cache_dir).expanduser() if cache_dir else default_cache_dir(environment())
    target = cache / f"{_directory_name(source)}-{fingerprint(files)[:16]}"
    with _locked(target):
        manifest = _intact_manifest(target)
        reused = manifest is not None
        if manifest is None:
            manifest = _build(source, files, target)
    return _prepared(target, manifest, reused=reused)


def default_cache_dir(environ: Mapping[str, str]) -> Path:
    """`$XDG_CACHE_HOME/sparsync/data`, or the same below `~/.cache`."""
    base = environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "sparsync" / "data"


def find_files(source: str) -> list[SourceFile]:
    """The text files of a corpus in the order of their names.

    Raises: NoInput where the source is neither a corpus nor a path; DataRefused where it has no files.
    """
    if source in CORPORA:
        files = CORPORA[source].find()
    elif source and Path(source).expanduser().exists():
        files = _files_at(Path(source).expanduser())
    else:
        raise NoInput(_no_such_source(source))
    if not files:
        raise DataRefused(
            f"data.source = {source!r} has no text files; expected at least one that is not empty"
        )
    return files


def fingerprint(files: list[SourceFile]) -> str:
    """A hash of what `stat` tells about the files and of the interpreter: cheap, changes when they might have."""
    state = hashlib.sha256(f"{FORMAT} {sys.version}\n".encode())
    for file in files:
        state.update(f"{file.path} {file.size_bytes} {file.modified_ns}\n".encode(errors="surrogateescape"))
    return state.hexdigest()


def content_digest(documents: list[Document]) -> str:
    """sha256 over the content hashes in order, each with its side of the split."""
    lines = (f"{document.split} {document.sha256}\n" for document in documents)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _stdlib_files() -> list[SourceFile]:
    """The standard library of the running interpreter, its own tests included, without installed packages."""
    root = Path(sysconfig.get_path("stdlib"))
    found = _walk(root, skip={"site-packages", "dist-packages", "__pycache__"})
    return [f for f in found if f.name.endswith(".py") and 0 < f.size_bytes <= MAX_STDLIB_FILE_BYTES]


CORPORA: Mapping[str, Corpus] = {
    corpus.name: corpus
    for corpus in (
        Corpus(
            name="stdlib",
            description="the running interpreter's standard library: Python source, about 31 MB",
            licence="PSF-2.0",
            find=_stdlib_files,
        ),
    )
}


def _files_at(path: Path) -> list[SourceFile]:
    found = [_source_file(path.name, path)] if path.is_file() else _walk(path, skip={"__pycache__"})
    return [file for file in found if file.size_bytes]


def _walk(root: Path, *, skip: set[str]) -> list[SourceFile]:
    """Regular files below root that are not hidden, sorted by relative name."""
    found = []
    for directory, subdirectories, names in os.walk(root):
        subdirectories[:] = [d for d in subdirectories if d not in skip and not d.startswith(".")]
        paths = (Path(directory, name) for name in names if not name.startswith("."))
        found += [_source_file(path.relative_to(root).as_posix(), path) for path in paths if path.is_file()]
    return sorted(found, key=lambda file: file.name)


def _source_file(name: str, path: Path) -> SourceFile:
    stat = path.stat()
    return SourceFile(name, path.absolute(), stat.st_size, stat.st_mtime_ns)


def _no_such_source(source: str) -> str:
    near = difflib.get_close_matches(source, CORPORA, n=1, cutoff=0.5)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    names = ", ".join(sorted(CORPORA))
    return (
        f"data.source = {source!r} is neither a corpus nor an existing path{hint}; expected one of {names}, "
        "or the path of a text file or directory. `sparsync data list` shows them"
    )


def _directory_name(source: str) -> str:
    return source if source in CORPORA else re.sub(r"[^A-Za-z0-9._-]", "_", Path(source).name) or "text"


@contextmanager
def _locked(target: Path) -> Iterator[None]:
    """Hold the lock file beside `target`; the kernel lets go of it when the process dies."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        lock = target.with_name(target.name + ".lock").open("w")
    except OSError as error:
        raise ConfigError(
            f"cannot write to {target.parent}, where prepared tokens are kept: {error.strerror}; "
            "set data.cache_dir to a directory that this user may write to"
        ) from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _build(source: str, files: list[SourceFile], target: Path) -> dict[str, Any]:
    """Write the token files into a directory of their own and move it into place."""
    # One name for all: the lock is held, and what a killed process left there is cleared away.
    scratch = target.with_name(f".{target.name}.partial")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    try:
        documents = _write_documents(source, files, scratch)
        manifest = _manifest(source, documents, scratch)
        (scratch / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")
        shutil.rmtree(target, ignore_errors=True)
        scratch.rename(target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return manifest


def _write_documents(source: str, files: list[SourceFile], out: Path) -> list[Document]:
    """Append each distinct text to its side; returns what was written, in order."""
    documents: list[Document] = []
    seen: set[str] = set()
    with (out / "train.bin").open("wb") as train, (out / "val.bin").open("wb") as val:
        for file in files:
            content = _read(file)
            sha256 = hashlib.sha256(content).hexdigest()
            # Byte 0 separates documents, and text has none: a file that holds it is something else.
            if SEPARATOR in content or sha256 in seen:
                continue
            seen.add(sha256)
            split = split_of(sha256)
            (train if split == "train" else val).write(content + SEPARATOR)
            documents.append(Document(file.name, sha256, split))
    if not documents:
        raise DataRefused(
            f"data.source = {source!r}: all of its {len(files)} files are empty or binary; expected plain text"
        )
    return documents if _balanced(out) else _split_by_bytes(documents, files, out)


def split_of(sha256: str) -> Split:
    """Side of a document: about 5% are for validation, chosen by content, so that it never changes sides."""
    return "val" if int(sha256[:8], 16) < VALIDATION_SHARE * 2**32 else "train"


def _balanced(out: Path) -> bool:
    train, val = ((out / name).stat().st_size for name in TOKEN_FILES)
    return 0.01 <= val / (train + val) <= 0.2


def _split_by_bytes(documents: list[Document], files: list[SourceFile], out: Path) -> list[Document]:
    """For few or uneven files: all documents in order, of which the last 5% of the bytes validate."""
    paths = {file.name: file for file in files}
    with (out / "train.bin").open("w+b") as train:
        for document in documents:
            train.write(_read(paths[document.name]) + SEPARATOR)
        boundary = round(train.tell() * (1 - VALIDATION_SHARE))
        train.seek(boundary)
        with (out / "val.bin").open("wb") as val:
            shutil.copyfileobj(train, val)
        train.truncate(boundary)
    return [Document(document.name, document.sha256, "tail") for document in documents]


def _read(file: SourceFile) -> bytes:
    try:
        return file.path.read_bytes()
    except OSError as error:
        raise DataRefused(
            f"cannot read {file.path}: {error.strerror}; expected a readable text file. "
            "Make it readable, or move it away"
        ) from error


def _manifest(source: str, documents: list[Document], out: Path) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "source": source,
        "digest": content_digest(documents),
        "dtype": "uint8",
        "vocab": 256,
        "python": sys.version,
        "token_files": {name: _describe(out / name) for name in TOKEN_FILES},
        "documents": [asdict(document) for document in documents],
    }


def _describe(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _intact_manifest(target: Path) -> dict[str, Any] | None:
    """The manifest of a cached directory whose files match it; None where it is absent or damaged."""
    if not target.exists():
        return None
    try:
        manifest: dict[str, Any] = json.loads((target / MANIFEST).read_text())
        documents = [Document(**document) for document in manifest["documents"]]
        intact = manifest["digest"] == content_digest(documents) and all(
            manifest["token_files"][name] == _describe(target / name) for name in TOKEN_FILES
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        log.warning("cached data in %s is unreadable (%s): preparing it again", target, error)
        return None
    if not intact:
        log.warning("cached data in %s does not match its manifest: preparing it again", target)
    return manifest if intact else None


def _prepared(target: Path, manifest: dict[str, Any], *, reused: bool) -> Prepared:
    train, val = (target / name for name in TOKEN_FILES)
    return Prepared(
        source=manifest["source"],
        train=train,
        val=val,
        digest=manifest["digest"],
        train_tokens=manifest["token_files"]["train.bin"]["bytes"],
        val_tokens=manifest["token_files"]["val.bin"]["bytes"],
        documents=len(manifest["documents"]),
        reused=reused,
    )
