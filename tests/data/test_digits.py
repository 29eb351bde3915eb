import numpy as np
import pytest
import torch

from headwise.data.annotation import BoxAnnotation, Picture
from headwise.data.embedded.digits import NUM_TRAIN_DIGITS, embedded_digits, enlarge, read_scans
from headwise.data.embedded.photographs import background


@pytest.fixture(scope="module")
def pictures() -> list[Picture[BoxAnnotation]]:
    data = embedded_digits(num_pictures=80)
    return [data[index] for index in range(60)]


def test_splits_share_no_digit():
    train, held_out = read_scans("train")[0], read_scans("held_out")[0]
    assert len(train) == NUM_TRAIN_DIGITS
    assert len(train) + len(held_out) == 1797
    assert not {scan.tobytes() for scan in train} & {scan.tobytes() for scan in held_out}


def test_a_picture_is_a_function_of_seed_split_and_index(pictures):
    np.random.seed(5)  # noqa: NPY002  the global state must not matter
    torch.manual_seed(5)
    again = embedded_digits(num_pictures=41)[7]
    assert np.array_equal(again.image, pictures[7].image)
    assert np.array_equal(again.annotation.boxes, pictures[7].annotation.boxes)
    assert not np.array_equal(again.image, embedded_digits(seed=1)[7].image)
    assert not np.array_equal(again.image, embedded_digits("held_out")[7].image)


def test_digits_are_varied_and_lie_inside(pictures):
    boxes = np.concatenate([picture.annotation.boxes for picture in pictures])
    labels = np.concatenate([picture.annotation.labels for picture in pictures])
    sides = (boxes[:, 2:] - boxes[:, :2]).max(axis=1)
    assert {len(picture.annotation) for picture in pictures} == {1, 2, 3, 4, 5, 6}
    assert set(labels.tolist()) == set(range(10))
    assert sides.min() >= 20
    assert sides.max() <= 70
    assert (sides < 26).any()
    assert (sides > 60).any()
    assert boxes.min() >= 0
    assert boxes.max() <= 128
    assert not any(picture.annotation.ignored.any() for picture in pictures)
    assert all(picture.image.shape == (128, 128, 3) for picture in pictures)


def test_some_digits_overlap_but_none_is_covered_by_much(pictures):
    shares = []
    for picture in pictures:
        boxes = picture.annotation.boxes.astype(np.float64)
        for one in range(len(boxes)):
            for other in range(one):
                low = np.maximum(boxes[one, :2], boxes[other, :2])
                high = np.minimum(boxes[one, 2:], boxes[other, 2:])
                areas = [np.prod(boxes[k, 2:] - boxes[k, :2]) for k in (one, other)]
                shares.append(float(np.prod((high - low).clip(0)) / min(areas)))
    assert max(shares) <= 0.25
    assert max(shares) > 0.15


def test_boxes_are_tight_around_the_ink():
    """What differs from the bare photograph spans exactly the union of the boxes, edge by edge for one digit."""
    data = embedded_digits(num_pictures=12, num_digits=(1, 1))
    for index in range(12):
        picture = data[index]
        entropy = np.random.SeedSequence((0, 0, index, 1))
        bare = background(np.random.default_rng(entropy), "train", 128)
        changed = np.any(abs(picture.image.astype(int) - bare) > 8, axis=2)
        rows, columns = np.flatnonzero(changed.any(axis=1)), np.flatnonzero(changed.any(axis=0))
        found = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
        assert picture.annotation.boxes[0] == pytest.approx(found, abs=1)


def test_an_enlarged_scan_is_the_scan():
    """Averaged back to 8 x 8, the strokes follow the scan's own ink."""
    import cv2

    scans, _ = read_scans("train")
    correlations = []
    for scan in scans[:100]:
        ink = enlarge(scan, 0.0, 1.0)
        rows, columns = (np.flatnonzero((scan > 0.3).any(axis=axis)) for axis in (1, 0))
        cut = scan[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        small = cv2.resize(ink, cut.shape[::-1], interpolation=cv2.INTER_AREA)
        correlations.append(np.corrcoef(small.ravel(), cut.ravel())[0, 1])
    assert np.median(correlations) > 0.85


def test_larger_pictures_with_smaller_digits():
    data = embedded_digits(num_pictures=5, size=256, min_side=12, max_side=40, num_digits=(8, 8))
    boxes = np.concatenate([data[index].annotation.boxes for index in range(5)])
    sides = (boxes[:, 2:] - boxes[:, :2]).max(axis=1)
    assert len(boxes) == 40
    assert sides.min() >= 12
    assert sides.max() <= 40
    assert boxes.max() > 200


def test_what_coco_calls_them():
    data = embedded_digits(num_pictures=3)
    assert data.class_names == tuple("0123456789")
    assert data.category_ids == tuple(range(1, 11))
    assert data.image_ids == (1, 2, 3)
    assert len({data[index].name for index in range(3)}) == 3


def test_wrong_requests_are_told():
    with pytest.raises(ValueError, match=r"no split 'val'.*train, held_out"):
        embedded_digits("val")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="max_side <= size"):
        embedded_digits(size=64)
    with pytest.raises(ValueError, match="num_digits is at least 1, found 0"):
        embedded_digits(num_digits=(0, 3))
    with pytest.raises(IndexError, match="picture 5 of 5"):
        embedded_digits(num_pictures=5)[5]
