"""The pages on other libraries, run where these are installed: the books are the norms of independent gradients."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import headwise as hw
from tests.docs.test_documentation import blocks_of

DOCS = Path(__file__).parents[2] / "docs"
# What a page's names give once more: weighted losses by name, and the outputs that they read.
Once = Callable[[dict[str, Any]], tuple[dict[str, Tensor], list[Tensor]]]


def segmentation_models(page: dict[str, Any]) -> tuple[dict[str, Tensor], list[Tensor]]:
    outputs = [each.detach().requires_grad_() for each in page["model"](page["image"])]
    with_books = page["criterion"](outputs, page["targets"])
    sum(with_books.values(), torch.zeros(())).backward()
    plain = [each.detach().requires_grad_() for each in outputs]
    return page["losses"](plain, page["targets"]), plain


def monai(page: dict[str, Any]) -> tuple[dict[str, Tensor], list[Tensor]]:
    levels = [each.detach().requires_grad_() for each in page["model"](page["volume"]).unbind(1)]
    label = (page["volume"][:, 0] > 1).long()
    page["criterion"]({"levels": levels}, {"label": label}).total.backward()
    plain = [each.detach().requires_grad_() for each in levels]
    fine, coarse = (F.cross_entropy(each, label) for each in plain)
    return {"levels": (fine + 0.5 * coarse) / 1.5}, plain


def keras(page: dict[str, Any]) -> tuple[dict[str, Tensor], list[Tensor]]:
    targets = page["targets"]
    outputs = {name: each.detach().requires_grad_() for name, each in page["model"](page["images"]).items()}
    page["criterion"](outputs, targets).total.backward()
    label, size = plain = [outputs[name].detach().requires_grad_() for name in ("label", "size")]
    return {"label": F.cross_entropy(label, targets["label"]), "size": 0.2 * F.l1_loss(size, targets["size"])}, plain


def deepspeed(page: dict[str, Any]) -> tuple[dict[str, Tensor], list[Tensor]]:
    """Two micro-batches through the engine; what arrived at its outputs is each half of the mean."""
    wanted, plain = {"label": torch.zeros(()), "box": torch.zeros(())}, list[Tensor]()
    for _ in range(2):
        x, label = torch.randn(4, 8), torch.arange(4) % 3
        outputs = page["engine"](x)
        page["engine"].backward(page["criterion"](outputs, {"label": label, "box": x[:, :4]}).total)
        page["engine"].step()
        copies = {name: each.detach().requires_grad_() for name, each in outputs.items()}
        wanted["label"] = wanted["label"] + F.cross_entropy(copies["label"], label) / 2
        wanted["box"] = wanted["box"] + 0.5 * F.l1_loss(copies["box"], x[:, :4]) / 2
        plain += copies.values()
    return wanted, plain


def torchtitan(page: dict[str, Any]) -> tuple[dict[str, Tensor], list[Tensor]]:
    """The trainer's own step with the page's `loss_fn`, twice; without the z-loss it is torchtitan's own loss."""
    from torchtitan.components.loss import CrossEntropyLoss
    from torchtitan.trainer import Trainer

    model, batches, tokens = page["model"], page["micro_batches"], page["tokens"]
    trainer = SimpleNamespace(train_context=nullcontext, model_parts=[model], loss_fn=page["loss_fn"])
    heads: list[Tensor] = []
    handle = model.register_forward_hook(lambda module, inputs, output: heads.append(output.detach().requires_grad_()))
    for inputs, labels in batches:
        Trainer._forward_backward_body(trainer, inputs, labels, tokens, {})
    handle.remove()
    theirs = CrossEntropyLoss(CrossEntropyLoss.Config())
    wanted = {"tokens": torch.zeros(()), "z": torch.zeros(())}
    for logits, (_, labels) in zip(heads, batches, strict=True):
        valid = labels != page["IGNORE_INDEX"]
        wanted["tokens"] = wanted["tokens"] + theirs(logits, labels, tokens)[0]
        wanted["z"] = wanted["z"] + 1e-3 * (logits.logsumexp(-1).square() * valid).sum() / tokens
    return wanted, heads


CASES: dict[str, tuple[str, Once]] = {
    "segmentation-models": ("segmentation_models_pytorch", segmentation_models),
    "monai": ("monai", monai),
    "keras": ("keras", keras),
    "deepspeed": ("deepspeed", deepspeed),
    "torchtitan": ("torchtitan", torchtitan),
}


@pytest.fixture(autouse=True)
def own_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A page sets the seed, and joins the process group, of its reader's process, not of the other tests'."""
    monkeypatch.setattr(os, "environ", os.environ.copy())
    with torch.random.fork_rng():
        yield
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


@pytest.mark.filterwarnings("ignore")  # of the libraries
@pytest.mark.parametrize("name", CASES)
def test_page_runs_and_its_books_are_right(name, capsys, monkeypatch):
    library, once = CASES[name]
    monkeypatch.setenv("KERAS_BACKEND", "torch")  # it is asked for at the import
    pytest.importorskip(library, reason=f"{library} is not installed (`make frameworks`)", exc_type=ImportError)
    page: dict[str, Any] = {"__name__": "page"}
    text = (DOCS / f"{name}.md").read_text(encoding="utf-8")
    for block in blocks_of(text):
        exec(compile(block.code, f"{name}.md", "exec"), page)
    printed = capsys.readouterr().out
    rows = [line.split()[0] for line in printed.splitlines() if line.strip()]
    told = [line.split()[0] for line in blocks_of(text)[0].printed.splitlines() if line.strip()]  # type: ignore[union-attr]
    assert rows[-len(told) :] == told  # a library may print before it
    ledger: hw.Ledger = page["ledger"] if "ledger" in page else page["criterion"].ledger
    wanted, outputs = once(page)
    books = ledger.read()
    assert books.balanced
    assert set(books) == set(wanted)
    for term, loss in wanted.items():
        found = torch.autograd.grad(loss, outputs, retain_graph=True, allow_unused=True)
        norm = torch.cat([each.flatten() for each in found if each is not None]).double().norm().item()
        assert books[term].grad_norm == pytest.approx(norm, rel=1e-6)
        assert books[term].weighted == pytest.approx(loss.item(), rel=1e-6)
