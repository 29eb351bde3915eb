"""The books of a model that returns its losses, against one `autograd.grad` per loss."""

from __future__ import annotations

import copy
import math
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from headwise.attribution import watch
from headwise.training.callbacks.keeper import Keeper


class Detector(nn.Module):
    """Returns losses while it trains, as torchvision's detectors do; overwrites one output, uses one head twice."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.trunk, self.body = nn.Linear(3, 8), nn.ModuleDict({"box": nn.Linear(8, 4), "score": nn.Linear(8, 2)})
        self.seen: dict[str, Tensor] = {}

    def forward(self, x: Tensor) -> dict[str, Tensor] | Tensor:
        features = self.trunk(x).tanh()
        box: Tensor
        box, first, second = self.body["box"](features), self.body["score"](features), self.body["score"](-features)
        self.seen = {"box": box.detach().clone(), "first": first.detach(), "second": second.detach()}
        if not self.training:
            return box
        box.mul_(3)
        return {
            "box": box.square().sum(),
            "score": first.square().mean() + second.abs().sum(),
            "decay": self.trunk.weight.square().sum() * 0.0 + (first * 0.5).sum(),
        }


def test_books_are_those_of_one_gradient_per_loss():
    model, x = Detector(), torch.randn(5, 3)
    watched = watch(model, ["body.box", "body.score"])
    losses = model(x)
    (losses["box"] + 0.5 * losses["score"] + losses["decay"]).backward()
    books, seen = watched.ledger.read(), model.seen
    assert books.names == ("box", "score", "decay")
    # d(sum of (3 b)^2)/db = 18 b; d mean(f^2)/df = f / 5 for 10 elements; d sum|s|/ds = sign(s).
    assert books["box"].grad_norm == pytest.approx(18 * float(seen["box"].norm()))
    assert list(books["box"].outputs) == ["body.box"]
    assert books["score"].weight == pytest.approx(0.5)
    outputs = books["score"].outputs
    assert outputs["body.score[0]"].grad_norm == pytest.approx(0.5 * float((seen["first"] / 5).norm()))
    assert outputs["body.score[1]"].grad_norm == pytest.approx(0.5 * 10**0.5)
    assert books["decay"].grad_norm == pytest.approx(0.5 * 10**0.5)
    assert books.cosine("box", "score") is None
    assert books.cosine("score", "decay") == pytest.approx(
        float(seen["first"].sum() / seen["first"].norm() / 10**0.5), rel=1e-5
    )


def test_gradients_are_those_without_books():
    x, plain, booked = torch.randn(5, 3), Detector(), Detector()
    watched = watch(booked, ["body.box", "body.score"])
    for model in (plain, booked):
        torch.stack(list(model(x).values())).sum().backward()
    for left, right in zip(plain.parameters(), booked.parameters(), strict=True):
        assert left.grad is not None
        assert right.grad is not None
        assert torch.equal(left.grad, right.grad)
    watched.close()
    assert len(watched.ledger.history()) == 1
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in booked.modules())


def test_only_calls_that_train_are_booked():
    model, x = Detector(), torch.randn(5, 3)
    watched = watch(model, ["body.box", "body.score"], reads={"score": "body.score[1]"})
    model.eval()(x)
    with torch.no_grad():
        model.train()(x)
    with pytest.raises(RuntimeError, match="the ledger is empty"):
        watched.ledger.read()
    sum(model(x).values()).backward()
    assert watched.ledger.read().step == 0
    assert list(watched.ledger.read()["score"].outputs) == ["body.score[1]"]
    watched.ledger.close()
    sum(model(x).values()).backward()
    assert len(watched.ledger.history()) == 1


def test_a_loss_that_reads_no_head_is_told_once():
    model, x = Detector(), torch.randn(5, 3)
    watched = watch(model, "body.score")
    with pytest.warns(UserWarning, match="watch: box: computed from no output of body.score"):
        model(x)["box"].backward()
    model(x)["box"].backward()
    assert len(watched.ledger.history()) == 2


def test_heads_that_do_not_exist_are_refused():
    with pytest.raises(ValueError, match=r"Detector has no module 'heads.box'.*Did you mean 'body.box'"):
        watch(Detector(), ["heads.box"])
    with pytest.raises(ValueError, match=r"'body\.box' lies inside the head 'body'"):
        watch(Detector(), ["body", "body.box"])
    with pytest.raises(ValueError, match="no head is given"):
        watch(Detector(), [])


def test_callbacks_take_it():
    model = Detector()
    keeper = Keeper(watch(model, ["body.box", "body.score"]))
    sum(model(torch.randn(5, 3)).values()).backward()
    assert keeper.read(7)["headwise/box/grad_norm"] > 0
    assert keeper.history[0].step == 7


class Checkpointed(nn.Module):
    """A detector whose heads and losses are computed again in the backward pass."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.box, self.score = nn.Linear(3, 4), nn.Linear(3, 2)

    def losses(self, x: Tensor) -> dict[str, Tensor]:
        return {"box": self.box(x).square().sum(), "score": self.score(x).sum()}

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return checkpoint(self.losses, x, use_reentrant=False)


