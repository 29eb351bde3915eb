"""TextSnake's losses: the authors' recorded numbers, and each defect of theirs shown and mended."""

from pathlib import Path

import numpy as np
import pytest
import torch
from benchmarks.authors.textsnake import textsnake_loss

from headwise import losses, normalizers

GOLDEN = np.load(Path(__file__).parents[2] / "golden" / "textsnake_loss.npz")
CASES = sorted({name.split("/")[0] for name in GOLDEN.files})
ORDER = ("tr", "tcl", "radii", "sin", "cos")


def golden(case, dtype=torch.float64):
    def target(name):
        return torch.from_numpy(GOLDEN[f"{case}/tgt/{name}"])

    maps = torch.from_numpy(GOLDEN[f"{case}/in/pred"]).to(dtype).requires_grad_()
    return maps, {
        "text_region": target("tr_mask").bool(),
        "center_line": target("tcl_mask").bool(),
        "sin": target("sin_map").to(dtype),
        "cos": target("cos_map").to(dtype),
        "radius": target("radii_map").to(dtype),
        "valid": target("train_mask").bool(),
    }


def divided(total, count):
    return total / count.clamp(min=1).to(total.dtype)


def total(values):
    return torch.stack([torch.as_tensor(value) for value in values]).sum()


def published(maps, targets):
    text, line, valid = targets["text_region"], targets["center_line"], targets["valid"]
    count = normalizers.count(line, line)
    direction = [
        losses.published_direction_smooth_l1(maps[:, 4:6], targets[name], valid, line, component=i)
        for i, name in enumerate(("sin", "cos"))
    ]
    radius = losses.published_relative_smooth_l1(maps[:, 6], targets["radius"], valid, line)
    return (
        divided(losses.hard_negative_cross_entropy(maps[:, 0:2], text, valid), normalizers.mined(text, valid)),
        divided(losses.cross_entropy(maps[:, 2:4], line, valid & text), normalizers.count(line, valid & text)),
        *(divided(value, count) for value in (radius, *direction)),
    )


def mended(maps, targets):
    line, on = targets["center_line"], targets["center_line"] & targets["valid"]
    count = normalizers.count(line, on)
    direction = [
        losses.direction_smooth_l1(maps[:, 4:6], targets[name], on, component=i)
        for i, name in enumerate(("sin", "cos"))
    ]
    radius = losses.relative_smooth_l1(maps[:, 6], targets["radius"], on)
    return (
        *published(maps, targets)[:2],
        divided(radius, normalizers.positive(targets["radius"], on)),
        *(divided(value, count) for value in direction),
    )


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-5)])
@pytest.mark.parametrize("case", CASES)
def test_published_values_and_gradients(case, dtype, tolerance):
    maps, targets = golden(case, dtype)
    found = dict(zip(ORDER, published(maps, targets), strict=True)) | {"total": sum(published(maps, targets))}
    for name, value in found.items():
        assert value.item() == pytest.approx(float(GOLDEN[f"{case}/out/{name}"]), rel=tolerance, abs=1e-12), name
        recorded = "grad/pred" if name == "total" else f"grad_{name}/pred"
        if f"{case}/{recorded}" in GOLDEN.files:
            expected = torch.from_numpy(GOLDEN[f"{case}/{recorded}"])
            (gradient,) = torch.autograd.grad(value, maps, retain_graph=True)
            assert (gradient - expected).norm() <= tolerance * expected.norm(), name


