import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from headwise.evaluation.text import evaluate_text


def box(left, top, right, bottom):
    return np.array([[left, top], [right, top], [right, bottom], [left, bottom]], float)


def found(*polygons, scores=None):
    return {"polygons": list(polygons), "scores": scores or [0.9 - 0.01 * i for i in range(len(polygons))]}


def known(*polygons, ignored=()):
    return {"polygons": [*polygons, *ignored], "ignored": [False] * len(polygons) + [True] * len(ignored)}


def evaluate(detection, annotation, **options):
    return evaluate_text([detection], [annotation], **options)


def values(score):
    return score["precision"], score["recall"], score["f"]


WORD = box(0, 0, 10, 10)
NEXT = box(20, 0, 30, 10)


def test_perfect():
    scores = evaluate(found(WORD, NEXT), known(NEXT, WORD), as_published=True)
    assert set(scores) == {"iou50", "deteval", "deteval_published"}
    assert values(scores["iou50"]) == values(scores["deteval"]) == (1, 1, 1)


def test_counts_are_pooled_over_images_by_hand():
    # Image 1: 1 of 2 words, one false detection; image 2: nothing found of 1; image 3: empty.
    scores = evaluate_text(
        [found(WORD, box(50, 50, 60, 60)), found(), found()], [known(WORD, NEXT), known(WORD), known()]
    )
    for name in ("iou50", "deteval"):
        assert values(scores[name]) == pytest.approx((1 / 2, 1 / 3, 0.4))


@pytest.mark.parametrize("detections", [[found()], [found(WORD)]])
def test_nothing_is_zero(detections):
    scores = evaluate_text(detections, [known()])
    assert values(scores["iou50"]) == values(scores["deteval"]) == (0, 0, 0)


@pytest.mark.parametrize(("right", "matched"), [(20, 1), (20.1, 0), (5, 1), (4.9, 0)])
def test_iou_of_one_half_counts(right, matched):
    assert evaluate(found(box(0, 0, right, 10)), known(WORD))["iou50"]["recall"] == matched


def test_iou_matches_one_to_one_best_score_first():
    # Both overlap WORD by more than 0.5; the better score takes it, the other finds nothing.
    twice = found(box(0, 0, 10, 6), WORD, scores=[0.9, 0.8])
    assert values(evaluate(twice, known(WORD))["iou50"]) == pytest.approx((1 / 2, 1, 2 / 3))
    # The first (score 0.9) takes its best, the right-hand word; the second is left with the other.
    left, right = box(0, 0, 10, 10), box(0, 2, 10, 12)
    both = found(right, box(0, 0, 10, 11), scores=[0.9, 0.8])
    assert evaluate(both, known(left, right))["iou50"]["recall"] == 1


@pytest.mark.parametrize(("bottom", "recall"), [(8, 0), (8.1, 1)])
def test_deteval_recall_threshold_is_strict(bottom, recall):
    assert evaluate(found(box(0, 0, 10, bottom)), known(WORD))["deteval"]["recall"] == recall


@pytest.mark.parametrize(("bottom", "recall"), [(24, 1), (25, 0)])
def test_deteval_precision_threshold_is_strict(bottom, recall):
    assert evaluate(found(box(0, 0, 10, bottom)), known(WORD))["deteval"]["recall"] == recall


def test_deteval_split_word_counts_four_fifths():
    parts = found(box(0, 0, 5, 10), box(5, 0, 10, 10))
    scores = evaluate(parts, known(WORD, NEXT))
    assert values(scores["deteval"]) == pytest.approx((0.8, 0.4, 2 * 0.8 * 0.4 / 1.2))
    assert evaluate(found(box(0, 0, 3, 10), box(5, 0, 7, 10)), known(WORD))["deteval"]["f"] == 0


def test_deteval_merged_words_count_four_fifths():
    scores = evaluate(found(box(0, 0, 30, 10)), known(WORD, NEXT))
    assert values(scores["deteval"]) == pytest.approx((0.8, 0.8, 0.8))


def test_t14_merging_is_tested_with_the_recall_threshold():
    # The detection covers 50 % of each word: above tp = 0.4, below tr = 0.8.
    half = found(box(0, 0, 30, 5))
    scores = evaluate(half, known(WORD, NEXT), as_published=True)
    assert scores["deteval"]["recall"] == 0
    whole = found(np.array([[0, 0], [30, 0], [30, 5], [0, 5], [0, 5]], float))
    assert evaluate(whole, known(WORD, NEXT), as_published=True)["deteval_published"]["recall"] == 0.8


