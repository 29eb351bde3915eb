"""The page on a run: a norm is a norm, and a picture has its file's name."""

from __future__ import annotations

import json
import math
import re
from typing import Any

import pytest

from tests.own_data import kit

SUM = r"(?<![\d.])0\.7640*(?!\d)"


def by_hand(folder, terms, cosine=None):
    """A run folder of one logged step; ``terms`` is term -> output -> gradient norm."""
    folder.mkdir()
    config = {
        "recipe": "mine",
        "preset": "mine",
        "seed": 0,
        "steps": 1,
        "arguments": {},
        "terms": list(terms),
        "card": "",
    }
    (folder / "config.json").write_text(json.dumps(config))
    entry: dict[str, Any] = {
        "step": 1,
        "time": 1.0,
        "images_per_second": 8.0,
        "learning_rate": 1e-3,
        "total": 1.0 * len(terms),
    }
    entry["terms"] = {
        name: {
            "value": 1.0, "weight": 1.0, "weighted": 1.0, "share": 1 / len(terms), "finite": True, "levels": {},
            "grad_norm": math.hypot(*outputs.values()),
            "outputs": {path: {"grad_norm": norm, "finite": True} for path, norm in outputs.items()},
        }
        for name, outputs in terms.items()
    }  # fmt: skip
    entry["cosine"] = cosine or {}
    (folder / "log.jsonl").write_text(json.dumps(entry) + "\n")
    return folder


def page(run):
    result = kit.headwise("report", "--no-png", run)
    assert result.code == 0, result.said
    return (run / "report" / "index.html").read_text()


def test_the_norm_of_a_term_over_two_outputs_is_no_sum(tmp_path):
    """0.3127 and 0.4513: together 0.549, the root of the sum of squares; their sum, 0.764, is no norm of anything."""
    text = page(by_hand(tmp_path / "run", {"heat": {"a": 0.3127, "b": 0.4513}, "size": {"c": 0.2}}))
    assert "0.549" in text
    assert not re.search(SUM, text)


def test_the_norm_at_an_output_of_two_terms_is_no_sum(tmp_path):
    """Two terms on one output with a cosine of 0.48: sqrt(a^2 + b^2 + 2 a b 0.48), or no number."""
    first, second = 0.3127, 0.4513
    text = page(by_hand(tmp_path / "run", {"sin": {"a": first}, "cos": {"a": second}}, {"sin|cos": 0.48}))
    assert not re.search(SUM, text)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["ssd", "weighted_unet"])
def test_pictures_have_the_names_of_their_files(tmp_path, recipe):
    if recipe == "ssd":
        data = kit.coco(tmp_path / "data", names="street_{:02d}.jpg")
        names = [f"street_{index:02d}" for index in range(6)]
    else:
        data = kit.instances(tmp_path / "data")
        names = [f"coins_{index}" for index in range(4)]
        for index, name in enumerate(names):
            for kind in ("pictures", "labels"):
                (data / "held_out" / kind / f"i{index}.png").rename(data / "held_out" / kind / f"{name}.png")
    assert kit.train(recipe, data, tmp_path / "run").code == 0
    text, shown = page(tmp_path / "run"), len(kit.held_out_images(tmp_path / "run"))
    assert sum(name in text for name in names) == shown > 0


def test_the_page_shows_one_norm_as_it_is(tmp_path):
    """A control."""
    text = page(by_hand(tmp_path / "run", {"heat": {"a": 0.3127}, "size": {"c": 0.2001}}))
    assert "0.3127" in text
