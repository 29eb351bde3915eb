"""Published systems: each selects parts and holds no arithmetic; its card stands at the top of its file."""

import sys

from headwise.presets.actor_critic import actor_critic
from headwise.presets.centernet import centernet
from headwise.presets.cornernet import cornernet
from headwise.presets.cornernet_saccade import cornernet_saccade
from headwise.presets.cornernet_squeeze import cornernet_squeeze
from headwise.presets.deep_supervision import deep_supervision
from headwise.presets.energy_and_forces import energy_and_forces
from headwise.presets.mixture_of_experts import mixture_of_experts
from headwise.presets.physics_informed import physics_informed
from headwise.presets.retinanet import retinanet
from headwise.presets.ssd import ssd
from headwise.presets.textsnake import textsnake
from headwise.presets.two_tower import two_tower
from headwise.presets.vq_gan import vq_gan, vq_gan_discriminator
from headwise.presets.weighted_unet import weighted_unet

__all__ = [
    "card",
    "centernet",
    "cornernet",
    "cornernet_saccade",
    "cornernet_squeeze",
    "deep_supervision",
    "retinanet",
    "ssd",
    "textsnake",
    "weighted_unet",
    "actor_critic",
    "energy_and_forces",
    "mixture_of_experts",
    "physics_informed",
    "two_tower",
    "vq_gan",
    "vq_gan_discriminator",
]


def card(name: str) -> str:
    """The card of a preset: per term its loss, normalizer, weight and source, and how ours differs.

    Args:
        name: The preset's name, such as "textsnake".

    Returns:
        The text.

    Raises:
        ValueError: There is no such preset.
    """
    if name not in __all__ or name == "card":
        known = ", ".join(each for each in __all__ if each != "card")
        raise ValueError(f"no preset {name!r}. The presets are: {known}")
    return sys.modules[globals()[name].__module__].__doc__ or ""
