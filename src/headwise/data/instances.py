"""Pictures with an instance map each: the number of the object at every pixel."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from headwise.data.annotation import Picture
from headwise.data.checks.inspection import Progress, check_files
from headwise.data.checks.mistakes import Mistakes
from headwise.data.checks.oddities import Oddity, odd_maps
from headwise.data.pictures import ENDINGS, Look, Numbers, check_picture, load_numbers, load_picture
from headwise.files import composed, visible

_MODES = ("L", "P", "I", "I;16", "I;16B")  # of PNGs whose pixels are numbers, not colors


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

    def __init__(self, where: Path, pairs: list[tuple[Path, Path]]) -> None:
        self.where = where
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
        numbers = _load_label(label)
        return Picture(picture.stem, load_picture(picture, numbers.shape), InstanceAnnotation(numbers))

    def files(self, index: int) -> tuple[Path, ...]:
        """Return the picture and the instance map number `index`."""
        return self._pairs[index]

    def told_size(self, index: int) -> None:
        """Return nothing: the instance map is a file, and looked at itself."""

    def look(self, index: int) -> Look:
        """Decode pair number `index` for what is wrong with it.

        Args:
            index: 0 to the length less one.

        Returns:
            What the files show of themselves.

        Raises:
            OSError: one of them cannot be decoded.
            ValueError: the instance map is not one, or of another size than the picture.
        """
        picture, label = self._pairs[index]
        numbers = _load_label(label)
        look = check_picture(picture, numbers.shape)
        if look.size != numbers.shape:
            (height, width), seen = numbers.shape, look.size
            raise ValueError(
                f"{label}: {width} x {height} pixels, but {picture} has {seen[1]} x {seen[0]}. Label every pixel once."
            )
        return look._replace(numbers=_numbers(numbers))

    def select(self, indices: Sequence[int]) -> InstanceFolder:
        """Return some of the pictures."""
        return InstanceFolder(self.where, [self._pairs[index] for index in indices])

    def objects_by_class(self) -> dict[tuple[int, str], int]:
        """Return nothing: the objects are of one kind."""
        return {}

    def oddities(self, looks: Sequence[Look]) -> list[Oddity]:
        """Return what of the instance maps cannot be meant."""
        return odd_maps([look.numbers for look in looks if look.numbers is not None])


def read_instances(
    folder: str | Path,
    split: str | Path | None = None,
    *,
    check_pictures: bool = True,
    progress: Progress | None = None,
) -> InstanceFolder:
    """Read a folder of pictures and label PNGs.

    ``<folder>[/<split>]/pictures/<name>.png`` (or JPEG, WebP, ...) goes with ``labels/<name>.png`` beside: a PNG of
    one channel, 8 or 16 bits or with a palette, whose pixels are the numbers of the objects, 0 for the background. Both
    are read as they are displayed, turned by their EXIF orientation, unless the label has the size of the picture as
    stored alone.

    Args:
        folder: that holds ``pictures`` and ``labels``.
        split: a folder between, for instance "train" or "held_out"; None for none.
        check_pictures: decode all files once now, in as many processes as the machine has cores.
        progress: called with the number of pictures that were checked, and of all.

    Returns:
        The data set, in the order of the names.

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
    pictures = [path for path in visible(root / "pictures") if path.suffix.lower() in ENDINGS]
    if not pictures:
        raise ValueError(f"{root / 'pictures'}: no pictures. Put some of {', '.join(ENDINGS)} there.")
    labels = {composed(path.stem): path for path in visible(root / "labels") if path.suffix.lower() == ".png"}
    pairs = [(each, labels.get(composed(each.stem), root / "labels" / f"{each.stem}.png")) for each in pictures]
    data = InstanceFolder(root, pairs)
    _check_names(root, pictures, labels)
    if check_pictures:
        check_files(data, progress)
    return data


def list_splits(root: Path) -> list[str]:
    """Return the names of the splits of a folder: those of the folders that hold ``pictures``."""
    return sorted(path.parent.name for path in root.glob("*/pictures") if path.is_dir())


def _check_names(root: Path, pictures: list[Path], labels: dict[str, Path]) -> None:
    mistakes = Mistakes()
    counts = Counter(composed(picture.stem) for picture in pictures)
    others = {composed(path.stem): path.name for path in visible(root / "labels")}
    for picture in pictures:
        label, name = root / "labels" / f"{picture.stem}.png", composed(picture.stem)
        if counts[name] > 1:
            mistakes.add(picture.name, ValueError(f"{picture}: two pictures are called {picture.stem!r}. Rename one."))
        if name not in labels:
            hint = f" Beside it lies {others[name]}: save it as PNG." if name in others else ""
            lost = f"{label}: no such label, but there is {picture}.{hint} Add it or remove the picture."
            mistakes.add(label.name, FileNotFoundError(lost))
    for stem in sorted(labels.keys() - counts.keys()):
        lost = f"{root / 'pictures' / stem}: no such picture, but there is {labels[stem]}. Add it or remove the label."
        mistakes.add(labels[stem].name, FileNotFoundError(lost))
    mistakes.refuse()


def _load_label(path: Path) -> NDArray[np.int32]:
    numbers, mode = load_numbers(path)
    if mode not in _MODES:
        raise ValueError(
            f"{path}: a PNG of mode {mode!r}, but a label has one channel of numbers (8 or 16 bits, or a palette). "
            "Save the object numbers, not their colors."
        )
    found = numbers.astype(np.int32)
    if found.size and found.min() < 0:
        raise ValueError(f"{path}: object numbers begin at 1 and the background is 0, found {found.min()}. Correct it.")
    return found


def _numbers(label: NDArray[np.int32]) -> Numbers:
    """What a map says of its objects, for `odd_maps`."""
    from scipy import ndimage

    numbers = np.unique(label)
    found = numbers[numbers > 0]
    largest, second = (int(found[-k]) if len(found) >= k else 0 for k in (1, 2))
    return Numbers(len(found), int(ndimage.label(label > 0)[1]), largest, second, len(found) == len(numbers))
