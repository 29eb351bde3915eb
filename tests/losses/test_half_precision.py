"""Gradients of half precision outputs: multiply by weight, count and loss scale first, round last."""

import torch
import torch.nn.functional as F

import headwise as hw
from headwise import losses
from tests.expect import near


def one(loss, **options):
    return hw.Criterion([hw.Term("depth", loss, output="y", target="t", **options)])


def test_a_mean_of_large_residuals_has_a_finite_gradient():
    """Once: residuals above 32752 give -inf at every loss scale; the true gradient is -48.8."""
    y = torch.zeros(64, 64, dtype=torch.float16, requires_grad=True)
    one(losses.squared_error)({"y": y}, {"t": torch.full((64, 64), 1e5)}).total.backward()
    near(y.grad, torch.full((64, 64), -2e5 / 4096), "gradient", 1e-3)


def steps_taken(make_loss):
    torch.manual_seed(0)
    output_layer = torch.nn.Linear(8, 1)
    network = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), output_layer)
    optimizer = torch.optim.Adam(network.parameters(), 1e-2)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)
    x, target, taken = torch.rand(256, 4), torch.full((256, 1), 1e5), 0
    for _ in range(60):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.float16):
            y = network(x)
        scaler.scale(make_loss(y, target)).backward()
        before = output_layer.bias.detach().clone()
        scaler.step(optimizer)
        scaler.update()
        taken += int(not torch.equal(before, output_layer.bias))
    return taken


def test_a_grad_scaler_finds_a_scale():
    """Once: no step of 60 is taken, and the scale falls to nothing; with torch's own loss most are taken."""
    criterion = one(losses.squared_error)
    wanted = steps_taken(lambda y, t: F.mse_loss(y.float(), t))
    found = steps_taken(lambda y, t: criterion({"y": y}, {"t": t}).total)
    assert wanted > 30
    assert found >= wanted - 3, f"{found} of 60 steps, with torch's loss {wanted}"


def test_small_residuals_under_a_loss_scale():
    """Once: residuals of 3e-8 under a scale of 65536: 29 % of error, because they are rounded before the scale."""
    torch.manual_seed(0)
    target = 3e-8 * (0.5 + torch.rand(64))
    y = torch.zeros(64, dtype=torch.float16, requires_grad=True)
    (one(losses.squared_error)({"y": y}, {"t": target}).total * 65536.0).backward()
    near(y.grad, -2 * target.double() / 64 * 65536, "gradient", 2e-3)


def test_cross_entropy_of_many_classes_under_a_loss_scale():
    """Once: gradients of the wrong classes of 32k are flushed before they are scaled: 0.4 % of error, torch 0.02 %."""
    torch.manual_seed(0)
    logits = torch.randn(16, 32000).half()
    label = torch.randint(0, 32000, (16,))
    logits[torch.arange(16), label] += 14  # as of a network that has learned
    y = logits.clone().requires_grad_()
    (one(losses.cross_entropy)({"y": y}, {"t": label}).total * 65536.0).backward()
    exact = logits.double().requires_grad_()
    (F.cross_entropy(exact, label) * 65536.0).backward()
    assert exact.grad is not None
    assert y.grad is not None
    wrong = torch.ones_like(exact.grad, dtype=torch.bool).scatter(1, label[:, None], False)
    error = (y.grad.double() - exact.grad)[wrong].norm() / exact.grad[wrong].norm()
    assert error < 5e-4, f"error {error:.2%}"


def test_focal_gradients_are_not_flushed():
    """Once: of the gradients of easy anchors 90 % are flushed to 0, of torch's formula in float32 a quarter."""
    torch.manual_seed(0)
    logits = (-6 - 3 * torch.rand(2, 2000, 1)).half()
    label = torch.zeros(2, 2000, dtype=torch.long)
    y = logits.clone().requires_grad_()
    criterion = hw.Criterion([hw.Term("depth", losses.sigmoid_focal, 10.0, output="y", target="t")])
    (criterion({"y": y}, {"t": label}).total * 65536.0).backward()
    exact = logits.double().requires_grad_()
    p = exact.sigmoid()
    ((0.75 * p**2 * F.softplus(exact)).sum() / 10 * 65536.0).backward()
    assert exact.grad is not None
    lost = ((y.grad == 0) & (exact.grad.half() != 0)).double().mean()
    assert lost < 0.01, f"{lost:.0%} of the gradients are 0 that half precision can hold"


def test_ordinary_half_precision_is_right():
    """float16 and bfloat16 to their own spacing."""
    torch.manual_seed(0)
    for dtype, tolerance in ((torch.float16, 1e-3), (torch.bfloat16, 8e-3)):
        y = torch.randn(8, 4).to(dtype).requires_grad_()
        target = torch.randn(8, 4)
        total = one(losses.squared_error)({"y": y}, {"t": target}).total
        total.backward()
        assert total.dtype == torch.float32
        near(y.grad, 2 * (y.detach().double() - target.double()) / 32, f"gradient in {dtype}", tolerance)
