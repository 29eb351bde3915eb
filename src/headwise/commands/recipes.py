"""``headwise recipes``: what can be trained by name."""

from __future__ import annotations

import argparse


def declare(parser: argparse.ArgumentParser) -> None:
    """Add no argument.

    Args:
        parser: of the verb.
    """
    del parser


def run(arguments: argparse.Namespace) -> int:
    """List the recipes.

    Args:
        arguments: none.

    Returns:
        The exit code.
    """
    from headwise.presets import card
    from headwise.recipes import RECIPES

    del arguments
    width = max(map(len, RECIPES))
    for name, recipe in RECIPES.items():
        sizes = ", ".join(f"{size} {each.steps} steps of {each.batch_size}" for size, each in recipe.sizes.items())
        print(f"{name:{width}}  {card(name).partition('. ')[0].splitlines()[0].rstrip('.')}\n{'':{width}}  {sizes}")
    print("\nFields, defaults and an example: headwise train NAME --help")
    return 0
