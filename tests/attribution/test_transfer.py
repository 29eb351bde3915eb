"""transfer: against finite differences and brute force, and what it leaves alone."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from headwise.attribution import Transfer, effect, transfer
from headwise.attribution.jacobians import effect as effects


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.norm, self.head = nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.head(self.norm(self.trunk(x)).tanh())
        return found


def subject() -> tuple[Net, Tensor, Tensor]:
    torch.manual_seed(0)
    return Net().double(), torch.randn(6, 3, dtype=torch.float64), torch.randn(7, 3, dtype=torch.float64)


def terms(y: Tensor) -> dict[str, Tensor]:
    return {"up": (y[:, 0] - 1).square().mean(), "down": (y[:, 0] + 1).square().mean(), "other": y[:, 1].sin().sum()}


def held(y: Tensor) -> dict[str, Tensor]:
    return {"first": (y[:, 0] - 1).abs().mean(), "second": y[:, 1].square().mean()}


def test_equals_finite_differences() -> None:
    model, x, z = subject()
    model.eval()
    found = transfer(lambda: terms(model(x)), lambda: held(model(z)), model)
    assert found.method == "forward"
    for name in found.terms:
        grads = torch.autograd.grad(terms(model(x))[name], list(model.parameters()))
        norm = torch.cat([grad.flatten() for grad in grads]).norm()
        assert found.norms[name] == pytest.approx(float(norm), rel=1e-12)
        sides = []
        for sign in (1, -1):
            with torch.no_grad():
                for parameter, grad in zip(model.parameters(), grads, strict=True):
                    parameter.sub_(sign * 1e-6 * grad / norm)
                sides.append({loss: float(value) for loss, value in held(model(z)).items()})
                for parameter, grad in zip(model.parameters(), grads, strict=True):
                    parameter.add_(sign * 1e-6 * grad / norm)
        for loss in found.held_out:
            wanted = (sides[0][loss] - sides[1][loss]) / 2e-6
            assert found.change(name, loss) == pytest.approx(wanted, rel=1e-6, abs=1e-9)


def test_changes_add_up_to_those_of_the_sum_and_nothing_moves() -> None:
    model, x, z = subject()
    before = {name: each.clone() for name, each in model.state_dict().items()}
    found = transfer(lambda: terms(model(x)), lambda: held(model(z)), model)
    for name, each in model.state_dict().items():
        assert torch.equal(each, before[name])
    assert all(parameter.grad is None for parameter in model.parameters())
    grads = torch.autograd.grad(torch.stack(list(terms(model(x)).values())).sum(), list(model.parameters()))
    model.load_state_dict(before)
    step = {name: -grad for (name, _), grad in zip(model.named_parameters(), grads, strict=True)}
    whole = effect(lambda: held(model(z)), model, step)
    for loss in found.held_out:
        added = sum(found.changes[name, loss] * found.norms[name] for name in found.terms)
        assert added == pytest.approx(whole.change(loss), rel=1e-10)


def test_a_term_that_harms_is_named() -> None:
    model, x, z = subject()
    found = transfer(lambda: terms(model(x)), lambda: held(model(z)), model, terms=("down", "up"))
    assert found.terms == ("down", "up")
    assert found.harms("first") == ("down",)
    assert "down" in str(found)
    mean = Transfer.mean([found, found])
    assert mean.change("down", "second") == pytest.approx(found.change("down", "second"))
    with pytest.raises(ValueError, match="no term 'left' with a graph"):
        transfer(lambda: terms(model(x)), lambda: held(model(z)), model, terms=["left"])
    with pytest.raises(ValueError, match="no held-out loss 'third'"):
        found.change("up", "third")
    with pytest.raises(ValueError, match="at least one"):
        Transfer.mean([])


@pytest.mark.filterwarnings("ignore::headwise.attribution.jacobians.effect.ForwardModeWarning")
@pytest.mark.parametrize("way", ["forward", "rows"])
def test_a_loss_to_which_nothing_leads_is_told_from_one_that_stays(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A 0 would be read as harmless."""
    if way == "rows":
        monkeypatch.setattr(effects, "_forward", refuse)
    model, x, z = subject()
    model.eval()
    before, other = model(z), Net().double().eval()

    def measured() -> dict[str, Tensor | float]:
        y = model(z)
        losses = {"alive": y.square().mean(), "still": y.sum() * 0, "cut": y.detach().square().mean()}
        return {**losses, "number": y.square().mean().item(), "old": before.sum(), "other": other(z).sum()}

    found = transfer(lambda: terms(model(x)), measured, model, terms=["up", "other"])
    assert found.method == way
    # The graph of an earlier pass is there for backward passes.
    cut = ("cut", "number", "old", "other") if way == "forward" else ("cut", "number", "other")
    assert found.unreached == cut
    assert found.values["number"] == found.values["cut"] == pytest.approx(before.square().mean().item())
    assert all(found.change("up", loss) == 0 for loss in (*cut, "still"))
    assert f"{', '.join(cut)}: no parameter that moves leads there" in " ".join(str(found).split())
    assert Transfer.mean([found, found]).unreached == cut
    assert effect(measured, model, {"head.bias": torch.ones(2).double()}).unreached == cut


def refuse(*_: object) -> None:
    raise NotImplementedError("no forward mode")
