"""The books in a real Hugging Face Trainer, around a transformer built from a configuration."""

import copy

import pytest
import torch
from torch import nn

from headwise.training.callbacks import huggingface_callback
from tests.training.loops import EVERY, KEYS, MICRO_BATCHES, TERMS, board, make_criterion

pytest.importorskip("transformers", reason="pip install transformers (dependency group loops)")
pytest.importorskip("accelerate", reason="pip install accelerate (dependency group loops), which the Trainer needs")
pytestmark = pytest.mark.filterwarnings("ignore:.*pin_memory:UserWarning")  # the Trainer pins without a GPU too


def make_model():
    """A tiny BERT with two numbers as its output; its forward returns the criterion's total as the loss."""
    from transformers import BertConfig, BertModel

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            config = BertConfig(vocab_size=20, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
                                intermediate_size=16, max_position_embeddings=8)  # fmt: skip
            self.body, self.head, self.criterion = BertModel(config), nn.Linear(16, 2), make_criterion()

        def forward(self, x, height, slope):
            outputs = {"y": self.head(self.body(input_ids=x).pooler_output)}
            return {"loss": self.criterion(outputs, {"x": x, "height": height, "slope": slope}).total}

    torch.manual_seed(1)
    return Model()


def samples():
    draw = torch.Generator().manual_seed(2)
    return [
        {
            "x": torch.randint(20, (6,), generator=draw),
            "height": torch.randn(1, generator=draw),
            "slope": torch.randn(1, generator=draw),
        }
        for _ in range(28)
    ]


def train(folder, model, callback=None, **options):
    from transformers import Trainer, TrainingArguments

    options = {"logging_steps": EVERY, "report_to": ["tensorboard"], **options}
    arguments = TrainingArguments(
        output_dir=str(folder), num_train_epochs=1, per_device_train_batch_size=4, use_cpu=True, save_strategy="no",
        gradient_accumulation_steps=MICRO_BATCHES, disable_tqdm=True, seed=0, **options,
    )  # fmt: skip
    trainer = Trainer(model, arguments, train_dataset=samples(), callbacks=[callback] if callback else [])
    trainer.train()
    return trainer


def test_training_is_equal_to_the_bit_with_and_without(tmp_path):
    model, plain = make_model(), make_model()
    assert model.body.config.hidden_dropout_prob > 0
    callback = huggingface_callback(model.criterion)
    train(tmp_path / "with", model, callback)
    train(tmp_path / "without", plain)
    for one, other in zip(model.parameters(), plain.parameters(), strict=True):
        assert torch.equal(one, other)
    assert [books.step for books in callback.history] == [2, 4]
    assert model.criterion.recorder is None


def test_keys_and_numbers_are_in_the_event_file_and_the_history(tmp_path):
    model = make_model()
    callback = huggingface_callback(model.criterion)
    trainer = train(tmp_path, model, callback)
    logged = board(tmp_path)
    assert {key for key in logged if "headwise" in key} == KEYS
    assert "train/loss" in logged
    for term in TERMS:
        told = [(books.step, pytest.approx(books[term].share)) for books in callback.history]
        assert logged[f"headwise/{term}/share"] == told
    entries = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert [entry["headwise/total"] for entry in entries] == [books.total for books in callback.history]


def test_micro_batches_are_counted_also_in_a_short_last_step(tmp_path):
    model = make_model().eval()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    model.body.config.attention_probs_dropout_prob = 0.0
    calls = []
    model.criterion.register_forward_hook(
        lambda _, arguments, breakdown: calls.append((copy.deepcopy({k: v.detach() for k, v in arguments[0].items()}),
                                                      arguments[1]))
    )  # fmt: skip
    callback = huggingface_callback(model.criterion)
    train(tmp_path, model, callback, logging_steps=1, report_to=[])
    assert len(calls) == 7
    for books, numbers in zip(callback.history, ((0, 1), (2, 3), (4, 5), (6,)), strict=True):
        values, squares = dict.fromkeys(TERMS, 0.0), dict.fromkeys(TERMS, 0.0)
        for outputs, targets in (calls[number] for number in numbers):
            y = outputs["y"].clone().requires_grad_()
            for name, entry in make_criterion()({"y": y}, targets).items():
                (gradient,) = torch.autograd.grad(entry.weighted / len(numbers), y, retain_graph=True)
                values[name] += float(entry.value.detach()) / len(numbers)
                squares[name] += float(gradient.double().square().sum())
        for name in TERMS:
            assert books[name].value == pytest.approx(values[name], rel=1e-5)
            assert books[name].grad_norm == pytest.approx(squares[name] ** 0.5, rel=1e-5)


def test_an_evaluation_logs_no_books(tmp_path):
    model = make_model()
    callback = huggingface_callback(model.criterion)
    trainer = train(tmp_path, model, callback, report_to=[])
    trainer.evaluate(samples()[:4])
    assert len(callback.history) == 2


def test_keys_are_as_they_are_in_mlflow(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow", reason="pip install mlflow-skinny")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    model = make_model()
    callback = huggingface_callback(model.criterion)
    train(tmp_path, model, callback, report_to=["mlflow"])
    (run,) = mlflow.search_runs(output_format="list")
    assert {key for key in run.data.metrics if "headwise" in key} == KEYS
    told = mlflow.MlflowClient().get_metric_history(run.info.run_id, "headwise/slope/share")
    assert [(entry.step, entry.value) for entry in told] == [(b.step, b["slope"].share) for b in callback.history]


def test_keys_are_as_they_are_in_wandb(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb", reason="pip install wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    model = make_model()
    callback = huggingface_callback(model.criterion)
    train(tmp_path, model, callback, report_to=["wandb"])
    try:
        summary = dict(wandb.run.summary)
    finally:
        wandb.finish()
        wandb.teardown()  # ends its background process
    assert {key for key in summary if "headwise" in key} == KEYS
    assert summary["headwise/slope/share"] == pytest.approx(callback.history[-1]["slope"].share)


def test_a_log_of_the_users_own_in_the_middle_of_a_step_is_passed_over(tmp_path):
    from transformers import Trainer, TrainingArguments

    class Talkative(Trainer):
        def compute_loss(self, *arguments, **named):
            self.log({"loss": 1.0})
            return super().compute_loss(*arguments, **named)

    model = make_model()
    callback = huggingface_callback(model.criterion)
    arguments = TrainingArguments(output_dir=str(tmp_path), max_steps=2, logging_steps=1, use_cpu=True,
                                  report_to=[], save_strategy="no", disable_tqdm=True)  # fmt: skip
    Talkative(model, arguments, train_dataset=samples(), callbacks=[callback]).train()
    assert [books.step for books in callback.history] == [1, 2]
