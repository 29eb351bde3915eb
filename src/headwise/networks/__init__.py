"""Networks: only what no well-kept library has. The backbones are torchvision's (extra ``headwise[vision]``).

``textsnake`` builds the seven-channel U-Net; ``cornernet``, ``cornernet_squeeze``, ``cornernet_saccade`` and
``centernet`` the corner detectors; ``retinanet`` and ``ssd`` the detectors with anchors; ``unet`` the U-Net, deeply
supervised if asked; ``load_published`` loads a checkpoint that the authors released.
"""

from headwise.networks.corners import centernet, cornernet, cornernet_saccade, cornernet_squeeze
from headwise.networks.published import load_published
from headwise.networks.retinanet import retinanet
from headwise.networks.ssd import ssd
from headwise.networks.textsnake import textsnake
from headwise.networks.unet import unet

__all__ = [
    "centernet",
    "cornernet",
    "cornernet_saccade",
    "cornernet_squeeze",
    "load_published",
    "retinanet",
    "ssd",
    "textsnake",
    "unet",
]
