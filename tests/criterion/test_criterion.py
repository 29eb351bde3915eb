from __future__ import annotations

import json
import math
import warnings
from contextlib import nullcontext
from functools import partial
from typing import Any, ClassVar

import pytest
import torch
from torch import nn

import headwise as hw
from headwise import losses, normalizers
from headwise.criterion import schedules
from tests.criterion.samples import Net, five_maps, five_targets, five_terms, gradients, images, squared


def by_hand(maps, targets, weights):
    """The five terms without a criterion: slices and sums in plain autograd."""
    region, line, valid = targets["region"], targets["line"], targets["valid"]
    both = valid & line
    direction = [
        losses.direction_smooth_l1(maps[:, 4:6], targets[n], line, component=c) for c, n in enumerate(("sin", "cos"))
    ]
    values = [
        losses.hard_negative_cross_entropy(maps[:, 0:2], region, valid) / normalizers.mined(region, valid, ratio=3),
        losses.cross_entropy(maps[:, 2:4], line, valid & region) / (valid & region).sum(),
        losses.relative_smooth_l1(maps[:, 6], targets["radius"], both) / (both & (targets["radius"] > 0)).sum(),
        *(value / line.sum() for value in direction),
    ]
    return sum(weight * value for weight, value in zip(weights, values, strict=True)), values


def test_values_and_gradients_are_those_of_plain_autograd():
    weights = {"region": 1.0, "line": 0.5, "radius": 2.0, "sin": 0.25, "cos": 1.0}
    targets, maps, plain = (
        five_targets(dtype=torch.float64),
        five_maps(dtype=torch.float64),
        five_maps(dtype=torch.float64),
    )
    breakdown = hw.Criterion(five_terms(**weights))({"maps": maps}, targets)
    breakdown.total.backward()
    total, values = by_hand(plain, targets, weights.values())
    total.backward()
    torch.testing.assert_close(breakdown.total, total, rtol=1e-14, atol=0)
    for entry, value in zip(breakdown.values(), values, strict=True):
        torch.testing.assert_close(entry.value, value, rtol=1e-14, atol=0)
        torch.testing.assert_close(entry.ratio.value, entry.value, rtol=0, atol=0)
    torch.testing.assert_close(maps.grad, plain.grad, rtol=1e-13, atol=1e-18)


def test_it_prints_a_line_per_term():
    weight = nn.Parameter(torch.tensor(2.0))
    criterion = hw.Criterion([
        hw.Term("a|\n", losses.squared_error, output="maps[:, 0]", target="h", mask="valid & object", normalizer=4),
        hw.Term("c", partial(losses.squared_error), output=("a", "b"), weight=schedules.Linear(0.5, 1.0, steps=2)),
        hw.Term("d", partial(losses.cross_entropy, ignore_index=255), output="y", target="t", weight=weight),
        hw.Term("e", nn.MSELoss(), output="y", target="t", weight=-0.25),
    ])  # fmt: skip
    assert [line.strip() for line in repr(criterion).splitlines()] == [
        "Criterion(",
        r"'a|\n': loss=squared_error, output='maps[:, 0]', target='h', mask='valid & object', normalizer=4, weight=1",
        "'c': loss=squared_error, output=('a', 'b'), weight=0.5 (scheduled, at step 0)",
        "'d': loss=cross_entropy(ignore_index=255), output='y', target='t', weight=2 (learned, at step 0)",
        "'e': loss=MSELoss(), output='y', target='t', weight=-0.25",
        ")",
    ]
    assert "'e': loss=MSELoss()" in repr(nn.ModuleList([criterion]))


