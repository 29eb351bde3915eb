"""RetinaNet, SSD, weighted U-Net and deep supervision against recorded numbers, and what their cards promise."""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.utils._pytree import tree_leaves, tree_map

import headwise as hw
from headwise import losses, normalizers
from headwise.criterion.schedules import StepDecay
from headwise.criterion.terms.levels import shrink
from tests.criterion.test_junction import NoSync

FOLDER = Path(__file__).parents[1] / "golden"
RETINANET, EXTRA = np.load(FOLDER / "retinanet_loss.npz"), np.load(FOLDER / "extra_loss.npz")
RETINANET_CASES = sorted({name.split("/")[0] for name in RETINANET.files})
SSD_CASES = ["ssd_basic", "ssd_no_positive"]
DTYPES = pytest.mark.parametrize(("dtype", "tol"), [(torch.float64, 1e-9), (torch.float32, 1e-5)])


def tensor(golden, name, dtype=None):
    return torch.from_numpy(golden[name]) if dtype is None else torch.from_numpy(golden[name]).to(dtype)


def pyramid(golden, case, dtype, deltas="loc", cuts=()):
    """Leaves (logits, deltas), and outputs and targets cut into levels."""
    leaves = [tensor(golden, f"{case}/in/{name}", dtype).requires_grad_() for name in ("cls", "loc")]
    label, target = tensor(golden, f"{case}/tgt/cls"), tensor(golden, f"{case}/tgt/{deltas}", dtype)
    ends = [0, *cuts, label.shape[1]]
    parts = [slice(start, stop) for start, stop in pairwise(ends)]
    outputs = [{"logits": leaves[0][:, part], "deltas": leaves[1][:, part]} for part in parts]
    targets = [{"label": label[:, part], "deltas": target[:, part]} for part in parts]
    return leaves, {"levels": outputs}, {"levels": targets}


def assert_equal(found, wanted, tol):
    found = found.detach().double().numpy()
    np.testing.assert_allclose(found, wanted, rtol=tol, atol=tol * max(np.abs(wanted).max(), 1e-3))


@DTYPES
@pytest.mark.parametrize("cuts", [(), (3, 17, 18, 30)])
@pytest.mark.parametrize("case", RETINANET_CASES)
def test_retinanet_as_published(case, cuts, dtype, tol):
    leaves, outputs, targets = pyramid(RETINANET, case, dtype, cuts=cuts)
    breakdown = hw.presets.retinanet(as_published=True)(outputs, targets)
    for ours, theirs in {"box": "loc", "classification": "cls"}.items():
        assert_equal(breakdown[ours].value, RETINANET[f"{case}/out/{theirs}"], tol)
    assert_equal(breakdown.total, RETINANET[f"{case}/out/total"], tol)
    breakdown.total.backward()
    for leaf, theirs in zip(leaves, ("cls", "loc"), strict=True):
        assert_equal(leaf.grad, RETINANET[f"{case}/grad/{theirs}"], tol)


@pytest.mark.parametrize("case", RETINANET_CASES)
def test_retinanet_of_the_paper(case):
    _, outputs, targets = pyramid(RETINANET, case, torch.float64, cuts=(10,))
    breakdown = hw.presets.retinanet()(outputs, targets)
    wanted = RETINANET[f"{case}/out/cls_focal_sum"]
    assert np.float32(wanted) == wanted  # the only number that was recorded in float32
    assert_equal(breakdown["classification"].value * int(RETINANET[f"{case}/tgt/cls"].clip(0, 1).sum()), wanted, 1e-6)


@pytest.mark.parametrize("focal", ["sigmoid", "shifted"])
def test_retinanet_counts_positives_over_all_levels(focal):
    _, outputs, targets = pyramid(RETINANET, "basic", torch.float64, cuts=(5, 20))
    criterion = hw.presets.retinanet(focal=focal)
    breakdown = criterion(outputs, targets)
    _, one_outputs, one_targets = pyramid(RETINANET, "basic", torch.float64)
    torch.testing.assert_close(breakdown.total, criterion(one_outputs, one_targets).total, rtol=1e-12, atol=0)
    for counts in criterion.denominators(targets).values():
        assert counts.shape == (3,)
        assert counts.sum() == 12


