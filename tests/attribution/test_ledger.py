"""The books against brute force: one `autograd.grad` per term."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import headwise as hw
from headwise import losses
from tests.criterion.samples import NAMES, Net, five_maps, five_targets, five_terms, gradients, images, squared


def rows_of(criterion: hw.Criterion, maps: Tensor, targets: dict[str, Tensor]) -> dict[str, Tensor]:
    """Each term's gradient at the output, the slow way."""
    breakdown = criterion({"maps": maps}, targets)
    return {n: torch.autograd.grad(e.weighted, maps, retain_graph=True)[0].double() for n, e in breakdown.items()}


def assert_books_are(
    books: hw.attribution.Books, criterion: hw.Criterion, maps: Tensor, targets: Any, tol: float = 1e-5
) -> None:
    criterion.recorder, recorder = None, criterion.recorder
    rows = rows_of(criterion, maps, targets)
    with torch.no_grad():
        breakdown = criterion({"maps": maps}, targets)
    criterion.recorder = recorder
    assert books.names == tuple(breakdown)
    assert books.total == pytest.approx(float(breakdown.total), rel=tol)
    for name, entry in breakdown.items():
        assert books[name].value == pytest.approx(float(entry.value), rel=tol)
        assert books[name].weight == pytest.approx(float(entry.weight))
        assert books[name].weighted == pytest.approx(float(entry.weighted), rel=tol)
        assert books[name].share == pytest.approx(float(entry.weighted / breakdown.total), rel=tol)
        assert books[name].grad_norm == pytest.approx(float(rows[name].norm()), rel=tol)
        assert books[name].finite
        assert books[name].trained
    cosine = float((rows["sin"] * rows["cos"]).sum() / rows["sin"].norm() / rows["cos"].norm())
    assert books.cosine("sin", "cos") == pytest.approx(cosine, rel=tol)
    assert books.cosine("cos", "sin") == books.cosine("sin", "cos")
    assert books.inner("sin", "cos") == pytest.approx(float((rows["sin"] * rows["cos"]).sum()), rel=tol)
    assert books.cosine("sin", "radius") is books.inner("sin", "radius") is None


def test_the_books_are_what_brute_force_finds():
    criterion, maps, targets = hw.Criterion(five_terms(sin=0.5, line=3.0)), five_maps(), five_targets()
    with hw.Ledger(criterion, channels=True) as ledger:
        criterion({"maps": maps}, targets).total.backward()
        books = ledger.read()
        assert_books_are(books, criterion, maps, targets)
        rows = rows_of(criterion, maps, targets)
    assert list(books["sin"].outputs) == ["maps[:, 4:6]"]
    channels = books["sin"].outputs["maps[:, 4:6]"].channels
    assert channels == pytest.approx(torch.linalg.vector_norm(rows["sin"][:, 4:6], dim=(0, 2, 3)).tolist(), rel=1e-5)
    assert books["radius"].outputs["maps[:, 6]"].channels == pytest.approx([books["radius"].grad_norm], rel=1e-6)


def test_the_layout_of_a_gradient_changes_no_number():
    """Channels last, as networks of convolutions run: rows of one shape are put together whatever their strides."""
    weights = {"a": 1.0, "b": 2.0, "c": 0.5, "d": 3.0}
    terms = [hw.Term(n, squared, output=n, target=f"{n}_target", weight=weight) for n, weight in weights.items()]
    found = []
    for layout in (torch.contiguous_format, torch.channels_last):
        generator = torch.Generator().manual_seed(0)
        drawn = {name: torch.randn(2, 3, 4, 5, generator=generator) for name in "abcd"}
        outputs = {name: value.contiguous(memory_format=layout).requires_grad_() for name, value in drawn.items()}
        targets = {f"{name}_target": torch.zeros_like(value) for name, value in outputs.items()}
        criterion = hw.Criterion(terms)
        with hw.Ledger(criterion) as ledger:
            criterion(outputs, targets).total.backward()
            books = ledger.read()
        assert books.balanced
        found.append([books[name].grad_norm for name in "abcd"])
    assert found[1] == pytest.approx(found[0], rel=1e-6)
    expected = [
        weight * 2 * float(outputs[name].detach().double().norm()) / (2 * 3 * 4 * 5) for name, weight in weights.items()
    ]
    assert found[1] == pytest.approx(expected, rel=1e-6)


