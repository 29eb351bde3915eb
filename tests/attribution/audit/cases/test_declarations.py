# mypy: ignore-errors
"""What the user declares to the audit itself, misspelled, must not pass as a green check."""

import json

import pytest
import torch
from torch import nn

from tests.attribution.audit.cases.said import audit, batches, told
from tests.forked import python

RIGHT = {
    "reads": {"heat": "output[:, 0:2]", "offset": "output[:, 2:]"},
    "weights": {"heat": 1.0, "offset": 1.0},
    "masks": {"output": "all"},
    "frozen": ["1.*"],
}
WRONG = {
    "a loss in reads": {"reads": {"heet": "output[:, 0:2]"}},
    "a loss in weights": {"weights": {"ofset": 2.0}},
    "a pattern in frozen": {"frozen": ["backbone.*"]},
    "one of two patterns in frozen": {"frozen": ["1.*", "backbone.*"]},
    "an output in reads": {"reads": {"heat": "hidden[:, 0:2]"}},
    "an output in masks": {"masks": {"outptu": "all"}},
    "one of two losses in reads": {"reads": {"heat": "output[:, 0:2]", "ofset": "output[:, 2:]"}},
}
ALREADY = {
    "a key of the batch in masks": {"masks": {"output": "al"}},
    "an unknown field": {"read": {"heat": "output"}},
}


def subject(**more):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1))
    return {
        "model": network,
        "batches": batches(lambda: {"input": torch.randn(2, 3, 6, 6), "all": torch.ones(2, 6, 6, dtype=torch.bool)}, 2),
        "criterion": lambda out, batch: {
            "heat": out[:, :2].square().mean(),
            "offset": out[:, 2:].sub(1).square().mean(),
        },
        **more,
    }


def outcome(more):
    """An error that names the key, or a report whose exit code is not 0."""
    key = next(k for k in ("heet", "ofset", "backbone.*", "hidden", "outptu", "read'", "al'") if k in str(more))
    key = key.strip("'")
    try:
        report = audit(**subject(**more))
    except ValueError as error:
        assert key in str(error), error  # noqa: PT017
        return 2
    assert key in str(report)
    return report.exit_code


@pytest.mark.parametrize("what", WRONG)
def test_misspelt(what):
    assert outcome(WRONG[what]) != 0


@pytest.mark.parametrize("what", ["a loss in reads", "a loss in weights", "a pattern in frozen", "an output in masks"])
def test_misspelt_on_the_command_line(what, tmp_path):
    code = (
        "import torch\nfrom torch import nn\ntorch.manual_seed(0)\n"
        "def subject():\n"
        "    data = [{'input': torch.randn(2, 3, 6, 6), 'all': torch.ones(2, 6, 6).bool()} for _ in range(2)]\n"
        "    return dict(model=nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)), batches=data,\n"
        "                criterion=lambda o, b: {'heat': o[:, :2].square().mean(), 'offset': o[:, 2:].sub(1).square().mean()},\n"  # noqa: E501
        f"                **{json.dumps(WRONG[what])})\n"
    )
    (tmp_path / "train.py").write_text(code)
    ran = python(tmp_path, "-m", "headwise", "audit", "train.py:subject")
    assert ran.returncode == 2, (ran.returncode, ran.stdout[-400:], ran.stderr[-400:])


@pytest.mark.parametrize("what", ALREADY)
def test_stays_an_error(what):
    assert outcome(ALREADY[what]) != 0


@pytest.mark.parametrize("what", RIGHT)
def test_stays_silent_on_a_right_declaration(what):
    report = audit(**subject(**{what: RIGHT[what]}))
    assert report.exit_code == 0, told(report)
