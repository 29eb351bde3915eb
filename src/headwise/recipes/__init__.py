"""Recipes: full runs, one Python function each, which put data, network, preset and optimiser together."""

from headwise.recipes.textsnake import textsnake

__all__ = ["textsnake"]
