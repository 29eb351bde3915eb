"""`headwise run` on unchanged scripts: names, weights, gradients, the same bits, and errors as without it."""

from __future__ import annotations

import os
import runpy
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from headwise.report import write_report
from headwise.runs.reading import read_run
from tests.attribution.run_scripts import BEFORE, booked, ran, under_us
from tests.forked import python

SCRIPTS: dict[str, tuple[str | None, dict[str, float]]] = {
    "gan": (None, {"loss_real": 0.5, "loss_fake": 0.5, "loss_g": 1.0}),
    "in_accelerate": ("accelerate", {"loss_label": 1.0, "loss_place": 5.0, "loss_norm": 0.1}),
    "in_lightning": ("lightning", {"loss_height": 1.0, "loss_slope": 0.5}),
    "in_hf_trainer": ("transformers", {"masked_lm_loss": 1.0, "next_sentence_loss": 1.0}),
    "reference_detection": (
        "torchvision",
        dict.fromkeys(("loss_classifier", "loss_box_reg", "loss_objectness", "loss_rpn_box_reg"), 1.0),
    ),
}

SOME = ("gan", "reference_detection")
"""In `make test`; those of the frameworks, which take many seconds to import, by `make loops`."""


def same_bits(left: Any, right: Any) -> bool:
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same_bits(left[key], right[key]) for key in left)
    return torch.equal(left, right)


@pytest.mark.slow
@pytest.mark.parametrize("name", SCRIPTS if "HEADWISE_LOOPS" in os.environ else SOME)
def test_names_weights_and_the_same_bits(name: str, tmp_path: Path):
    needs, weights = SCRIPTS[name]
    if needs is not None:
        pytest.importorskip(needs)
    script = BEFORE / f"{name}.py"
    every = "1" if name in ("in_accelerate", "reference_detection") else "2"  # they have two steps
    run = under_us(tmp_path / "with", "--every", every, script)
    assert run.returncode == 0, run.stderr[-2000:]
    plain = python(tmp_path / "without", script)
    assert plain.returncode == 0, plain.stderr[-2000:]
    assert same_bits(torch.load(tmp_path / "with" / "weights.pt"), torch.load(tmp_path / "without" / "weights.pt"))
    entries = booked(tmp_path / "with")
    assert len(entries) > 1
    for entry in entries:
        assert {term: round(each["weight"], 5) for term, each in entry["terms"].items()} == weights
        assert all(each["grad_norm"] > 0 for each in entry["terms"].values())
        assert sum(each["share"] for each in entry["terms"].values()) == pytest.approx(1, rel=1e-4)
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
        assert entry["terms"][name]["grad_norm"] == pytest.approx(float(grad.double().norm()), rel=1e-5)
        assert list(entry["terms"][name]["outputs"]) == [name]
        assert entry["terms"][name]["weighted"] == pytest.approx(float(loss.detach()), rel=1e-5)


def test_the_folder_is_a_run_with_a_page(tmp_path: Path):
    pytest.importorskip("matplotlib")
    assert under_us(tmp_path, "--every", "2", BEFORE / "gan.py").returncode == 0
    found = read_run(tmp_path / "run")
    assert found.terms == ["loss_real", "loss_fake", "loss_g"]
    assert found.log.steps == [2, 6, 10]
    assert found.config["arguments"]["script"] == str(BEFORE / "gan.py")
    page = write_report(tmp_path / "run", png=False).read_text()
    assert all(term in page for term in found.terms)
    again = under_us(tmp_path, BEFORE / "gan.py")
    assert again.returncode == 2
    assert "run: something is there already" in again.stderr


SAME_NAMES = """\
import torch
from torch import nn
torch.manual_seed(0)
one, two = nn.Linear(3, 1), nn.Linear(3, 1)
optimizer = torch.optim.SGD([*one.parameters(), *two.parameters()], lr=0.1)
for step in range(4):
    optimizer.zero_grad()
    for part in range(2):
        error = one(torch.randn(4, 3)).square().mean()
        (error / 2).backward()
    error = two(torch.randn(4, 3)).abs().mean()
    error.backward()
    optimizer.step()
"""


def test_places_with_terms_of_one_name_and_several_passes_a_step(tmp_path: Path):
    (tmp_path / "same.py").write_text(SAME_NAMES)
    run = under_us(tmp_path, "--every", "1", "same.py")
    entries = booked(tmp_path)
    assert [entry["step"] for entry in entries] == [1, 2, 3, 4]
    assert all(
        {name: term["weight"] for name, term in entry["terms"].items()} == {"error": 0.5, "error (same.py:12)": 1.0}
        for entry in entries
    )
    assert "8 passes, 8 booked" in run.stdout


SCALED = """\
import torch
from torch import nn
torch.manual_seed(0)
net = nn.Linear(4, 3)
optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
for step in range(6):
    x = torch.randn(6, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = net(x)
    loss_a, loss_b = out[:, 0].float().square().mean(), out[:, 1:].float().abs().mean()
    SCALE
    if step % 2:
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
"""


@pytest.mark.parametrize(
    "line",
    [
        "loss = (loss_a + 0.25 * loss_b) / 2; scaler.scale(loss).backward()",
        "scaler.scale((loss_a + 0.25 * loss_b) / 2).backward()",
    ],
)
def test_a_gradient_scaler_is_divided_out_and_accumulation_is_not(line: str, tmp_path: Path):
    (tmp_path / "scaled.py").write_text(SCALED.replace("SCALE", line))
    assert under_us(tmp_path, "--every", "1", "scaled.py").returncode == 0
    entries = booked(tmp_path)
    assert [entry["step"] for entry in entries] == [1, 2, 3]
    assert all(
        {name: term["weight"] for name, term in entry["terms"].items()} == {"loss_a": 0.5, "loss_b": 0.125}
        for entry in entries
    )


