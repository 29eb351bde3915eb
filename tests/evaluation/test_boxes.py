import math

import numpy as np
import pytest
import torch

from headwise.data import BoxAnnotation
from headwise.evaluation.boxes import evaluate_boxes
from tests.reference import coco_ap

pytest.importorskip("faster_coco_eval")


def annotate(*objects, areas=None):
    """(x1, y1, x2, y2, label, ignored) each."""
    rows = np.array(objects, np.float64).reshape(-1, 6)
    return BoxAnnotation(rows[:, :4].astype(np.float32), rows[:, 4].astype(np.int64), rows[:, 5].astype(bool), areas)


def find(*detections):
    """(x1, y1, x2, y2, label, score) each."""
    rows = torch.tensor(detections, dtype=torch.float64).reshape(-1, 6)
    return {"boxes": rows[:, :4], "labels": rows[:, 4].long(), "scores": rows[:, 5]}


def drawn(seed, num_images=6, num_classes=3):
    """Objects and detections that hit, miss, double, tie and lie in crowds, of all three sizes."""
    generator = np.random.default_rng(seed)
    found, known = [], []
    for _ in range(num_images):
        objects, detections = [], []
        for _ in range(int(generator.integers(0, 6))):
            x, y = generator.uniform(0, 200, 2)
            width, height = np.exp(generator.uniform(2, 5.3, 2))
            label = int(generator.integers(num_classes))
            objects.append((x, y, x + width, y + height, label, generator.random() < 0.2))
            for _ in range(int(generator.integers(0, 3))):
                shift = generator.normal(0, 0.08, 4) * [width, height, width, height]
                box = np.sort((np.array(objects[-1][:4]) + shift).reshape(2, 2), axis=0).ravel()
                detections.append((*box, label, round(generator.random(), 1)))
        for _ in range(int(generator.integers(0, 3))):
            x, y = generator.uniform(0, 200, 2)
            far = (x + generator.uniform(5, 90), y + generator.uniform(5, 90))
            detections.append((x, y, *far, int(generator.integers(num_classes)), round(generator.random(), 1)))
        known.append(annotate(*objects))
        found.append(find(*detections))
    return found, known


def reference(found, known, num_classes):
    plain = [{key: value.tolist() for key, value in one.items()} for one in found]
    objects = []
    for one in known:
        boxes = one.boxes.astype(np.float64)
        areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]) if one.areas is None else one.areas
        objects.append((boxes.tolist(), one.labels.tolist(), one.ignored.tolist(), areas.tolist()))
    return coco_ap.evaluate(plain, objects, num_classes)


@pytest.mark.parametrize("seed", range(12))
def test_all_numbers_are_those_of_the_rules(seed):
    found, known = drawn(seed)
    numbers, per_class = reference(found, known, 3)
    score = evaluate_boxes(found, known, ("a", "b", "c"))
    assert list(score["coco"]) == list(numbers)
    for name, number in numbers.items():
        assert score["coco"][name] == pytest.approx(number, abs=1e-12, nan_ok=True)
    for name, number in zip("abc", per_class, strict=True):
        assert score["per_class"][name]["ap"] == pytest.approx(number, abs=1e-12, nan_ok=True)


def test_a_hand_computed_case():
    """One of two objects found at IoU 0.81, below a false alarm: precision 1/2 up to recall 1/2, 7 thresholds."""
    known = [annotate((0, 0, 100, 100, 0, 0), (200, 200, 300, 300, 0, 0))]
    found = [find((0, 0, 90, 90, 0, 0.6), (400, 0, 500, 100, 0, 0.9))]
    score = evaluate_boxes(found, known, ["thing"])["coco"]
    assert score["ap50"] == pytest.approx(0.5 * 51 / 101)
    assert score["ap"] == pytest.approx(0.7 * 0.5 * 51 / 101)
    assert score["ar100"] == pytest.approx(0.7 * 0.5)
    assert score["ar1"] == 0
    assert math.isnan(score["ap_small"])


def test_what_lies_in_a_crowd_is_not_judged():
    crowd = (0, 0, 100, 100, 0, 1)
    thing = (200, 0, 250, 50, 0, 0)
    inside = [(10, 10, 30, 30, 0, 0.9), (50, 50, 70, 70, 0, 0.8)]
    hit = (200, 0, 250, 50, 0, 0.5)
    assert evaluate_boxes([find(*inside, hit)], [annotate(crowd, thing)], ["c"])["coco"]["ap"] == 1
    assert evaluate_boxes([find(*inside, hit)], [annotate(thing)], ["c"])["coco"]["ap"] == pytest.approx(1 / 3)


def test_a_false_alarm_on_an_empty_image_counts():
    known = [annotate((0, 0, 50, 50, 0, 0)), annotate()]
    hit, alarm = find((0, 0, 50, 50, 0, 0.5)), find((0, 0, 50, 50, 0, 0.9))
    assert evaluate_boxes([hit, find()], known, ["c"])["coco"]["ap"] == 1
    assert evaluate_boxes([hit, alarm], known, ["c"])["coco"]["ap"] == pytest.approx(0.5)


