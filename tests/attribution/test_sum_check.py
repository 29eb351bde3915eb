"""check_sum: healthy code passes in both precisions; what breaks the sum is named."""

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from headwise.attribution.audit.code.subject import Subject
from headwise.attribution.audit.measures.gap import statistics
from headwise.attribution.audit.measures.gram import gram_of
from headwise.attribution.audit.run import audit
from headwise.attribution.audit.sum_check import SumCheck, check_sum
from headwise.attribution.gram import Gram, Where
from headwise.attribution.jacobians.streaming import on_gradient
from tests.attribution.brute import Net, three_losses

Closure = Callable[[], dict[str, Tensor]]


def _subject(**options: bool) -> tuple[Net, Tensor, Closure]:
    torch.manual_seed(0)
    model = Net(**options).train()
    model.stem.append(nn.Dropout(0.4))
    image = torch.randn(4, 3, 6, 5)
    return model, image, lambda: three_losses(model(image))


def _kinds(found: SumCheck) -> set[str]:
    return {cause.kind for cause in found.causes}


@pytest.mark.parametrize("options", [{}, {"in_place": True}, {"use_checkpoint": True}])
def test_healthy_code_passes_in_both_precisions(options: dict[str, bool]) -> None:
    model, _, closure = _subject(**options)
    found = check_sum(closure, model)
    assert found.passed
    assert found.causes == ()
    assert [check.precision for check in found.checks] == ["given", "float64"]
    assert found.checks[0].worst < 1e-5
    assert found.checks[1].worst < 1e-12
    assert not found.checks[1].error
    assert {row.parameter for row in found.checks[0].rows} == {
        name for name, _ in model.named_parameters() if not name.startswith("unused")
    }
    assert set(found.coefficients.values()) == {1.0}
    assert "holds" in str(found)


def test_leaves_no_trace() -> None:
    model, _, closure = _subject()
    model.region.weight.grad = torch.ones_like(model.region.weight)
    before = [t.detach().clone() for t in (*model.parameters(), *model.buffers())]
    state, mode, dtype = torch.get_rng_state(), torch.is_grad_enabled(), torch.get_default_dtype()
    check_sum(closure, model)
    assert all(torch.equal(a, b) for a, b in zip(before, (*model.parameters(), *model.buffers()), strict=True))
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(model.region.weight.grad, torch.ones_like(model.region.weight))
    assert [p.grad is None for p in model.parameters()].count(False) == 1
    assert (mode, dtype) == (torch.is_grad_enabled(), torch.get_default_dtype())


def test_bfloat16_autocast_has_a_limit_of_its_own_and_float64_ignores_it() -> None:
    model, image, _ = _subject()

    def closure() -> dict[str, Tensor]:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            outputs = model(image)
        return three_losses({name: output.float() for name, output in outputs.items()})

    found = check_sum(closure, model)
    assert found.passed
    assert found.checks[0].limit == 3e-2
    assert found.checks[0].worst > 1e-5
    assert found.checks[1].worst < 1e-12


