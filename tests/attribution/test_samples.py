"""Samples in the books: norms and values by hand, corrupted samples and wrong labels found, what cannot be split."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import headwise as hw
from headwise import losses
from headwise.attribution import TermSamples
from headwise.attribution.ledger.samples.columns import superseded
from headwise.attribution.ledger.samples.sampled import SampledCall
from headwise.structure import leaves, mapped
from tests.asserts import ForbidSync
from tests.criterion.samples import five_maps, five_targets, five_terms
from tests.presets.samples import sample


def gradients_by_sample(criterion: hw.Criterion, maps: Tensor, targets: dict[str, Tensor]) -> dict[str, Tensor]:
    """N times the norm of each sample's gradient, one `autograd.grad` a term."""
    found = {}
    for name, entry in criterion({"maps": maps}, targets).items():
        (grad,) = torch.autograd.grad(entry.weighted, maps, retain_graph=True)
        found[name] = len(maps) * grad.double().flatten(1).norm(dim=1)
    return found


def values_of(found: TermSamples) -> list[float]:
    values = [each.value for each in found.by_value]
    assert None not in values
    return [each for each in values if each is not None]


def test_norms_and_values_are_those_of_each_sample() -> None:
    criterion = hw.Criterion(five_terms(sin=0.5, line=3.0))
    maps, targets = five_maps(5, dtype=torch.float64), five_targets(5, dtype=torch.float64)
    wanted = gradients_by_sample(criterion, maps, targets)
    with hw.Ledger(criterion, samples=5, values_every=1) as ledger:
        breakdown = criterion({"maps": maps}, targets, ids=list("abcde"))
        (1024 * breakdown.total).backward()
        found, books = ledger.samples(), ledger.read()
    for name, norms in wanted.items():
        ranked = found[name].by_gradient
        order = norms.argsort(descending=True).tolist()
        assert [each.id for each in ranked] == ["abcde"[place] for place in order]
        assert [each.grad_norm for each in ranked] == pytest.approx(norms[order].tolist(), rel=1e-10)
        assert math.sqrt(sum(each.grad_norm**2 for each in ranked)) / 5 == pytest.approx(books[name].grad_norm)
        values = values_of(found[name])
        assert values == sorted(values, reverse=True)
    for name in ("line", "radius", "sin", "cos"):  # `region` mines over the whole batch
        assert sum(values_of(found[name])) / 5 == pytest.approx(books[name].value)


def test_gradients_are_equal_to_the_bit_and_nothing_waits() -> None:
    criterion, targets = hw.Criterion(five_terms()), five_targets(3)
    found = []
    for keep in (0, 2):
        maps = five_maps(3)
        with hw.Ledger(criterion, samples=keep, values_every=1):
            for ids in (["a", "b", "c"], ["d", "e", "f"]):
                with ForbidSync():
                    criterion({"maps": maps}, targets, ids=ids).total.backward()
        assert maps.grad is not None
        found.append(maps.grad)
    assert torch.equal(*found)


def squared_rows(num: int = 4) -> tuple[hw.Criterion, Tensor, Tensor]:
    criterion = hw.Criterion([hw.Term("y", losses.squared_error, output="y", target="t")])
    return criterion, torch.zeros(num, 2, requires_grad=True), torch.arange(1.0, num + 1)[:, None].expand(num, 2)


def test_a_sample_is_ranked_as_it_came_last() -> None:
    criterion, y, t = squared_rows()
    with hw.Ledger(criterion, samples=2, values_every=1) as ledger:
        for step, rows in enumerate((t, t.flip(0))):
            criterion({"y": y}, {"t": rows}, ids=[10, 20, 30, 40]).total.backward()
            criterion.advance()
            wanted = [40, 30] if step == 0 else [10, 20]
            assert [each.id for each in ledger.samples("y").top(2)] == wanted
            assert [each.id for each in ledger.samples("y").top(1, by="value")] == wanted[:1]
            assert {each.step for each in ledger.samples("y").by_gradient} == {step}
        # The mean over two columns: the value of target 4 is 16, its gradient 2 * 4 / 2 in both.
        assert ledger.samples("y").top(1)[0].value == pytest.approx(16)
        assert ledger.samples("y").top(1)[0].grad_norm == pytest.approx(4 * math.sqrt(2))
        criterion({"y": y}, {"t": t / 100}, ids=[50, 60, 70, 80]).total.backward()
        assert [each.id for each in ledger.samples("y", last_step=True).top(2)] == [80, 70]
        assert [each.id for each in ledger.samples("y").top(2)] == [10, 20]
        ledger.forget_samples()
        assert ledger.samples("y").by_gradient == ledger.samples("y", last_step=True).by_gradient == ()


