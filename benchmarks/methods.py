"""What does a step cost under each method, relative to dense fine-tuning?

Every method trains its own copy of one model; their steps are taken in turn, in one process and one thread, and CPU seconds
are counted, so that what else the machine does falls on all alike. Printed are medians and ratios. A method with two phases
(ADMM, then masked) has a line for each. The Z and dual step, which comes once or a few times an epoch, is timed on its own.
Usage: python benchmarks/methods.py [ROUNDS]
"""

from __future__ import annotations

import copy
import statistics
import sys
import time

import torch
from torch import Tensor
from transformers import BertConfig, BertForSequenceClassification

from nxm_sweep.sparsity import Pattern, Target, encoder_rules, select_targets
from nxm_sweep.training.methods import (
    AdmmSwitches,
    AdmmUnstructured,
    Asp,
    Budget,
    Dense,
    Gradual,
    Nxm,
    NxmRefit,
    SparseMethod,
    SrSte,
)

BATCH, TOKENS = 32, 48  # about MRPC's
BUDGET = Budget(steps=10**6, steps_per_epoch=10**5)  # no iteration and no stage falls among the timed steps


class Loop:
    """One method's training loop, as the trainer's."""

    def __init__(self, model: BertForSequenceClassification, method: SparseMethod) -> None:
        self.model, self.method = model.train(), method
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
        method.start_(BUDGET)

    def step(self, batch: dict[str, Tensor]) -> float:
        """Take one optimizer step; return its CPU seconds."""
        started = time.process_time()
        self.method.before_forward_()
        self.model(**batch).loss.backward()
        self.method.before_clip_()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.method.after_clip_()
        self.optimizer.step()
        self.method.after_step_()
        self.optimizer.zero_grad()
        return time.process_time() - started


def loops() -> dict[str, Loop]:
    """A loop per method over copies of a random model of MiniLM-L6's shape."""
    torch.manual_seed(0)
    config = BertConfig(hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536)
    model = BertForSequenceClassification(config)

    def loop(make: type[SparseMethod] | None, *arguments: object) -> Loop:
        own = copy.deepcopy(model)
        targets: list[Target] = select_targets(own, encoder_rules(Pattern(2, 4)))
        return Loop(own, Dense() if make is None else make(targets, *arguments))  # type: ignore[call-arg]

    return {
        "dense": loop(None),
        "asp": loop(Asp),
        "nxm": loop(Nxm, 4e-3),
        "admm_unstructured": loop(AdmmUnstructured, 4e-3),
        "nxm_refit, ADMM": loop(NxmRefit, 4e-3),
        "nxm_refit, masked": loop(NxmRefit, 4e-3, AdmmSwitches(admm_fraction=0.0)),
        "nxm, decoupled": loop(Nxm, 0.0, AdmmSwitches(penalty="decoupled")),
        "sr_ste": loop(SrSte),
        "gradual": loop(Gradual),
    }


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 15
    torch.set_num_threads(1)
    ways = loops()
    draw = torch.Generator().manual_seed(0)
    batch = {
        "input_ids": torch.randint(1000, 30000, (BATCH, TOKENS), generator=draw),
        "labels": torch.randint(2, (BATCH,), generator=draw),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds + 2):
        for name, loop in ways.items():
            spent = loop.step(batch)
            if turn >= 2:  # the first two make Adam's state and warm the caches
                seconds[name].append(spent)
    median = {name: statistics.median(times) for name, times in seconds.items()}
    print(f"MiniLM-L6's shape, {BATCH} x {TOKENS} tokens, one thread, median of {rounds} rounds taken in turn")
    for name, value in median.items():
        ratios = [mine / dense for mine, dense in zip(seconds[name], seconds["dense"], strict=True)]
        print(f"{name:18} {value * 1e3:7.0f} ms  {statistics.median(ratios):.2f} times dense")
    for name in ("nxm", "admm_unstructured"):
        method = ways[name].method
        if isinstance(method, Nxm):
            started = time.process_time()
            method.admm.update_()
            print(f"{name}: one Z and dual step {(time.process_time() - started) / median['dense']:.2f} dense steps")


if __name__ == "__main__":
    main()