def test_partial_overlap_is_compared_where_both_read():
    x = torch.randn(3, 6, 4, dtype=torch.float64, requires_grad=True)
    terms = [
        hw.Term("a", lambda o: (o**2).sum(), 1.0, output="x[:, 0:4]"),
        hw.Term("b", lambda o: (o**3).sum(), 1.0, output="x[:, 2:6]"),
        hw.Term("c", lambda o: o.sum(), 1.0, output="x[:, 3]"),
    ]
    criterion = hw.Criterion(terms)
    with hw.Ledger(criterion) as ledger:
        criterion({"x": x}, {}).total.backward()
        books = ledger.read()
    a, b = 2 * x[:, 2:4].detach(), 3 * x[:, 2:4].detach() ** 2
    assert books.cosine("a", "b") == pytest.approx(float((a * b).sum() / a.norm() / b.norm()), abs=1e-14)
    third = 2 * x[:, 3].detach()
    expected = float(third.sum() / third.norm() / math.sqrt(third.numel()))
    assert books.cosine("a", "c") == pytest.approx(expected, abs=1e-14)


def step(criterion: hw.Criterion, network: Any, image: Tensor, targets: Any, factor: float = 1.0) -> list[Tensor]:
    network.zero_grad()
    (criterion(network(image), targets).total * factor).backward()
    return gradients(network)


class Checkpointed(Net):
    def forward(self, image: Tensor) -> dict[str, Tensor]:
        features = checkpoint(lambda x: torch.relu(self.trunk(x)), image, use_reentrant=False)
        return {"maps": checkpoint(self.head, features, use_reentrant=False)}


NETWORKS: dict[str, Callable[[], Any]] = {
    "plain": Net,
    "compiled": lambda: torch.compile(Net(), backend="aot_eager"),
    "checkpointed": Checkpointed,
}


@pytest.mark.parametrize("kind", NETWORKS)
def test_gradients_are_equal_to_the_bit_with_and_without_books(kind):
    network, image, targets = NETWORKS[kind](), images(), five_targets()
    criterion = hw.Criterion(five_terms(sin=0.5))
    without = step(criterion, network, image, targets)
    with hw.Ledger(criterion, channels=True) as ledger:
        with_books = step(criterion, network, image, targets)
        books = ledger.read()
    again = step(criterion, network, image, targets)
    for one, two, three in zip(without, with_books, again, strict=True):
        assert torch.equal(one, two)
        assert torch.equal(one, three)
    assert_books_are(books, criterion, network(image)["maps"].detach().requires_grad_(), targets)


@pytest.mark.parametrize("factor", [65536.0, 1 / 4, 3.0])
def test_the_factor_of_the_loop_is_divided_out(factor):
    criterion, network, targets = hw.Criterion(five_terms()), Net(), five_targets()
    with hw.Ledger(criterion) as ledger:
        step(criterion, network, images(), targets)
        plain = ledger.read()
        step(criterion, network, images(), targets, factor)
        scaled = ledger.read()
    assert scaled.step == plain.step + 1
    for name in NAMES:
        assert scaled[name].grad_norm == pytest.approx(plain[name].grad_norm, rel=1e-5)
        assert scaled[name].value == plain[name].value
    assert scaled.cosine("sin", "cos") == pytest.approx(plain.cosine("sin", "cos"), rel=1e-5)


def test_autocast_reads_the_same_within_its_precision():
    criterion, network, targets = hw.Criterion(five_terms()), Net(), five_targets()
    with hw.Ledger(criterion) as ledger:
        step(criterion, network, images(), targets)
        plain = ledger.read()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            breakdown = criterion(network(images()), targets)
        network.zero_grad()
        (breakdown.total * 1024).backward()
        half = ledger.read()
    for name in NAMES:
        assert half[name].grad_norm == pytest.approx(plain[name].grad_norm, rel=3e-2)
        assert half[name].value == pytest.approx(plain[name].value, rel=3e-2)


def test_accumulation_books_one_step():
    """Two micro-batches under totaled denominators read like the whole batch."""
    terms = [term for term in five_terms() if term.name != "region"]
    criterion = hw.Criterion(terms, unread=["maps[:, 0:2]"])
    maps, targets = five_maps(4), five_targets(4)
    with hw.Ledger(criterion) as ledger:
        criterion({"maps": maps}, targets).total.backward()
        whole = ledger.read()
    parts = [slice(0, 1), slice(1, 4)]
    micro = [{name: tensor[part] for name, tensor in targets.items()} for part in parts]
    denominators = hw.pool_denominators(criterion, micro)
    with hw.Ledger(criterion, micro_batches=2) as ledger:
        for part, each in zip(parts, micro, strict=True):
            (criterion({"maps": maps[part]}, each, denominators).total * 512).backward()
        pooled = ledger.read()
        assert len(ledger.history()) == 1
    for name in pooled:
        assert pooled[name].value == pytest.approx(whole[name].value, rel=1e-5)
        assert pooled[name].grad_norm == pytest.approx(whole[name].grad_norm, rel=1e-5)
        assert pooled[name].share == pytest.approx(whole[name].share, rel=1e-5)
    assert pooled.cosine("sin", "cos") == pytest.approx(whole.cosine("sin", "cos"), rel=1e-5)


