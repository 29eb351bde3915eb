"""Balancing: shares that come true, EnCodec's rule written anew, states, micro-batches, scales, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import headwise as hw
from headwise import losses
from tests.asserts import ForbidSync


class Two(nn.Module):
    """A trunk and two heads, with a junction between them."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.trunk = nn.Linear(4, 8)
            self.near, self.far = nn.Linear(8, 2), nn.Linear(8, 2)
        self.junction = hw.Junction("trunk", ["near", "far"])

    def forward(self, x: Tensor) -> dict[str, Any]:
        near, far = self.junction(self.trunk(x).tanh())
        return {"near": self.near(near), "far": self.far(far)}


def two_terms(large: float = 1.0, **options: Any) -> hw.Criterion:
    return hw.Criterion(
        [
            hw.Term("near", losses.squared_error, output="near", target="near", weight=large),
            hw.Term("far", losses.absolute_error, output="far", target="far", **options),
        ]
    )


def batches(num: int, size: int = 16, seed: int = 0) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
    """Noise on a function: norms move, and do not fall to nothing."""
    draw = torch.Generator().manual_seed(seed)
    for _ in range(num):
        x = torch.randn(size, 4, generator=draw)
        noise = torch.randn(2, size, 2, generator=draw)
        yield x, {"near": x[:, :2] + noise[0], "far": 5 * x[:, 2:] + noise[1]}


def realized(books: list[hw.attribution.Books]) -> dict[str, float]:
    """Mean over steps of each term's share of the sum of norms."""
    shares: dict[str, float] = dict.fromkeys(books[0], 0.0)
    for each in books:
        size = sum(term.grad_norm for term in each.values())
        for name, term in each.items():
            shares[name] += term.grad_norm / size / len(books)
    return shares


@pytest.mark.parametrize(("large", "at", "split"), [
    (1.0, "outputs", 1), (1.0, "trunk", 1), (1000.0, "outputs", 1), (1000.0, "trunk", 1), (1000.0, "outputs", 4),
])  # fmt: skip
def test_shares_come_true(large: float, at: str, split: int) -> None:
    network, criterion = Two(), two_terms(large)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    rule = hw.balance.Shares({"near": 1, "far": 3}, at=at)
    with hw.Ledger(criterion, network, optimizer=optimizer, balance=rule) as ledger:
        for x, targets in batches(100):
            optimizer.zero_grad()
            for part in torch.arange(len(x)).chunk(split):  # accumulated
                own = {name: each[part] for name, each in targets.items()}
                (criterion(network(x[part]), own).total / split).backward()
            optimizer.step()
        history = ledger.history()
    if at == "outputs":
        assert realized(history[-50:]) == pytest.approx({"near": 0.25, "far": 0.75}, abs=0.03)
    else:
        norms = [each.features["trunk"].grad_norm for each in history[-50:]]
        near = sum(each["near"] / sum(each.values()) for each in norms) / 50
        assert near == pytest.approx(0.25, abs=0.03)
    assert history[0]["near"].weight == large
    assert history[-1]["near"].weight != large
    assert history[-1].balanced
    last = history[-1]
    assert last["near"].weighted == pytest.approx(last["near"].weight * last["near"].value)


@pytest.mark.parametrize("weights", [[1.0], [1.0, 0.5, 0.25]])
def test_shares_on_one_output_and_over_levels(weights: list[float]) -> None:
    terms = [
        hw.Term("a", losses.squared_error, output="maps[*]", target="a", levels=hw.Levels(weights)),
        hw.Term("b", losses.absolute_error, output="maps[*]", target="b", levels=hw.Levels([1.0] * len(weights))),
    ]
    criterion = hw.Criterion(terms)
    maps = [torch.zeros(2, 3, requires_grad=True) for _ in weights]
    draw = torch.Generator().manual_seed(0)
    with hw.Ledger(criterion, balance=hw.balance.Shares({"a": 2, "b": 1}), capacity=100) as ledger:
        for _ in range(100):
            targets = {name: torch.randn(2, 3, generator=draw) for name in "ab"}
            breakdown = criterion({"maps": maps}, targets)
            torch.testing.assert_close(breakdown.total, sum(entry.weighted for entry in breakdown.values()))
            breakdown.total.backward()
            criterion.advance()
        history = ledger.history()
    assert realized(history[-40:]) == pytest.approx({"a": 2 / 3, "b": 1 / 3}, abs=0.03)


