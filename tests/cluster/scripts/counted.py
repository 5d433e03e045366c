"""Counts on the servers how often each sample of a dataset was trained on: sample i adds 1 at coordinate i.

The model is one parameter, "counts", with a row for every copy; a unit pushes minus the number of times that each
sample stood in its batch, and the servers run SGD with learning rate 1 and sum. What is counted is therefore what
was *settled*, not what was computed. A unit takes `--pause` seconds.
"""

import argparse
import time

import torch

import sparsync

SAMPLES, BATCH = 10_007, 64


class Numbers:
    """Sample i is i."""

    digest = "numbers"

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, index: int) -> int:
        return index


parser = argparse.ArgumentParser()
parser.add_argument("--pause", type=float, default=0.0)
args = parser.parse_args()

BLOCK = 4096
model = torch.nn.Module()
width = -(-SAMPLES // BLOCK) * BLOCK
model.counts = torch.nn.Parameter(torch.zeros(sparsync.config().cluster.servers, width))
optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
with sparsync.join(model, optimizer) as session:
    for batch in session.batches(Numbers(), batch_size=BATCH):
        time.sleep(args.pause)
        loss = -model.counts[:, batch].sum()
        loss.backward()
        session.step(loss)
