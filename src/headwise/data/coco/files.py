"""Which JSON file holds the boxes of a split, in the folders that the usual tools export."""

from __future__ import annotations

import filecmp
from collections.abc import Iterator
from pathlib import Path

from headwise.data.split_names import choose_splits, role_of
from headwise.files import visible

_OTHER_TASKS = ("captions_", "person_keypoints_", "panoptic_", "stuff_", "image_info_")  # beside COCO's instances_
_OTHER_FORMATS = {
    "YOLO": ("data.y*ml", "labels/*.txt", "labels/*/*.txt", "*/labels/*.txt"),
    "Pascal VOC": ("Annotations/*.xml", "*/Annotations/*.xml", "annotations/*.xml", "*.xml", "*/*.xml"),
    "a folder of label maps": ("*/labels/*.png", "*/pictures/*"),
    "Total-Text": ("Groundtruth/*",),
    "a table": ("*.csv", "*/*.csv"),
}
"""Kinds of data -> what tells them."""
_NAMELESS = ("_annotations.coco", "annotations.coco", "annotations", "labels", "result", "coco", "instances", "default")


def split_of(file: Path) -> str:
    """Return the name of the split that a file of annotations holds: its own, or where that says nothing its folder's.

    Args:
        file: the JSON file.

    Returns:
        ``val2017`` of ``annotations/instances_val2017.json``, ``valid`` of ``valid/_annotations.coco.json``.
    """
    stem = file.name.removesuffix(file.suffix)
    if stem.lower() in _NAMELESS:
        return file.parent.name
    for prefix in ("instances_", "annotations_"):
        stem = stem.removeprefix(prefix)
    return stem.removesuffix(".coco").removesuffix("_annotations").removesuffix("_coco")


def find_file(root: Path, split: str) -> Path:
    """Return the file of a split.

    Args:
        root: the folder of a data set, or of the split alone, or the file itself.
        split: its name; or a file or folder, from the root or from here.

    Returns:
        The JSON file.

    Raises:
        FileNotFoundError: there is none.
    """
    if _is_file(root):
        if not _is_path(split):
            return root
        root = root.parent
    files = list_files(root) if root.is_dir() else {}
    if split in files:
        return files[split]
    for given in (root / split, Path(split)) if _is_path(split) else (root / split,):
        inside = _only_file(given) if given.is_dir() else given
        if inside is not None and _is_file(inside) and inside.is_file():
            return inside
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: no such folder. Give the folder that holds COCO's 'annotations'.")
    if _is_path(split):
        raise FileNotFoundError(f"{split}: no such file or folder, neither in {root} nor from here. Check the path.")
    held = ", ".join(file.name for file in _tables(root / "annotations")) or "none"
    raise FileNotFoundError(
        f"{root / f'annotations/instances_{split}.json'}: no such file; 'annotations' holds {held}; the splits found "
        f"are: {', '.join(files) or 'none'}. Name those that are there with --train and --held-out (train_split and "
        "held_out_split in Python), or give a file each."
    )


def name_splits(root: Path | None, train: str | None, held_out: str | None) -> tuple[str, str]:
    """Return the splits to train on and to hold out, as `find_file` takes them.

    Args:
        root: the folder of the data set, or the file to train on; None where both splits are files or folders.
        train: a split, file or folder; None to look for the usual names.
        held_out: likewise.

    Returns:
        Two splits that are two files.

    Raises:
        FileNotFoundError: a file is missing, or the folder holds no file of COCO.
        ValueError: the splits cannot be told, or are one file.
    """
    if root is not None and _is_file(root):
        train = train or root.name
    elif root is not None and not (train and held_out):
        train, held_out = choose_splits(_splits_in(root, train or held_out), train, held_out, root)
    if train is None or held_out is None:
        raise ValueError(
            f"{train or held_out or root}: one file cannot be the training and the held-out data both. Give the "
            "folder of both splits, or a file each with --train FILE and --held-out FILE (train_split and "
            "held_out_split in Python)."
        )
    first, second = (find_file(root or Path(), split) for split in (train, held_out))
    if filecmp.cmp(first, second, shallow=False):
        same = "the same file" if first.samefile(second) else f"copies of one file, {second} the other,"
        raise ValueError(
            f"{first}: the training and the held-out split are {same} and a score on pictures that were "
            "trained on says nothing. Give another with --held-out (held_out_split in Python)."
        )
    return _from_anywhere(root, train), _from_anywhere(root, held_out)


def _splits_in(root: Path, named: str | None) -> list[str]:
    """The splits of a folder; where there are none and none was named, it is something else."""
    if not root.is_dir():
        kind = "neither a folder nor a JSON file" if root.exists() else "no such folder"
        raise FileNotFoundError(f"{root}: {kind}. Give the folder that holds COCO's 'annotations', or its file.")
    splits = list(list_files(root))
    if not splits and named is None:
        looks = next((kind for kind, places in _OTHER_FORMATS.items() if any(map(any, map(root.glob, places)))), None)
        hint = "" if looks is None else f" It looks like {looks}: export it as COCO, or convert it."
        raise FileNotFoundError(
            f"{root}: no annotations of COCO's in this folder, neither annotations/*.json nor a JSON file in a folder "
            f"for each split.{hint}"
        )
    return splits


def _is_file(path: Path) -> bool:
    return path.suffix.lower() == ".json" and not path.is_dir()


def _is_path(split: str) -> bool:
    return split.lower().endswith(".json") or "/" in split or "\\" in split


def _from_anywhere(root: Path | None, split: str) -> str:
    """A split that is a path from here, as one from anywhere."""
    base = None if root is None else root.parent if _is_file(root) else root
    if not _is_path(split) or (base is not None and (base / split).exists() and not Path(split).is_absolute()):
        return split
    return str(Path(split).absolute())


def list_files(root: Path) -> dict[str, Path]:
    """Return the files of annotations below a folder by the names of their splits.

    Args:
        root: the folder of a data set.

    Returns:
        Split -> file; what is likelier meant wins.
    """
    found: dict[str, Path] = {}
    for name, file in _candidates(root):
        found.setdefault(name, file)
    return found


def _candidates(root: Path) -> Iterator[tuple[str, Path]]:
    for folder in (root / "annotations", root):
        files = [each for each in _tables(folder) if not each.name.startswith(_OTHER_TASKS)]
        files.sort(key=lambda each: not each.name.startswith("instances_"))
        for file in files:
            yield split_of(file), file
    for folder in (each for each in visible(root) if each.is_dir() and each.name != "annotations"):
        inside = _only_file(folder)
        if inside is not None:
            yield folder.name, inside


def _tables(folder: Path) -> list[Path]:
    """The JSON files of a folder; none where it is missing."""
    return [file for file in visible(folder) if file.suffix.lower() == ".json"] if folder.is_dir() else []


def _only_file(folder: Path) -> Path | None:
    """The file of annotations in the folder of one split."""
    for place in (folder, folder / "annotations"):
        files = _tables(place)
        known = [file for file in files if split_of(file) in (folder.name, "annotations") or role_of(file.stem)]
        if len(files) == 1 or len(known) == 1:
            return files[0] if len(files) == 1 else known[0]
    return None
