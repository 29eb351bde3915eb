"""What `headwise run` says of scripts with and without a fault, without a second run; each in this process."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from headwise.attribution.apart import take_apart
from headwise.attribution.apart.naming import places
from headwise.attribution.apart.sums import dissect
from headwise.attribution.apart.sums.walk import Sum, walk_sum
from headwise.attribution.ledger.books import Books
from headwise.attribution.run.script import ScriptBooks
from headwise.runs.alerts.watch import Watch
from headwise.runs.entries import step_entry

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
    "two losses unpacked in the wrong order": (
        """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.cls, self.box = nn.Linear(4, 3), nn.Linear(4, 2)
    def forward(self, x):
        return self.cls(x), self.box(x)
def losses_of(cls, box):
    return cls.square().mean(), (box - 1).abs().mean()
net = Net()
optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
for step in range(2):
    box_loss, cls_loss = losses_of(*net(torch.randn(8, 4)))
    loss = box_loss + 2 * cls_loss
    optimizer.zero_grad(); loss.backward(); optimizer.step()
""",
        "box_loss trains cls, and not box: it bears the name of another loss",
    ),
    "a head that no optimizer holds": (
        """
net = nn.ModuleDict({"trunk": nn.Linear(4, 4), "cls": nn.Linear(4, 3), "box": nn.Linear(4, 2)})
optimizer = torch.optim.SGD([*net["trunk"].parameters(), *net["cls"].parameters()], lr=0.1)
for step in range(2):
    features = net["trunk"](torch.randn(8, 4))
    loss_cls, loss_box = net["cls"](features).square().mean(), net["box"](features).abs().mean()
    optimizer.zero_grad(); (loss_cls + loss_box).backward(); optimizer.step()
""",
        "with a gradient, in no optimizer that stepped: box.weight, box.bias",
    ),
    "a weight that a division of integers made": (
        """
net, alpha = nn.Linear(4, 3), 1 // 10
optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
for step in range(2):
    out = net(torch.randn(8, 4))
    loss_all, loss_small = out.square().mean(), out.abs().mean()
    optimizer.zero_grad(); (loss_all + alpha * loss_small).backward(); optimizer.step()
""",
        "loss_small: its factor in the total is 0, in all 2 booked passes",
    ),
}

HEALTHY = {
    "a list of losses, of which each has a pass of its own": """
net = nn.Linear(4, 3)
optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
for step in range(3):
    x = torch.randn(8, 4)
    out = net(x)
    losses = [F.cross_entropy(out, x.argmax(1) % 3), (out - x[:, :3]).abs().mean(), out.square().mean()]
    for each in losses:
        each.backward(retain_graph=True)
    optimizer.step(); optimizer.zero_grad()
""",
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
    "features of a network that no optimizer holds, and a weight that grows from 0": """
net, eyes = nn.Linear(2, 4), nn.Linear(4, 4)
optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
for step in range(3):
    out = net(torch.randn(8, 2))
    loss_near, loss_eyes = out.square().mean(), (eyes(out) - eyes(out + 1).detach()).abs().mean()
    loss = loss_near + step / 2 * loss_eyes
    optimizer.zero_grad(); loss.backward(); optimizer.step()
""",
    "an unfrozen trunk, and names that heads have": """
net = nn.ModuleDict({"trunk": nn.Linear(4, 4), "cls": nn.Linear(4, 3), "box": nn.Linear(4, 2)})
optimizer = torch.optim.SGD([*net["cls"].parameters(), *net["box"].parameters()], lr=0.1)
net["trunk"].requires_grad_(False)
for step in range(8):
    if step == 6:
        net["trunk"].requires_grad_(True)
        optimizer.add_param_group({"params": net["trunk"].parameters()})
    features = net["trunk"](torch.randn(8, 4))
    losses = {"cls": net["cls"](features).square().mean(), "box": net["box"](features).abs().mean()}
    optimizer.zero_grad(); sum(losses.values()).backward(); optimizer.step()
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


def said(code: str, folder: Path, every: int = 1) -> list[str]:
    """The notes on a script."""
    path = folder / "script.py"
    path.write_text(HEAD + code)
    books = ScriptBooks(every, None, lambda step, found: None)
    with books:
        exec(compile(path.read_text(), str(path), "exec"), {"__name__": "__main__"})
    assert every > 1 or all(site.booked == site.passes > 0 for site in books.sites.values())
    return books.told()


@pytest.mark.parametrize("name", FAULTY)
def test_a_fault_is_said(name: str, tmp_path: Path):
    code, words = FAULTY[name]
    told = said(code, tmp_path)
    assert any(words in each for each in told), told


