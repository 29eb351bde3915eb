"""Training code of other libraries, not a line changed: the books of ``headwise run`` beside independent gradients."""

from __future__ import annotations

import runpy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.autograd.graph import get_gradient_edge

import headwise as hw
from tests.frameworks.independent import Listener, assert_same, books_of

BEFORE = Path(__file__).parents[2] / "examples" / "before"

pytestmark = pytest.mark.filterwarnings("ignore")  # of the libraries


def needs(*libraries: str) -> None:
    for library in libraries:
        pytest.importorskip(library, reason=f"{library} is not installed (`make frameworks`)", exc_type=ImportError)


def main_of(name: str, folder: Path) -> Any:
    main = runpy.run_path(str(BEFORE / f"{name}.py"))["main"]
    return lambda: main(str(folder))


def test_detr_in_hugging_faces_trainer(tmp_path, monkeypatch):
    needs("transformers", "accelerate", "scipy")
    from transformers.loss import loss_for_object_detection as library

    listener = Listener("DetrForObjectDetection", ("class_labels_classifier", "bbox_predictor.layers.2"))
    monkeypatch.setattr(library.ImageLoss, "forward", _heard(listener, library.ImageLoss.forward))
    found = books_of(main_of("in_detr_trainer", tmp_path), listener, 4)
    assert len(found) == 4
    for books, sent in found:
        assert sorted(books) == ["loss_bbox", "loss_ce", "loss_giou"]  # both layers of the decoder together
        assert_same(books, sent, {"loss_ce": 1 / 2, "loss_bbox": 5 / 2, "loss_giou": 2 / 2})


def _heard(listener: Listener, forward: Any) -> Any:
    def heard(self: Any, *arguments: Any) -> Any:
        returned = forward(self, *arguments)
        for name in ("loss_ce", "loss_bbox", "loss_giou"):
            listener.hears(name, returned[name] + returned[f"{name}_0"])
        return returned

    return heard


def test_experts_in_hugging_faces_trainer(tmp_path, monkeypatch):
    needs("transformers", "accelerate")
    from transformers.models.mixtral import modeling_mixtral as library

    listener = Listener()
    monkeypatch.setattr(
        library, "load_balancing_loss_func", listener.apart(library.load_balancing_loss_func, "aux_loss")
    )
    loss_function: Any = library.MixtralForCausalLM.loss_function
    monkeypatch.setattr(
        library.MixtralForCausalLM,
        "loss_function",
        property(lambda self: listener.apart(loss_function.fget(self), "loss")),
    )
    found = books_of(main_of("in_experts_trainer", tmp_path), listener, 4)
    assert len(found) == 4
    for books, sent in found:
        assert list(books) == ["aux_loss", "cross_entropy(lm_head)"]
        assert list(books["aux_loss"].outputs) == ["model.layers.0.mlp.gate", "model.layers.1.mlp.gate"]
        # Divided by the tokens of both micro-batches, the router's loss by nothing: twice its part where they are two.
        assert_same(books, sent, {"loss": 1, "aux_loss": 0.02})


def test_two_bert_heads_in_hugging_faces_trainer(tmp_path, monkeypatch):
    needs("transformers", "accelerate")
    from transformers.models.bert import modeling_bert as library

    listener = Listener()
    monkeypatch.chdir(tmp_path)

    class Heard(library.CrossEntropyLoss):  # type: ignore[misc, name-defined]
        def __call__(self, *arguments: Any) -> Any:
            return listener.apart(super().__call__, "loss")(*arguments)

    monkeypatch.setattr(library, "CrossEntropyLoss", Heard)
    main = runpy.run_path(str(BEFORE / "in_hf_trainer.py"))["main"]
    found = books_of(main, listener, 4)
    assert len(found) == 4
    for books, sent in found:
        assert list(books) == ["masked_lm_loss", "next_sentence_loss"]
        # The Trainer leaves the division by accumulation to models that take keywords, and this one does not divide.
        assert_same(books, sent, {"loss": 1})


