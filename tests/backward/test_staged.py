"""Heads run one after another: the plain gradients, in the memory of one head."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import headwise as hw
from headwise import backward, losses


def convolutions(channels: int, out: int, depth: int = 2) -> nn.Sequential:
    layers: list[nn.Module] = []
    for _ in range(depth):
        layers += [nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv2d(channels, out, 1))


class Net(nn.Module):
    """A trunk and heads; the plain way is `forward`."""

    def __init__(self, num_heads: int = 3, channels: int = 6, depth: int = 2) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.trunk = nn.Sequential(nn.Conv2d(3, channels, 3, padding=1), nn.Tanh())
            self.heads = nn.ModuleList([convolutions(channels, 2, depth) for _ in range(num_heads)])

    def named(self) -> dict[str, Callable[[Any], Any]]:
        return {f"h{number}": head for number, head in enumerate(self.heads)}

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        features = self.trunk(images)
        return {name: head(features) for name, head in self.named().items()}


def terms(num_heads: int = 3, **options: Any) -> hw.Criterion:
    rows = [
        hw.Term(f"t{n}", losses.cross_entropy, output=f"h{n}", target=f"label{n}", mask="valid", weight=1.0 + n)
        for n in range(num_heads)
    ]
    return hw.Criterion(rows, **options)


def batch(num_heads: int = 3, num: int = 4, size: int = 6) -> tuple[Tensor, dict[str, Tensor]]:
    draw = torch.Generator().manual_seed(1)
    targets = {f"label{n}": torch.rand(num, size, size, generator=draw) < 0.3 for n in range(num_heads)}
    valid = torch.rand(num, size, size, generator=draw) < torch.linspace(0.05, 1, num).reshape(-1, 1, 1)
    return torch.randn(num, 3, size, size, generator=draw), targets | {"valid": valid}


def gradients(network: nn.Module) -> list[Tensor]:
    return [each.grad.clone() for each in network.parameters() if each.grad is not None]


def plain(network: nn.Module, criterion: hw.Criterion, images: Tensor, targets: Any) -> tuple[list[Tensor], Any]:
    network.zero_grad()
    breakdown = criterion(network(images), targets)
    breakdown.total.backward()
    return gradients(network), breakdown


def assert_equal(found: list[Tensor], wanted: list[Tensor]) -> None:
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted, strict=True):
        assert (one - other).norm() <= 1e-6 * other.norm()


@pytest.mark.parametrize("num_heads", [1, 3])
def test_gradients_and_books_are_the_plain_ones(num_heads):
    network, criterion, (images, targets) = Net(num_heads), terms(num_heads), batch(num_heads)
    wanted, breakdown = plain(network, criterion, images, targets)
    network.zero_grad()
    found = backward.staged(criterion, network.trunk(images), network.named(), targets)
    assert_equal(gradients(network), wanted)
    assert found.total == breakdown.total
    assert list(found) == list(breakdown)
    for name, entry in found.items():
        assert entry.value == breakdown[name].value
        assert not entry.weighted.requires_grad
    assert set(found.log("train")) == set(breakdown.log("train"))


def test_terms_that_read_two_heads_make_one_stage():
    def together(one: Tensor, other: Tensor) -> Tensor:
        return (one - other).square().sum()

    network, (images, targets) = Net(3), batch(1)
    seen: list[str] = []
    rows = [
        hw.Term("pair", together, 1.0, output=("h2", "h0")),
        hw.Term("alone", losses.cross_entropy, output="h1", target="label0", mask="valid"),
        hw.Term("more", losses.cross_entropy, output="h0", target="label0"),
    ]
    criterion = hw.Criterion(rows)
    wanted, _ = plain(network, criterion, images, targets)
    network.zero_grad()

    def watched(name: str, head: Any) -> Callable[[Any], Any]:
        def run(features: Any) -> Any:
            seen.append(name)
            return head(features)

        return run

    heads = {name: watched(name, head) for name, head in network.named().items()}
    backward.staged(criterion, network.trunk(images), heads, targets)
    assert seen == ["h0", "h2", "h1"]
    assert_equal(gradients(network), wanted)


class Pyramid(nn.Module):
    """RetinaNet's shape of problem: two towers shared over levels."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.trunk = nn.Conv2d(3, 4, 3, padding=1)
            self.logits, self.deltas = convolutions(4, 3), convolutions(4, 4)

    def features(self, images: Tensor) -> list[Tensor]:
        fine = self.trunk(images)
        return [fine, nn.functional.avg_pool2d(fine, 2)]

    def tower(self, name: str) -> Callable[[list[Tensor]], list[Tensor]]:
        head = getattr(self, name)
        return lambda features: [head(each).flatten(2).transpose(1, 2) for each in features]

    def forward(self, images: Tensor) -> dict[str, Any]:
        features = self.features(images)
        pairs = zip(self.tower("logits")(features), self.tower("deltas")(features), strict=True)
        return {"levels": [{"logits": logits, "deltas": deltas} for logits, deltas in pairs]}


