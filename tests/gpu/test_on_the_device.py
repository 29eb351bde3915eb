"""On a GPU: recorded numbers, no waiting in any preset, and books that change no bit."""

from __future__ import annotations

import pytest
import torch
from benchmarks.gpu.bench import Bench
from benchmarks.gpu.cases import (
    Draw,
    cross_entropy,
    gaussian_focal,
    hard_negative_cross_entropy,
    shifted_focal,
    sigmoid_focal,
)
from torch import nn

import headwise as hw
from headwise import losses
from tests.criterion.samples import Net, five_targets, five_terms, gradients, images
from tests.gpu.samples import GOLDEN, PRESETS, deterministic, drawn, inputs, moved, no_sync, step

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.filterwarnings("ignore:.*does not have a deterministic implementation"),
    pytest.mark.filterwarnings("ignore:Deterministic behavior was enabled"),
]
each_preset = pytest.mark.parametrize("name", PRESETS)
PUBLISHED = ["textsnake", "cornernet", "cornernet_saccade", "centernet", "retinanet", "ssd"]


@pytest.mark.parametrize("case", GOLDEN)
def test_recorded_numbers(case, device):
    golden = GOLDEN[case]()
    wanted, of_cpu = step(golden.criterion, inputs(golden.outputs, torch.device("cpu"), torch.float64), golden.targets)
    targets = moved(golden.targets, device, torch.float64)
    total, found = step(golden.criterion, inputs(golden.outputs, device, torch.float64), targets)
    assert total.device.type == device.type
    assert float(total) == pytest.approx(golden.total, rel=1e-9, abs=1e-12)
    torch.testing.assert_close(float(total), float(wanted), rtol=1e-12, atol=1e-15)
    for ours, theirs in zip(found, of_cpu, strict=True):
        torch.testing.assert_close(ours.cpu(), theirs, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16], ids=str)
@each_preset
def test_half_precision_has_float32s_direction(name, half, device):
    criterion, outputs, targets = drawn(name, device, half)
    _, found = step(criterion, outputs, targets)
    _, wanted = step(criterion, inputs(outputs, device, torch.float32), targets)
    units = [torch.cat([each.float().flatten() for each in gradient]) for gradient in (found, wanted)]
    assert units[0].isfinite().all()
    assert (units[0] / units[0].norm() - units[1] / units[1].norm()).norm() <= 1e-2


@pytest.mark.parametrize("policy", ["keep", "drop"])
@each_preset
def test_no_preset_waits(name, policy, device):
    criterion, outputs, targets = drawn(name, device)
    ledger = hw.Ledger(criterion, on_nonfinite=policy)
    criterion(outputs, targets).total.backward()  # the first call may move constants
    with no_sync(device):
        for _ in range(2):
            breakdown = criterion(outputs, targets)
            breakdown.total.backward()
            breakdown.log("x")
    assert len(ledger.history()) == 3


@pytest.mark.parametrize("name", PUBLISHED)
def test_no_preset_waits_as_published(name, device):
    _, outputs, targets = drawn(name, device)
    options = {"num_levels": 2} if name == "ssd" else {}
    criterion = getattr(hw.presets, name)(as_published=True, **options)
    criterion(outputs, targets).total.backward()
    with no_sync(device):
        criterion(outputs, targets).total.backward()


@pytest.mark.parametrize("waits", [lambda x: x.sum().item(), lambda x: x[x > 0]], ids=["item", "mask"])
def test_waiting_would_be_seen(waits, device):
    x = torch.ones(3, device=device)
    with pytest.raises((RuntimeError, AssertionError), match=r"synchroniz|waits"), no_sync(device):
        waits(x)


@each_preset
def test_books_change_no_bit(name, device):
    criterion, outputs, targets = drawn(name, device)
    with deterministic():
        total, plain = step(criterion, outputs, targets)
        _, again = step(criterion, outputs, targets)
        with hw.Ledger(criterion) as ledger:
            booked_total, booked = step(criterion, outputs, targets)
            books = ledger.read()
    assert all(torch.equal(a, b) for a, b in zip(plain, again, strict=True)), "the control: the preset itself"
    assert torch.equal(total, booked_total)
    assert all(torch.equal(a, b) for a, b in zip(plain, booked, strict=True))
    assert set(books) == set(criterion.names)


