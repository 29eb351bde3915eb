"""The corner detectors' presets against numbers recorded from the authors' code, and their invariances."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import headwise as hw
from tests.criterion.test_junction import NoSync
from tests.presets import samples

FOLDER = Path(__file__).parents[2] / "golden"
POINTS = {"tl": "top_left", "br": "bottom_right", "ct": "center"}
KINDS = {"heat": "heatmap", "tag": "embedding", "off": "offset", "ind": "index"}
TERMS = {"pull": "pull", "push": "push", "att": "attention"} | {
    f"{theirs}_{point}": f"{POINTS[point]}_{ours}"
    for theirs, ours in (("focal", "heatmap"), ("off", "offset"))
    for point in POINTS
}


@dataclass(frozen=True)
class Recorded:
    """One recorded case: outputs, targets and numbers, under our names."""

    system: str
    case: str

    @property
    def arrays(self):
        prefix = f"{self.case}/"
        return {name.removeprefix(prefix): GOLDEN[self.system][name] for name in NAMES[self.system, self.case]}

    def read(self, dtype):
        """Nested outputs and targets, and the outputs' leaves by their recorded names."""
        given = {name: array for name, array in self.arrays.items() if name.startswith(("in/", "tgt/"))}
        leaves = {
            name.removeprefix("in/"): torch.from_numpy(array).to(dtype).requires_grad_()
            for name, array in given.items()
            if name.startswith("in/")
        }
        num_stacks = 1 + max(int(name.split("_")[2]) for name in leaves if not name.startswith("att"))
        stacks: list[dict[str, Any]] = [{} for _ in range(num_stacks)]
        for name, leaf in leaves.items():
            point, kind, stack = name.split("_")
            if point == "att":
                stacks[int(kind)].setdefault("attention", []).append(leaf)
            else:
                stacks[int(stack)][f"{POINTS[point]}_{KINDS[kind]}"] = leaf
        return {"stacks": stacks}, self.targets(given, dtype), leaves

    @staticmethod
    def targets(given, dtype):
        targets: dict[str, Any] = {"objects": torch.from_numpy(given["tgt/mask"])}
        attention = [torch.from_numpy(given[name]).to(dtype) for name in sorted(given) if name.startswith("tgt/att")]
        if attention:
            targets["attention"] = attention
        for name, array in given.items():
            point, _, kind = name.removeprefix("tgt/").partition("_")
            if name.startswith("tgt/") and point in POINTS:
                tensor = torch.from_numpy(array)
                tensor = tensor if kind in ("ind", "valid") else tensor.to(dtype)
                targets[f"{POINTS[point]}_{KINDS.get(kind, kind)}"] = tensor
        return targets

    def criterion(self, outputs, **options):
        name = {"saccade": "cornernet_saccade"}.get(self.system, self.system)
        return getattr(hw.presets, name)(len(outputs["stacks"]), **options)


GOLDEN = {name: np.load(FOLDER / f"{name}_loss.npz") for name in ("cornernet", "saccade", "centernet")}
NAMES: dict[tuple[str, str], list[str]] = {}
for system, file in GOLDEN.items():
    for name in file.files:
        NAMES.setdefault((system, name.split("/")[0]), []).append(name)
CASES = [Recorded(*key) for key in NAMES]
all_cases = pytest.mark.parametrize("recorded", CASES, ids=lambda each: f"{each.system}-{each.case}")
each_system = pytest.mark.parametrize("system", list(GOLDEN))
both = pytest.mark.parametrize("as_published", [False, True])


def gradients(scalar, leaves):
    found = torch.autograd.grad(scalar, list(leaves.values()), retain_graph=True, allow_unused=True)
    return {
        name: torch.zeros_like(leaf) if each is None else each
        for (name, leaf), each in zip(leaves.items(), found, strict=True)
    }


def halves(targets):
    """The targets of each image alone."""
    num_images = len(targets["objects"])
    return [
        {
            name: [part[i : i + 1] for part in each] if isinstance(each, list) else each[i : i + 1]
            for name, each in targets.items()
        }
        for i in range(num_images)
    ]


def test_all_cases_are_there():
    assert {(each.system, each.case) for each in CASES} == {
        (system, case)
        for system in GOLDEN
        for case in ("basic", "one_stack", "no_objects", "one_object", "batch1", "saturated")
        if case != "saturated" or system == "cornernet"
    }