@pytest.mark.parametrize("name", HEALTHY)
def test_of_healthy_scripts_nothing_is_said(name: str, tmp_path: Path):
    assert said(HEALTHY[name], tmp_path) == []


@pytest.mark.parametrize("every", [2, 4, 5])
def test_losses_whose_own_passes_were_not_booked_are_not_said_to_be_dropped(every: int, tmp_path: Path):
    assert said(HEALTHY["a list of losses, of which each has a pass of its own"], tmp_path, every) == []


def test_losses_of_parameters_that_no_module_holds_have_their_gradients(tmp_path: Path):
    path, found = tmp_path / "script.py", []
    path.write_text(f"""{HEAD}
w, v = nn.Parameter(torch.randn(5)), torch.randn(5, requires_grad=True)
loss_fit, loss_tie = (w - 1).square().sum(), (v + 2).square().mean()
(loss_fit + 0.5 * loss_tie).backward()
""")
    names: dict[str, Any] = {"__name__": "__main__"}
    with ScriptBooks(1, None, lambda step, books: found.append(books)):
        exec(compile(path.read_text(), str(path), "exec"), names)
    assert {name: list(term.outputs) for name, term in found[0].items()} == {"loss_fit": ["w"], "loss_tie": ["v"]}
    for term, tensor in zip(found[0].values(), (names["w"], names["v"]), strict=True):
        assert term.grad_norm == pytest.approx(float(tensor.grad.norm()), rel=1e-6)


GLOBAL = """
net = nn.Linear(4, 3)
optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
def train(forward):
    out = forward(torch.ones(2, 4))
    loss_a, loss_b = out[:, 0].square().mean(), out[:, 1:].abs().mean()
    optimizer.zero_grad(); (loss_a + 0.5 * loss_b).backward(); optimizer.step()
"""


def booked(run: Callable[[], object]) -> tuple[Books, list[str]]:
    """The books of the first pass, and the notes."""
    found: list[Books] = []
    with ScriptBooks(1, None, lambda step, books: found.append(books)) as script:
        run()
    return found[0], script.told()


@pytest.mark.parametrize("where", ["another file", "another thread"])
def test_a_model_that_is_a_global_of_the_file_is_found(where: str, tmp_path: Path):
    """The main script's globals are the variables of a frame; those of other files, and seen from a thread, are not."""
    path = tmp_path / "training.py"
    path.write_text(HEAD + GLOBAL)
    module: dict[str, Any] = {"__name__": "training"}
    exec(compile(path.read_text(), str(path), "exec"), module)

    def run() -> None:
        if where == "another file":
            module["train"](module["net"])
        else:
            thread = threading.Thread(target=module["train"], args=(lambda x: module["net"](x),))
            thread.start()
            thread.join()

    books, told = booked(run)
    assert told == []
    assert [list(term.outputs) for term in books.values()] == [["model"], ["model"]]
    assert all(term.grad_norm > 0 for term in books.values())


def test_where_no_model_is_found_no_norm_is_known(tmp_path: Path):
    """Unknown, in the table and in the log, and no 0."""

    def hidden() -> Callable[[torch.Tensor], torch.Tensor]:
        network = torch.nn.Linear(4, 3)
        return lambda x: network(x)

    def run(forward: Callable[[torch.Tensor], torch.Tensor] = hidden()) -> None:  # noqa: B008
        out = forward(torch.ones(2, 4))
        loss_a, loss_b = out[:, 0].square().mean(), out[:, 1:].abs().mean()
        (loss_a + 0.5 * loss_b).backward()

    books, told = booked(run)
    assert {name: term.weight for name, term in books.items()} == {"loss_a": 1.0, "loss_b": 0.5}
    assert all(math.isnan(term.grad_norm) and term.finite and term.trained for term in books.values())
    assert str(books).count("unknown") == 2 + ("loop's factor unknown" in str(books))
    assert any("no gradient norm is known" in each for each in told), told
    entry = step_entry(1, books, time=0.0)
    assert all("grad_norm" not in term for term in entry["terms"].values())
    watch = Watch()
    assert [alert for step in range(60) for alert in watch.see({**entry, "step": step})] == []


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


def test_a_long_sum_under_one_name_is_walked_a_few_times(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    walks = 0

    def counted(*args: Any, **kwargs: Any) -> Sum:
        nonlocal walks
        walks += 1
        return walk_sum(*args, **kwargs)

    for module in (places, dissect, take_apart):
        monkeypatch.setattr(module, "walk_sum", counted)
    code = """
net = nn.Linear(4, 3)
out = net(torch.randn(8, 4))
loss = out.square().mean()
for part in range(100):
    loss = loss + (out[:, part % 3] - 1).abs().mean()
loss.backward()
"""
    assert said(code, tmp_path) == []
    assert walks < 30