@pytest.mark.parametrize("half", [None, torch.bfloat16, torch.float16], ids=str)
def test_books_change_no_bit_of_a_network(half, device):
    network, criterion = Net().to(device), hw.Criterion(five_terms())
    image, targets = images().to(device), moved(five_targets(), device, torch.float32)
    found = []
    with deterministic():
        for booked in (False, True):
            ledger = hw.Ledger(criterion) if booked else None
            network.zero_grad()
            with torch.autocast(device.type, half or torch.bfloat16, enabled=half is not None):
                total = criterion(network(image), targets).total
            (total * (2.0**10 if half == torch.float16 else 1.0)).backward()
            found.append(gradients(network))
            if ledger is not None:
                assert all(float(row.grad_norm) > 0 for row in ledger.read().values())
                ledger.close()
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_books_are_those_of_the_cpu(device):
    books = []
    for place in (torch.device("cpu"), device):
        network, criterion = Net().to(place).double(), hw.Criterion(five_terms())
        with hw.Ledger(criterion) as ledger:
            targets = moved(five_targets(dtype=torch.float64), place, torch.float64)
            criterion(network(images().to(place).double()), targets).total.backward()
            books.append(ledger.read())
    for name, row in books[0].items():
        for field in ("value", "weighted", "grad_norm"):
            assert float(getattr(books[1][name], field)) == pytest.approx(float(getattr(row, field)), rel=1e-6), name


def test_a_criterion_in_a_model_moves_with_it(device):
    model = nn.ModuleDict({"network": Net(), "criterion": hw.Criterion(five_terms())}).to(device)
    breakdown = model["criterion"](model["network"](images().to(device)), moved(five_targets(), device, torch.float32))
    assert breakdown.total.device.type == device.type


@pytest.mark.parametrize(
    "make", [sigmoid_focal, shifted_focal, gaussian_focal, cross_entropy, hard_negative_cross_entropy]
)
def test_compiled_sums_hold_over_millions_of_elements(make, device, monkeypatch):
    if device.type != "cuda":  # what a CPU's compiler makes is tested in tests/losses
        monkeypatch.setattr("headwise.criterion.sums.kernels.recomputing", lambda graph, inputs: graph)
    case = make(Draw(Bench(device, "full" if device.type == "cuda" else "smoke")))
    total, found = step(hw.Criterion([case.term], compile=True), case.outputs, case.targets)
    wanted, exact = step(hw.Criterion([case.term]), inputs(case.outputs, device, torch.float64), case.targets)
    assert float(total) == pytest.approx(float(wanted), rel=1e-5)
    for ours, theirs in zip(found, exact, strict=True):
        assert (ours - theirs).norm() <= 1e-5 * theirs.norm()


@pytest.mark.parametrize("half", [None, torch.bfloat16], ids=str)
def test_norms_of_large_gradients_wait_for_each_other(half, device, monkeypatch):
    monkeypatch.setattr("headwise.attribution.ledger.backward_pass.wait", lambda grad: grad.numel() > 0)
    monkeypatch.setattr("headwise.attribution.ledger.backward_pass._MOST_GATHERED", 400_000)
    names = [f"head{number}" for number in range(5)]
    criterion = hw.Criterion([hw.Term(name, losses.squared_error, output=name, target=name) for name in names])
    scale = torch.tensor([1.0, 1e-3, 1e18, 1.0, 1e20])  # the last two: none that float32 could square, and NaN
    with hw.Ledger(criterion) as ledger:
        drawn = torch.randn(5, 3, 70_000, device=device) * scale.to(device)[:, None, None]
        drawn[3, 0, 0] = torch.nan
        outputs = {name: each.to(half).requires_grad_() for name, each in zip(names, drawn, strict=True)}
        targets = {name: torch.zeros_like(each) for name, each in outputs.items()}
        criterion(outputs, targets).total.backward()
        books = ledger.read()
    for name, output in outputs.items():
        wanted = float(output.grad.double().norm())
        found = books[name].outputs[name]
        assert found.finite == (name != "head3")
        assert found.grad_norm == pytest.approx(wanted, rel=1e-6, nan_ok=True)


def test_a_captured_step_is_not_booked_and_that_is_said(device, monkeypatch):
    criterion, outputs, targets = drawn("retinanet", device)
    with hw.Ledger(criterion) as ledger:
        step(criterion, outputs, targets)
        before = ledger.read()
        if device.type == "cuda":
            graph = torch.cuda.CUDAGraph()
            with pytest.warns(UserWarning, match="captured as a CUDA graph"), torch.cuda.graph(graph):
                criterion(outputs, targets).total.backward()
            graph.replay()
        else:
            monkeypatch.setattr("headwise.criterion.criterion.is_captured", lambda tensor: True)
            with pytest.warns(UserWarning, match="captured as a CUDA graph"):
                criterion(outputs, targets).total.backward()
        assert ledger.read() is not before
        assert len(ledger.history()) == 1