def test_heads_that_are_computed_again_are_booked_once():
    model, x = Checkpointed(), torch.randn(5, 3, requires_grad=True)
    watched = watch(model, ["box", "score"])
    sum(model(x).values()).backward()
    (books,) = watched.ledger.history()
    assert books["box"].grad_norm == pytest.approx(2 * float(model.box(x).detach().norm()))
    assert books["score"].grad_norm == pytest.approx(10**0.5)
    assert list(books["box"].outputs) == ["box"]


def test_a_compiled_call_is_not_booked_and_runs():
    model, x = Detector(), torch.randn(5, 3)
    watched = watch(model, ["body.box", "body.score"])
    model.forward = lambda x: {"score": model.body["score"](model.trunk(x)).sum()}  # type: ignore[method-assign]
    torch.compile(model, backend="aot_eager", fullgraph=True)(x)["score"].backward()
    assert watched.ledger.history() == []


class TwoLosses(nn.Module):
    """Returns one number, as models of Hugging Face do; or its losses, or one of them for each sample."""

    def __init__(self, returns: str = "one") -> None:
        super().__init__()
        torch.manual_seed(0)
        self.trunk, self.label, self.places = nn.Linear(3, 8), nn.Linear(8, 4), nn.ModuleList([nn.Linear(8, 2)] * 1)
        self.returns = returns
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor | dict[str, Tensor]:
        features = self.trunk(x).tanh()
        label, place = self.label(features), self.places[0](features)
        self.seen = [label, place]
        first: Tensor = nn.functional.cross_entropy(label, torch.arange(len(x)) % 4)
        second: Tensor = place.abs().mean()
        if self.returns == "one":
            return first + 0.5 * second
        return {"first": first, "second": second}


def test_heads_are_found_where_the_graph_leaves_the_last_modules():
    model = TwoLosses("dict")
    watched = watch(model)
    losses = model(torch.randn(8, 3))
    assert isinstance(losses, dict)
    total = losses["first"] + 0.25 * losses["second"]
    expected = torch.autograd.grad(total, model.seen, retain_graph=True)
    total.backward()
    books = watched.ledger.read()
    assert list(books["first"].outputs) == ["label"]
    assert list(books["second"].outputs) == ["places.0"]
    assert books["first"].grad_norm == pytest.approx(float(expected[0].norm()), rel=1e-6)
    assert books["second"].grad_norm == pytest.approx(float(expected[1].norm()), rel=1e-6)
    assert books.balanced


def test_one_number_is_taken_apart():
    model = TwoLosses()
    watched = watch(model)
    loss = model(torch.randn(8, 3))
    assert isinstance(loss, Tensor)
    loss.backward()
    books = watched.ledger.read()
    assert books.names == ("first", "second")
    assert {name: term.weight for name, term in books.items()} == pytest.approx(dict(zip(books, (1, 0.5), strict=True)))
    assert books.total == pytest.approx(loss.item())
    assert list(books["second"].outputs) == ["places.0"]


class InPieces(TwoLosses):
    """Returns its losses in one tensor beside what it logs, as Ultralytics' detectors do."""

    def forward(self, x: Tensor) -> Any:
        losses = torch.zeros(2)
        losses[0], losses[1] = self.measured(super().forward(x))
        losses[0] *= 3
        losses[1] *= 0.5
        return losses * len(x), {"first": losses[0].detach()}

    def measured(self, returned: Any) -> tuple[Tensor, Tensor]:
        label_loss = returned["first"] * 2 / 4
        place_loss = returned["second"].square()
        return label_loss, place_loss


