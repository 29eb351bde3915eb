"""What every detector of boxes depends on, and its pictures."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

from headwise.recipes.configuration import Configuration
from headwise.recipes.fields import Count, Share
from headwise.recipes.own_data import open_splits, with_splits

if TYPE_CHECKING:
    from headwise.data import BoxDataset, Coco

B = TypeVar("B", bound="BoxConfiguration")


@dataclass(frozen=True, kw_only=True)
class BoxConfiguration(Configuration):
    """What every detector depends on, beside what every run does.

    Args:
        class_names: of the labels; from the data.
        category_ids: COCO's number of each label; from the data.
        image_size: height and width of the training pictures, pixels.
        mirror: how often a training picture is mirrored, in [0, 1]; never where classes have a handedness, as digits.
        max_detections: most boxes a picture.
        num_pictures: of the embedded training pictures.
        num_held_out: of the embedded held-out pictures.
        picture_size: of the embedded pictures, pixels.
        min_side: of the embedded objects, pixels.
        max_side: of the embedded objects, pixels.
    """

    class_names: tuple[str, ...] = ()
    category_ids: tuple[int, ...] = ()
    image_size: Count = 511
    mirror: Share = 0.5
    max_detections: Count = 100
    num_pictures: Count = 2000
    num_held_out: Count = 100
    picture_size: Count = 511
    min_side: Count = 80
    max_side: Count = 280

    @property
    def num_classes(self) -> int:
        """How many classes the network tells apart."""
        return len(self.class_names)

    def name_splits(self) -> tuple[str, str]:
        """Return the splits to train on and to hold out."""
        from headwise.data.coco import name_splits

        return name_splits(None if self.data is None else Path(self.data), self.train_split, self.held_out_split)

    def read_split(self, split: str) -> Coco:
        """Return COCO's pictures of a split, not yet looked at."""
        from headwise.data import read_coco

        return read_coco(self.data or ".", split)

    def categories(self, split: str) -> tuple[tuple[str, ...], tuple[int, ...]]:
        """Return the names of the classes of a split, and COCO's numbers of them."""
        from headwise.data.coco import find_file, read_categories

        return read_categories(find_file(Path(self.data or "."), split))


def read_pictures(configuration: BoxConfiguration) -> tuple[BoxDataset, BoxDataset]:
    """Return the pictures to train on and to hold out, of the classes that the network is for.

    Args:
        configuration: of the run, with its classes.

    Returns:
        COCO's, or the embedded digits.

    Raises:
        OSError: data cannot be read.
        ValueError: bad data, or other categories than the run's: a label would mean another class.
    """
    if not configuration.has_own_data:
        return _digits(configuration, "train"), _digits(configuration, "held_out")
    for split in configuration.name_splits():
        _check_categories(configuration, split)
    train, held_out = open_splits(configuration)
    return train, held_out


def _check_categories(configuration: BoxConfiguration, split: str) -> None:
    run = set(zip(configuration.category_ids, configuration.class_names, strict=True))
    names, numbers = configuration.categories(split)
    found = set(zip(numbers, names, strict=True))
    if run != found:
        differing = [f"{number} {name!r}" for number, name in sorted(run ^ found)]
        raise ValueError(
            f"{configuration.data}: split {split!r} has {len(found)} categories, the run {len(run)}; they differ in "
            f"{', '.join(differing[:6])}{', ...' if len(differing) > 6 else ''}. List the same categories, by number "
            "and name, in the training and the held-out file; a run that is resumed keeps those that it began with."
        )


def with_classes(configuration: B) -> B:
    """Fill in the splits of the data and their classes, from the held-out one, whose file is the smaller.

    Args:
        configuration: of a run that is about to start.

    Returns:
        The same with ``train_split``, ``held_out_split``, ``class_names`` and ``category_ids``.
    """
    if not configuration.has_own_data:
        digits = _digits(configuration, "held_out")
        return replace(configuration, class_names=digits.class_names, category_ids=digits.category_ids)
    configuration = with_splits(configuration)
    names, numbers = configuration.categories(configuration.name_splits()[1])
    return replace(configuration, class_names=names, category_ids=numbers)


def _digits(configuration: BoxConfiguration, split: Literal["train", "held_out"]) -> BoxDataset:
    from headwise.data import embedded_digits

    return embedded_digits(
        split,
        num_pictures=configuration.num_pictures if split == "train" else configuration.num_held_out,
        size=configuration.picture_size,
        min_side=configuration.min_side,
        max_side=configuration.max_side,
    )