def test_retinanet_of_micro_batches_is_that_of_the_batch():
    leaves, outputs, targets = pyramid(RETINANET, "basic", torch.float64, cuts=(5, 20))
    criterion = hw.presets.retinanet()
    whole = torch.autograd.grad(criterion(outputs, targets).total, leaves, retain_graph=True)
    images = [image_of(i, targets) for i in range(3)]
    denominators = hw.pool_denominators(criterion, images)
    total = sum(criterion(image_of(i, outputs), images[i], denominators).total for i in range(3))
    torch.testing.assert_close(torch.autograd.grad(total, leaves), whole, rtol=1e-12, atol=1e-18)


def test_r1_runs_without_a_gpu_and_logs_without_an_index():
    with pytest.raises(IndexError):  # what the original logs
        torch.tensor(1.0).data[0]
    _, outputs, targets = pyramid(RETINANET, "basic", torch.float32)
    log = hw.presets.retinanet(as_published=True)(outputs, targets).log()
    assert all(each.shape == () and each.is_cpu for each in log.values())


def test_r5_the_loss_that_is_trained_is_the_one_that_is_named():
    _, outputs, targets = pyramid(RETINANET, "basic", torch.float64)
    published, paper, shifted = (
        hw.presets.retinanet(**each)(outputs, targets)["classification"].value
        for each in ({"as_published": True}, {"focal": "sigmoid"}, {"focal": "shifted"})
    )
    torch.testing.assert_close(published, shifted, rtol=0, atol=0)
    assert_equal(published, RETINANET["basic/out/cls"], 1e-9)  # though the original's class is called FocalLoss
    assert paper > published * 1.05 or paper < published / 1.05


def test_r11_labels_stay_where_they_are():
    _, outputs, targets = pyramid(RETINANET, "basic", torch.float32)
    label = targets["levels"][0]["label"]
    with NoSync(), pytest.raises(AssertionError):
        torch.eye(21)[label[label > -1]]  # the original's one-hot vectors
    with NoSync():
        hw.presets.retinanet(as_published=True)(outputs, targets).total.backward()


def without_positives(label, dtype=torch.float64):
    leaves, outputs, targets = pyramid(RETINANET, "basic", dtype, cuts=(5, 20))
    for level in targets["levels"]:
        level["label"].fill_(label)
    return leaves, outputs, targets


@pytest.mark.parametrize("options", [{}, {"as_published": True}])
def test_r2_background_alone_counts_as_one_positive(options):
    leaves, outputs, targets = without_positives(0)
    breakdown = hw.presets.retinanet(**options)(outputs, targets)
    loss = losses.shifted_focal if options else losses.sigmoid_focal
    each = [loss(o["logits"], t["label"]) for o, t in zip(outputs["levels"], targets["levels"], strict=True)]
    torch.testing.assert_close(breakdown["classification"].value, sum(each), rtol=1e-12, atol=0)
    assert breakdown["box"].value == 0
    breakdown.total.backward()
    assert leaves[0].grad.isfinite().all()
    assert leaves[0].grad.all()
    assert not leaves[1].grad.any()


@pytest.mark.parametrize("options", [{}, {"as_published": True}])
def test_r2_all_ignored_is_zero(options):
    leaves, outputs, targets = without_positives(-1, torch.float32)
    total = hw.presets.retinanet(**options)(outputs, targets).total
    assert total == 0
    assert not any(each.any() for each in torch.autograd.grad(total, leaves))


def image_of(i, nested):
    return {"levels": [{name: each[i : i + 1] for name, each in level.items()} for level in nested["levels"]]}


@pytest.mark.parametrize("positives", [0, 1])
def test_r2_the_floor_of_one_is_applied_once_in_a_step(positives):
    _, outputs, targets = without_positives(0)
    targets["levels"][0]["label"][0, :positives] = 3
    criterion = hw.presets.retinanet()
    images = [image_of(i, targets) for i in range(3)]
    denominators = hw.pool_denominators(criterion, images)
    assert denominators["classification"].sum() == positives
    total = sum(criterion(image_of(i, outputs), images[i], denominators).total for i in range(3))
    torch.testing.assert_close(total, criterion(outputs, targets).total, rtol=1e-12, atol=0)


