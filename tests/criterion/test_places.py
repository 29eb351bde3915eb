"""One tensor has one name, however it is written; any key can be named, or is refused with its name."""

import enum
import re
from collections import namedtuple
from dataclasses import dataclass

import pytest
import torch

from headwise import losses
from tests.criterion import told as kit


class Part(enum.Enum):
    HEAD = "head"


@dataclass
class Fields:
    first: torch.Tensor
    last: torch.Tensor


Named = namedtuple("Named", "first last")
x, z, y = kit.number(), kit.number(), torch.randn(2, 3, 4, 4)

ALIASES = {
    "a list from its end": ([z, x], "x[1]", "x[-1]"),
    "a list of one from its end": ([x], "x[0]", "x[-1]"),
    "a tuple from its end": ((x, z), "x[0]", "x[-2]"),
    "a list within a list": ([[z, x]], "x[0][1]", "x[-1][-1]"),
    "an index with a dot": ([x, z], "x[0]", "x.0"),
    "a key of digits": ({"0": x, "b": z}, "x['0']", "x[0]"),
    "a key of digits with a dot": ({"0": x, "b": z}, "x['0']", "x.0"),
    "a number as key": ({0: x, 1: z}, "x[0]", "x.0"),
    "a key in quotes": ({"a": x, "b": z}, "x.a", "x['a']"),
    "other quotes": ({"a b": x, "b": z}, "x['a b']", 'x["a b"]'),
    "a field in quotes": (Named(x, z), "x.first", "x['first']"),
    "a field of a dataclass": (Fields(x, z), "x.first", "x['first']"),
}


def unread_of(node):
    """What else there is to declare."""
    return [path for path in ("x[0]", "x[1]", "x[0][0]", "x.b", "x.last") if path_holds(node, path)]


def path_holds(node, path):
    steps = re.findall(r"\[(\d)\]|\.(\w+)", path)
    for index, name in steps:
        if name and isinstance(node, Named | Fields):
            node = getattr(node, name, None)
        elif name and isinstance(node, dict):
            node = node.get(name)
        elif index and isinstance(node, list | tuple) and not isinstance(node, Named):
            node = node[int(index)] if int(index) < len(node) else None
        elif index and isinstance(node, dict):
            node = node.get(int(index))
        else:
            return False
    return node is z


@pytest.mark.parametrize("case", ALIASES)
def test_two_spellings_of_one_output(case):
    """The books see one output, not two whose cosine is unknown."""
    node, one, other = ALIASES[case]
    books = kit.call(
        {"x": node}, {"y": y},
        kit.term("alpha", output=one), kit.term("beta", losses.absolute_error, output=other), unread=unread_of(node),
    )[1]  # fmt: skip
    difference = x.detach() - y
    found = books.cosine("alpha", "beta")
    assert found is not None, "the two are said to share no output"
    wanted = float(torch.nn.functional.cosine_similarity(difference.flatten(), difference.sign().flatten(), 0))
    assert abs(found - wanted) < 1e-5
    assert list(books["alpha"].outputs) == list(books["beta"].outputs)


@pytest.mark.parametrize("case", ALIASES)
def test_the_other_spelling_alone(case):
    """It reads the output, so nobody says that it is read by no term."""
    node, _, other = ALIASES[case]
    breakdown, _ = kit.call({"x": node}, {"y": y}, kit.term(output=other), unread=unread_of(node))
    assert torch.isclose(breakdown.total, (x - y).square().mean())


def test_unread_from_the_end():
    kit.call({"x": [x, z]}, {"y": y}, kit.term(output="x[0]"), unread=["x[-1]"])


def test_a_target_and_a_mask_from_the_end():
    targets = {"y": [y], "valid": [torch.ones(2, 4, 4, dtype=torch.bool)]}
    kit.call({"x": x}, targets, kit.term(target="y[-1]", mask="valid[-1]"))


def test_channels_from_the_end():
    targets = {"y": y[:, :2], "w": y[:, 2]}
    kit.call({"x": x}, targets, kit.term(output="x[:, :-1]"), kit.term("beta", output="x[:, -1]", target="w"))


KEYS = [
    (1, 2), (), None, 1.5, Part.HEAD, True, -1, "*", "a[0]", "a]", "it's", 'say "x"', "it's \"x\"", "a\nb", "\\", "",
    " ", "a.b", "²", "[:, 0]", "é", "a b", "0", 0,
]  # fmt: skip


def plain(text):
    """Without what escapes and quotes add, once or twice."""
    return re.sub(r"[\\'\"]", "", text)


def check_named(error, key):
    kit.check_line(error)
    told = plain(str(error))
    assert plain(repr(key)) in told or plain(str(key)) in told, f"not a word of {key!r}: {error}"


@pytest.mark.parametrize("key", KEYS, ids=repr)
@pytest.mark.parametrize("where", ["outputs", "targets"])
def test_any_key_can_be_declared_unread(where, key):
    """What is not declared is refused with its name; a remedy that is offered must work."""
    outputs, targets = {"x": x}, {"y": y}
    {"outputs": outputs, "targets": targets}[where][key] = z.detach().requires_grad_(where == "outputs")
    with pytest.raises(ValueError, match=r"\S") as found:
        kit.call(outputs, targets, kit.term())
    check_named(found.value, key)
    if offered := re.search(r"unread=(\[.*\])", str(found.value)):
        kit.call(outputs, targets, kit.term(), unread=eval(offered[1]))


@pytest.mark.parametrize("key", ["a b", "it's", "a.b", "²", "0", "é", "a[0]", "*"])
def test_a_quoted_key_is_that_key(key):
    """It reads that key and no other, or is refused by the term's name."""
    path = f"x[{key!r}]"
    try:
        breakdown, books = kit.call({"x": {key: x, "b": z}}, {"y": y}, kit.term(output=path), unread=["x.b"])
    except ValueError as error:
        kit.check_line(error, "alpha")
        check_named(error, key)
    else:
        assert len(books["alpha"].outputs) == 1
        assert torch.isclose(breakdown.total, (x - y).square().mean())
