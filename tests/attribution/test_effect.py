"""effect: forward mode against the Jacobian's rows, and what it leaves alone."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parameters_to_vector

from headwise.attribution.jacobians.effect import Effect, ForwardModeWarning, effect
from headwise.attribution.jacobians.update import LastUpdate, next_update
from tests.attribution.brute import Net, rows, three_losses

Closure = Callable[[], dict[str, Tensor]]


def _subject(dtype: torch.dtype = torch.float64, **options: bool) -> tuple[Net, Closure]:
    torch.manual_seed(0)
    model = Net(**options).to(dtype).train()
    image = torch.randn(4, 3, 6, 5, dtype=dtype)
    return model, lambda: three_losses(model(image))


def _products(model: nn.Module, closure: Closure, step: Mapping[str, Tensor]) -> dict[str, float]:
    return {
        loss: sum(float((g * step[name]).sum()) for name, g in row.items() if g is not None and name in step)
        for loss, row in rows(closure(), model).items()
    }


def _gradient(model: nn.Module, closure: Closure) -> dict[str, Tensor]:
    known = {name: p for name, p in model.named_parameters() if p.requires_grad}
    losses = list(closure().values())
    grads = torch.autograd.grad(losses, list(known.values()), allow_unused=True)
    return {name: g for name, g in zip(known, grads, strict=True) if g is not None}


def _assert_close(found: Effect, expected: Mapping[str, float], rel: float) -> None:
    scale = max(abs(value) for value in expected.values())
    assert found.losses == tuple(expected)
    for loss, value in expected.items():
        assert found.change(loss) == pytest.approx(value, rel=rel, abs=rel * scale)


@pytest.mark.parametrize("options", [{}, {"in_place": True}, {"norm": False}, {"use_checkpoint": True}])
@pytest.mark.parametrize(("dtype", "rel"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_equals_the_rows_along_the_gradient(options: dict[str, bool], dtype: torch.dtype, rel: float) -> None:
    model, closure = _subject(dtype, **options)
    found = effect(closure, model)
    assert found.method == "forward"
    step = {name: -g for name, g in _gradient(model, closure).items()}
    _assert_close(found, _products(model, closure, step), rel)
    values = closure()
    assert dict(zip(found.losses, found.values, strict=True)) == pytest.approx(
        {k: float(v.detach()) for k, v in values.items()}
    )


def test_predicts_what_a_small_step_does() -> None:
    model, closure = _subject(norm=False)
    size = 1e-6
    found = effect(closure, model, step=size)
    before = {name: float(loss.detach()) for name, loss in closure().items()}
    gradient = _gradient(model, closure)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in gradient:
                parameter.sub_(gradient[name], alpha=size)
    for name, loss in closure().items():
        assert float(loss.detach()) - before[name] == pytest.approx(found.change(name), rel=1e-3)


def test_a_mapping_moves_only_what_it_names() -> None:
    model, closure = _subject()
    step = {"region.weight": torch.ones_like(model.region.weight)}
    found = effect(closure, model, step)
    _assert_close(found, _products(model, closure, step), 1e-10)
    assert found.change("depth") == 0
    with pytest.raises(ValueError, match="is no parameter"):
        effect(closure, model, {"nothing": torch.ones(1)})
    with pytest.raises(ValueError, match="has shape"):
        effect(closure, model, {"region.weight": torch.ones(1)})
    with pytest.raises(ValueError, match="expected 'gradient'"):
        effect(closure, model, "uphill")  # type: ignore[arg-type]


def test_an_optimizer_gives_the_update_it_is_about_to_make() -> None:
    model, closure = _subject()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        sum(closure().values(), torch.zeros(())).backward()
        optimizer.step()
    optimizer.zero_grad()
    state = {name: p.detach().clone() for name, p in model.named_parameters()}
    update = next_update(optimizer, dict(model.named_parameters()), _gradient(model, closure))
    found = effect(closure, model, optimizer)
    _assert_close(found, _products(model, closure, update), 1e-9)
    assert all(torch.equal(state[name], p) for name, p in model.named_parameters())
    sum(closure().values(), torch.zeros(())).backward()
    optimizer.step()
    for name, p in model.named_parameters():
        torch.testing.assert_close(p.detach() - state[name], update[name], rtol=1e-9, atol=1e-12)


def test_the_last_update_of_an_optimizer() -> None:
    model, closure = _subject()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    with LastUpdate(optimizer, model) as last:
        with pytest.raises(ValueError, match="no step yet"):
            effect(closure, model, last)
        sum(closure().values(), torch.zeros(())).backward()
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        optimizer.step()
        step = {name: p.detach() - before[name] for name, p in model.named_parameters()}
        _assert_close(effect(closure, model, last), _products(model, closure, step), 1e-9)
    optimizer.step()
    for name, tensor in last.update.items():
        torch.testing.assert_close(tensor, step[name])


def test_leaves_gradients_buffers_parameters_and_random_state_alone() -> None:
    model, closure = _subject()
    model.stem.append(nn.Dropout(0.3))
    model.region.weight.grad = torch.ones_like(model.region.weight)
    before = [p.detach().clone() for p in model.parameters()] + [b.clone() for b in model.buffers()]
    random = torch.get_rng_state()
    effect(closure, model)
    after = [p.detach() for p in model.parameters()] + list(model.buffers())
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert torch.equal(random, torch.get_rng_state())
    assert [p.grad is None for p in model.parameters()].count(False) == 1
    assert torch.equal(model.region.weight.grad, torch.ones_like(model.region.weight))


def test_dropout_draws_the_same_in_both_passes() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 32), nn.Dropout(0.5), nn.Linear(32, 2)).double()
    x = torch.randn(4, 8, dtype=torch.float64)
    found = effect(lambda: dict(zip("ab", model(x).square().mean(0), strict=True)), model)
    with torch.random.fork_rng(devices=[]):
        losses = dict(zip("ab", model(x).square().mean(0), strict=True))
    parameters = list(model.parameters())
    flat = {k: parameters_to_vector(torch.autograd.grad(v, parameters, retain_graph=True)) for k, v in losses.items()}
    for loss in "ab":
        assert found.change(loss) == pytest.approx(-float(flat[loss] @ (flat["a"] + flat["b"])), rel=1e-10)


class _Kernel(torch.autograd.Function):
    """A fused loss without forward mode."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.square().sum()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        return 2 * grad * ctx.saved_tensors[0]