def test_total_is_the_sum_of_the_weighted_values_to_the_bit():
    breakdown = hw.Criterion(five_terms(line=0.1, sin=0.3))({"maps": five_maps()}, five_targets())
    assert sum(entry.weighted for entry in breakdown.values()) == breakdown.total
    log = breakdown.log("train")
    assert set(log) == {f"train/{n}/{k}" for n in breakdown for k in ("value", "weighted", "share")} | {"train/total"}
    assert all(value.dim() == 0 and not value.requires_grad for value in log.values())
    assert sum(log[f"train/{name}/share"] for name in breakdown) == pytest.approx(1.0)
    assert "sin/value" in breakdown.log()
    with pytest.raises(KeyError, match=r"no term 'sine'\. The terms are: region"):
        breakdown["sine"]
    with pytest.raises(TypeError):
        breakdown["sin"] = 1


def test_weight_zero_and_empty_masks_give_zero_gradients_not_missing_ones():
    targets = {**five_targets(), "line": torch.zeros(2, 12, 12, dtype=torch.bool)}
    network = Net()
    outputs = network(images())
    outputs["maps"].retain_grad()
    breakdown = hw.Criterion(five_terms(region=0.0))(outputs, targets)
    breakdown.total.backward()
    gradient = outputs["maps"].grad
    assert gradient is not None
    assert gradient[:, 0:2].abs().max() == 0
    assert gradient[:, 4:7].abs().max() == 0 < gradient[:, 2:4].abs().max()
    assert breakdown["sin"].value == 0
    assert breakdown["region"].value > 0 == breakdown["region"].weighted
    assert len(gradients(network)) == 4


def test_a_loss_without_graph_still_gives_its_head_a_gradient():
    def published(output, target):
        return 0.0 if not target.any() else squared(output, target)

    heads = {"a": torch.ones(2, 3, requires_grad=True), "b": torch.ones(2, 3, requires_grad=True)}
    terms = [hw.Term("a", squared, output="a", target="a"), hw.Term("b", published, output="b", target="b")]
    hw.Criterion(terms)(heads, {"a": torch.zeros(2, 3), "b": torch.zeros(2, 3)}).total.backward()
    assert heads["a"].grad is not None
    assert heads["b"].grad is not None
    assert heads["b"].grad.abs().max() == 0


ZEROS = [
    (zero, how) for zero in ("term", "level", "pooled level") for how in ("total", "weighted", "compiled", "ledger")
]


@pytest.mark.parametrize(("zero", "how"), [*ZEROS, ("scheduled level", "total"), ("term", "kernels")])
def test_weight_zero_of_an_infinite_output_sends_zeros(zero, how):
    """A level of weight 0 made the total NaN; with `compile=True`, or added up as `weighted`, the gradient was NaN."""
    y, bad = torch.ones(3, requires_grad=True), torch.full((3,), math.inf, requires_grad=True)
    if zero == "term":
        terms = [
            hw.Term("a", losses.squared_error, output="[0]", target="t"),
            hw.Term("b", losses.squared_error, output="[1]", target="t", weight=0.0),
        ]
    else:
        weights = [1.0, (lambda step: 0.0) if zero == "scheduled level" else 0.0]
        levels = hw.Levels(weights, pool="all" if zero == "pooled level" else "each")
        terms = [hw.Term("a", losses.squared_error, output="[*]", target="t", levels=levels)]
    value = 0.5 if zero == "pooled level" else 1.0
    criterion = hw.Criterion(terms, compile=how == "kernels")

    def total(y, bad):
        found = criterion([y, bad], {"t": torch.zeros(3)})
        return sum(each.weighted for each in found.values()) if how == "weighted" else found.total

    if how == "compiled":
        total = torch.compile(total, backend="aot_eager", fullgraph=True)
    with hw.Ledger(criterion) if how == "ledger" else nullcontext():
        found = total(y, bad)
        found.backward()
    assert torch.equal(found, torch.tensor(value))
    assert bad.grad is not None
    assert y.grad is not None
    assert torch.equal(bad.grad, torch.zeros(3))
    assert torch.allclose(y.grad, torch.full((3,), 2 / 3 * value))