def pyramid_targets(num: int = 2) -> dict[str, Any]:
    draw = torch.Generator().manual_seed(3)
    sizes = (36, 9)
    return {
        "levels": [
            {"label": torch.randint(-1, 4, (num, size), generator=draw), "deltas": torch.randn(num, size, 4)}
            for size in sizes
        ]
    }


def test_retinanet_over_a_pyramid():
    network, criterion, targets = Pyramid(), hw.presets.retinanet(), pyramid_targets()
    images = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(2))
    wanted, breakdown = plain(network, criterion, images, targets)
    network.zero_grad()
    heads = {f"levels[*].{name}": network.tower(name) for name in ("logits", "deltas")}
    found = backward.staged(criterion, network.features(images), heads, targets)
    assert_equal(gradients(network), wanted)
    assert found.total == breakdown.total


def test_stacked_outputs_of_a_head_and_a_ratio_term():
    network, (images, targets) = Net(2), batch(2)
    label = {"label0": targets["label0"].unsqueeze(1).expand(-1, 2, -1, -1), "label1": targets["label1"]}

    def stacked(head: Any) -> Callable[[Any], Any]:
        return lambda features: [head(features), head(features * 0.5)]

    rows: list[hw.Term | hw.RatioTerm] = [
        hw.RatioTerm("overlap", losses.dice, output="stacks[*].h0", target="label0"),
        hw.Term("class", losses.cross_entropy, output="stacks[*].h1", target="label1", levels=hw.Levels([1, 0.5])),
    ]
    criterion = hw.Criterion(rows)
    heads = {f"stacks[*].{name}": stacked(head) for name, head in network.named().items()}
    features = network.trunk(images)
    both = zip(heads["stacks[*].h0"](features), heads["stacks[*].h1"](features), strict=True)
    breakdown = criterion({"stacks": [{"h0": one, "h1": other} for one, other in both]}, label)
    breakdown.total.backward()
    wanted = gradients(network)
    network.zero_grad()
    found = backward.staged(criterion, network.trunk(images), heads, label)
    assert_equal(gradients(network), wanted)
    torch.testing.assert_close(found["class"].levels, breakdown["class"].levels.detach())


def test_micro_batches_with_totaled_sums_add_up_to_the_batch():
    network, criterion, (images, targets) = Net(), terms(), batch()
    wanted, _ = plain(network, criterion, images, targets)
    network.zero_grad()
    parts = [slice(0, 1), slice(1, 4)]
    micro = [{name: each[part] for name, each in targets.items()} for part in parts]
    pooled = hw.pool_denominators(criterion, micro)
    for part, each in zip(parts, micro, strict=True):
        features = network.trunk(images[part])
        backward.staged(criterion, features, network.named(), each, denominators=pooled, factor=8.0)
    assert_equal([grad / 8 for grad in gradients(network)], wanted)


def test_weights_and_schedules_are_those_of_the_criterion():
    network, criterion, (images, targets) = Net(1), terms(1), batch(1)
    first = backward.staged(criterion, network.trunk(images), network.named(), targets)
    criterion.set_weight("t0", lambda step: 2.0 + step)
    criterion.advance(3)
    second = backward.staged(criterion, network.trunk(images), network.named(), targets)
    assert (first["t0"].weight, second["t0"].weight) == (1.0, 5.0)


def test_under_autocast_and_with_a_frozen_trunk():
    network, criterion, (images, targets) = Net(), terms(), batch()
    with torch.autocast("cpu", torch.bfloat16):
        features = network.trunk(images)
        backward.staged(criterion, features, network.named(), targets)
    assert len(gradients(network)) == len(list(network.parameters()))
    network.zero_grad()
    network.trunk.requires_grad_(False)
    backward.staged(criterion, (network.trunk(images),), {n: _first(h) for n, h in network.named().items()}, targets)
    assert len(gradients(network)) == len(list(network.heads.parameters()))


