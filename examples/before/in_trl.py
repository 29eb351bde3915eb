"""TRL's DPOTrainer on a small Mixtral, with three losses and that of the routers; run it with ``headwise run``."""

import copy

import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import MixtralConfig, MixtralForCausalLM, PreTrainedTokenizerFast
from trl import DPOConfig, DPOTrainer

WORDS = ["<pad>", "<unk>", "<eos>", "what", "is", "plus"]
WORDS += ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
PAIRS = [
    {"prompt": "what is two plus three", "chosen": " five", "rejected": " nine"},
    {"prompt": "what is four plus four", "chosen": " eight", "rejected": " one two"},
]


def words() -> PreTrainedTokenizerFast:
    """A tokenizer that needs no download."""
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", unk_token="<unk>", eos_token="<eos>")


def main(folder: str = "trl") -> None:
    """Train a little."""
    torch.manual_seed(0)
    config = MixtralConfig(
        vocab_size=len(WORDS), hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, num_local_experts=4, pad_token_id=0, bos_token_id=2, eos_token_id=2,
    )  # fmt: skip
    model = MixtralForCausalLM(config)
    arguments = DPOConfig(
        folder, max_steps=3, per_device_train_batch_size=4, gradient_accumulation_steps=2,
        loss_type=["sigmoid", "bco_pair", "sft"], loss_weights=[0.8, 0.2, 1.0], router_aux_loss_coef=0.02,
        report_to=[], save_strategy="no", use_cpu=True, bf16=False, gradient_checkpointing=False, disable_tqdm=True,
    )  # fmt: skip
    DPOTrainer(
        model, copy.deepcopy(model), arguments, train_dataset=Dataset.from_list(PAIRS * 8), processing_class=words()
    ).train()


if __name__ == "__main__":
    main()