@pytest.mark.parametrize(("dtype", "tol"), [(torch.float64, 1e-9), (torch.float32, 2e-5)])
@all_cases
def test_published_values_terms_and_gradients(recorded, dtype, tol):
    if dtype == torch.float32 and recorded.case in ("one_stack", "one_object"):
        tol = 1e-3  # (1 - 1 / 1.0001) / 1e-4 loses four digits in float32, theirs too (A5)
    outputs, targets, leaves = recorded.read(dtype)
    breakdown = recorded.criterion(outputs, as_published=True)(outputs, targets)
    arrays, num_stacks = recorded.arrays, len(outputs["stacks"])
    for theirs, ours in TERMS.items():
        if f"out/{theirs}" in arrays:
            wanted = float(arrays[f"out/{theirs}"]) * (num_stacks if theirs == "att" else 1)
            assert float(breakdown[ours].value.detach()) == pytest.approx(wanted, rel=tol, abs=0)
    assert float(breakdown.total.detach()) == pytest.approx(float(arrays["out/total"]), rel=tol, abs=0)
    checked = {"grad": breakdown.total, "grad_pull": breakdown["pull"].value, "grad_push": breakdown["push"].value}
    for group, scalar in checked.items():
        for name, found in gradients(scalar, leaves).items():
            if f"{group}/{name}" in arrays:
                wanted = arrays[f"{group}/{name}"]
                atol = tol * max(np.abs(wanted).max(), 1e-12)
                np.testing.assert_allclose(found.double().numpy(), wanted, rtol=0, atol=atol)


@all_cases
def test_published_sums_as_centernet_returns_them(recorded):
    """Four weighted sums, each divided by the stacks."""
    if recorded.system != "centernet":
        assert "out/ret_focal" not in recorded.arrays
        return
    outputs, targets, _ = recorded.read(torch.float64)
    breakdown = recorded.criterion(outputs, as_published=True)(outputs, targets)
    sums = {
        theirs: sum(float(entry.weighted.detach()) for name, entry in breakdown.items() if name.endswith(ours))
        for theirs, ours in {"focal": "heatmap", "pull": "pull", "push": "push", "off": "offset"}.items()
    }
    for theirs, found in sums.items():
        assert found == pytest.approx(float(recorded.arrays[f"out/ret_{theirs}"]), rel=1e-9, abs=0)


@all_cases
def test_mended_and_published_differ_by_the_counts_alone_where_nothing_else_is_to_mend(recorded):
    if recorded.case in ("no_objects", "saturated"):
        return
    outputs, targets, _ = recorded.read(torch.float64)
    published = recorded.criterion(outputs, as_published=True)(outputs, targets)
    mended = recorded.criterion(outputs)(outputs, targets)
    objects = targets["objects"].sum(1).double()
    offset = (objects.sum() + 1e-4) / objects.sum()
    for name in mended:
        if name.endswith("offset"):
            torch.testing.assert_close(mended[name].value, published[name].value * offset, rtol=1e-12, atol=0)
        elif name.endswith("heatmap") and f"{name.removesuffix('heatmap')}valid" not in targets:
            torch.testing.assert_close(mended[name].value, published[name].value, rtol=1e-12, atol=0)
    pulled = published["pull"].value / len(objects)
    torch.testing.assert_close(mended["pull"].value, pulled, rtol=2e-4, atol=0)


@each_system
def test_a_step_splits_exactly(system):
    recorded = Recorded(system, "basic")
    outputs, targets, leaves = recorded.read(torch.float64)
    criterion = recorded.criterion(outputs)
    whole = gradients(criterion(outputs, targets).total, leaves)
    parts = halves(targets)
    denominators = hw.pool_denominators(criterion, parts)
    for i, part in enumerate(parts):
        stacks = [
            {k: [a[i : i + 1] for a in v] if isinstance(v, list) else v[i : i + 1] for k, v in stack.items()}
            for stack in outputs["stacks"]
        ]
        criterion({"stacks": stacks}, part, denominators).total.backward()
    for name, leaf in leaves.items():
        torch.testing.assert_close(leaf.grad, whole[name], rtol=1e-11, atol=1e-16)


@each_system
def test_without_an_object_the_negatives_train_and_all_else_is_zero(system):
    """SPEC F4: the count of peaks is at least 1 in a step; embeddings and offsets have nothing to learn."""
    outputs, targets, leaves = Recorded(system, "no_objects").read(torch.float32)
    targets["attention"] = [torch.zeros_like(each) for each in targets.get("attention", [])]
    if not targets["attention"]:
        del targets["attention"]
    breakdown = Recorded(system, "no_objects").criterion(outputs)(outputs, targets)
    breakdown.total.backward()
    for name, entry in breakdown.items():
        heat = "heatmap" in name or name == "attention"
        assert (entry.value > 0) == heat
        if heat:
            assert (entry.ratio.denominator == 1).all()
            torch.testing.assert_close(entry.value, entry.ratio.numerator.sum())
    assert all(leaf.grad.isfinite().all() for leaf in leaves.values())
    assert all((leaf.grad == 0).all() != ("_heat_" in name or name.startswith("att")) for name, leaf in leaves.items())


@both
@each_system
def test_no_operator_waits_for_the_device(system, as_published):
    recorded = Recorded(system, "basic")
    outputs, targets, leaves = recorded.read(torch.float32)
    criterion = recorded.criterion(outputs, as_published=as_published)
    with NoSync(), hw.Ledger(criterion):
        criterion(outputs, targets).total.backward()
    assert all(leaf.grad.isfinite().all() for leaf in leaves.values())


