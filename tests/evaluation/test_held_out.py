"""Pictures read together: what a network says of each is what it says of it alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from headwise.evaluation.held_out import run_together
from headwise.recipes import RECIPES
from headwise.recipes.run import PictureFile


class Heads(nn.Module):
    """Nested outputs, and batch normalization, which would mix pictures in training mode."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(4)
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), self.norm)
        self.sizes: list[int] = []

    def forward(self, images: Tensor) -> dict[str, Any]:
        self.sizes.append(len(images))
        seen = self.body(images)
        return {"stacks": [{"heat": seen, "sum": seen.sum((2, 3))}], "mean": seen.mean((1, 2, 3))}


def test_rows_of_each_picture_come_back_to_it():
    torch.manual_seed(0)
    network = Heads().double().train()
    nn.init.normal_(network.norm.get_buffer("running_mean"))
    inputs = [
        torch.randn(rows, 3, *size).double() for rows, size in ((2, (8, 6)), (1, (8, 6)), (2, (8, 6)), (2, (4, 4)))
    ]
    found = run_together(network, inputs)
    assert network.sizes == [4, 1, 2]
    assert network.training
    network.eval()
    for rows, outputs in zip(inputs, found, strict=True):
        alone = network(rows)
        torch.testing.assert_close(outputs["stacks"][0], alone["stacks"][0])
        torch.testing.assert_close(outputs["mean"], alone["mean"])
        assert not outputs["mean"].requires_grad
    assert run_together(network, []) == []


@pytest.mark.parametrize("name", ["textsnake", "weighted_unet", "deep_supervision", "cornernet", "centernet", "ssd"])
def test_a_batch_of_predictions_is_one_run_of_the_network(name, tmp_path):
    """Of two pictures of one size and one of another; each alone gives the same."""
    small = {"textsnake": {"inference_size": 64, "width": 8}}.get(name, {})
    recipe = RECIPES[name]
    configuration = recipe.complete(recipe.configure("tiny", {"num_pictures": 2, "num_held_out": 1, **small}))
    torch.manual_seed(0)
    network, runs = recipe.make_network(configuration, False).eval(), list[int]()
    network.register_forward_pre_hook(lambda module, given: runs.append(len(given[0])))
    rng = np.random.default_rng(0)
    shapes = [(48, 64), (48, 64), (40, 140)]
    pictures = [
        PictureFile(tmp_path / f"{n}.png", rng.integers(0, 255, (*s, 3), np.uint8)) for n, s in enumerate(shapes)
    ]
    together = recipe.predict(network, configuration, pictures, None)
    assert len(runs) <= 2 + (name == "ssd"), runs
    for picture, found in zip(pictures, together, strict=True):
        (alone,) = recipe.predict(network, configuration, [picture], None)
        assert found.record.keys() == alone.record.keys()
        assert found.files.keys() == alone.files.keys()
        if found.boxes is not None and alone.boxes is not None:
            count = min(20, len(alone.boxes["scores"]))
            torch.testing.assert_close(
                found.boxes["scores"][:count], alone.boxes["scores"][:count], rtol=1e-4, atol=1e-5
            )