def test_weight_zero_silences_a_value_that_is_not_finite():
    terms = [
        hw.Term("good", squared, output="x", target="t"),
        hw.Term("bad", lambda o, t: (o * float("inf")).sum() * 0, output="x", target="t", weight=0.0),
    ]
    breakdown = hw.Criterion(terms)({"x": torch.ones(2, 3)}, {"t": torch.zeros(2, 3)})
    assert breakdown.total == 1.0


def test_positional_and_keyword_arguments():
    seen = {}

    def pull(left, right, objects, mask):
        seen["positional"] = (left.shape, right.shape, objects.dtype, mask.dtype)
        return (left - right).square().sum()

    def named(*, first, second, index, mask):
        seen["keyword"] = (first.shape, second.shape, index.dtype, mask.dtype)
        return (first - second).square().sum()

    def alone(output):
        return output.square().sum()

    outputs = {"a": torch.ones(2, 3), "b": torch.zeros(2, 3)}
    targets = {"objects": torch.ones(2, 3, dtype=torch.int64), "valid": torch.ones(2, 3)}
    terms = [
        hw.Term("pull", pull, output=("a", "b"), target="objects", mask="valid"),
        hw.Term("named", named, output={"first": "a", "second": "b"}, target={"index": "objects"}, mask="valid"),
        hw.Term("alone", alone, 2, output="a"),
    ]
    breakdown = hw.Criterion(terms)(outputs, targets)
    shape = torch.Size([2, 3])
    assert seen["positional"] == seen["keyword"] == (shape, shape, torch.int64, torch.bool)
    assert [entry.value.item() for entry in breakdown.values()] == [1.0, 1.0, 3.0]


def test_a_normalizer_that_takes_all_targets_gets_them():
    def weighted(output, label, weight, mask=None):
        return (output[:, 0] * weight).sum()

    def weight_sum(label, weight, mask=None):
        return weight.sum()

    targets = {"label": torch.zeros(3), "weight": torch.tensor([1.0, 2.0, 3.0])}
    outputs = {"x": torch.tensor([[1.0], [2.0], [3.0]])}
    term = hw.Term("w", weighted, weight_sum, output="x", target=("label", "weight"))
    assert hw.Criterion([term])(outputs, targets).total == pytest.approx(14 / 6)
    counted = hw.Term("w", weighted, output="x", target=("label", "weight"))
    assert hw.Criterion([counted])(outputs, targets).total == pytest.approx(14 / 3)


def test_lone_tensors_and_lists_as_outputs():
    x = torch.ones(2, 3)
    assert hw.Criterion([hw.Term("a", squared, output="output", target="target")])(x, x * 0).total == 1
    terms = [hw.Term("a", squared, output="[0]", target="[0]"), hw.Term("b", squared, output="[1]", target="[1]")]
    assert hw.Criterion(terms)([x, 2 * x], (x * 0, x * 0)).total == 5


def test_a_ratio_term():
    maps, target = torch.randn(2, 1, 4, 4, requires_grad=True), torch.rand(2, 1, 4, 4) > 0.5
    criterion = hw.Criterion([hw.RatioTerm("dice", losses.dice, output="x", target="t")])
    breakdown = criterion({"x": maps}, {"t": target})
    assert breakdown.total == losses.dice(maps, target).value
    assert criterion.denominators({"t": target}) == {}
    breakdown.total.backward()
    assert maps.grad is not None