@DTYPES
@pytest.mark.parametrize("as_published", [False, True])
@pytest.mark.parametrize("cuts", [(), (7, 31, 32)])
@pytest.mark.parametrize("case", SSD_CASES)
def test_ssd(case, cuts, as_published, dtype, tol):
    cuts = [cut for cut in cuts if cut < 40]
    leaves, outputs, targets = pyramid(EXTRA, case, dtype, deltas="loc_encoded", cuts=cuts)
    breakdown = hw.presets.ssd(as_published=as_published, num_levels=len(cuts) + 1)(outputs, targets)
    for ours, theirs in {"box": "loc", "classification": "cls"}.items():
        assert_equal(breakdown[ours].value, EXTRA[f"{case}/out/{theirs}"], tol)
    breakdown.total.backward()
    for leaf, theirs in zip(leaves, ("cls", "loc"), strict=True):
        assert_equal(leaf.grad, EXTRA[f"{case}/grad/{theirs}"], tol)


def test_s1_ssd_counts_positives_once():
    _, outputs, targets = pyramid(EXTRA, "ssd_basic", torch.float64, deltas="loc_encoded", cuts=(20,))
    targets["levels"][0]["label"][0] = 2  # 20 of 60 boxes: 60 boxes of background are wanted, 36 at most are there
    published = hw.presets.ssd(as_published=True, num_levels=2)(outputs, targets)
    mended = hw.presets.ssd(num_levels=2)(outputs, targets)
    assert published["classification"].value > 1.05 * mended["classification"].value
    torch.testing.assert_close(published["box"].value, mended["box"].value)


@pytest.mark.parametrize(("ours", "theirs"), [("mean", "mean"), ("weight_sum", "weighted_mean"), ("sum", "sum")])
def test_weighted_unet(ours, theirs):
    logits = tensor(EXTRA, "nll_pixels/in/logits", torch.float64).requires_grad_()
    label, weight = tensor(EXTRA, "nll_pixels/tgt/target"), tensor(EXTRA, "nll_pixels/tgt/weight", torch.float64)
    criterion = hw.presets.weighted_unet(normalizer=ours)
    breakdown = criterion({"logits": logits}, {"label": label, "weight_map": weight})
    assert_equal(breakdown["segmentation"].value, EXTRA[f"nll_pixels/out/{theirs}"], 1e-9)
    breakdown.total.backward()
    of_mean = EXTRA["nll_pixels/grad/logits"]
    assert_equal(logits.grad, of_mean * EXTRA[f"nll_pixels/out/{theirs}"] / EXTRA["nll_pixels/out/mean"], 1e-9)


def test_weighted_unet_of_elements_and_as_published():
    logits = tensor(EXTRA, "nll_basic/in/logits", torch.float64).requires_grad_()
    label, weight = tensor(EXTRA, "nll_basic/tgt/target"), tensor(EXTRA, "nll_basic/tgt/weight", torch.float64)
    for columns in (False, True):
        targets = {"label": label[:, None], "weight_map": weight[:, None]} if columns else {}
        targets = targets or {"label": label, "weight_map": weight}
        breakdown = hw.presets.weighted_unet()({"logits": logits}, targets)
        assert_equal(breakdown.total, EXTRA["nll_basic/out/loss"], 1e-9)
        (gradient,) = torch.autograd.grad(breakdown.total, logits)
        assert_equal(gradient, EXTRA["nll_basic/grad/logits"], 1e-9)
        published = hw.presets.weighted_unet(as_published=True)({"logits": logits}, targets)
        assert_equal(published.total, EXTRA["nll_basic/out/loss"] * len(label), 1e-9)


