"""Totals in the manner of training code, taken apart: names, factors, values, heads, and what cannot be told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from headwise.attribution import TakenApart, take_apart
from headwise.attribution.apart.naming.places import PlaceRecorder


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.trunk, self.label, self.box = nn.Linear(4, 8), nn.Linear(8, 3), nn.Linear(8, 4)
        self.logvar = nn.Parameter(torch.tensor([0.3, 0.5]))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        hidden = self.trunk(x).relu()
        return {"label": self.label(hidden), "box": self.box(hidden)}


NETWORK, X, Y = Network(), torch.randn(8, 4), torch.arange(8) % 3


def two() -> tuple[Tensor, Tensor]:
    out = NETWORK(X)
    return F.cross_entropy(out["label"], Y), out["box"].abs().mean()


def rounded(found: TakenApart) -> dict[str, float]:
    return {name: round(factor, 5) for name, factor in found.factors.items()}


def test_names_are_those_of_the_variables():
    loss_cls, loss_box = two()
    loss = loss_cls + 0.5 * loss_box
    found = take_apart(loss, model=NETWORK)
    assert rounded(found) == {"loss_cls": 1, "loss_box": 0.5}
    assert found["loss_box"].value == pytest.approx(loss_box.item())
    assert found["loss_box"].heads == ("box",)
    assert found["loss_cls"].reach == ("trunk.weight", "trunk.bias", "label.weight", "label.bias")
    assert found.complete
    assert "loss_cls" in str(found)
    assert "box; 4 parameters" in str(found)


def test_a_variable_that_holds_a_scaled_loss_is_the_summand():
    raw, loss_box = two()
    loss_cls = 2 * raw
    assert rounded(take_apart((loss_cls + loss_box) / 4)) == {"loss_cls": 0.25, "loss_box": 0.25}


def test_keys_of_dicts_and_attributes_are_names():
    @dataclass
    class Found:
        loss_cls: Tensor
        loss_box: Tensor

    first, second = two()
    outputs = Found(first, second)
    del first, second
    assert rounded(take_apart(outputs.loss_cls + 3 * outputs.loss_box)) == {"loss_cls": 1, "loss_box": 3}
    losses = dict(zip(("cls", "box"), two(), strict=True))
    outputs.loss_cls = outputs.loss_box = torch.zeros(())
    total: Any = 0.0
    for name, value in losses.items():
        total = total + {"cls": 1.0, "box": 5.0}[name] * value
    assert rounded(take_apart(total)) == {"cls": 1, "box": 5}


def test_a_sum_kept_in_a_variable_gives_way_to_its_parts():
    loss_cls, loss_box = two()
    both = loss_cls + loss_box
    extra = NETWORK(X)["label"].square().mean()
    found = take_apart(both + extra)
    assert rounded(found) == {"loss_cls": 1, "loss_box": 1, "extra": 1}
    assert found.groups == {"both": ("loss_cls", "loss_box")}


def inside() -> Tensor:
    loss_cls, loss_box = two()
    return loss_cls + 0.5 * loss_box


def test_what_has_no_name_is_named_by_what_computed_it():
    loss = inside()
    found = take_apart(loss, model=NETWORK)
    assert rounded(found) == {"cross_entropy": 1, "abs": 0.5}
    assert not found["abs"].named
    assert found["abs"].value is None
    assert found["abs"].heads == ("box",)
    assert not found.complete
    assert "unknown" in str(found)


@pytest.mark.parametrize("of", [torch.log, torch.log1p, torch.abs, F.softplus, torch.square])
def test_what_keeps_its_input_alone_has_a_value(of):
    model = nn.Linear(3, 2)
    output = model(torch.randn(5, 3))
    apart = take_apart(of(output[:, 0].square().mean()) + of(output[:, 1].exp().mean()), model=model)
    assert [each.value is not None for each in apart.summands.values()] == [True, True], str(apart)
    assert sum(each.weighted or 0.0 for each in apart.summands.values()) == pytest.approx(apart.total, rel=1e-5)


def test_returned_names_go_before_variables():
    first, second = two()
    found = take_apart(first + 2 * second, {"cls": first, "box": second})
    assert rounded(found) == {"cls": 1, "box": 2}
    assert rounded(take_apart(first + 2 * second, (first, second), names=("a", "b"))) == {"a": 1, "b": 2}


def test_learned_weights_are_factors_and_their_own_part_a_summand():
    first, second = two()
    s = NETWORK.logvar
    total = (-s[0]).exp() * first + second / (2 * s[1] ** 2) + s.sum() / 2
    found = take_apart(total, {"loss": total, "cls": first, "box": second}, model=NETWORK)
    assert found["cls"].factor == pytest.approx(torch.exp(-s[0]).item())
    assert found["box"].factor == pytest.approx((0.5 / s[1] ** 2).item())
    (rest,) = [each for name, each in found.items() if name not in ("cls", "box")]
    assert rest.weighted == pytest.approx(s.sum().item() / 2, rel=1e-5)
    assert rest.reach == ("logvar",)


def test_a_weight_from_a_head_is_a_factor_of_the_loss_that_has_a_name():
    out = NETWORK(X)
    s = out["box"][:, 3].mean()
    a, b = F.cross_entropy(out["label"], Y), out["box"][:, 0].abs().mean()
    found = take_apart((-s).exp() * a + b + 3 * s, {"a": a, "b": b})
    assert found["a"].factor == pytest.approx((-s).exp().item())
    assert found["s"].factor == pytest.approx(3)
    assert found.complete


def test_losses_computed_again_by_other_steps_are_recognized():
    out = NETWORK(X)["label"]
    a, b, c = (out[:, i].square() for i in range(3))
    returned = {"loss": (a + b + 4 * c).mean(), "a": a.mean(), "b": b.mean(), "c": c.mean()}
    del a, b, c
    found = take_apart(returned["loss"], returned)
    assert rounded(found) == {"a": 1, "b": 1, "c": 4}
    assert found.groups == {"loss": ("a", "b", "c")}


def test_losses_per_sample_may_be_weighed_unequally():
    out, weights = NETWORK(X)["label"], torch.tensor([8.0, 0, 0, 0, 0, 0, 0, 0])
    depth, normal = out[:, 0].square(), out[:, 1].abs().mean()
    part = (depth * weights).mean()
    found = take_apart(part + normal, {"depth": depth, "normal": normal})
    assert found["depth"].weighted == pytest.approx(part.item())
    assert found["normal"].factor == pytest.approx(1)


def test_a_detached_loss_is_in_the_rest_and_a_metric_is_absent():
    first, second = two()
    metric = NETWORK(X)["label"].softmax(-1).mean(0).log().sum().neg().exp()
    found = take_apart(first + 2 * second.detach(), {"cls": first, "perplexity": metric})
    assert rounded(found) == {"cls": 1}
    assert found.rest == pytest.approx(2 * second.item(), rel=1e-5)
    assert found.absent == ("perplexity",)
    assert "no gradient" in str(found)
    assert "not in the total: perplexity" in str(found)


def test_a_loss_beside_a_sum_that_holds_it():
    first, second = two()
    both = first + second
    found = take_apart(first + both, {"cls": first, "sum": both})
    assert rounded(found) == {"cls": 1, "sum": 1}
    assert sum(each.weighted or 0 for each in found.values()) == pytest.approx(found.total)


def test_outputs_name_the_heads():
    out = NETWORK(X)
    loss = out["label"].square().mean() + out["box"].abs().mean()
    found = take_apart(loss, outputs=out)
    assert [each.heads for each in found.values()] == [("label",), ("box",)]


def test_the_graph_stays_as_it_was():
    first, second = two()
    fired: list[Tensor] = []
    first.register_hook(fired.append)
    total = torch.stack([first, second]).mean()
    take_apart(total)
    assert not fired
    total.backward()
    assert len(fired) == 1


def test_the_vector_that_backward_is_called_with_is_a_factor():
    first, second = two()
    losses = torch.stack([first, second])
    found = take_apart(losses, gradient=torch.tensor([3.0, 0.25]))
    assert rounded(found) == {"first": 3, "second": 0.25}


def test_a_number_without_a_graph_is_refused():
    with pytest.raises(ValueError, match="the total has no graph"):
        take_apart(two()[0].detach())
    first = two()[0]
    found = take_apart(first)
    with pytest.raises(KeyError, match="summands are: first"):
        _ = found["second"]


def test_a_node_of_autograd_is_its_own_formula():
    """`apart/sums/walk.py` calls nodes; they must neither fire hooks nor free what the backward pass needs."""
    first, second = two()
    total = (first * 3 + second) / 2
    node: Any = total.grad_fn
    sent = node(torch.tensor(1.0))
    assert float(sent[0]) == 0.5
    assert float(node(torch.tensor(1.0))[0]) == 0.5
    total.backward()


def test_a_loss_and_twice_that_loss_stand_beside_each_other():
    first, second = two()
    doubled = second * 2
    returned = {"a": [first, second], "b": doubled}
    found = take_apart(first + second + doubled, returned)
    assert rounded(found) == {"a.0": 1, "a.1": 1, "b": 1}
    assert found.complete
    scaled = {"l2": second, "l2_weighted": 0.5 * second}
    assert rounded(take_apart(first + scaled["l2_weighted"], {"first": first, **scaled})) == {
        "first": 1,
        "l2_weighted": 1,
    }


def in_pieces(gain: Any = 7.5) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Losses that are written into one tensor and scaled there, as detectors do; with what they read."""
    out = {name: each.detach().requires_grad_() for name, each in NETWORK(X).items()}
    losses = torch.zeros(3)
    box, label, far = out["box"].abs().mean(), F.cross_entropy(out["label"], Y), out["box"].square().mean()
    losses[1] = label
    losses[0], losses[2] = box, far
    losses[0] *= gain
    losses[1] *= 0.5
    losses[2] /= 4
    return losses * 8, [box, label, far], list(out.values())