def encodec(gradients: list[dict[str, Tensor]], weights: dict[str, float], decay: float) -> Tensor:
    """The balancer's gradient at the last step (Défossez et al. 2022, section 3.4), with its averages."""
    total, fix = dict.fromkeys(weights, 0.0), 0.0
    for each in gradients:
        fix = fix * decay + 1
        for name, grad in each.items():
            total[name] = total[name] * decay + float(grad.norm())
    out = torch.zeros_like(gradients[0]["a"])
    for name, weight in weights.items():
        ratio = weight / sum(weights.values())
        out += gradients[-1][name] * (ratio * 1.0 / (1e-12 + total[name] / fix))
    return out


def test_direction_is_that_of_encodec() -> None:
    output = torch.randn(3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    weights = {"a": 1.0, "b": 3.0, "c": 0.5}
    terms = [
        hw.Term("a", losses.squared_error, output="y", target="a", weight=100.0),
        hw.Term("b", losses.absolute_error, output="y", target="b"),
        hw.Term("c", losses.smooth_l1, output="y", target="c", weight=0.01),
    ]
    criterion, draw, seen = hw.Criterion(terms), torch.Generator().manual_seed(2), []
    with hw.Ledger(criterion, balance=hw.balance.Shares(weights, decay=0.8), balance_every=1):
        for _ in range(6):
            targets = {name: torch.randn(3, 5, dtype=torch.float64, generator=draw) for name in weights}
            values = criterion({"y": output}, targets)
            rows = {n: torch.autograd.grad(e.value, output, retain_graph=True)[0] for n, e in values.items()}
            seen.append(rows)
            values.total.backward()
            criterion.advance()
        ours = sum(float(weight) * seen[-1][name] for name, weight in criterion.weights.items())
    wanted = encodec(seen, weights, 0.8)
    assert isinstance(ours, Tensor)
    torch.testing.assert_close(ours / ours.norm(), wanted / wanted.norm(), rtol=1e-5, atol=1e-7)


def run(steps: Iterator[Any], rule: Any, state: Any = None, *, scale: float = 1.0, split: int = 1) -> Any:
    """Trains on batches; the weights used, the network, and what is to be saved."""
    network, criterion = Two(), two_terms()
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-2)
    with hw.Ledger(criterion, network, optimizer=optimizer, balance=rule) as ledger:
        if state is not None:
            network.load_state_dict(state["network"])
            ledger.load_state_dict(state["ledger"])
        for x, targets in steps:
            optimizer.zero_grad()
            parts = [{name: each.chunk(split)[n] for name, each in targets.items()} for n in range(split)]
            pooled = hw.pool_denominators(criterion, parts) if split > 1 else None
            for part, images in zip(parts, x.chunk(split), strict=True):
                (scale * criterion(network(images), part, pooled).total).backward()
            for parameter in network.parameters():
                assert parameter.grad is not None
                parameter.grad /= scale
            optimizer.step()
        weights = [[term.weight for term in books.values()] for books in ledger.history()]
        kept = {"network": network.state_dict(), "ledger": ledger.state_dict()}
    assert criterion.balance is None
    return weights, kept


RULES = [
    lambda: hw.balance.Shares({"near": 1, "far": 3}),
    lambda: hw.balance.Shares({"near": 2, "far": 1}, at="trunk"),
    hw.balance.GradNorm,
    hw.balance.Uncertainty,
]


@pytest.mark.parametrize("make", RULES)
def test_resumed_equals_uninterrupted_to_the_bit(make: Any, tmp_path: Any) -> None:
    whole, kept = run(batches(12), make())
    first = list(batches(12))
    early, state = run(iter(first[:5]), make())
    torch.save(state, tmp_path / "state.pt")
    late, resumed = run(iter(first[5:]), make(), torch.load(tmp_path / "state.pt", weights_only=True))
    assert early + late == whole
    for name, tensor in kept["network"].items():
        assert torch.equal(tensor, resumed["network"][name])


