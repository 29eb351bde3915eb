"""Training that goes on past broken pictures, and counts them."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar

import torch

from headwise.data.annotation import Annotation, Picture, PictureDataset

B = TypeVar("B")


class Skipping(Generic[Annotation]):
    """Pictures, in place of each that cannot be used the next one that can; which one is the same in every process.

    Args:
        pictures: the data set.
    """

    def __init__(self, pictures: PictureDataset[Annotation]) -> None:
        self._pictures = pictures
        # Loading processes write here too.
        self._broken = torch.zeros(len(pictures), dtype=torch.bool).share_memory_()  # type: ignore[no-untyped-call]

    def __len__(self) -> int:
        return len(self._pictures)

    def __getitem__(self, index: int, /) -> Picture[Annotation]:
        """Read picture number `index`, or the next that can be read.

        Args:
            index: 0 to the length less one.

        Returns:
            The picture.

        Raises:
            ValueError: not one picture can be used.
        """
        for step in range(len(self)):
            place = (index + step) % len(self)
            try:
                return self._pictures[place]
            except (OSError, ValueError) as error:
                if not self._broken[place]:
                    self._broken[place] = True
                    warnings.warn(f"skipped: {error}", stacklevel=2)
        raise ValueError("not one of the training pictures can be used. Look at them with headwise check.")

    def counted(self, batches: Iterable[B]) -> Iterator[B]:
        """Pass batches on, and say at the end how many pictures were skipped.

        Args:
            batches: that were read from here.

        Yields:
            Each batch.
        """
        try:
            yield from batches
        finally:
            count = int(self._broken.sum())
            if count:
                warnings.warn(f"{count} of {len(self)} training pictures are broken and were skipped.", stacklevel=2)
