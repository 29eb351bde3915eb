"""`headwise run` on unchanged scripts: names, weights, gradients, the same bits, and errors as without it."""

from __future__ import annotations

import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from tests.attribution.run_scripts import BEFORE, booked, ran, under_us

SCRIPTS: dict[str, tuple[str | None, dict[str, dict[str, float]]]] = {
    "gan": (None, {"gan.py:21": {"loss_real": 0.5, "loss_fake": 0.5}, "gan.py:26": {"loss_g": 1.0}}),
    "in_accelerate": ("accelerate", {"": {"loss_label": 1.0, "loss_place": 5.0, "loss_norm": 0.1}}),
    "in_lightning": ("lightning", {"": {"loss_height": 1.0, "loss_slope": 0.5}}),
    "in_hf_trainer": ("transformers", {"": {"masked_lm_loss": 1.0, "next_sentence_loss": 1.0}}),
    "reference_detection": (
        "torchvision",
        {"": dict.fromkeys(("loss_classifier", "loss_box_reg", "loss_objectness", "loss_rpn_box_reg"), 1.0)},
    ),
}


def same_bits(left: Any, right: Any) -> bool:
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same_bits(left[key], right[key]) for key in left)
    return torch.equal(left, right)


@pytest.mark.slow
@pytest.mark.parametrize("name", SCRIPTS)
def test_names_weights_and_the_same_bits(name: str, tmp_path: Path):
    needs, sites = SCRIPTS[name]
    if needs is not None:
        pytest.importorskip(needs)
    script = BEFORE / f"{name}.py"
    run = under_us(tmp_path / "with", "--every", "2", script)
    assert run.returncode == 0, run.stderr[-2000:]
    plain = ran(tmp_path / "without", script)
    assert plain.returncode == 0, plain.stderr[-2000:]
    assert same_bits(torch.load(tmp_path / "with" / "weights.pt"), torch.load(tmp_path / "without" / "weights.pt"))
    entries = booked(tmp_path / "with")
    for place, weights in sites.items():
        found = [entry for entry in entries if place in entry["site"]]
        assert found
        for entry in found:
            assert {term: round(each["weight"], 5) for term, each in entry["terms"].items()} == weights
            assert all(each["grad_norm"] > 0 for each in entry["terms"].values())
            assert sum(each["share"] for each in entry["terms"].values()) == pytest.approx(1)
    for weights in sites.values():
        assert all(term in run.stdout for term in weights)


def test_gradients_are_those_of_autograd(tmp_path: Path):
    script = BEFORE / "three_outputs.py"
    assert under_us(tmp_path, script).returncode == 0
    entry = booked(tmp_path)[0]
    parts = runpy.run_path(str(script))
    torch.manual_seed(0)
    network = parts["ThreeOutputs"]()
    image, targets = parts["batch"](0)
    outputs = network(image)
    losses = {
        "label": F.cross_entropy(outputs["label"], targets["label"]),
        "mask": F.binary_cross_entropy_with_logits(outputs["mask"], targets["mask"]),
        "depth": 0.2 * F.l1_loss(outputs["depth"], targets["depth"]),
    }
    assert set(entry["terms"]) == set(losses)
    for name, loss in losses.items():
        (grad,) = torch.autograd.grad(loss, outputs[name], retain_graph=True)
        assert entry["terms"][name]["grad_norm"] == pytest.approx(float(grad.double().norm()), rel=1e-6)
        assert list(entry["terms"][name]["outputs"]) == [name]
        assert entry["terms"][name]["weighted"] == pytest.approx(float(loss.detach()), rel=1e-6)


FAILING = """\
import sys
def inner():
    raise KeyError("mine")
if __name__ == "__main__":
    print(sys.argv[1:], __file__)
    if sys.argv[1] == "exit":
        sys.exit(7)
    inner()
"""


@pytest.mark.parametrize("how", ["exit", "raise"])
def test_a_script_that_fails_fails_as_without_us(how: str, tmp_path: Path):
    (tmp_path / "failing.py").write_text(FAILING)
    run, plain = under_us(tmp_path, "failing.py", how, "--lr", "1"), ran(tmp_path, "failing.py", how, "--lr", "1")
    assert run.returncode == plain.returncode
    assert run.stderr.replace(str(tmp_path) + "/", "") == plain.stderr.replace(str(tmp_path) + "/", "")
    assert run.stdout.splitlines()[0] == plain.stdout.splitlines()[0]
    assert not (tmp_path / "run").exists()


def test_a_module_runs_too_and_ends_after_its_steps(tmp_path: Path):
    folder = tmp_path / "package"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "train.py").write_text((BEFORE / "three_outputs.py").read_text())
    run = under_us(tmp_path, "--steps", "2", "--every", "1", "-m", "package.train")
    assert run.returncode == 0, run.stderr
    assert len(booked(tmp_path)) == 2
    assert "2 passes, 2 booked" in run.stdout


FORGOTTEN = """\
import torch
from torch import nn
torch.manual_seed(0)
net, unused = nn.Linear(3, 2), nn.Linear(3, 1)
optimizer = torch.optim.SGD([*net.parameters(), *unused.parameters()], lr=0.1)
for step in range(3):
    out = net(torch.randn(4, 3))
    loss_a, loss_b = out[:, 0].square().mean(), out[:, 1].abs().mean()
    loss = loss_a + 3 * out[:, 1].square().mean().detach()
    optimizer.zero_grad(); loss.backward(); optimizer.step()
"""


def test_what_the_first_steps_show_is_told(tmp_path: Path):
    (tmp_path / "forgotten.py").write_text(FORGOTTEN)
    text = under_us(tmp_path, "forgotten.py").stdout
    assert "in no number that backward was called on: loss_b" in text
    assert "has no gradient: a constant, or a detached loss" in text
    assert "in an optimizer, without a gradient in the first steps: unused.weight, unused.bias" in text


def test_ctrl_c_shows_the_table_and_ends_as_python_does(tmp_path: Path):
    code = (BEFORE / "three_outputs.py").read_text() + "\nimport time\nprint('now', flush=True)\ntime.sleep(100)\n"
    (tmp_path / "slow.py").write_text(code)
    command = [sys.executable, "-m", "headwise", "run", "--out", "run", "slow.py"]
    process = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    assert process.stdout is not None
    while "now" not in process.stdout.readline():
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert "label" in out
    assert "KeyboardInterrupt" in err
    assert process.returncode == -signal.SIGINT


@pytest.mark.parametrize(
    ("words", "says"), [(["--every", "0", "x.py"], "every"), ([], "no script"), (["no.py"], "no.py")]
)
def test_mistakes_are_told_in_one_line(words: list[str], says: str, tmp_path: Path):
    run = under_us(tmp_path, *words)
    assert run.returncode == 2
    assert says in run.stderr
    assert run.stderr.count("\n") == 1
