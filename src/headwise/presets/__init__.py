"""Published systems: each selects parts and holds no arithmetic; its card stands at the top of its file.

`detectors` of boxes, systems for `pixels`, and those of `other_fields`; no folder knows another.
"""

import sys

from headwise.presets.detectors.centernet import centernet
from headwise.presets.detectors.cornernet import cornernet
from headwise.presets.detectors.cornernet_saccade import cornernet_saccade
from headwise.presets.detectors.cornernet_squeeze import cornernet_squeeze
from headwise.presets.detectors.retinanet import retinanet
from headwise.presets.detectors.ssd import ssd
from headwise.presets.other_fields.actor_critic import actor_critic
from headwise.presets.other_fields.energy_and_forces import energy_and_forces
from headwise.presets.other_fields.mixture_of_experts import mixture_of_experts
from headwise.presets.other_fields.physics_informed import physics_informed
from headwise.presets.other_fields.two_tower import two_tower
from headwise.presets.other_fields.vq_gan import vq_gan, vq_gan_discriminator
from headwise.presets.pixels.deep_supervision import deep_supervision
from headwise.presets.pixels.textsnake import textsnake
from headwise.presets.pixels.weighted_unet import weighted_unet

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