class TestLevels:
    outputs: ClassVar = {"levels": [torch.full((2, 4), 1.0), torch.full((2, 4), 2.0), torch.full((2, 4), 3.0)]}

    def value(self, levels=None, targets=None, target="t", mask=None):
        term = hw.Term("x", squared, output="levels[*]", target=target, mask=mask, levels=levels)
        return hw.Criterion([term])(self.outputs, targets or {"t": torch.zeros(2, 4)})["x"]

    def test_each_level_has_its_weight(self):
        assert self.value().value == 1 + 4 + 9
        entry = self.value(hw.Levels([1, 0.5, 0.5]))
        assert entry.value == 1 + 2 + 4.5
        assert entry.levels is not None
        assert entry.levels.tolist() == [1, 2, 4.5]
        assert self.value(hw.Levels.halving(3, normalize=True)).value == pytest.approx((1 + 4 / 2 + 9 / 4) / 1.75)

    def test_denominators_of_each_or_of_all(self):
        masks = [torch.zeros(2, 4), torch.ones(2, 4), torch.ones(2, 4)]
        targets = {"t": torch.zeros(2, 4), "m": masks}
        assert self.value(hw.Levels(pool="each"), targets, mask="m[*]").value == 0 + 4 + 9
        assert self.value(hw.Levels(pool="all"), targets, mask="m[*]").value == (8 * 4 + 8 * 9) / 16

    def test_a_pooled_count_has_a_floor(self):
        targets = {"t": torch.zeros(2, 4), "m": [torch.zeros(2, 4), torch.ones(2, 4), torch.zeros(2, 4)]}
        for least, wanted in ((0, 32 / 8), (1, 32 / 8), (8, 32 / 8), (10, 32 / 10)):
            entry = self.value(hw.Levels(pool="all", least=least), targets, mask="m[*]")
            assert entry.value == pytest.approx(wanted, rel=1e-6)
            assert entry.ratio.denominator.tolist() == [max(8, least)] * 3
        whatever = hw.Term(
            "x",
            lambda o, t, m: o.sum(),
            output="levels[*]",
            target="t",
            mask="m",
            levels=hw.Levels(pool="all", least=2.0),
        )
        none = {"t": torch.zeros(2, 4), "m": torch.zeros(2, 4)}
        assert hw.Criterion([whatever])(self.outputs, none).total == (8 + 16 + 24) / 2

    def test_weights_may_follow_the_step_down_to_zero(self):
        decay = schedules.StepDecay(1.0, 0.1, every=2, negligible=0.05)
        term = hw.Term("x", squared, output="levels[*]", target="t", levels=hw.Levels([1, decay, decay]))
        criterion, found = hw.Criterion([term]), []
        for _ in range(5):
            outputs = {"levels": [level.clone().requires_grad_() for level in self.outputs["levels"]]}
            criterion(outputs, {"t": torch.zeros(2, 4)}).total.backward()
            found.append([float(level.grad.sum()) for level in outputs["levels"] if level.grad is not None])
            criterion.advance()
        assert found[0] == [2, 4, 6]
        assert found[2] == pytest.approx([2, 0.4, 0.6])
        assert found[4] == [2, 0, 0]

    def test_targets_are_picked_label_safely(self):
        label = torch.arange(16).view(1, 4, 4)
        outputs = {"levels": [torch.zeros(1, 20, 4, 4), torch.zeros(1, 20, 2, 2), torch.zeros(1, 20, 1, 1)]}
        seen = []

        def spy(output, target):
            seen.append(target)
            return output.sum()

        term = hw.Term("x", spy, output="levels[*]", target="t", levels=hw.Levels(strides=(1, 2, 4)))
        criterion = hw.Criterion([term])
        criterion(outputs, {"t": label})
        assert [each.tolist() for each in seen] == [[label[0].tolist()], [[[5, 7], [13, 15]]], [[[10]]]]
        assert criterion.denominators({"t": label})["x"].tolist() == [16, 4, 1]

    def test_two_wildcards_share_targets_over_the_outer_one(self):
        outputs = {"stacks": [{"att": [torch.full((2,), 1.0 + s + a) for a in range(3)]} for s in range(2)]}
        targets = {"att": [torch.full((2,), float(a)) for a in range(3)]}
        term = hw.Term("att", squared, output="stacks[*].att[*]", target="att[*]")
        assert hw.Criterion([term])(outputs, targets).total == 3 * 1 + 3 * 4