def gradient_of(tensor: Tensor) -> Tensor:
    assert tensor.grad is not None
    return tensor.grad


def test_accumulation_with_the_usual_mean_of_means():
    criterion = hw.Criterion([hw.Term("x", squared, output="x", target="t")])
    x = torch.randn(4, 3, requires_grad=True)
    with hw.Ledger(criterion, micro_batches=2) as ledger:
        for part in (slice(0, 2), slice(2, 4)):
            (criterion({"x": x[part]}, {"t": torch.zeros(2, 3)}).total / 2).backward()
        books = ledger.read()
    assert books["x"].value == pytest.approx(float(x.detach().square().mean()), rel=1e-6)
    assert books["x"].grad_norm == pytest.approx(float(torch.linalg.vector_norm(gradient_of(x))), rel=1e-6)


def test_one_backward_per_term_reads_like_one_on_the_sum():
    criterion, maps, targets = hw.Criterion(five_terms()), five_maps(), five_targets()
    with hw.Ledger(criterion) as ledger:
        criterion({"maps": maps}, targets).total.backward()
        whole = ledger.read()
        for entry in criterion({"maps": maps}, targets).values():
            entry.weighted.backward(retain_graph=True)
        single = ledger.read()
    for name in NAMES:
        assert single[name].grad_norm == pytest.approx(whole[name].grad_norm, rel=1e-6)
        assert single[name].value == whole[name].value


def test_terms_on_different_heads_need_no_retained_graph():
    heads = nn.ModuleDict({name: nn.Linear(3, 2) for name in "ab"})
    criterion = hw.Criterion([hw.Term(n, squared, output=n, target="t") for n in "ab"])
    x = torch.randn(4, 3)
    with hw.Ledger(criterion) as ledger:
        breakdown = criterion({n: heads[n](x) for n in "ab"}, {"t": torch.zeros(4, 2)})
        for entry in breakdown.values():
            entry.weighted.backward()
        assert all(each.trained for each in ledger.read().values())


def test_a_term_left_out_of_the_backward_pass_is_told():
    criterion, maps = hw.Criterion(five_terms()), five_maps()
    with hw.Ledger(criterion) as ledger:
        breakdown = criterion({"maps": maps}, five_targets())
        (breakdown["sin"].weighted + breakdown["cos"].weighted).backward()
        books = ledger.read()
    assert [books[name].trained for name in NAMES] == [False, False, False, True, True]
    assert "no backward" in str(books)


def test_calls_without_backward_leave_no_trace():
    criterion = hw.Criterion(five_terms())
    ledger = hw.Ledger(criterion)
    with pytest.raises(RuntimeError, match="empty: no backward pass"):
        ledger.read()
    with torch.no_grad():
        criterion({"maps": five_maps()}, five_targets())
    criterion({"maps": five_maps()}, five_targets())
    criterion({"maps": five_maps()}, five_targets()).total.backward()
    assert len(ledger.history()) == 1


def test_history_is_a_ring_oldest_first():
    criterion = hw.Criterion([hw.Term("x", squared, 1.0, output="x", target="t")])
    ledger = hw.Ledger(criterion, capacity=3)
    for number in range(5):
        x = torch.full((1, 1), float(number), requires_grad=True)
        criterion({"x": x}, {"t": torch.zeros(1, 1)}).total.backward()
    history = ledger.history()
    assert [books.step for books in history] == [2, 3, 4]
    assert [books["x"].value for books in history] == [4, 9, 16]
    assert ledger.table() == str(history[-1])
    ledger.close()
    assert ledger.read()["x"].value == 16
    assert criterion.recorder is None


def test_history_over_two_structures():
    term = hw.Term("x", squared, 1.0, output="levels[*]", target="t")
    criterion = hw.Criterion([term])
    ledger = hw.Ledger(criterion)
    for num in (2, 3, 3):
        levels = [torch.ones(1, 1, requires_grad=True) for _ in range(num)]
        criterion({"levels": levels}, {"t": torch.zeros(1, 1)}).total.backward()
    assert [books["x"].value for books in ledger.history()] == [2, 3, 3]
    assert list(ledger.read()["x"].outputs) == ["levels[0]", "levels[1]", "levels[2]"]


