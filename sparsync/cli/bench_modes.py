"""`sparsync bench modes`: modes and baselines train the same model, beside each other."""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from sparsync.cli.options import set_option

if TYPE_CHECKING:
    from sparsync.bench.modes.cases import Grid

Command = TypeVar("Command", bound=Callable[..., Any])
LISTS = {
    "modes": (
        "MODE[+key=value]…",
        "Modes; keys of the configuration may follow, as in Q:sync+sync.quorum=3; Q: its name.",
    ),
    "baselines": ("NAME[+key=value]…", "one, ddp, ddp-fp16, ddp-powersgd, diloco; or none."),
    "codecs": ("NAME[+key=value]…", "default, dense, bf16, int8, int4, mxint4."),
    "workers": ("N", "Numbers of workers, or ranks; with baselines divisors of --streams."),
    "stragglers": ("PATTERN", "none, slow:4/4/2/1, pauses:0.05/2, stop:10/8 (docs/benchmarks.md)."),
    "links": ("RATE", "Of each worker, both ways: unlimited, 100mbit, 10mbit."),
    "lrs": ("LR", "Learning rates, on which each method is tuned."),
    "seeds": ("N", "Seeds."),
}
"""Option -> (what stands in it, help); lists with commas."""
NONE = "none"


def grid_options(command: Command) -> Command:
    """What can be varied, passed as texts, or None."""
    for name, (metavar, text) in reversed(LISTS.items()):
        command = click.option(f"--{name}", metavar=f"{metavar}[,…]", help=text)(command)
    return command


@click.command()
@click.option(
    "--quick", is_flag=True, help="Ten minutes on two cores, a small model, one seed (the default)."
)
@click.option("--full", is_flag=True, help="The default model, 2,000 steps, three seeds: days.")
@click.option(
    "--part",
    "parts",
    metavar="PART[,…]",
    help="Of --full: scaling, links, codecs, stragglers, speeds, quorum. Without it, all.",
)
@grid_options
@click.option("--cross", is_flag=True, help="Every link with every straggler pattern and number of workers.")
@click.option(
    "--steps", type=click.IntRange(min=1), help="Steps, counted as inner ones: equal tokens for all."
)
@click.option("--model", metavar="LAYERSxWIDTHxHEADS", help="The built-in language model.")
@click.option("--seq-len", type=click.IntRange(min=1), help="Tokens a sample.")
@click.option("--batch-size", type=click.IntRange(min=1), help="Samples a unit.")
@click.option(
    "--streams",
    type=click.IntRange(min=1),
    default=4,
    show_default=True,
    help="Units a step, whoever computes.",
)
@click.option("--servers", type=click.IntRange(min=1), default=1, show_default=True, help="Of a cluster.")
@click.option("--copies", type=click.IntRange(min=1), help="How often a run's model is kept and evaluated.")
@click.option(
    "--windows",
    type=click.IntRange(min=1),
    help="Windows of held-out text that models are evaluated on: 128, with --full 256.",
)
@click.option(
    "--unit-s",
    type=click.FloatRange(min=0),
    help="Seconds that a unit takes at least, by sleeping.",
)
@click.option(
    "--data", "source", default="stdlib", show_default=True, help="What is trained on (data.source)."
)
@set_option
@click.option(
    "--limit-s",
    type=click.FloatRange(min=1),
    default=14_400.0,
    show_default=True,
    help="Of one run, beside what dense gradients take on its link; then it failed.",
)
@click.option("--no-namespaces", is_flag=True, help="Shape clusters in user space, baselines not at all.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("bench-modes"),
    show_default=True,
    help="Where results are kept; what is there is not measured again.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output; one a part.")
