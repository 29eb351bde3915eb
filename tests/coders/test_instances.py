import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from headwise.coders.borders import encode_border_weights
from headwise.coders.instances import decode_instances, encode_instances, object_probability, open_gaps


def logits(label, sure=4.0):
    """Outputs that say exactly what a label says."""
    return {"logits": torch.stack([-sure * (2.0 * label - 1), sure * (2.0 * label - 1)], dim=1)}


def two_squares():
    label = torch.zeros(1, 8, 10, dtype=torch.int64)
    label[0, 2:6, 1:5], label[0, 2:6, 5:9] = 1, 2
    return label


def test_the_smaller_number_gives_way_by_hand():
    row = torch.tensor([[0, 1, 1, 1, 2, 2, 2, 0, 5, 5]])
    assert open_gaps(row, 0).tolist() == row.tolist()
    assert open_gaps(row, 1).tolist() == [[0, 1, 1, 0, 2, 2, 2, 0, 5, 5]]
    assert open_gaps(row, 2).tolist() == [[0, 1, 0, 0, 2, 2, 0, 0, 5, 5]]
    corner = torch.tensor([[1, 0], [0, 2]])
    assert open_gaps(corner, 1).tolist() == corner.tolist(), "a corner is no side"
    assert open_gaps(corner, 2).tolist() == [[0, 0], [0, 2]]


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32 - 1), st.integers(1, 3))
def test_after_opening_no_two_objects_share_a_side(seed, gap):
    label = torch.randint(0, 4, (2, 9, 11), generator=torch.Generator().manual_seed(seed))
    opened = open_gaps(label, gap)
    assert (opened[opened > 0] == label[opened > 0]).all()
    for y, x in (opened == 0).logical_and(label > 0).nonzero()[:, 1:].tolist()[:5]:
        near = [
            (y + dy, x + dx) for dy in range(-gap, gap + 1) for dx in range(-gap, gap + 1) if abs(dy) + abs(dx) <= gap
        ]
        values = [label[:, a, b] for a, b in near if 0 <= a < 9 and 0 <= b < 11]
        assert any((value > label[:, y, x]).any() for value in values)
    for one, other in ((opened[:, 1:], opened[:, :-1]), (opened[:, :, 1:], opened[:, :, :-1])):
        assert not ((one > 0) & (other > 0) & (one != other)).any()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.uint32, torch.uint64, torch.int16], ids=str)
def test_objects_are_numbered_in_any_integer(dtype):
    label = torch.tensor([[[1, 1, 2, 2, 0, 3]] * 3])
    for found, wanted in zip(encode_instances(label.to(dtype)).values(), encode_instances(label).values(), strict=True):
        assert torch.equal(found, wanted)
    opened = open_gaps(label.to(dtype))
    assert opened.dtype == dtype
    assert torch.equal(opened.long(), open_gaps(label))


def test_the_line_between_touching_objects_weighs_most():
    label = two_squares()
    targets = encode_instances(label)
    line = (label > 0) & (targets["label"] == 0)
    assert line.sum() == 4
    assert targets["weight_map"][line].min() > targets["weight_map"][~line].max()
    plain = encode_instances(label, w0=0.0)["weight_map"]
    assert plain[line].max() < plain[label > 0].max() * 2
    torch.testing.assert_close(targets["weight_map"], encode_border_weights(open_gaps(label)))
    assert targets["label"].dtype == torch.int64


@pytest.mark.parametrize("gap", [0, 1])
def test_only_a_gap_keeps_touching_objects_apart(gap):
    label = two_squares()
    (found,) = decode_instances(logits(encode_instances(label, gap=gap)["label"]))
    assert len(found["scores"]) == 1 + gap
    assert ((found["label"] > 0) == (label[0] > 0)).all(), "closing gives the line back, and nothing else"


def test_round_trip_over_random_disks():
    yy, xx = np.mgrid[:80, :80]
    for seed in range(20):
        generator = np.random.default_rng(seed)
        label = np.zeros((80, 80), np.int64)
        for number in range(1, 7):
            y, x, radius = *generator.uniform(0, 80, 2), generator.uniform(8, 14)
            label[np.hypot(yy - y, xx - x) < radius] = number
        known = torch.from_numpy(label)[None]
        (found,) = decode_instances(logits(encode_instances(known)["label"]), close=0)
        opened = open_gaps(known)[0]
        for number in found["label"].unique()[1:]:
            assert len(opened[found["label"] == number].unique()) == 1, "no piece has two objects"
        assert ((found["label"] > 0) == (opened > 0)).all()


def test_small_pieces_go_and_scores_are_mean_probabilities():
    label = torch.zeros(1, 6, 6)
    label[0, 0, 0] = label[0, 2:5, 2:5] = 1
    outputs = logits(label)
    outputs["logits"][0, :, 2, 2] = 0.0
    outputs["logits"][0, 1, 2, 2] = 0.2
    (found,) = decode_instances(outputs, min_area=2)
    assert found["label"].max() == 1
    assert found["label"][0, 0] == 0
    sure, unsure = torch.tensor(8.0).sigmoid(), torch.tensor(0.2).sigmoid()
    torch.testing.assert_close(found["scores"], ((8 * sure + unsure) / 9)[None])
    (strict,) = decode_instances(outputs, threshold=0.6, close=0)
    assert strict["label"][2, 2] == 0
    assert len(strict["scores"]) == 2


def test_closing_does_not_eat_the_border_and_never_merges():
    label = torch.ones(1, 5, 5)
    label[0, :, 2] = 0
    (found,) = decode_instances(logits(label))
    assert found["label"][:, [0, 4]].tolist() == [[1, 2]] * 5
    assert (found["label"] > 0).all()


def test_an_empty_picture_has_no_objects():
    (found,) = decode_instances(logits(torch.zeros(1, 4, 4)))
    assert not found["label"].any()
    assert found["scores"].shape == (0,)
    targets = encode_instances(torch.zeros(4, 4, dtype=torch.int64))
    assert not targets["label"].any()


def test_the_first_level_is_read_and_all_classes_but_the_first_are_objects():
    label = torch.zeros(1, 4, 4)
    label[0, 1:3, 1:3] = 1
    fine = logits(label)["logits"]
    wrong = {"levels": [fine, fine.flip(1)]}
    assert decode_instances(wrong)[0]["label"].sum() == 4
    three = torch.cat([fine[:, :1], torch.full_like(fine, -9.0)], dim=1)
    three[:, 1:] += fine[:, 1:] + 9.0
    torch.testing.assert_close(object_probability({"logits": three}), 1 - three.softmax(1)[:, 0])


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: open_gaps(torch.zeros(2, 2, dtype=torch.int64), -1), "gap is at least 0, found -1"),
        (lambda: decode_instances(logits(torch.zeros(1, 2, 2)), threshold=1.0), "threshold is .* found 1.0"),
        (lambda: decode_instances({"maps": torch.zeros(1, 2, 2, 2)}), "found the keys maps"),
        (lambda: decode_instances({"logits": torch.zeros(1, 1, 2, 2)}), r"found \(1, 1, 2, 2\)"),
        (lambda: encode_instances(torch.zeros(2, 2)), "integer map of object numbers"),
    ],
)
def test_bad_input_is_told(call, words):
    with pytest.raises(ValueError, match=words):
        call()