def test_calls_that_waited_together_are_ranked_as_one_by_one() -> None:
    """With ids that come again, batches of two sizes, and values in every third call."""
    draw = torch.Generator().manual_seed(0)
    calls = [(torch.randint(0, 9, (num,), generator=draw), torch.randn(num, 2, generator=draw)) for num in (4, 3) * 12]
    found = []
    for together in (True, False):
        criterion, y, _ = squared_rows()
        with hw.Ledger(criterion, samples=9, values_every=3) as ledger:
            for ids, rows in calls:
                criterion({"y": y[: len(ids)]}, {"t": rows}, ids=ids).total.backward()
                criterion.advance()
                if not together:
                    ledger.samples()
            found.append(ledger.samples("y"))
    assert found[0] == found[1]
    last = {int(number): norm for ids, rows in calls for number, norm in zip(ids, rows.norm(dim=1), strict=True)}
    assert [each.id for each in found[0].by_gradient] == sorted(last, key=lambda number: -last[number])
    assert len(found[0].by_value) > 3


def test_a_sample_that_comes_again_later_is_known_on_any_device() -> None:
    ids = [[5, 7, 5], [7, 1], [5]]
    on_host = [SampledCall(each, torch.device("cpu"), True) for each in ids]
    on_device = [SampledCall(torch.tensor(each), torch.device("cpu"), True) for each in ids]
    numbers = torch.tensor([each for call in ids for each in call])
    for calls in (on_host, on_device):
        again = superseded(numbers, calls)
        assert again is not None
        assert again.tolist() == [True, True, True, False, False, False]
    assert superseded(numbers[3:], on_host[1:]) is None


@pytest.mark.parametrize("capacity", [1, 100])
def test_steps_are_counted_on_though_calls_wait_and_ledgers_end(capacity: int) -> None:
    state: dict[str, Any] = {}
    for first in (0, 20):
        criterion, y, t = squared_rows()
        with hw.Ledger(criterion, samples=80, capacity=capacity) as ledger:
            ledger.load_state_dict(state)
            for step in range(first, first + 20):
                criterion({"y": y}, {"t": t}, ids=[(step, place) for place in range(4)]).total.backward()
                criterion.advance()
            state, found = ledger.state_dict(), ledger.samples("y").by_gradient
        assert len(found) == min(80, 4 * (first + 20))
        assert all(each.step == each.id[0] for each in found)


def test_batches_of_any_size_compare_and_so_do_micro_batches() -> None:
    criterion, y, t = squared_rows(4)
    with hw.Ledger(criterion, samples=4) as ledger:
        for rows in (slice(0, 3), slice(3, 4)):
            (criterion({"y": y[rows]}, {"t": t[rows]}, ids=list(range(4))[rows]).total / 2).backward()
        norms = [each.grad_norm for each in ledger.samples("y").top(4)]
    assert norms == pytest.approx([math.sqrt(2) * each for each in (4, 3, 2, 1)])
    pooled = hw.pool_denominators(criterion, [{"t": t[:3]}, {"t": t[3:]}])
    with hw.Ledger(criterion, samples=4) as ledger:
        for rows in (slice(0, 3), slice(3, 4)):
            criterion({"y": y[rows]}, {"t": t[rows]}, pooled).total.backward()
        found = ledger.samples("y").top(4)
    assert [each.grad_norm for each in found] == pytest.approx([math.sqrt(2) * each / 4 for each in (4, 3, 2, 1)])
    assert [each.id for each in found] == [(1, 0), (0, 2), (0, 1), (0, 0)]


