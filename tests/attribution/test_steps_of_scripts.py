"""Scripts that call backward several times in a step, or that step by themselves: what is booked and printed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from headwise.attribution.ledger.books import Books
from headwise.attribution.run.script import ScriptBooks
from headwise.commands.run import _told
from tests.attribution.odd_scripts import HEAD, TWO
from tests.attribution.run_scripts import booked as lines_of
from tests.attribution.run_scripts import under_us
from tests.attribution.test_odd_scripts import run_script
from tests.forked import python

EACH = "opt.zero_grad()\nloss_cls.backward(retain_graph=True)\n(2 * loss_box).backward()\nopt.step()"


def booked(step: str, folder: Path, *, before: str = "", every: int = 1) -> tuple[ScriptBooks, list[tuple[int, Books]]]:
    lines = step.strip("\n").splitlines()
    (script := folder / "script.py").write_text(HEAD.format(before=before, step="\n".join(f"    {x}" for x in lines)))
    found: list[tuple[int, Books]] = []
    return run_script(script, every, lambda number, books: found.append((number, books))), found


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_losses_with_a_pass_each_at_places_of_their_own_are_one_table(tmp_path):
    run, steps = booked(TWO + EACH, tmp_path)
    text = _told(run, None)
    assert text.count("total ") == 1
    assert "3 passes, 3 booked\nheadwise: and in <module>, script.py:" in text
    assert "3 passes, 3 booked; the 2 of one step, the last:" in text
    (table,) = {id(site.table): site.table for site in run.sites.values()}.values()
    assert table is not None
    assert {name: term.weight for name, term in table.books.items()} == {"loss_cls": 1.0, "loss_box": 2.0}
    assert table.books.total == pytest.approx(sum(term.weighted for term in table.books.values()))
    assert sum(term.share for term in table.books.values()) == pytest.approx(1)
    assert str(table.books) == str(steps[-1][1])


THREE = {"loss_cls", "loss_box", "loss_deep"}
LOOPS = {
    "a dict": ('for each in {"cls": loss_cls, "box": loss_box, "deep": loss_deep}.values():', THREE),
    "a helper": ("for each in (lambda: loss_cls, lambda: loss_box, lambda: loss_deep):\n    backward(each())", THREE),
    "a list": ("for each in losses:", {"losses[0]", "losses[1]", "losses[2]"}),
    "nothing": ("for each in parts(h, y, t):", {"each", "each (2)", "each (3)"}),
}


@pytest.mark.parametrize("every", [1, 2])
@pytest.mark.parametrize("name", LOOPS)
def test_losses_that_one_place_takes_in_turn_are_all_in_every_booked_step(name, every, tmp_path):
    head, names = LOOPS[name]
    made = "loss_cls, loss_box, loss_deep = parts(h, y, t)\n" if name in ("a dict", "a helper") else ""
    made += "losses = parts(h, y, t)\n" if name == "a list" else ""
    body = "" if "backward" in head else "\n    each.backward(retain_graph=True)"
    step = f"{made}opt.zero_grad()\n{head}{body}\nopt.step()"
    before = """
def parts(h, y, t):
    return [F.cross_entropy(cls(h), y), F.smooth_l1_loss(box(h), t), deep(h).square().mean()]
def backward(loss):
    loss.backward(retain_graph=True)
deep = nn.Linear(8, 2)
opt.add_param_group({"params": deep.parameters()})
"""
    run, steps = booked(step, tmp_path, before=before, every=every)
    assert [number for number, _ in steps] == list(range(1, 4, every))
    assert all(set(books) == names for _, books in steps), str(steps[-1][1])
    (site,) = run.sites.values()
    assert (site.passes, site.booked) == (9, 9 if every == 1 else 6)
    assert site.table is not None
    assert set(site.table.books) == names
    assert "the 3 of one step, the last:" in _told(run, None)
    assert run.told() == []


def test_gradients_that_were_cleared_between_passes_are_tables_of_their_own(tmp_path):
    step = TWO + "for loss in (loss_cls,):\n    loss.backward(retain_graph=True)\n    opt.zero_grad()\n"
    run, _ = booked(step + "(loss_cls + loss_box).backward()\nopt.step()", tmp_path)
    tables = [site.table for site in run.sites.values()]
    assert len({id(table) for table in tables}) == 2
    assert [len(table.books) for table in tables if table is not None] == [1, 2]


def test_a_loss_of_some_micro_batches_alone_stays_in_the_books_of_the_step(tmp_path):
    step = """
opt.zero_grad()
for part in range(2):
    loss = loss_cls = F.cross_entropy(cls(body(x + part)), y)
    if part == 0:
        loss_box = F.smooth_l1_loss(box(body(x)), t)
        loss = loss_cls + loss_box
    loss.backward()
