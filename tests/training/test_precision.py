"""Under mixed precision the forward pass is bf16; the weights, Z, U and the gradients stay fp32."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import BertConfig, BertForSequenceClassification, TrainingArguments

from nxm_sweep.sparsity import Pattern, encoder_rules, select_targets
from nxm_sweep.training.methods import AdmmSwitches, Nxm
from nxm_sweep.training.trainer import SparseTrainer

ROWS = [{"input_ids": torch.arange(1, 9) + row, "labels": row % 2} for row in range(8)]


class _Watched(Nxm):
    """Notes the types of what the optimizer is about to use."""

    seen: set[torch.dtype]

    def after_clip_(self, *, scale: float = 1.0) -> None:
        super().after_clip_(scale=scale)
        self.seen |= {target.weight.grad.dtype for target in self.targets if target.weight.grad is not None}


def _collate(rows: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {
        "input_ids": torch.stack([row["input_ids"] for row in rows]),
        "labels": torch.tensor([row["labels"] for row in rows]),
    }


def test_bf16_autocast_leaves_weights_z_u_and_gradients_in_fp32(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = BertForSequenceClassification(
        BertConfig(vocab_size=32, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    )
    computed: set[torch.dtype] = set()
    linear = next(module for name, module in model.named_modules() if isinstance(module, nn.Linear) and "query" in name)
    linear.register_forward_hook(lambda _module, _inputs, output: computed.add(output.dtype))
    method = _Watched(
        select_targets(model, encoder_rules(Pattern(2, 4))), 1e-2, AdmmSwitches(interval=1, interval_unit="step")
    )
    method.seen = set()
    arguments = TrainingArguments(
        output_dir=str(tmp_path),
        per_device_train_batch_size=4,
        num_train_epochs=2,
        bf16=True,
        use_cpu=True,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
    )
    SparseTrainer(model=model, args=arguments, train_dataset=ROWS, data_collator=_collate, sparse_method=method).train()
    assert computed == {torch.bfloat16}  # autocast was on
    assert len(method.iterations) == 4
    held = [
        *(target.weight for target in method.targets),
        *method.admm.z.values(),
        *method.admm.u.values(),
        *(weight for weight in model.parameters()),
    ]
    assert {tensor.dtype for tensor in held} | method.seen == {torch.float32}
