"""Other cases of the same kinds, and what the readers say to each other."""

from __future__ import annotations

import json
import shutil
import warnings

import numpy as np
import pytest
from PIL import Image

from headwise.data import load_picture, read_coco, read_instances, read_total_text
from headwise.data.checks.inspection import FEW, inspect
from headwise.data.checks.look_cache import LookCache
from headwise.data.checks.oddities import odd_boxes
from headwise.data.checks.splits import check_splits
from headwise.data.coco import entries, name_splits
from headwise.data.split_names import choose_splits, contradict, role_of
from tests.own_data import kit


@pytest.mark.parametrize("ending", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("orientation", [1, 2, 5, 6, 7, 8])
def test_the_annotated_size_decides_in_every_format(tmp_path, ending, orientation):
    box, (width, height) = kit.turned(tmp_path / f"a.{ending}", orientation)
    shown = load_picture(tmp_path / f"a.{ending}", (height, width))
    assert min(kit.white_inside(shown, box)) > 0.9
    stored = load_picture(tmp_path / f"a.{ending}", (100, 160))
    assert stored.shape == (100, 160, 3)
    if orientation >= 5:
        assert min(kit.white_inside(stored, (20, 10, 60, 30))) > 0.9


def test_pictures_that_nothing_decides_are_warned_of_once_with_a_count(tmp_path):
    data = kit.coco(tmp_path / "data", ("train",), number=5)
    for index in (1, 3):
        path = data / "train" / f"p{index:02d}.jpg"
        exif = Image.Exif()
        exif[0x0112] = 3
        Image.fromarray(kit.pixels(path)).save(path, exif=exif)
    with pytest.warns(UserWarning, match=r"2 of 5 pictures .* EXIF") as told:
        read_coco(data, "train", check_pictures=True)
    assert len(told) == 1


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_does_not_exist_is_none(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", (30, 20)).save(tmp_path / "a.jpg", exif=exif)
    assert load_picture(tmp_path / "a.jpg").shape == (20, 30, 3)


def test_msgspec_changes_nothing(tmp_path, monkeypatch):
    def odd(content, split):
        content["images"][0]["width"] = float(content["images"][0]["width"])
        content["annotations"][0]["area"] = 12
        del content["annotations"][1]["area"]
        content["annotations"][2]["segmentation"] = [[1.5, 2, 3, "x"]]

    data = kit.coco(tmp_path / "data", change=odd)
    with_it = read_coco(data / "annotations/instances_train2017.json").annotation
    found = [with_it(index) for index in range(6)]
    monkeypatch.setattr(entries, "_msgspec", lambda: None)
    path = data / "annotations/instances_train2017.json"
    path.write_text(path.read_text() + " ")
    plain = read_coco(path).annotation
    for index, one in enumerate(found):
        for name in ("boxes", "labels", "ignored", "areas"):
            assert np.array_equal(getattr(one, name), getattr(plain(index), name))


@pytest.mark.parametrize(
    ("names", "listed", "said"),
    [
        ("p {:02d}.jpg", lambda name: name.replace(" ", "%20"), "There is 'p 00.jpg' in"),
        ("p{:02d}.jpg", lambda name: name.upper(), "'p00.jpg' in .*, which differs in upper and lower case"),
        ("p{:02d}.jpg", lambda name: name.removesuffix(".jpg"), "There is 'p00.jpg' in"),
        ("p{:02d}.jpg", lambda name: name.replace(".jpg", ".png "), "There is 'p00.jpg' in"),
        ("p{:02d}.jpg", lambda name: f"q{name}", "Put the pictures into"),
    ],
    ids=["escaped", "upper case", "without ending", "another ending", "nothing near"],
)
@pytest.mark.parametrize("which", ["all", "one"])
def test_pictures_that_are_called_nearly_so(tmp_path, names, listed, said, which):
    def change(content, split):
        for image in content["images"][: 1 if which == "one" else None]:
            image["file_name"] = listed(image["file_name"])

    data = kit.coco(tmp_path, ("train2017",), change=change, names=names)
    wanted = "Add the picture, or remove" if which == "one" and said.startswith("Put") else said
    with pytest.raises(FileNotFoundError, match=wanted):
        read_coco(data, "train2017")


def test_names_of_which_every_second_is_wrong_are_still_looked_for_at_the_right_place(tmp_path):
    def change(content, split):
        first = content["images"][0]
        content["images"] = [{**first, "id": i, "file_name": f"{i}.{'jpg' if i % 2 else 'png'}"} for i in range(2000)]
        content["annotations"] = []

    data = kit.coco(tmp_path, ("train2017",), change=change, number=1)
    for number in range(2000):
        (data / "train2017" / f"{number}.jpg").touch()
    with pytest.raises(FileNotFoundError, match=r"train2017/0.png: no such picture.* And 999 more"):
        read_coco(data, "train2017")


def test_mistakes_of_several_kinds_are_counted_together(tmp_path):
    def spoil(content, split):
        content["annotations"][3]["bbox"][2] = -1
        content["annotations"][5]["category_id"] = 99
        content["annotations"][7]["image_id"] = 99
        content["annotations"][8]["id"] = 1

    data = kit.coco(tmp_path / "data", change=spoil)
    with pytest.raises(
        ValueError, match=r"annotation 4: width .* And 3 more: annotation 1, annotation 6, annotation 8\.$"
    ):
        read_coco(data, "train2017")


@pytest.mark.parametrize(
    ("name", "role"),
    [("train2017", "train"), ("Training", "train"), ("held_out", "val"), ("Validation", "val"), ("val-1", "val"),
     ("test", "test"), ("default", None), ("train_val", None), ("strain", None)],
)  # fmt: skip
def test_roles_of_names(name, role):
    assert role_of(name) == role


def test_splits_are_chosen_or_the_options_are_named(tmp_path):
    assert choose_splits(["test", "train", "valid"], None, None, tmp_path) == ("train", "valid")
    assert choose_splits(["train2014", "train2017", "val2017"], None, None, tmp_path) == ("train2017", "val2017")
    assert choose_splits(["Test", "Train"], None, None, tmp_path) == ("Train", "Test")
    assert choose_splits(["a", "val"], "a", None, tmp_path) == ("a", "val")
    for names in (["train"], ["a", "b"], ["train", "val", "valid"], []):
        with pytest.raises(ValueError, match="--train and --held-out"):
            choose_splits(names, None, None, tmp_path)
    with pytest.raises(ValueError, match="held out both"):
        choose_splits(["a"], "a", "a", tmp_path)
    assert contradict("train2017", "val")
    assert not contradict("train2017", "images")


@pytest.mark.parametrize(
    ("files", "looks"),
    [
        (("data.yaml", "images/train/a.jpg", "labels/train/a.txt"), "YOLO"),
        (("train/images/a.jpg", "train/labels/a.txt"), "YOLO"),
        (("JPEGImages/a.jpg", "Annotations/a.xml"), "Pascal VOC"),
        (("a.jpg", "a.xml"), "Pascal VOC"),
        (("train/pictures/a.png", "train/labels/a.png"), "a folder of label maps"),
        (("train.csv",), "a table"),
        (("a.jpg",), None),
        ((), None),
    ],
)
def test_another_format_is_told_by_its_name(tmp_path, files, looks):
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    with pytest.raises(FileNotFoundError, match=r"neither annotations/\*\.json nor") as told:
        name_splits(tmp_path, None, None)
    assert ("looks like" in str(told.value)) == (looks is not None)
    assert looks is None or f"looks like {looks}: export it as COCO" in str(told.value)


def test_a_place_that_is_no_data_set_is_told(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such folder"):
        name_splits(tmp_path / "nowhere", None, None)
    (tmp_path / "a.jpg").touch()
    with pytest.raises(FileNotFoundError, match="neither a folder nor a JSON file"):
        name_splits(tmp_path / "a.jpg", None, None)


def fiftyone(root):
    for split, old in (("train", "train2017"), ("validation", "val2017")):
        (root / split).mkdir()
        (root / old).rename(root / split / "data")
        (root / f"annotations/instances_{old}.json").rename(root / split / "labels.json")


def label_studio(root):
    for split in ("train2017", "val2017"):
        folder = root / f"{split[:-4]}_export"
        folder.mkdir()
        (root / split).rename(folder / "images")
        content = json.loads((root / f"annotations/instances_{split}.json").read_text())
        for image in content["images"]:
            image["file_name"] = f"../../label-studio/data/media/upload/1/{image['file_name']}"
        (folder / "result.json").write_text(json.dumps(content))
    shutil.rmtree(root / "annotations")


def cvat(root):
    for split, name in (("train2017", "Train"), ("val2017", "Validation")):
        (root / "images").mkdir(exist_ok=True)
        (root / split).rename(root / "images" / name)
        (root / f"annotations/instances_{split}.json").rename(root / f"annotations/instances_{name}.json")


@pytest.mark.parametrize("export", [fiftyone, label_studio, cvat])
def test_what_tools_export_is_found(tmp_path, export):
    data = kit.coco(tmp_path / "data", names="{:02d}.jpg")
    before = {split: kit.pixels(data / split / "00.jpg") for split in ("train2017", "val2017")}
    export(data)
    for split, picture in zip(name_splits(data, None, None), before.values(), strict=True):
        assert np.array_equal(read_coco(data, split)[0].image, picture)


def test_files_are_given_for_both_splits(tmp_path):
    data = kit.coco(tmp_path / "data")
    files = [str(data / f"annotations/instances_{split}.json") for split in ("train2017", "val2017")]
    assert name_splits(None, *files) == tuple(files)
    result = kit.headwise(
        "train",
        "ssd",
        "--train",
        files[0],
        "--held-out",
        files[1],
        "--size",
        "tiny",
        "--steps",
        1,
        "--out",
        tmp_path / "run",
    )
    assert result.code == 0, result.said
    assert len(kit.held_out_images(tmp_path / "run")) == 6
    with pytest.raises(ValueError, match="same file"):
        name_splits(None, files[0], files[0])
    with pytest.raises(ValueError, match="one file cannot be"):
        name_splits(data / "annotations/instances_train2017.json", None, None)


def test_a_split_never_takes_the_pictures_of_the_other(tmp_path):
    """The names lead to a folder that is gone, and the other split has pictures of the same names."""

    def lead(content, split):
        for image in content["images"]:
            image["file_name"] = f"train2017/{image['file_name']}"

    data = kit.coco(tmp_path / "data", change=lead)
    shutil.rmtree(data / "train2017")
    with pytest.raises(FileNotFoundError):
        read_coco(data, "val2017")


def test_shared_pictures_are_warned_of(tmp_path):
    data = kit.coco(tmp_path / "data")
    train = read_coco(data, "train2017")
    shutil.copy(data / "train2017/p02.jpg", data / "val2017/p04.jpg")
    with pytest.warns(UserWarning, match=r"1 of 6 held-out pictures are training pictures too.*p04\.jpg.*p02\.jpg"):
        check_splits(train, read_coco(data, "val2017"))
    for index in range(6):
        shutil.copy(data / f"train2017/p{index:02d}.jpg", data / f"val2017/p{index:02d}.jpg")
    with pytest.warns(UserWarning, match="6 of 6 held-out"):
        check_splits(train, read_coco(data, "val2017"))


def test_a_picture_is_the_same_under_another_name_and_with_other_tags(tmp_path):
    data = kit.coco(tmp_path / "data", names="p{:02d}.png", size=(300, 280))
    exif = Image.Exif()
    exif[0x010E] = "a description"
    Image.fromarray(kit.pixels(data / "train2017/p02.png")).save(data / "val2017/p04.png", exif=exif, compress_level=1)
    with pytest.warns(UserWarning, match=r"1 of 6 held-out pictures are training pictures too.*p04\.png.*p02\.png"):
        check_splits(read_coco(data, "train2017"), read_coco(data, "val2017"))


def test_masks_among_maps_are_counted(tmp_path):
    data = kit.instances(tmp_path / "data", number=4)
    mask = (np.asarray(Image.open(data / "train/labels/i1.png")) > 0).astype(np.uint8) * 255
    Image.fromarray(mask).save(data / "train/labels/i1.png")
    with pytest.warns(UserWarning, match="1 of 4 label maps are masks of 0 and 255"):
        check_splits(read_instances(data, "train"), read_instances(data, "held_out"))


def test_crowds_alone_are_no_objects(tmp_path):
    def crowds(content, split):
        for one in content["annotations"]:
            one["iscrowd"] = 1

    data = kit.coco(tmp_path / "data", change=crowds)
    with pytest.raises(ValueError, match="not one object that is no crowd, of 18 boxes"):
        check_splits(read_coco(data, "train2017"), read_coco(data, "val2017"))


def test_broken_pictures_are_skipped_and_counted_where_that_is_asked_for(tmp_path):
    data = kit.coco(tmp_path / "data")
    for path in (data / "train2017/p01.jpg", data / "val2017/p03.jpg"):
        path.write_bytes(path.read_bytes()[:600])
    result = kit.train("ssd", data, tmp_path / "run", "--set", "broken_pictures=skip", steps=3)
    assert result.code == 0, result.said
    said = "\n".join(result.warning_lines)
    assert "1 of 6 held-out pictures are broken" in said
    assert "1 of 6 training pictures are broken and were skipped" in said
    assert "p01.jpg" in said
    assert "p03.jpg" in said


def test_looks_are_remembered_until_a_file_changes(tmp_path, monkeypatch):
    monkeypatch.setenv("HEADWISE_CACHE", str(tmp_path / "cache"))
    data = kit.coco(tmp_path / "data", ("train",), number=1, size=(32, 24))
    first = data / "train/p00.jpg"
    content = json.loads((data / "annotations/instances_train.json").read_text())
    content["annotations"] = []
    content["images"] = [{"id": i, "file_name": f"p{i:03d}.jpg", "width": 32, "height": 24} for i in range(FEW)]
    for image in content["images"]:
        shutil.copy(first, data / "train" / image["file_name"])
    (data / "annotations/instances_train.json").write_text(json.dumps(content))
    pictures = read_coco(data, "train")
    seen = []
    before = inspect(pictures, lambda done, total: seen.append(done))
    assert seen[0] == 0
    assert seen[-1] == FEW == len(before.usable)
    assert len(LookCache(pictures).read()) == FEW
    (data / "train/p007.jpg").write_bytes(b"")
    seen.clear()
    after = inspect(pictures, lambda done, total: seen.append(done))
    assert seen[0] == FEW - 1
    assert after.usable == [index for index in range(FEW) if index != 7]
    LookCache(pictures)._file.write_text("[1, 2")
    assert LookCache(pictures).read() == {}


@pytest.mark.parametrize("recipe", ["ssd", "weighted_unet", "textsnake"])
def test_the_command_checks_without_training(tmp_path, runs, recipe):
    result = kit.headwise("check", runs.data(recipe), "--recipe", recipe, "--out", tmp_path / "drawn", "--pictures", 2)
    assert result.code == 0, result.said
    assert sorted(path.name for path in (tmp_path / "drawn").glob("*.png")) == [
        "held_out_000.png", "held_out_001.png", "train_000.png", "train_001.png"
    ]  # fmt: skip
    drawn = np.asarray(Image.open(tmp_path / "drawn/train_000.png"))
    assert (drawn != 0).any()


def test_one_file_of_cocos_is_checked_alone(tmp_path):
    """As somebody has it before there is a second one; a folder's recipe still says what it reads."""
    data = kit.coco(tmp_path / "data", number=4)
    file = data / "annotations/instances_train2017.json"
    (data / "train2017/p02.jpg").write_bytes(b"no picture")
    result = kit.headwise("check", file, "--recipe", "ssd", "--out", tmp_path / "drawn", "--pictures", 2)
    assert result.code == 2
    assert "4 pictures" in result.out
    assert "p02.jpg" in result.out
    assert sorted(path.name for path in (tmp_path / "drawn").glob("*.png")) == ["train_000.png", "train_001.png"]
    refused = kit.headwise("check", file, "--recipe", "weighted_unet", "--out", tmp_path / "other")
    assert refused.refused


def test_the_command_tells_what_is_wrong_and_replaces_nothing(tmp_path):
    data = kit.coco(tmp_path / "data", number=15)
    for index in range(12):
        (data / f"train2017/p{index:02d}.jpg").write_bytes(b"no picture")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/train_000.png").write_bytes(b"mine")
    refused = kit.headwise("check", data, "--recipe", "ssd", "--out", tmp_path / "mine")
    assert refused.refused
    assert (tmp_path / "mine/train_000.png").read_bytes() == b"mine"
    result = kit.headwise("check", data, "--recipe", "ssd", "--out", tmp_path / "drawn")
    assert result.code == 2
    assert "p00.jpg" in result.out
    assert "2 more pictures of train2017" in result.out


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_boxes_that_hands_draw_are_no_oddity(share):
    """Boxes that reach a pixel or two over the border, objects of one pixel, one box on the whole picture."""
    from headwise.data import BoxAnnotation

    boxes = np.array([[-1, -1, 161, 121], [0, 0, 1, 1], [20, 30, 60, 90], [100, 5, 161.5, 60]], np.float32) + share
    annotation = BoxAnnotation(boxes, np.zeros(4, np.int64), np.zeros(4, bool))
    many = annotation.select(np.array([0, 2, 3] * 50 + [1]))
    assert odd_boxes(many, np.arange(152), [(120, 160)] * 151) == []


def test_boxes_that_tell_nothing_of_places(tmp_path):
    def everywhere(content, split):
        for one in content["annotations"]:
            one["bbox"] = [0, 0, 160, 120]

    def twice(content, split):
        content["annotations"] += [{**one, "id": one["id"] + 1000} for one in content["annotations"]]

    for name, change, words in (
        ("everywhere", everywhere, "36 of 36 boxes are as large as their picture"),
        ("twice", twice, "36 of 72 boxes are those of another annotation of their picture and class"),
    ):
        data = kit.coco(tmp_path / name, change=change, number=12)
        with pytest.warns(UserWarning, match=words) as told:
            check_splits(read_coco(data, "train2017"), read_coco(data, "val2017"))
        assert len(told) == 2, "once for each split"


def test_two_boxes_at_one_place_of_two_pictures_or_classes_are_no_repetition():
    from headwise.data import BoxAnnotation

    boxes = np.array([[10, 10, 40, 40]] * 40, np.float32)
    annotation = BoxAnnotation(boxes, np.arange(40) % 2, np.zeros(40, bool))
    assert odd_boxes(annotation, np.arange(0, 41, 2), [(120, 160)] * 20) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda label: label + 1, "4 of 4 label maps hold no 0"),
        (lambda label: np.tile(np.pad([[1]], 2), (24, 28)), "are masks of 0 and 1"),
        (lambda label: np.tile(np.pad([[1, 0, 2]], 2), (24, 20)), "the 8 numbers of its 4 label maps lie on"),
    ],
    ids=["no background", "a mask", "classes"],
)
def test_label_maps_that_cannot_be_meant(tmp_path, change, words):
    data = kit.instances(tmp_path, change=lambda label: change(label).astype(np.uint8), size=(140, 120))
    with pytest.warns(UserWarning, match=words):
        check_splits(read_instances(data, "train"), read_instances(data, "held_out"))