def test_a_gradient_that_is_not_finite_comes_first() -> None:
    criterion, y, t = squared_rows()
    t = t.clone()
    t[1, 0] = math.inf
    with hw.Ledger(criterion, samples=2) as ledger:
        criterion({"y": y}, {"t": t}, ids=list("abcd")).total.backward()
        assert ledger.samples("y").top(1)[0].id == "b"
        assert not math.isfinite(ledger.samples("y").top(1)[0].grad_norm)


def test_several_passes_over_one_call_are_one_gradient() -> None:
    criterion, y, t = squared_rows()
    with hw.Ledger(criterion, samples=1) as ledger:
        total = criterion({"y": y}, {"t": t}).total
        total.backward(retain_graph=True)
        once = ledger.samples("y").top(1)[0].grad_norm
    assert once == pytest.approx(4 * math.sqrt(2))


def test_levels_and_ratios_and_losses_of_the_users() -> None:
    def of_batch(output: Tensor, target: Tensor) -> Tensor:
        return torch.stack([(row - goal).square().sum() for row, goal in zip(output, target, strict=True)]).sum()

    def unbatched(output: Tensor, target: Tensor) -> Tensor:
        assert output.sum().item() == output.sum().item()
        return (output - target).square().sum()

    terms: list[hw.Term | hw.RatioTerm] = [
        hw.Term("levels", losses.squared_error, output="maps[*]", target="t", levels=hw.Levels([1.0, 0.5])),
        hw.RatioTerm("dice", losses.dice, output="mask", target="m"),
        hw.Term("rows", of_batch, 1.0, output="rows", target="t"),
        hw.Term("host", unbatched, 1.0, output="host", target="t"),
    ]
    draw = torch.Generator().manual_seed(0)
    outputs: dict[str, Any] = {
        "maps": [torch.randn(3, 4, generator=draw, requires_grad=True) for _ in range(2)],
        "mask": torch.rand(3, 1, 5, generator=draw, requires_grad=True),
        "rows": torch.randn(3, 4, generator=draw, requires_grad=True),
        "host": torch.randn(3, 4, generator=draw, requires_grad=True),
    }
    targets = {"t": torch.randn(3, 4, generator=draw), "m": (torch.rand(3, 1, 5, generator=draw) > 0.5).float()}
    criterion = hw.Criterion(terms)
    with hw.Ledger(criterion, samples=3, values_every=1) as ledger:
        criterion(outputs, targets).total.backward()
        found, books = ledger.samples(), ledger.read()
    for name in ("levels", "rows"):
        assert sum(values_of(found[name])) / 3 == pytest.approx(books[name].value, rel=1e-5)
    squares = [m.detach() - targets["t"] for m in outputs["maps"]]
    wanted = 3 * ((2 / 12 * squares[0]).square() + (0.5 * 2 / 12 * squares[1]).square()).sum(1).sqrt()
    assert found["levels"].top(1)[0].grad_norm == pytest.approx(float(wanted.max()), rel=1e-5)
    alone = [losses.dice(outputs["mask"][i : i + 1], targets["m"][i : i + 1]) for i in range(3)]
    values = sorted((float(each.value.detach()) for each in alone), reverse=True)
    assert [each.value for each in found["dice"].by_value] == pytest.approx(values, rel=1e-5)
    assert found["host"].by_value == ()
    assert "side by side" in found["host"].note
    assert len(found["host"].by_gradient) == 3
    assert found["host"].by_gradient[0].value is None
    assert "side by side" in str(found["host"])


