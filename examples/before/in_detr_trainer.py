"""Hugging Face's Trainer on a small DETR, which returns its loss and a `loss_dict`; run it with ``headwise run``."""

from typing import Any

import torch
from transformers import DetrConfig, DetrForObjectDetection, ResNetConfig, Trainer, TrainingArguments


def picture(number: int) -> dict[str, Any]:
    """Noise with two boxes in it."""
    draw = torch.Generator().manual_seed(number)
    boxes = 0.2 + 0.4 * torch.rand(2, 4, generator=draw)
    labels = {"class_labels": torch.randint(3, (2,), generator=draw), "boxes": boxes}
    return {"pixel_values": torch.randn(3, 64, 64, generator=draw), "labels": labels}


def together(pictures: list[dict[str, Any]]) -> dict[str, Any]:
    """A batch."""
    return {
        "pixel_values": torch.stack([each["pixel_values"] for each in pictures]),
        "labels": [each["labels"] for each in pictures],
    }


def main(folder: str = "trainer") -> None:
    """Train a little."""
    torch.manual_seed(0)
    backbone = ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", out_features=["stage2"]
    )
    config = DetrConfig(
        use_timm_backbone=False, backbone_config=backbone, num_queries=5, num_labels=3, d_model=16, encoder_layers=1,
        decoder_layers=2, encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16,
        auxiliary_loss=True,
    )  # fmt: skip
    arguments = TrainingArguments(
        folder, max_steps=3, per_device_train_batch_size=2, gradient_accumulation_steps=2, report_to=[],
        save_strategy="no", use_cpu=True, disable_tqdm=True, remove_unused_columns=False,
    )  # fmt: skip
    model = DetrForObjectDetection(config)
    Trainer(model, arguments, train_dataset=[picture(i) for i in range(12)], data_collator=together).train()


if __name__ == "__main__":
    main()
