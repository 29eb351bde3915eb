"""What every detector of boxes depends on, and its pictures."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, TypeVar

from headwise.recipes.configuration import Configuration

if TYPE_CHECKING:
    from headwise.data import BoxDataset

B = TypeVar("B", bound="BoxConfiguration")
Split = Literal["train", "held_out"]


@dataclass(frozen=True, kw_only=True)
class BoxConfiguration(Configuration):
    """What every detector depends on, beside what every run does.

    Args:
        class_names: of the labels; from the data.
        category_ids: COCO's number of each label; from the data.
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


def read_pictures(configuration: BoxConfiguration, split: Split) -> BoxDataset:
    """Return the pictures of a split, of the classes that the network is for.

    Args:
        configuration: of the run, with its classes.
        split: which.

    Returns:
        COCO's, or the embedded digits.

    Raises:
        OSError: data cannot be read.
        ValueError: bad data, or other categories than the run's: a label would mean another class.
    """
    pictures = _read(configuration, split)
    run = set(zip(configuration.category_ids, configuration.class_names, strict=True))
    found = set(zip(pictures.category_ids, pictures.class_names, strict=True))
    if run != found:
        differing = [f"{number} {name!r}" for number, name in sorted(run ^ found)]
        raise ValueError(
            f"{configuration.data or 'embedded digits'}: split {_name(configuration, split)!r} has {len(found)} "
            f"categories, the run {len(run)}; they differ in {', '.join(differing[:6])}"
            f"{', ...' if len(differing) > 6 else ''}. List the same categories, by number and name, in the training "
            "and the held-out file; a run that is resumed keeps those that it began with."
        )
    return pictures


def with_classes(configuration: B) -> B:
    """Fill in the classes of the data, from the held-out split, whose file is the smaller.

    Args:
        configuration: of a run that is about to start.

    Returns:
        The same with ``class_names`` and ``category_ids``.
    """
    pictures = _read(configuration, "held_out")
    return replace(configuration, class_names=pictures.class_names, category_ids=pictures.category_ids)


def _read(configuration: BoxConfiguration, split: Split) -> BoxDataset:
    from headwise.data import embedded_digits, read_coco

    if configuration.data is not None:
        return read_coco(configuration.data, _name(configuration, split))
    return embedded_digits(
        split,
        num_pictures=configuration.num_pictures if split == "train" else configuration.num_held_out,
        size=configuration.picture_size,
        min_side=configuration.min_side,
        max_side=configuration.max_side,
    )


def _name(configuration: BoxConfiguration, split: Split) -> str:
    if split == "train":
        return configuration.train_split or "train2017"
    return configuration.held_out_split or "val2017"
