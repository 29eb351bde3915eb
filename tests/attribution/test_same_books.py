"""A criterion, `wrap` and `watch` on one training give the same books, over all examples: to 1e-6, in float64.

The foreign forms are written by hand in plain torch; where an example trains a preset, they are the bare values of a
copy of it, which no ledger keeps.
"""

from __future__ import annotations

import copy
import runpy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import headwise as hw
from headwise.attribution import watch, wrap
from headwise.losses import absolute_error, squared_error
from headwise.structure import mapped

EXAMPLES = Path(__file__).parents[2] / "examples"
WIDE = torch.float64
Losses = Callable[[Any, Any], dict[str, Tensor]]


@dataclass
class Case:
    """An example.

    Args:
        network: Everything that is trained.
        outputs: What a step of the network gives, and the targets.
        criterion: As declared.
        foreign: The bare losses.
    """

    network: nn.Module
    outputs: Callable[[int], tuple[Any, Any]]
    criterion: hw.Criterion
    foreign: Losses


class Network(nn.Module):
    """The network of an example, however its loop calls it; it counts as one head."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        self.trained, self.case = case.network, case
        self.targets: Any = None

    def forward(self, step: int) -> Any:
        torch.manual_seed(step)
        found, self.targets = self.case.outputs(step)
        return found


class Returning(nn.Module):
    """A model that returns its losses."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        self.network, self.foreign = Network(case), case.foreign

    def forward(self, step: int) -> dict[str, Tensor]:
        return self.foreign(self.network(step), self.network.targets)


def example(name: str) -> dict[str, Any]:
    return runpy.run_path(str(EXAMPLES / f"{name}.py"))


def wide(data: Any) -> Any:
    return mapped(data, lambda each: each.to(WIDE) if each.is_floating_point() else each)


def values_of(criterion: hw.Criterion) -> Losses:
    bare = copy.deepcopy(criterion)
    return lambda outputs, targets: {name: entry.value for name, entry in bare(outputs, targets).items()}


def three_outputs() -> Case:
    parts = example("books_of_three_outputs")
    return _three(parts, parts["ThreeOutputs"](), parts["criterion"])


def which_loss_trains_what() -> Case:
    pytest.importorskip("torchvision")
    parts = example("which_loss_trains_what")
    return _three(parts, parts["ThreeHeads"](), parts["CRITERION"], lambda found: found[0][..., ::2, ::2])


def _three(parts: Mapping[str, Any], network: nn.Module, criterion: hw.Criterion, image: Any = lambda b: b[0]) -> Case:
    network = network.double()

    def outputs(step: int) -> tuple[Any, Any]:
        batch = parts["batch"](step)
        found = network(wide(image(batch)))
        targets = batch[1] | {name: batch[1][name] for name in ("mask", "depth")}
        for name in ("mask", "depth"):
            targets[name] = F.interpolate(targets[name], found[name].shape[2:])
        return found, wide(targets)

    def foreign(outputs: Any, targets: Any) -> dict[str, Tensor]:
        return {
            "label": F.cross_entropy(outputs["label"], targets["label"]),
            "mask": F.binary_cross_entropy_with_logits(outputs["mask"], targets["mask"]),
            "depth": F.l1_loss(outputs["depth"], targets["depth"]),
        }

    return Case(network, outputs, criterion, foreign)


def segmenter() -> Case:
    pytest.importorskip("torchvision")
    parts = example("books_of_a_segmenter")
    network = parts["deeplabv3_mobilenet_v3_large"](weights=None, weights_backbone=None, num_classes=3, aux_loss=True)
    network = network.double()

    def outputs(step: int) -> tuple[Any, Any]:
        images, labels = parts["batch"](step)
        return dict(network(images.double())), {"target": labels}

    def foreign(outputs: Any, targets: Any) -> dict[str, Tensor]:
        return {
            name: F.cross_entropy(outputs[name], targets["target"], ignore_index=parts["IGNORED"])
            for name in ("out", "aux")
        }

    return Case(network, outputs, parts["criterion"], foreign)