def test_weighted_unet_ignores_a_label_in_sum_and_count():
    logits = torch.randn(2, 3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    label = torch.randint(0, 3, (2, 4, 4), generator=torch.Generator().manual_seed(1))
    targets = {"label": label, "weight_map": torch.ones(2, 4, 4)}
    for normalizer in ("mean", "weight_sum"):
        found = hw.presets.weighted_unet(normalizer=normalizer, ignore_index=2)({"logits": logits}, targets).total
        torch.testing.assert_close(found, F.cross_entropy(logits, label, ignore_index=2))


def test_parallel_criterion_is_one_term_a_head():
    """ParallelCriterion with a shared target, and MultiCriterion: plain terms with weights."""
    case = "parallel_seed002"
    heads = {f"head_{i}": tensor(EXTRA, f"{case}/in/head_{i}", torch.float64).requires_grad_() for i in range(3)}
    target, weights = tensor(EXTRA, f"{case}/tgt/target"), EXTRA[f"{case}/tgt/weights"]
    terms = [
        hw.Term(f"term_{i}", losses.cross_entropy, output=f"head_{i}", target="target", weight=float(weights[i]))
        for i in range(3)
    ]
    breakdown = hw.Criterion(terms)(heads, {"target": target})
    for name in ("term_0", "term_1", "term_2"):
        assert_equal(breakdown[name].value, EXTRA[f"{case}/out/{name}"], 1e-9)
    assert_equal(breakdown.total, EXTRA[f"{case}/out/total"], 1e-9)
    breakdown.total.backward()
    for name, head in heads.items():
        assert_equal(head.grad, EXTRA[f"{case}/grad/{name}"], 1e-9)
    supervised = hw.presets.deep_supervision(weights=[float(weight) for weight in weights])
    total = supervised({"levels": [*heads.values()]}, {"label": target}).total
    assert_equal(total, EXTRA[f"{case}/out/total"], 1e-9)


def levels(sizes, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, 3, *size, generator=generator, dtype=dtype).requires_grad_() for size in sizes]


def test_deep_supervision_resizes_labels_and_halves_weights():
    outputs = levels([(9, 12), (5, 6), (3, 3)])
    label = torch.randint(0, 3, (2, 9, 12), generator=torch.Generator().manual_seed(1))
    criterion = hw.presets.deep_supervision(weights=[1.0, 0.5, 0.25], strides=[1, 2, 4], normalize=True)
    breakdown = criterion({"levels": outputs}, {"label": label})
    each = [F.cross_entropy(o, shrink(label, stride)) for o, stride in zip(outputs, (1, 2, 4), strict=True)]
    torch.testing.assert_close(breakdown.total, (each[0] + each[1] / 2 + each[2] / 4) / 1.75, rtol=1e-12, atol=0)
    assert breakdown["levels"].levels.shape == (3,)


def test_auxiliary_weights_fall_until_negligible_and_keep_a_zero_gradient():
    outputs = levels([(4, 4)] * 2)
    decay = StepDecay(1.0, 0.1, every=10, negligible=1e-2)
    criterion = hw.presets.deep_supervision(weights=[1.0, decay])
    label = torch.zeros(2, 4, 4, dtype=torch.long)
    main, auxiliary = (F.cross_entropy(each, label) for each in outputs)
    for weight in (1.0, 0.1, 0.01, 0.0):
        total = criterion({"levels": outputs}, {"label": label}).total
        torch.testing.assert_close(total, main + weight * auxiliary, rtol=1e-12, atol=0)
        gradient = torch.autograd.grad(total, outputs)[1]
        assert gradient.any() == (weight > 0)
        criterion.advance(10)


def test_hourglasses_regress_one_map_on_every_stack():
    outputs = levels([(4, 4)] * 3)
    heatmap = torch.rand(2, 3, 4, 4, dtype=torch.float64)
    criterion = hw.presets.deep_supervision(losses.squared_error, normalizers.elements, target="heatmap")
    total = criterion({"levels": outputs}, {"heatmap": heatmap}).total
    torch.testing.assert_close(total, sum(F.mse_loss(each, heatmap) for each in outputs), rtol=1e-12, atol=0)


def test_weight_maps_under_deep_supervision():
    outputs = levels([(6, 6), (3, 3)])
    label, weight = torch.randint(0, 3, (2, 6, 6)), torch.rand(2, 6, 6, dtype=torch.float64)
    criterion = hw.presets.deep_supervision(
        losses.weighted_cross_entropy, normalizers.weight_sum, strides=[1, 2], target=("label", "weight_map")
    )
    found = criterion({"levels": outputs}, {"label": label, "weight_map": weight}).total
    wanted = torch.zeros(())
    for output, stride in zip(outputs, (1, 2), strict=True):
        of_level = shrink(weight, stride)
        wanted = (
            wanted
            + (F.cross_entropy(output, shrink(label, stride), reduction="none") * of_level).sum() / of_level.sum()
        )
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=0)


