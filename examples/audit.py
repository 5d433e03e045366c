"""Count how often each unit of work was applied, on every parameter server: once, whatever happened meanwhile.

    sparsync train -s run.steps=200 -s push.codec=dense -s pull.codec=dense \\
        -s optimizer.aggregate=sum --out audit -- examples/audit.py --pause 0.1

Meanwhile kill workers (`kill -9`; they come back), stop and continue them, send some away (`sparsync drain
worker-0 audit`), change the mode (`sparsync set audit sync.mode=async`), end the run early (`sparsync stop
audit`). The model is one parameter, "copies": rows of one counter a unit. Unit i pushes -1 at element i of every
row; the servers run SGD with learning rate 1 and sum what comes, so that in the end element i of a row *is* the
number of times that unit i was applied by the server that holds this row. All must be 1, and all rows must agree.
"""

import argparse
import json
import time

import torch

import sparsync

parser = argparse.ArgumentParser()
parser.add_argument("--pause", type=float, default=0.0, metavar="SECONDS", help="that each unit takes")
args = parser.parse_args()

BLOCK = 4096  # elements a block, the unit in which parameters are dealt to servers
config = sparsync.config()
streams = config.sync.units_per_step
width = -(-config.run.steps * streams // BLOCK) * BLOCK
rows = 2 * config.cluster.servers  # each server gets a run of blocks, at least two rows long

model = torch.nn.Module()
model.copies = torch.nn.Parameter(torch.zeros(rows, width))
optimizer = torch.optim.SGD(model.parameters(), lr=1.0)

with sparsync.join(model, optimizer) as session:
    for _ in session.units():
        unit = session.clock * streams + session.stream
        time.sleep(args.pause)
        loss = -model.copies[:, unit].sum()
        loss.backward()
        session.step(loss)

if session.is_first:
    units = session.clock * streams  # those of the steps that were settled; a run may be stopped early
    counts = model.copies.detach()
    wrong = (counts[:, :units] != 1).any(dim=0).nonzero().flatten().tolist()
    audit = {
        "units": units,
        "copies": rows,
        "applied_once": units - len(wrong),
        "wrong": {unit: counts[:, unit].tolist() for unit in wrong[:100]},
        "copies_agree": bool((counts == counts[0]).all()),
        "elsewhere_zero": bool((counts[:, units:] == 0).all()),
    }
    if session.out is not None:
        (session.out / "audit.json").write_text(json.dumps(audit, indent=2) + "\n")
    print(json.dumps(audit))
    if wrong or not audit["copies_agree"] or not audit["elsewhere_zero"]:
        raise SystemExit(f"{len(wrong)} of {units} units were not applied exactly once")