def test_t14_the_last_vertex_counts():
    # A square scored as a triangle covers half of the word.
    scores = evaluate(found(WORD), known(WORD), as_published=True)
    assert values(scores["deteval"]) == (1, 1, 1)
    assert values(scores["deteval_published"]) == (0, 0, 0)


def test_published_singles_may_count_one_detection_twice():
    closed = [np.concatenate([polygon, polygon[:1]]) for polygon in (box(0, 0, 21, 10),)]
    words = known(box(0, 0, 10.5, 10), box(10.5, 0, 21, 10))
    scores = evaluate(found(*closed), words, as_published=True)
    assert scores["deteval_published"]["precision"] == 2
    assert scores["deteval"]["precision"] == pytest.approx(0.8)


@pytest.mark.parametrize(("left", "judged"), [(5, True), (4, False)])
def test_detections_in_ignored_regions_are_left_out(left, judged):
    # 50 % or 60 % of the detection lie in the ignored region.
    region = box(left, 0, 40, 10)
    scores = evaluate(found(WORD, box(60, 0, 70, 10)), known(box(60, 0, 70, 10), ignored=[region]))
    expected = (0.5, 1, 2 / 3) if judged else (1, 1, 1)
    assert values(scores["iou50"]) == pytest.approx(expected)
    assert values(scores["deteval"]) == pytest.approx(expected)


def test_invalid_polygons_are_made_valid():
    bow_tie = np.array([[0, 0], [10, 10], [10, 0], [0, 10]], float)
    scores = evaluate(found(bow_tie), known(bow_tie))
    assert values(scores["iou50"]) == (1, 1, 1)
    line = np.array([[0, 0], [10, 0], [5, 0]], float)
    assert values(evaluate(found(line), known(WORD))["deteval"]) == (0, 0, 0)


def test_tensors_are_accepted():
    detection = {"polygons": [torch.from_numpy(WORD).float()], "scores": torch.tensor([0.5])}
    assert evaluate(detection, known(WORD))["iou50"]["f"] == 1


boxes = st.builds(
    lambda x, y, width, height: box(x, y, x + width, y + height),
    *[st.integers(0, 30)] * 2,
    *[st.integers(4, 20)] * 2,
)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(detected=st.lists(boxes, max_size=6), annotated=st.lists(boxes, max_size=6), ignored=st.lists(boxes, max_size=2))
def test_shares_stay_shares(detected, annotated, ignored):
    scores = evaluate(found(*detected), known(*annotated, ignored=ignored))
    for score in scores.values():
        assert all(0 <= value <= 1 for value in values(score))
    matched = scores["iou50"]["recall"] * len(annotated)
    assert matched == pytest.approx(round(matched))


@settings(max_examples=30, deadline=None, derandomize=True)
@given(annotated=st.lists(boxes, min_size=1, max_size=5))
def test_reading_off_the_annotation_is_perfect_for_iou(annotated):
    assert evaluate(found(*annotated), known(*annotated))["iou50"]["f"] == pytest.approx(1)


@pytest.mark.parametrize(
    ("detections", "annotations", "options", "message"),
    [
        ([found()], [], {}, "1 images of detections, 0 of annotations. Give one entry per image in both"),
        ([found()], [known()], {"iou_threshold": 0}, r"thresholds must be in \(0, 1\], found \(0, 0.8, 0.4\)"),
        ([{"polygons": [WORD], "scores": []}], [known()], {}, "detections of image 0 hold 1 polygons and 0 scores"),
        ([found()], [{"polygons": [], "ignored": [True]}], {}, "annotations of image 0 hold 0 polygons and 1 ignored"),
        ([{"polygons": [WORD]}], [known()], {}, "detections of image 0 lack scores; found polygons"),
        ([found(WORD, scores=[np.nan])], [known()], {}, "detections of image 0 have a score that is not finite"),
        ([found()], [{"polygons": [WORD], "ignored": ["no"]}], {}, "ignored by true or false, found <U2"),
        ([found()], [{"polygons": [WORD], "ignored": [0]}], {}, "ignored by true or false, found int64"),
        ([found(WORD[:2])], [known()], {}, r"polygon 0, detection of image 0, must be \(v, 2\) .* shape \(2, 2\)"),
        ([found()], [known(WORD * np.nan)], {}, "polygon 0, annotation of image 0, must be .* Remove or mend"),
    ],
)
def test_bad_input(detections, annotations, options, message):
    with pytest.raises(ValueError, match=message):
        evaluate_text(detections, annotations, **options)
