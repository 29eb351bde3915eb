"""The one walker: what it finds, in one order, under one spelling, and what it builds again."""

from __future__ import annotations

import enum
from collections import OrderedDict, UserDict, namedtuple
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from headwise.criterion.terms.paths import parse
from headwise.structure import by_path, flatten, get, leaves, mapped, mapped_by_path, spell, walk


class Part(enum.Enum):
    HEAD = "head"


class Name(str, enum.Enum):  # noqa: UP042, the kind that prints as Name.BOX
    BOX = "box"


@dataclass(frozen=True)
class Record:
    first: Any
    second: Any


Pair = namedtuple("Pair", "left right")
a, b, c = torch.zeros(1), torch.ones(2), torch.full((3,), 2.0)

STRUCTURES = {
    "dict": {"a": a, "b": [b, {"c": c}]},
    "ordered": OrderedDict(a=a, b=(b, c)),
    "user dict": UserDict(a=a, b=b),
    "read only": MappingProxyType({"a": a}),
    "named tuple": Pair(a, [b]),
    "dataclass": Record(a, {"x": Record(b, c)}),
    "returned by torch": torch.zeros(3, 2).max(0),
    "other leaves": {"a": a, "n": 3, "s": "text", "none": None, "size": torch.Size([1])},
    "odd keys": {(1, 2): a, Part.HEAD: b, None: c, 1.5: a, True: b, "": c, Name.BOX: a},
}


def keys():
    """Keys of every kind."""
    texts = st.text(max_size=4) | st.sampled_from(["a.b", "a[0]", "*", "0", "[:, 0]", "it's", "]", "\\", "\n"])
    numbers = st.integers(-3, 3) | st.floats(allow_nan=False) | st.booleans() | st.none()
    return texts | numbers | st.tuples(texts, numbers) | st.sampled_from([*Part, *Name]) | st.binary(max_size=2)


@settings(deadline=None, max_examples=100)
@given(st.lists(keys(), min_size=1, max_size=5))
def test_a_place_is_read_back_from_its_spelling(steps):
    structure: Any = a
    for key in reversed(steps):
        structure = {key: structure, "beside": None}
    ((path, found),) = leaves(structure)
    assert found is a
    assert "\n" not in path
    assert get(structure, parse(path).steps) is a
    assert spell(steps) == path


@pytest.mark.parametrize("name", STRUCTURES)
def test_flatten_and_leaves_and_a_map_see_the_same_tensors(name):
    structure = STRUCTURES[name]
    spec, tensors = flatten(structure)
    assert [id(each) for each in tensors] == [id(each) for _, each in leaves(structure)]
    assert hash(spec) == hash(flatten(mapped(structure, torch.clone))[0])
    doubled = mapped(structure, lambda tensor: tensor * 2)
    assert type(doubled) is type(structure)
    for (path, before), (again, after) in zip(walk(structure), walk(doubled), strict=True):
        assert path == again
        assert torch.equal(before * 2, after) if isinstance(before, torch.Tensor) else before == after
    named = by_path(mapped_by_path(structure, lambda path, tensor: (path, tensor)[1]))
    assert list(named) == [path for path, _ in leaves(structure)]


def test_the_spec_tells_structures_apart_by_all_but_their_tensors():
    same = [{"a": a, "b": [b]}, {"a": c, "b": [torch.zeros(2, 2)]}]
    others = [
        {"a": a, "b": (b,)},
        {"a": a, "c": [b]},
        {"b": [b], "a": a},
        {"a": a, "b": [3]},
        [a, [b]],
        {"a": a, "b": b},
    ]
    specs = {flatten(each)[0] for each in others}
    assert flatten(same[0])[0] == flatten(same[1])[0]
    assert len(specs) == len(others)
    assert flatten(same[0])[0] not in specs


def test_a_lone_tensor_has_a_name():
    assert list(by_path(a)) == ["output"]
    assert list(by_path(a, "target")) == ["target"]
