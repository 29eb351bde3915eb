"""Boxes of a batch as one table: checked, clipped to the picture, their corners on the grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import Tensor

from headwise.whole import check_size, check_whole

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

Array: TypeAlias = "Tensor | npt.NDArray[np.generic]"


@dataclass(frozen=True)
class Sizes:
    """Of the picture in pixels and of the grid in cells, each (height, width), and how many classes there are."""

    image: tuple[int, int]
    grid: tuple[int, int]
    num_classes: int

    def __post_init__(self) -> None:
        check_size("corners", image_size=self.image, grid_size=self.grid)
        check_whole("corners", num_classes=self.num_classes)

    @property
    def scale(self) -> tuple[float, float]:
        """Cells a pixel, in x and in y."""
        return self.grid[1] / self.image[1], self.grid[0] / self.image[0]


@dataclass(frozen=True)
class Objects:
    """M objects of a batch, one image after the other; boxes are float32 pixels within the picture."""

    boxes: Tensor
    labels: Tensor
    images: Tensor
    num_images: int

    def where(self, keep: Tensor) -> Objects:
        """The objects that are True in ``keep``, (M,) bool."""
        chosen = keep.nonzero().squeeze(1)
        return Objects(self.boxes[chosen], self.labels[chosen], self.images[chosen], self.num_images)

    def slots(self) -> Tensor:
        """The number of each object within its image."""
        counts = torch.bincount(self.images, minlength=self.num_images)
        starts = counts.cumsum(0) - counts
        return torch.arange(len(self.images), device=self.images.device) - starts[self.images]

    def planes(self, num_classes: int) -> Tensor:
        """Where the map of each object's class is among the (N, C) maps of a batch, as one number."""
        return self.images * num_classes + self.labels


def gather_objects(boxes: Sequence[Array], labels: Sequence[Array], num_classes: int) -> Objects:
    """Check the boxes and labels of a batch and put them into one table.

    Args:
        boxes: Per image (n, 4), x1, y1, x2, y2 in pixels, any real dtype.
        labels: Per image (n,), integer, 0..num_classes - 1.
        num_classes: How many classes there are.

    Returns:
        All objects in order, not clipped.

    Raises:
        ValueError: A dtype, shape or value that does not fit; names image and box.
    """
    if not len(boxes) or len(boxes) != len(labels):
        raise ValueError(
            f"boxes has {len(boxes)} images, labels has {len(labels)}. Give one of each per image, and at least one."
        )
    # Of lists, torch would round the numbers to its default dtype.
    tables = [torch.as_tensor(each, dtype=None if hasattr(each, "dtype") else torch.float32) for each in boxes]
    numbers = [torch.as_tensor(each) for each in labels]
    for image, (table, number) in enumerate(zip(tables, numbers, strict=True)):
        _check_image(image, table, number)
    counts = torch.tensor([len(each) for each in tables], device=tables[0].device)
    objects = Objects(
        torch.cat([each.reshape(-1, 4).float() for each in tables]),
        torch.cat([each.reshape(-1).long() for each in numbers]),
        torch.repeat_interleave(counts),
        len(tables),
    )
    _check_values(objects, num_classes)
    return objects


def flag_objects(name: str, values: Sequence[Array] | None, objects: Objects) -> Tensor | None:
    """One value an object, given per image, as one (M,) tensor; None stays None.

    Raises:
        ValueError: Lengths differ from those of the boxes; names the image.
    """
    if values is None:
        return None
    counts = torch.bincount(objects.images, minlength=objects.num_images).tolist()
    tensors = [torch.as_tensor(each) for each in values]
    found = [tuple(each.shape) for each in tensors]
    if found != [(count,) for count in counts]:
        image = next((i for i, (a, b) in enumerate(zip(found, counts, strict=False)) if a != (b,)), None)
        detail = (
            f"found {len(found)} images for {len(counts)}"
            if image is None
            else f"image {image} has {counts[image]} boxes and a {name} of shape {found[image]}"
        )
        raise ValueError(f"{name} holds one value per box of each image; {detail}.")
    return torch.cat(tensors)