@pytest.mark.parametrize("scale", [1.0, 1024.0])
def test_losses_in_one_tensor_are_rows_with_the_weights_of_the_number(scale):
    model = InPieces("dict")
    watched = watch(model)
    for _ in range(2):
        losses, _ = model(torch.randn(8, 3))
        kept = [torch.autograd.grad(each, model.seen, retain_graph=True, allow_unused=True) for each in losses]
        (scale * losses.sum()).backward()
    books = watched.ledger.read()
    assert {name: term.weight for name, term in books.items()} == pytest.approx(
        {"label_loss": 24 * scale, "place_loss": 4 * scale}
    )
    assert books.total == pytest.approx(scale * losses.sum().item())
    for name, part, grads in zip(["label_loss", "place_loss"], losses, kept, strict=True):
        norm = next(float(each.norm()) for each in grads if each is not None and each.any())
        assert books[name].weighted == pytest.approx(scale * part.item(), rel=1e-6)
        assert books[name].grad_norm == pytest.approx(scale * norm, rel=1e-6)


def test_a_call_that_raises_leaves_no_mode_behind():
    model = TwoLosses()
    watch(model)
    with pytest.raises(RuntimeError):
        model(torch.randn(8, 5))
    assert not torch.overrides._get_current_function_mode_stack()


@pytest.mark.parametrize("heads", ["places", "places.*", ["label", "places"]])
def test_containers_and_patterns_name_their_modules(heads: str | list[str]):
    model = TwoLosses("dict")
    watched = watch(model, heads)
    losses = model(torch.randn(8, 3))
    assert isinstance(losses, dict)
    losses["second"].backward()
    assert list(watched.ledger.read()["second"].outputs) == ["places.0"]


def test_reads_without_heads_are_refused():
    with pytest.raises(ValueError, match="reads names outputs of heads, but no head is given"):
        watch(TwoLosses(), reads={"first": "label"})


def test_a_copy_of_a_watched_model_is_not_watched():
    """Averaged weights, a target network or a process of its own take copies while a model trains."""
    model = TwoLosses("dict")
    watched = watch(model, ["label", "places"])
    model.label = nn.Linear(8, 4)  # a new head, as fine-tuning has it: the hook of the old one leads nowhere
    losses(model)["second"].backward()
    before = watched.ledger.read().step
    model.seen.clear()  # tensors with a graph cannot be copied
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert sorted(copied.state_dict()) == sorted(model.state_dict())
        losses(copied)["second"].backward()
        assert not torch.overrides._get_current_function_mode_stack()
    assert watched.ledger.read().step == before
    losses(model)["second"].backward()
    assert watched.ledger.read().step == before + 1


def losses(model: nn.Module) -> dict[str, Tensor]:
    found: dict[str, Tensor] = model(torch.randn(8, 3))
    return found


class Reentrant(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        out = checkpoint(self.head, self.body(x).relu(), use_reentrant=True)
        return {"a": out[:, 0].square().mean(), "b": out[:, 1].abs().mean()}


def test_a_head_inside_of_a_reentrant_checkpoint_is_booked_where_the_checkpoint_ends():
    model = Reentrant()
    watched = watch(model)
    kept = []
    model.head.register_forward_hook(lambda module, inputs, out: kept.append(out))
    with pytest.warns(UserWarning, match="a reentrant checkpoint hides the parameters inside it"):
        sum(model(torch.randn(5, 3)).values()).backward()
    books = watched.ledger.read()
    out = kept[0].detach().requires_grad_()
    (sent,) = torch.autograd.grad(out[:, 0].square().mean(), out)
    assert books["a"].grad_norm == pytest.approx(float(sent.norm()), rel=1e-5)
    assert list(books["b"].outputs) == ["checkpoint"]
    assert books.balanced


def test_of_a_named_head_inside_of_a_reentrant_checkpoint_it_is_said_what_hides_it():
    model = Reentrant()
    watched = watch(model, heads="head")
    with pytest.warns(
        UserWarning, match=r"is not known\. a reentrant checkpoint hides .* \(pass use_reentrant=False\)"
    ):
        sum(model(torch.randn(5, 3)).values()).backward()
    assert all(math.isnan(term.grad_norm) for term in watched.ledger.read().values())