class _WrongTangent(_Kernel):
    @staticmethod
    def jvp(ctx: Any, tangent: Tensor) -> Tensor:
        return tangent.sum() * 0 + 1e3


@pytest.mark.parametrize("kernel", [_Kernel, _WrongTangent])
def test_falls_back_on_rows_and_says_so(kernel: type[_Kernel]) -> None:
    model, _ = _subject()
    image = torch.randn(4, 3, 6, 5, dtype=torch.float64)

    def closure() -> dict[str, Tensor]:
        outputs = model(image)
        return {"fused": kernel.apply(outputs["region"]), "depth": outputs["depth"].mean()}

    with pytest.warns(ForwardModeWarning, match="one backward pass per loss"):
        found = effect(closure, model)
    assert found.method == "rows"
    assert found.reason
    step = {name: -g for name, g in _gradient(model, closure).items()}
    _assert_close(found, _products(model, closure, step), 1e-10)
    assert "by rows" in str(found)


def test_losses_without_graph_do_not_move_and_none_is_refused() -> None:
    model, closure = _subject()
    found = effect(lambda: {**closure(), "number": 1.0}, model)
    assert found.change("number") == 0
    with pytest.raises(ValueError, match="no loss has a graph"):
        effect(lambda: {"number": 1.0}, model)
    with pytest.raises(ValueError, match="no loss 'nothing'"):
        found.change("nothing")


def test_text_tells_who_is_harmed() -> None:
    x = nn.Parameter(torch.tensor([1.0, 2.0]))
    model = nn.ParameterDict({"x": x})
    found = effect(lambda: {"up": 3 * model["x"].sum(), "down": -model["x"].sum()}, model)
    assert found.harmed == ("down",)
    assert found.change("up") == pytest.approx(-12)
    assert found.change("down") == pytest.approx(4)
    assert "harmed" in str(found)


def test_cross_entropy_pooling_and_interpolation_have_forward_mode() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.Conv2d(8, 5, 1)
    )
    image, label = torch.randn(2, 3, 12, 12), torch.randint(0, 5, (2, 10, 10))

    def closure() -> dict[str, Tensor]:
        logits = F.interpolate(model(image), size=(10, 10), mode="bilinear")
        return {"ce": F.cross_entropy(logits, label), "l1": F.smooth_l1_loss(logits, torch.ones_like(logits))}

    found = effect(closure, model)
    assert found.method == "forward"
    _assert_close(found, _products(model, closure, {n: -g for n, g in _gradient(model, closure).items()}), 1e-5)
