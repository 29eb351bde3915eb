"""Files that are nearly right: fields given twice, bytes of another alphabet, other endings, accents and numbers."""

from __future__ import annotations

import json
import shutil
import unicodedata

import numpy as np
import pytest
from PIL import Image

from headwise.data import read_coco, read_instances, read_total_text
from headwise.data.coco import entries, name_splits
from tests.own_data import kit

FILE = "annotations/instances_train2017.json"
LINE = "x: [[10 70 70 10]], y: [[10 10 40 40]], ornt: [u'h'], transcriptions: [u'word']\n"


def says(read) -> str:
    """The refusal of a reader, which must be one."""
    result, error = kit.attempt(read)
    assert result is None, "it was read"
    return str(error)


@pytest.mark.parametrize("library", [True, False], ids=["msgspec", "json"])
@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('"iscrowd": 0', '"iscrowd": 0, "bbox": [0, 0, 9, 9]', "annotation 1: 'bbox' is given twice"),
        ('"id": 11,', '"id": 12, "id": 11,', "image 11: 'id' is given twice"),
        ('"name": "disc"', '"name": "disc", "name": "ring"', "category 7: 'name' is given twice"),
        ('{"images"', '{"annotations": [], "images"', "'annotations' is given twice"),
    ],
)
def test_a_field_that_is_given_twice(tmp_path, monkeypatch, library, old, new, words):
    """The last one would count, in silence: of two files that were put together, half of the boxes."""
    if not library:
        monkeypatch.setattr(entries, "_msgspec", lambda: None)
    data = kit.coco(tmp_path / "data")
    text = (data / FILE).read_text()
    assert old in text
    (data / FILE).write_text(text.replace(old, new, 1))
    message = says(lambda: read_coco(data, "train2017"))
    assert words in message
    assert str(data / FILE) in message


def test_names_that_are_used_again_below_an_entry_are_no_repetition(tmp_path):
    """A control."""

    def more(content, split):
        for one in content["annotations"]:
            one["attributes"] = {"id": 5, "bbox": None}

    assert len(read_coco(kit.coco(tmp_path / "data", change=more), "train2017").annotation(0)) == 3


@pytest.mark.parametrize("field", ["bbox", "area"])
def test_numbers_that_no_float_holds(tmp_path, field):
    def huge(content, split):
        content["annotations"][1][field] = 10**400 if field == "area" else [10**400, 1, 2, 3]

    message = says(lambda: read_coco(kit.coco(tmp_path / "data", change=huge), "train2017"))
    assert f"annotation 2: {'the area' if field == 'area' else 'bbox'} must be" in message


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (b'"disc"', b'"d\xefsc"', "category at position 1: no readable JSON"),
        (b'"p01.jpg"', b'"p\xe91.jpg"', "image at position 1: no readable JSON"),
        (b'"area": ', b'"area": 1' + b"0" * 5000, "annotation at position 0: no readable JSON"),
    ],
    ids=["class", "file name", "digits"],
)
def test_entries_that_are_no_json_are_named_with_the_file(tmp_path, old, new, words):
    data = kit.coco(tmp_path / "data")
    (data / FILE).write_bytes((data / FILE).read_bytes().replace(old, new, 1))
    message = says(lambda: read_coco(data, "train2017"))
    assert message.startswith(f"{data / FILE}: ")
    assert words in message


def test_a_category_without_a_name(tmp_path):
    def nameless(content, split):
        content["categories"][1]["name"] = ""

    assert "category 7: the name" in says(lambda: read_coco(kit.coco(tmp_path, change=nameless), "train2017"))


@pytest.mark.parametrize("copy", [shutil.copyfile, lambda one, other: other.hardlink_to(one)], ids=["copy", "link"])
def test_one_file_under_two_names_is_not_both_splits(tmp_path, copy):
    """The boxes of the training pictures would be put on the held-out ones of the same names."""
    data = kit.coco(tmp_path / "data")
    other = data / "annotations" / "instances_val2017.json"
    other.unlink()
    copy(data / FILE, other)
    message = says(lambda: name_splits(data, None, None))
    assert "one file" in message or "the same file" in message
    assert "--held-out" in message


def test_endings_in_upper_case(tmp_path):
    data = kit.coco(tmp_path / "data")
    for file in (data / "annotations").iterdir():
        file.rename(file.with_suffix(".JSON"))
    assert name_splits(data, None, None) == ("train2017", "val2017")


def apart(path):
    """Spell a file's accents apart, as macOS may."""
    return path.rename(path.with_name(unicodedata.normalize("NFD", path.name)))


def test_accents_of_another_system(tmp_path):
    """Names that look alike are alike, for each reader."""
    word = unicodedata.normalize("NFC", "\u00fcber")
    maps = kit.instances(tmp_path / "maps", ("train",), number=1) / "train"
    for kind in ("pictures", "labels"):
        (maps / kind / "i0.png").rename(maps / kind / f"{word}.png")
    apart(maps / "labels" / f"{word}.png")
    assert len(read_instances(maps)[0].annotation.numbers) > 0

    words = kit.total_text(tmp_path / "words", ("Train",), number=1)
    (words / "Images/Train/img0.jpg").rename(words / f"Images/Train/{word}.jpg")
    truth = words / "Groundtruth/Polygon/Train"
    apart((truth / "poly_gt_img0.txt").rename(truth / f"poly_gt_{word}.txt"))
    assert len(read_total_text(words, "Train")[0].annotation) == 2


