"""The books in a Hugging Face Trainer: a small BERT from its configuration, with two heads and two losses.

Run it with ``python examples/books_in_transformers.py [FOLDER]``; it needs transformers, accelerate and tensorboard.
"""

import sys

import torch
from torch import Tensor, nn
from transformers import BertConfig, BertModel, Trainer, TrainingArguments

import headwise as hw
from headwise.losses import cross_entropy, squared_error
from headwise.training.callbacks import huggingface_callback


class TwoHeads(nn.Module):
    """Tells of a sequence its topic and its length; returns the loss as the Trainer wants it."""

    def __init__(self) -> None:
        super().__init__()
        config = BertConfig(vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
                            intermediate_size=64, max_position_embeddings=16)  # fmt: skip
        self.body, self.topic, self.length = BertModel(config), nn.Linear(32, 3), nn.Linear(32, 1)
        self.criterion = hw.Criterion(
            [
                hw.Term("topic", cross_entropy, output="topic", target="topic"),
                hw.Term("length", squared_error, output="length", target="length", weight=0.1),
            ]
        )

    def forward(self, input_ids: Tensor, topic: Tensor, length: Tensor) -> dict[str, Tensor]:
        summary = self.body(input_ids=input_ids).pooler_output
        outputs = {"topic": self.topic(summary), "length": self.length(summary).squeeze(1)}
        return {"loss": self.criterion(outputs, {"topic": topic, "length": length}).total}


def sample(number: int) -> dict[str, Tensor]:
    """A sequence whose first word tells its topic."""
    draw = torch.Generator().manual_seed(number)
    words = torch.randint(50, (16,), generator=draw)
    return {"input_ids": words, "topic": words[0] % 3, "length": (words > 10).float().mean()}


def main(folder: str = "books-in-transformers") -> None:
    """Train, and print the last books."""
    model = TwoHeads()
    books = huggingface_callback(model.criterion)
    arguments = TrainingArguments(
        folder, num_train_epochs=2, per_device_train_batch_size=8, gradient_accumulation_steps=2, logging_steps=4,
        use_cpu=True, save_strategy="no", report_to=["tensorboard"], disable_tqdm=True,
    )  # fmt: skip
    Trainer(model, arguments, train_dataset=[sample(i) for i in range(128)], callbacks=[books]).train()
    print(books.history[-1])


if __name__ == "__main__":
    main(*sys.argv[1:2])