def test_what_does_not_hold_the_samples_first_is_said() -> None:
    terms = [
        hw.Term("flat", losses.squared_error, output="flat", target="flat"),
        hw.Term("fine", losses.squared_error, output="fine", target="fine"),
    ]
    criterion = hw.Criterion(terms)
    outputs = {"fine": torch.randn(3, 2, requires_grad=True), "flat": torch.randn(12, 2, requires_grad=True)}
    with hw.Ledger(criterion, samples=2, values_every=1) as ledger:
        criterion(
            outputs, {name: torch.zeros_like(each) for name, each in outputs.items()}, ids=list("abc")
        ).total.backward()
        found = ledger.samples()
    assert len(found["fine"].by_gradient) == len(found["fine"].by_value) == 2
    assert not found["fine"].note
    assert found["flat"].by_gradient == ()
    assert "'flat' does not hold the 3 samples" in found["flat"].note


@pytest.mark.parametrize("ids", [["a", ("b", 1), 3, None], torch.tensor([7, 8, 9, 10]), None])
def test_state_goes_on_with_any_ids(ids: Any) -> None:
    criterion, y, t = squared_rows()
    with hw.Ledger(criterion, samples=2, values_every=1) as ledger:
        criterion({"y": y}, {"t": t}, ids=ids).total.backward()
        wanted, state = ledger.samples("y"), ledger.state_dict()
    names = [each.id for each in wanted.top(2)]
    assert names == ([(0, 3), (0, 2)] if ids is None else [10, 9] if isinstance(ids, Tensor) else [None, 3])
    with hw.Ledger(criterion, samples=2, values_every=1) as ledger:
        ledger.load_state_dict(state)
        assert ledger.samples("y") == wanted
        criterion({"y": y}, {"t": t / 2}, ids=ids).total.backward()
        again = 2 if ids is not None else 1  # without ids it is another sample
        assert ledger.samples("y").top(1)[0].grad_norm == pytest.approx(wanted.top(1)[0].grad_norm / again)
    with hw.Ledger(criterion, samples=3) as other, pytest.raises(ValueError, match="keeps 3 of 1"):
        other.load_state_dict(state)


def test_ids_that_cannot_be_are_refused() -> None:
    criterion, y, t = squared_rows()
    call = partial(criterion, {"y": y}, {"t": t})
    with hw.Ledger(criterion, samples=1) as ledger:
        for unordered in ({"a", "b", "c", "d"}, dict.fromkeys("abcd")):
            with pytest.raises(ValueError, match="ids: a list with one id a sample"):
                call(ids=unordered)
        with pytest.raises(ValueError, match="an id is hashable"):
            call(ids=[{}, {}, {}, {}])
        with pytest.raises(ValueError, match="of whole numbers"):
            call(ids=torch.rand(4))
        with pytest.raises(ValueError, match="Give ids of one kind in every call"):
            call()
        with pytest.raises(KeyError, match="no term 'x'"):
            ledger.samples("x")
        with pytest.raises(ValueError, match="ranked by 'gradient' or by 'value'"):
            ledger.samples("y").top(by="norm")  # type: ignore[arg-type]
    with hw.Ledger(criterion) as plain, pytest.raises(ValueError, match="samples=16"):
        plain.samples()


@pytest.mark.parametrize(
    ("preset", "terms"),
    [
        ("textsnake", ("text_region", "center_line", "sin")),
        ("cornernet", ("top_left_heatmap", "bottom_right_heatmap")),
        ("retinanet", ("classification",)),
    ],
)
def test_a_corrupted_sample_is_named_first(preset: str, terms: tuple[str, ...]) -> None:
    """Outputs that fit their targets but for one sample's, which were taken from another.

    Of other terms it need not be the first: absolute errors send the same gradient however wrong they are.
    """
    num, trials = 16, 10
    criterion, outputs, targets = sample(preset, num, dtype=torch.float32)
    outputs = mapped(outputs, lambda each: each.requires_grad_())
    free = [tensor for _, tensor in leaves(outputs)]
    optimizer = torch.optim.Adam(free, lr=0.3)
    for _ in range(60):
        optimizer.zero_grad()
        criterion(outputs, targets).total.backward()
        optimizer.step()
    right = dict.fromkeys(terms, 0)
    for trial in range(trials):
        wrong = mapped(targets, lambda each: torch.cat([each[:trial], each[trial + 1 : trial + 2], each[trial + 1 :]]))  # noqa: B023
        with hw.Ledger(criterion, samples=1) as ledger:
            criterion(outputs, wrong, ids=list(range(num))).total.backward()
            for name in terms:
                right[name] += ledger.samples(name).top(1)[0].id == trial
    assert right == dict.fromkeys(terms, trials)


