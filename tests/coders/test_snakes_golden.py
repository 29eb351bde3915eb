"""The authors' targets and detections, recorded from princewang1994/TextSnake.pytorch at b4ee996d.

Recorded with NumPy 2.4.6, OpenCV 5.0.0, scikit-image 0.26.0; the decoder with two calls mended for new OpenCV.
"""

from pathlib import Path

import numpy as np
import pytest
import torch

from headwise.coders.snakes import decode_snakes, encode_snakes
from tests.coders.words import iou

GOLDEN = Path(__file__).parents[1] / "golden"
TARGETS = np.load(GOLDEN / "textsnake_targets.npz")
DETECTIONS = np.load(GOLDEN / "textsnake_decode.npz")
ENCODED = {
    "quads": (128, [False] * 3),
    "curved": (192, [False] * 2),
    "ignored": (128, [False, True]),
    "none": (128, []),
    "small": (128, [False] * 2),
    "random0": (192, [False] * 3),
}


@pytest.mark.parametrize("case", ENCODED)
def test_published_targets(case):
    size, ignored = ENCODED[case]
    polygons = [TARGETS[f"{case}/in/poly_{i}"] for i in range(len(ignored))]
    targets = encode_snakes([polygons], [ignored], size=size, as_published=True)
    for name, recorded in {"text_region": "tr_mask", "center_line": "tcl_mask", "valid": "train_mask"}.items():
        packed = TARGETS[f"{case}/out/{recorded}_packed"]
        expected = np.unpackbits(packed)[: size * size].reshape(1, size, size).astype(bool)
        assert np.array_equal(targets[name].numpy(), expected), name
    for name in ("sin", "cos", "radius"):
        plane = np.zeros(size * size, np.float32)
        plane[TARGETS[f"{case}/out/{name}_map_idx"]] = TARGETS[f"{case}/out/{name}_map_val"]
        np.testing.assert_allclose(targets[name].numpy().ravel(), plane, rtol=0, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("case", ["quads", "arc", "none"])
def test_published_detections(case):
    planes = [DETECTIONS[f"{case}/in/{name}"] for name in ("tr", "tcl", "sin", "cos", "radii")]
    background = np.zeros_like(planes[0])
    maps = torch.from_numpy(np.stack([background, planes[0], background, *planes[1:]]))
    found = decode_snakes({"maps": maps[None]})[0]
    num = int(DETECTIONS[f"{case}/out/n"])
    assert len(found["polygons"]) == len(found["disks"]) == len(found["scores"]) == num
    for i in range(num):
        polygon, disks = DETECTIONS[f"{case}/out/poly_{i}"], DETECTIONS[f"{case}/out/disks_{i}"]
        best = max(range(num), key=lambda k: iou(found["polygons"][k], polygon))
        assert iou(found["polygons"][best], polygon) >= 0.99
        assert found["disks"][best].shape == disks.shape
        np.testing.assert_allclose(found["disks"][best].numpy(), disks, rtol=0, atol=1e-4)
