"""Hugging Face's Trainer on a small Mixtral, whose loss holds that of its routers; run it with ``headwise run``."""

import torch
from torch import Tensor
from transformers import MixtralConfig, MixtralForCausalLM, Trainer, TrainingArguments


def sentence(number: int) -> dict[str, Tensor]:
    """Words that count up."""
    words = (number + torch.arange(12)) % 49
    return {"input_ids": words, "labels": words}


def main(folder: str = "trainer") -> None:
    """Train a little."""
    torch.manual_seed(0)
    config = MixtralConfig(
        vocab_size=49, hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, num_local_experts=4, output_router_logits=True, router_aux_loss_coef=0.02,
    )  # fmt: skip
    arguments = TrainingArguments(
        folder, max_steps=3, per_device_train_batch_size=4, gradient_accumulation_steps=2, report_to=[],
        save_strategy="no", use_cpu=True, disable_tqdm=True,
    )  # fmt: skip
    Trainer(MixtralForCausalLM(config), arguments, train_dataset=[sentence(i) for i in range(32)]).train()


if __name__ == "__main__":
    main()
