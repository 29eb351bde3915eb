"""Networks: only what no well-kept library has. The backbones are torchvision's (extra ``headwise[vision]``).

``textsnake`` builds the seven-channel U-Net; ``load_published`` loads a checkpoint that the authors released.
"""

from headwise.networks.published import load_published
from headwise.networks.textsnake import textsnake

__all__ = ["load_published", "textsnake"]
