"""Optimizer step of every method relative to one of dense fine-tuning, and the Z and dual step.

Every method trains its own copy of one model. Steps are interleaved in one process and one thread and measured in CPU
seconds, so that other load affects all alike. A method with two phases (ADMM, then masked) has a line for each. The Z
and dual step, taken once or a few times an epoch, is timed separately.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from transformers import BertConfig, BertForSequenceClassification

from benchmarks.groups import Options
from benchmarks.measure import Figure, Sample, alternate, ratios
from nxm_sweep.methods import (
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
from nxm_sweep.sparsity import Pattern, encoder_rules, select_targets
from nxm_sweep.training.cpu_layers import use_fast_layers_
from nxm_sweep.training.packing import pack_

BATCH, LONGEST = 32, 96  # rows; tokens, as in MRPC: 53 on average
BUDGET = Budget(steps=10**6, steps_per_epoch=10**5)  # no iteration and no stage falls within the timed steps
BARS = {"asp": 1.02, "nxm": 1.02, "sr_ste": 1.10}
UPDATE_BAR = 0.10
STEPS_PER_ROUND = 5


class Loop:
    """Training loop of one method, with the trainer's order of hooks."""

    def __init__(self, model: BertForSequenceClassification, method: SparseMethod) -> None:
        self.model, self.method = model.train(), method
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
        method.start_(BUDGET)

    def step(self, batch: dict[str, Tensor]) -> Sample:
        """Take one optimizer step; return its seconds."""
        took = Sample()
        with took.timed():
            self.method.before_forward_()
            self.model(**batch).loss.backward()
            self.method.before_clip_()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.method.after_clip_()
            self.optimizer.step()
            self.method.after_step_()
            self.optimizer.zero_grad()
        return took


def measure(options: Options) -> Iterator[Figure]:
    """Yield every method's step and update relative to a dense step; a round is a single call."""
    torch.set_num_threads(1)
    ways, batch = loops(), make_batch()
    for loop in ways.values():  # allocate Adam's state, warm the caches
        loop.step(batch)
    rounds = options.rounds if options.quick else STEPS_PER_ROUND * options.rounds
    steps = alternate({name: _make_stepper(loop, batch) for name, loop in ways.items()}, rounds)
    for name, samples in steps.items():
        if name != "dense":
            yield Figure(f"step: {name} / dense", ratios(samples, steps["dense"]), bar=BARS.get(name), at_least=False)
    updates = {name: _make_updater(loop.method) for name, loop in ways.items() if name in ("nxm", "admm_unstructured")}
    for update in updates.values():
        update()
    for name, samples in alternate(updates, rounds).items():
        bar = UPDATE_BAR if name == "nxm" else None
        values = ratios(samples, steps["dense"])
        yield Figure(f"step: Z and dual step of {name} / a dense step", values, bar=bar, at_least=False)
    yield Figure("step: dense", [1e3 * sample.cpu for sample in steps["dense"]], unit="ms")


def loops() -> dict[str, Loop]:
    """Return a loop per method over copies of a random model of MiniLM-L6's shape."""
    torch.manual_seed(0)
    config = BertConfig(hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536)
    model = BertForSequenceClassification(config)

    def loop(make: Callable[..., SparseMethod] | None, *arguments: object) -> Loop:
        own = copy.deepcopy(model)
        use_fast_layers_(own)
        pack_(own)
        return Loop(
            own,
            Dense() if make is None else make(select_targets(own, encoder_rules(Pattern(2, 4))), *arguments),
        )

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


def make_batch() -> dict[str, Tensor]:
    """Return rows of unequal lengths, padded to the longest."""
    draw = torch.Generator().manual_seed(0)
    lengths = (53 + 18 * torch.randn(BATCH, generator=draw)).round().clamp(16, LONGEST)
    longest = int(lengths.max())
    attended = torch.arange(longest) < lengths[:, None]
    return {
        "input_ids": torch.randint(1000, 30000, (BATCH, longest), generator=draw) * attended,
        "attention_mask": attended.long(),
        "labels": torch.randint(2, (BATCH,), generator=draw),
    }


def _make_stepper(loop: Loop, batch: dict[str, Tensor]) -> Callable[[], Sample]:
    return lambda: loop.step(batch)


def _make_updater(method: SparseMethod) -> Callable[[], Sample]:
    def update() -> Sample:
        if not isinstance(method, Nxm):
            raise TypeError(f"{method} has no Z and dual step")
        took = Sample()
        with took.timed():
            method.admm.update_()
        return took

    return update
