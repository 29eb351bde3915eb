"""The core needs torch alone: it works where every extra is missing, and says which extra is."""

from __future__ import annotations

import subprocess
import sys

import pytest

EXTRAS = (
    "numpy cv2 skimage shapely PIL scipy sklearn matplotlib torchvision lightning_fabric lightning tensorboard rich "
    "yaml torchjd"
)

BLOCK = f"""
import sys
from importlib.machinery import PathFinder

find_spec = PathFinder.find_spec

def without_extras(name, path=None, target=None):
    return None if name.split(".")[0] in {EXTRAS.split()!r} else find_spec(name, path, target)

PathFinder.find_spec = without_extras
import torch
import headwise as hw
"""

USE = """
from headwise import losses
criterion = hw.Criterion([hw.Term("x", losses.smooth_l1, output="x", target="t")])
network = torch.nn.Linear(2, 2)
with hw.Ledger(criterion) as ledger:
    breakdown = criterion({"x": network(torch.ones(3, 2))}, {"t": torch.zeros(3, 2)})
    print(hw.attribution.trace(breakdown, network))
    print(hw.attribution.jacobian(breakdown, network))
    breakdown.total.backward()
    print(ledger.table())
print(hw.presets.textsnake().to_json())
"""


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", BLOCK + code], capture_output=True, text=True, check=False
    )


def test_the_core_works_without_any_extra():
    done = run(USE)
    assert done.returncode == 0, done.stderr
    assert "grad norm" in done.stdout
    assert "text_region" in done.stdout


@pytest.mark.parametrize(
    ("code", "extra"),
    [
        ("hw.networks.textsnake()", "headwise[vision]"),
        ("hw.presets.textsnake().to_yaml()", "headwise[yaml]"),
        ("hw.coders.snakes.encode_snakes([[]], [[]], size=8)", "headwise[coders]"),
        ("from headwise.data import embedded_text; embedded_text('train')[0]", "headwise[data]"),
        ("from headwise.report import write_report; write_report('runs')", "headwise[report]"),
        (
            "from headwise.cli import main; sys.exit(main(['train', 'textsnake', '--demo', '--out', '/no/x']))",
            "headwise[",
        ),
    ],
)
def test_what_is_missing_is_named(code, extra):
    done = run(code)
    assert done.returncode != 0
    assert extra in done.stderr, done.stderr
