from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from headwise.data import load_picture, read_total_text

LINE = "x: [[10 50 50 10]], y: [[10 10 30 30]], ornt: [u'h'], transcriptions: [u'{}']\n"


def cells(words: list[tuple[list[float], list[float], str]]) -> np.ndarray:
    rows = np.empty((len(words), 6), dtype=object)
    for row, (x, y, text) in zip(rows, words, strict=True):
        row[:] = ["x:", np.array([x]), "y:", np.array([y]), np.array([text]), np.array(["c"])]
    return rows


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two pictures, one with a .mat and one with a .txt annotation."""
    images, truth = tmp_path / "Images" / "Train", tmp_path / "Groundtruth" / "Polygon" / "Train"
    images.mkdir(parents=True)
    truth.mkdir(parents=True)
    noise = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    Image.fromarray(noise).save(images / "img1.jpg")
    Image.fromarray(noise).save(images / "img2.jpg")
    words = cells([([1, 9, 9, 1], [2, 2, 8, 8], "PAUL"), ([20, 29, 25], [2, 2, 8], "#")])
    savemat(truth / "poly_gt_img1.mat", {"polygt": words})
    (truth / "poly_gt_img2.txt").write_text(LINE.format("BOB'S") + LINE.format("#"))
    return tmp_path


def txt(folder: Path) -> Path:
    return folder / "Groundtruth" / "Polygon" / "Train" / "poly_gt_img2.txt"


def test_both_formats_are_read(folder):
    data = read_total_text(folder, "train")
    assert len(data) == 2
    first, second = data[0], data[1]
    assert first.name == "img1"
    assert first.image.shape == (60, 80, 3)
    assert first.annotation.words == ("PAUL", "#")
    assert first.annotation.ignored == (False, True)
    assert np.array_equal(first.annotation.polygons[0], [[1, 2], [9, 2], [9, 8], [1, 8]])
    assert np.array_equal(first.annotation.polygons[1], [[20, 2], [29, 2], [25, 8]])
    assert second.annotation.words == ("BOB'S", "#")
    assert np.array_equal(second.annotation.polygons[0], [[10, 10], [50, 10], [50, 30], [10, 30]])


def test_a_split_may_be_a_path(folder):
    assert len(read_total_text(folder, Path("Train"))) == 2


def test_lists_may_run_over_several_lines_and_orientation_may_miss(folder):
    txt(folder).write_text('x: [[10 50\n 50 10]], y: [[10 10\n 30 30]], transcriptions: [u"it\'s"]\n')
    annotation = read_total_text(folder, "Train")[1].annotation
    assert annotation.words == ("it's",)
    assert annotation.polygons[0].shape == (4, 2)


def test_an_empty_annotation_means_no_words(folder):
    txt(folder).write_text("")
    assert len(read_total_text(folder, "Train")[1].annotation) == 0


def test_the_legacy_name_of_the_cells_is_read(folder):
    path = folder / "Groundtruth" / "Polygon" / "Train" / "poly_gt_img1.mat"
    savemat(path, {"gt": cells([([1, 9, 9], [2, 2, 8], "OLD")])})
    assert read_total_text(folder, "Train")[0].annotation.words == ("OLD",)


def refused(folder: Path, error: type[Exception]) -> str:
    with pytest.raises(error) as caught:
        read_total_text(folder, "Train")
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_missing_folder(folder):
    assert "nowhere: no such folder" in refused(folder / "nowhere", FileNotFoundError)


def test_a_missing_images_folder(folder):
    (folder / "Images").rename(folder / "Pictures")
    assert "Images: no such folder" in refused(folder, FileNotFoundError)


def test_a_missing_split(folder):
    with pytest.raises(FileNotFoundError, match="There are: Train"):
        read_total_text(folder, "Test")


def test_missing_annotations(folder):
    (folder / "Groundtruth").rename(folder / "Images" / "Train" / "Groundtruth")
    assert "no folder 'Train' with .mat or .txt" in refused(folder, FileNotFoundError)


def test_an_annotation_that_names_no_picture(folder):
    (folder / "Images" / "Train" / "img2.jpg").unlink()
    message = refused(folder, ValueError)
    assert message.startswith(str(txt(folder)))
    assert "no picture 'img2'" in message


def test_a_picture_without_annotation(folder):
    txt(folder).unlink()
    assert "img2.jpg: the picture has no annotation" in refused(folder, ValueError)


@pytest.mark.parametrize("kept", [0.3, 0.9])
def test_a_truncated_jpeg(folder, kept):
    path = folder / "Images" / "Train" / "img2.jpg"
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])
    message = refused(folder, OSError)
    assert message.startswith(str(path))
    assert "cannot be decoded" in message
    with pytest.raises(OSError, match="cannot be decoded"):
        load_picture(path)


def test_a_file_that_is_no_picture(folder):
    path = folder / "Images" / "Train" / "img2.jpg"
    path.write_text("not a picture")
    assert refused(folder, OSError).count(str(path)) == 1


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("x: [[10 50]], y: [[10 10]], ornt: [u'h'], transcriptions: [u'w']", "has 2 points"),
        ("x: [[10 nan 5]], y: [[10 10 7]], ornt: [u'h'], transcriptions: [u'w']", "must be finite"),
        ("x: [[10 50 30]], y: [[10 10 10]], ornt: [u'h'], transcriptions: [u'w']", "polygon 1 ('w') has no area"),
        ("x: [[10 10 10]], y: [[7 7 7]], ornt: [u'h'], transcriptions: [u'w']", "polygon 1 ('w') has no area"),
        ("x: [[10 50 5]], y: [[10 10]], ornt: [u'h'], transcriptions: [u'w']", "3 x and 2 y"),
        ("x: [[10 ?? 5]], y: [[10 10 7]], ornt: [u'h'], transcriptions: [u'w']", "could not convert"),
        ("x: [[10 50 5]], y: [[10 10 7]], ornt: [u'h'], transcr", "cannot be read"),
        ("10,10,20,20,word", "cannot be read"),
    ],
)
def test_broken_lines_name_the_file(folder, line, message):
    txt(folder).write_text(LINE.format("fine") + line + "\n")
    found = refused(folder, ValueError)
    assert found.startswith(str(txt(folder)))
    assert message in found


def test_an_ignored_word_may_be_a_line(folder):
    txt(folder).write_text("x: [[10 50 30]], y: [[10 10 10]], ornt: [u'#'], transcriptions: [u'#']\n")
    assert read_total_text(folder, "Train")[1].annotation.ignored == (True,)


@pytest.mark.parametrize(("word", "ignored"), [("###", True), ("##", True), ("#1", False), ("", False)])
def test_the_mark_of_other_data_sets_is_ignored_too(folder, word, ignored):
    """It was a word to be found."""
    txt(folder).write_text(f"x: [[10 50 30]], y: [[10 10 30]], ornt: [u'h'], transcriptions: [u'{word}']\n")
    assert read_total_text(folder, "Train")[1].annotation.ignored == (ignored,)


def test_a_truncated_mat_file(folder):
    path = folder / "Groundtruth" / "Polygon" / "Train" / "poly_gt_img1.mat"
    path.write_bytes(path.read_bytes()[:150])
    assert refused(folder, ValueError).startswith(str(path))


def test_two_sets_of_annotations_are_ambiguous(folder):
    other = folder / "Groundtruth" / "Rectangular" / "Train"
    other.mkdir(parents=True)
    (other / "img1.txt").write_text(LINE.format("w"))
    assert len(read_total_text(folder, "Train")) == 2, "the polygons win"
    (folder / "Groundtruth" / "Polygon").rename(folder / "Groundtruth" / "Other")
    assert "several folders" in refused(folder, ValueError)