def test_wrong_labels_among_digits() -> None:
    """20 wrong labels among 1,797 digits and 203 that come twice: 18 of them are in the first 40 after one pass."""
    images, labels = load_digits(return_X_y=True)
    chosen = torch.cat([torch.arange(len(images)), torch.arange(2000 - len(images))])
    x, y = torch.tensor(images, dtype=torch.float32)[chosen] / 16, torch.tensor(labels)[chosen]
    draw = torch.Generator().manual_seed(0)
    wrong = torch.randperm(2000, generator=draw)[:20]
    y[wrong] = (y[wrong] + 1 + torch.randint(0, 9, (20,), generator=draw)) % 10
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    criterion = hw.Criterion([hw.Term("digit", losses.cross_entropy, output="logits", target="label")])
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
    with hw.Ledger(criterion, optimizer=optimizer, samples=40) as ledger:
        for _epoch in range(4):
            ledger.forget_samples()
            for batch in torch.randperm(2000, generator=draw).split(50):
                optimizer.zero_grad()
                criterion({"logits": network(x[batch])}, {"label": y[batch]}, ids=batch).total.backward()
                optimizer.step()
        found = {each.id for each in ledger.samples("digit").top(40)}
    assert len(found & set(wrong.tolist())) >= 18


@pytest.mark.parametrize("ids", ["abcd", b"abcd", list("abc"), torch.arange(3), {"a", "b", "c", "d"}, iter("abcd")])
def test_ids_that_are_no_list_of_the_batch_are_refused(ids) -> None:
    """Was: a text gave each sample a letter, and three ids for four samples were a note that nobody read."""
    criterion = hw.Criterion([hw.Term("a", losses.squared_error, output="y", target="t")])
    with hw.Ledger(criterion, samples=2), pytest.raises(ValueError, match=r"ids: .* found .*Give "):
        criterion({"y": torch.randn(4, 2, requires_grad=True)}, {"t": torch.zeros(4, 2)}, ids=ids)


def test_terms_that_go_backward_one_by_one_are_ranked_as_together() -> None:
    found = []
    for way in ("total", "entries", "entries, read between"):
        criterion = hw.Criterion(five_terms())
        maps, targets = five_maps(4), five_targets(4)
        with hw.Ledger(criterion, samples=4, values_every=1) as ledger:
            for _ in range(2):
                breakdown = criterion({"maps": maps}, targets, ids=[3, 1, 4, 2])
                if way == "total":
                    breakdown.total.backward()
                for entry in breakdown.values() if way != "total" else ():
                    entry.weighted.backward(retain_graph=True)
                    if way != "entries":
                        ledger.samples()
            found.append(ledger.samples())
    for other in found[1:]:
        for name, ranked in found[0].items():
            assert [each.id for each in other[name].by_gradient] == [each.id for each in ranked.by_gradient]
            norms = [each.grad_norm for each in ranked.by_gradient]
            assert [each.grad_norm for each in other[name].by_gradient] == pytest.approx(norms, rel=1e-5)
            assert len(other[name].by_value) == 4


def test_one_process_without_a_group_is_all_ranks():
    criterion = hw.Criterion([hw.Term("a", losses.squared_error, output="y", target="t")])
    with hw.Ledger(criterion, samples=2) as ledger:
        with pytest.raises(RuntimeError, match="the ledger is empty"):
            ledger.read(across_ranks=True)
        criterion({"y": torch.ones(3, requires_grad=True)}, {"t": torch.zeros(3)}).total.backward()
        everywhere = ledger.read(across_ranks=True)
        assert (everywhere.scope, everywhere.terms) == ("global", ledger.read().terms)
        assert ledger.samples("a", across_ranks=True) == ledger.samples("a")