def samples():
    """Per preset: criterion, outputs and targets in float32."""
    retinanet = pyramid(RETINANET, "basic", torch.float32, cuts=(12,))
    ssd = pyramid(EXTRA, "ssd_basic", torch.float32, deltas="loc_encoded", cuts=(12,))
    pixels = levels([(6, 6), (3, 3)], torch.float32)
    label = torch.randint(0, 3, (2, 6, 6), generator=torch.Generator().manual_seed(1))
    unet = {"label": label, "weight_map": torch.rand(2, 6, 6, generator=torch.Generator().manual_seed(2))}
    return {
        "retinanet": (hw.presets.retinanet(), *retinanet),
        "retinanet_published": (hw.presets.retinanet(as_published=True), *retinanet),
        "ssd": (hw.presets.ssd(num_levels=2), *ssd),
        "ssd_published": (hw.presets.ssd(as_published=True, num_levels=2), *ssd),
        "weighted_unet": (hw.presets.weighted_unet(normalizer="weight_sum"), pixels[:1], {"logits": pixels[0]}, unet),
        "deep_supervision": (
            hw.presets.deep_supervision(weights=[1.0, StepDecay()], strides=[1, 2]),
            pixels,
            {"levels": pixels},
            {"label": label},
        ),
    }


@pytest.mark.parametrize("name", ["retinanet", "ssd", "weighted_unet", "deep_supervision"])
def test_no_sync_one_graph_and_books(name):
    criterion, _, outputs, targets = samples()[name]
    outputs = tree_map(lambda output: output.detach().requires_grad_(), outputs)
    with NoSync(), hw.Ledger(criterion) as ledger:
        total = criterion(outputs, targets).total
        total.backward()
    wanted = tuple(leaf.grad for leaf in tree_leaves(outputs))
    assert ledger.read().total == pytest.approx(total.item(), rel=1e-6)
    torch._dynamo.reset()
    outputs = tree_map(lambda output: output.detach().requires_grad_(), outputs)
    compiled = torch.compile(lambda o: criterion(o, targets).total, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(torch.autograd.grad(compiled(outputs), tree_leaves(outputs)), wanted)


def test_books_say_which_level_trains_what():
    criterion, _, outputs, targets = samples()["retinanet"]
    with hw.Ledger(criterion) as ledger:
        criterion(outputs, targets).total.backward()
        books = ledger.read()
    assert set(books["classification"].outputs) == {"levels[0].logits", "levels[1].logits"}
    assert all(each.grad_norm > 0 for each in books["classification"].outputs.values())


@pytest.mark.parametrize("name", list(samples()))
def test_configuration_and_card(name):
    criterion = samples()[name][0]
    assert hw.Criterion.from_json(criterion.to_json()).to_dict() == criterion.to_dict()
    card = hw.presets.card(name.removesuffix("_published"))
    for term in criterion.names:
        assert term in card


def test_names_are_those_of_the_shared_table():
    assert hw.presets.retinanet().names == hw.presets.ssd().names == ("classification", "box")
    assert hw.presets.weighted_unet().names == ("segmentation",)
    assert hw.presets.deep_supervision().names == ("levels",)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (
            lambda: hw.presets.retinanet(focal="focal"),  # type: ignore[arg-type]
            "'sigmoid' or 'shifted'.*found 'focal'",
        ),
        (lambda: hw.presets.retinanet(focal="sigmoid", as_published=True), "'shifted' as published; found 'sigmoid'"),
        (lambda: hw.presets.ssd(num_levels=0), "num_levels is at least 1; found 0"),
        (
            lambda: hw.presets.weighted_unet(normalizer="average"),  # type: ignore[arg-type]
            "'mean', 'weight_sum' or 'sum'.*found 'average'",
        ),
        (lambda: hw.presets.weighted_unet(normalizer="mean", as_published=True), "'sum' as published; found 'mean'"),
        (partial(hw.presets.deep_supervision, strides=[0]), "strides are whole numbers from 1"),
    ],
)
def test_message(call, words):
    with pytest.raises(ValueError, match=words):
        call()
