"""Runs the cluster of a case as `sparsync train --json` does, each process where it belongs.

    python -m sparsync.bench.modes.scripts.cluster PARENT DIRECTORY

DIRECTORY holds case.json and lines.json; the run directory is DIRECTORY/run. Where there is a rate to keep and there
are no namespaces, servers are reached through proxies that pace what each process dials with.
"""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import click

from sparsync.bench.modes.cases import case_of, cluster_settings
from sparsync.bench.modes.links import Lines
from sparsync.faults.background import ProxyThread
from sparsync.faults.rules import Faults, Rule
from sparsync.launch_plan import Launch, Place, plan_launch
from sparsync.launcher import train
from sparsync.orphan_guard import end_with_parent
from wire.errors import SparsyncError

TRAINER = Path(__file__).with_name("trainer.py")


def main() -> int:
    end_with_parent(int(sys.argv[1]))
    directory = Path(sys.argv[2])
    case = case_of(json.loads((directory / "case.json").read_text()))
    told = json.loads((directory / "lines.json").read_text())
    lines = Lines(**{**told, "hub": tuple(told["hub"]), "workers": tuple(map(tuple, told["workers"]))})
    settings = [*cluster_settings(case), *(["security.insecure=true"] if lines.workers else [])]
    command = (str(TRAINER), str(directory))
    try:
        launch = plan_launch(None, settings, out=directory / "run", resume=None, command=command)
        with placed(launch, lines) as there:
            return train(there, terminal=False, json_out=True)
    except SparsyncError as error:
        click.echo(f"error: {error}", err=True)
        return error.exit_code


@contextmanager
def placed(launch: Launch, lines: Lines) -> Iterator[Launch]:
    """The launch, with a place for each process."""
    places = {name: Place(listen=f"{lines.host}:0") for name in launch.roles}
    for number in range(launch.config.cluster.workers):
        places[f"worker-{number}"] = Place(within=lines.within(number))
    if lines.proxy_rate is None:
        yield replace(launch, places=places)
        return
    with ProxyThread(Faults([Rule(rate=lines.proxy_rate, each=True)])) as proxy:
        yield replace(launch, places=places | behind(proxy, launch))


def behind(proxy: ProxyThread, launch: Launch) -> dict[str, Place]:
    """The servers, each with a port that the proxy knows before it listens."""
    servers = [name for name, role in launch.roles.items() if role == "ps"]
    ports = {name: free_address() for name in servers}
    return {name: Place(listen=at, advertise=proxy.forward(at)) for name, at in ports.items()}


def free_address() -> str:
    """On loopback, that nothing listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


if __name__ == "__main__":
    sys.exit(main())
