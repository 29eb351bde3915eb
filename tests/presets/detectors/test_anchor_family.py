"""RetinaNet and SSD against recorded numbers, and what their cards promise."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

import headwise as hw
from headwise import losses
from tests.criterion.test_junction import NoSync

FOLDER = Path(__file__).parents[2] / "golden"
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