def test_pooled_denominators_make_micro_batches_exact():
    targets, maps = five_targets(5, dtype=torch.float64), five_maps(5, dtype=torch.float64)
    criterion = hw.Criterion([term for term in five_terms() if term.name != "region"], unread=["maps[:, 0:2]"])
    criterion({"maps": maps}, targets).total.backward()
    whole, maps.grad = maps.grad, None
    parts = [{name: tensor[part] for name, tensor in targets.items()} for part in (slice(0, 1), slice(1, 5))]
    denominators = hw.pool_denominators(criterion, parts)
    for part, micro in zip((slice(0, 1), slice(1, 5)), parts, strict=True):
        criterion({"maps": maps[part]}, micro, denominators).total.backward()
    torch.testing.assert_close(maps.grad, whole, rtol=1e-12, atol=0)


def test_state_dict_keeps_step_and_weights():
    tensor = torch.tensor(0.5)
    decay = schedules.StepDecay(1.0, 0.5, every=1)
    first = hw.Criterion(five_terms(sin=decay, cos=tensor.clone(), line=0.3))
    first.advance(3)
    first.set_weight("line", 0.7)
    second = hw.Criterion(five_terms(sin=decay, cos=tensor))
    second.load_state_dict(first.state_dict())
    assert second.weights == {"region": 1.0, "line": 0.7, "radius": 1.0, "sin": 0.125, "cos": torch.tensor(0.5)}
    with pytest.raises(RuntimeError, match=r"Unexpected key.*radius"):
        hw.Criterion(five_terms()[:2]).load_state_dict(first.state_dict())


def test_configuration_round_trip():
    weights = {"sin": schedules.Piecewise((10, 20), (1.0, 0.5, 0.0)), "cos": 0.25}
    first = hw.Criterion(five_terms(**weights), unread=["aux"], on_nonfinite="drop")
    for second in (
        hw.Criterion.from_dict(first.to_dict()),
        hw.Criterion.from_json(first.to_json()),
        hw.Criterion.from_yaml(first.to_yaml()),
    ):
        assert second.to_dict() == first.to_dict()
        outputs = {"maps": five_maps(), "aux": torch.zeros(1)}
        assert second(outputs, five_targets()).total == first(outputs, five_targets()).total
    levels = hw.Levels([1.0, schedules.StepDecay()], pool="all", normalize=True, strides=(1, 2), least=1.0)
    term = hw.RatioTerm("x", losses.dice, output={"output": "a[*]"}, target=("t",), levels=levels)
    row = hw.Criterion([term]).to_dict()
    assert json.loads(json.dumps(row)) == row == hw.Criterion.from_dict(row).to_dict()
    user = hw.Criterion([hw.Term("x", squared, 3.0, output="x", target="t")])
    assert user.to_dict()["terms"][0]["loss"] == "tests.criterion.samples:squared"
    assert hw.Criterion.from_dict(user.to_dict(), allow=["tests.criterion.samples"]).terms[0].loss is squared


