"""`python -m tests.fuzz --inputs 1000000 --seed 1` fuzzes all decoders and exits with 1 where there is a finding."""

from __future__ import annotations

import argparse
import json
import sys

from tests.fuzz.campaign import Summary, campaign

MIB = 1 << 20


def told(summary: Summary) -> str:
    """The summary in words."""
    lines = [f"{name:44}{tried:>10}{taken:>10}" for name, (tried, taken) in summary.by_target.items()]
    rate = summary.inputs / max(summary.wall_s, 1e-9)
    return "\n".join(
        [
            f"{'target':44}{'inputs':>10}{'accepted':>10}",
            *lines,
            f"seed {summary.seed}: {summary.inputs} inputs in {summary.wall_s:.0f} s ({rate:.0f}/s), "
            f"{summary.accepted} accepted, {summary.refused} refused",
            f"slowest call {1e3 * summary.slowest_s:.1f} ms of processor time ({summary.slowest_target})",
            f"peak {summary.peak_bytes / MIB:.1f} MiB, bound {summary.bound_bytes / MIB:.1f}; a large frame took "
            f"{summary.large_grown_bytes / MIB:.1f} MiB, bound {summary.large_bound_bytes / MIB:.1f}",
            f"{len(summary.findings)} findings",
            *summary.findings,
        ]
    )


def main() -> None:
    """Run one campaign."""
    known = argparse.ArgumentParser(prog="python -m tests.fuzz")
    known.add_argument("--inputs", type=int)
    known.add_argument("--seconds", type=float)
    known.add_argument("--seed", type=int, default=0)
    known.add_argument("--only", default="", help="targets with this in their name")
    known.add_argument("--json", action="store_true")
    chosen = known.parse_args()
    seconds = 20.0 if chosen.inputs is None and chosen.seconds is None else chosen.seconds
    summary = campaign(seed=chosen.seed, inputs=chosen.inputs, seconds=seconds, only=chosen.only)
    print(json.dumps(summary.as_json()) if chosen.json else told(summary))
    sys.exit(bool(summary.findings))


if __name__ == "__main__":
    main()
