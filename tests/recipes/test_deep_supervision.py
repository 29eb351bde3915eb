from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from headwise.presets import deep_supervision as build_criterion
from headwise.recipes.pixels.configuration import DEEP_TINY
from headwise.recipes.pixels.deep_supervision import deep_supervision
from headwise.recipes.pixels.parts import make_data
from headwise.training.ranks import ALONE
from tests.recipes.pixel_runs import SMALL, lines

FALLING: dict[str, Any] = {"auxiliary_every": 1, "auxiliary_negligible": 0.005}
AUXILIARY = [f"levels[{number}]" for number in (1, 2, 3)]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "deep_supervision"
    deep_supervision(out=folder, size="tiny", **SMALL, **FALLING)
    return folder


def test_the_books_show_each_auxiliary_share_fall_to_nothing(run):
    """Weights 1, 0.1, 0.01 and then below what is negligible: exactly 0."""
    books = [entry["terms"]["levels"]["levels"] for entry in lines(run)]
    assert len(books) == 4
    for path in AUXILIARY:
        shares = [levels[path]["share"] for levels in books]
        assert shares[0] > 0.05
        for before, after in pairwise(shares[:3]):
            assert 0 < after < before / 2
        assert shares[3] == books[3][path]["grad_norm"] == books[3][path]["value"] == 0
    for entry, levels in zip(lines(run), books, strict=True):
        assert sum(level["share"] for level in levels.values()) == pytest.approx(1)
        # Each logged number has six digits, so that it is off by 5e-6 of itself at most.
        assert sum(level["weighted"] for level in levels.values()) == pytest.approx(entry["total"], rel=1e-5)
        assert levels["levels[0]"]["grad_norm"] > 0


def test_what_a_level_is_worth_is_its_own_loss(run):
    """The levels' values by hand, from single criteria on each level alone."""
    configuration = deep_supervision.configure("tiny", {**SMALL, **FALLING})
    torch.manual_seed(0)
    network = deep_supervision.make_network(configuration, True)
    batch = next(iter(make_data(configuration).batches(0, 1, 1, ALONE)))
    criterion = deep_supervision.make_criterion(configuration)
    outputs = network(batch.images)
    values = criterion(outputs, batch.targets)["levels"].levels
    assert values is not None
    for number, (value, level) in enumerate(zip(values, outputs["levels"], strict=True)):
        shape = level.shape[-2:]
        rows, columns = (((torch.arange(each) * 2 + 1) * 40) // (2 * each) for each in shape)
        label, weight = (batch.targets[name][:, rows][:, :, columns] for name in ("label", "weight_map"))
        each = torch.nn.functional.cross_entropy(level, label, reduction="none") * weight
        # Divided by what the loss declares, the sum of the weights.
        torch.testing.assert_close(value, each.sum() / weight.sum(), msg=f"level {number}")


def test_the_levels_are_shown_in_samples(run):
    with np.load(run / "samples" / "000.npz") as sample:
        titles = sample["map_titles"].tolist()
        assert [title for title in titles if "level" in title] == [
            f"object (probability), level {number}" for number in (1, 2, 3)
        ]
        assert sample["map_3_values"].shape == (8, 8)


def test_the_tiny_run_ends_without_auxiliary_weights():
    criterion = deep_supervision.make_criterion(DEEP_TINY)
    levels = criterion.terms[0].levels
    assert levels is not None
    assert levels.at(4, 0) == (1, 1, 1, 1)
    assert levels.at(4, DEEP_TINY.steps - 1) == (1, 0, 0, 0)
    assert criterion.to_dict() != build_criterion().to_dict()


def test_levels_need_padding():
    with pytest.raises(ValueError, match="different parts of the image"):
        deep_supervision.make_network(deep_supervision.configure("tiny", {"padding": "valid"}), True)
