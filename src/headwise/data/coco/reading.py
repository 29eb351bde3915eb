"""Reader for COCO folders: pictures with boxes of objects."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path, PurePosixPath

import numpy as np

from headwise.data.annotation import BoxAnnotation, Picture
from headwise.data.checks.inspection import Progress, check_files
from headwise.data.checks.oddities import Oddity, odd_boxes
from headwise.data.coco.content import CocoContent, parse_coco
from headwise.data.coco.files import find_file, split_of
from headwise.data.coco.places import find_pictures
from headwise.data.pictures import Look, check_picture, load_picture


class Coco:
    """Annotated pictures, decoded when asked for; see `read_coco`."""

    def __init__(self, where: Path, content: CocoContent, paths: list[str]) -> None:
        self.where = where
        self._content = content
        self._paths = paths
        self._names = _names([entry.file_name for entry in content.images], paths)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The name of each label."""
        return self._content.class_names

    @property
    def category_ids(self) -> tuple[int, ...]:
        """COCO's category number of each label, ascending."""
        return self._content.category_ids

    @property
    def image_ids(self) -> tuple[int, ...]:
        """COCO's number of each picture, ascending."""
        return tuple(entry.id for entry in self._content.images)

    def files(self, index: int) -> tuple[Path, ...]:
        """Return the file of picture number `index`."""
        return (Path(self._paths[index]),)

    def __len__(self) -> int:
        return len(self._names)

    def annotation(self, index: int) -> BoxAnnotation:
        """Return the boxes of picture number `index` without decoding it."""
        return self._content.annotation(index)

    def told_size(self, index: int) -> tuple[int, int] | None:
        """Return the annotated (height, width) of picture number `index`, or None where the file does not say."""
        return self._content.images[index].size

    def look(self, index: int) -> Look:
        """Decode picture number `index` for what is wrong with it.

        Args:
            index: 0 to the length less one.

        Returns:
            What the file shows of itself.

        Raises:
            OSError: the picture cannot be decoded.
            ValueError: it has another size than the file of annotations says.
        """
        size = self._content.images[index].size
        look = check_picture(self._paths[index], size)
        self._check_size(index, look.size)
        return look

    def __getitem__(self, index: int) -> Picture[BoxAnnotation]:
        """Decode picture number `index`, as its boxes were annotated.

        Args:
            index: 0 to the length less one.

        Returns:
            The picture, named like its file without suffix (with it where two would be named alike).

        Raises:
            ValueError: the picture has another size than the file of annotations says.
        """
        image = load_picture(self._paths[index], self._content.images[index].size)
        self._check_size(index, (image.shape[0], image.shape[1]))
        return Picture(self._names[index], image, self.annotation(index))

    def select(self, indices: Sequence[int]) -> Coco:
        """Return some of the pictures."""
        return Coco(self.where, self._content.select(indices), [self._paths[index] for index in indices])

    def objects_by_class(self) -> dict[tuple[int, str], int]:
        """Return how many objects that are no crowd there are of each category, by its number and name."""
        boxes = self._content.boxes
        counts = np.bincount(boxes.labels[~boxes.ignored], minlength=len(self.class_names)).tolist()
        return dict(zip(zip(self.category_ids, self.class_names, strict=True), counts, strict=True))

    @property
    def num_empty(self) -> int:
        """How many pictures have no annotation."""
        return int((np.diff(self._content.starts) == 0).sum())

    def oddities(self, looks: Sequence[Look]) -> list[Oddity]:
        """Return what of the boxes cannot be meant, on pictures of the sizes that were seen."""
        return odd_boxes(self._content.boxes, self._content.starts, [look.size for look in looks])

    def _check_size(self, index: int, found: tuple[int, int]) -> None:
        entry = self._content.images[index]
        if entry.size not in (None, found):
            raise ValueError(
                f"{self._paths[index]}: the picture has (height, width) {found}, but image {entry.id} is annotated "
                f"as {entry.size}, so its boxes do not fit. Put back the original picture."
            )


def read_coco(
    path: str | Path,
    split: str | Path | None = None,
    *,
    check_pictures: bool = False,
    progress: Progress | None = None,
) -> Coco:
    """Read pictures with boxes in COCO's format.

    Each annotation is checked here, before any training, and each picture's file must be there; what is wrong is told
    at once, the first entry word for word, with the number of the others. Crowds become ignored regions; pictures
    without objects stay; categories, sorted by number, become labels from 0; masks (polygons and run lengths) are not
    read. A box that holds no part of its picture (COCO itself has two of height 0) is left out, with a warning that
    counts them.

    A picture is read as it is displayed, turned by its EXIF orientation, unless the annotated height and width fit
    only the picture as stored.

    Args:
        path: a folder with ``annotations/instances_<split>.json``, ``annotations/<split>.json``, ``<split>.json``, or
            one JSON file in ``<split>``; or the JSON file itself.
        split: such as "train2017"; not needed with a file. Pictures lie in ``<split>``, ``images/<split>``,
            ``<split>/images``, ``<split>/data``, ``images`` or ``data``, beside the file or one folder above, or side
            by side with the file.
        check_pictures: decode each picture to its last byte now, in all processes that the machine has cores;
            otherwise a broken one is told when it is loaded.
        progress: called with the number of pictures that were checked, and of all.

    Returns:
        The data set, sorted by image number.

    Raises:
        OSError: a file or folder is missing, or a picture does not decode.
        ValueError: the file is no COCO file, or an entry breaks a rule; the message names file, entry, rule and
            remedy.

    Reference:
        Lin et al., "Microsoft COCO", ECCV 2014; cocodataset.org, "Data format".

    Differs:
        The corner detectors' readers keep crowds as ordinary objects.
    """
    file = find_file(Path(path), "" if split is None else str(split))
    content = _parsed(file)
    if not content.images:
        raise ValueError(f"{file}: there are no images. Give a split that holds some.")
    paths = find_pictures(file, split_of(file), [(entry.id, entry.file_name) for entry in content.images])
    data = Coco(file, content, paths)
    if content.without_area:
        numbers = ", ".join(map(str, content.without_area[:5])) + (", ..." if len(content.without_area) > 5 else "")
        warnings.warn(
            f"{file}: {len(content.without_area)} annotations whose boxes hold no part of their picture are left "
            f"out: {numbers}.",
            stacklevel=2,
        )
    if check_pictures:
        check_files(data, progress)
    return data


def read_categories(file: Path) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Return the names and the numbers of a COCO file's categories, without a word on its annotations.

    Args:
        file: the JSON file.

    Returns:
        ``class_names`` and ``category_ids``.
    """
    content = _parsed(file)
    return content.class_names, content.category_ids


def _parsed(file: Path) -> CocoContent:
    """A file's content; the two of a run are asked for twice, and read once."""
    try:
        stat = file.stat()
    except OSError:
        return parse_coco(file)
    return _parsed_once(file.resolve(), file, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=2)
def _parsed_once(resolved: Path, file: Path, changed: int, size: int) -> CocoContent:
    del resolved, changed, size
    return parse_coco(file)


def _names(written: list[str], paths: list[str]) -> list[str]:
    """The pictures' names: as the file writes them where it does so relative to their folder, else the files' own."""
    names = [
        name if path.endswith(f"/{name}") else PurePosixPath(path).name
        for name, path in zip(written, paths, strict=True)
    ]
    for choice in ([str(PurePosixPath(name).with_suffix("")) for name in names], names):
        if len(set(choice)) == len(choice):
            return choice
    return written
