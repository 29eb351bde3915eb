import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from headwise.data import BoxAnnotation, Picture, embedded_digits, read_coco, write_coco, write_detections
from headwise.data.loading import BatchSampler, seeded_loader

Entry = dict[str, Any]


def content() -> Entry:
    """Three pictures, of which the second is empty; category numbers with gaps, in no order."""
    return {
        "images": [
            {"id": 7, "file_name": "c.png", "height": 20, "width": 30},
            {"id": 3, "file_name": "a.png", "height": 20, "width": 30},
            {"id": 5, "file_name": "b.png", "height": 20, "width": 30},
        ],
        "categories": [{"id": 90, "name": "brush"}, {"id": 1, "name": "person"}, {"id": 13, "name": "stop"}],
        "annotations": [
            {"id": 10, "image_id": 7, "category_id": 90, "bbox": [1.5, 2.25, 10, 4], "area": 33.5, "iscrowd": 0},
            {
                "id": 11,
                "image_id": 7,
                "category_id": 1,
                "bbox": [0, 0, 30, 20],
                "area": 400,
                "iscrowd": 1,
                "segmentation": {"counts": "abc", "size": [20, 30]},
            },
            {"id": 12, "image_id": 3, "category_id": 13, "bbox": [-4, 5, 50, 3]},
        ],
    }


def lay_out(folder: Path, entries: Any, file: str = "annotations/instances_val.json", pictures: str = "val") -> Path:
    for index, name in enumerate("abc"):
        path = folder / pictures / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((20, 30, 3), index, np.uint8)).save(path)
    path = folder / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(entries if isinstance(entries, str) else json.dumps(entries))
    return folder


def test_what_a_file_says(tmp_path):
    data = read_coco(lay_out(tmp_path, content()), "val", check_pictures=True)
    assert data.class_names == ("person", "stop", "brush")
    assert data.category_ids == (1, 13, 90)
    assert data.image_ids == (3, 5, 7)
    assert [data[index].name for index in range(len(data))] == ["a", "b", "c"]
    assert [data[index].image[0, 0, 0] for index in range(3)] == [0, 1, 2]
    assert data[0].annotation.boxes.tolist() == [[-4, 5, 46, 8]]
    assert data[0].annotation.areas == [150.0]
    assert len(data[1].annotation) == 0
    last = data[2].annotation
    assert last.boxes.tolist() == [[1.5, 2.25, 11.5, 6.25], [0, 0, 30, 20]]
    assert last.labels.tolist() == [2, 0]
    assert last.ignored.tolist() == [False, True]
    assert last.areas is not None
    assert last.areas.tolist() == [33.5, 400.0]
    assert data.annotation(2) is last


@pytest.mark.parametrize(
    ("file", "pictures"),
    [
        ("annotations/instances_val.json", "val"),
        ("annotations/instances_val.json", "images/val"),
        ("annotations/val.json", "images"),
        ("val.json", "val"),
        ("val/_annotations.coco.json", "val"),
    ],
)
def test_folders_are_laid_out_in_several_ways(tmp_path, file, pictures):
    lay_out(tmp_path, content(), file, pictures)
    assert read_coco(tmp_path, "val")[0].name == "a"
    assert read_coco(tmp_path / file, "val")[0].name == "a"
    assert read_coco(tmp_path, Path("val"))[0].name == "a"
    assert read_coco(tmp_path, tmp_path / file)[0].name == "a"


def test_a_file_beside_its_pictures(tmp_path):
    lay_out(tmp_path, content(), "any.json", ".")
    assert len(read_coco(tmp_path / "any.json", "whatever")) == 3


def test_pictures_of_one_stem_keep_their_suffixes(tmp_path):
    entries = content()
    entries["images"][1]["file_name"] = "c.jpg"
    folder = lay_out(tmp_path, entries)
    (folder / "val" / "a.png").rename(folder / "val" / "c.jpg")
    assert [picture.name for picture in map(read_coco(folder, "val").__getitem__, range(3))] == [
        "c.jpg",
        "b.png",
        "c.png",
    ]


