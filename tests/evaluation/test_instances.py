import itertools

import numpy as np
import pytest
import torch

from headwise.data import InstanceAnnotation, Picture
from headwise.evaluation.instance_reading import find_instances, held_out_instances
from headwise.evaluation.instances import evaluate_instances, match_by_iou, touching_pairs
from headwise.networks import unet
from headwise.training.ranks import ALONE


def square(*places, size=20):
    """A map with rectangles (top, bottom, left, right), numbered from 1."""
    label = np.zeros((size, size), np.int64)
    for number, (top, bottom, left, right) in enumerate(places, start=1):
        label[top:bottom, left:right] = number
    return label


PAIR = square((2, 8, 2, 8), (2, 8, 8, 14))  # two squares of 36 pixels, side by side


def test_what_is_right_scores_one():
    scores = evaluate_instances([PAIR], [PAIR])
    assert scores["instances"] == {"ap": 1, "precision": 1, "recall": 1, "f": 1}
    assert scores["pixels"] == {"dice": 1}
    assert scores["touching"] == {"separated": 1, "merged": 0, "pairs": 1}


def test_merged_objects_by_hand():
    """One found object over both: its IoU with each is 36 / 72, a match with one of them only."""
    merged = square((2, 8, 2, 14))
    scores = evaluate_instances([merged], [PAIR])
    assert scores["instances"] == {"ap": 1 / 2, "precision": 1, "recall": 1 / 2, "f": 2 / 3}
    assert scores["pixels"]["dice"] == 1
    assert scores["touching"] == {"separated": 0, "merged": 1, "pairs": 1}
    assert evaluate_instances([merged], [PAIR], iou_threshold=0.51)["instances"]["ap"] == 0


def test_split_and_missed_objects_by_hand():
    """The left square in halves (IoU 18 / 36 each, one counts), the right one missed, one found elsewhere."""
    found = square((2, 8, 2, 5), (2, 8, 5, 8), (15, 18, 15, 18))
    scores = evaluate_instances([found], [PAIR])
    assert scores["instances"] == {"ap": 1 / 4, "precision": 1 / 3, "recall": 1 / 2, "f": 2 / 5}
    assert scores["pixels"]["dice"] == pytest.approx(2 * 36 / (45 + 72))
    assert scores["touching"] == {"separated": 0, "merged": 0, "pairs": 1}


def test_pictures_are_counted_together():
    empty = square()
    scores = evaluate_instances([PAIR, empty, PAIR], [PAIR, PAIR, empty])
    assert scores["instances"]["ap"] == 2 / 6
    assert scores["touching"] == {"separated": 1 / 2, "merged": 0, "pairs": 2}


def test_nothing_found_where_nothing_is():
    scores = evaluate_instances([square()], [square()])
    assert (scores["instances"]["ap"], scores["pixels"]["dice"]) == (1, 1)
    assert scores["touching"] == {"separated": 0, "merged": 0, "pairs": 0}
    assert evaluate_instances([], [])["instances"]["ap"] == 1


def test_numbers_and_their_order_do_not_matter():
    found = np.where(PAIR == 1, 70_000, np.where(PAIR == 2, 5, 0))
    assert evaluate_instances([found], [PAIR * 3]) == evaluate_instances([PAIR], [PAIR])


@pytest.mark.parametrize("reach", [1, 2, 3])
def test_touching_pairs_against_all_pixels(reach):
    """The slow way: the least Chebyshev distance between the pixels of two objects."""
    for seed in range(15):
        label = np.random.default_rng(seed).integers(0, 60, (12, 9))
        label[label > 6] = 0
        places = {number: np.argwhere(label == number) for number in np.unique(label) if number}
        wanted = [
            [one, other]
            for one, other in itertools.combinations(sorted(places), 2)
            if np.abs(places[one][:, None] - places[other][None]).max(axis=2).min() <= reach
        ]
        assert touching_pairs(label, reach).tolist() == wanted


def test_matching_against_all_assignments():
    """As many matches as any assignment has: greedy matching by IoU would find one where two are possible."""
    iou = np.array([[0.6, 0.5], [0.55, 0.1]])
    assert match_by_iou(iou, 0.5).tolist() == [True, True]
    for seed in range(30):
        iou = np.random.default_rng(seed).uniform(0, 1, (4, 3))
        best = max(
            sum(iou[row, column] >= 0.5 for column, row in enumerate(rows))
            for rows in itertools.permutations(range(4), 3)
        )
        assert match_by_iou(iou, 0.5).sum() == best


@pytest.mark.parametrize(
    ("found", "known", "options", "words"),
    [
        ([PAIR], [], {}, "1 found maps, 0 annotated"),
        ([PAIR], [PAIR[:5]], {}, r"picture 0 has a found map of \(20, 20\) and an annotated one of \(5, 20\)"),
        ([PAIR * 0.5], [PAIR], {}, "picture 0 is .* float64"),
        ([-PAIR], [PAIR], {}, "integers from 0 on"),
        ([PAIR], [PAIR], {"iou_threshold": 0.0}, "found 0.0 and 2"),
    ],
)
def test_bad_input_is_told(found, known, options, words):
    with pytest.raises(ValueError, match=words):
        evaluate_instances(found, known, **options)


class Bright(torch.nn.Module):
    """A network that knows: what is bright is an object. It stands in for one without padding too."""

    def __init__(self, margin=0):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))
        self.margin = margin

    def fitting(self, size):
        return size + 2 * self.margin + (-size) % 4

    def forward(self, images):
        height, width = images.shape[-2:]
        assert height == self.fitting(height - 2 * self.margin)
        inner = images[:, 0, self.margin : height - self.margin, self.margin : width - self.margin]
        return {"logits": torch.stack([-inner, inner], dim=1) * self.weight}


class Pictures:
    def __init__(self, labels):
        self.labels = labels

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        label = self.labels[index].astype(np.int32)
        image = np.repeat((255 * (label > 0)).astype(np.uint8)[..., None], 3, axis=2)
        return Picture(str(index), image, InstanceAnnotation(label))


@pytest.mark.parametrize("margin", [0, 3])
def test_a_network_that_knows_finds_everything_but_gaps(margin, tmp_path):
    apart = square((2, 8, 2, 8), (2, 8, 11, 17), (11, 17, 2, 9))[:18, :19]
    evaluate = held_out_instances(Pictures([apart, PAIR]))
    scores = evaluate(Bright(margin), tmp_path, ALONE)
    assert scores["num_images"] == 2
    assert scores["instances"] == {"ap": 4 / 5, "precision": 1, "recall": 4 / 5, "f": 8 / 9}
    assert scores["touching"] == {"separated": 0, "merged": 1, "pairs": 1}
    with np.load(tmp_path / "000.npz") as sample:
        assert np.array_equal(sample["instances_annotated"], apart)
        assert np.array_equal(sample["instances_found"] > 0, apart > 0)
        assert sample["map_titles"].tolist() == ["object (probability)", "weight of each pixel in training"]
    assert (tmp_path / "001.png").is_file()


@pytest.mark.parametrize("options", [{"padding": "valid"}, {"auxiliary": 2}])
def test_any_size_is_read_and_the_mode_is_kept(options):
    network = unet(width=2, depth=2, batch_norm=True, **options)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    found = find_instances(network, [np.random.default_rng(0).integers(0, 255, (37, 50, 3), np.uint8)])[0]
    assert found.label.shape == found.probability.shape == (37, 50)
    assert [tuple(level.shape) for level in found.levels] == ([(19, 25), (10, 13)] if "auxiliary" in options else [])
    assert network.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
