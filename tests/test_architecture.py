"""Rules of the house that no linter of ours knows; who may import whom is lint-imports' part."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("sparsync", "coordinator", "ps", "worker", "wire")
PICKLES = {"pickle", "_pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
DECIDING = (
    "coordinator.core",
    "coordinator.membership",
    "coordinator.pace",
    "coordinator.placement",
    "coordinator.units",
    "ps.ledger",
    "ps.shard",
    "worker.streams",
)
SOURCES = [
    path for folder in (*PACKAGES, "examples", "benchmarks") for path in sorted((ROOT / folder).rglob("*.py"))
]


def imports(tree: ast.AST) -> Iterator[str]:
    """Absolute names of all that a module imports, at its top or inside functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def dotted(node: ast.AST) -> str:
    """`a.b.c` of an attribute chain; the empty string for anything else."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (owner := dotted(node.value)):
        return f"{owner}.{node.attr}"
    return ""


def offences(source: str) -> set[str]:
    """What a source uses that it must not: pickles, torch.load and torch.save, `import proto`."""
    tree = ast.parse(source)
    found = {name for name in imports(tree) if name.partition(".")[0] in PICKLES | {"proto"}}
    names = {*imports(tree), *map(dotted, ast.walk(tree))}
    found |= names & {"torch.load", "torch.save"}
    loads = [n for n in ast.walk(tree) if isinstance(n, ast.keyword) and n.arg == "allow_pickle"]
    found |= {
        "allow_pickle" for k in loads if not (isinstance(k.value, ast.Constant) and k.value.value is False)
    }
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_source_pickles_or_imports_proto(path: Path) -> None:
    assert offences(path.read_text(encoding="utf-8")) == set()


@pytest.mark.parametrize(
    ("source", "offence"),
    [
        ("import pickle", "pickle"),
        ("def f():\n    from pickle import loads", "pickle"),
        ("import torch\ntorch.load('x')", "torch.load"),
        ("from torch import load", "torch.load"),
        ("import proto.wire", "proto.wire"),
        ("import numpy as np\nnp.load('x', allow_pickle=True)", "allow_pickle"),
    ],
)
def test_the_rule_bites(source: str, offence: str) -> None:
    assert offence in offences(source)


def test_tests_are_no_packages() -> None:
    assert list((ROOT / "tests").rglob("__init__.py")) == []


def test_proto_is_no_package() -> None:
    assert [p for p in (ROOT / "proto").rglob("*") if p.is_file() and p.suffix not in (".proto", ".md")] == []


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_are_typed_and_say_what_they_are_for(package: str) -> None:
    assert (ROOT / package / "py.typed").exists()
    assert ast.get_docstring(ast.parse((ROOT / package / "__init__.py").read_text()))


@pytest.mark.parametrize("package", PACKAGES)
def test_every_module_says_what_it_is_for(package: str) -> None:
    modules = [p for p in (ROOT / package).rglob("*.py") if "wire/v1" not in p.as_posix()]
    silent = [str(p.relative_to(ROOT)) for p in modules if not ast.get_docstring(ast.parse(p.read_text()))]
    assert silent == []


def test_deciding_modules_are_under_the_contract_that_keeps_them_pure() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (deciding,) = (c["source_modules"] for c in contracts if c["name"].startswith("Deciding modules"))
    present = {m for m in DECIDING if (ROOT / m.replace(".", "/")).with_suffix(".py").exists()}
    assert present <= set(deciding), "add them to the contract in pyproject.toml"


def test_there_is_no_utils() -> None:
    assert [p for package in PACKAGES for p in (ROOT / package).rglob("util*.py")] == []