@both
def test_all_compiles_as_one_graph(as_published):
    """Saccade has all the family's losses."""
    recorded = Recorded("saccade", "one_stack")
    outputs, targets, leaves = recorded.read(torch.float32)
    criterion = recorded.criterion(outputs, as_published=as_published)
    wanted = gradients(criterion(outputs, targets).total, leaves)
    compiled = torch.compile(lambda o: criterion(o, targets).total, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(gradients(compiled(outputs), leaves), wanted)


@each_system
@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.float32])
def test_objects_of_any_dtype(system, dtype):
    """A1, A2, A3: the authors' push is 0, their sums other sums, or an IndexError."""
    recorded = Recorded(system, "basic")
    outputs, targets, _ = recorded.read(torch.float64)
    for as_published in (False, True):
        criterion = recorded.criterion(outputs, as_published=as_published)
        wanted = criterion(outputs, targets).total
        assert torch.equal(criterion(outputs, {**targets, "objects": targets["objects"].to(dtype)}).total, wanted)
        scaled = targets["objects"] * 255  # A8
        assert torch.equal(criterion(outputs, {**targets, "objects": scaled}).total, wanted)


def test_attention_weighs_what_all_weigh():
    """F8: divided by the stacks twice."""
    for num_stacks in (1, 2, 3):
        mended = hw.presets.cornernet_saccade(num_stacks)
        published = hw.presets.cornernet_saccade(num_stacks, as_published=True)
        weights: list[dict[str, Any]] = [
            {term.name: term.weight for term in each.terms} for each in (mended, published)
        ]
        assert weights[0]["attention"] == pytest.approx(weights[0]["top_left_heatmap"])
        assert weights[1]["attention"] == pytest.approx(weights[1]["top_left_heatmap"] / num_stacks)


def test_an_output_is_left_as_it_is():
    """F1: the authors' sigmoid overwrites it, so that a second call gives another loss."""
    outputs, targets, leaves = Recorded("cornernet", "basic").read(torch.float64)
    before = {name: leaf.detach().clone() for name, leaf in leaves.items()}
    for as_published in (False, True):
        criterion = hw.presets.cornernet(as_published=as_published)
        first = criterion(outputs, targets).total
        assert torch.equal(criterion(outputs, targets).total, first)
    assert all(torch.equal(leaf, before[name]) for name, leaf in leaves.items())


@pytest.mark.parametrize("name", ["cornernet", "cornernet_squeeze", "cornernet_saccade", "centernet"])
def test_configuration_and_card(name):
    preset = getattr(hw.presets, name)
    for as_published in (False, True):
        criterion = preset(pull_weight=0.5, push_weight=0.25, offset_weight=2.0, as_published=as_published)
        again = hw.Criterion.from_json(criterion.to_json())
        assert again.to_dict() == criterion.to_dict()
        num_stacks = 3 if name == "cornernet_saccade" else 2
        weights = {term.name: term.weight for term in criterion.terms}
        wanted = {"pull": 0.5, "push": 0.25, "top_left_offset": 2.0, "top_left_heatmap": 1.0}
        assert {term: weights[term] * num_stacks for term in wanted} == pytest.approx(wanted)
    points = ["top_left", "bottom_right"] + ["center"] * (name == "centernet")
    assert criterion.names == (
        *(f"{point}_heatmap" for point in points),
        "pull",
        "push",
        *(f"{point}_offset" for point in points),
        *(["attention"] if name == "cornernet_saccade" else []),
    )
    for term in criterion.names:
        assert term in hw.presets.card(name)
    with pytest.raises(ValueError, match="num_stacks is at least 1, found 0"):
        preset(0)


def test_another_number_of_stacks_is_refused():
    outputs, targets, _ = Recorded("cornernet", "basic").read(torch.float32)
    with pytest.raises(ValueError, match="3 weights, the outputs have 2 levels"):
        hw.presets.cornernet(3)(outputs, targets)


def test_an_option_by_position_is_no_number_of_stacks():
    """`True` was one stack, where other presets have their options by name alone."""
    with pytest.raises(TypeError, match=r"num_stacks.* found True\. Options .* are given by name"):
        hw.presets.cornernet(True)


@pytest.mark.parametrize(("num", "slots"), [(0, 4), (0, 0), (2, 0)])
@pytest.mark.parametrize("name", ["cornernet", "cornernet_squeeze", "cornernet_saccade", "centernet"])
def test_no_image_and_no_slot_are_nothing_to_learn(name, num, slots, monkeypatch):
    monkeypatch.setattr(samples, "NUM_SLOTS", slots)
    criterion, outputs, targets = samples.sample(name, num, empty=0)
    assert criterion(outputs, targets).total.isfinite()
