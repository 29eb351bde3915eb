"""Which JSON file holds the boxes of a split, in the folders that the usual tools export."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from headwise.data.split_names import choose_splits, role_of

_OTHER_TASKS = ("captions_", "person_keypoints_", "panoptic_", "stuff_", "image_info_")  # beside COCO's instances_
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
        split: its name; or a file or folder, from here or from the root.

    Returns:
        The JSON file.

    Raises:
        FileNotFoundError: there is none.
    """
    if root.suffix.lower() == ".json" and not root.is_dir():
        return root
    for given in (Path(split), root / split):
        if given.suffix.lower() == ".json":
            if given.is_file():
                return given
        elif given.is_dir() and (inside := _only_file(given)) is not None:
            return inside
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: no such folder. Give the folder that holds COCO's 'annotations'.")
    files = list_files(root)
    if split in files:
        return files[split]
    found = ", ".join(sorted(file.name for file in (root / "annotations").glob("*.json"))) or "none"
    others = ", ".join(files) or "none"
    raise FileNotFoundError(
        f"{root / f'annotations/instances_{split}.json'}: no such file; 'annotations' holds {found}; the splits "
        f"found are: {others}. Name a split that is there, or give the file."
    )


def find_files(root: Path | None, train: str | None, held_out: str | None) -> tuple[Path, Path]:
    """Return the files of the training and of the held-out pictures.

    Args:
        root: the folder of the data set, or the file to train on; None where both splits are files or folders.
        train: a split, file or folder; None to look for the usual names.
        held_out: likewise.

    Returns:
        Two files.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: the splits cannot be told, or are one file.
    """
    if root is not None and root.suffix.lower() == ".json" and not root.is_dir():
        train, root = train or str(root), root.parent
    elif root is not None and root.is_dir() and not (train and held_out):
        names = choose_splits(list(list_files(root)), train, held_out, root)
        train, held_out = names
    if train is None or held_out is None:
        raise ValueError(
            f"{train or held_out or root}: one file cannot be the training and the held-out data both. Give the "
            "folder of both splits, or a file each with --train FILE and --held-out FILE (train_split and "
            "held_out_split in Python)."
        )
    base = root or Path()
    first, second = find_file(base, train), find_file(base, held_out)
    if first.samefile(second) if first.exists() and second.exists() else first == second:
        raise ValueError(
            f"{first}: the training and the held-out split are the same file, and a score on pictures that were "
            "trained on says nothing. Give another with --held-out (held_out_split in Python)."
        )
    return first, second


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
        files = [each for each in sorted(folder.glob("*.json")) if not each.name.startswith(_OTHER_TASKS)]
        files.sort(key=lambda each: not each.name.startswith("instances_"))
        for file in files:
            yield split_of(file), file
    for folder in sorted(each for each in root.iterdir() if each.is_dir() and each.name != "annotations"):
        inside = _only_file(folder)
        if inside is not None:
            yield folder.name, inside


def _only_file(folder: Path) -> Path | None:
    """The file of annotations in the folder of one split."""
    for place in (folder, folder / "annotations"):
        files = sorted(place.glob("*.json"))
        known = [file for file in files if split_of(file) in (folder.name, "annotations") or role_of(file.stem)]
        if len(files) == 1 or len(known) == 1:
            return files[0] if len(files) == 1 else known[0]
    return None