@pytest.mark.parametrize("make", RULES)
def test_loss_scale_and_micro_batches_change_nothing(make: Any) -> None:
    plain, _ = run(batches(8), make())
    scaled, _ = run(batches(8), make(), scale=65536.0)
    split, _ = run(batches(8), make(), split=4)
    assert torch.tensor(scaled).numpy() == pytest.approx(torch.tensor(plain).numpy(), rel=1e-5)
    assert torch.tensor(split).numpy() == pytest.approx(torch.tensor(plain).numpy(), rel=1e-4)
    assert plain[-1] != plain[0]


def test_nothing_waits_and_no_pass_is_added() -> None:
    network, criterion = Two(), two_terms()
    passes = []
    with hw.Ledger(criterion, network, balance=hw.balance.Shares()):
        network.trunk.weight.register_hook(lambda grad: passes.append(1))
        for x, targets in batches(3):
            with ForbidSync():
                criterion(network(x), targets).total.backward()
                criterion.advance()
    assert len(passes) == 3


@pytest.mark.parametrize("num", [2, 3])
def test_two_launches_a_term_at_most(num: int) -> None:
    from benchmarks.actions import small

    assert small(num, "balance") - small(num, "ledger") <= 2 * num


def test_a_rule_may_write_into_its_own_vector() -> None:
    class Counting:
        at = "outputs"

        def __init__(self) -> None:
            self.found = torch.zeros(1)

        def check(self, terms: Any) -> None: ...

        def weights(self, step: int, gram: Any) -> Tensor:
            return self.found.add_(1)

    output = torch.ones(2, requires_grad=True)
    criterion = hw.Criterion([hw.Term("a", losses.squared_error, output="y", target="t")])
    used = []
    with hw.Ledger(criterion, balance=Counting(), balance_every=1):  # type: ignore[arg-type]
        for _ in range(4):
            breakdown = criterion({"y": output}, {"t": torch.zeros(2)})
            breakdown.total.backward()
            used.append(float(breakdown.total.detach() / breakdown["a"].value.detach()))
            criterion.advance()
    assert used == [1.0, 1.0, 2.0, 3.0]


def test_steps_between_are_not_looked_at() -> None:
    class Counting(hw.balance.Shares):
        def weights(self, step: int, gram: hw.balance.StepGram) -> Tensor:
            seen.append((step, gram.since))
            return super().weights(step, gram)

    network, criterion = Two(), two_terms()
    seen: list[tuple[int, int]] = []
    with hw.Ledger(criterion, balance=Counting(), balance_every=3):
        found = []
        for x, targets in batches(8):
            criterion(network(x), targets).total.backward()
            criterion.advance()
            found.append(tuple(float(each) for each in criterion.weights.values()))
    assert seen == [(0, 1), (3, 3), (6, 3)]
    assert found[0] == found[1] == found[2] != found[3]
    assert len(set(found)) == 3
    with pytest.raises(ValueError, match=r"balance_every are at least 1; found 1024, 1 and 0"):
        hw.Ledger(criterion, balance=hw.balance.Shares(), balance_every=0)


def test_a_step_that_is_not_finite_or_empty_teaches_nothing() -> None:
    y = torch.ones(4, 2, requires_grad=True)
    criterion = hw.Criterion([hw.Term(name, losses.squared_error, output="y", target=name, mask="m") for name in "ab"])
    mask = torch.ones(4, 2, dtype=torch.bool)
    with hw.Ledger(criterion, balance=hw.balance.Shares({"a": 1, "b": 1}), balance_every=1):
        found = []
        for goal, kept in ((3.0, mask), (float("inf"), mask), (5.0, ~mask), (3.0, mask)):
            targets = {"a": torch.full((4, 2), goal), "b": torch.full((4, 2), -9.0), "m": kept}
            criterion({"y": y}, targets).total.backward()
            criterion.advance()
            found.append([float(each) for each in criterion.weights.values()])
    assert all(each == pytest.approx(found[0]) for each in found)
    assert found[0][0] / found[0][1] == pytest.approx(5)
    assert 2 * found[0][0] + 10 * found[0][1] == pytest.approx(2 + 10)


