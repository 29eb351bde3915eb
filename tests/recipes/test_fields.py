"""A field takes what its type says, from the command's text as from JSON and Python; anything else is named."""

import json
from dataclasses import asdict

import pytest

from headwise.recipes import RECIPES
from headwise.recipes.fields import describe, list_fields, read_fields
from headwise.recipes.start import freeze, start_from

SADDLE = type(RECIPES["cornernet_saccade"].sizes["full"])
SSD = type(RECIPES["ssd"].sizes["full"])


@pytest.mark.parametrize(
    ("kind", "name", "given", "expected"),
    [
        (SSD, "batch_size", "4", 4),
        (SSD, "batch_size", "1e2", 100),
        (SSD, "batch_size", 4.0, 4),
        (SSD, "learning_rate", "1e-3", 1e-3),
        (SSD, "learning_rate", 1, 1.0),
        (SSD, "crop", "no", False),
        (SSD, "crop", True, True),
        (SSD, "clip_norm", "none", None),
        (SSD, "clip_norm", "2", 2.0),
        (SSD, "optimizer", "sgd", "sgd"),
        (SSD, "mean", "0.1, 0.2, 0.3", (0.1, 0.2, 0.3)),
        (SSD, "mean", [0.1, 0.2, 0.3], (0.1, 0.2, 0.3)),
        (SSD, "class_names", "a,b", ("a", "b")),
        (SSD, "class_names", "a, b,", ("a", "b")),
        (SSD, "freeze", "", ()),
        (SSD, "train_split", "2017", "2017"),
        (SSD, "weights", "Random", None),
        (SADDLE, "crop_ranges", "[[1, 2], (3, 4)]", ((1.0, 2.0), (3.0, 4.0))),
    ],
)
def test_what_fits(kind, name, given, expected):
    found = read_fields(kind, {name: given}, "here")[name]
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("name", "given", "words"),
    [
        ("batch_size", "x", "batch_size is a whole number, at least 1, found 'x'"),
        ("batch_size", "2.5", "a whole number"),
        ("batch_size", True, "a whole number"),
        ("batch_size", None, "a whole number"),
        ("learning_rate", "nan", "a number"),
        ("crop", "maybe", "true or false"),
        ("crop", 2, "true or false"),
        ("optimizer", "adam", "adamw or sgd"),
        ("mean", "0.1, 0.2", "3 of a number"),
        ("mean", "[0.1", "3 of a number"),
        ("train_split", 3, "a text or none"),
        ("freeze", ",", "freeze is a list of a text, found ','"),
        ("freeze", "backbone,,head", "freeze is a list"),
        ("bacth_size", 3, "Did you mean batch_size"),
        ("wholly_other", 3, "There are: activation"),
    ],
)
def test_what_does_not_fit_is_named(name, given, words):
    with pytest.raises(ValueError, match="here: ") as error:
        read_fields(SSD, {name: given}, "here")
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("kind", "name", "given", "words"),
    [
        (SSD, "batch_size", 0, "batch_size is 0, but must be at least 1"),
        (SSD, "learning_rate", 0.0, "learning_rate is 0.0, but must be above 0"),
        (SSD, "drop", 1.5, "above 0 and at most 1"),
        (SSD, "clip_norm", -1.0, "above 0"),
        (SSD, "mirror", 1.01, "at least 0 and at most 1"),
        (SSD, "std", (1.0, 0.0, 1.0), "must be numbers above 0"),
        (SSD, "image_size", 0, "at least 1"),
        (SADDLE, "zooms", (1.0, 2.0, -4.0), "numbers above 0"),
        (SADDLE, "first_sizes", (), "one number or more"),
    ],
)
def test_a_number_out_of_its_range_is_named(kind, name, given, words):
    with pytest.raises(ValueError, match=f"^{name} is ") as error:
        kind(**{name: given})
    assert words in str(error.value)


def test_the_borders_of_a_range_belong_to_it_unless_it_says_above():
    assert SSD(mirror=1.0, drop=1.0, clip_norm=None, freeze=(), num_workers=0).mirror == 1.0
    told = {field.name: describe(field.kind) for field in list_fields(SSD)}
    assert (told["mirror"], told["clip_norm"]) == ("a number, at least 0 and at most 1", "a number, above 0 or none")


@pytest.mark.parametrize("name", RECIPES)
def test_every_field_says_what_it_is_and_survives_json(name):
    for configuration in RECIPES[name].sizes.values():
        kind = type(configuration)
        assert [field.name for field in list_fields(kind) if not field.help] == []
        assert kind.from_dict(json.loads(json.dumps(asdict(configuration))), name) == configuration
        texts = {key: str(value) for key, value in asdict(configuration).items() if value != ()}
        assert {key: kind.from_dict({key: text}, name) for key, text in texts.items()}


def test_a_frozen_part_keeps_its_weights_and_a_name_must_be_there():
    recipe = RECIPES["weighted_unet"]
    network = recipe.make_network(recipe.sizes["tiny"], False)
    first = next(iter(dict(network.named_children())))
    trained = freeze(network, (first,))
    assert 0 < len(trained) < len(list(network.parameters()))
    assert not any(parameter.requires_grad for parameter in network.get_submodule(first).parameters())
    with pytest.raises(ValueError, match="begins with 'nothing'"):
        freeze(network, ("nothing",))
    with pytest.raises(ValueError, match="Leave something to train"):
        freeze(network, tuple(dict(network.named_children())))


def test_weights_from_nowhere(tmp_path):
    with pytest.raises(FileNotFoundError, match="no checkpoint in this folder"):
        start_from(RECIPES["weighted_unet"].make_network(RECIPES["weighted_unet"].sizes["tiny"], False), str(tmp_path))
