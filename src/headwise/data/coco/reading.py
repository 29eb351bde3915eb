"""Reader for COCO folders: pictures with boxes of objects."""

from __future__ import annotations

import os
import warnings
from pathlib import Path, PurePosixPath

from headwise.data.annotation import BoxAnnotation, Picture
from headwise.data.coco.content import CocoContent, ImageEntry, parse_coco
from headwise.data.pictures import check_picture, load_picture


class Coco:
    """Annotated pictures, decoded when asked for; see `read_coco`."""

    def __init__(self, content: CocoContent, folder: Path) -> None:
        self._content = content
        self._folder = folder
        self._names = _names(content.images)

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
        return tuple(entry.number for entry in self._content.images)

    def __len__(self) -> int:
        return len(self._names)

    def annotation(self, index: int) -> BoxAnnotation:
        """Return the boxes of picture number `index` without decoding it."""
        return self._content.images[index].annotation

    def __getitem__(self, index: int) -> Picture[BoxAnnotation]:
        """Decode picture number `index`.

        Args:
            index: 0 to the length less one.

        Returns:
            The picture, named like its file without suffix (with it where two would be named alike).

        Raises:
            ValueError: the picture has another size than the file of annotations says.
        """
        entry = self._content.images[index]
        path = self._folder / entry.file_name
        image = load_picture(path)
        if entry.size not in (None, image.shape[:2]):
            raise ValueError(
                f"{path}: the picture has (height, width) {image.shape[:2]}, but image {entry.number} is annotated "
                f"as {entry.size}, so its boxes do not fit. Put back the original picture."
            )
        return Picture(self._names[index], image, entry.annotation)


def read_coco(path: str | Path, split: str, *, check_pictures: bool = False) -> Coco:
    """Read pictures with boxes in COCO's format.

    Each annotation is checked here, before any training, and each picture's file must be there. Crowds become
    ignored regions; pictures without objects stay; categories, sorted by number, become labels from 0; masks
    (polygons and run lengths) are not read. A box that holds no part of its picture (COCO itself has two of
    height 0) is left out, with a warning that counts them.

    Args:
        path: a folder with ``annotations/instances_<split>.json`` (or ``annotations/<split>.json``,
            ``<split>.json``, ``<split>/_annotations.coco.json``) and the pictures in ``<split>``,
            ``images/<split>`` or ``images``; or the JSON file itself, whose folder or the one above holds the
            pictures likewise, or side by side with the file.
        split: such as "train2017".
        check_pictures: decode each picture to its last byte now (minutes for COCO's 118 000); otherwise a
            broken one is told when it is loaded.

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
    file = _annotation_file(Path(path), split)
    content = parse_coco(file)
    if not content.images:
        raise ValueError(f"{file}: there are no images. Give a split that holds some.")
    folder = _picture_folder(file, split, content.images[0].file_name)
    _check_presence(file, folder, content)
    if check_pictures:
        for entry in content.images:
            check_picture(folder / entry.file_name)
    if content.without_area:
        numbers = ", ".join(map(str, content.without_area[:5])) + (", ..." if len(content.without_area) > 5 else "")
        warnings.warn(
            f"{file}: {len(content.without_area)} annotations whose boxes hold no part of their picture are left "
            f"out: {numbers}.",
            stacklevel=2,
        )
    return Coco(content, folder)


def _names(images: tuple[ImageEntry, ...]) -> list[str]:
    short = [str(PurePosixPath(entry.file_name).with_suffix("")) for entry in images]
    return short if len(set(short)) == len(short) else [entry.file_name for entry in images]


def _annotation_file(path: Path, split: str) -> Path:
    if path.suffix.lower() == ".json":
        return path
    if not path.is_dir():
        raise FileNotFoundError(f"{path}: no such folder. Give the folder that holds COCO's 'annotations'.")
    places = (
        f"annotations/instances_{split}.json",
        f"annotations/{split}.json",
        f"{split}.json",
        f"{split}/_annotations.coco.json",
    )
    for place in places:
        if (path / place).is_file():
            return path / place
    found = ", ".join(sorted(file.name for file in (path / "annotations").glob("*.json"))) or "none"
    raise FileNotFoundError(
        f"{path / places[0]}: no such file; 'annotations' holds {found}. Name a split that is there, or give the file."
    )


def _picture_folder(file: Path, split: str, first: str) -> Path:
    """Find the folder that holds the first picture."""
    roots = (file.parent.parent, file.parent)
    folders = [root / place for root in roots for place in (split, f"images/{split}", "images")] + [file.parent]
    for folder in folders:
        if (folder / first).is_file():
            return folder
    tried = ", ".join(str(folder) for folder in folders)
    raise FileNotFoundError(f"{file}: its first picture {first!r} is in none of {tried}. Put the pictures into one.")


def _check_presence(file: Path, folder: Path, content: CocoContent) -> None:
    """Look every picture up in one listing per folder."""
    listings: dict[str, set[str]] = {}
    for entry in content.images:
        inside, _, name = entry.file_name.rpartition("/")
        if inside not in listings:
            listings[inside] = _listing(folder / inside)
        if name not in listings[inside]:
            raise FileNotFoundError(
                f"{folder / entry.file_name}: no such picture, but {file} lists it as image {entry.number}. Add the "
                "picture, or remove the image and its annotations."
            )


def _listing(folder: Path) -> set[str]:
    return set(os.listdir(folder)) if folder.is_dir() else set()