def test_a_factor_of_1_is_not_said_however_it_was_rounded():
    criterion = hw.Criterion([hw.Term("a", losses.squared_error, output="y", target="t")])
    y = torch.ones(3, requires_grad=True)
    with hw.Ledger(criterion, micro_batches=10) as ledger:
        for _ in range(10):
            (criterion({"y": y}, {"t": torch.zeros(3)}).total * torch.tensor(0.1)).backward()
        books = ledger.read()
    assert books.factor.value == pytest.approx(1)
    assert books.factor.value != 1
    assert "factor" not in str(books)


def test_the_table_fits_a_hundred_columns():
    criterion = hw.Criterion([hw.Term("a_very_long_name_of_a_term_indeed", squared, output="x", target="t")])
    with hw.Ledger(criterion) as ledger:
        criterion({"x": torch.ones(1, 1, requires_grad=True)}, {"t": torch.zeros(1, 1)}).total.backward()
        assert max(len(line) for line in ledger.table().splitlines()) <= 100


def test_long_names_are_told_apart_in_the_table():
    terms = [hw.Term(f"binary_cross_entropy_with_logits(heads.{n})", squared, output="x", target="t") for n in "ab"]
    criterion = hw.Criterion(terms)
    with hw.Ledger(criterion) as ledger:
        criterion({"x": torch.ones(1, 1, requires_grad=True)}, {"t": torch.zeros(1, 1)}).total.backward()
        rows = [line.split()[0] for line in ledger.table().splitlines()[2:4]]
    assert rows == ["binary_cross_..gits(heads.a)", "binary_cross_..gits(heads.b)"]


def test_a_criterion_with_open_books_can_be_copied():
    terms = [hw.Term("x", squared, output="x", target="t", weight=0.5), hw.Term("y", squared, output="y", target="t")]
    outputs, targets = {name: torch.ones(2, 3, requires_grad=True) for name in "xy"}, {"t": torch.zeros(2, 3)}
    criterion = hw.Criterion(terms, compile=True)
    criterion.advance(3)
    with hw.Ledger(criterion) as ledger:
        criterion(outputs, targets).total.backward()
        twin, pickled = copy.deepcopy(criterion), pickle.loads(pickle.dumps(criterion))
        assert criterion.recorder is ledger
    for other in (twin, pickled):
        assert other.recorder is None
        assert (other.step, other.weights["x"]) == (3, 0.5)
        assert other(outputs, targets).total.isfinite()


def test_two_ledgers_are_refused():
    criterion = hw.Criterion(five_terms())
    with hw.Ledger(criterion), pytest.raises(ValueError, match="kept by another Ledger"):
        hw.Ledger(criterion)
    with pytest.raises(ValueError, match="at least 1"):
        hw.Ledger(criterion, capacity=0)


class TwoHeads(nn.Module):
    """Two heads on one feature, with a junction there."""

    def __init__(self, wrap: bool) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(3)
            self.trunk, self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 3), nn.Linear(6, 3)
        self.junction = hw.Junction("trunk", ["a", "b"])
        self.wrap = wrap

    def heads(self, features: Tensor) -> tuple[Tensor, Tensor]:
        left, right = self.junction(features)
        return self.a(left), self.b(right)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        features = torch.tanh(self.trunk(x))
        a, b = checkpoint(self.heads, features, use_reentrant=False) if self.wrap else self.heads(features)
        return {"a": a, "b": b}


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # Dynamo's, in torch 2.11
@pytest.mark.parametrize("kind", ["plain", "checkpointed", "compiled"])
def test_a_junction_at_a_shared_feature(kind):
    network: Any = TwoHeads(kind == "checkpointed")
    plain = copy.deepcopy(network)
    terms = [hw.Term(n, squared, output=n, target=n, weight=w) for n, w in (("a", 1.0), ("b", 0.5))]
    criterion = hw.Criterion(terms)
    x, targets = torch.randn(5, 4), {"a": torch.randn(5, 3), "b": torch.randn(5, 3)}
    without = step(criterion, plain, x, targets)
    with hw.Ledger(criterion, network) as ledger:
        runner = torch.compile(network, backend="aot_eager") if kind == "compiled" else network
        for factor in (1.0, 128.0):
            found = step(criterion, runner, x, targets, factor)
            books = ledger.read()
            assert all(torch.equal(one, two / factor) for one, two in zip(without, found, strict=True))
            features = torch.tanh(network.trunk(x)).detach().requires_grad_()
            breakdown = criterion({"a": network.a(features), "b": network.b(features)}, targets)
            ga, gb = (torch.autograd.grad(breakdown[n].weighted, features)[0] for n in "ab")
            found_books = books.features["trunk"]
            assert found_books.grad_norm["a"] == pytest.approx(float(ga.norm()), rel=1e-5)
            assert found_books.grad_norm["b"] == pytest.approx(float(gb.norm()), rel=1e-5)
            cosine = float((ga * gb).sum() / ga.norm() / gb.norm())
            assert found_books.cosine("a", "b") == pytest.approx(cosine, rel=1e-4)
            assert found_books.cosine("b", "a") == found_books.cosine("a", "b")
    assert network.junction.slot is None


