"""Sparsync: one PyTorch model, trained on many machines over ordinary networks.

User code imports this package only. Names are loaded on first use, so that importing it
costs nothing; before that, the packages `worker` and `wire` are checked to be Sparsync's
own, because a `worker.py` beside a user's script comes first on `sys.path`.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from worker.runtime import run_config as config
    from worker.session import join

__version__ = "0.1.0"
__all__ = ["__version__", "config", "join"]

_API = {"join": ("worker.session", "join"), "config": ("worker.runtime", "run_config")}
PACKAGES = ("coordinator", "ps", "sparsync", "wire", "worker")
_HOME = Path(__file__).resolve().parent.parent


def __getattr__(name: str) -> object:
    """Loads a public name. Raises ShadowedModule where a user's file hides one of our packages."""
    if name not in _API:
        raise AttributeError(f"module 'sparsync' has no attribute {name!r}; it has {', '.join(__all__)}")
    refuse_shadows("wire", "worker")
    module, attribute = _API[name]
    value = getattr(import_module(module), attribute)
    globals()[name] = value
    return value


def refuse_shadows(*packages: str) -> None:
    """Checks that importing each of `packages` finds the one that lies beside this package.

    Raises: ShadowedModule, or ImportError where `wire` itself, the home of our errors, is hidden.
    """
    for package in packages:
        found = _origin(package)
        if found == _HOME / package / "__init__.py":
            continue
        message = _shadow_message(package, found)
        if package == "wire" or _origin("wire") != _HOME / "wire" / "__init__.py":
            raise ImportError(message)
        from wire.errors import ShadowedModule

        raise ShadowedModule(message)


def refuse_beside(script: Path) -> None:
    """Checks that nothing beside a script has the name of one of our packages: the script would import ours for it.

    Raises: ShadowedModule, naming the file.
    """
    for package in PACKAGES:
        for found in (script.parent / f"{package}.py", script.parent / package):
            if found.is_file() or (
                found.is_dir() and found.resolve() != _HOME / package and any(found.glob("*.py"))
            ):
                from wire.errors import ShadowedModule

                raise ShadowedModule(
                    f"{found} has the name of Sparsync's own package '{package}', and {script.name} could not import "
                    "it; rename it, or move the script to another directory, and try again"
                )


def _origin(package: str) -> Path | None:
    try:
        spec = find_spec(package)
    except ValueError:  # already imported by hand, without a spec
        return None
    if spec is None:
        return None
    if spec.origin is None:  # a directory without __init__.py
        return next((Path(p).resolve() for p in spec.submodule_search_locations or ()), None)
    return Path(spec.origin).resolve()


def _shadow_message(package: str, found: Path | None) -> str:
    ours = _HOME / package
    if found is None:
        return f"no package '{package}' was found, expected {ours}; install Sparsync again"
    return (
        f"{found} hides Sparsync's own package '{package}' ({ours}); "
        f"rename it, or start your script from another directory, and try again"
    )
