import numpy as np
import pytest
import torch

from headwise.runs.samples import Instances, PointPairs, SampleMap, Shapes, box_polygon, box_shapes, save_sample

IMAGE = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)


def read(path):
    with np.load(path, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def test_a_sample_holds_what_was_given(tmp_path):
    triangle = np.array([[0, 0], [4, 0], [0, 3]])
    path = save_sample(
        tmp_path / "samples",
        7,
        IMAGE,
        annotated=Shapes([triangle, box_polygon([1, 2, 3, 4])], ["a", "b"], [False, True]),
        found=box_shapes(torch.tensor([[0.0, 1, 2, 3], [4, 4, 5, 5]]), torch.tensor([1, 0]), ["zero", "one"],
                         scores=torch.tensor([0.9, 0.2]), least_score=0.5),
        maps=[SampleMap("heat", torch.rand(2, 3).half(), torch.ones(2, 3, dtype=torch.bool), (0, 1)),
              SampleMap("offset", np.array([[np.nan, -1.0], [2.0, 0.0]]), colors="RdBu")],
        pairs=[PointPairs("embeddings", torch.tensor([1.0, 2.0]), torch.tensor([1.5, 2.5]), ["x", "y"])],
        instances=Instances(torch.tensor([[0, 1], [2, 2]]), np.zeros((2, 2), np.uint8)),
        outline=np.eye(3) > 0,
        note="The outline is the diagonal.",
    )  # fmt: skip
    assert path == tmp_path / "samples" / "007.npz"
    sample = read(path)
    assert np.array_equal(sample["image"], IMAGE)
    assert sample["annotated_lengths"].tolist() == [3, 4]
    assert sample["annotated_points"][3:].tolist() == [[1, 2], [3, 2], [3, 4], [1, 4]]
    assert sample["annotated_labels"].tolist() == ["a", "b"]
    assert sample["annotated_ignored"].tolist() == [False, True]
    assert np.isnan(sample["annotated_scores"]).all()
    assert sample["found_labels"].tolist() == ["one"], "the box of score 0.2 is left out"
    assert sample["found_scores"].tolist() == pytest.approx([0.9])
    assert sample["map_titles"].tolist() == ["heat", "offset"]
    assert sample["map_colors"].tolist() == ["magma", "RdBu"]
    assert sample["map_spans"].tolist() == [[0, 1], [-1, 2]]
    assert sample["map_0_values"].dtype == np.float16
    assert sample["map_0_target"].tolist() == [[1, 1, 1], [1, 1, 1]]
    assert "map_1_target" not in sample
    assert sample["pairs_names"].tolist() == [["top-left", "bottom-right"]]
    assert sample["pairs_0_second"].tolist() == [1.5, 2.5]
    assert sample["instances_annotated"].tolist() == [[0, 1], [2, 2]]
    assert sample["outline"].tolist() == np.eye(3).astype(bool).tolist()
    assert sample["note"] == "The outline is the diagonal."


def test_the_picture_lies_beside_it(tmp_path):
    from PIL import Image

    save_sample(tmp_path, 0, IMAGE)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["000.npz", "000.png"]
    assert np.array_equal(np.asarray(Image.open(tmp_path / "000.png")), IMAGE)
    assert set(read(tmp_path / "000.npz")) == {"image"}


def test_nothing_annotated_and_nothing_found(tmp_path):
    empty = box_shapes(np.zeros((0, 4)), np.zeros(0, np.int64), ["a"], scores=np.zeros(0))
    sample = read(save_sample(tmp_path, 0, IMAGE, annotated=Shapes(), found=empty, pairs=[PointPairs("e", [], [])]))
    assert sample["annotated_points"].shape == sample["found_points"].shape == (0, 2)
    assert sample["pairs_0_first"].shape == (0,)


@pytest.mark.parametrize(
    ("values", "span"),
    [
        (np.full((2, 2), 3.0), [3, 4]),
        (np.full((2, 2), np.nan), [0, 1]),
        (np.array([[np.inf, 1.0], [2, -np.inf]]), [1, 2]),
    ],
)
def test_a_span_is_never_empty(tmp_path, values, span):
    assert read(save_sample(tmp_path, 0, IMAGE, maps=[SampleMap("m", values)]))["map_spans"].tolist() == [span]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"annotated": Shapes([np.zeros((3, 3))])}, "annotated polygon 0 must be"),
        ({"found": Shapes([np.zeros((3, 2))], scores=[0.1, 0.2])}, "2 found scores for 1 polygons"),
        ({"maps": [SampleMap("m", np.zeros((1, 2, 2)))]}, r"map 'm' must be \(h, w\)"),
        ({"maps": [SampleMap("m", np.zeros((2, 2)), colors="jet")]}, "choose one of magma"),  # type: ignore[arg-type]
        ({"pairs": [PointPairs("e", [1.0], [1.0, 2.0])]}, "pairs 'e' must be"),
        ({"instances": Instances(np.zeros((0, 2)), np.zeros((2, 2)))}, "instances.annotated"),
        ({"outline": np.zeros(3)}, "outline must be"),
        ({"maps": [SampleMap("m", np.zeros((2, 2)), span=(1, 0))]}, r"map 'm' has span \(1, 0\)"),
        ({"maps": [SampleMap("m", np.zeros((2, 2)), span=(0, np.nan))]}, "give a finite low and a larger high"),
        ({"annotated": {"boxes": np.zeros((1, 4))}}, r"sample 3: annotated are given as Shapes .* found dict"),
        ({"maps": [np.zeros((2, 2))]}, "maps are given as SampleMap .* found ndarray"),
        ({"pairs": [([1.0], [2.0])]}, "pairs are given as PointPairs .* found tuple"),
        ({"instances": (np.zeros((2, 2)), np.zeros((2, 2)))}, "instances are given as Instances .* found tuple"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(tmp_path, given, message):
    with pytest.raises(ValueError, match=message):
        save_sample(tmp_path / "samples", 3, IMAGE, **given)
    assert not (tmp_path / "samples").exists()


@pytest.mark.parametrize("image", [IMAGE[..., 0], IMAGE.astype(np.float32), IMAGE[..., :2], IMAGE[:0]])
def test_a_picture_is_three_bytes_a_pixel(tmp_path, image):
    with pytest.raises(ValueError, match=r"sample 0: image must be \(H, W, 3\) uint8"):
        save_sample(tmp_path, 0, image)
