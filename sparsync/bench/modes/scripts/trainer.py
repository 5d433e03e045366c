"""What a worker of a case runs: the built-in trainer, told how slow to be, and recorded.

    sparsync worker trainer.py DIRECTORY

Model, data, optimizer and schedule are those of `sparsync.lm.train`. DIRECTORY holds case.json. Copies of x̂, which
the model need not show meanwhile, are made by the worker that would evaluate, before a batch; `copied_at` in
events.jsonl tells when.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from torch import nn

import sparsync
from sparsync.bench.modes import stragglers
from sparsync.bench.modes.cases import case_of
from sparsync.bench.modes.recorder import Copies, Pace, Recorder
from sparsync.bench.modes.scripts import stopper
from sparsync.lm.corpus import prepare
from sparsync.lm.dataset import TokenDataset, validation_batches, validation_loss
from sparsync.lm.model import GPT
from sparsync.lm.train import CLIP_NORM, build_optimizer, build_scheduler, planned_steps
from wire.config import environment
from wire.rounds import Rounds
from wire.rpc.meter import SocketMeter


def main() -> None:
    directory = Path(sys.argv[1])
    case = case_of(json.loads((directory / "case.json").read_text()))
    config = sparsync.config()
    text = prepare(config.data.source, config.data.cache_dir)
    dataset = TokenDataset(text.train, config.data.seq_len)
    held_out = validation_batches(text.val, config.data.seq_len, case.work.windows)
    model = GPT(config.model.layers, config.model.width, config.model.heads, context=config.data.seq_len)
    optimizer = build_optimizer(model, config.optimizer)
    steps = planned_steps(config, len(dataset))
    scheduler = build_scheduler(optimizer, config.optimizer, total_steps=steps)

    pattern, worker = stragglers.pattern(case.straggler), int(environment()["LOCAL_RANK"])
    recorder = Recorder(directory, Pace(pattern, worker, case.seed, case.work.unit_s), SocketMeter())
    copies = Copies(directory, worker=worker, steps=steps, count=case.work.copies)
    rounds = Rounds.of(config).until(steps)
    pushes = {rounds.last_step(rounds.rounds_of(step + 1) - 1) for step in range(steps)}
    stops = pattern.stops(worker, case.workers)

    with sparsync.join(model, optimizer, scheduler=scheduler) as session:
        session.evaluate(lambda: validation_loss(model, held_out), every=0)
        for x, y in session.batches(dataset, batch_size=config.data.batch_size):
            recorder.begin()
            if stops:
                stopper.start(pattern.stop_after_s, pattern.stop_for_s)
                stops = False
            step = session.clock
            if session.is_first and copies.due(step):
                session.log(**copies.keep(session.published(), step))
                recorder.pass_to("kept_s")
            recorder.sleep()
            _, loss = model(x, y)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM)
            recorder.computed()
            session.step(loss, tokens=y.numel())
            recorder.sent(y.numel(), pushed=step in pushes)
        recorder.close()


if __name__ == "__main__":
    main()