opt.step()
"""
    run, steps = booked(step, tmp_path)
    assert all(set(books) == {"loss_cls", "loss_box"} for _, books in steps)
    assert all(books.balanced for _, books in steps)
    assert "; those of one step, of each loss the last:" in _told(run, None)


def test_what_is_unbooked_at_several_places_is_added_up(tmp_path):
    step = TWO + "opt.zero_grad()\n(loss_cls + 3).backward(retain_graph=True)\n(loss_box + 4).backward()\nopt.step()"
    _, steps = booked(step, tmp_path)
    assert all(books["unbooked"].value == pytest.approx(7) for _, books in steps)
    assert all(set(books) == {"loss_cls", "loss_box", "unbooked"} for _, books in steps)


def test_a_script_that_steps_by_itself_has_a_line_a_step(tmp_path):
    step = TWO + "for p in params: p.grad = None\n(loss_cls + loss_box).backward()\nfor p in params: p.data -= p.grad"
    head = HEAD.replace("opt = torch.optim.SGD(params, 0.01)", "")
    text = head.format(before="", step="\n".join(f"    {line}" for line in step.splitlines()))
    assert "optim" not in text
    (tmp_path / "by_itself.py").write_text(text)
    run = under_us(tmp_path, "--every", "1", "by_itself.py")
    assert "3 passes, 3 booked; the last of these:\nstep 3 (" in run.stdout
    assert [entry["step"] for entry in lines_of(tmp_path)] == [1, 2, 3]


def test_a_gradient_by_hand_makes_one_number_of_an_output(tmp_path):
    step = "out = cls(h)\nhand = (out.softmax(1) - F.one_hot(y, 3)).detach()\n"
    step += "opt.zero_grad(); out.backward(hand); opt.step()"
    _, steps = booked(step, tmp_path)
    for _, books in steps:
        (term,) = books.values()
        assert term.weight == 1
        assert term.value == pytest.approx(term.weighted)
        assert books.total == pytest.approx(term.value)


def test_where_a_pass_is_limited_to_some_leaves_nothing_is_said_to_be_unbooked(tmp_path):
    step = TWO + "opt.zero_grad(); (loss_cls + loss_box).backward(inputs=list(cls.parameters())); opt.step()"
    run, steps = booked(step, tmp_path)
    assert all(books.unbooked.is_nothing for _, books in steps)
    assert any("is limited by inputs" in line for line in run.told())


def test_a_loss_that_reads_another_head_in_another_step_keeps_its_name(tmp_path):
    step = "loss = F.cross_entropy(cls(h), y) if step % 2 else box(h).square().mean()\n"
    _, steps = booked(step + "opt.zero_grad(); loss.backward(); opt.step()", tmp_path)
    assert [list(books) for _, books in steps] == [["loss"]] * 3


def test_models_in_a_list_or_a_dict_and_threads_that_train_at_once(tmp_path):
    (tmp_path / "threads.py").write_text(THREADS)
    run = under_us(tmp_path, "--every", "1", "threads.py")
    assert run.returncode == 0, run.stderr
    assert "note" not in run.stdout
    assert "12 passes, 12 booked" in run.stdout
    entries = lines_of(tmp_path)
    assert len(entries) > 3
    assert all(term["grad_norm"] > 0 for entry in entries for term in entry["terms"].values())


THREADS = """\
import threading
import torch
from torch import nn
torch.manual_seed(0)
nets = [nn.Linear(6, 3), nn.Linear(6, 2)]
others = {"last": nn.Linear(6, 1)}
def train(key, nets_of):
    opt = torch.optim.SGD(nets_of[key].parameters(), 0.01)
    for step in range(4):
        out = nets_of[key](torch.ones(8, 6))
        loss_a, loss_b = out.square().mean(), (out - 1).abs().mean()
        opt.zero_grad(); (loss_a + 2 * loss_b).backward(); opt.step()
threads = [threading.Thread(target=train, args=each) for each in ((0, nets), (1, nets), ("last", others))]
for each in threads: each.start()
for each in threads: each.join()
"""

TRACED = """\
import torch
import torch.nn.functional as F
from torch import nn
torch.manual_seed(0)
net = torch.jit.trace(nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)), torch.randn(2, 6))
opt = torch.optim.SGD(net.parameters(), 0.1)
for step in range(2):
    out = net(torch.randn(8, 6))
    loss = F.mse_loss(out, torch.ones(8, 1))
    opt.zero_grad(); loss.backward(); opt.step()
torch.save(net.state_dict(), "weights.pt")
"""


@pytest.mark.filterwarnings("ignore")
def test_a_traced_network_is_traced_as_without_us_and_warnings_stand_where_the_script_called(tmp_path):
    (tmp_path / "traced.py").write_text(TRACED)
    run = under_us(tmp_path, "--every", "1", "traced.py")
    assert run.returncode == 0, run.stderr[-2000:]
    with_us = torch.load(tmp_path / "weights.pt")
    plain = python(tmp_path, "traced.py")
    assert all(torch.equal(with_us[name], each) for name, each in torch.load(tmp_path / "weights.pt").items())
    here = "traced.py:9: UserWarning: Using a target size"
    assert here in plain.stderr
    assert here in run.stderr
