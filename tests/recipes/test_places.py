"""Where results go: every picture of a folder, no name twice, nothing of the user's replaced; and COCO's numbers."""

import json

import numpy as np
import pytest

from headwise.recipes import RECIPES
from headwise.recipes.coco_results import ImageIds, write_results
from headwise.recipes.places import INDEX, plan_places

ENDINGS = (".json", ".png")


@pytest.fixture
def shots(tmp_path):
    for name in ("shots/a.jpg", "shots/b.PNG", "shots/deep/a.jpg", "shots/.hidden/c.jpg", "shots/notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    return tmp_path / "shots"


def test_a_folder_keeps_its_folders(shots, tmp_path):
    places = plan_places([shots], tmp_path / "out", ENDINGS)
    assert [place.name for place in places] == ["a", "b", "deep/a"]
    assert places[2].files == ("deep/a.json", "deep/a.png")


def test_a_pattern_and_what_it_does_not_match(shots, tmp_path):
    assert [place.name for place in plan_places([str(shots / "*.jpg")], tmp_path / "out", ENDINGS)] == ["a"]
    with pytest.raises(FileNotFoundError, match="no such picture"):
        plan_places([str(shots / "*.gif")], tmp_path / "out", ENDINGS)


def test_names_are_checked_before_anything_is_written(shots, tmp_path):
    with pytest.raises(ValueError, match="two pictures are called 'a'"):
        plan_places([shots / "a.jpg", shots / "deep" / "a.jpg"], tmp_path / "out", ENDINGS)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.json").write_text("mine")
    with pytest.raises(ValueError, match="is there already"):
        plan_places([shots / "a.jpg"], tmp_path / "out", ENDINGS)
    (tmp_path / "out" / INDEX).write_text(json.dumps({"files": ["a.json", "a.png", INDEX]}))
    assert plan_places([shots / "a.jpg"], tmp_path / "out", ENDINGS), "an earlier result may be replaced"


def test_results_in_the_folder_of_the_pictures_are_no_pictures_the_next_time(shots, tmp_path):
    (shots / "found").mkdir()
    (shots / "found" / "a.png").write_bytes(b"")
    (shots / "found" / INDEX).write_text(json.dumps({"files": ["a.png", INDEX]}))
    assert [place.name for place in plan_places([shots], shots / "found", ENDINGS)] == ["a", "b", "deep/a"]


def test_thousands_of_names_take_linear_time(tmp_path):
    (tmp_path / "in").mkdir()
    for number in range(3000):
        (tmp_path / "in" / f"{number}.jpg").touch()
    assert len(plan_places([tmp_path / "in"], tmp_path / "out", ENDINGS)) == 3000


def annotations(tmp_path, names, categories=("square", "disc")):
    images = [{"id": 40 + number, "file_name": name} for number, name in enumerate(names)]
    rows = [{"id": 5 + number, "name": name} for number, name in enumerate(categories)]
    (tmp_path / "truth.json").write_text(json.dumps({"images": images, "categories": rows, "annotations": []}))
    return tmp_path / "truth.json"


def ids(tmp_path, names, **options):
    configuration = RECIPES["ssd"].configure("tiny", {"class_names": ("disc", "square"), "category_ids": (1, 2)})
    paths = [tmp_path / "x/a.jpg", tmp_path / "y/a.jpg"]
    return paths, ImageIds(paths, annotations(tmp_path, names, **options), configuration)


# Of pictures that are nowhere only the names can be compared, which is told.
BY_NAME = pytest.mark.filterwarnings("ignore:.*by file name alone:UserWarning")


@BY_NAME
@pytest.mark.parametrize(
    "names",
    [("x/a.jpg", "y/a.jpg"), ("x\\a.jpg", "y\\a.jpg"), ("in/x/a.jpg", "./y/a.jpg", "x/a.jpg", "/".join("x" * 99))],
)
def test_the_longest_name_that_fits_decides(tmp_path, names):
    (first, second), found = ids(tmp_path, names)
    expected = {name.replace("\\", "/").removeprefix("./"): 40 + number for number, name in enumerate(names)}
    assert (found.of(first), found.of(second)) == (expected["x/a.jpg"], expected["y/a.jpg"])
    boxes = {"boxes": np.array([[1.0, 2, 4, 6]]), "scores": np.array([0.5]), "labels": np.array([1])}
    (entry,) = found.entries(first, boxes)
    assert entry == {"image_id": expected["x/a.jpg"], "category_id": 5, "bbox": [1.0, 2.0, 3.0, 4.0], "score": 0.5}


@BY_NAME
def test_a_list_of_results_is_one_json(tmp_path):
    (first, second), found = ids(tmp_path, ("x/a.jpg", "y/a.jpg"))
    boxes = {"boxes": np.ones((2, 4)), "scores": np.array([0.5, 0.25]), "labels": np.array([1, 0])}
    nothing = {name: each[:0] for name, each in boxes.items()}
    for given in (((first, boxes), (second, nothing), (second, boxes)), ((first, nothing),), ()):
        write_results(tmp_path / "found.json", [found.lines(*each) for each in given])
        wanted = [entry for each in given for entry in found.entries(*each)]
        assert json.loads((tmp_path / "found.json").read_bytes()) == wanted


@BY_NAME
def test_what_is_not_listed_is_told(tmp_path):
    with pytest.warns(UserWarning, match="1 of 2 pictures"):
        (_, second), found = ids(tmp_path, ("x/a.jpg", "y/b.jpg", "z/a.jpg"))
    assert found.of(second) is None
    with pytest.raises(ValueError, match="2 of 2 pictures"):
        ids(tmp_path, ("x/b.jpg",))
    with pytest.raises(ValueError, match="no category 'square'"):
        ids(tmp_path, ("x/a.jpg", "y/a.jpg"), categories=("disc",))