@pytest.mark.parametrize("ending", ["webp", "gif", "TIF", "ppm"])
def test_pictures_of_every_usual_format_are_taken_from_folders(tmp_path, ending):
    maps, words = kit.instances(tmp_path / "maps", number=1), kit.total_text(tmp_path / "words", number=1)
    for path in (maps / "train/pictures/i0.png", words / "Images/Train/img0.jpg"):
        with Image.open(path) as picture:
            picture.convert("RGB").save(path.with_suffix(f".{ending}"))
        path.unlink()
    assert read_instances(maps, "train")[0].image.shape == (120, 140, 3)
    assert read_total_text(words, "Train")[0].image.shape == (200, 240, 3)


def test_a_label_of_another_format_is_named(tmp_path):
    labels = kit.instances(tmp_path / "data", number=2) / "train/labels"
    (labels / "i1.png").rename(labels / "i1.npy")
    message = says(lambda: read_instances(tmp_path / "data", "train"))
    assert "i1.npy: save it as PNG" in message


def test_numbers_of_objects_below_0_are_found_with_their_file(tmp_path):
    label = kit.instances(tmp_path / "data", number=1) / "train/labels/i0.png"
    Image.fromarray(np.full((120, 140), -3, np.int32)).save(label, format="TIFF")
    message = says(lambda: read_instances(tmp_path / "data", "train"))
    assert str(label) in message
    assert "found -3" in message


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_words_in_the_encodings_of_editors(tmp_path, encoding):
    data = kit.total_text(tmp_path / "data", ("Train",), number=1)
    (data / "Groundtruth/Polygon/Train/poly_gt_img0.txt").write_bytes(LINE.replace("word", "\u017bid").encode(encoding))
    assert read_total_text(data, "Train")[0].annotation.words == ("\u017bid",)


def test_a_cell_that_holds_no_numbers_names_its_word(tmp_path):
    io = pytest.importorskip("scipy.io")
    data = kit.total_text(tmp_path / "data", ("Train",), number=1)
    truth = data / "Groundtruth/Polygon/Train/poly_gt_img0.txt"
    truth.unlink()
    cells = np.empty((1, 6), object)
    cells[0] = ["x:", "left", "y:", "down", "word", "c"]
    io.savemat(truth.with_suffix(".mat"), {"polygt": cells})
    message = says(lambda: read_total_text(data, "Train"))
    assert f"{truth.with_suffix('.mat')}: word 0 ('word'): x and y are not all numbers" in message


def truth_with(runs, folder, change):
    """The annotation file of a run's pictures, changed, and two of them."""
    pictures = [runs.data("ssd") / "val2017" / f"p0{index}.jpg" for index in (0, 1)]
    content = json.loads((runs.data("ssd") / "annotations/instances_val2017.json").read_text())
    change(content)
    (folder / "truth.json").write_text(json.dumps(content))
    return ["predict", runs["ssd"], *pictures, "--annotations", folder / "truth.json", "--out", folder / "out"]


def each(key, field, value):
    def change(content):
        for one in content[key]:
            one[field] = value(one[field]) if callable(value) else value

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (each("images", "id", str), "image at position 0: the id must be a whole number, found '10'"),
        (each("images", "id", None), "image at position 0: the id must be a whole number, found None"),
        (each("images", "id", float("nan")), "the id must be a whole number, found nan"),
        (each("images", "id", 3), "image 3: the id stands for two entries"),
        (each("categories", "id", str), "category at position 0: the id must be a whole number, found '1'"),
        (each("categories", "id", 3), "category 3: the id stands for two entries"),
        (each("categories", "name", ["square"]), "category 1: the name must be a text"),
        (each("categories", "name", "square"), "another category is called 'square' too"),
        (each("images", "width", 99.0), "99 x 120"),
    ],
)
def test_numbers_of_an_annotation_file_that_no_evaluation_reads(tmp_path, runs, change, words):
    """They would stand in the list of results, or leave it empty, in silence."""
    result = kit.headwise(*truth_with(runs, tmp_path, change))
    assert result.refused, result.said
    assert words in result.err
    assert str(tmp_path / "truth.json") in result.err
    assert not (tmp_path / "out").exists()


def test_numbers_with_a_point_are_whole_in_the_results(tmp_path, runs):
    result = kit.headwise(*truth_with(runs, tmp_path, each("images", "id", float)))
    assert result.code == 0, result.said
    found = json.loads((tmp_path / "out/coco_results.json").read_text())
    assert {repr(one["image_id"]) for one in found} == {"10", "11"}


def test_a_link_that_leads_nowhere_is_told_with_the_other_pictures(tmp_path, runs):
    shutil.copytree(runs.data("ssd") / "val2017", tmp_path / "in")
    (tmp_path / "in/p03.jpg").unlink()
    (tmp_path / "in/p03.jpg").symlink_to(tmp_path / "gone.jpg")
    truth = runs.data("ssd") / "annotations/instances_val2017.json"
    words = ["predict", runs["ssd"], tmp_path / "in", "--annotations", truth, "--out", tmp_path / "out"]
    result = kit.headwise(*words)
    assert result.refused, result.said
    assert "1 of 6 pictures could not be read" in result.err
    assert "p03.jpg" in result.err
    assert len(list((tmp_path / "out").glob("p*.json"))) == 5


def test_less_than_no_picture_is_not_drawn(tmp_path, runs):
    result = kit.headwise("check", runs.data("ssd"), "--recipe", "ssd", "--pictures", -1, "--out", tmp_path / "out")
    assert result.refused, result.said
    assert not (tmp_path / "out").exists()