@pytest.mark.parametrize("case", ["basic", "few_negatives", "one_tcl_pixel"])
def test_authors_formulation_is_equal(case):
    """The benchmark's opponent computes the same as the recorded code and, without defects in reach, as ours."""
    maps, targets = golden(case)
    theirs = textsnake_loss(maps, targets)
    for name, value in zip(ORDER, theirs, strict=True):
        assert float(torch.as_tensor(value).detach()) == pytest.approx(float(GOLDEN[f"{case}/out/{name}"]), rel=1e-9)
    (expected,) = torch.autograd.grad(total(theirs), maps)
    (gradient,) = torch.autograd.grad(sum(mended(maps, targets)), maps)
    torch.testing.assert_close(gradient, expected, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("inside", [False, True])
def test_t2_zero_vector(inside):
    """T2: one (0, 0) anywhere makes the authors' gradient NaN; ours stays finite, and exact elsewhere."""
    maps, targets = golden("basic")
    line = targets["center_line"]
    pixel = tuple(int(i) for i in (line if inside else ~line).nonzero()[0])
    with torch.no_grad():
        maps[pixel[0], 4:6, pixel[1], pixel[2]] = 0
    for theirs in (textsnake_loss(maps, targets), published(maps, targets)):
        (gradient,) = torch.autograd.grad(total(theirs[3:]), maps)
        assert gradient[:, 4:6].isnan().any()
        assert bool(torch.as_tensor(theirs[3]).isnan()) == inside
    ours = mended(maps, targets)
    (gradient,) = torch.autograd.grad(sum(ours), maps)
    assert all(value.isfinite() for value in ours)
    assert gradient.isfinite().all()


def test_t2_zero_initialized_head_in_half_precision_learns():
    """T2: all outputs 0 or tiny, in fp16; the gradient is finite and points to the target."""
    target = torch.full((1, 4, 4), 0.6)
    for size in (0.0, 1e-4):
        output = torch.full((1, 2, 4, 4), size, dtype=torch.float16, requires_grad=True)
        value = losses.direction_smooth_l1(output, target, component=0)
        (gradient,) = torch.autograd.grad(value, output)
        assert gradient.isfinite().all()
        assert (gradient[:, 0] < 0).all()
    output = torch.zeros(1, 2, 4, 4, requires_grad=True)
    (gradient,) = torch.autograd.grad(losses.direction_smooth_l1(output, target, component=0), output)
    assert (gradient[:, 1] == 0).all()


def test_t3_fewer_negatives_than_the_fallback():
    """T3: without text, the authors ask for 100 negatives whether there are as many or not."""
    maps, targets = golden("no_text")
    targets["valid"] = torch.zeros_like(targets["valid"])
    targets["valid"][0, :5, :10] = True
    with pytest.raises(RuntimeError, match="out of range"):
        textsnake_loss(maps, targets)
    text, valid = targets["text_region"], targets["valid"]
    assert normalizers.mined(text, valid) == 50
    expected = torch.nn.functional.cross_entropy(maps[:1, :2, :5, :10], text[:1, :5, :10].long(), reduction="sum")
    torch.testing.assert_close(losses.hard_negative_cross_entropy(maps[:, :2], text, valid), expected)


def test_t4_batch_without_text_keeps_its_graph():
    """T4: the authors return plain floats, which have no gradient."""
    maps, targets = golden("no_text")
    assert [isinstance(value, float) for value in textsnake_loss(maps, targets)[1:]] == [True] * 4
    for value in mended(maps, targets)[1:]:
        assert value == 0
        (gradient,) = torch.autograd.grad(value, maps, retain_graph=True)
        assert (gradient == 0).all()


def test_t5_ignored_pixels():
    """T5: the authors mask the geometry by the center line alone, so pixels to ignore change it."""
    maps, targets = golden("basic")
    line = targets["center_line"]
    pixel = tuple(int(i) for i in line.nonzero()[0])
    targets["valid"][pixel] = False
    changed = maps.detach().clone()
    changed[pixel[0], 4:7, pixel[1], pixel[2]] += 5
    for name, index in (("radius", 2), ("sin", 3), ("cos", 4)):
        assert published(maps, targets)[index] != published(changed, targets)[index], name
        assert textsnake_loss(maps, targets)[index] != textsnake_loss(changed, targets)[index], name
        assert mended(maps, targets)[index] == mended(changed, targets)[index], name


def test_t6_radius_of_zero():
    """T6: a radius of 0 makes the authors' loss infinite; here the pixel is dropped, from the count too."""
    maps, targets = golden("basic")
    line = targets["center_line"]
    pixel = tuple(int(i) for i in line.nonzero()[0])
    targets["radius"][pixel] = 0
    for theirs in (textsnake_loss(maps, targets), published(maps, targets)):
        assert torch.as_tensor(theirs[2]).isinf()
        (gradient,) = torch.autograd.grad(total(theirs[2:3]), maps)
        assert not gradient.isfinite().all()
    without = dict(targets)
    without["center_line"] = line.clone()
    without["center_line"][pixel] = False
    torch.testing.assert_close(mended(maps, targets)[2], mended(maps, without)[2])
    (gradient,) = torch.autograd.grad(mended(maps, targets)[2], maps)
    assert gradient.isfinite().all()


def test_t7_integer_masks():
    """T7: indexing by an integer mask gathers rows 0 and 1; here a mask of any dtype means the same."""
    maps, targets = golden("basic")
    line, valid, radius = targets["center_line"], targets["valid"], targets["radius"]
    rows = maps[:, 6].reshape(-1)
    assert rows[line.reshape(-1).long()].shape == (line.numel(),)
    for dtype in (torch.uint8, torch.int64, torch.float32):
        torch.testing.assert_close(
            losses.relative_smooth_l1(maps[:, 6], radius, (line & valid).to(dtype)),
            losses.relative_smooth_l1(maps[:, 6], radius, line & valid),
        )
        integer = losses.hard_negative_cross_entropy(maps[:, :2], targets["text_region"].long(), valid.to(dtype))
        torch.testing.assert_close(
            integer, losses.hard_negative_cross_entropy(maps[:, :2], targets["text_region"], valid)
        )


def test_t8_memory_layout():
    """T8: the authors' .view fails on masks that are not contiguous."""
    maps, targets = golden("basic")
    turned = {name: target.transpose(1, 2).contiguous().transpose(1, 2) for name, target in targets.items()}
    with pytest.raises(RuntimeError, match="view"):
        textsnake_loss(maps, turned)
    channels_last = maps.detach().contiguous(memory_format=torch.channels_last).requires_grad_()
    found = mended(channels_last, turned)
    for value, expected in zip(found, mended(maps, targets), strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-12, atol=0)
    (gradient,) = torch.autograd.grad(sum(found), channels_last)
    (expected,) = torch.autograd.grad(sum(mended(maps, targets)), maps)
    torch.testing.assert_close(gradient, expected, rtol=1e-12, atol=1e-15)
