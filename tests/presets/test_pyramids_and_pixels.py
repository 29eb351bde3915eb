"""Presets of pyramids and pixels: one graph without a sync, books, configurations and cards."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch.utils._pytree import tree_leaves, tree_map

import headwise as hw
from headwise.criterion.schedules import StepDecay
from tests.criterion.test_junction import NoSync
from tests.presets.detectors.test_anchor_family import EXTRA, RETINANET, pyramid
from tests.presets.pixels.test_unet_and_deep_supervision import levels


def samples():
    """Per preset: criterion, outputs and targets in float32."""
    retinanet = pyramid(RETINANET, "basic", torch.float32, cuts=(12,))
    ssd = pyramid(EXTRA, "ssd_basic", torch.float32, deltas="loc_encoded", cuts=(12,))
    pixels = levels([(6, 6), (3, 3)], torch.float32)
    label = torch.randint(0, 3, (2, 6, 6), generator=torch.Generator().manual_seed(1))
    unet = {"label": label, "weight_map": torch.rand(2, 6, 6, generator=torch.Generator().manual_seed(2))}
    return {
        "retinanet": (hw.presets.retinanet(), *retinanet),
        "retinanet_published": (hw.presets.retinanet(as_published=True), *retinanet),
        "ssd": (hw.presets.ssd(num_levels=2), *ssd),
        "ssd_published": (hw.presets.ssd(as_published=True, num_levels=2), *ssd),
        "weighted_unet": (hw.presets.weighted_unet(normalizer="weight_sum"), pixels[:1], {"logits": pixels[0]}, unet),
        "deep_supervision": (
            hw.presets.deep_supervision(weights=[1.0, StepDecay()], strides=[1, 2]),
            pixels,
            {"levels": pixels},
            {"label": label},
        ),
    }


@pytest.mark.parametrize("name", ["retinanet", "ssd", "weighted_unet", "deep_supervision"])
def test_no_sync_one_graph_and_books(name):
    criterion, _, outputs, targets = samples()[name]
    outputs = tree_map(lambda output: output.detach().requires_grad_(), outputs)
    with NoSync(), hw.Ledger(criterion) as ledger:
        total = criterion(outputs, targets).total
        total.backward()
    wanted = tuple(leaf.grad for leaf in tree_leaves(outputs))
    assert ledger.read().total == pytest.approx(total.item(), rel=1e-6)
    torch._dynamo.reset()
    outputs = tree_map(lambda output: output.detach().requires_grad_(), outputs)
    compiled = torch.compile(lambda o: criterion(o, targets).total, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(torch.autograd.grad(compiled(outputs), tree_leaves(outputs)), wanted)


def test_books_say_which_level_trains_what():
    criterion, _, outputs, targets = samples()["retinanet"]
    with hw.Ledger(criterion) as ledger:
        criterion(outputs, targets).total.backward()
        books = ledger.read()
    assert set(books["classification"].outputs) == {"levels[0].logits", "levels[1].logits"}
    assert all(each.grad_norm > 0 for each in books["classification"].outputs.values())


@pytest.mark.parametrize("name", list(samples()))
def test_configuration_and_card(name):
    criterion = samples()[name][0]
    assert hw.Criterion.from_json(criterion.to_json()).to_dict() == criterion.to_dict()
    card = hw.presets.card(name.removesuffix("_published"))
    for term in criterion.names:
        assert term in card


def test_names_are_those_of_the_shared_table():
    assert hw.presets.retinanet().names == hw.presets.ssd().names == ("classification", "box")
    assert hw.presets.weighted_unet().names == ("segmentation",)
    assert hw.presets.deep_supervision().names == ("levels",)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (
            lambda: hw.presets.retinanet(focal="focal"),  # type: ignore[arg-type]
            "'sigmoid' or 'shifted'.*found 'focal'",
        ),
        (lambda: hw.presets.retinanet(focal="sigmoid", as_published=True), "'shifted' as published; found 'sigmoid'"),
        (lambda: hw.presets.ssd(num_levels=0), "num_levels is at least 1, found 0"),
        (
            lambda: hw.presets.weighted_unet(normalizer="average"),  # type: ignore[arg-type]
            "'mean', 'weight_sum' or 'sum'.*found 'average'",
        ),
        (lambda: hw.presets.weighted_unet(normalizer="mean", as_published=True), "'sum' as published; found 'mean'"),
        (partial(hw.presets.deep_supervision, strides=[0]), "strides are whole numbers from 1"),
    ],
)
def test_message(call, words):
    with pytest.raises(ValueError, match=words):
        call()
