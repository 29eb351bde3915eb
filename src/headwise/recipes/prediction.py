"""From a checkpoint and pictures to files of what was found, for every recipe."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from headwise.recipes import RECIPES
from headwise.recipes.configuration import Configuration
from headwise.recipes.run import Recipe
from headwise.recipes.start import find_checkpoint
from headwise.training.checkpoints import load_checkpoint, write_atomically


def load_network(checkpoint: str | Path) -> tuple[nn.Module, Recipe[Any], Configuration]:
    """Build the network of a checkpoint.

    Args:
        checkpoint: a checkpoint of any recipe, or the folder of a run, whose newest is taken.

    Returns:
        The network in evaluation mode, its recipe, and the configuration that it was trained with.

    Raises:
        ValueError: the file is truncated, no checkpoint, incomplete, or of an unknown recipe.
        FileNotFoundError: there is no such file.
    """
    path = find_checkpoint(checkpoint)
    state = load_checkpoint(path)
    recipe = RECIPES.get(str(state.get("recipe")))
    if recipe is None:
        known = ", ".join(RECIPES)
        raise ValueError(f"{path}: recipe {state.get('recipe')!r} is not known. Use a checkpoint of: {known}.")
    for key in ("arguments", "network"):
        if not isinstance(state.get(key), Mapping):
            raise ValueError(f"{path}: no {key!r} in this checkpoint. Use one that `headwise train` wrote.")
    configuration = recipe.read_configuration(state["arguments"], str(path))
    network = recipe.make_network(configuration, False)
    try:
        network.load_state_dict(state["network"])
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()[:120]
        raise ValueError(
            f"{path}: the weights do not fit the network of its arguments ({reason}). Use another checkpoint."
        ) from None
    return network.eval(), recipe, configuration


def predict(checkpoint: str | Path, images: Iterable[str | Path], out: str | Path) -> list[Path]:
    """Write what a network finds on pictures: ``<picture>.json``, and an overlay ``<picture>.png``, for each.

    All pictures are decoded before anything is written.

    Args:
        checkpoint: as in `load_network`.
        images: files.
        out: folder; created if missing.

    Returns:
        The JSON files, in the order of the pictures; what they hold, the recipe's prediction says.

    Raises:
        ValueError: the checkpoint cannot be used, or two pictures have one name.
        OSError: a picture cannot be read or a result cannot be written.
    """
    from headwise.data import load_picture

    network, recipe, configuration = load_network(checkpoint)
    paths = [Path(image) for image in images]
    names = [path.stem for path in paths]
    for path in paths:
        if names.count(path.stem) > 1:
            raise ValueError(f"{path}: two pictures are called {path.stem!r}. Predict them into two folders.")
        load_picture(path)
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for path in paths:
        found = recipe.predict(network, configuration, path, load_picture(path))
        for ending, content in found.files.items():
            write_atomically(folder / f"{path.stem}{ending}", content)
        written.append(folder / f"{path.stem}.json")
        write_atomically(written[-1], json.dumps(found.record, indent=1).encode() + b"\n")
    return written
