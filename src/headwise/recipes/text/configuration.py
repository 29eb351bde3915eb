"""What a run of TextSnake depends on, and the two configurations that the command knows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from headwise.recipes.configuration import Configuration
from headwise.recipes.fields import Count, NotNegative, PositiveShare, Share

if TYPE_CHECKING:
    from headwise.data.total_text import TotalText


@dataclass(frozen=True, kw_only=True)
class TextConfiguration(Configuration):
    """Everything that a run of TextSnake depends on, beside what every run does.

    Args:
        backbone: of the network.
        width: channels of ResNet-18's first stage.
        crop_size: height and width of the training crops, pixels.
        scale: smallest share of a picture's area that a crop shows.
        degrees: largest random rotation.
        inference_size: longer side of a picture when words are read from it, pixels.
        num_pictures: of the embedded training pictures.
        num_held_out: of the embedded held-out pictures.
        picture_size: of the embedded pictures.
        region_threshold: of the decoder.
        center_line_threshold: of the decoder.
        within_region: of the decoder.
        min_area: of the decoder.
    """

    backbone: Literal["vgg16", "resnet18"] = "vgg16"
    weights: str | None = "DEFAULT"
    width: Count = 64
    crop_size: Count = 512
    scale: PositiveShare = 0.25
    degrees: NotNegative = 10.0
    inference_size: Count = 768
    num_pictures: Count = 1200
    num_held_out: Count = 100
    picture_size: Count = 512
    region_threshold: Share = 0.6
    center_line_threshold: Share = 0.4
    within_region: bool = False
    min_area: NotNegative = 0.0

    def name_splits(self) -> tuple[str, str]:
        """Return the splits to train on and to hold out."""
        from headwise.data.split_names import name_folders
        from headwise.data.total_text import list_splits

        return name_folders(self.data, list_splits, self.train_split, self.held_out_split, ("Train", "Test"))

    def read_split(self, split: str) -> TotalText:
        """Return the pictures of a split, not yet looked at."""
        from headwise.data import read_total_text

        return read_total_text(self.data or ".", split, check_pictures=False)

    @property
    def decode(self) -> dict[str, Any]:
        """Options of the decoder."""
        return {
            "region_threshold": self.region_threshold,
            "center_line_threshold": self.center_line_threshold,
            "within_region": self.within_region,
            "min_area": self.min_area,
        }


FULL = TextConfiguration(steps=62_800, batch_size=4, learning_rate=1e-4, schedule="step")
"""The authors' training: VGG16, crops of 512, Adam at 1e-4, 200 epochs of Total-Text's 1,255 pictures."""

TINY = TextConfiguration(
    steps=400,
    backbone="resnet18",
    weights=None,
    width=32,
    crop_size=192,
    scale=0.4,
    inference_size=256,
    batch_size=8,
    learning_rate=3e-3,
    weight_decay=1e-4,
    clip_norm=5.0,
    num_pictures=600,
    num_held_out=40,
    picture_size=256,
    num_workers=1,
    log_every=10,
    checkpoint_every=100,
    evaluate_every=200,
    min_area=10.0,
)
"""A few minutes on two CPU cores: a narrow ResNet-18 on the embedded pictures."""