BROKEN: list[tuple[str, Any, str]] = [
    ("images", {"id": 3}, r"image 3: the id stands for two"),
    ("images", {"file_name": "x.png"}, r"image at position 3: the id must be a whole number, found None"),
    ("images", {"id": "9", "file_name": "x.png"}, r"image at position 3: the id must be a whole number, found '9'"),
    ("images", {"id": 9}, r"image 9: file_name must be a text, found None"),
    ("images", {"id": 9, "file_name": "a.png"}, r"image 9: image 3 has the file 'a.png' too"),
    ("images", {"id": 9, "file_name": "x.png", "height": 0, "width": 4}, r"image 9: height and width must be"),
    ("categories", {"id": 13, "name": "go"}, r"category 13: the id stands for two"),
    ("categories", {"id": 14, "name": "stop"}, r"category 14: another category is called 'stop' too"),
    ("categories", {"id": 14}, r"category 14: the name must be a text"),
    ("annotations", {"id": 12}, r"annotation 12: the id stands for two entries. Give each its own"),
    ("annotations", {"image_id": 4}, r"annotation 99: there is no image 4. Add the image or remove the annotation"),
    ("annotations", {"category_id": 2}, r"annotation 99: there is no category 2; there are 1, 13, 90. Correct"),
    ("annotations", {"category_id": True}, r"annotation 99: there is no category True"),
    ("annotations", {"bbox": [1, 1, -2, 3]}, r"annotation 99: width and height of bbox must not be negative, found"),
    ("annotations", {"bbox": [1, 1, 2]}, r"annotation 99: bbox must be four finite numbers"),
    ("annotations", {"bbox": [1, 1, 2, float("nan")]}, r"annotation 99: bbox must be four finite numbers"),
    ("annotations", {"bbox": [1, 1, 2, "3"]}, r"annotation 99: bbox must be four finite numbers"),
    ("annotations", {"bbox": None}, r"annotation 99: bbox must be four finite numbers"),
    ("annotations", {"iscrowd": 2}, r"annotation 99: iscrowd must be 0 or 1, found 2"),
    ("annotations", {"area": -1}, r"annotation 99: the area must be a number of at least 0, found -1"),
    ("annotations", None, r"annotation at position 3: the id must be a whole number"),
]


@pytest.mark.parametrize(("key", "change", "message"), BROKEN)
def test_a_broken_entry_is_named_with_its_file(tmp_path, key, change, message):
    entries = content()
    usual = {"id": 99, "image_id": 3, "category_id": 1, "bbox": [1, 1, 2, 3]} if key == "annotations" else {}
    entries[key].append(None if change is None else {**usual, **change})
    with pytest.raises(ValueError, match=rf"instances_val\.json: {message}"):
        read_coco(lay_out(tmp_path, entries), "val")


@pytest.mark.parametrize("text", ['{"images": [', "", "\ufeff{", "[1, 2]", "{}", '{"images": {}}'])
def test_a_file_that_is_no_coco_file_is_told(tmp_path, text):
    with pytest.raises(ValueError, match=r"instances_val\.json: no (readable JSON|list)"):
        read_coco(lay_out(tmp_path, text), "val")


def test_no_images_and_no_categories_are_told(tmp_path):
    empty: Entry = {"images": [], "annotations": [], "categories": []}
    with pytest.raises(ValueError, match="no categories"):
        read_coco(lay_out(tmp_path, empty), "val")
    empty["categories"] = content()["categories"]
    with pytest.raises(ValueError, match="no images"):
        read_coco(lay_out(tmp_path, empty), "val")


def test_missing_files_and_folders_are_told(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no such folder\. Give the folder that holds COCO's"):
        read_coco(tmp_path / "nowhere", "val")
    lay_out(tmp_path, content())
    with pytest.raises(FileNotFoundError, match=r"instances_train\.json: no such file; .* holds instances_val\.json"):
        read_coco(tmp_path, "train")
    with pytest.raises(FileNotFoundError, match=r"other\.json: no such file"):
        read_coco(tmp_path / "other.json", "val")
    (tmp_path / "val" / "b.png").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"b\.png: no such picture, but .*instances_val\.json lists it as image 5"
    ):
        read_coco(tmp_path, "val")
    (tmp_path / "val" / "a.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"val/a\.png: no such picture.* And 1 more: b\.png\.$"):
        read_coco(tmp_path, "val")
    (tmp_path / "val" / "c.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"its first picture 'a\.png' is in none of"):
        read_coco(tmp_path, "val")


def test_pictures_that_break_or_vanish_later_are_told(tmp_path):
    data = read_coco(lay_out(tmp_path, content()), "val")
    path = tmp_path / "val" / "a.png"
    path.write_bytes(path.read_bytes()[:48])
    with pytest.raises(OSError, match=r"a\.png: the picture cannot be decoded"):
        data[0]
    with pytest.raises(OSError, match=r"a\.png: the picture cannot be decoded"):
        read_coco(tmp_path, "val", check_pictures=True)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"a\.png: no such picture"):
        data[0]
    Image.fromarray(np.zeros((30, 20, 3), np.uint8)).save(path)
    with pytest.raises(ValueError, match=r"a\.png: .* \(30, 20\), but image 3 is annotated as \(20, 30\)"):
        data[0]


@pytest.mark.parametrize(
    "box", [[5, 5, 0, 3], [5, 5, 3, 0], [30, 0, 4, 4], [-9, 0, 9, 4], [0, 20.5, 9, 9], [5e8, 5, 1, 1]]
)
def test_boxes_that_hold_nothing_are_left_out_and_counted(tmp_path, box):
    entries = content()
    entries["annotations"].append({"id": 20, "image_id": 5, "category_id": 1, "bbox": box})
    with pytest.warns(
        UserWarning, match=r"instances_val\.json: 1 annotations whose boxes hold no part .* left out: 20"
    ):
        data = read_coco(lay_out(tmp_path, entries), "val")
    assert len(data[1].annotation) == 0
    assert len(data[2].annotation) == 2


class Crowded:
    """Two pictures of odd names, with a crowd and areas of their own."""

    class_names = ("cat", "dog")
    category_ids = (17, 18)
    image_ids = (40, 2)

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int, /) -> Picture[BoxAnnotation]:
        generator = np.random.default_rng(index)
        image = generator.integers(0, 256, (9, 14, 3), dtype=np.uint8)
        corner = generator.uniform(0, 5, (3, 2))
        boxes = np.concatenate([corner, corner + generator.uniform(0.1, 9, (3, 2))], axis=1).astype(np.float32)
        annotation = BoxAnnotation(boxes, np.array([1, 0, 1]), np.array([False, True, False]), np.array([4.0, 0.1, 9]))
        return Picture(f"sub/ä {index}", image, annotation)