def test_terms_that_are_not_named_keep_their_weight() -> None:
    network, criterion = Two(), two_terms(weight=0.3)
    with hw.Ledger(criterion, network, balance=hw.balance.Shares({"near": 1})):
        for x, targets in batches(3):
            criterion(network(x), targets).total.backward()
        assert float(criterion.weights["far"]) == pytest.approx(0.3)
        assert float(criterion.weights["near"]) == pytest.approx(1.0)


def test_a_loop_that_weighs_terms_itself_does_not_run_away() -> None:
    network, criterion = Two(), two_terms()
    with hw.Ledger(criterion, network, balance=hw.balance.Shares()):
        found = []
        for x, targets in batches(30):
            breakdown = criterion(network(x), targets)
            (0.3 * breakdown["near"].value + 2 * breakdown["far"].value).backward()
            criterion.advance()
            found.append(float(criterion.weights["near"]))
    assert max(found) / min(found) < 10


def test_grad_norm_by_hand() -> None:
    y = torch.zeros(1, requires_grad=True)
    criterion = hw.Criterion([hw.Term(n, lambda o, t: (o * t + t).sum(), 1.0, output="y", target=n) for n in "ab"])
    with hw.Ledger(criterion, balance=hw.balance.GradNorm(alpha=1.0, rate=0.1), balance_every=1):
        factor, first = [1.0, 1.0], [4.0, 1.0]
        for norms in ([4.0, 1.0], [2.0, 1.0], [1.0, 1.0]):
            criterion({"y": y}, {n: torch.tensor([g]) for n, g in zip("ab", norms, strict=True)}).total.backward()
            criterion.advance()
            sent = [f * u for f, u in zip(factor, norms, strict=True)]
            left = [v / start for v, start in zip(norms, first, strict=True)]  # values equal norms here
            goals = [sum(sent) / 2 * each / (sum(left) / 2) for each in left]
            signs = [(each > goal) - (each < goal) for each, goal in zip(sent, goals, strict=True)]
            factor = [f - 0.1 * s * u / (sum(norms) / 2) for f, s, u in zip(factor, signs, norms, strict=True)]
            factor = [2 * f / sum(factor) for f in factor]
            assert [float(each) for each in criterion.weights.values()] == pytest.approx(factor, rel=1e-5)


def test_uncertainty_settles_at_one_over_the_value() -> None:
    y = torch.zeros(3, requires_grad=True)
    criterion = hw.Criterion(
        [hw.Term(n, losses.squared_error, output="y", target=n, weight=w) for n, w in (("a", 1.0), ("b", 0.5))]
    )
    targets = {"a": torch.full((3,), 2.0), "b": torch.full((3,), 0.5)}
    with hw.Ledger(criterion, balance=hw.balance.Uncertainty(rate=0.5), balance_every=1):
        for _ in range(80):
            criterion({"y": y}, targets).total.backward()
            criterion.advance()
        found = {name: float(each) for name, each in criterion.weights.items()}
    assert found == pytest.approx({"a": 1 / 4, "b": 0.5 / (0.5 * 0.25)}, rel=1e-3)


