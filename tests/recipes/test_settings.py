"""A setting that nobody reads cannot exist: a proxy writes down which fields of a configuration are read."""

from __future__ import annotations

import sys
from dataclasses import fields, make_dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from headwise.recipes import RECIPES
from headwise.recipes.optimization import make_optimizer, make_scheduler, make_settings
from headwise.recipes.run import PictureFile, Recipe
from headwise.recipes.start import freeze
from headwise.training.ranks import ALONE
from tests.own_data import kit

SMALL = {"num_pictures": 4, "num_held_out": 2, "batch_size": 2, "num_workers": 0}


def recorded(configuration: Any, read: set[str]) -> Any:
    """Return the same configuration, which adds each field that is read to `read`; copies of it do so too."""

    def note(self: Any, name: str) -> Any:
        reader = sys._getframe(1).f_code
        copied = reader.co_filename.endswith("dataclasses.py") or reader.co_name == "__post_init__"
        if not name.startswith("_") and not copied:
            read.add(name)
        return object.__getattribute__(self, name)

    kind = make_dataclass(
        type(configuration).__name__,
        [],
        bases=(type(configuration),),
        namespace={"__getattribute__": note},
        frozen=True,
        kw_only=True,
    )
    own = kind(**{field.name: getattr(configuration, field.name) for field in fields(configuration)})
    read.clear()
    return own


def use(recipe: Recipe[Any], configuration: Any, folder: Path) -> None:
    """Do with a configuration what a run and a prediction do, by one step."""
    configuration = recipe.complete(configuration)
    data = recipe.make_data(configuration)
    list(data.batches(0, 1, configuration.micro_batches, ALONE))
    task = recipe.make_task(configuration)
    data.evaluate(task.network, folder, ALONE)
    make_settings(configuration)
    image = np.zeros((64, 80, 3), np.uint8)
    recipe.predict(task.network.eval(), configuration, [PictureFile(folder / "a.png", image)], None)


def use_at_full_size(recipe: Recipe[Any], configuration: Any) -> None:
    """Make the parts of the authors' network, without its memory."""
    with torch.device("meta"):
        network: nn.Module = recipe.make_network(replace(configuration, **few_classes(configuration)), False)
    recipe.make_criterion(configuration)
    optimizer = make_optimizer(freeze(network, ()), replace(configuration, optimizer="adamw"))
    make_scheduler(optimizer, replace(configuration, schedule="step"))


def few_classes(configuration: Any) -> dict[str, Any]:
    return {"class_names": ("a", "b"), "category_ids": (1, 2)} if hasattr(configuration, "class_names") else {}


@pytest.mark.parametrize("name", RECIPES)
def test_every_field_of_every_recipe_is_read(name, tmp_path):
    recipe = RECIPES[name]
    read: set[str] = set()
    found: set[str] = set()
    tiny = recipe.configure("tiny", SMALL)
    use(recipe, recorded(tiny, read), tmp_path)
    found |= read
    use(recipe, recorded(replace(tiny, data=str(kit.Runs(tmp_path).data(name))), read), tmp_path)
    found |= read
    use_at_full_size(recipe, recorded(recipe.sizes["full"], read))
    found |= read
    unread = {field.name for field in fields(recipe.sizes["full"])} - found
    assert not unread, f"{name} stores {', '.join(sorted(unread))}, and nobody reads it"


def test_the_proxy_sees_what_is_not_read():
    """The proof itself can fail."""
    read: set[str] = set()
    configuration = recorded(RECIPES["ssd"].sizes["tiny"], read)
    assert configuration.batch_size == 8
    replace(configuration, seed=3)
    assert read == {"batch_size"}
