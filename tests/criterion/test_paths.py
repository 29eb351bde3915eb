from __future__ import annotations

from collections import namedtuple
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from headwise.criterion.terms.mask_expressions import parse_mask
from headwise.criterion.terms.paths import WILDCARD, Slice, expand, parse
from headwise.structure import get, leaves


@dataclass
class Heads:
    heat: torch.Tensor
    extra: list[torch.Tensor]


Point = namedtuple("Point", "x y")


@pytest.mark.parametrize(
    ("text", "steps", "channels"),
    [
        ("maps", ("maps",), None),
        ("maps[:, 0:2]", ("maps",), Slice(1, 0, 2)),
        ("maps[:,4]", ("maps",), Slice(1, 4, 5, keep=False)),
        ("maps[:, -1]", ("maps",), Slice(1, -1, 0, keep=False)),
        ("maps[:, 4:]", ("maps",), Slice(1, 4, None)),
        ("maps[..., :2]", ("maps",), Slice(-1, None, 2)),
        ("stacks[0].heat", ("stacks", 0, "heat"), None),
        ("stacks[*].heat", ("stacks", WILDCARD, "heat"), None),
        ("['odd key'].x", ("odd key", "x"), None),
        ("[1][:, 0:2]", (1,), Slice(1, 0, 2)),
        ("fpn.0", ("fpn", "0"), None),
    ],
)
def test_parse(text, steps, channels):
    path = parse(text)
    assert (path.steps, path.channels, str(path)) == (steps, channels, text)


@pytest.mark.parametrize(
    "text", ["", "a..b", "a[", "a[:, 0:2].b", "a[1:2]", "a b", ".a", "a[:, x]", "a[:, 1:2:3]", "a.[0]"]
)
def test_unreadable_paths_are_refused(text):
    with pytest.raises(ValueError, match=r"path"):
        parse(text)


def test_get_reads_every_kind_of_structure():
    a, b, c, d = (torch.full((1,), float(i)) for i in range(4))
    structure = {"heads": Heads(a, [b]), "point": Point(c, d), "odd key": {"0": a}}
    for text, wanted in [
        ("heads.heat", a), ("heads.extra[0]", b), ("heads.extra[-1]", b), ("point.x", c), ("point.y", d),
        ("['odd key'][0]", a), ("['odd key'].0", a),
    ]:  # fmt: skip
        assert get(structure, parse(text).steps) is wanted
    assert [path for path, _ in leaves(structure)] == [
        "heads.heat",
        "heads.extra[0]",
        "point.x",
        "point.y",
        "['odd key'].0",
    ]


def test_leaves_are_paths_that_parse_back():
    structure = {"a": [{"b": torch.zeros(1)}, {"c d": torch.ones(1)}], "2": (torch.zeros(2),)}
    for path, tensor in leaves(structure):
        assert get(structure, parse(path).steps) is tensor


def test_expand_lists_all_levels():
    structure = {"stacks": [{"att": [torch.zeros(1)] * 3}] * 2}
    places = expand(parse("stacks[*].att[*]"), structure)
    assert list(places) == [(s, a) for s in range(2) for a in range(3)]
    assert places[1, 2] == ("stacks", 1, "att", 2)


def test_missing_key_lists_what_there_is_and_guesses():
    with pytest.raises(KeyError, match=r"no key 'heatmpa'. Found: heatmap, offset. Did you mean 'heatmap'"):
        get({"heatmap": torch.zeros(1), "offset": torch.zeros(1)}, ("heatmpa",))


def test_bounds_of_channels():
    tensor = torch.zeros(2, 7, 3)
    assert Slice(1, -1, 0, keep=False).bounds(tensor) == (6, 7)
    assert Slice(1, -3, -1).bounds(tensor) == (4, 6)
    assert Slice(-1, None, 2).bounds(tensor) == (0, 2)
    for bad in (Slice(1, 5, 8), Slice(1, 3, 3), Slice(1, -8, None), Slice(1, 7, 8, keep=False)):
        with pytest.raises(IndexError, match="the tensor has 7"):
            bad.bounds(tensor)
    with pytest.raises(IndexError, match="no dimension"):
        Slice(1, 0, 1).bounds(torch.zeros(3))


@st.composite
def expressions(draw, depth=3):
    if depth == 0 or draw(st.booleans()):
        return draw(st.sampled_from("abc"))
    kind = draw(st.sampled_from(["~", "&", "|", "()"]))
    inner = draw(expressions(depth=depth - 1))
    if kind == "~":
        return f"~({inner})" if draw(st.booleans()) else f"~{inner}"
    if kind == "()":
        return f"({inner})"
    return f"{inner} {kind} {draw(expressions(depth=depth - 1))}"


@given(expressions())
@settings(deadline=None, max_examples=150)
def test_masks_agree_with_python(text):
    values = {
        name: torch.tensor(bits, dtype=torch.bool)
        for name, bits in zip("abc", ([0, 0, 1, 1], [0, 1, 0, 1], [1, 1, 0, 1]), strict=True)
    }
    found = parse_mask(text).evaluate(lambda path: values[path.text], "alpha")
    assert torch.equal(found, eval(text, {}, values))


def test_a_mask_of_any_dtype_means_greater_than_zero():
    for dtype in (torch.uint8, torch.int64, torch.float32):
        read = {parse("m"): torch.tensor([0, 1, 128], dtype=dtype)}
        assert parse_mask("m").evaluate(read.__getitem__, "alpha").tolist() == [False, True, True]


@pytest.mark.parametrize("text", ["", "a &", "& a", "(a", "a)", "a b", "~", "a ! b", "a & | b"])
def test_unreadable_masks_are_refused(text):
    with pytest.raises(ValueError, match=r"mask|path"):
        parse_mask(text)


def test_mask_operands_of_two_shapes_are_refused():
    shapes = {"a": torch.ones(2, 3, dtype=torch.bool), "b": torch.ones(3, dtype=torch.bool)}
    with pytest.raises(ValueError, match=r"one shape; found \(2, 3\) and \(3,\)"):
        parse_mask("a & b").evaluate(lambda path: shapes[path.text], "alpha")