def test_scalarizers_of_torchjd() -> None:
    scalarization = pytest.importorskip("torchjd.scalarization")
    network, criterion = Two(), two_terms()
    x, targets = next(batches(1))
    values = {name: float(entry.value.detach()) for name, entry in criterion(network(x), targets).items()}
    for function in (scalarization.GeometricMean(), scalarization.UW(2), scalarization.Mean()):
        with hw.Ledger(criterion, balance=hw.balance.Scalarizer(function, rate=0.1)) as ledger:
            criterion(network(x), targets).total.backward()
            criterion.advance()
            found = {name: float(each) for name, each in criterion.weights.items()}
            state = ledger.state_dict()["balance"]["rule"]
        if isinstance(function, scalarization.GeometricMean):
            mean = (values["near"] * values["far"]) ** 0.5
            assert found == pytest.approx({name: mean / 2 / value for name, value in values.items()}, rel=1e-4)
        else:
            assert found == pytest.approx(dict.fromkeys(values, 0.5))
        if isinstance(function, scalarization.UW):
            slope = [0.5 - 0.5 * value for value in values.values()]
            assert state["log_var"].tolist() == pytest.approx([-0.1 * each for each in slope], rel=1e-4)


def test_a_rule_of_ones_own() -> None:
    class Inverse:
        at = "outputs"

        def check(self, terms: Any) -> None:
            assert tuple(terms) == ("near", "far")

        def weights(self, step: int, gram: hw.balance.StepGram) -> Tensor:
            books = ledger.read()
            for name, norm in zip(gram.terms, gram.norms.tolist(), strict=True):
                assert books[name].grad_norm == pytest.approx(norm)
                assert gram.norm(name) == pytest.approx(norm)
                assert gram.cosine("near", "far") is None
            assert gram.where.step == step
            return 1 / gram.norms

        def state_dict(self) -> dict[str, Any]:
            return {}

        def load_state_dict(self, state: Any) -> None:
            pass

    network, criterion = Two(), two_terms()
    x, targets = next(batches(1))
    with hw.Ledger(criterion, balance=Inverse()) as ledger:
        criterion(network(x), targets).total.backward()
        criterion.advance()
        criterion(network(x), targets).total.backward()
        books = ledger.read()
    assert [term.grad_norm for term in books.values()] == pytest.approx([1, 1])


def test_what_cannot_be_is_refused() -> None:
    network, criterion = Two(), two_terms()
    with pytest.raises(ValueError, match="no term 'dpeth'"):
        hw.Ledger(criterion, balance=hw.balance.Shares({"dpeth": 1}))
    with pytest.raises(ValueError, match=r"the share of .* is a positive number"):
        hw.balance.Shares({"near": 0})
    with pytest.raises(ValueError, match="decay is in"):
        hw.balance.Shares(decay=1.0)
    with pytest.raises(ValueError, match=r"no junction 'neck' .* only outputs, trunk"):
        hw.Ledger(criterion, network, balance=hw.balance.Shares(at="neck"))
    readers = (("a", "near"), ("b", "near"), ("c", "far"))
    shared = hw.Criterion([hw.Term(name, losses.squared_error, output=head, target="t") for name, head in readers])
    at_trunk, told = hw.balance.Shares(at="trunk"), "'near' is read by 'a', 'b'"
    with hw.Ledger(shared, network, balance=at_trunk), pytest.raises(ValueError, match=told):
        shared(network(torch.zeros(1, 4)), {"t": torch.zeros(1, 2)})
    with (
        hw.Ledger(criterion, network, balance=hw.balance.Shares()) as ledger,
        pytest.raises(ValueError, match="of 3 terms"),
    ):
        ledger.load_state_dict({"balance": {"factor": torch.ones(3), "steps": 1, "rule": {}}})
    with hw.Ledger(criterion, network, balance=hw.balance.Shares()) as ledger:
        balanced = ledger.state_dict()
    with hw.Ledger(criterion, network) as ledger:
        with pytest.raises(ValueError, match="that Shares balanced, and this ledger has no balance"):
            ledger.load_state_dict(balanced)
        with pytest.raises(ValueError, match=r"found \['term_weights.step'.*Hand over what ledger.state_dict"):
            ledger.load_state_dict(criterion.state_dict())


def test_a_copy_has_no_balance() -> None:
    import copy

    network, criterion = Two(), two_terms()
    x, targets = next(batches(1))
    with hw.Ledger(criterion, network, balance=hw.balance.Shares()):
        criterion(network(x), targets).total.backward()
        criterion.advance()
        assert criterion.balance is not None
        assert copy.deepcopy(criterion).balance is None