def test_losses_that_were_written_into_one_tensor_are_told_apart():
    total, (box, label, far), read = in_pieces()
    found = take_apart(total.sum())
    assert rounded(found) == {"box": 60, "label": 4, "far": 2}
    assert found.complete
    gradients = torch.autograd.grad(total.sum(), read, retain_graph=True)
    for name, loss in {"box": box, "label": label, "far": far}.items():
        assert found[name].value == pytest.approx(loss.item())
        own = torch.autograd.grad(loss, read, retain_graph=True, allow_unused=True)
        gradients = tuple(
            left if part is None else left - found.factors[name] * part
            for left, part in zip(gradients, own, strict=True)
        )
    assert all(float(each.abs().max()) < 1e-6 for each in gradients)


@pytest.mark.parametrize("operation", ["exp_", "square_", "sqrt_", "abs_", "tanh_"])
def test_a_piece_that_was_bent_in_place_is_not_taken_for_a_sum(operation: str):
    total, *_ = in_pieces()
    getattr(total[1], operation)()
    found = take_apart(total.sum())
    assert "label" not in found.factors
    assert sum(each.weighted or 0 for each in found.values()) + found.rest == pytest.approx(total.sum().item())


def test_a_piece_with_a_learned_gain_is_not_taken_for_a_number_times_a_loss():
    total, *_ = in_pieces(torch.exp(NETWORK.logvar[0]))
    assert "box" not in take_apart(total.sum()).factors


