"""jacobian: the exact table against brute force, and that it leaves no trace in training."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from headwise.attribution.jacobians.jacobian import jacobian
from headwise.attribution.jacobians.jacobian_table import JacobianTable
from headwise.attribution.jacobians.streaming import inner_product, on_gradient, square_norm
from tests.attribution.brute import Net, rows, setup

OPTIONS: list[dict[str, bool]] = [{}, {"use_checkpoint": True}, {"in_place": True}, {"norm": False}]


def _flat(gradients: dict[str, Tensor | None], members: tuple[str, ...], model: nn.Module) -> Tensor:
    known = dict(model.named_parameters())
    parts = [torch.zeros_like(known[name]) if (g := gradients[name]) is None else g for name in members]
    return torch.cat([part.flatten() for part in parts]).double()


def squares(table: JacobianTable) -> Tensor:
    return table.gram.products.diagonal(dim1=1, dim2=2)[:, :-1]


def _assert_equals_brute_force(table: JacobianTable, losses: dict[str, Tensor], model: nn.Module, rtol: float) -> None:
    brute = rows(losses, model)
    for group, members in table.groups.items():
        if members == ("stem.0.bias",) and isinstance(model, Net) and isinstance(model.stem[1], nn.BatchNorm2d):
            continue  # A bias before BatchNorm has a gradient of rounding noise.
        flat = {loss: _flat(brute[loss], members, model) for loss in losses}
        total = torch.stack(list(flat.values())).sum(0)
        norms = sum(float(row.norm()) for row in flat.values())
        for loss, row in flat.items():
            assert table.norm(loss, group) == pytest.approx(float(row.norm()), rel=rtol, abs=1e-12)
            assert table.share(loss, group) == pytest.approx(float(row.norm()) / norms if norms else 0.0, rel=rtol)
            scale = float(row.norm() * total.norm())
            cosine = table.cosine(loss, group)
            assert (cosine is None) == (scale == 0)
            if cosine is not None:
                assert cosine == pytest.approx(float(row @ total) / scale, abs=10 * rtol)
            if table.gram.knows_pairs:
                for other, against in flat.items():
                    cosine = table.conflict(loss, other, group)
                    scale = float(row.norm() * against.norm())
                    assert (
                        cosine is None
                        if scale == 0
                        else cosine == pytest.approx(float(row @ against) / scale, abs=1e-6)
                    )


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("group", ["parameter", "module", {"trunk": ["stem.*", "block.*"], "heads": "*"}])
def test_equals_brute_force_in_float64(options: dict[str, bool], group: Any) -> None:
    model, _, losses = setup(**options)
    table = jacobian(losses, model, group=group, gramian=True)
    _assert_equals_brute_force(table, losses, model, 1e-9)


def test_equals_brute_force_in_float32_with_channels_last() -> None:
    torch.manual_seed(0)
    model = Net().to(memory_format=torch.channels_last)
    outputs = model(torch.randn(4, 3, 6, 5).contiguous(memory_format=torch.channels_last))
    losses = {"a": outputs["region"].square().mean(), "b": outputs["depth"].abs().mean()}
    _assert_equals_brute_force(jacobian(losses, model, gramian=True), losses, model, 2e-6)


def test_a_function_groups_and_leaves_out_and_parameters_choose() -> None:
    model, _, losses = setup()
    table = jacobian(losses, model, group=lambda name: None if "bias" in name else name.split(".")[0])
    assert set(table.groups) == {"stem", "block", "region", "depth", "unused"}
    assert all("bias" not in name for members in table.groups.values() for name in members)
    _assert_equals_brute_force(table, losses, model, 1e-9)
    chosen = jacobian(losses, model, parameters=["stem.*", "depth.0.weight"])
    assert set(chosen.groups) == {"stem.0.weight", "stem.0.bias", "stem.1.weight", "stem.1.bias", "depth.0.weight"}
    with pytest.raises(ValueError, match="matches no parameter"):
        jacobian(losses, model, parameters="nothing.*")
    with pytest.raises(ValueError, match="belongs to any group"):
        jacobian(losses, model, group={"a": "nothing"})


def test_shared_and_own_parts_are_told_apart_and_own_parts_cost_no_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    model, _, losses = setup()
    asked: list[int] = []
    original = torch.autograd.grad

    def counted(outputs: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        asked.append(len(inputs))
        return original(outputs, inputs, *args, **kwargs)

    monkeypatch.setattr(torch.autograd, "grad", counted)
    table = jacobian({"text": losses["text"], "depth": losses["depth"]}, model)
    assert set(table.shared) == {name for name, _ in model.named_parameters() if name.startswith(("stem", "block"))}
    assert asked == [14, 8, 4]
    asked.clear()
    jacobian({"text": losses["text"], "depth": losses["depth"]}, model, by_difference=False)
    assert asked == [14, 8, 8]
    disjoint = {"a": model.region.weight.square().sum(), "b": model.unused.weight.square().sum()}
    asked.clear()
    jacobian(disjoint, model)
    assert asked == [2]


def _state(model: nn.Module) -> list[Tensor]:
    grads = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    return [*grads, *(b.clone() for b in model.buffers()), torch.get_rng_state()]


@pytest.mark.parametrize("options", OPTIONS)
def test_touches_neither_grad_nor_buffers_nor_random_state(options: dict[str, bool]) -> None:
    model, _, losses = setup(**options)
    model.region.weight.grad = torch.ones_like(model.region.weight)
    before = _state(model)
    jacobian(losses, model, gramian=True)
    after = _state(model)
    assert len(before) == len(after)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert not model.region.weight._backward_hooks


def test_a_checkpoint_run_again_moves_no_running_statistics() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.Dropout(0.5))
    out = checkpoint(model, torch.randn(3, 1, 2, 2, requires_grad=True), use_reentrant=False)
    losses = {"a": out.square().sum(), "b": out.sum()}
    before = _state(model)
    table = jacobian(losses, model)
    assert all(torch.equal(a, b) for a, b in zip(before, _state(model), strict=True))
    _assert_equals_brute_force(table, losses, model, 1e-5)


@pytest.mark.parametrize("options", OPTIONS)
def test_the_backward_pass_after_it_is_equal_to_the_bit(options: dict[str, bool]) -> None:
    def gradients(attribute: bool) -> list[Tensor | None]:
        model, _, losses = setup(**options)
        if attribute:
            jacobian(losses, model)
        sum(losses.values(), torch.zeros(())).backward()
        return [p.grad for p in model.parameters()]

    for plain, attributed in zip(gradients(False), gradients(True), strict=True):
        assert plain is attributed is None or (plain is not None and attributed is not None and plain.equal(attributed))


def test_the_kept_gradient_is_that_of_the_sum() -> None:
    model, _, losses = setup()
    table = jacobian(losses, model, keep_gradient=True)
    table.assign_gradient(model)
    assigned = {name: p.grad for name, p in model.named_parameters()}
    model.zero_grad()
    sum(losses.values(), torch.zeros(())).backward()
    for name, p in model.named_parameters():
        grad = assigned[name]
        assert (grad is None) == (p.grad is None)
        if grad is not None and p.grad is not None:
            torch.testing.assert_close(grad, p.grad, rtol=1e-12, atol=1e-14)
    other, _, losses = setup()
    with pytest.raises(ValueError, match="keep_gradient=True"):
        jacobian(losses, other).assign_gradient(other)


def test_without_cosines_the_rows_are_the_same_and_their_sum_is_the_gradient() -> None:
    model, _, losses = setup()
    full, rows_only = jacobian(losses, model), jacobian(losses, model, cosine=False, keep_gradient=True)
    torch.testing.assert_close(squares(rows_only), squares(full), rtol=1e-9, atol=1e-24)
    assert {row.cosine for row in rows_only.rows} == {None}
    with pytest.raises(ValueError, match="cosine=True"):
        rows_only.cosine("text")
    torch.stack(list(losses.values())).sum().backward()
    for name, p in model.named_parameters():
        if p.grad is not None:
            torch.testing.assert_close(rows_only.gradient[name], p.grad, rtol=1e-9, atol=1e-14)


def test_assigned_gradients_share_no_memory() -> None:
    model = nn.ParameterDict({name: torch.ones(3) for name in ("a", "b", "c")})
    product = (model["a"] + model["b"]) * torch.arange(3.0)
    table = jacobian([product.sum(), model["c"].sum()], model, keep_gradient=True)
    table.assign_gradient(model)
    for name in ("a", "b", "c"):
        gradient = model[name].grad
        assert gradient is not None
        gradient.mul_(2)
    assert torch.equal(model["a"].grad, torch.tensor([0.0, 2.0, 4.0]))
    assert torch.equal(model["b"].grad, torch.tensor([0.0, 2.0, 4.0]))
    assert torch.equal(model["c"].grad, torch.full((3,), 2.0))


def test_under_autocast_numbers_stay_in_float32() -> None:
    torch.manual_seed(0)
    model = nn.Linear(64, 64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = model(torch.randn(8, 64))
        losses = {"a": y.float().square().mean(), "b": y.float().mean()}
        inside = jacobian(losses, model)
    outside = jacobian(losses, model)
    assert inside.gram.knows_total
    torch.testing.assert_close(inside.gram.products[:, -1], outside.gram.products[:, -1], rtol=1e-6, atol=0)
    torch.testing.assert_close(squares(inside), squares(outside), rtol=1e-6, atol=0)


def test_losses_without_graph_are_left_out_and_none_is_refused() -> None:
    model, _, losses = setup()
    assert jacobian({"zero": 0.0, "text": losses["text"]}, model).losses == ("text",)
    with pytest.raises(ValueError, match="no loss has a graph"):
        jacobian({"zero": 0.0}, model)


def test_a_bfloat16_network_is_measured_in_float32() -> None:
    torch.manual_seed(0)
    model = nn.Linear(64, 64).bfloat16()
    y = model(torch.randn(8, 64, dtype=torch.bfloat16))
    losses = {"a": y.float().square().mean(), "b": y.float().mean()}
    table = jacobian(losses, model)
    for loss, row in rows(losses, model).items():
        for name, gradient in row.items():
            assert gradient is not None
            assert table.norm(loss, name) == pytest.approx(float(gradient.double().norm()), rel=1e-5)


def test_your_own_hooks_see_gradients_and_may_change_them() -> None:
    model = nn.Linear(2, 1)
    handle = model.weight.register_hook(lambda grad: 2 * grad)
    loss = model(torch.ones(1, 2)).sum()
    assert jacobian([loss], model).norm("0", "weight") == pytest.approx(2 * 2**0.5)
    handle.remove()


def test_text_and_unknown_names() -> None:
    model, _, losses = setup()
    table = jacobian(losses, model, group="module")
    text = str(table)
    assert max(len(line) for line in text.splitlines()) <= 100
    assert "(all)" in text
    assert {row.group for row in table.rows if row.loss == "depth"} == {
        "stem.0", "stem.1", "block.0", "block.2", "depth.0", "depth.2",
    }  # fmt: skip
    for wrong in (lambda: table.norm("nothing"), lambda: table.cosine("text", "nothing")):
        with pytest.raises(ValueError, match="nothing"):
            wrong()
    with pytest.raises(ValueError, match="gramian=True"):
        table.conflict("text", "depth")


def _chain(scales: tuple[float, ...], dtype: torch.dtype) -> tuple[nn.Module, dict[str, Tensor]]:
    torch.manual_seed(0)
    trunk = [layer for _ in range(6) for layer in (nn.Linear(24, 24), nn.Tanh())]
    model = nn.ModuleDict({"trunk": nn.Sequential(*trunk), "heads": nn.ModuleList(nn.Linear(24, 2) for _ in scales)})
    model = model.to(dtype)
    features = model["trunk"](torch.randn(16, 24, dtype=dtype))
    heads = list(model["heads"].children())
    return model, {str(k): scale * heads[k](features).square().mean() for k, scale in enumerate(scales)}


@pytest.mark.parametrize("scales", [(1.0, 2.0, 30.0), (30.0, 1.0, 1e-4), (1.0, 1.0, 1.0), (1.0, 1e-7, 0.0)])
@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float32, 5e-6), (torch.float64, 1e-12)])
def test_a_row_by_difference_is_as_exact(scales: tuple[float, ...], dtype: torch.dtype, rtol: float) -> None:
    model, losses = _chain(scales, dtype)
    differing = jacobian(losses, model)
    direct = jacobian(losses, model, by_difference=False)
    for loss in losses:
        for group in direct.groups:
            assert differing.norm(loss, group) == pytest.approx(direct.norm(loss, group), rel=rtol)
            a, b = differing.cosine(loss, group), direct.cosine(loss, group)
            assert a is b is None or a == pytest.approx(b, abs=rtol)


def test_no_row_by_difference_where_a_hook_may_break_the_sum() -> None:
    model, losses = _chain((1.0, 2.0, 4.0), torch.float64)
    first = next(model.parameters())
    handle = on_gradient(first, lambda grad: grad.clamp(-1e-3, 1e-3))
    found = jacobian(losses, model)
    for loss, row in rows(losses, model).items():
        gradient = row["trunk.0.weight"]
        assert gradient is not None
        assert found.norm(loss, "trunk.0.weight") == pytest.approx(float(gradient.norm()), rel=1e-9)
    handle.remove()


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_sums_over_millions_of_float32_keep_their_digits(layout: torch.memory_format) -> None:
    generator = torch.Generator().manual_seed(0)
    gradient = torch.rand(1024, 1024, 2, 2, generator=generator).to(memory_format=layout)
    against = torch.rand(1024, 1024, 2, 2, generator=generator)
    assert float(square_norm(gradient)) == pytest.approx(float(gradient.double().square().sum()), rel=2e-6)
    expected = float((gradient.double() * against.double()).sum())
    assert float(inner_product(gradient, against)) == pytest.approx(expected, rel=2e-6)
