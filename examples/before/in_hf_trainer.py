"""Hugging Face's Trainer on a small BERT of two heads, which returns one loss; run it with ``headwise run``."""

import torch
from torch import Tensor
from transformers import BertConfig, BertForPreTraining, Trainer, TrainingArguments


def sentences(number: int) -> list[dict[str, Tensor]]:
    """Words that go on in the second sentence, or do not; a few are masked."""
    draw = torch.Generator().manual_seed(1)
    found = []
    for index in range(number):
        words = (torch.randint(1, 40, (), generator=draw) + torch.arange(12)) % 49 + 1
        apart = index % 2
        words[6:] = (words[6:] + 20 * apart) % 49 + 1
        masked = torch.rand(12, generator=draw) > 0.7
        found.append({
            "input_ids": words.masked_fill(masked, 0),
            "labels": words.masked_fill(~masked, -100),
            "next_sentence_label": torch.tensor(apart),
        })  # fmt: skip
    return found


def main() -> None:
    """Train a little."""
    torch.manual_seed(0)
    config = BertConfig(vocab_size=51, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64)
    model = BertForPreTraining(config)
    arguments = TrainingArguments(
        "trainer", max_steps=4, per_device_train_batch_size=8, gradient_accumulation_steps=2, learning_rate=1e-3,
        report_to=[], save_strategy="no", use_cpu=True, disable_tqdm=True, seed=0,
    )  # fmt: skip
    Trainer(model, arguments, train_dataset=sentences(64)).train()
    torch.save(model.state_dict(), "weights.pt")


if __name__ == "__main__":
    main()