def modes(
    quick: bool,
    full: bool,
    parts: str | None,
    source: str,
    overrides: tuple[str, ...],
    limit_s: float,
    no_namespaces: bool,
    out: Path,
    as_json: bool,
    **asked: Any,
) -> int:
    """Train one model in every mode, and with DDP and DiLoCo, and compare loss, time and bytes.

    In real processes, behind links that are shaped where this machine lets us (root). Nothing
    else should run meanwhile. The same command goes on where it was interrupted.
    """
    from wire.errors import UsageError

    if quick and full:
        raise UsageError("--quick and --full: choose one")
    presets = presets_of(parts, full=full)
    grids = {
        name: grid_of(asked, preset, source=source, overrides=overrides) for name, preset in presets.items()
    }
    from sparsync.bench.modes import report
    from sparsync.bench.modes.links import Network
    from sparsync.bench.modes.measuring import measure
    from sparsync.cli.bench import hand_over, say

    signal.signal(signal.SIGTERM, _interrupt)
    network = Network("--no-namespaces" if no_namespaces else "")
    failed = False
    for name, grid in grids.items():
        result = measure(grid, out, network, say, limit_s=limit_s) | {"benchmark": name}
        hand_over(result, report.tables(result), report.html(result), out=out, as_json=as_json)
        failed |= any(case["error"] for case in result["cases"])
    return 1 if failed else 0


def _interrupt(number: int, frame: object) -> None:
    """As Ctrl-C: what was begun is cleaned up on the way out."""
    raise KeyboardInterrupt


def presets_of(parts: str | None, *, full: bool) -> dict[str, Mapping[str, Any]]:
    """Name of a result -> its preset. Raises: UsageError."""
    from sparsync.bench.modes import presets
    from sparsync.bench.modes.methods import words
    from wire.errors import UsageError

    if not full:
        if parts is not None:
            raise UsageError(f"--part {parts}: only --full has parts; add it, or leave --part out")
        return {"modes": presets.QUICK}
    asked = words([parts]) if parts is not None else [*presets.FULL]
    if unknown := [part for part in asked if part not in presets.FULL]:
        raise UsageError(f"--part {unknown[0]}: expected some of {', '.join(presets.FULL)}")
    return {f"modes-{part}": presets.full(part) for part in asked}


def grid_of(
    asked: dict[str, Any], preset: Mapping[str, Any], *, source: str, overrides: Sequence[str]
) -> Grid:
    """The preset, with what was asked for in its place. Raises: UsageError, ConfigError."""
    from sparsync.bench.modes import links, methods, stragglers
    from sparsync.bench.modes.cases import Grid, Workload

    wanted = dict(preset) | {key: value for key, value in asked.items() if value is not None}
    listed = {
        name: methods.words([asked[name]]) if asked[name] is not None else [*map(str, preset[name])]
        for name in LISTS
    }
    baselines = [] if listed["baselines"] == [NONE] else listed["baselines"]
    modes = [] if listed["modes"] == [NONE] else listed["modes"]
    layers, width, heads = model_of(wanted["model"])
    work = Workload(
        layers=layers,
        width=width,
        heads=heads,
        **{
            key: wanted[key]
            for key in ("seq_len", "batch_size", "streams", "steps", "copies", "windows", "servers", "unit_s")
        },
        source=source,
        settings=tuple(overrides),
    )
    return Grid(
        methods=(*map(methods.mode, modes), *map(methods.baseline, baselines)),
        codecs=tuple(map(methods.codec, listed["codecs"])),
        workers=tuple(numbers("--workers", listed["workers"], int)),
        stragglers=tuple(map(stragglers.pattern, listed["stragglers"])),
        links=tuple(map(links.link, listed["links"])),
        lrs=tuple(numbers("--lrs", listed["lrs"], float)),
        seeds=tuple(numbers("--seeds", listed["seeds"], int)),
        work=work,
        cross=wanted["cross"],
    )


def model_of(text: str) -> tuple[int, int, int]:
    """Layers, width, heads. Raises: UsageError."""
    from wire.errors import UsageError

    try:
        layers, width, heads = map(int, text.split("x"))
    except ValueError:
        raise UsageError(f"--model {text}: expected LAYERSxWIDTHxHEADS, such as 4x256x4") from None
    return layers, width, heads


def numbers(option: str, words: Sequence[str], kind: Callable[[str], Any]) -> list[Any]:
    """Raises: UsageError."""
    from wire.errors import UsageError

    try:
        found = [kind(word) for word in words]
    except ValueError:
        found = []
    if not found or not all(0 <= n < 2**31 for n in found):
        raise UsageError(
            f"{option} {','.join(words)}: expected numbers of 0 or more, with commas between them"
        )
    return found
