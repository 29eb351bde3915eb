from typing import Any

import numpy as np
import pytest
import torch
from shapely.geometry import Polygon, box

from headwise.data.annotation import BoxAnnotation, Picture, TextAnnotation, polygon_area, visible_fraction

SQUARE = np.array([[0.0, 0.0], [4.0, 0.0], [4.0, 4.0], [0.0, 4.0]])
HORSESHOE = np.array([[0, 0], [9, 0], [9, 9], [6, 9], [6, 3], [3, 3], [3, 9], [0, 9]], dtype=np.float64)


def test_area_does_not_depend_on_direction():
    assert polygon_area(SQUARE) == 16
    assert polygon_area(SQUARE[::-1]) == 16


def test_half_a_square_is_visible():
    # The picture's right border is at x = 1.5, the outer side of its last pixel.
    assert visible_fraction(SQUARE, 2, 100) == pytest.approx(1.5 / 4)


def test_visible_fraction_of_a_polygon_without_area_is_zero():
    assert visible_fraction(np.array([[1.0, 1.0], [2.0, 1.0], [3.0, 1.0]]), 10, 10) == 0


@pytest.mark.parametrize("offset", [(-4.0, -5.0), (3.0, 2.0), (0.0, 4.0), (-20.0, 0.0), (1.0, 1.0)])
def test_visible_fraction_agrees_with_shapely_for_a_concave_polygon(offset):
    moved = HORSESHOE + np.array(offset)
    expected = Polygon(moved).intersection(box(-0.5, -0.5, 9.5, 7.5)).area / Polygon(moved).area
    assert visible_fraction(moved, 10, 8) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("polygon", "message"),
    [
        (SQUARE[:2], "has 2 points, but a polygon needs at least 3"),
        (np.array([[0.0, 0.0], [np.nan, 1.0], [2.0, 2.0]]), "position 1, but coordinates must be finite"),
        (np.array([[0.0, 0.0], [1.0, 1.0], [np.inf, 2.0]]), "position 2, but coordinates must be finite"),
        (np.zeros((4, 3)), "has shape"),
    ],
)
def test_what_is_no_polygon_is_refused(polygon, message):
    with pytest.raises(ValueError, match=message):
        TextAnnotation((SQUARE, polygon), (False, False), ("good", "bad"))


def test_lengths_must_agree():
    with pytest.raises(ValueError, match="1 polygons, 2 ignored flags"):
        TextAnnotation((SQUARE,), (False, True), ("word",))


def boxes(*rows: Any, dtype: type = np.float32) -> Any:
    return np.array(rows, dtype).reshape(-1, 4)


def test_boxes_are_checked():
    labels, ignored = np.array([0, 3]), np.array([False, True])
    good = BoxAnnotation(boxes([0, 0, 2, 3], [-5, 1, 200, 1.5]), labels, ignored)
    assert len(good) == 2
    assert good.select(np.array([False, True])).labels.tolist() == [3]
    assert good.select(np.array([1, 0])).ignored.tolist() == [True, False]
    for bad in ([4, 0, 4, 9], [0, 5, 4, 3], [0, 0, np.nan, 1], [0, 0, np.inf, 1]):
        with pytest.raises(ValueError, match=r"box 1 is .* Correct or remove it"):
            BoxAnnotation(boxes([0, 0, 2, 3], bad), labels, ignored)
    with pytest.raises(ValueError, match=r"box 0 has the label -1"):
        BoxAnnotation(good.boxes, labels - 1, ignored)


def test_arrays_of_boxes_have_their_shapes_and_dtypes():
    labels, ignored = np.array([0]), np.array([False])
    with pytest.raises(ValueError, match=r"boxes must be \(1, 4\) float32, found \(1, 4\) float64"):
        BoxAnnotation(boxes([0, 0, 2, 3], dtype=np.float64), labels, ignored)
    with pytest.raises(ValueError, match=r"labels must be \(1,\) int64, found \(1, 1\)"):
        BoxAnnotation(boxes([0, 0, 2, 3]), labels[:, None], ignored)
    with pytest.raises(ValueError, match=r"ignored must be \(1,\) bool, found \(0,\)"):
        BoxAnnotation(boxes([0, 0, 2, 3]), labels, ignored[:0])
    assert len(BoxAnnotation(boxes(), labels[:0], ignored[:0])) == 0


@pytest.mark.parametrize("area", [-1.0, np.nan, np.inf])
def test_areas_are_numbers_from_0(area):
    boxes, labels, ignored = np.array([[0, 0, 1, 1]], np.float32), np.zeros(1, np.int64), np.zeros(1, bool)
    with pytest.raises(ValueError, match="areas must be at least 0 and finite, found"):
        BoxAnnotation(boxes, labels, ignored, np.array([area]))


def test_lists_are_no_arrays():
    with pytest.raises(ValueError, match=r"boxes must be an array \(1, 4\) float32, found a list. Convert it"):
        BoxAnnotation([[0, 0, 1, 1]], [0], [False])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"polygon 0 \('a'\) is a list, but a polygon is an array"):
        TextAnnotation((SQUARE.tolist(),), (False,), ("a",))


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (np.zeros((4, 5, 3)), r"must be \(4, 5, 3\) uint8, found \(4, 5, 3\) float64"),
        (np.zeros((4, 5), np.uint8), r"must be \(4, 5, 3\) uint8, found \(4, 5\) uint8"),
        (np.zeros((3, 4, 5), np.uint8), r"must be \(3, 4, 3\) uint8, found \(3, 4, 5\)"),
        (np.zeros((4, 5, 4), np.uint8), r"must be \(4, 5, 3\) uint8, found \(4, 5, 4\)"),
        (torch.zeros(4, 5, 3, dtype=torch.uint8), "found a Tensor"),
        (np.zeros((0, 5, 3), np.uint8), "it has no pixel"),
    ],
)
def test_a_picture_is_bytes_of_three_colors(image, words):
    """Numbers from 0 to 1 were taken for black, and an empty picture was cropped for ever."""
    with pytest.raises(ValueError, match=f"picture 'p' .*{words}"):
        Picture("p", image, TextAnnotation((), (), ()))