ROW = {"name": "x", "loss": "smooth_l1", "output": "x"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"termz": []}, r"unknown key 'termz'.*Did you mean 'terms'"),
        ({"terms": [ROW | {"los": "smooth_l1"}]}, r"term 'x': unknown key 'los'.*'loss'"),
        ({"terms": [{"name": "x", "output": "x"}]}, r"term 'x': the key 'loss' is missing"),
        ({"terms": [ROW | {"loss": "smooth_l2"}]}, r"no loss 'smooth_l2'.*Did you mean 'smooth_l1'"),
        ({"terms": [ROW | {"loss": "no.such:thing"}]}, r"cannot be imported"),
        ({"terms": [ROW | {"normalizer": "cuont"}]}, r"no normalizer 'cuont'.*Did you mean 'count'"),
        ({"terms": [ROW | {"weight": {"schedule": "Step"}}]}, r"no schedule 'Step'"),
        ({"terms": [ROW | {"weight": float("nan")}]}, r"'x': a weight"),
        ({"terms": [ROW | {"levels": {"weight": [1]}}]}, r"levels: unknown key 'weight'"),
        ({"terms": [ROW | {"levels": {"least": 1.0}}]}, r"least .* needs pool='all'; found 1.0 with 'each'"),
        ({"terms": [ROW | {"levels": {"pool": "all", "least": -1}}]}, r"least is a finite number from 0.*found -1"),
        ({"terms": [ROW | {"levels": {"weights": 0.5}}]}, r"weights is a list.*found 0.5"),
        ({"terms": [ROW | {"levels": {"strides": 2}}]}, r"strides is a list.*found 2"),
        ({"terms": [ROW | {"weight": {"schedule": "Cosine", "start": 1}}]}, r"schedule 'Cosine': the key 'end'"),
        (
            {"terms": [ROW | {"loss": {"name": "hard_negative_cross_entropy", "rato": 3}}]},
            r"term 'x': loss 'hard_negative_cross_entropy': unknown key 'rato'.*Did you mean 'ratio'",
        ),
        ({"terms": [ROW | {"loss": {"name": "cross_entropy", "rato": 3}}]}, r"unknown key 'rato'"),
        (
            {"terms": [ROW | {"normalizer": {"name": "mined", "rato": 3}}]},
            r"normalizer 'mined': unknown key 'rato'.*Did you mean 'ratio'",
        ),
        ({"terms": [ROW], "unread": 3}, r"unread is a path or a list of paths; found 3"),
        ({"terms": "smooth_l1"}, r"list of dicts"),
    ],
)
def test_configurations_that_are_wrong(change, words):
    with pytest.raises(ValueError, match=words):
        hw.Criterion.from_dict({"terms": [], **change} if "terms" not in change else change)


def test_functions_without_a_name_cannot_be_written():
    with pytest.raises(ValueError, match=r"term 'x'.*cannot be written"):
        hw.Criterion([hw.Term("x", lambda o: o.sum(), output="x")]).to_dict()
    with pytest.raises(ValueError, match="no JSON"):
        hw.Criterion.from_json("{")
    with pytest.raises(ValueError, match="no YAML"):
        hw.Criterion.from_yaml("{")


def test_keras_style_mapping():
    outputs = {"a": torch.tensor([[1.0, 2.0]]), "b": torch.tensor([[3.0, 1.0]])}
    targets = {"a": torch.tensor([[0.0, 0.0]]), "b": torch.tensor([1])}
    criterion = hw.Criterion({"a": nn.MSELoss(), "b": nn.CrossEntropyLoss()}, weights={"b": 0.5})
    breakdown = criterion(outputs, targets)
    wanted = nn.functional.mse_loss(outputs["a"], targets["a"]), nn.functional.cross_entropy(outputs["b"], targets["b"])
    torch.testing.assert_close(breakdown["a"].value, wanted[0])
    torch.testing.assert_close(breakdown["b"].value, wanted[1])
    torch.testing.assert_close(breakdown.total, wanted[0] + 0.5 * wanted[1])
    named = hw.Criterion({"a": "squared_error", "b": (losses.cross_entropy, "count")}, weights={"b": 0.5})
    torch.testing.assert_close(named(outputs, targets).total, breakdown.total)
    with pytest.raises(ValueError, match="no term 'c' to weigh"):
        hw.Criterion({"a": nn.MSELoss()}, weights={"c": 1.0})


def test_a_schedule_that_never_moves_is_told():
    criterion = hw.Criterion([hw.Term("x", squared, output="x", target="t", weight=schedules.Linear(0, 1, 10))])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(101):
            criterion({"x": torch.zeros(1, 1)}, {"t": torch.zeros(1, 1)})
    assert [str(each.message) for each in caught if "advance()" in str(each.message)]


def test_compiled_as_one_graph_and_weights_do_not_recompile():
    targets, maps = five_targets(), five_maps()
    eager = hw.Criterion(five_terms())
    eager({"maps": maps}, targets).total.backward()
    wanted, maps.grad = maps.grad, None
    compiled = torch.compile(
        lambda m: hw.Criterion.__call__(eager, {"maps": m}, targets).total, fullgraph=True, backend="aot_eager"
    )
    compiled(maps).backward()
    torch.testing.assert_close(maps.grad, wanted)
    fused = hw.Criterion(five_terms(), compile=True)
    maps.grad = None
    breakdown = fused({"maps": maps}, targets)
    breakdown.total.backward()
    torch.testing.assert_close(maps.grad, wanted)
    with torch._dynamo.config.patch(error_on_recompile=True):
        fused.set_weight("sin", 0.5)
        half = fused({"maps": maps}, targets)
    torch.testing.assert_close(half["sin"].weighted, 0.5 * breakdown["sin"].weighted)


