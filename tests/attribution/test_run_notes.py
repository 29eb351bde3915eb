"""What `headwise run` says of scripts with and without a fault, without a second run; each in this process."""

from __future__ import annotations

from pathlib import Path

import pytest

from headwise.attribution.run.script import ScriptBooks

HEAD = """\
import torch
import torch.nn.functional as F
from torch import nn
torch.manual_seed(0)
"""

FAULTY = {
    "a key with a default": (
        """
net = nn.Linear(4, 3)
optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
for step in range(3):
    x = torch.randn(8, 4)
    out = net(x)
    losses = {"loss_cls": F.cross_entropy(out, x.argmax(1) % 3), "loss_box": (out - x[:, :3]).abs().mean()}
    loss = losses["loss_cls"] + losses.get("loss_bbox", 0)
    optimizer.zero_grad(); loss.backward(); optimizer.step()
""",
        "in no number that backward was called on: loss_box",
    ),
    "added in a loop and again": (
        """
net = nn.Linear(4, 3)
optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
for step in range(3):
    x = torch.randn(8, 4)
    out = net(x)
    loss_cls, loss_box = F.cross_entropy(out, x.argmax(1) % 3), (out - x[:, :3]).abs().mean()
    loss = 0
    for each in (loss_cls, loss_box):
        loss = loss + each
    loss = (loss + loss_box) / 2
    optimizer.zero_grad(); loss.backward(); optimizer.step()
""",
        "loss_box: the number adds it 2 times",
    ),
    "a mask of another dtype": (
        """
net = nn.Linear(4, 3)
optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
for step in range(3):
    x = torch.randn(8, 4)
    out = net(x)
    mask = (x[:, :3] > 0).eq(2)
    loss_pos = ((out - 1).square() * mask).sum() / mask.sum().clamp(min=1)
    loss_all = out.square().mean()
    optimizer.zero_grad(); (loss_pos + loss_all).backward(); optimizer.step()
""",
        "loss_pos: its gradient is 0 at every output that it reads, in all 3 booked passes",
    ),
    "a root of zero": (
        """
net = nn.Linear(4, 3)
optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
for step in range(1):
    out = net(torch.randn(8, 4))
    loss_far = (out - out.detach()).square().sum(1).sqrt().mean()
    loss_all = out.square().mean()
    optimizer.zero_grad(); (loss_far + loss_all).backward()
""",
        "loss_far: the value or the gradient is not finite",
    ),
    "a loss that left the graph": (
        """
net = nn.Linear(4, 3)
optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
for step in range(2):
    out = net(torch.randn(8, 4))
    loss_all, loss_iou = out.square().mean(), torch.tensor(1 - out.sigmoid().mean().item())
    optimizer.zero_grad(); (loss_all + loss_iou).backward(); optimizer.step()
""",
        "has no gradient: a constant, or a detached loss",
    ),
    "a head that nothing trains": (
        """
net, spare = nn.Linear(4, 3), nn.Linear(4, 1)
optimizer = torch.optim.SGD([*net.parameters(), *spare.parameters()], lr=0.1)
for step in range(2):
    x = torch.randn(8, 4)
    out, height = net(x), spare(x)
    loss = out.square().mean()
    optimizer.zero_grad(); loss.backward(); optimizer.step()
""",
        "in an optimizer, without a gradient in the first steps: spare.weight, spare.bias",
    ),
}

HEALTHY = {
    "a dict with metrics that have a graph": """
net = nn.Linear(4, 3)
optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
for step in range(3):
    x = torch.randn(8, 4)
    out = net(x)
    found = {"loss_cls": F.cross_entropy(out, x.argmax(1) % 3), "loss_box": (out - x[:, :3]).abs().mean()}
    found |= {"acc": out.sigmoid().mean(), "mae": (out - 1).abs().mean()}
    loss = sum(value for key, value in found.items() if "loss" in key)
    optimizer.zero_grad(); loss.backward(); optimizer.step()
    logged = {key: value.item() for key, value in found.items()}
""",
    "learned weights and a list of levels": """
net, log_vars = nn.Linear(4, 3), nn.Parameter(torch.zeros(2))
optimizer = torch.optim.Adam([*net.parameters(), log_vars], lr=0.1)
for step in range(3):
    x = torch.randn(8, 4)
    out = net(x)
    levels = [(out - level).square().mean() for level in range(3)]
    loss_deep, loss_cls = torch.stack(levels).mean(), F.cross_entropy(out, x.argmax(1) % 3)
    loss = torch.exp(-log_vars[0]) * loss_deep + torch.exp(-log_vars[1]) * loss_cls + log_vars.sum()
    optimizer.zero_grad(); loss.backward(); optimizer.step()
""",
    "two networks, each with its optimizer": """
maker, judge = nn.Linear(2, 4), nn.Linear(4, 1)
first, second = torch.optim.SGD(maker.parameters(), lr=0.1), torch.optim.SGD(judge.parameters(), lr=0.1)
for step in range(3):
    fake, real = maker(torch.randn(8, 2)), torch.randn(8, 4)
    loss_judge = (F.softplus(-judge(real)).mean() + F.softplus(judge(fake.detach())).mean()) / 2
    second.zero_grad(); loss_judge.backward(); second.step()
    loss_maker = F.softplus(-judge(fake)).mean()
    first.zero_grad(); loss_maker.backward(); first.step()
""",
    "accumulation, and a loss that is switched on later": """
net = nn.Linear(4, 3)
optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
for step in range(4):
    x = torch.randn(8, 4)
    out = net(x)
    loss_all, loss_late = out.square().mean(), (out - 1).abs().mean()
    loss = loss_all + loss_late if step > 1 else loss_all
    (loss / 2).backward()
    if step % 2:
        optimizer.step(); optimizer.zero_grad()
""",
}


def said(code: str, folder: Path) -> list[str]:
    """The notes on a script."""
    path = folder / "script.py"
    path.write_text(HEAD + code)
    books = ScriptBooks(1, None, lambda step, found: None)
    with books:
        exec(compile(path.read_text(), str(path), "exec"), {"__name__": "__main__"})
    assert all(site.booked == site.passes > 0 for site in books.sites.values())
    return books.told()


@pytest.mark.parametrize("name", FAULTY)
def test_a_fault_is_said(name: str, tmp_path: Path):
    code, words = FAULTY[name]
    told = said(code, tmp_path)
    assert any(words in each for each in told), told


@pytest.mark.parametrize("name", HEALTHY)
def test_of_healthy_scripts_nothing_is_said(name: str, tmp_path: Path):
    assert said(HEALTHY[name], tmp_path) == []


def test_books_that_cannot_be_written_stop_no_training(tmp_path: Path):
    def full(step: int, found: object) -> None:
        raise OSError("no room")

    path = tmp_path / "script.py"
    path.write_text(HEAD + HEALTHY["accumulation, and a loss that is switched on later"] + "\nended = True\n")
    names: dict[str, object] = {"__name__": "__main__"}
    with ScriptBooks(1, None, full) as books:
        exec(compile(path.read_text(), str(path), "exec"), names)
    assert names["ended"]
    assert books.told() == ["the books could not be written from there on: no room"]
