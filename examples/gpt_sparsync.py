"""Train a small byte-level GPT on real text. Two files, one program; `diff` shows what is between them.

Plain PyTorch, one process:     python examples/gpt_plain.py --steps 20
Many processes or machines:     sparsync train -s run.epochs=1 -- examples/gpt_sparsync.py --steps 20
"""

import argparse

import torch

import sparsync
from sparsync.lm.corpus import prepare
from sparsync.lm.dataset import TokenDataset, validation_batches, validation_loss
from sparsync.lm.model import GPT

parser = argparse.ArgumentParser()
parser.add_argument("--data", default="stdlib", help="a corpus by name, or a file or directory of text")
parser.add_argument("--steps", type=int, default=200, help="batches of 8 that make an epoch")
args = parser.parse_args()

torch.manual_seed(0)
data = prepare(args.data)
dataset = TokenDataset(data.train, seq_len=128, windows=8 * args.steps)
held_out = validation_batches(data.val, seq_len=128)
model = GPT(layers=4, width=256, heads=4, context=128)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), fused=True)

with sparsync.join(model, optimizer) as session:
    for x, y in session.batches(dataset, batch_size=8):
        optimizer.zero_grad()
        _, loss = model(x, y)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        session.step(loss)
        print(f"loss {loss.item():.3f}", flush=True)

print(f"validation loss {validation_loss(model, held_out):.3f} on data {data.digest[:12]}")
