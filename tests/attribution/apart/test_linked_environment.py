"""Names of losses where the library is reached through a link, as environments on clusters often are."""

import os
import subprocess
import sys
from pathlib import Path

import headwise

_SCRIPT = """
import torch
from headwise.attribution import take_apart

class Model(torch.nn.Module):
    def forward(self, x):
        label_loss = x.square().mean()
        box_loss = (x - 3).abs().mean()
        total = label_loss + 0.5 * box_loss
        print(sorted(take_apart(total).summands))
        return total

Model()(torch.ones(4, requires_grad=True))
"""


def test_frames_of_the_library_are_known_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(Path(headwise.__file__).parents[1])
    run = subprocess.run(
        [sys.executable, "-c", _SCRIPT], env={**os.environ, "PYTHONPATH": str(tmp_path / "link")},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.stdout == "['box_loss', 'label_loss']\n", run.stderr