def test_trls_preference_losses(tmp_path, monkeypatch):
    needs("trl", "accelerate")
    from transformers.models.mixtral import modeling_mixtral
    from trl.trainer import dpo_trainer as library

    listener = Listener()
    signs: list[Any] = []
    read: list[Any] = []
    routed: list[Any] = []
    balance = _kept(listener.apart(modeling_mixtral.load_balancing_loss_func, "aux"), routed)
    monkeypatch.setattr(modeling_mixtral, "load_balancing_loss_func", balance)
    monkeypatch.setattr(library, "F", SimpleNamespace(**{**vars(F), "logsigmoid": _kept(F.logsigmoid, signs)}))
    computed = library.DPOTrainer._compute_loss

    def heard(self: Any, model: Any, inputs: Any, return_outputs: bool) -> Any:
        signs.clear()
        handle = model.register_forward_hook(lambda *call: read.append(get_gradient_edge(call[-1].log_probs)))
        returned = computed(self, model, inputs, return_outputs)
        total = returned[0] if return_outputs else returned
        handle.remove()
        listener.outputs = [read[-1]]
        told = inputs["completion_mask"][:, 1:]  # the head is applied there alone; elsewhere a zero was filled in
        preference, chosen, rejected = signs
        listener.hears("preference", -preference.mean(), told)
        listener.hears("binary", -(chosen + rejected).mean(), told)
        rest = 0.8 * preference.mean() + 0.2 * (chosen + rejected).mean() - 0.02 * routed[-1]
        listener.hears("tokens", total + rest, told)
        return returned

    monkeypatch.setattr(library.DPOTrainer, "_compute_loss", heard)
    found = books_of(main_of("in_trl", tmp_path), listener, 4)
    assert len(found) == 4
    for books, sent in found:
        assert "batch_loss" in books
        assert_same(books, sent, {"preference": 0.4, "binary": 0.1, "tokens": 0.5, "aux": 0.01})


def _kept(function: Any, into: list[Any]) -> Any:
    def kept(*arguments: Any, **named: Any) -> Any:
        into.append(function(*arguments, **named))
        return into[-1]

    return kept


def test_ultralytics_trainer(tmp_path, monkeypatch):
    monkeypatch.setenv("YOLO_CONFIG_DIR", str(tmp_path))
    monkeypatch.setenv("YOLO_OFFLINE", "true")
    needs("ultralytics")
    from ultralytics.utils import SETTINGS
    from ultralytics.utils import loss as library

    monkeypatch.setitem(SETTINGS, "mlflow", False)
    monkeypatch.chdir(tmp_path)
    listener = Listener("DetectionModel", tuple(f".cv{kind}.{level}.2" for kind in (2, 3) for level in range(3)))
    computed = library.v8DetectionLoss.__call__

    def heard(self: Any, preds: Any, batch: Any) -> Any:
        losses, items = computed(self, preds, batch)
        for name, loss in zip(("box", "cls", "dfl"), losses, strict=True):
            listener.hears(name, loss)
        return losses, items

    monkeypatch.setattr(library.v8DetectionLoss, "__call__", heard)
    found = books_of(main_of("in_ultralytics", tmp_path), listener, 3)
    assert len(found) == 3
    for books, sent in found:
        assert set(books) == {"loss_iou", "loss[1]", "loss_dfl"}
        assert [books[name].weight for name in ("loss_iou", "loss[1]", "loss_dfl")] == pytest.approx([30, 2, 6])
        assert_same(books, sent, {"box": 1, "cls": 1, "dfl": 1})


PLANS = {
    "continue_training": False,
    "dataset_name": "Dataset001_Squares", "plans_name": "nnUNetPlans", "image_reader_writer": "NaturalImage2DIO",
    "transpose_forward": [0, 1, 2], "transpose_backward": [0, 1, 2], "label_manager": "LabelManager",
    "experiment_planner_used": "ExperimentPlanner", "foreground_intensity_properties_per_channel": {},
    "configurations": {
        "2d": {
            "data_identifier": "nnUNetPlans_2d", "preprocessor_name": "DefaultPreprocessor", "batch_size": 2,
            "patch_size": [32, 32], "median_image_size_in_voxels": [32.0, 32.0], "spacing": [1.0, 1.0],
            "normalization_schemes": ["ZScoreNormalization"], "use_mask_for_norm": [False], "batch_dice": True,
            "architecture": {
                "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
                "arch_kwargs": {
                    "n_stages": 4, "features_per_stage": [4, 8, 8, 8], "conv_op": "torch.nn.modules.conv.Conv2d",
                    "kernel_sizes": [[3, 3]] * 4, "strides": [[1, 1], [2, 2], [2, 2], [2, 2]],
                    "n_conv_per_stage": [1] * 4, "n_conv_per_stage_decoder": [1] * 3, "conv_bias": True,
                    "norm_op": "torch.nn.modules.instancenorm.InstanceNorm2d", "norm_op_kwargs": {"affine": True},
                    "dropout_op": None, "dropout_op_kwargs": None, "nonlin": "torch.nn.LeakyReLU",
                    "nonlin_kwargs": {"inplace": True},
                },
                "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
            },
        }
    },
}  # fmt: skip
DATA = {
    "channel_names": {"0": "gray"}, "labels": {"background": 0, "one": 1, "two": 2},
    "numTraining": 2, "file_ending": ".png",
}  # fmt: skip


