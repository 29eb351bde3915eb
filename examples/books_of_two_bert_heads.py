"""The books of a Hugging Face model with two heads: BERT's masked words and next sentences, random weights.

Run it with ``python examples/books_of_two_bert_heads.py``; it needs transformers and downloads nothing. The lines
marked ``headwise`` are all that was changed; ``examples/before`` has the script as it was.
"""

import torch
import torch.nn.functional as F  # headwise
from torch import Tensor
from transformers import BertConfig, BertForPreTraining

import headwise as hw  # headwise

MASK = 0


def heads(outputs: dict[str, Tensor], batch: dict[str, Tensor]) -> dict[str, Tensor]:  # headwise
    words = F.cross_entropy(outputs["prediction_logits"].flatten(0, 1), batch["labels"].flatten())  # headwise
    order = F.cross_entropy(outputs["seq_relationship_logits"], batch["next_sentence_label"])  # headwise
    return {"words": words, "order": order}  # headwise


def batch(step: int) -> dict[str, Tensor]:
    """Two sentences of eight words; the second goes on where the first ends, or does not. A few words are masked."""
    draw = torch.Generator().manual_seed(step)
    words = (torch.randint(1, 40, (8, 1), generator=draw) + torch.arange(16)) % 49 + 1
    apart = torch.rand(8, generator=draw) > 0.5
    words[:, 8:] = torch.where(apart[:, None], (words[:, 8:] + 20) % 49 + 1, words[:, 8:])
    masked = torch.rand(8, 16, generator=draw) > 0.8
    return {
        "input_ids": words.masked_fill(masked, MASK),
        "token_type_ids": (torch.arange(16) >= 8).long().expand(8, 16),
        "labels": words.masked_fill(~masked, -100),
        "next_sentence_label": apart.long(),
    }


def main(steps: int = 3) -> None:
    """Train a little."""
    torch.manual_seed(0)
    config = BertConfig(vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64)
    model = BertForPreTraining(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    criterion = hw.attribution.wrap(heads)  # headwise
    for step in range(steps):
        inputs = batch(step)
        loss = sum(criterion(model(**inputs), inputs).values())  # headwise
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        print(f"step {step}: loss {loss:.4f}")
    print(criterion.ledger.read())  # headwise


if __name__ == "__main__":
    main()
