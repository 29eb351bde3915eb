"""Every option that is a weight moves the weight of its own terms, in proportion, and no other."""

from __future__ import annotations

from collections.abc import Callable

import pytest

import headwise as hw
from headwise import presets

CORNERS = {
    "pull_weight": {"pull"},
    "push_weight": {"push"},
    "offset_weight": {"top_left_offset", "bottom_right_offset"},
}
OPTIONS: dict[Callable[..., hw.Criterion], dict[str, set[str]]] = {
    presets.cornernet: CORNERS,
    presets.cornernet_squeeze: CORNERS,
    presets.cornernet_saccade: CORNERS | {"attention_weight": {"attention"}},
    presets.centernet: CORNERS | {"offset_weight": {"top_left_offset", "bottom_right_offset", "center_offset"}},
    presets.actor_critic: {"value_weight": {"value"}, "entropy_weight": {"entropy"}},
    presets.energy_and_forces: {"energy_weight": {"energy"}, "forces_weight": {"forces"}},
    presets.mixture_of_experts: {"balance_weight": {"balance"}, "z_weight": {"z"}},
    presets.vq_gan: {
        "perceptual_weight": {"perceptual"},
        "codebook_weight": {"codebook", "commitment"},  # beta is the share of commitment in it
        "beta": {"commitment"},
        "adversarial_weight": {"adversarial"},
    },
    presets.vq_gan_discriminator: {"weight": {"real", "fake"}},
}
CASES = [(preset, option, terms) for preset, options in OPTIONS.items() for option, terms in options.items()]


@pytest.mark.parametrize(("preset", "option", "terms"), CASES)
def test_a_weight_moves_its_own_terms(preset: Callable[..., hw.Criterion], option: str, terms: set[str]) -> None:
    usual, two, six = (
        dict(zip(criterion.names, criterion.term_weights.all_now(), strict=True))
        for criterion in (preset(), preset(**{option: 2.0}), preset(**{option: 6.0}))
    )
    assert {name for name in usual if two[name] != usual[name]} == terms
    assert all(six[name] == pytest.approx(3 * two[name]) for name in terms)