def test_nnunets_trainer(tmp_path, monkeypatch):
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setenv("nnUNet_compile", "f")
    needs("nnunetv2")
    from nnunetv2.training.loss import compound_losses as library
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    listener = Listener()
    for part in (library.MemoryEfficientSoftDiceLoss, library.RobustCrossEntropyLoss):
        monkeypatch.setattr(part, "forward", _apart_of(listener, part.forward))
    folder = tmp_path / "Dataset001_Squares" / "nnUNetPlans_2d"
    folder.mkdir(parents=True)
    (folder / "one.b2nd").touch()  # tells in which format the pictures are; none is read
    torch.manual_seed(0)
    trainer = nnUNetTrainer({**PLANS}, "2d", 0, DATA, device=torch.device("cpu"))
    trainer.initialize()
    picture, label = torch.randn(2, 1, 32, 32), torch.randint(3, (2, 1, 32, 32)).float()
    batch = {"data": picture, "target": [label, label[..., ::2, ::2], label[..., ::4, ::4]]}
    found = books_of(lambda: [trainer.train_step(batch) for _ in range(2)], listener, 2)
    assert len(found) == 2
    for books, sent in found:
        assert len(books) == 4  # two levels, each a Dice loss and a cross entropy; the lowest output has the weight 0
        for number, each in enumerate(sent):
            each.name = "finest" if number < 2 else "next"
        assert_same(books, sent, {"finest": 2 / 3, "next": 1 / 3})


def _apart_of(listener: Listener, forward: Any) -> Any:
    def heard(self: Any, *arguments: Any, **named: Any) -> Any:
        return listener.apart(lambda *each, **other: forward(self, *each, **other), "loss")(*arguments, **named)

    return heard


def test_a_loop_in_the_manner_of_torchtune():
    """Each loss times its tokens, all gradients over their sum: with one criterion the same without scaling them."""
    torch.manual_seed(0)
    criterion = hw.Criterion([hw.Term("tokens", hw.losses.token_cross_entropy, output="logits", target="labels")])
    inputs = [torch.randn(2, 6, 5, requires_grad=True) for _ in range(3)]
    labels = [torch.randint(5, (2, 6)).masked_fill(torch.rand(2, 6) > share, -100) for share in (0.9, 0.5, 0.2)]
    tokens = [int((each != -100).sum()) for each in labels]

    def tune() -> None:
        for logits, label, count in zip(inputs, labels, tokens, strict=True):
            current_loss = F.cross_entropy(logits.flatten(0, 1), label.flatten(), ignore_index=-100) * count
            current_loss.backward()

    rows = [books for books, _ in books_of(tune, Listener(), 3)]
    assert [books.total for books in rows] == pytest.approx(
        [
            F.cross_entropy(x.flatten(0, 1), y.flatten()).item() * n
            for x, y, n in zip(inputs, labels, tokens, strict=True)
        ]
    )
    theirs = [each.grad / sum(tokens) for each in inputs if each.grad is not None]  # scale_grads
    for each in inputs:
        each.grad = None
    count = hw.pool_denominators(criterion, [{"labels": each} for each in labels])
    with hw.Ledger(criterion, micro_batches=3) as ledger:
        for logits, label in zip(inputs, labels, strict=True):
            criterion({"logits": logits}, {"labels": label}, count).total.backward()
        books = ledger.read()
    for each, wanted in zip(inputs, theirs, strict=True):
        assert each.grad is not None
        torch.testing.assert_close(each.grad, wanted)
    assert books["tokens"].grad_norm == pytest.approx(torch.stack(theirs).norm().item(), rel=1e-6)