def test_nothing_found_and_nothing_to_find():
    known = [annotate((0, 0, 50, 50, 1, 0)), annotate()]
    score = evaluate_boxes([find(), find()], known, ["a", "b"])
    assert score["coco"]["ap"] == score["per_class"]["b"]["ap"] == 0
    assert math.isnan(score["per_class"]["a"]["ap"])
    nothing = evaluate_boxes([find(), find((0, 0, 9, 9, 0, 0.5))], [annotate(), annotate()], ["a", "b"])
    assert all(math.isnan(number) for number in nothing["coco"].values())


def test_scores_and_boxes_keep_every_digit():
    """D8: rounded to two decimals, both detections tie and the wrong one goes first."""
    known = [annotate((0, 0, 50, 50, 0, 0))]
    found = [find((100, 0, 150, 50, 0, 0.50001), (0, 0, 50, 50, 0, 0.50002))]
    assert evaluate_boxes(found, known, ["c"])["coco"]["ap"] == 1
    rounded = [{**found[0], "scores": found[0]["scores"].round(decimals=2)}]
    assert evaluate_boxes(rounded, known, ["c"])["coco"]["ap"] == 0.5
    close = [find((0, 0, 50, 25.004, 0, 0.5))]
    assert evaluate_boxes(close, known, ["c"])["coco"]["ap50"] == 1
    assert evaluate_boxes([find((0, 0, 50, 24.996, 0, 0.5))], known, ["c"])["coco"]["ap50"] == 0


def test_sizes_are_those_of_the_objects_where_given():
    box = (0, 0, 40, 40, 0, 0)
    found = [find((0, 0, 40, 40, 0, 0.5))]
    medium = evaluate_boxes(found, [annotate(box)], ["c"])["coco"]
    small = evaluate_boxes(found, [annotate(box, areas=np.array([900.0]))], ["c"])["coco"]
    assert medium["ap_medium"] == small["ap_small"] == 1
    assert math.isnan(medium["ap_small"])
    assert math.isnan(small["ap_medium"])


def test_it_is_silent_and_takes_arrays_and_half_precision(capfd):
    known = [annotate((0, 0, 50, 50, 0, 0))]
    found = [{"boxes": np.array([[0, 0, 50, 50]]), "scores": torch.tensor([0.5]).bfloat16(), "labels": [0]}]
    assert evaluate_boxes(found, known, ["c"])["coco"]["ap"] == 1
    assert capfd.readouterr() == ("", "")


def test_wrong_input_is_told():
    known = [annotate((0, 0, 50, 50, 1, 0))]
    with pytest.raises(ValueError, match="2 images of detections, 1 of annotations"):
        evaluate_boxes([find(), find()], known, ["a", "b"])
    with pytest.raises(ValueError, match="0 images of detections"):
        evaluate_boxes([], [], ["a"])
    with pytest.raises(ValueError, match="annotation of image 0 have labels from 1 to 1, but there are 1"):
        evaluate_boxes([find()], known, ["a"])
    with pytest.raises(ValueError, match="detections of image 0 have labels from 2 to 2"):
        evaluate_boxes([find((0, 0, 1, 1, 2, 0.5))], known, ["a", "b"])
    with pytest.raises(ValueError, match="finite boxes"):
        evaluate_boxes([find((5, 0, 1, 1, 0, 0.5))], known, ["a", "b"])
    with pytest.raises(ValueError, match="finite scores"):
        evaluate_boxes([find((0, 0, 1, 1, 0, math.nan))], known, ["a", "b"])
    with pytest.raises(ValueError, match="two classes have the name 'a'"):
        evaluate_boxes([find()], known, ["a", "a"])


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"scores": [0.5, 0.4]}, r"found boxes \(1, 4\), scores \(2,\), labels \(1,\)"),
        ({"boxes": [[0], [0], [1], [1]]}, r"found boxes \(4, 1\), scores \(1,\)"),
        ({"boxes": [0, 0, 1, 1]}, r"found boxes \(4,\)"),
        ({"scores": [[0.5]]}, r"scores \(1, 1\)"),
        ({"labels": [0.7]}, "need integer labels, found torch.float32"),
        ({"labels": [True]}, "need integer labels, found torch.bool"),
        ({"scores": None}, "lack scores; found boxes, labels"),
    ],
)
def test_detections_of_other_shapes_are_told(changed, words):
    detections = {"boxes": [[0, 0, 1, 1]], "scores": [0.5], "labels": [0]} | changed
    known = [annotate((0, 0, 50, 50, 0, 0))]
    with pytest.raises(ValueError, match=f"detections of image 0 .*{words}"):
        evaluate_boxes([{key: value for key, value in detections.items() if value is not None}], known, ["a"])
