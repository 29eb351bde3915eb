"""Pictures with an instance map each: the number of the object at every pixel."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from headwise.data.annotation import Picture
from headwise.data.pictures import check_picture, load_picture

PICTURE_ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
_MODES = ("L", "P", "I", "I;16", "I;16B")  # of PNGs whose pixels are numbers, not colours


@dataclass(frozen=True, eq=False)
class InstanceAnnotation:
    """The objects of one picture.

    Args:
        label: (H, W) int32, the number of the object at each pixel, 0 for the background. Numbers need not be
            consecutive; objects may touch, and may consist of several parts.

    Raises:
        ValueError: another shape or dtype, or a negative number.
    """

    label: NDArray[np.int32]

    def __post_init__(self) -> None:
        if self.label.ndim != 2 or self.label.dtype != np.int32:
            raise ValueError(
                f"an instance map is (H, W) int32, found {self.label.shape} {self.label.dtype}. Convert it."
            )
        if self.label.size and self.label.min() < 0:
            raise ValueError(
                f"object numbers begin at 1 and the background is 0, found {self.label.min()}. Correct it."
            )

    @property
    def numbers(self) -> NDArray[np.int32]:
        """The numbers of the objects, ascending."""
        found = np.unique(self.label)
        return found[found > 0]


class InstanceFolder:
    """Pictures and their instance maps in a folder; see `read_instances`."""

    def __init__(self, pairs: list[tuple[Path, Path]]) -> None:
        self._pairs = pairs

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index: int) -> Picture[InstanceAnnotation]:
        """Read picture number `index`, in the order of their names.

        Args:
            index: 0 to the length less one.

        Returns:
            The picture, named as its file.

        Raises:
            IndexError: out of range.
            OSError: a file cannot be decoded.
            ValueError: the instance map is not one, or of another size than the picture.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"picture {index} of {len(self)}")
        picture, label = self._pairs[index]
        return Picture(picture.stem, load_picture(picture), InstanceAnnotation(_load_label(label)))


def read_instances(folder: str | Path, split: str | None = None) -> InstanceFolder:
    """Read a folder of pictures and label PNGs.

    ``<folder>[/<split>]/pictures/<name>.png`` (or JPEG, BMP, TIFF) goes with ``labels/<name>.png`` beside: a PNG of one
    channel, 8 or 16 bits or with a palette, whose pixels are the numbers of the objects, 0 for the background.

    Args:
        folder: that holds ``pictures`` and ``labels``.
        split: a folder between, for instance "train" or "held_out"; None for none.

    Returns:
        The data set, in the order of the names. All files were decoded once.

    Raises:
        FileNotFoundError: a folder or a file of a pair is missing.
        OSError: a file is truncated or no picture.
        ValueError: there are no pictures, two have one name, a picture has more than 8 bits, a label is no map of
            numbers, or sizes differ.
    """
    root = Path(folder) if split is None else Path(folder) / split
    for name in ("pictures", "labels"):
        if not (root / name).is_dir():
            raise FileNotFoundError(
                f"{root / name}: no such folder. A data set of instances is {root}/pictures and {root}/labels."
            )
    pictures = sorted(path for path in (root / "pictures").iterdir() if path.suffix.lower() in PICTURE_ENDINGS)
    if not pictures:
        raise ValueError(f"{root / 'pictures'}: no pictures. Put some of {', '.join(PICTURE_ENDINGS)} there.")
    pairs = [(picture, root / "labels" / f"{picture.stem}.png") for picture in pictures]
    _check_names(root, pairs)
    for picture, label in pairs:
        _check_pair(picture, label)
    return InstanceFolder(pairs)


def _check_names(root: Path, pairs: list[tuple[Path, Path]]) -> None:
    stems = [picture.stem for picture, _ in pairs]
    for picture, label in pairs:
        if stems.count(picture.stem) > 1:
            raise ValueError(f"{picture}: two pictures are called {picture.stem!r}. Rename one.")
        if not label.is_file():
            raise FileNotFoundError(f"{label}: no such label, but there is {picture}. Add it or remove the picture.")
    for label in sorted((root / "labels").glob("*.png")):
        if label.stem not in stems:
            raise FileNotFoundError(
                f"{root / 'pictures' / label.stem}: no such picture, but there is {label}. Add it or remove the label."
            )


def _check_pair(picture: Path, label: Path) -> None:
    seen, (height, width) = load_picture(picture).shape[:2], _load_label(label).shape
    if (height, width) != seen:
        raise ValueError(
            f"{label}: {width} x {height} pixels, but {picture} has {seen[1]} x {seen[0]}. Label every pixel once."
        )


def _load_label(path: Path) -> NDArray[np.int32]:
    check_picture(path)
    with Image.open(path) as picture:
        mode, numbers = picture.mode, np.array(picture)
    if mode not in _MODES:
        raise ValueError(
            f"{path}: a PNG of mode {mode!r}, but a label has one channel of numbers (8 or 16 bits, or a palette). "
            "Save the object numbers, not their colours."
        )
    return numbers.astype(np.int32)
