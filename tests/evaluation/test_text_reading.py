import numpy as np
import pytest
import torch
from torch import Tensor, nn

from headwise.coders.snakes import encode_snakes
from headwise.data import Picture, embedded_text
from headwise.evaluation.text_reading import held_out_text, read_text
from headwise.training.ranks import ALONE


class Oracle(nn.Module):
    """A network that knows the answers: the targets of one picture after the other, as confident logits."""

    def __init__(self, pictures: list[Picture], factor: float) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))
        self.pictures = list(pictures)
        self.factor = factor
        self.seen: list[tuple[int, ...]] = []

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        assert not self.training
        self.seen.append(tuple(image.shape))
        annotation = self.pictures.pop(0).annotation
        polygons = [(polygon + 0.5) * self.factor - 0.5 for polygon in annotation.polygons]
        # What is ignored is left out: an oracle of the measure, not of the targets.
        kept = [p for p, ignored in zip(polygons, annotation.ignored, strict=True) if not ignored]
        targets = encode_snakes([kept], [[False] * len(kept)], size=(image.shape[2], image.shape[3]))
        region, line = (12.0 * (targets[name].float() - 0.5) for name in ("text_region", "center_line"))
        maps = [-region, region, -line, line, targets["sin"], targets["cos"], targets["radius"]]
        return {"maps": torch.stack(maps, dim=1)}


@pytest.mark.parametrize("factor", [1, 2])
def test_an_oracle_scores_almost_full_marks_at_any_size(factor):
    data = embedded_text("held_out", num_pictures=8)
    oracle = Oracle([data[index] for index in range(8)], factor)
    scores = held_out_text(data, size=256 * factor)(oracle, None, ALONE)
    assert scores["iou50"]["f"] >= 0.97
    assert scores["num_images"] == 8
    assert oracle.seen[0] == (1, 3, 256 * factor, 256 * factor)
    assert oracle.training, "the mode is restored"


def test_outlines_are_on_the_scale_of_the_picture():
    square = np.array([[20.0, 20.0], [100.0, 20.0], [100.0, 50.0], [20.0, 50.0]])
    picture = embedded_text("held_out")[0]
    annotation = type(picture.annotation)((square,), (False,), ("w",))
    image = np.zeros((80, 160, 3), np.uint8)
    oracle = Oracle([Picture("p", image, annotation)], 2)
    reading = read_text(oracle, [image], size=320, decode={"within_region": True})[0]
    assert reading.scale == (2.0, 2.0)
    assert reading.maps.shape == (7, 160, 320)
    low, high = reading.polygons[0].min(0).values, reading.polygons[0].max(0).values
    assert torch.allclose(low, torch.tensor([20.0, 20.0]), atol=8)
    assert torch.allclose(high, torch.tensor([100.0, 50.0]), atol=8)
    # The walk ends short of both ends alike, and the mapping is exact: the middle stays where it is.
    assert torch.allclose((low + high) / 2, torch.tensor([60.0, 35.0]), atol=0.8)


def test_samples_hold_what_reports_show(tmp_path):
    data = embedded_text("held_out", num_pictures=3, size=128)
    oracle = Oracle([data[index] for index in range(3)], 1)
    held_out_text(data, size=128, num_samples=2)(oracle, tmp_path, ALONE)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["000.npz", "000.png", "001.npz", "001.png"]
    sample = np.load(tmp_path / "000.npz", allow_pickle=False)
    assert np.array_equal(sample["image"], data[0].image)
    outlines = np.concatenate(data[0].annotation.polygons) + 0.5
    assert np.allclose(sample["annotated_points"], outlines, atol=1e-4), "moved from pixel centers to pixel edges"
    assert sample["annotated_lengths"].tolist() == [len(polygon) for polygon in data[0].annotation.polygons]
    assert sample["annotated_labels"].tolist() == list(data[0].annotation.words)
    assert sample["found_points"].shape == (sample["found_lengths"].sum(), 2)
    titles = ["text region (probability)", "center line (probability)"]
    assert sample["map_titles"].tolist()[:2] == titles
    for index, name in enumerate(["text_region", "center_line", "sin", "cos", "radius"]):
        values, target = sample[f"map_{index}_values"], sample[f"map_{index}_target"]
        assert values.shape == target.shape == (128, 128), name
        counted = target > 0  # the oracle does not draw what is ignored, targets and maps agree on the rest
        assert np.abs(values[counted].astype(float) - target[counted]).mean() < 0.2, name
    assert np.array_equal(sample["outline"], sample["map_0_target"] > 0)
