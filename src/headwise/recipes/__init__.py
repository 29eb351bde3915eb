"""Recipes: full runs, each a call, which put data, network, preset and optimizer together."""

from typing import Any

from headwise.recipes.boxes.anchor_recipes import retinanet, ssd
from headwise.recipes.boxes.corner_recipes import centernet, cornernet, cornernet_saccade, cornernet_squeeze
from headwise.recipes.pixels.deep_supervision import deep_supervision
from headwise.recipes.pixels.weighted_unet import weighted_unet
from headwise.recipes.run import Recipe
from headwise.recipes.text.textsnake import textsnake

RECIPES: dict[str, Recipe[Any]] = {
    recipe.name: recipe
    for recipe in (
        textsnake,
        cornernet,
        cornernet_squeeze,
        cornernet_saccade,
        centernet,
        retinanet,
        ssd,
        weighted_unet,
        deep_supervision,
    )
}
"""The recipes by name."""

__all__ = [
    "RECIPES",
    "Recipe",
    "textsnake",
    "cornernet",
    "cornernet_squeeze",
    "cornernet_saccade",
    "centernet",
    "retinanet",
    "ssd",
    "weighted_unet",
    "deep_supervision",
]
