"""Every loss of the room with inputs that reach all its branches and stay clear of its kinks."""

from functools import partial

import torch

from headwise import losses, normalizers
from tests.asserts import LossCase
from tests.reference import losses as reference
from tests.reference import other_fields


def _normal(generator, *shape):
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def _mask(generator, *shape):
    return torch.rand(*shape, generator=generator) < 0.7


def _classes(generator, batch):
    target = torch.randint(0, 4, (batch, 3, 4), generator=generator)
    return _normal(generator, batch, 4, 3, 4), target, _mask(generator, batch, 3, 4)


def _two_classes(generator, batch):
    target = torch.rand(batch, 3, 4, generator=generator) < 0.3
    return 2 * _normal(generator, batch, 2, 3, 4), target, _mask(generator, batch, 3, 4)


def _two_classes_by_a_mask(generator, batch):
    output, target, mask = _two_classes(generator, batch)
    return output, target.int() * 255, mask


def _rare_classes(generator, batch):
    target = torch.randint(-6, 4, (batch, 3, 5), generator=generator).clamp(min=0)
    return _normal(generator, batch, 4, 3, 5), target, _mask(generator, batch, 3, 5)


def _values(generator, batch, *, channel_mask=False):
    shape = (batch, 2, 3, 3)
    mask = _mask(generator, batch, 3, 3) if channel_mask else _mask(generator, *shape)
    return 2 * _normal(generator, *shape), _normal(generator, *shape), mask


def _probabilities(generator, batch):
    output, target, mask = _values(generator, batch, channel_mask=True)
    return output, torch.sigmoid(target), mask


def _radii(generator, batch):
    shape = (batch, 4, 5)
    target = (4 * torch.rand(shape, generator=generator, dtype=torch.float64) - 1).clamp(min=0)
    return 3 * _normal(generator, *shape), target, _mask(generator, *shape)


def _directions(generator, batch):
    angle = 6.28 * torch.rand(batch, 4, 4, generator=generator, dtype=torch.float64)
    return _normal(generator, batch, 2, 4, 4), torch.sin(angle), _mask(generator, batch, 4, 4)


def _heat_maps(generator, batch):
    shape = (batch, 2, 3, 4)
    target = (1.4 * torch.rand(shape, generator=generator, dtype=torch.float64)).clamp(max=1)
    return 2 * _normal(generator, *shape), target, _mask(generator, *shape)


def _tokens(generator, batch, *, ignored=False):
    target = torch.randint(0, 5, (batch, 4), generator=generator)
    if ignored:
        target = torch.where(torch.rand(batch, 4, generator=generator) < 0.3, -100, target)
    return 2 * _normal(generator, batch, 4, 5), target, _mask(generator, batch, 4)


def _actions(generator, batch):
    return _normal(generator, batch, 4), _normal(generator, batch, 4), _mask(generator, batch, 4)


def _vectors(generator, batch):
    return _normal(generator, batch, 4, 3), _normal(generator, batch, 4, 3), _mask(generator, batch, 4)


def _hard(name, draw, **options):
    return LossCase(
        name,
        partial(losses.hard_negative_cross_entropy, **options),
        normalizers.mined(**options),
        partial(reference.hard_negative_cross_entropy, **options),
        draw,
        adds_over_batches=options.get("per_image", False),
    )


def _plain(name, draw, normalizer=normalizers.elements, label=None, **options):
    return LossCase(
        label or name,
        partial(getattr(losses, name), **options),
        normalizer,
        partial(getattr(reference, name), **options),
        draw,
    )


def _other(name, draw, normalizer, *, label=None, adds_over_batches=True, **options):
    """A loss of another field, whose channels stand last."""
    loss, slow = getattr(losses, name), getattr(other_fields, name)
    return LossCase(
        label or name, partial(loss, **options), normalizer, partial(slow, **options), draw, adds_over_batches, -1
    )


CASES = [
    _plain("cross_entropy", _classes, normalizers.count),
    _plain(
        "cross_entropy",
        _classes,
        normalizers.labeled(ignore_index=1),
        label="cross_entropy_ignoring",
        ignore_index=1,
    ),
    _plain("cross_entropy", _two_classes, normalizers.count, label="cross_entropy_bool"),
    _plain("mask_cross_entropy", _two_classes_by_a_mask, normalizers.count),
    _hard("hard_negative", _two_classes, ratio=1.0, num_fallback=2),
    _hard("hard_negative_per_image", _two_classes, ratio=1.5, num_fallback=2, per_image=True),
    _hard("hard_negative_classes", _rare_classes, ratio=1.0, num_fallback=3),
    _plain("binary_cross_entropy", _probabilities),
    _plain("squared_error", _values),
    _plain("absolute_error", partial(_values, channel_mask=True)),
    _plain("smooth_l1", _values, beta=0.7),
    _plain("relative_smooth_l1", _radii, normalizers.positive),
    _plain("direction_smooth_l1", _directions, normalizers.count, label="direction_sin", component=0),
    _plain("direction_smooth_l1", _directions, normalizers.count, label="direction_cos", component=1, beta=0.3),
    _plain("gaussian_focal", _heat_maps, normalizers.peaks),
    _plain("gaussian_focal", _heat_maps, normalizers.peaks, label="gaussian_focal_powers", alpha=1.5, beta=3.0),
    _other("token_cross_entropy", partial(_tokens, ignored=True), normalizers.labeled(ignore_index=-100)),
    _other("token_cross_entropy", _tokens, normalizers.count, label="token_cross_entropy_all", ignore_index=None),
    _other("load_balance", _tokens, normalizers.count, adds_over_batches=False, top_k=2),
    _other("load_balance", _tokens, normalizers.count, label="load_balance_per_sequence", per_sequence=True),
    _other("router_z", _tokens, normalizers.count),
    _other("policy_gradient", _actions, normalizers.elements),
    _other("entropy_bonus", _actions, normalizers.elements),
    _other("squared_distance", _vectors, normalizers.elements),
]