def two_bert_heads() -> Case:
    pytest.importorskip("transformers")
    parts = example("books_of_two_bert_heads")
    config = parts["BertConfig"](
        vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64
    )
    network = _without_dropout(parts["BertForPreTraining"](config).double())

    def words(output: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(output.flatten(0, 1), target.flatten(), reduction="sum")

    def outputs(step: int) -> tuple[Any, Any]:
        batch = parts["batch"](step)
        found = network(input_ids=batch["input_ids"], token_type_ids=batch["token_type_ids"])
        return {name: found[name] for name in ("prediction_logits", "seq_relationship_logits")}, {
            name: batch[name] for name in ("labels", "next_sentence_label")
        }

    criterion = hw.Criterion(
        [
            hw.Term("words", words, lambda t: (t != -100).sum(), output="prediction_logits", target="labels"),
            hw.Term("order", hw.losses.cross_entropy, output="seq_relationship_logits", target="next_sentence_label"),
        ]
    )

    def foreign(outputs: Any, targets: Any) -> dict[str, Tensor]:
        found: dict[str, Tensor] = parts["heads"](outputs, targets)
        return found

    return Case(network, outputs, criterion, foreign)


def in_transformers() -> Case:
    pytest.importorskip("transformers")
    parts = example("books_in_transformers")
    network = _without_dropout(parts["TwoHeads"]().double())

    def outputs(step: int) -> tuple[Any, Any]:
        rows = [parts["sample"](8 * step + number) for number in range(8)]
        batch = {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
        summary = network.body(input_ids=batch["input_ids"]).pooler_output
        found = {"topic": network.topic(summary), "length": network.length(summary).squeeze(1)}
        return found, wide({"topic": batch["topic"], "length": batch["length"]})

    def foreign(outputs: Any, targets: Any) -> dict[str, Tensor]:
        return {
            "topic": F.cross_entropy(outputs["topic"], targets["topic"]),
            "length": F.mse_loss(outputs["length"], targets["length"]),
        }

    return Case(network, outputs, network.criterion, foreign)


def a_curve() -> Case:
    """As the loops of Accelerate and Lightning have it: two terms that read a channel each of one output."""
    network = nn.Sequential(nn.Linear(1, 32), nn.Tanh(), nn.Linear(32, 2)).double()
    criterion = hw.Criterion(
        [
            hw.Term("height", squared_error, output="y[:, 0]", target="height"),
            hw.Term("slope", absolute_error, output="y[:, 1]", target="slope", weight=0.5),
        ]
    )

    def outputs(step: int) -> tuple[Any, Any]:
        x = torch.linspace(-3, 3, 32, dtype=WIDE) + step
        return {"y": network(x[:, None])}, {"height": x.sin(), "slope": x.cos()}

    def foreign(outputs: Any, targets: Any) -> dict[str, Tensor]:
        y = outputs["y"]
        return {"height": F.mse_loss(y[:, 0], targets["height"]), "slope": F.l1_loss(y[:, 1], targets["slope"])}

    return Case(network, outputs, criterion, foreign)


def routed() -> Case:
    """A mixture of experts, whose routers' losses are booked in the middle of the network."""
    parts = example("books_of_a_mixture_of_experts")
    network = nn.Sequential(nn.Linear(3, 8), parts["Mixture"](8), parts["Mixture"](8), nn.Linear(8, 2)).double()
    criterion = hw.Criterion([hw.Term("curve", squared_error, output="curve", target="curve")])

    def outputs(step: int) -> tuple[Any, Any]:
        points = torch.randn(64, 3, dtype=WIDE)
        return {"curve": network(points)}, {"curve": torch.stack([points.prod(-1), points.norm(dim=-1)], -1)}

    # The router's loss follows the total of a criterion: the foreign form has to be one, of one term.
    return Case(network, outputs, criterion, lambda outputs, targets: {"curve": criterion(outputs, targets).total})


def actor_critic() -> Case:
    parts = example("presets/actor_critic")
    network = parts["ActorCritic"]().double()
    criterion = hw.presets.actor_critic()

    def outputs(step: int) -> tuple[Any, Any]:
        torch.set_default_dtype(WIDE)
        try:
            cells, actions, returns, advantage = wide(parts["play"](_Wide(network)))
            policy, value = _Wide(network)(cells)
        finally:
            torch.set_default_dtype(torch.float32)
        found = {"log_probability": policy.log_prob(actions), "value": value, "entropy": policy.entropy()}
        return found, {"advantage": advantage, "return": returns}

    return Case(network, outputs, criterion, values_of(criterion))


class _Wide:
    """Calls a network whose code casts to `float` with inputs of float64."""

    def __init__(self, network: Any) -> None:
        self.network = network

    def __call__(self, cell: Tensor) -> tuple[torch.distributions.Categorical, Tensor]:
        network = self.network
        hot = F.one_hot(cell, network.trunk.in_features).to(WIDE)
        actor, critic = network.junction(network.trunk(hot).tanh())
        return torch.distributions.Categorical(logits=network.actor(actor)), network.critic(critic).squeeze(-1)


def energy_and_forces() -> Case:
    parts = example("presets/energy_and_forces")
    network, criterion = parts["Potential"]().double(), hw.presets.energy_and_forces()

    def outputs(step: int) -> tuple[Any, Any]:
        positions, targets = wide(parts["batch"](step))
        return network(positions, targets["atoms"]), targets

    return Case(network, outputs, criterion, values_of(criterion))


def mixture_of_experts() -> Case:
    """The routers' logits are outputs, and the network reads them again."""
    parts = example("presets/mixture_of_experts")
    network, criterion = parts["LanguageModel"]().double(), hw.presets.mixture_of_experts()

    def outputs(step: int) -> tuple[Any, Any]:
        tokens, targets = parts["batch"](step)
        return network(tokens[:8]), {"label": targets["label"][:8]}

    return Case(network, outputs, criterion, values_of(criterion))


def physics_informed() -> Case:
    parts = example("presets/physics_informed")
    network, criterion = parts["Rod"]().double(), hw.presets.physics_informed()

    def outputs(step: int) -> tuple[Any, Any]:
        x, t, end, when, start = (torch.rand(num, 1, dtype=WIDE) for num in (32, 32, 8, 8, 8))
        zero = torch.zeros_like(start)
        found = {
            "residual": network.residual(x, t),
            "boundary": network(end.round(), when),
            "initial": network(start, zero),
        }
        return found, {
            "residual": torch.zeros_like(x),
            "boundary": zero,
            "initial": parts["solution"](start, zero),
        }

    return Case(network, outputs, criterion, values_of(criterion))


def two_tower() -> Case:
    parts = example("presets/two_tower")
    network, criterion = parts["TwoTowers"]().double(), hw.presets.two_tower()

    def outputs(step: int) -> tuple[Any, Any]:
        image, text = wide(parts["batch"](step, 8))
        return network(image, text), {"pair": torch.arange(8)}

    return Case(network, outputs, criterion, values_of(criterion))


def vq_gan() -> Case:
    """Features and the judge's logits are computed from the picture, which is an output too."""
    parts = example("presets/vq_gan")
    network, judge = parts["Autoencoder"]().double(), parts["convolutions"](3, 16, 16, 1).double()
    eye = parts["convolutions"](3, 8, 8).requires_grad_(False).double()
    criterion = hw.presets.vq_gan(adversarial_weight=0.8)

    def outputs(step: int) -> tuple[Any, Any]:
        image = wide(parts["batch"](step))[:2]
        found = network(image)
        made = found["image"]
        return found | {"features": [eye(made)], "fake_logits": judge(made)}, {"image": image, "features": [eye(image)]}

    return Case(nn.ModuleList([network, judge]), outputs, criterion, values_of(criterion))


def _without_dropout(network: nn.Module) -> Any:
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return network


CASES: list[Callable[[], Case]] = [
    three_outputs, which_loss_trains_what, segmenter, two_bert_heads, in_transformers, a_curve, routed, actor_critic,
    energy_and_forces, mixture_of_experts, physics_informed, two_tower, vq_gan,
]  # fmt: skip
"""Every file of examples/ but one: Faster R-CNN computes its losses inside, and no criterion can (below)."""


def the_same(found: Any, wanted: Any, what: str) -> None:
    assert set(found) == set(wanted), what
    assert found.balanced, (what, found)
    assert found.total == pytest.approx(wanted.total, rel=1e-6)
    for name, each in wanted.items():
        for number in ("value", "weight", "weighted", "share", "grad_norm"):
            expected = getattr(each, number)
            assert getattr(found[name], number) == pytest.approx(expected, rel=1e-6, abs=1e-9), (what, name, number)
    for pair, cosine in wanted.cosines.items():
        near = cosine if cosine is None else pytest.approx(cosine, rel=1e-6, abs=1e-9)
        assert found.cosine(*pair) == near, (what, pair)


@pytest.mark.parametrize("build", CASES, ids=lambda build: build.__name__)
def test_the_same_books_by_three_ways_in(build):
    torch.manual_seed(0)
    case = build()
    weights = {name: float(each) for name, each in case.criterion.weights.items()}
    wrapped, model = wrap(case.foreign), Returning(case)
    network = model.network
    watched = watch(model, ["network"])
    try:
        for step in range(2):
            with hw.Ledger(case.criterion) as ledger:
                case.criterion(network(step), network.targets).total.backward()
                declared = ledger.read()
            assert declared.balanced, declared
            losses = wrapped(network(step), network.targets)
            sum(weights[name] * each for name, each in losses.items()).backward()
            the_same(wrapped.ledger.read(), declared, "wrap")
            sum(weights[name] * each for name, each in model(step).items()).backward()
            the_same(watched.ledger.read(), declared, "watch")
    finally:
        wrapped.ledger.close()
        watched.close()


def _keep(held: dict[str, Any], name: str, module: nn.Module, given: Any, output: Any) -> None:
    held[name] = output


def test_the_same_books_of_a_detector_by_two_ways_in():
    pytest.importorskip("torchvision")
    parts = example("books_of_a_detector")
    torch.manual_seed(0)
    model = parts["fasterrcnn_mobilenet_v3_large_320_fpn"](
        weights=None, weights_backbone=None, num_classes=3, min_size=96, max_size=96
    )
    heads = ["rpn.head", "roi_heads.box_predictor"]
    held: dict[str, Any] = {}
    for name in heads:
        model.get_submodule(name).register_forward_hook(partial(_keep, held, name.rpartition(".")[2]))
    watched, automatic, wrapped = watch(model, heads), watch(model), wrap(lambda outputs, losses: losses)
    try:
        losses = model(*parts["batch"](0))
        sum(wrapped(held, losses).values()).backward()
        named, found, theirs = watched.ledger.read(), automatic.ledger.read(), wrapped.ledger.read()
        the_same(theirs, named, "wrap")
        the_same(found, named, "watch without heads")
    finally:
        watched.close()
        automatic.close()
        wrapped.ledger.close()
