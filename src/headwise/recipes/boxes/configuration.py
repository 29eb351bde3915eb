"""What every detector of boxes depends on, and its pictures."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, TypeVar

from headwise.recipes.configuration import Configuration

if TYPE_CHECKING:
    from headwise.data import BoxDataset

B = TypeVar("B", bound="BoxConfiguration")


@dataclass(frozen=True, kw_only=True)
class BoxConfiguration(Configuration):
    """What every detector depends on, beside what every run does.

    Args:
        class_names: of the labels; from the data.
        category_ids: COCO's number of each label; from the data.
        train_split: of a COCO folder.
        held_out_split: of a COCO folder.
        image_size: height and width of the training pictures, pixels.
        mirror: how often a training picture is mirrored, in [0, 1]; never where classes have a handedness, as digits.
        min_kept: objects of which less than this share is left in a training picture do not count; published 0.
        max_detections: most boxes a picture.
        num_pictures: of the embedded training pictures.
        num_held_out: of the embedded held-out pictures.
        picture_size: of the embedded pictures, pixels.
        min_side: of the embedded objects, pixels.
        max_side: of the embedded objects, pixels.
    """

    class_names: tuple[str, ...] = ()
    category_ids: tuple[int, ...] = ()
    train_split: str = "train2017"
    held_out_split: str = "val2017"
    image_size: int = 511
    mirror: float = 0.5
    min_kept: float = 0.0
    max_detections: int = 100
    num_pictures: int = 2000
    num_held_out: int = 100
    picture_size: int = 511
    min_side: int = 80
    max_side: int = 280

    @property
    def num_classes(self) -> int:
        """How many classes the network tells apart."""
        return len(self.class_names)


def read_pictures(configuration: BoxConfiguration, split: Literal["train", "held_out"]) -> BoxDataset:
    """Return the pictures of a split.

    Args:
        configuration: of the run.
        split: which.

    Returns:
        COCO's, or the embedded digits.

    Raises:
        OSError: data cannot be read.
        ValueError: bad data.
    """
    from headwise.data import embedded_digits, read_coco

    if configuration.data is not None:
        return read_coco(
            configuration.data, configuration.train_split if split == "train" else configuration.held_out_split
        )
    return embedded_digits(
        split,
        num_pictures=configuration.num_pictures if split == "train" else configuration.num_held_out,
        size=configuration.picture_size,
        min_side=configuration.min_side,
        max_side=configuration.max_side,
    )


def with_classes(configuration: B) -> B:
    """Fill in the classes of the data.

    Args:
        configuration: of a run that is about to start.

    Returns:
        The same with ``class_names`` and ``category_ids``.
    """
    pictures = read_pictures(configuration, "train")
    return replace(configuration, class_names=pictures.class_names, category_ids=pictures.category_ids)
