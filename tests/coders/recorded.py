"""Heat maps of the golden files, which hold only what is not 0."""

from __future__ import annotations

from pathlib import Path

import numpy as np

GOLDEN = Path(__file__).parents[1] / "golden"


def load(system):
    return np.load(GOLDEN / f"{system}.npz")


def dense(file, name):
    shape = file[f"{name}_shape"]
    plane = np.zeros(int(shape.prod()), np.float32)
    plane[file[f"{name}_idx"]] = file[f"{name}_val"]
    return plane.reshape(shape)