def test_outlines_that_cross_themselves(tmp_path):
    data = kit.total_text(tmp_path)
    for path in (data / "Groundtruth/Polygon").rglob("*.txt"):
        path.write_text(kit.word_line([10, 90, 10, 90], [10, 40, 40, 10]))
    with pytest.warns(UserWarning, match="4 of 4 outlines cross themselves"):
        check_splits(read_total_text(data, "Train"), read_total_text(data, "Test"))


def test_words_that_are_listed_twice(tmp_path):
    data = kit.total_text(tmp_path / "words")
    for file in (data / "Groundtruth/Polygon/Train").iterdir():
        file.write_text(file.read_text() * 2)
    with pytest.warns(UserWarning, match="8 of 16 outlines are those of another word of their picture"):
        check_splits(read_total_text(data, "Train"), read_total_text(data, "Test"))


def test_words_and_maps_that_cannot_be_meant(tmp_path):
    data = kit.total_text(tmp_path / "words", word="#")
    with pytest.raises(ValueError, match="all of them ignored"):
        check_splits(read_total_text(data, "Train"), read_total_text(data, "Test"))
    empty = kit.instances(tmp_path / "maps", change=lambda label: label * 0)
    with pytest.raises(ValueError, match="no object in its 4 label maps"):
        check_splits(read_instances(empty, "train"), read_instances(empty, "held_out"))


def test_other_processes_of_a_training_look_at_nothing(tmp_path, monkeypatch):
    data = kit.coco(tmp_path / "data")
    (data / "train2017/p00.jpg").write_bytes(b"")
    monkeypatch.setenv("RANK", "1")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_splits(read_coco(data, "train2017"), read_coco(data, "val2017"))
