"""What an audit leaves untouched, what it accepts, and what it says where it cannot run."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import headwise as hw
from headwise import attribution, losses
from headwise.attribution import Subject, audit
from headwise.attribution.audit import KINDS, NOTES
from tests.attribution.audit.nets import Heads, batches
from tests.attribution.audit.planted import HEALTHY, PLANTED, cls_loss, reg_loss, snake, two


def both(outputs: Any, batch: Any) -> dict[str, Tensor]:
    return {"cls": cls_loss(outputs, batch), "reg": reg_loss(outputs, batch)}


def state(model: nn.Module) -> dict[str, Any]:
    tensors = {name: value.clone() for name, value in model.state_dict().items()}
    grads = {name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()}
    modes = {name: module.training for name, module in model.named_modules()}
    draws = torch.get_rng_state(), random.getstate(), np.random.get_state(legacy=False)["state"]["key"].copy()  # noqa: NPY002
    return {"tensors": tensors, "grads": grads, "modes": modes, "draws": draws, "enabled": torch.is_grad_enabled()}


def assert_same(before: Any, after: Any) -> None:
    if isinstance(before, Tensor):
        assert torch.equal(before, after)
    elif isinstance(before, np.ndarray):
        assert (before == after).all()
    elif isinstance(before, dict):
        assert before.keys() == after.keys()
        for key in before:
            assert_same(before[key], after[key])
    elif isinstance(before, tuple):
        for left, right in zip(before, after, strict=True):
            assert_same(left, right)
    else:
        assert before == after


class Rough(nn.Module):
    """Draws, counts, writes into everything, and leaves gradients off."""

    def __init__(self, fails: bool) -> None:
        super().__init__()
        self.steps = nn.Buffer(torch.zeros(()))
        self.log_var, self.fails, self.calls = nn.Parameter(torch.zeros(())), fails, 0

    def forward(self, outputs: Any, batch: Any) -> dict[str, Tensor]:
        self.steps.add_(1)
        self.calls += 1
        outputs["cls"].mul_(0.5 + random.random() + float(np.random.rand()) + float(torch.rand(())))  # noqa: NPY002
        batch["value"].zero_()
        losses = {"cls": self.log_var.exp() * cls_loss(outputs, batch), "reg": reg_loss(outputs, batch)}
        torch.set_grad_enabled(False)
        if self.fails and self.calls > 1:
            raise KeyError("no such target")
        return losses


@pytest.mark.parametrize("fails", [False, True])
def test_the_users_model_and_data_are_left_as_they_were(fails):
    torch.manual_seed(0)
    model, criterion, data = Heads(dropout=0.3, cls=2, reg=1), Rough(False), batches()
    torch.stack(list(both(model(data[0]["input"]), data[0]).values())).sum().backward()
    model.trunk[1].eval()
    criterion.fails = fails
    before = state(model), state(criterion), criterion.calls, copy.deepcopy(data)
    subject = {"model": model, "batches": data, "criterion": criterion}
    if fails:
        criterion.calls = 1
        with pytest.raises(ValueError, match="no such target"):
            audit(subject)
        criterion.calls = 0
    else:
        assert {"mutated-input", "grad-mode"} <= {finding.kind for finding in audit(subject).findings}
    assert_same(before[0], state(model))
    assert_same(before[1], state(criterion))
    assert criterion.calls == before[2]
    assert_same(dict(enumerate(before[3])), dict(enumerate(data)))


def test_a_subject_and_a_dict_are_the_same():
    subject = two(both)
    assert audit(Subject(**subject)).to_json() == audit(subject).to_json()


def test_only_the_first_batches_are_drawn_from_a_generator():
    drawn = []

    def endless() -> Iterator[Any]:
        while True:
            drawn.append(1)
            yield batches(1)[0]

    report = audit(two(both, batches=endless()))
    assert report.num_batches == len(drawn) == 4
    assert "over 4 batches" in str(report)


def test_one_graph_is_audited_as_far_as_it_goes():
    torch.manual_seed(0)
    model, batch = Heads(cls=2, reg=1, aux=2), batches(1)[0]
    outputs = model(batch["input"])
    losses = both(outputs, batch) | {"reg": reg_loss(outputs, batch).detach()}
    for subject in ((model, outputs, losses), (model, losses)):
        report = audit(subject)
        kinds = {finding.kind for finding in report.findings}
        assert {"detached-loss", "unreached-parameter"} <= kinds
        assert ("untrained-output" in kinds) == (len(subject) == 3)
        assert {"outside-mask", "mutated-input", "host-sync"} <= report.unaudited.keys()
        assert "not audited" in str(report)
    torch.stack(list(losses.values())).sum().backward()  # the graph is still the user's


REPORTS = ["textsnake_names", "head_never_used", "square_root_at_zero", "plain_dict", "mean_of_means"]


@pytest.mark.parametrize("name", REPORTS)
def test_the_table_fits_a_terminal_and_the_json_is_json(name):
    build = PLANTED[name][0] if name in PLANTED else HEALTHY[name]
    report = audit(build())
    assert max(map(len, str(report).splitlines())) <= 100
    found = json.loads(report.to_json())
    assert [each["kind"] for each in found["findings"]] == [finding.kind for finding in report.findings]
    for each in found["findings"]:
        assert each["kind"] in KINDS
        assert all(isinstance(each[key], str) and each[key] for key in ("subject", "evidence", "remedy"))
        assert each["note"] == (each["kind"] in NOTES)
        assert all(value is None or isinstance(value, int | float) for value in each["numbers"].values())


def test_notes_count_only_when_asked_to():
    note = PLANTED["mean_of_means"][0]
    assert audit(note()).exit_code == 0
    assert audit(note(), strict=True).exit_code == 1
    assert all(finding.is_note for finding in audit(note()).findings)


def test_dead_in_one_batch_is_not_dead():
    """The same criterion, with and without a batch in which its mask holds anything."""

    def criterion(outputs: Any, batch: Any) -> dict[str, Tensor]:
        gap = (outputs["reg"][:, 0] - batch["sin"]).abs() * batch["keep"]
        return {"cls": cls_loss(outputs, batch), "reg": gap.sum() / batch["keep"].sum().clamp(min=1)}

    empty = [each | {"keep": torch.zeros(4, 8, 8)} for each in batches()]
    assert [f.kind for f in audit(two(criterion, batches=empty)).faults] == ["dead-loss"]
    empty[2]["keep"] = torch.ones(4, 8, 8)
    assert audit(two(criterion, batches=empty)).faults == ()


def test_coefficients_are_those_of_the_total():
    found = audit(two(both, total=lambda losses: losses["cls"] + losses["reg"] + losses["reg"] + losses["reg"]))
    (fault,) = found.faults
    assert fault.numbers["times"] == 3
    assert fault.numbers["coefficient"] == pytest.approx(3, rel=1e-4)


def test_norms_are_those_of_the_gradients():
    subject = two(both, batches=batches(1))
    report = audit(subject)
    model, batch = subject["model"], batches(1)[0]
    outputs = model(batch["input"])
    (expected,) = torch.autograd.grad(reg_loss(outputs, batch), outputs["reg"], retain_graph=True)
    assert report.at_outputs["reg"]["reg"] == pytest.approx(float(expected.norm()), rel=1e-5)
    assert "cls" not in report.at_outputs["reg"]
    trunk = list(model.trunk.parameters())
    grads = torch.autograd.grad(reg_loss(outputs, batch), trunk)
    norm = torch.cat([grad.flatten() for grad in grads]).norm()
    assert report.at_groups["reg"]["parameters of trunk"] == pytest.approx(float(norm), rel=1e-5)


def test_split_is_measured():
    """Halves of 3 and 1 selected elements: the gradient of the whole is known by hand."""

    def criterion(output: Tensor, batch: Any) -> Tensor:
        found: Tensor = (output[:, 0] * batch["mask"]).sum() / batch["mask"].sum()
        return found

    batch = {"input": torch.ones(4, 1), "mask": torch.tensor([1.0, 1.0, 1.0, 0.0])}
    report = audit({"model": nn.Linear(1, 1), "batches": [batch], "criterion": criterion})
    (note,) = [finding for finding in report.findings if finding.kind == "split-variant"]
    whole, mean = torch.tensor([1, 1, 1, 0]) / 3, torch.tensor([1 / 4, 1 / 4, 1 / 2, 0])
    assert note.numbers["largest"] == pytest.approx(float((whole - mean).norm() / whole.norm()))


def test_warnings_of_the_code_are_told_once():
    def criterion(outputs: Any, batch: Any) -> Tensor:
        return cls_loss(outputs, batch) + F.l1_loss(outputs["reg"], batch["sin"])

    report = audit(two(criterion))
    assert len(report.warned) == 1
    assert "broadcasting" in report.warned[0]


@pytest.mark.parametrize(
    ("subject", "told"),
    [
        (3, "expected a Subject"),
        ((1, 2), "a tuple of int, int"),
        ({"model": nn.Linear(1, 1), "batches": []}, "lacks criterion"),
        (two(both, batchs=[]), "does not know batchs"),
        (two(both, batches=[]), "batches is empty"),
        (two(both, model=3), "model must be an nn.Module, found int"),
        (two(both, batches=[torch.ones(1)]), r"forward=lambda model, batch"),
        (two(lambda o, b: None), r"there is none in what was returned \(None\)"),
        (two(lambda o, b: o["nope"]), r"criterion raised KeyError: 'nope' \(test_audit_report.py:\d+ in <lambda>"),
        (two(both, total=lambda losses: losses["clss"]), "total raised KeyError: 'clss'"),
        (two(both, total=lambda losses: torch.ones(2)), r"must return a scalar, found shape \(2,\)"),
        (two(both, reads={"cls": "logits"}), r"reads\['cls'\]: path 'logits'"),
        (two(both, masks={"reg": "valid"}), "the batch has no 'valid'"),
        (two(both, masks={"reg": "index"}), r"mask 'index' of shape \(4, 5\) does not fit output 'reg'"),
        (snake(masks={"maps[:, 6:9]": "mask"}), "the slice needs channels 6 to 8"),
    ],
)  # fmt: skip
def test_what_cannot_run_says_why(subject, told):
    with pytest.raises(ValueError, match=told):
        audit(subject)


def test_names_that_fit_no_loss_are_told():
    report = audit(two(both, reads={"class": "cls", "loss_reg": "reg"}))
    assert report.faults == ()
    assert list(report.unaudited) == ["reads['class']"]
    assert "the criterion returned cls, reg" in str(report)


@pytest.mark.parametrize("path", ["1", "[1]"])
def test_both_ways_to_write_an_index(path):
    def criterion(outputs: Any, batch: Any) -> tuple[Tensor, Tensor]:
        return F.cross_entropy(outputs[0], batch["label"]), F.l1_loss(outputs[1], batch["value"])

    subject = two(criterion, forward=lambda model, batch: tuple(model(batch["input"]).values()))
    assert audit(subject | {"reads": {"cls": "0", "reg": path}}).faults == ()
    found = audit(subject | {"reads": {"cls": path, "reg": "0"}, "masks": {path: "mask"}}).faults
    assert [(each.kind, each.subject) for each in found] == [
        ("rotated-names", "cls"),
        ("rotated-names", "reg"),
        ("outside-mask", f"reg at {path}"),
    ]


def test_a_place_in_a_tuple_is_no_name():
    def criterion(outputs: Any, batch: Any) -> tuple[Tensor, Tensor]:
        return F.l1_loss(outputs[1], batch["value"]), F.cross_entropy(outputs[0], batch["label"])

    subject = two(criterion, forward=lambda model, batch: tuple(model(batch["input"]).values()))
    assert audit(subject).faults == ()


def per_level(model: nn.Module, batch: Any) -> list[Any]:
    return [model(batch["input"]), model(2 * batch["input"])]


def level_lists(model: nn.Module, batch: Any) -> dict[str, Any]:
    levels = per_level(model, batch)
    return {"cls": [level["cls"] for level in levels], "reg": [level["reg"] for level in levels]}


@pytest.mark.parametrize("forward", [per_level, level_lists])
@pytest.mark.parametrize("names", [("cls", "reg"), ("reg", "cls")])
def test_all_levels_of_an_output_have_its_name(forward, names):
    def criterion(outputs: Any, batch: Any) -> dict[str, Tensor]:
        levels = outputs
        if isinstance(outputs, dict):
            levels = [{"cls": cls, "reg": reg} for cls, reg in zip(outputs["cls"], outputs["reg"], strict=True)]
        cls = torch.stack([F.cross_entropy(level["cls"], batch["label"]) for level in levels]).sum()
        reg = torch.stack([F.l1_loss(level["reg"], batch["value"]) for level in levels]).sum()
        return dict(zip((f"loss_{name}" for name in names), (cls, reg), strict=True))

    found = {(each.kind, each.subject) for each in audit(two(criterion, forward=forward)).faults}
    swapped = {("rotated-names", "loss_cls"), ("rotated-names", "loss_reg")}
    assert found == (swapped if names[0] == "reg" else set())


def test_a_loss_that_is_switched_off_is_no_fault():
    assert audit(two(lambda o, b: both(o, b) | {"aux": 0, "loss_edge": 0.0})).faults == ()


def test_public_names():
    assert attribution.audit is audit
    assert attribution.Finding.__name__ == "Finding"


def test_a_criterion_of_ours_is_told_as_its_books_tell_it():
    """Values and norms before the declared weights, which are the factors."""
    declared = {"cls": 1.0, "reg": 0.25, "off": 0.0}
    reads = {"cls": ("label", losses.cross_entropy), "reg": ("value", losses.squared_error)}
    reads["off"] = ("value", losses.absolute_error)
    criterion = hw.Criterion(
        [hw.Term(n, loss, output=n[:3], target=to, weight=declared[n]) for n, (to, loss) in reads.items()],
        unread=[each for each in batches(1)[0] if each not in ("label", "value")],
    )
    model = Heads(cls=2, reg=1, off=1)
    report = audit(Subject(model=model, batches=batches(1), criterion=criterion))
    with hw.Ledger(criterion) as ledger:
        batch = batches(1)[0]
        criterion(model(batch["input"]), batch).total.backward()
        books = ledger.read()
    for name, row in report.standings.items():
        assert row.value == pytest.approx(books[name].value, rel=1e-5)
        assert row.factor == pytest.approx(declared[name], rel=1e-5)
    norms = {name: sum(each.values()) for name, each in report.at_outputs.items()}
    assert norms == pytest.approx({n: books[n].grad_norm / declared[n] for n in ("cls", "reg")}, rel=1e-4)
