"""A term is a sum over a count: what hands in something else is made right, or is told."""

import warnings
from collections.abc import Callable
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import headwise as hw
from headwise import losses, normalizers
from tests.expect import near, refused, told

OTHERS: dict[str, tuple[nn.Module, Callable[..., torch.Tensor]]] = {
    "nn.SmoothL1Loss": (nn.SmoothL1Loss(), F.smooth_l1_loss),
    "nn.L1Loss": (nn.L1Loss(), F.l1_loss),
    "nn.MSELoss": (nn.MSELoss(), F.mse_loss),
    "nn.HuberLoss": (nn.HuberLoss(delta=0.5), partial(F.huber_loss, delta=0.5)),
    "nn.BCEWithLogitsLoss": (nn.BCEWithLogitsLoss(), F.binary_cross_entropy_with_logits),
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_torch_module_in_a_term(name):
    """Once: a loss that averages already is divided a second time, by N: 1/16 of torch's value here."""
    torch.manual_seed(0)
    loss, plain = OTHERS[name]
    y, target = torch.randn(8, 2), torch.rand(8, 2)
    criterion = hw.Criterion([hw.Term("depth", loss, output="y", target="t")])
    near(criterion({"y": y}, {"t": target}).total, plain(y, target), "total")


def test_torchs_cross_entropy_in_a_term():
    """Once: the mean over pixels is divided by the pixels again."""
    torch.manual_seed(0)
    y, label = torch.randn(2, 5, 4, 4), torch.randint(0, 5, (2, 4, 4))
    criterion = hw.Criterion([hw.Term("depth", nn.CrossEntropyLoss(), output="y", target="t")])
    near(criterion({"y": y}, {"t": label}).total, F.cross_entropy(y, label), "total")


@pytest.mark.parametrize("loss", [F.mse_loss, F.smooth_l1_loss, F.l1_loss], ids=lambda loss: loss.__name__)
def test_a_torch_function_in_a_term(loss):
    """Once: 1/16 of torch's value."""
    torch.manual_seed(0)
    y, target = torch.randn(8, 2), torch.randn(8, 2)
    criterion = hw.Criterion([hw.Term("depth", loss, output="y", target="t")])
    near(criterion({"y": y}, {"t": target}).total, loss(y, target), "total")


@pytest.mark.parametrize("name", ["smooth_l1", "squared_error", "absolute_error", "binary_cross_entropy"])
def test_a_mask_that_keeps_everything(name):
    """Once: a mask (N, ...) of ones multiplies an elementwise loss by its channels: 2 here, for 1."""
    torch.manual_seed(0)
    y, targets = torch.randn(8, 2), {"t": torch.rand(8, 2), "valid": torch.ones(8, dtype=torch.bool)}
    loss = getattr(losses, name)
    plain = hw.Criterion([hw.Term("depth", loss, output="y", target="t")])({"y": y}, {"t": targets["t"]}).total
    masked = hw.Criterion([hw.Term("depth", loss, output="y", target="t", mask="valid")])
    near(masked({"y": y}, targets).total, plain, "total with a mask of ones")


def test_a_weight_map_by_keyword():
    """Once: targets given by keyword divide by the number of valid pixels (13), by position by their weights (61)."""
    torch.manual_seed(0)
    y, label, weight = torch.randn(1, 2, 4, 4), torch.randint(0, 2, (1, 4, 4)), 10 * torch.rand(1, 4, 4)
    valid = torch.rand(1, 4, 4) > 0.3
    each = F.cross_entropy(y, label, reduction="none") * weight * valid
    term = hw.Term(
        "region",
        losses.weighted_cross_entropy,
        normalizers.weight_sum,
        output="y",
        target={"label": "label", "weight": "weight"},
        mask="valid",
    )
    total = hw.Criterion([term])({"y": y}, {"label": label, "weight": weight, "valid": valid}).total
    near(total, each.sum() / (weight * valid).sum(), "total")


def mined_mean(y, positive, ratio):
    """Cross entropy over all positives and `ratio` times as many of the hardest negatives, averaged over both."""
    each = F.cross_entropy(y, positive.long(), reduction="none")
    hard = each[~positive].sort(descending=True).values
    count = min(int(ratio * int(positive.sum())), len(hard))
    return (each[positive].sum() + hard[:count].sum()) / (int(positive.sum()) + count)


@pytest.mark.parametrize("normalizer", [normalizers.mined(ratio=10.0), None], ids=["another ratio", "default"])
def test_a_mined_loss_and_another_divisor(normalizer):
    """Once: the loss mines at ratio 3 and is divided by what ratio 10 would count, or by all pixels: no word."""
    torch.manual_seed(0)
    y, positive = torch.randn(1, 2, 16, 16), torch.rand(1, 16, 16) > 0.9
    loss = partial(losses.hard_negative_cross_entropy, ratio=3.0)
    if normalizer is not None:
        with refused("region", "ratio=3.0", "ratio=10.0"):
            hw.Term("region", loss, normalizer, output="y", target="t")
        return
    criterion = hw.Criterion([hw.Term("region", loss, output="y", target="t")])
    near(criterion({"y": y}, {"t": positive}).total, mined_mean(y, positive, 3.0), "total")


@pytest.mark.parametrize("masked", [True, False])
def test_a_normalizer_of_two_targets(masked):
    """Once: (target, weight) is called as (target, mask): 7.15 for 1.70; without a mask an AttributeError."""

    def weighted(output, target, weight, mask=None):
        return (weight * (output - target).square()).sum()

    def total_weight(target, weight):
        return weight.sum()

    torch.manual_seed(0)
    y, targets = torch.randn(6), {"t": torch.randn(6), "w": 10 * torch.rand(6)}
    if masked:
        targets["valid"] = torch.ones(6, dtype=torch.bool)
    wanted = (targets["w"] * (y - targets["t"]).square()).sum() / targets["w"].sum()
    if masked:
        with refused("region", "total_weight", "mask"):
            hw.Term("region", weighted, total_weight, output="y", target=("t", "w"), mask="valid")
    term = hw.Term("region", weighted, total_weight, output="y", target=("t", "w"))
    targets.pop("valid", None)
    near(hw.Criterion([term])({"y": y}, targets).total, wanted, "total")


def test_soft_labels_of_torchs_cross_entropy():
    """Once: class probabilities, which torch's module takes, are refused with the advice to cast them to integers."""
    torch.manual_seed(0)
    y, target = torch.randn(8, 5), torch.softmax(torch.randn(8, 5), 1)
    total = hw.Criterion({"y": nn.CrossEntropyLoss()})({"y": y}, {"y": target}).total
    near(total, F.cross_entropy(y, target), "total")


def test_a_mapping_of_torch_modules_is_exact():
    """The mapping takes torch's modules apart."""
    torch.manual_seed(0)
    y, target = torch.randn(8, 2), torch.rand(8, 2)
    for loss, plain in OTHERS.values():
        near(hw.Criterion({"y": loss})({"y": y}, {"y": target}).total, plain(y, target), "total")


@pytest.mark.parametrize("normalizer", [normalizers.images, "images"])
def test_a_count_beside_a_torch_module_in_a_mapping_divides(normalizer):
    """It was thrown away in silence: the mean over elements was taken."""
    y, t = torch.randn(4, 3), torch.randn(4, 3)
    found = hw.Criterion({"y": (nn.MSELoss(), normalizer)})({"y": y}, {"y": t}).total
    near(found, F.mse_loss(y, t, reduction="sum") / 4, "total")
    label = torch.randint(0, 3, (4,))
    near(
        hw.Criterion({"y": (nn.MultiMarginLoss(), 1.0)})({"y": y}, {"y": label}).total,
        F.multi_margin_loss(y, label),
        "own",
    )


def test_a_term_in_a_mapping_is_refused():
    with refused("output 'y'", "Give a list of terms"):
        hw.Criterion({"y": hw.Term("y", losses.squared_error, output="y", target="y")})


def test_a_sum_over_a_count_is_exact():
    """Our own losses, masks of the output's shape, and mining with its own divisor."""
    torch.manual_seed(0)
    y, targets = torch.randn(8, 2), {"t": torch.randn(8, 2), "valid": torch.rand(8, 2) > 0.5}
    criterion = hw.Criterion([hw.Term("depth", losses.squared_error, output="y", target="t", mask="valid")])
    near(criterion({"y": y}, targets).total, (y - targets["t"]).square()[targets["valid"]].mean(), "total")
    y, positive = torch.randn(1, 2, 16, 16), torch.rand(1, 16, 16) > 0.9
    mined = hw.Term("region", losses.hard_negative_cross_entropy, normalizers.mined, output="y", target="t")
    near(hw.Criterion([mined])({"y": y}, {"t": positive}).total, mined_mean(y, positive, 3.0), "mined")


def test_a_loss_that_averages_is_told_once():
    """A function of the user's: found on its first call, without a word to one that adds up, or is divided by 1."""
    y, target = torch.randn(6, 3), torch.randn(6, 3)
    averaged = hw.Criterion([hw.Term("depth", lambda o, t: (o - t).square().mean(), output="y", target="t")])
    with told("depth", "averages"):
        for _ in range(3):
            averaged({"y": y}, {"t": target})
    added = hw.Term("sum", lambda o, t: (o - t).square().sum(), output="y", target="t")
    kept = hw.Term("mean", lambda o, t: (o - t).square().mean(), 1.0, output="y", target="t")
    near(hw.Criterion([added, kept])({"y": y}, {"t": target}).total, 2 * F.mse_loss(y, target), "total")


@pytest.mark.parametrize("mask", [None, "valid"])
def test_a_loss_that_averages_within_a_sample_is_told_once(mask):
    """By its count of elements it would be divided once more; by the number of samples it is what it seems."""
    targets = {"t": torch.randn(6, 3, 4, 4)} | ({"valid": torch.rand(6, 3, 4, 4) > 0.2} if mask else {})
    y = torch.randn(6, 3, 4, 4)

    def averaged(o, t, valid=1):
        return (valid * (o - t).square()).flatten(1).mean(1).sum()

    def over_pixels(o, t, valid=1):
        return (valid * (o - t).square()).mean((2, 3)).sum()

    for loss, dim in ((averaged, 1), (over_pixels, 2)):
        twice = hw.Criterion([hw.Term("depth", loss, output="y", target="t", mask=mask)])
        with told("depth", f"averages within a sample (what dimension {dim}"):
            for _ in range(3):
                twice({"y": y}, targets)
    once = hw.Criterion([hw.Term("depth", averaged, len, output="y", target="t")], unread=[*([mask] if mask else [])])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        near(once({"y": y}, targets).total, F.mse_loss(y, targets["t"]), "total")
        # Neither a sum, nor one over classes that a target does not have, nor a mean over what nobody counts.
        hw.Criterion([hw.Term("a", lambda o, t: (o - t).abs().sum(), output="y", target="t")])({"y": y}, {"t": y + 1})
        labels = torch.randint(0, 3, (6, 4, 4))
        added = hw.Term("b", lambda o, t: F.cross_entropy(o, t, reduction="sum"), output="y", target="t")
        hw.Criterion([added])({"y": y}, {"t": labels})
        rows = hw.Term("c", lambda o, t: F.cross_entropy(o, t, reduction="none").mean((1, 2)).sum(), len,
                       output="y", target="t")  # fmt: skip
        near(hw.Criterion([rows])({"y": y}, {"t": labels}).total, F.cross_entropy(y, labels), "rows")


def test_a_loss_that_weighs_channels_averages_nothing(recwarn):
    """Of two channels one was given once and twice, and spread over the two weights either way."""
    for num in (2, 3, 4):
        weight = torch.arange(1.0, num + 1)
        term = hw.Term("a", lambda o, t, w=weight: (w * (o - t).square()).sum(), output="y", target="t")
        hw.Criterion([term])({"y": torch.ones(4, num)}, {"t": torch.zeros(4, num)})
    assert not recwarn.list
    with told("a", "averages within a sample"):
        rows = hw.Term("a", lambda o, t: (o - t).square().mean(1).sum(), output="y", target="t")
        hw.Criterion([rows])({"y": torch.ones(4, 2)}, {"t": torch.zeros(4, 2)})


def test_a_torch_loss_without_a_count_is_refused():
    with refused("depth", "TripletMarginLoss"):
        hw.Term("depth", nn.TripletMarginLoss(), output=("a", "b", "c"))
    with refused("depth", "cosine_embedding_loss"):
        hw.Term("depth", F.cosine_embedding_loss, output=("a", "b"), target="t")
    constant = hw.Term("depth", nn.TripletMarginLoss(), 1.0, output=("a", "b", "c"))
    a, b, c = torch.randn(3, 4, 2)
    near(hw.Criterion([constant])({"a": a, "b": b, "c": c}, {}).total, F.triplet_margin_loss(a, b, c), "total")


def test_a_sum_of_torchs_without_a_count_and_a_count_of_ones_own():
    torch.manual_seed(0)
    y, label, mean = torch.randn(8, 5), torch.randint(0, 5, (8,)), torch.randn(8, 5)
    for loss in (nn.MultiMarginLoss(reduction="sum"), partial(F.multi_margin_loss, reduction="sum")):
        found = hw.Criterion([hw.Term("a", loss, len, output="y", target="t")])({"y": y}, {"t": label}).total
        near(found, F.multi_margin_loss(y, label), "total")
    likely = hw.Term("a", nn.GaussianNLLLoss(reduction="sum"), normalizers.elements,
                     output={"input": "mean", "var": "var"}, target={"target": "t"})  # fmt: skip
    found = hw.Criterion([likely])({"mean": mean, "var": y.exp()}, {"t": y}).total
    near(found, F.gaussian_nll_loss(mean, y, y.exp()), "total")
    for none in (nn.MultiMarginLoss(), partial(F.multi_margin_loss, reduction="none")):
        with refused("depth", "reduction='sum'"):
            hw.Term("depth", none, len, output="y", target="t")


def test_options_of_a_torch_function_are_kept():
    torch.manual_seed(0)
    y, label, weight = torch.randn(8, 5), torch.randint(0, 5, (8,)), torch.rand(5)
    loss = partial(F.cross_entropy, weight=weight, ignore_index=2, label_smoothing=0.1)
    term = hw.Term("region", loss, output="y", target="t", mask="valid")
    valid = torch.tensor([True] * 6 + [False] * 2)
    found = hw.Criterion([term])({"y": y}, {"t": label, "valid": valid}).total
    near(found, loss(y[:6], label[:6]), "total")


def test_a_declared_loss_of_ones_own():
    """Count, shared options and floor are said once, at the loss."""

    def positives(target, mask=None, *, above=0.0):
        return (target > above).sum()

    @hw.declared(count=positives, shared=("above",), least=1.0)
    def loss(output, target, mask=None, *, above=0.0):
        return torch.where(target > above, 2.0, 1.0).mul(output).sum()

    y = torch.ones(4, 2)
    term = hw.Term("region", partial(loss, above=0.5), output="y", target="t")
    near(hw.Criterion([term])({"y": y}, {"t": torch.eye(4)[:, :2]}).total, 10.0 / 2, "total")
    near(hw.Criterion([term])({"y": y}, {"t": torch.zeros(4, 2)}).total, 8.0, "total without a positive")
    assert term.count([torch.ones(3)], None) == 3


def test_the_floor_is_applied_after_pooling():
    """Two micro-batches, one without a positive: the step is divided by its two positives, not by 1 + 2."""
    torch.manual_seed(0)
    term = hw.Term("heat", losses.sigmoid_focal, output="y", target="t")
    criterion = hw.Criterion([term])
    y, label = torch.randn(2, 5, 3, dtype=torch.float64), torch.tensor([[0, 0, 0, 0, 0], [1, 0, 3, 0, 0]])
    parts = [({"y": y[n : n + 1]}, {"t": label[n : n + 1]}) for n in range(2)]
    pooled = hw.pool_denominators(criterion, [targets for _, targets in parts])
    found = torch.stack([criterion(*part, pooled).total for part in parts]).sum()
    near(found, losses.sigmoid_focal(y, label) / 2, "total", 1e-12)
    near(criterion(*parts[0]).total, losses.sigmoid_focal(y[:1], label[:1]), "total of the empty part", 1e-12)


def test_a_loss_of_ones_own_that_compares_each_sample_with_every_other_is_told():
    """(N, 1) less (N,) is (N, N), in every loss that a user writes."""
    y, target = torch.randn(8, 1), torch.randn(8)
    criterion = hw.Criterion(
        [hw.Term("depth", lambda o, t: (o - t).square().sum(), output="y", target="t", normalizer=normalizers.elements)]
    )
    with pytest.warns(UserWarning, match=r"'depth'.* every other.*shapes \(8, 1\) and \(8,\)"):
        criterion({"y": y}, {"t": target})


@pytest.mark.parametrize("shapes", [((8, 3), (8, 1)), ((8, 3), (3,)), ((8, 1), (8, 1))])
def test_a_loss_that_spreads_one_over_the_other_or_compares_all_pairs_is_not(recwarn, shapes):
    y, target = (torch.randn(shape) for shape in shapes)
    loss = (lambda o, t: (o - t.T).square().sum()) if shapes[0] == shapes[1] else lambda o, t: (o - t).square().sum()
    hw.Criterion([hw.Term("depth", loss, output="y", target="t")])({"y": y}, {"t": target})
    assert not recwarn


def dice(output, target):
    p = output.sigmoid()
    return 1 - (2 * (p * target).sum() + 1) / (p.sum() + target.sum() + 1)


def masked_mean(output, target, mask):
    return ((output - target).square() * mask).sum() / mask.sum().clamp(min=1)


@pytest.mark.parametrize(
    ("loss", "y", "options", "words"),
    [
        (dice, torch.linspace(-1, 1, 16).view(8, 2), {}, "is no sum over samples"),
        (lambda a, b: (a - b).norm(), torch.linspace(-1, 1, 16).view(8, 2), {}, "1.41 times"),
        (lambda a, b: F.mse_loss(a, b), torch.linspace(-1, 1, 2).view(1, 2), {}, "averages"),
        (lambda a, b: F.mse_loss(a, b), torch.arange(8.0).clamp(min=4).sub(4).view(8, 1), {}, "averages"),
        (masked_mean, torch.linspace(-1, 1, 16).view(8, 2), {"mask": "valid"}, "averages"),
    ],
    ids=["smoothed", "a root", "one sample", "half that costs nothing", "half that is masked"],
)
def test_what_is_no_sum_is_told(loss, y, options, words):
    """Divided by N in silence: what only nearly averages, and what could not be seen to on half of the batch."""
    targets = {"t": torch.zeros_like(y), "valid": (torch.arange(len(y)) >= len(y) // 2)[:, None].expand_as(y)}
    targets = targets if options else {"t": targets["t"]}
    criterion = hw.Criterion([hw.Term("depth", loss, output="y", target="t", **options)])
    with told("depth", words):
        criterion({"y": y}, targets)
