"""Versions at both ends, and files that hide our packages."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import sparsync
from sparsync.doctor.finding import Finding, failure, ok, refused, warning
from sparsync.doctor.node import Node
from wire.errors import ProtocolMismatch, ShadowedModule
from wire.ids import PROTOCOL_VERSION
from wire.rpc.server import assert_upb
from wire.version import VERSION

PACKAGES = ("torch", "grpcio", "protobuf", "numpy", "numba")


def versions(node: Node) -> Finding:
    """What is installed here, and what the coordinator runs."""
    what, here = "versions", f"sparsync {VERSION} (protocol {PROTOCOL_VERSION})"
    try:
        assert_upb()
    except ProtocolMismatch as error:
        return refused(what, error)
    far = node.asked.build if node.asked is not None else None
    if far is None:
        return ok(what, f"{here}; {_installed()}")
    there = f"sparsync {far.version} (protocol {far.protocol_version})"
    if far.protocol_version != PROTOCOL_VERSION:
        return failure(
            what, f"{here} here, {there} at the coordinator", "install the same version on both machines"
        )
    if far.version != VERSION:
        return warning(
            what,
            f"{here} here, {there} at the coordinator: they understand each other, but may not compute alike",
            "install the same version on both machines",
        )
    return ok(what, f"{here} at both ends; {_installed()}")


def _installed() -> str:
    found = {name: _version(name) for name in PACKAGES}
    return f"Python {platform.python_version()}, " + ", ".join(f"{name} {v}" for name, v in found.items())


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "missing"


def shadows(node: Node) -> Finding:
    """Whether anything hides our packages: on the path, beside the script, or in the directory one stands in."""
    what = "shadowed modules"
    script = node.script.absolute() if node.script is not None else None
    if script is not None and not script.is_file():
        return failure(what, f"{script}: no such script", "give the path of a Python file")
    try:
        sparsync.refuse_shadows(*sparsync.PACKAGES)
        if script is not None:
            sparsync.refuse_beside(script)
    except (ShadowedModule, ImportError) as error:
        return refused(what, error)
    try:
        sparsync.refuse_beside(Path.cwd() / "a script here")
    except ShadowedModule:
        return warning(
            what,
            f"a script in {Path.cwd()} could not import Sparsync: a file or directory there has a package's name",
            f"rename what is called {', '.join(sparsync.PACKAGES)} there, or keep scripts elsewhere",
        )
    return ok(what, f"nothing hides {', '.join(sparsync.PACKAGES)}")
