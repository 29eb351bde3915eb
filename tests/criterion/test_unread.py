"""What is declared unread exists, and is read by nobody."""

import warnings

import pytest
import torch

import headwise as hw
from tests.criterion import told as kit

x, y = kit.number(), torch.randn(2, 3, 4, 4)


@pytest.mark.parametrize("path", ["mapz", "x.deep", "x[3]", "y2", "x[0].sin", "['x ']", "levels[*]"])
def test_it_names_something(path):
    """A warning serves, for an output may be there in training alone; silence does not."""
    with kit.right_or_told("unread", path.strip("[]'* ")):
        kit.call({"x": x}, {"y": y}, kit.term(), unread=[path])
        kit.silent(f"unread={path!r}, and there is no such output or target")


@pytest.mark.parametrize("path", ["x[:, 7]", "x[:, 2:5]", "x[..., 9]", "x[:, -4]"])
@pytest.mark.parametrize("output", ["x", "x[:, 0:2]"])
def test_it_names_channels_that_are_there(path, output):
    target = y if output == "x" else y[:, :2]
    with kit.right_or_told("unread", path):
        kit.call({"x": x}, {"y": target}, kit.term(output=output), unread=[path, "x[:, 2]"][: 1 + (output != "x")])
        kit.silent(f"unread={path!r} of 3 channels")


def test_an_auxiliary_output_that_is_there_in_training_alone():
    criterion = hw.Criterion([kit.term()], unread=["aux"])
    both = criterion({"x": x, "aux": kit.number()}, {"y": y}).total
    for outputs in ({"x": x}, {"x": x, "aux": None}):
        with pytest.warns(UserWarning, match="unread='aux' names no output and no target of this call"):
            assert criterion(outputs, {"y": y}).total == both


@pytest.mark.parametrize("path", ["x[:, 1:3]", "x[:, 0]", "x[:, -3:]"])
def test_channels_that_a_term_reads(path):
    with kit.right_or_told("unread", "x"):
        kit.call({"x": x}, {"y": y[:, :2]}, kit.term(output="x[:, 0:2]"), unread=[path, "x[:, 2]"])
        kit.silent(f"unread={path!r}, and a term reads x[:, 0:2]")


@pytest.mark.parametrize(("path", "options"), [("y", {}), ("valid", {"mask": "valid"})])
def test_a_target_that_a_term_reads(path, options):
    targets = {"y": y, **({"valid": torch.ones(2, 4, 4)} if options else {})}
    with kit.right_or_told("unread", path):
        kit.call({"x": x}, targets, kit.term(**options), unread=[path])
        kit.silent(f"unread={path!r}, and a term reads it")


def test_levels_of_different_width():
    """Channel 3 where it exists, or an error that names the path."""
    levels = [kit.number((2, 4)), kit.number((2, 3))]
    with kit.right_or_told("unread", "x"):
        kit.call(
            {"x": levels}, {"y": [torch.zeros(2, 2)] * 2}, kit.term(output="x[*][:, 0:2]", target="y[*]"),
            unread=["x[*][..., 2:4]"],
        )  # fmt: skip


def test_an_output_that_a_term_reads():
    with kit.refused("'x'", "alpha"):
        kit.call({"x": x}, {"y": y}, kit.term(), unread=["x"])


def test_what_is_rightly_declared():
    """Without a word."""
    outputs = {"x": x, "aux": kit.number(), "levels": [kit.number(), kit.number()]}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kit.call(
            outputs, {"y": y[:, :2], "ids": torch.zeros(2)}, kit.term(output="x[:, 0:2]"),
            unread=["x[:, 2]", "aux", "levels[*]", "ids"],
        )  # fmt: skip


def test_the_remedy_for_channels_in_several_runs_is_one():
    maps, target = kit.number((2, 7, 4, 4)), torch.randn(2, 2, 4, 4)
    term = kit.term(output="x[:, 2:4]")
    with pytest.raises(ValueError, match=r"channels 0 to 1, 4 to 6 of 7") as refused:
        kit.call({"x": maps}, {"y": target}, term)
    remedy = ["x[:, 0:2]", "x[:, 4:7]"]
    assert str(remedy) in str(refused.value)
    kit.call({"x": maps}, {"y": target}, term, unread=remedy)