class Returning(Network):
    """Returns its loss beside an output, as models of Hugging Face do."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        out = super().forward(x)
        label_loss, box_loss = F.cross_entropy(out["label"], Y), out["box"].abs().mean()
        return {"loss": label_loss + 0.5 * box_loss, "box": out["box"]}


def test_a_loss_that_comes_out_of_ddp_beside_outputs_is_taken_apart(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        parallel = nn.parallel.DistributedDataParallel(Returning(), find_unused_parameters=True)
        with PlaceRecorder():
            out = parallel(X)
        penalty = out["box"].square().mean()
        found = take_apart(out["loss"] / 2 + 0.1 * penalty, model=parallel.module)
    finally:
        torch.distributed.destroy_process_group()
    assert rounded(found) == {"label_loss": 0.5, "box_loss": 0.25, "penalty": 0.1}
    assert found.complete


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_what_half_precision_rounds_off_is_no_constant(dtype: torch.dtype):
    y = torch.linspace(-1, 2, 12, dtype=torch.float64).to(dtype).requires_grad_()
    losses = {"a": (y - 1).square().mean(), "b": y.abs().mean(), "c": y.square().mean()}
    total = 0.3 * losses["a"] + 1.7 * losses["b"] + losses["c"] + torch.full((), 0.002, dtype=dtype)
    found = take_apart(total, losses=losses)
    assert found.rest == pytest.approx(float(total.detach()) - sum(each.weighted or 0.0 for each in found.values()))
    assert found.has_rest  # the 0.002, as far as it is left, and what was rounded off
    assert "rounding of the total's dtype, or no gradient" in str(found)
    shown = str(take_apart(total + 1, losses=losses))
    assert "no gradient: a constant, or a detached loss" in shown
    assert "rounding" not in shown
