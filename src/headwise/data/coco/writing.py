"""Writers of COCO's files: data sets of boxes, and detections."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from PIL import Image

from headwise.data.annotation import BoxAnnotation, BoxDataset
from headwise.data.detections import Detections

Entry = dict[str, Any]


def write_coco(folder: str | Path, dataset: BoxDataset, split: str) -> Path:
    """Write a data set as ``annotations/instances_<split>.json`` and ``<split>/<name>.png``.

    All is written aside and moved into place at the end, so that no half of a data set is ever found there.

    Args:
        folder: of the whole data set; made where it is missing.
        dataset: the pictures; ignored regions are written as crowds.
        split: its name in the folder.

    Returns:
        The JSON file.

    Raises:
        FileExistsError: the folder holds that split already.
        ValueError: two pictures of one name, or a name that leads out of the folder.
    """
    root = Path(folder)
    file, pictures = root / "annotations" / f"instances_{split}.json", root / split
    for path in (file, pictures):
        if path.exists():
            raise FileExistsError(f"{path} exists. Remove it, or give another folder or split.")
    file.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{split}_", dir=root))
    try:
        content = _write_pictures(aside / "pictures", dataset)
        (aside / "instances.json").write_text(json.dumps(content), encoding="utf-8")
        (aside / "pictures").rename(pictures)
        (aside / "instances.json").rename(file)
    finally:
        shutil.rmtree(aside)
    return file


def write_detections(
    path: str | Path,
    detections: Sequence[Mapping[str, Any]],
    *,
    image_ids: Sequence[int],
    category_ids: Sequence[int],
) -> None:
    """Write detections as COCO's results, which any COCO evaluation reads; replaces the file at once.

    Args:
        path: the JSON file.
        detections: per image ``boxes`` (n, 4) in pixel edges of the picture, ``scores`` (n,) and ``labels``
            (n,) in 0..C-1, as arrays or tensors.
        image_ids: COCO's number of each image.
        category_ids: COCO's number of each label.

    Raises:
        ValueError: another number of images, detections of other shapes, a value that is not finite, a box of
            negative width or height, or a label without category.

    Differs:
        The corner detectors' code rounds boxes and scores to two decimals, which makes ties and changes AP; here
        every digit is kept.
    """
    if len(detections) != len(image_ids):
        raise ValueError(f"{len(detections)} images of detections, {len(image_ids)} image_ids. Give one per image.")
    results = [
        entry
        for number, found in zip(image_ids, detections, strict=True)
        for entry in _results(number, found, category_ids)
    ]
    target = Path(path)
    aside = target.with_name(f".{target.name}.partial")
    try:
        aside.write_text(json.dumps(results), encoding="utf-8")
        aside.replace(target)
    finally:
        aside.unlink(missing_ok=True)


def _results(number: int, found: Mapping[str, Any], category_ids: Sequence[int]) -> list[Entry]:
    boxes, scores, labels = Detections.of(found, f"detections of image {number}")
    if len(labels) and not (labels.min() >= 0 and labels.max() < len(category_ids)):
        bounds = f"{labels.min()} to {labels.max()}"
        raise ValueError(
            f"detections of image {number}: labels {bounds}, but there are {len(category_ids)} category_ids. Give "
            "those of the network's classes."
        )
    return [
        {"image_id": int(number), "category_id": int(category_ids[label]), "bbox": _bbox(box), "score": float(score)}
        for box, score, label in zip(boxes, scores, labels, strict=True)
    ]


def _bbox(box: Any) -> list[float]:
    x1, y1, x2, y2 = (float(edge) for edge in box)
    return [x1, y1, x2 - x1, y2 - y1]


def _write_pictures(folder: Path, dataset: BoxDataset) -> Entry:
    """Write the pictures, and return what the JSON file says of them."""
    folder.mkdir()
    images: list[Entry] = []
    annotations: list[Entry] = []
    for index, number in enumerate(dataset.image_ids):
        picture = dataset[index]
        name = PurePosixPath(f"{picture.name}.png")
        if name.is_absolute() or ".." in name.parts or (folder / name).exists():
            raise ValueError(
                f"picture {index} is called {picture.name!r}. Give each a name of its own inside the folder."
            )
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture.image).save(folder / name)
        height, width = picture.image.shape[:2]
        images.append({"id": number, "file_name": str(name), "height": height, "width": width})
        annotations += _annotations(picture.annotation, number, dataset.category_ids, first=len(annotations) + 1)
    pairs = zip(dataset.category_ids, dataset.class_names, strict=True)
    categories = [{"id": number, "name": name, "supercategory": ""} for number, name in pairs]
    return {"images": images, "annotations": annotations, "categories": categories}


def _annotations(annotation: BoxAnnotation, image: int, category_ids: Sequence[int], first: int) -> list[Entry]:
    boxes = [_bbox(box) for box in annotation.boxes]
    areas = [width * height for _, _, width, height in boxes] if annotation.areas is None else annotation.areas
    return [
        {
            "id": first + index,
            "image_id": image,
            "category_id": category_ids[label],
            "bbox": box,
            "area": float(area),
            "iscrowd": int(ignored),
            "segmentation": [],
        }
        for index, (box, area, label, ignored) in enumerate(
            zip(boxes, areas, annotation.labels, annotation.ignored, strict=True)
        )
    ]
