"""Published systems: each selects parts and holds no arithmetic; its card stands at the top of its file."""

import sys

from headwise.presets.centernet import centernet
from headwise.presets.cornernet import cornernet
from headwise.presets.cornernet_saccade import cornernet_saccade
from headwise.presets.cornernet_squeeze import cornernet_squeeze
from headwise.presets.deep_supervision import deep_supervision
from headwise.presets.retinanet import retinanet
from headwise.presets.ssd import ssd
from headwise.presets.textsnake import textsnake
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
    module = sys.modules.get(f"{__name__}.{name}")
    if name not in __all__ or module is None:
        known = ", ".join(each for each in __all__ if each != "card")
        raise ValueError(f"no preset {name!r}. The presets are: {known}")
    return module.__doc__ or ""
