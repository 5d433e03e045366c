"""Many random histories one after the other: `python -m tests.coordinator.campaign --seeds 20000 --first 0 --jobs 1`.

Three kinds of world in turn: nobody but workers dies, the coordinator dies too, servers die too; each with all modes
and with exact modes alone. Every failing seed is told as the command that repeats it; the exit code is 1 then.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import islice

from tests.coordinator.falling import FallingWorld
from tests.coordinator.ground import Broken
from tests.coordinator.mortal import MortalWorld
from tests.coordinator.world import World

KINDS: dict[str, Callable[..., World]] = {
    "workers": World,
    "coordinator": MortalWorld,
    "servers": FallingWorld,
    "servers-exact": partial(FallingWorld, modes=("sync", "delayed")),
}
TURNS = ("servers", "coordinator", "servers-exact", "workers")
"""Kind of a seed, by its remainder."""
HISTORY = 15


def run_seed(seed: int, kind: str = "") -> World:
    """One history; of the kind whose turn it is, unless told. Raises: Broken, with the command that repeats it."""
    kind = kind or TURNS[seed % len(TURNS)]
    world = None
    try:
        world = KINDS[kind](seed)
        return world.run()
    except Exception as error:
        tail = "\n  ".join(world.history[-HISTORY:]) if world else ""
        command = f"PYTHONPATH=. python -m tests.coordinator.campaign --first {seed} --seeds 1 --kind {kind}"
        raise Broken(f"seed {seed}: {error!r}\n  {tail}\nrepeat with: {command}") from error


def attempt(seed: int, kind: str) -> tuple[int, str, Counter[str]]:
    """(seed, what is wrong or nothing, what happened in it)."""
    try:
        world = run_seed(seed, kind)
    except Broken as error:
        return seed, str(error), Counter()
    happened = Counter({"workers killed": world.kills, "coordinator deaths": getattr(world, "deaths", 0)})
    happened.update(
        {"server deaths": getattr(world, "falls", 0), "promotions": getattr(world, "promotions", 0)}
    )
    return seed, "", happened


def results(seeds: range, kind: str, jobs: int) -> Iterator[tuple[int, str, Counter[str]]]:
    if jobs == 1:
        yield from (attempt(seed, kind) for seed in seeds)
        return
    with ProcessPoolExecutor(jobs) as pool:
        left = iter(seeds)
        while batch := list(islice(left, 100 * jobs)):
            yield from pool.map(attempt, batch, [kind] * len(batch), chunksize=10)


def main() -> int:
    """Run the seeds that the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m tests.coordinator.campaign", description=__doc__)
    parser.add_argument("--seeds", type=int, default=2000, help="how many")
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--kind", choices=sorted(KINDS), default="", help="of all seeds, not in turn")
    parser.add_argument("--every", type=int, default=500, help="seeds between two lines of progress")
    told = parser.parse_args()
    logging.disable()
    seeds, began = range(told.first, told.first + told.seeds), time.monotonic()
    failed: list[int] = []
    total: Counter[str] = Counter()
    for done, (seed, wrong, happened) in enumerate(results(seeds, told.kind, told.jobs), 1):
        total += happened
        if wrong:
            failed.append(seed)
            print(wrong, flush=True)
        if done % told.every == 0:
            rate = done / (time.monotonic() - began)
            print(f"{done} of {len(seeds)} seeds, {len(failed)} failing, {rate:.1f} seeds/s", flush=True)
    what = ", ".join(f"{count} {name}" for name, count in sorted(total.items()))
    print(f"seeds {seeds.start} to {seeds.stop - 1}: {len(failed)} failing {failed or ''}; {what}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