COMPILED = """\
import torch
from torch import nn
torch.manual_seed(0)
net = nn.Linear(4, 3)
optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
@torch.compile(backend="aot_eager")
def losses(x):
    out = net(x)
    return {"loss_a": out[:, 0].square().mean(), "loss_b": out[:, 1:].abs().mean()}
for step in range(2):
    found = losses(torch.randn(6, 4))
    loss = found["loss_a"] + 0.5 * found["loss_b"]
    optimizer.zero_grad(); loss.backward(); optimizer.step()
"""


@pytest.mark.slow
def test_losses_inside_of_a_compiled_part_are_weighed_and_what_is_hidden_is_said(tmp_path: Path):
    (tmp_path / "compiled.py").write_text(COMPILED)
    run = under_us(tmp_path, "compiled.py")
    assert run.returncode == 0, run.stderr
    terms = booked(tmp_path)[0]["terms"]
    assert {name: term["weight"] for name, term in terms.items()} == {"loss_a": 1.0, "loss_b": 0.5}
    assert "note: a compiled part is one node" in run.stdout
    assert "the loss itself is computed in it" in run.stdout


# Torch's workers outlive `destroy_process_group` where DDP has used the group, and at times abort an interpreter that
# takes itself apart under them, with or without us: each process leaves before.
PARALLEL = """\
import atexit, os, sys, torch
import torch.distributed as dist
from torch import nn
dist.init_process_group("gloo")
torch.manual_seed(0)
model = nn.parallel.DistributedDataParallel(nn.Linear(4, 3))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
torch.manual_seed(dist.get_rank())
for step in range(4):
    out = model(torch.randn(6, 4))
    loss_a, loss_b = out[:, 0].square().mean(), out[:, 1:].abs().mean()
    optimizer.zero_grad(); (loss_a + 0.25 * loss_b).backward(); optimizer.step()
torch.save(model.module.state_dict(), f"weights{dist.get_rank()}.pt")
dist.destroy_process_group()

@atexit.register
def leave():
    sys.stdout.flush(); sys.stderr.flush(); os._exit(hasattr(sys, "last_value"))
"""


@pytest.mark.slow
def test_under_torchrun_one_process_writes_and_training_is_the_same(tmp_path: Path):
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    for folder in (tmp_path / "with", tmp_path / "without"):
        folder.mkdir()
        (folder / "parallel.py").write_text(PARALLEL)
    run = ran(tmp_path / "with", *launch, "-m", "headwise", "run", "--out", "run", "--every", "2", "parallel.py")
    plain = ran(tmp_path / "without", *launch, "parallel.py")
    for each in (run, plain):
        assert each.returncode == 0, each.stderr[:4000]  # what a process said; torchrun's account stands at the end
    for rank in range(2):
        left, right = (torch.load(tmp_path / each / f"weights{rank}.pt") for each in ("with", "without"))
        assert same_bits(left, right)
    assert [entry["step"] for entry in booked(tmp_path / "with")] == [1, 3]
    assert run.stdout.count("passes, 2 booked") == 1


FAILING = """\
import sys
def inner():
    raise KeyError("mine")
if __name__ == "__main__":
    print(sys.argv[1:], __file__, *sorted(name for name in globals() if name.startswith("__")))
    if sys.argv[1] == "exit":
        sys.exit(7)
    if sys.argv[1] == "pass":
        import torch
        loss = torch.ones(2, requires_grad=True).square().sum()
        for _ in range(2):
            loss.backward()
    inner()
"""


@pytest.mark.parametrize("how", ["exit", "raise", "pass"])
def test_a_script_that_fails_fails_as_without_us(how: str, tmp_path: Path):
    (tmp_path / "failing.py").write_text(FAILING)
    command = ["failing.py", how, "--lr", "1"]
    run, plain = ran(tmp_path, "-m", "headwise", "run", "--out", "run", *command), ran(tmp_path, *command)
    assert run.returncode == plain.returncode
    assert run.stderr.replace(str(tmp_path) + "/", "") == plain.stderr.replace(str(tmp_path) + "/", "")
    assert run.stdout.splitlines()[0] == plain.stdout.splitlines()[0]
    assert (tmp_path / "run").exists() == (how == "pass")


def test_a_module_runs_too_and_ends_after_its_steps(tmp_path: Path):
    folder = tmp_path / "package"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "train.py").write_text((BEFORE / "three_outputs.py").read_text())
    run = under_us(tmp_path, "--steps", "2", "--every", "1", "-m", "package.train")
    assert run.returncode == 0, run.stderr
    assert len(booked(tmp_path)) == 2
    assert "2 passes, 2 booked; the last of these:" in run.stdout
    shutil.rmtree(tmp_path / "run")
    assert "1 pass, 1 booked:\n" in under_us(tmp_path, "--steps", "1", "-m", "package.train").stdout


def test_the_place_of_a_package_that_is_run_is_its_own_line(tmp_path: Path):
    folder = tmp_path / "site-packages" / "package"
    folder.mkdir(parents=True)
    (folder / "train.py").write_text((BEFORE / "three_outputs.py").read_text())
    run = under_us(folder.parent, "--steps", "1", "-m", "package.train")
    assert "backward in main, train.py:" in run.stdout


def test_a_declared_criterion_is_said_to_be_one_term(tmp_path: Path):
    run = under_us(tmp_path, str(BEFORE.parent / "books_of_three_outputs.py"))
    assert "note: the total of an hw.Criterion is one term here" in run.stdout
    shutil.rmtree(tmp_path / "run")
    assert "hw.Criterion" not in under_us(tmp_path, str(BEFORE / "three_outputs.py")).stdout


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
