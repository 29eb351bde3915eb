"""Everything that is declared wrongly is an error that names term, path, what was found and the remedy."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import headwise as hw
from headwise import losses, normalizers
from tests.criterion.samples import five_maps, five_targets, five_terms, squared
from tests.expect import refused


def call(terms, outputs=None, targets=None, **options):
    return hw.Criterion(terms, **options)(outputs or {"maps": five_maps()}, targets or five_targets())


def elementwise(output, target, mask):
    return output - target.unsqueeze(1)


def replaced(name, **changes):
    from dataclasses import replace

    return [replace(term, **changes) if term.name == name else term for term in five_terms()]


@pytest.mark.parametrize(
    ("terms", "words"),
    [
        (replaced("sin", output="mapz[:, 4:6]"), "'sin'|output 'mapz[:, 4:6]'|Found: maps|Did you mean 'maps'"),
        (replaced("sin", target="sine"), "'sin'|target 'sine'|Found: region, line|Did you mean 'sin'"),
        (replaced("sin", mask="valid & lin"), "'sin'|mask 'lin'|Did you mean 'line'|what the targets hold"),
        (replaced("sin", output="maps[:, 4:9]"), "'sin'|maps[:, 4:9]|channels 4 to 8|has 7|Correct the slice"),
        (replaced("sin", output="maps[:, 3:3]"), "'sin'|maps[:, 3:3]"),
        (five_terms()[:-2], "output 'maps'|channels 4 to 5 of 7|unread=['maps[:, 4:6]']"),
        (replaced("cos", target="sin"), "target 'cos'|used by no term|unread=['cos']"),
        (replaced("line", target="radius"), "'line'|float|integer"),
        (replaced("radius", output="maps[:, 6:7]", mask="line"), "'radius'|maps[:, 6:7]|(2, 1, 12, 12)|(2, 12, 12)"),
        (replaced("sin", output="maps[*]"), "'sin'|maps[*]|list"),
        (replaced("sin", levels=hw.Levels()), "'sin'|[*]"),
        (replaced("sin", loss=elementwise), "'sin'|one floating point sum|(2, 2, 12, 12)|.sum()"),
        (replaced("sin", loss=lambda o, t, m: None), "'sin'|one floating point sum|None"),
        (replaced("sin", normalizer=lambda t, m: m), "'sin'|normalizer|0-d|(2, 12, 12)"),
        (replaced("sin", loss=losses.dice), "'sin'"),
    ],
)
def test_terms_that_do_not_fit(terms, words):
    with pytest.raises(ValueError) as error:  # noqa: PT011 - the words are checked below
        call(terms)
    for word in words.split("|"):
        assert word in str(error.value), f"{word!r} is missing in: {error.value}"


def test_two_terms_of_one_name():
    with pytest.raises(ValueError, match="two terms are named 'sin'"):
        hw.Criterion([*five_terms(), five_terms()[3]])


def test_an_output_that_nothing_reads():
    outputs = {"maps": five_maps(), "aux": torch.zeros(2, 3)}
    with pytest.raises(ValueError, match=r"output 'aux' \(a float32 tensor of shape \(2, 3\)\) is read by no term"):
        call(five_terms(), outputs)
    call(five_terms(), outputs, unread=["aux"])


def test_declared_unread_but_read():
    with pytest.raises(ValueError, match="'maps' is declared unread, but term 'region' reads it"):
        call(five_terms(), unread=["maps"])


def test_declared_channels_may_stay_unread():
    targets = {name: tensor for name, tensor in five_targets().items() if name not in ("sin", "cos")}
    breakdown = call(five_terms()[:3], targets=targets, unread=["maps[:, 4:6]"])
    maps = five_maps()
    hw.Criterion(five_terms()[:3], unread=["maps[:, 4:6]"])({"maps": maps}, targets).total.backward()
    assert maps.grad is not None
    assert maps.grad[:, 4:6].abs().max() == 0 < maps.grad[:, 6].abs().max()
    assert breakdown.total.isfinite()


def test_different_level_counts():
    term = hw.Term("heat", squared, output="stacks[*]", target="levels[*]")
    outputs = {"stacks": [torch.zeros(2, 1)] * 3}
    with pytest.raises(ValueError, match=r"'heat'.*'levels\[\*\]'.*have 2 levels.*stacks\[\*\]\) have 3"):
        hw.Criterion([term])(outputs, {"levels": [torch.zeros(2, 1)] * 2})
    weights = hw.Term("heat", squared, output="stacks[*]", target="heat", levels=hw.Levels([1, 0.5]))
    with pytest.raises(ValueError, match=r"'heat'.*2 weights, the outputs have 3 levels"):
        hw.Criterion([weights])(outputs, {"heat": torch.zeros(2, 1)})


def test_levels_of_an_empty_list():
    term = hw.Term("heat", squared, output="stacks[*]", target="heat")
    with pytest.raises(ValueError, match=r"'heat'.*'stacks\[\*\]'.*at least one level"):
        hw.Criterion([term])({"stacks": []}, {"heat": torch.zeros(2, 1)})


def test_paths_that_are_no_text():
    with pytest.raises(ValueError, match=r"term 'x': a path, a tuple of paths or a dict of paths is needed; found 3"):
        hw.Term("x", squared, output=3, target="t")  # type: ignore[arg-type]


def test_targets_that_hold_nothing():
    with pytest.raises(ValueError, match=r"goes on with 'region'\. Correct the path"):
        hw.Criterion(five_terms())({"maps": five_maps()}, None)


def test_outputs_of_whole_numbers_cannot_be_trained():
    with pytest.raises(ValueError, match=r"'x': output 'index': a term reads floating point outputs; found a int64"):
        hw.Criterion([hw.Term("x", squared, output="index", target="t")])(
            {"index": torch.zeros(2, dtype=torch.int64)}, {"t": torch.zeros(2)}
        )


def test_a_complex_mask_is_refused():
    criterion = hw.Criterion([hw.Term("x", squared, output="y", target="t", mask="m & n")])
    masks = {"m": torch.ones(2), "n": torch.ones(2, dtype=torch.complex64)}
    with pytest.raises(ValueError, match=r"term 'x': mask 'm & n': a mask is real; found n of torch.complex64"):
        criterion({"y": torch.ones(2)}, {"t": torch.ones(2), **masks})


def _nested(layout):
    return torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=layout, requires_grad=True)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors", "ignore:Sparse CSR tensor support")
@pytest.mark.parametrize(
    ("output", "words"),
    [
        (lambda: torch.eye(2).to_sparse().requires_grad_(), "layout torch.sparse_coo. Hand over to_dense"),
        (lambda: torch.eye(2).to_sparse_csr().requires_grad_(), "layout torch.sparse_csr"),
        (lambda: _nested(torch.strided), "a nested tensor. Hand over its parts"),
        (lambda: _nested(torch.jagged), "a nested tensor. Hand over its parts"),
        (lambda: torch.eye(2).to(torch.float8_e4m3fn), "a float8_e4m3fn tensor of shape .*Hand over float"),
    ],
)
def test_outputs_that_nothing_is_computed_with_are_refused(output, words):
    criterion = hw.Criterion([hw.Term("x", squared, output="y", target="t")])
    criterion({"y": torch.eye(2, requires_grad=True)}, {"t": torch.eye(2)})
    with pytest.raises(ValueError, match=rf"term 'x': output 'y': a term reads plain tensors .*{words}"):
        criterion({"y": output()}, {"t": torch.eye(2)})


@pytest.mark.parametrize("weight", [float("nan"), float("inf"), torch.tensor(float("nan")), torch.zeros(2), "1", True])
def test_weights_that_are_no_finite_number(weight):
    with pytest.raises(ValueError, match=r"term 'sin'.*weight"):
        five_terms(sin=weight)


def test_a_weight_for_a_term_that_does_not_exist():
    criterion = hw.Criterion(five_terms())
    with pytest.raises(ValueError, match=r"no term 'sine' to weigh. The terms are: region, line"):
        criterion.set_weight("sine", 1.0)
    with pytest.raises(ValueError, match="no term 'sine' to weigh"):
        hw.Criterion(five_terms(), weights={"sine": 2.0})
    with pytest.raises(ValueError, match=r"weight is given for 'sine'"):
        hw.criterion.config.terms_from_mapping({"sin": squared}, {"sine": 1.0})


def test_a_schedule_that_ends_in_nan():
    criterion = hw.Criterion(five_terms(sin=lambda step: 1.0 if step < 2 else float("nan")))
    criterion.advance()
    with pytest.raises(ValueError, match="'sin': its schedule gives nan at step 2"):
        criterion.advance()


def test_denominators_of_other_terms():
    criterion = hw.Criterion(five_terms())
    counts = criterion.denominators(five_targets())
    counts["sine"] = counts.pop("sin")
    with pytest.raises(ValueError, match="exactly the terms"):
        criterion({"maps": five_maps()}, five_targets(), counts)


def test_a_criterion_of_nothing():
    with pytest.raises(ValueError, match="at least one term"):
        hw.Criterion([])
    with pytest.raises(ValueError, match="Terms and RatioTerms"):
        hw.Criterion(["sin"])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="on_nonfinite"):
        hw.Criterion(five_terms(), on_nonfinite="ignore")  # type: ignore[arg-type]


@pytest.mark.parametrize("normalizer", [0, -1.0, float("inf"), "count"])
def test_normalizers_that_are_none(normalizer):
    with pytest.raises(ValueError, match=r"'x'.*normalizer"):
        hw.Term("x", squared, normalizer, output="x")


def test_a_loss_that_writes_into_its_input_is_told_by_name():
    def published(output, target):
        return output.sigmoid_().sub(target).square().sum()

    with pytest.raises(ValueError, match=r"term 'heat'.*[Ii]nplace|in-place|modified inplace"):
        hw.Criterion([hw.Term("heat", published, output="heat", target="heat")])(
            {"heat": torch.zeros(2, 3, requires_grad=True) * 1}, {"heat": torch.zeros(2, 3)}
        )


def test_compiled_criterion_refuses_with_the_same_words():
    criterion = hw.Criterion(replaced("radius", output="maps[:, 6:7]"), compile=True)
    with pytest.raises(ValueError, match=r"term 'radius'.*maps"):
        criterion({"maps": five_maps()}, five_targets())


def test_normalizer_numbers():
    term = hw.Term("x", squared, 4, output="x", target="x")
    value = hw.Criterion([term])({"x": torch.tensor([2.0, 0.0])}, {"x": torch.zeros(2)}).total
    assert value == 1.0
    assert normalizers.count(torch.zeros(2)) == 2


@pytest.mark.parametrize("mask", ["m & n", "~m | n"])
def test_masks_of_two_shapes_are_told_with_their_term(mask):
    x, targets = torch.zeros(2, 3, 4, 4), {"m": torch.ones(2, 4, 4), "n": torch.ones(2, 1, 4, 4)}
    criterion = hw.Criterion([hw.Term("alpha", losses.squared_error, output="x", target="y", mask=mask)])
    with refused("alpha", "one shape"):
        criterion({"x": x}, {"y": x, **targets})
    with refused("alpha", "one shape"):
        criterion.denominators({"y": x, **targets})


@pytest.mark.parametrize(
    ("given", "word"),
    [
        ({"weights": 3}, "weights"), ({"weights": [1.0]}, "weights"), ({"unread": 3}, "unread"),
        ({"unread": ["a", 3]}, "unread"), ({"unread": [None]}, "unread"),
    ],
)  # fmt: skip
def test_what_belongs_to_no_term_is_told_too(given, word):
    term = hw.Term("alpha", losses.squared_error, output="x", target="y")
    with refused(word):
        hw.Criterion([term], **given)
    other: Any
    for other in (3, None, term):
        with refused("Term"):
            hw.Criterion(other)


def test_a_structure_that_holds_itself_is_refused():
    x = torch.zeros(2, 3)
    outputs, criterion = {"x": x}, hw.Criterion([hw.Term("a", losses.squared_error, output="x", target="y")])
    around: dict[str, Any] = {**outputs}
    around["again"] = [around]
    with refused("holds itself"):
        criterion(around, {"y": x})
    with refused("holds itself"):
        criterion(outputs, {"y": x, "again": around})


def test_a_complex_output_is_told_what_to_hand_over():
    """It was told to be put in the targets."""
    criterion = hw.Criterion([hw.Term("spectrum", losses.squared_error, output="y", target="t")])
    with pytest.raises(ValueError, match=r"'spectrum'.*complex64.*view_as_real"):
        criterion({"y": torch.zeros(3, dtype=torch.complex64)}, {"t": torch.zeros(3)})


def test_logits_without_a_batch_are_told_to_have_one():
    """They were told to resize their labels."""
    criterion = hw.Criterion([hw.Term("label", torch.nn.CrossEntropyLoss(), output="y", target="t")])
    with pytest.raises(
        ValueError, match=r"'label'.*logits \(5,\) and labels \(\)\. Give both the dimension of a batch"
    ):
        criterion({"y": torch.zeros(5)}, {"t": torch.tensor(2)})


@pytest.mark.parametrize("levels", [hw.Levels([1.0, 10.0]), hw.Levels(strides=[1, 2])], ids=["weights", "strides"])
def test_levels_by_position_that_change_places_are_refused(levels):
    """A dict in another order had the other level's weight, in silence."""
    criterion = hw.Criterion([hw.Term("heads", losses.squared_error, output="heads[*]", target="t", levels=levels)])
    fine, coarse = torch.zeros(2, 4, 4), torch.zeros(2, 4, 4) if levels.weights else torch.zeros(2, 2, 2)
    for _ in range(2):
        criterion({"heads": {"a": fine, "b": coarse}}, {"t": fine})
    with pytest.raises(ValueError, match=r"'heads'.*the order heads\.b, heads\.a; .* heads\.a, heads\.b"):
        criterion({"heads": {"b": fine, "a": coarse}}, {"t": fine})