class _Clip(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        return grad / grad.norm().clamp_min(1e-12)


def test_a_backward_pass_that_is_not_linear_is_named() -> None:
    model, image, _ = _subject()
    model.block.append(nn.Identity())

    def closure() -> dict[str, Tensor]:
        features = _Clip.apply(model.block(model.stem(image)))
        return {"a": model.region(features).square().mean(), "b": model.depth(features).abs().mean()}

    found = check_sum(closure, model)
    assert not found.passed
    assert _kinds(found) == {"nonlinear-backward"}
    assert "_ClipBackward" in found.causes[0].subject
    bad = {row.parameter for row in found.checks[1].rows if row.statistic > found.checks[1].limit}
    assert bad - {"stem.0.bias"} == {
        name for name, _ in model.named_parameters() if name.startswith(("stem", "block")) and name != "stem.0.bias"
    }


def test_a_hook_that_clips_a_parameter_is_named() -> None:
    model, _, closure = _subject()
    handle = on_gradient(dict(model.named_parameters())["block.0.weight"], lambda grad: grad.clamp(-1e-3, 1e-3))
    found = check_sum(closure, model)
    handle.remove()
    assert _kinds(found) == {"nonlinear-backward"}
    assert "block.0.weight" in found.causes[0].subject
    assert found.checks[1].passed


def test_a_draw_of_its_own_is_named() -> None:
    model, image, _ = _subject()
    generator = torch.Generator().manual_seed(0)

    def closure() -> dict[str, Tensor]:
        losses = three_losses(model(image))
        noise = torch.rand((), generator=generator)
        return losses | {"text": losses["text"] * (1 + noise)}

    found = check_sum(closure, model)
    assert not found.passed
    assert _kinds(found) == {"random-draw"}
    assert "'text'" in found.causes[0].evidence
    assert "test_sum_check.py" in found.causes[0].evidence


def test_draws_of_the_global_generators_are_held() -> None:
    model, image, _ = _subject()

    def closure() -> dict[str, Tensor]:
        losses = three_losses(model(image))
        return losses | {"text": losses["text"] * (1 + random.random() + torch.rand(()))}

    assert check_sum(closure, model).passed


def test_an_edit_in_place_that_every_pass_repeats_is_named() -> None:
    model, image, _ = _subject()
    target = torch.ones(4, 1, 6, 5)

    def closure() -> dict[str, Tensor]:
        outputs = model(image)
        target.mul_(0.5)
        return {"text": outputs["region"].mean(), "depth": F.mse_loss(outputs["depth"], target)}

    found = check_sum(closure, model)
    assert _kinds(found) == {"in-place"}
    assert found.causes[0].subject == "target"
    assert "mul_" in found.causes[0].evidence


def test_an_edit_in_place_that_breaks_the_backward_pass_is_named() -> None:
    model, image, _ = _subject()

    def closure() -> dict[str, Tensor]:
        depth = model(image)["depth"]
        exp = depth.exp()
        first = exp.sum()
        exp.add_(1)
        return {"a": first, "b": exp.mean()}

    found = check_sum(closure, model)
    assert not found.passed
    assert _kinds(found) == {"in-place"}
    assert "add_" in found.causes[0].evidence


def test_a_detached_loss_is_named_and_a_number_is_not() -> None:
    model, _, closure = _subject()

    def detached() -> dict[str, Any]:
        losses = closure()
        return {"text": losses["text"], "depth": losses["depth"].detach(), "none": 0.0}

    found = check_sum(detached, model)
    assert _kinds(found) == {"detach"}
    assert [cause.subject for cause in found.causes] == ["loss 'depth'"]
    places = [word for word in str(found).split() if ".py:" in word]
    assert places
    assert all(place.startswith("test_sum_check.py:") for place in places), "only lines of the user's code"
    assert found.coefficients == {"text": 1.0, "depth": None, "none": None}


def test_a_loss_cut_off_from_the_parameters_is_named() -> None:
    model, image, closure = _subject()
    scale = torch.ones((), requires_grad=True)
    found = check_sum(lambda: closure() | {"cut": scale * model(image)["depth"].detach().mean()}, model)
    assert [(cause.kind, cause.subject) for cause in found.causes] == [("detach", "loss 'cut'")]


def test_a_loss_that_leaves_gradients_off_is_named() -> None:
    model, image, _ = _subject()

    def closure() -> dict[str, Tensor]:
        outputs = model(image)
        first = outputs["region"].mean()
        torch.set_grad_enabled(False)
        return {"first": first, "second": outputs["depth"].mean()}

    found = check_sum(closure, model)
    assert _kinds(found) == {"grad-mode"}
    assert {cause.subject for cause in found.causes} == {"the closure", "loss 'second'"}
    assert "test_sum_check.py" in found.causes[0].evidence
    assert torch.is_grad_enabled()


@pytest.mark.parametrize(
    ("total", "expected"),
    [
        (lambda losses: losses["text"] + losses["angle"], {"text": 1, "angle": 1, "depth": 0}),
        (lambda losses: sum(losses.values()) + losses["depth"], {"text": 1, "angle": 1, "depth": 2}),
        (
            lambda losses: losses["text"] + 0.1 * losses["angle"] + losses["depth"],
            {"text": 1, "angle": 0.1, "depth": 1},
        ),
    ],
)
def test_a_total_that_is_not_the_sum_is_told_loss_by_loss(total: Any, expected: dict[str, float]) -> None:
    model, _, closure = _subject()
    found = check_sum(closure, model, total=total)
    assert _kinds(found) == {"total"}
    assert found.coefficients == pytest.approx(expected, abs=1e-5)
    for name, value in expected.items():
        assert (repr(name) in found.causes[0].evidence) == (value != 1)


def test_a_total_that_is_the_sum_passes() -> None:
    model, _, closure = _subject()
    assert check_sum(closure, model, total=lambda losses: sum(losses.values())).passed


def test_code_that_does_not_run_in_float64_is_reported() -> None:
    model, image, _ = _subject()

    def closure() -> list[Tensor]:
        depth = model(image)["depth"]
        if depth.dtype != torch.float32:
            raise TypeError("this kernel takes float32")
        return [depth.mean(), depth.square().mean()]

    found = check_sum(closure, model, names=["a", "b"])
    assert found.passed
    assert found.checks[1].error == "this kernel takes float32"
    assert "not run" in str(found)


def test_code_that_asks_for_float32_runs_in_float64() -> None:
    model, image, _ = _subject()

    def closure() -> dict[str, Tensor]:
        depth = model(image.to(torch.float32))["depth"].float()
        weight = torch.zeros(4, 1, 6, 5, dtype=torch.float32)
        weight[:, :, 1:3] = 1
        level = torch.tensor(0.5, dtype=torch.float32)
        return {"a": (depth * weight).sum(), "b": F.binary_cross_entropy_with_logits(depth, weight) * level}

    found = check_sum(closure, model)
    assert found.passed
    assert not found.checks[1].error
    assert found.checks[1].worst < 1e-12


def test_the_statistic_by_hand() -> None:
    total = {"a": torch.tensor([3.0, 4.0]), "b": torch.tensor([1e-9])}
    rows = [{"a": torch.tensor([3.0, 0.0])}, {"a": torch.tensor([0.0, 3.0])}]
    found = statistics(total, rows)
    assert found["a"] == pytest.approx(1 / 6)
    assert found["b"] == pytest.approx(1e-9 / 0.6)


def test_coefficients_by_hand() -> None:
    rows = torch.tensor([1.0, 0.0]), torch.tensor([1e-6, 1e-6]), torch.tensor([2.0, 3.0])
    unknown = torch.full((2,), torch.nan, dtype=torch.float64)
    products, finite = gram_of(rows)[None], torch.ones(1, 2, dtype=torch.bool)
    table = Gram(("x", "y"), ("a",), products, finite, unknown, unknown, Where("parameter"))
    assert table.multiples() == pytest.approx({"x": -1.0, "y": 3e6})


def test_losses_are_needed() -> None:
    model, _, _ = _subject()
    with pytest.raises(ValueError, match="there is none"):
        check_sum(dict, model)


@pytest.mark.parametrize("broken", [False, True])
def test_compiled_parts_run_as_they_are_written(broken):
    """By default a compiled part gives its buffers away in its first backward pass, and many passes are taken."""
    model = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.GELU(), nn.Linear(8, 4))
    compiled, images = torch.compile(model), torch.randn(8, 4)
    compiled(images).sum().backward()

    def forward(network: nn.Module, batch: Any) -> Any:
        return compiled(batch["input"])

    def criterion(y: Tensor, batch: Any) -> dict[str, Tensor]:
        second = y[:, 2:].abs().mean()
        return {"first": y[:, :2].square().mean(), "second": second.detach() if broken else second}

    found = check_sum(lambda: criterion(compiled(images), None), model)
    assert found.passed == (not broken)
    assert [(cause.kind, cause.subject) for cause in found.causes] == [("detach", "loss 'second'")] * broken
    told = audit(Subject(model, [{"input": images}] * 2, criterion, forward=forward))
    assert [each.kind for each in told.faults] == ["detached-loss", "untrained-output"] * broken
