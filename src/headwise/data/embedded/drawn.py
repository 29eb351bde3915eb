"""Pictures drawn on demand, and kept where that costs little memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic

from headwise.data.annotation import Annotation, Picture

_MOST_KEPT = 2**27  # bytes; smaller data sets stay in memory once they are drawn


class DrawnPictures(Generic[Annotation]):
    """Pictures by index, each drawn when it is first asked for.

    Args:
        draw: index -> picture, the same at every call.
        num_pictures: how many.
        size: height and width of each, pixels.
    """

    def __init__(self, draw: Callable[[int], Picture[Annotation]], num_pictures: int, size: int) -> None:
        self._draw = draw
        self._num_pictures = num_pictures
        self._keeps = 3 * num_pictures * size**2 <= _MOST_KEPT
        self._kept: dict[int, Picture[Annotation]] = {}

    def __len__(self) -> int:
        return self._num_pictures

    def __getitem__(self, index: int) -> Picture[Annotation]:
        """Draw picture number `index`, or return it where it is kept.

        Args:
            index: 0 to the length less one.

        Returns:
            The picture.

        Raises:
            IndexError: out of range.
        """
        if not 0 <= index < self._num_pictures:
            raise IndexError(f"picture {index} of {self._num_pictures}")
        if index in self._kept:
            return self._kept[index]
        picture = self._draw(index)
        if self._keeps:
            self._kept[index] = picture
        return picture