def ignored_objects(values: Sequence[Array] | None, objects: Objects) -> Tensor | None:
    """Which objects are to be left out, (M,) bool; None stays None.

    Raises:
        ValueError: Lengths differ from those of the boxes, or the flags are numbers.
    """
    for image, each in enumerate(map(torch.as_tensor, values or ())):
        if each.dtype != torch.bool and each.numel():
            raise ValueError(
                f"ignored holds one bool per box of each image; image {image} has {each.dtype}. Convert it."
            )
    flags = flag_objects("ignored", values, objects)
    return None if flags is None else flags.bool()


def clip(objects: Objects, size: tuple[int, int], legacy: bool) -> Objects:
    """The boxes cut to a picture of height and width: to [0, width], or as published to [0, width - 1]."""
    height, width = (side - 1 for side in size) if legacy else size
    limits = objects.boxes.new_tensor([width, height, width, height])
    boxes = torch.minimum(objects.boxes.clamp(min=0), limits)
    return Objects(boxes, objects.labels, objects.images, objects.num_images)


def has_area(objects: Objects) -> Tensor:
    """Which boxes have width and height, (M,) bool."""
    return (objects.boxes[:, 2:] > objects.boxes[:, :2]).all(1)


def points_of(boxes: Tensor, center: bool) -> dict[str, Tensor]:
    """Names and positions (M, 2) in pixels of what has a heat map."""
    points = {"top_left": boxes[:, :2], "bottom_right": boxes[:, 2:]}
    return points | {"center": (boxes[:, :2] + boxes[:, 2:]) / 2} if center else points


def to_cells(points: Tensor, sizes: Sizes) -> tuple[Tensor, Tensor]:
    """The cells (..., 2) int64 of points in pixels, and where the points are from them, (..., 2) in [0, 1].

    A point on the picture's right or lower edge belongs to the last cell, at 1 from it.
    """
    exact = points * points.new_tensor(sizes.scale)
    limits = exact.new_tensor([sizes.grid[1] - 1, sizes.grid[0] - 1])
    cells = torch.minimum(exact.floor(), limits)
    return cells.long(), exact - cells


def _check_image(image: int, boxes: Tensor, labels: Tensor) -> None:
    empty = boxes.numel() == 0 and labels.numel() == 0
    if not empty and (boxes.ndim != 2 or boxes.shape[1] != 4 or labels.shape != boxes.shape[:1]):
        raise ValueError(
            f"image {image}: boxes are (n, 4) and labels (n,), found {tuple(boxes.shape)} and {tuple(labels.shape)}."
        )
    if boxes.dtype == torch.bool or boxes.is_complex():
        raise ValueError(f"image {image}: boxes are real numbers, found {boxes.dtype}.")
    if not empty and (labels.dtype == torch.bool or labels.is_floating_point() or labels.is_complex()):
        raise ValueError(f"image {image}: labels are integers, found {labels.dtype}. Convert them with .long().")


def _check_values(objects: Objects, num_classes: int) -> None:
    boxes, labels = objects.boxes, objects.labels
    rules = (
        (~boxes.isfinite().all(1), "coordinates are finite numbers", "Remove or mend the box"),
        (
            (boxes[:, 2:] < boxes[:, :2]).any(1),
            "a box is x1, y1, x2, y2 with x1 <= x2 and y1 <= y2",
            "Convert x, y, width, height first",
        ),
        (
            (labels < 0) | (labels >= num_classes),
            f"labels are 0..{num_classes - 1}",
            "COCO's category ids have gaps: map them to consecutive numbers",
        ),
    )
    for broken, rule, remedy in rules:
        if broken.any():
            first = int(broken.nonzero()[0])
            where = f"image {int(objects.images[first])}, box {int(objects.slots()[first])}"
            found = f"box {boxes[first].tolist()}, label {int(labels[first])}"
            raise ValueError(f"{where}: {rule}, found {found}. {remedy}.")