def _first(head: Any) -> Callable[[Any], Any]:
    return lambda features: head(features[0])


class Saved:
    """Counts the bytes that autograd keeps; parameters and shared storages once."""

    def __init__(self) -> None:
        self.live = self.peak = 0
        self.count: dict[int, int] = {}

    def pack(self, tensor: Tensor) -> Any:
        storage = tensor.untyped_storage()
        key = storage.data_ptr()
        self.count[key] = self.count.get(key, 0) + 1
        if self.count[key] == 1:
            self.live += storage.nbytes()
            self.peak = max(self.peak, self.live)
        return _Held(self, tensor, key, storage.nbytes())


class _Held:
    def __init__(self, owner: Saved, tensor: Tensor, key: int, nbytes: int) -> None:
        self.owner, self.tensor, self.key, self.nbytes = owner, tensor, key, nbytes

    def __del__(self) -> None:
        self.owner.count[self.key] -= 1
        if self.owner.count[self.key] == 0:
            self.owner.live -= self.nbytes


def test_memory_is_that_of_one_head():
    num = 8
    network, criterion, (images, targets) = Net(num, depth=4), terms(num), batch(num, num=2, size=12)

    def peak(run: Callable[[], object]) -> int:
        saved = Saved()
        with torch.autograd.graph.saved_tensors_hooks(saved.pack, lambda held: held.tensor):
            run()
        return saved.peak

    at_once = peak(lambda: plain(network, criterion, images, targets))
    apart = peak(lambda: backward.staged(criterion, network.trunk(images), network.named(), targets))
    assert apart <= 0.4 * at_once


def test_misuse_is_told():
    network, criterion, (images, targets) = Net(), terms(), batch()
    features, heads = network.trunk(images), network.named()

    def staged(**changes: Any) -> None:
        given = {"criterion": criterion, "features": features, "heads": heads, "targets": targets} | changes
        backward.staged(**given)

    with pytest.raises(ValueError, match="term 't2': output 'h2' is made by no head"):
        staged(heads={name: heads[name] for name in ("h0", "h1")})
    with pytest.raises(ValueError, match="head 'h3' is read by no term"):
        staged(heads=heads | {"h3": heads["h0"]})
    with pytest.raises(ValueError, match="without a slice"):
        staged(heads=heads | {"h0[:, 0:1]": heads["h0"]})
    with pytest.raises(ValueError, match="target 'extra'"):
        staged(targets=targets | {"extra": torch.zeros(1)})
    with pytest.raises(ValueError, match="found int"):
        staged(features=[features, 3])
    with pytest.raises(ValueError, match=r"functions of the features, .* found int at 'h1'"):
        staged(heads=heads | {"h1": 3})
    with pytest.raises(ValueError, match=r"functions of the features, .* found list"):
        staged(heads=[*heads.values()])
    with pytest.raises(ValueError, match=r"needs a list with one result a level; found Tensor"):
        staged(heads={"h0[*]": heads["h0"], **{name: heads[name] for name in ("h1", "h2")}})
    with hw.Ledger(criterion), pytest.raises(ValueError, match="a ledger is open"):
        staged()
    staged(criterion=terms(2, unread=["h2"]), targets={k: v for k, v in targets.items() if k != "label2"})


def test_a_pooled_ratio_and_a_lone_target():
    network, (images, targets) = Net(1), batch(1)
    label = targets["label0"].unsqueeze(1).expand(-1, 2, -1, -1)
    criterion = hw.Criterion([hw.RatioTerm("overlap", losses.dice, output="h0", target="target")])
    criterion(network(images), label).total.backward()
    wanted = gradients(network)
    network.zero_grad()
    parts = [slice(0, 1), slice(1, 4)]
    pooled = hw.pool_ratios(criterion, ((network(images[part]), label[part]) for part in parts))
    for part in parts:
        features = network.trunk(images[part])
        backward.staged(criterion, features, network.named(), label[part], denominators=pooled)
    assert_equal(gradients(network), wanted)

    plain_term = hw.Criterion([hw.Term("error", losses.squared_error, output="h0", target="target")])
    assert plain_term.denominators(label)["error"] == label.numel()
