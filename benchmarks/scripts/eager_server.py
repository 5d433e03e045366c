"""A parameter server that takes an image of its state whenever applying records took `EAGER_S` seconds in all.

    python benchmarks/scripts/eager_server.py EAGER_S ps --coordinator … (the words of `sparsync ps`)

By itself a server takes one when its log is a gigabyte or a restart would take seconds: too seldom to measure.
"""

from __future__ import annotations

import sys

import ps.archive
from sparsync.cli import main

ps.archive.REPLAY_S, ps.archive.REPLAY_S_A_GB = float(sys.argv.pop(1)), 0.0
main()