def test_a_network_with_open_books_can_be_copied():
    network, criterion = TwoHeads(False), hw.Criterion([hw.Term(n, squared, output=n, target=n) for n in "ab"])
    with hw.Ledger(criterion, network):
        step(criterion, network, torch.randn(2, 4), {"a": torch.zeros(2, 3), "b": torch.zeros(2, 3)})
        assert network.junction.slot is not None
        assert copy.deepcopy(network).junction.slot is None
        assert pickle.loads(pickle.dumps(network)).junction.slot is None


def test_the_compiled_criterion_keeps_the_same_books():
    maps, targets = five_maps(), five_targets()
    criterion = hw.Criterion(five_terms(sin=0.5), compile=True)
    criterion({"maps": maps}, targets).total.backward()
    without, maps.grad = maps.grad, None
    with hw.Ledger(criterion) as ledger:
        criterion({"maps": maps}, targets).total.backward()
        assert_books_are(ledger.read(), hw.Criterion(five_terms(sin=0.5)), maps, targets)
    torch.testing.assert_close(maps.grad, without)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # Dynamo's, at the break
def test_evaluation_under_an_outer_compile_with_books_breaks_the_graph_but_counts():
    criterion, maps, targets = hw.Criterion(five_terms()), five_maps(), five_targets()
    criterion({"maps": maps}, targets)
    with hw.Ledger(criterion) as ledger:
        torch.compile(lambda m: criterion({"maps": m}, targets).total, backend="aot_eager")(maps).backward()
        assert_books_are(ledger.read(), criterion, maps, targets)


def test_places_of_one_output_have_names_of_their_own():
    """Was: two places beside one that a third reads had one name; the order of paths was chance."""
    reads = {"a": (0, 4), "b": (1, 5), "c": (2, 3)}
    terms = [hw.Term(n, losses.squared_error, output=f"m[:, {i}:{j}]", target=n) for n, (i, j) in reads.items()]
    criterion = hw.Criterion(terms)
    maps = torch.randn(2, 5, 3, requires_grad=True)
    with hw.Ledger(criterion) as ledger:
        criterion({"m": maps}, {n: torch.zeros(2, j - i, 3) for n, (i, j) in reads.items()}).total.backward()
        sites = ledger.read().gram.sites
    a, b, c = (f"m[:, {i}:{j}]" for i, j in reads.values())
    assert sites == (a, f"{a} & {b} (1)", f"{a} & {b} & {c}", f"{a} & {b} (3)", b)


def test_channels_whose_number_varies():
    """A layout serves calls of any number of channels; where their norms are booked, the second was torch's error."""
    criterion = hw.Criterion([hw.Term("depth", losses.squared_error, output="y", target="t")])
    leaf = torch.ones((), requires_grad=True)
    with hw.Ledger(criterion, channels=True) as ledger:
        for num in (3, 4, 2):
            criterion({"y": leaf * torch.ones(2, num, 5)}, {"t": torch.zeros(2, num, 5)}).total.backward()
        found = [books["depth"].outputs["y"].channels for books in ledger.history()]
    for num, channels in zip((3, 4, 2), found, strict=True):
        assert channels == pytest.approx([2 / (10 * num) * 10**0.5] * num)


@pytest.mark.parametrize("scale", [2.0**700, 2.0**-700])
def test_a_factor_whose_square_is_beyond_all_numbers(scale):
    """Reading was an OverflowError, or a ZeroDivisionError."""
    y = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    criterion = hw.Criterion([hw.Term("depth", losses.squared_error, output="y", target="t")])
    with hw.Ledger(criterion) as ledger:
        (criterion({"y": y}, {"t": torch.ones(3, dtype=torch.float64)}).total * scale).backward()
        books = ledger.read()
    assert books["depth"].value == books.total == 1.0


def test_channels_that_are_no_bool_are_refused():
    criterion = hw.Criterion([hw.Term("depth", losses.squared_error, output="y", target="t")])
    with pytest.raises(ValueError, match="channels is True or False; found 'no'"):
        hw.Ledger(criterion, channels="no")  # type: ignore[arg-type]
    assert criterion.recorder is None