def test_half_precision_is_summed_in_float32():
    for dtype in (torch.bfloat16, torch.float16):
        breakdown = hw.Criterion(five_terms())({"maps": five_maps().to(dtype)}, five_targets())
        assert breakdown.total.dtype == torch.float32
        exact = hw.Criterion(five_terms())({"maps": five_maps().to(dtype).double()}, five_targets())
        torch.testing.assert_close(breakdown.total.double(), exact.total, rtol=1e-5, atol=0)


@pytest.fixture
def compiled_graphs(monkeypatch):
    """What criteria hand to the compiler, which here makes nothing of it."""
    seen = []

    def keep(graph, inputs):
        seen.append(inputs)
        return graph

    monkeypatch.setattr("headwise.criterion.sums.kernels.recomputing", keep)
    return seen


def of_levels(pool, sizes, compile=True):
    levels = hw.Levels(pool=pool)
    criterion = hw.Criterion(
        [hw.Term("x", losses.squared_error, output="x[*]", target="y[*]", mask="valid[*]", levels=levels)],
        compile=compile,
    )
    draw = torch.Generator().manual_seed(0)
    outputs = {"x": [torch.randn(2, 3, size, generator=draw).requires_grad_() for size in sizes]}
    targets = {"y": [torch.randn(2, 3, size, generator=draw) for size in sizes]}
    targets["valid"] = [torch.rand(2, 3, size, generator=draw) < 0.5 for size in sizes]
    return criterion(outputs, targets).total


def test_a_compiled_criterion_never_runs_what_was_compiled_for_another_of_the_same_shapes(compiled_graphs):
    found = [of_levels(pool, (8, 3)) for pool in ("all", "each")]
    wanted = [of_levels(pool, (8, 3), compile=False) for pool in ("all", "each")]
    torch.testing.assert_close(found, wanted)
    assert not torch.isclose(*wanted)


def test_the_shapes_of_another_criterion_do_not_make_a_compiled_one_dynamic(compiled_graphs):
    for shape in ((2, 3, 8, 8), (4, 5, 16, 16), (3, 6, 4, 4)):
        criterion = hw.Criterion([hw.Term("x", losses.squared_error, output="x", target="y")], compile=True)
        criterion({"x": torch.randn(shape).requires_grad_()}, {"y": torch.randn(shape)})
    assert len(compiled_graphs) == 3
    assert all(isinstance(each, torch.Tensor) for inputs in compiled_graphs for each in inputs)


def test_what_cannot_be_compiled_goes_on_in_eager_mode_and_says_so(monkeypatch):
    def refuses(*args, **kwargs):
        raise RuntimeError("no compiler")

    monkeypatch.setattr(torch, "compile", lambda *args, **kwargs: refuses)
    criterion, maps, targets = hw.Criterion(five_terms(), compile=True), five_maps(), five_targets()
    with pytest.warns(UserWarning, match=r"goes on in eager mode.*RuntimeError: no compiler"):
        total = criterion({"maps": maps}, targets).total
    assert total == hw.Criterion(five_terms())({"maps": maps}, targets).total
    criterion({"maps": maps}, targets).total.backward()


@pytest.mark.parametrize("name", ["", None, 3, "unbooked"])
def test_names_that_no_term_may_have(name: Any) -> None:
    """Books with a term called "unbooked" would never be balanced."""
    with pytest.raises(ValueError, match=r"a term's name is a non-empty text|a term is not called 'unbooked'"):
        hw.Term(name, losses.squared_error, output="y", target="t")