@pytest.mark.parametrize("source", [Crowded(), embedded_digits(num_pictures=4, size=96)])
def test_what_is_written_is_read(tmp_path, source):
    path = write_coco(tmp_path / "new", source, "train")
    assert path == tmp_path / "new" / "annotations" / "instances_train.json"
    data = read_coco(tmp_path / "new", "train", check_pictures=True)
    assert (data.class_names, data.category_ids) == (source.class_names, source.category_ids)
    assert data.image_ids == tuple(sorted(source.image_ids))
    for index, number in enumerate(source.image_ids):
        before, after = source[index], data[data.image_ids.index(number)]
        assert after.name == before.name
        assert np.array_equal(after.image, before.image)
        assert np.array_equal(after.annotation.boxes, before.annotation.boxes)
        assert np.array_equal(after.annotation.labels, before.annotation.labels)
        assert np.array_equal(after.annotation.ignored, before.annotation.ignored)
        if before.annotation.areas is not None:
            assert after.annotation.areas is not None
            assert np.array_equal(after.annotation.areas, before.annotation.areas)
    assert sorted(file.name for file in (tmp_path / "new").iterdir()) == ["annotations", "train"]
    with pytest.raises(FileExistsError, match=r"instances_train\.json exists"):
        write_coco(tmp_path / "new", source, "train")


def test_nothing_is_left_of_a_data_set_that_fails_half_way(tmp_path):
    class Failing(Crowded):
        def __getitem__(self, index: int, /) -> Picture[BoxAnnotation]:
            return super().__getitem__(0)

    with pytest.raises(ValueError, match="picture 1 is called 'sub/ä 0'"):
        write_coco(tmp_path, Failing(), "train")
    assert [file.name for file in tmp_path.rglob("*")] == ["annotations"]


def test_it_is_read_by_workers(tmp_path):
    data = read_coco(lay_out(tmp_path, content()), "val")
    sampler = BatchSampler(3, 3, seed=0, last_step=2)
    batches = list(seeded_loader(data, lambda picture, seed: picture.name, list, sampler, num_workers=2))
    assert [sorted(batch) for batch in batches] == [["a", "b", "c"]] * 2


def test_detections_keep_every_digit(tmp_path):
    third = torch.tensor([1 / 3])
    found: list[Entry] = [
        {"boxes": torch.tensor([[0.1, 0.2, 10.123456, 7.7]]), "scores": third, "labels": torch.tensor([1])},
        {"boxes": np.zeros((0, 4)), "scores": [], "labels": []},
    ]
    path = tmp_path / "found.json"
    path.write_text("before")
    write_detections(path, found, image_ids=(40, 2), category_ids=(17, 18))
    (entry,) = json.loads(path.read_text())
    x1, y1, x2, y2 = found[0]["boxes"][0].double().tolist()
    assert entry == {
        "image_id": 40,
        "category_id": 18,
        "bbox": [x1, y1, x2 - x1, y2 - y1],
        "score": third.double().item(),
    }
    assert [file.name for file in tmp_path.iterdir()] == ["found.json"]


def test_wrong_detections_are_told(tmp_path):
    one: Entry = {"boxes": [[0, 0, 1, 1]], "scores": [0.5], "labels": [0]}
    path = tmp_path / "found.json"
    for found, message in (
        ([one, one], "2 images of detections, 1 image_ids"),
        ([{**one, "scores": []}], r"detections of image 4 must be .*, found boxes \(1, 4\), scores \(0,\)"),
        ([{**one, "labels": [0.7]}], "detections of image 4 need integer labels, found torch.float32"),
        ([{**one, "boxes": [[9, 9, 1, 1]]}], "detections of image 4 must be finite boxes x1 <= x2"),
        ([{"boxes": one["boxes"]}], "detections of image 4 lack scores, labels; found boxes"),
        ([{**one, "scores": [float("inf")]}], "detections of image 4 must be finite boxes .* with finite scores"),
        ([{**one, "labels": [1]}], "detections of image 4: labels 1 to 1, but there are 1 category_ids"),
    ):
        with pytest.raises(ValueError, match=message):
            write_detections(path, found, image_ids=(4,), category_ids=(9,))
    assert not path.exists()
