"""The node that hands out outputs: sums, policies, forward mode, second derivatives."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import forward_ad
from torch.utils._python_dispatch import TorchDispatchMode

import headwise as hw
from tests.criterion.samples import five_maps, five_targets, five_terms, squared


@st.composite
def readings(draw):
    """Random slices of a tensor of six channels; the whole, single channels and overlaps included."""
    num = draw(st.integers(1, 5))
    found = []
    for _ in range(num):
        start = draw(st.integers(0, 5))
        stop = draw(st.integers(start + 1, 6))
        found.append(draw(st.sampled_from([f"x[:, {start}:{stop}]", f"x[:, {start}]", "x", f"x[:, {start - 6}]"])))
    return found


@given(readings(), st.integers(0, 2**31 - 1))
@settings(deadline=None, max_examples=60)
def test_the_summed_gradient_is_that_of_plain_indexing(paths, seed):
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(3, 6, 2, generator=draw, dtype=torch.float64).requires_grad_()
    factors = [torch.randn((), generator=draw, dtype=torch.float64) for _ in paths]
    terms = [
        hw.Term(str(i), lambda o, factor=factor: (factor * o**3).sum(), 1.0, output=path)
        for i, (path, factor) in enumerate(zip(paths, factors, strict=True))
    ]
    read = {int(channel) for path in paths for channel in eval(path, {"x": torch.arange(6)[None]}).flatten()}
    unread = [f"x[:, {channel}]" for channel in range(6) if channel not in read]
    hw.Criterion(terms, unread=unread)({"x": x}, {}).total.backward()
    plain = x.detach().clone().requires_grad_()
    total = sum((f * eval(p, {"x": plain}) ** 3).sum() for p, f in zip(paths, factors, strict=True))
    total.backward()
    torch.testing.assert_close(x.grad, plain.grad, rtol=1e-12, atol=1e-14)


def test_slices_of_the_last_dimension():
    x = torch.randn(2, 5, 4, dtype=torch.float64, requires_grad=True)
    terms = [
        hw.Term("left", lambda o: (o**2).sum(), 1.0, output="x[..., 0:2]"),
        hw.Term("right", lambda o: (o**3).sum(), 1.0, output="x[..., 2:]"),
    ]
    hw.Criterion(terms)({"x": x}, {}).total.backward()
    torch.testing.assert_close(x.grad, torch.cat([2 * x[..., :2], 3 * x[..., 2:] ** 2], -1).detach())


def penalty(criterion, maps, targets):
    """Gradient of a penalty on the gradient: second derivatives through losses and junction."""
    total = criterion({"maps": maps}, targets).total
    (gradient,) = torch.autograd.grad(total, maps, create_graph=True)
    (total + gradient.square().sum()).backward()
    found, maps.grad = maps.grad.clone(), None
    return found


def test_double_backward_equals_plain_autograd_with_and_without_books():
    terms = [
        hw.Term("a", lambda o, t: ((o - t.unsqueeze(1)) ** 4).sum(), output="maps[:, 0:4]", target="radius"),
        hw.Term("b", lambda o, t: ((o - t.unsqueeze(1)) ** 4).sum(), output="maps[:, 2:7]", target="sin", weight=0.5),
    ]
    targets = {name: five_targets(dtype=torch.float64)[name] for name in ("radius", "sin")}
    maps = five_maps(dtype=torch.float64)
    criterion = hw.Criterion(terms)
    found = penalty(criterion, maps, targets)

    def plain(_outputs, targets):
        a = ((maps[:, 0:4] - targets["radius"].unsqueeze(1)) ** 4).sum() / targets["radius"].numel()
        b = ((maps[:, 2:7] - targets["sin"].unsqueeze(1)) ** 4).sum() / targets["sin"].numel()
        return type("", (), {"total": a + 0.5 * b})

    torch.testing.assert_close(found, penalty(plain, maps, targets), rtol=1e-10, atol=1e-14)
    with hw.Ledger(criterion) as ledger:
        assert torch.equal(penalty(criterion, maps, targets), found)
        assert ledger.read()["a"].finite


def test_double_backward_is_equal_to_the_bit_with_books_where_terms_share_channels():
    for dtype in (torch.float32, torch.float64):
        criterion, maps, targets = hw.Criterion(five_terms()), five_maps(dtype=dtype), five_targets(dtype=dtype)
        found = penalty(criterion, maps, targets)
        with hw.Ledger(criterion):
            assert torch.equal(penalty(criterion, maps, targets), found)


def test_double_backward_through_the_library_losses():
    targets, maps = five_targets(size=6, dtype=torch.float64), five_maps(size=6, dtype=torch.float64)
    criterion = hw.Criterion(five_terms()[1:], unread=["maps[:, 0:2]"])
    assert torch.autograd.gradgradcheck(lambda m: criterion({"maps": m}, targets).total, (maps,))


@pytest.mark.parametrize("books", [False, True])
def test_forward_mode(books):
    criterion, targets = hw.Criterion(five_terms()), five_targets(dtype=torch.float64)
    maps, direction = five_maps(dtype=torch.float64), five_maps(seed=5, dtype=torch.float64).detach()
    if books:
        hw.Ledger(criterion)
    breakdown = criterion({"maps": maps}, targets)
    rows = [torch.autograd.grad(e.weighted, maps, retain_graph=True)[0] for e in breakdown.values()]
    with forward_ad.dual_level():
        dual = criterion({"maps": forward_ad.make_dual(maps, direction)}, targets)
        for entry, row in zip(dual.values(), rows, strict=True):
            tangent = forward_ad.unpack_dual(entry.weighted).tangent
            torch.testing.assert_close(tangent, (row * direction).sum())


class Policy:
    """A loss whose value is finite and whose gradient is not: the square root at 0."""

    @staticmethod
    def root(output, target):
        return (output * 0).abs().sqrt().sum()

    @classmethod
    def criterion(cls, **options):
        terms = [
            hw.Term("good", squared, output="maps", target="t"),
            hw.Term("bad", cls.root, output=("maps", "side"), target="t"),
            hw.Term("side", squared, output="side", target="t"),
        ]
        terms[1] = hw.Term("bad", lambda a, b, t: cls.root(a, t) + b.sum(), output=("maps", "side"), target="t")
        return hw.Criterion(terms, **options)

    @staticmethod
    def outputs():
        return {name: torch.full((2, 3), 2.0, requires_grad=True) for name in ("maps", "side")}


def test_keep_passes_on_and_the_books_name_the_term():
    criterion, outputs = Policy.criterion(), Policy.outputs()
    with hw.Ledger(criterion) as ledger:
        criterion(outputs, {"t": torch.zeros(2, 3)}).total.backward()
        books = ledger.read()
    assert outputs["maps"].grad is not None
    assert outputs["maps"].grad.isnan().all()
    assert [books[name].finite for name in books] == [True, False, True]
    assert books["bad"].outputs["maps"].finite is False
    assert books["bad"].outputs["side"].finite is True
    assert torch.isfinite(torch.tensor(books["bad"].value))


def test_drop_leaves_out_all_gradients_of_that_term_alone():
    criterion, outputs = Policy.criterion(on_nonfinite="drop"), Policy.outputs()
    with hw.Ledger(criterion) as ledger:
        criterion(outputs, {"t": torch.zeros(2, 3)}).total.backward()
        assert not ledger.read()["bad"].finite
    for output in outputs.values():
        torch.testing.assert_close(output.grad, 2 * output.detach() / 6)


def test_raise_names_term_and_output():
    criterion, outputs = Policy.criterion(on_nonfinite="raise"), Policy.outputs()
    breakdown = criterion(outputs, {"t": torch.zeros(2, 3)})
    with pytest.raises(hw.NonFiniteGradientError, match=r"not finite: term 'bad' at output 'maps'\."):
        breakdown.total.backward()
    assert outputs["side"].grad is None


def test_the_ledger_may_set_the_policy_while_it_is_open():
    criterion = Policy.criterion()
    with hw.Ledger(criterion, on_nonfinite="drop"):
        assert criterion.on_nonfinite == "drop"
    assert criterion.on_nonfinite == "keep"


class NoSync(TorchDispatchMode):
    """Raises on what waits for the device or changes shape with the data."""

    forbidden = ("_local_scalar_dense", "nonzero", "masked_select", "bincount", "unique", "is_nonzero", "item")

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        indices = args[1] if name in ("index", "index_put_", "index_put") else ()
        boolean = any(i is not None and i.dtype in (torch.bool, torch.uint8) for i in indices)
        if boolean or name in self.forbidden:
            raise AssertionError(f"{name} waits for the device")
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("policy", ["keep", "drop"])
@pytest.mark.parametrize("books", [False, True])
def test_no_operator_waits_for_the_device(books, policy):
    criterion, targets, maps = hw.Criterion(five_terms(), on_nonfinite=policy), five_targets(), five_maps()
    ledger = hw.Ledger(criterion, channels=True) if books else None
    with NoSync():
        for _ in range(3):
            breakdown = criterion({"maps": maps}, targets)
            breakdown.total.backward()
            breakdown.log("x")
    assert ledger is None or len(ledger.history()) == 3


def test_the_mode_would_notice():
    with NoSync(), pytest.raises(AssertionError, match="waits"):
        torch.ones(2)[torch.tensor([True, False])]
    with NoSync(), pytest.raises(AssertionError, match="waits"):
        torch.ones(2).sum().item()


def _two_of(policy="keep"):
    """The root of an element has no finite slope at 0."""
    terms = [
        hw.Term("root", lambda o, t: (o - t).sqrt().sum(), 1.0, output="y", target="t"),
        hw.Term("square", hw.losses.squared_error, output="y", target="t", weight=0.5),
    ]
    criterion = hw.Criterion(terms, on_nonfinite=policy)
    return criterion, lambda y: criterion({"y": y}, {"t": torch.zeros_like(y)}).total


@pytest.mark.parametrize("books", [False, True])
def test_gradients_by_sample_under_vmap(books):
    criterion, total = _two_of()
    y = torch.rand(4, 3, dtype=torch.float64) + 0.5
    ledger = hw.Ledger(criterion) if books else None
    by_sample = torch.func.vmap(torch.func.grad(total))(y)
    if ledger is not None:
        ledger.close()
    torch.testing.assert_close(by_sample, 0.5 / y.sqrt() + y / 3, rtol=1e-12, atol=0)


def test_second_derivatives_by_torch_func_again_and_again():
    """Constants that were made inside of a transform were kept, and no later call could use them."""
    y = torch.rand(7, dtype=torch.float64) + 0.5
    for _ in range(3):
        _, total = _two_of()
        found = torch.func.hessian(total)(y).diagonal()
        torch.testing.assert_close(found, -0.25 * y**-1.5 + 1 / 7, rtol=1e-12, atol=0)
        total(y.clone().requires_grad_()).backward()


def test_policies_hold_inside_of_transforms():
    y = torch.tensor([[0.0, 1.0, 2.0], [1.0, 2.0, 3.0]])
    _, dropping = _two_of("drop")
    found = torch.func.vmap(torch.func.grad(dropping))(y)
    torch.testing.assert_close(found, torch.stack([y[0] / 3, 0.5 / y[1].sqrt() + y[1] / 3]))
    torch.testing.assert_close(torch.func.grad(dropping)(y[0]), y[0] / 3)
    _, raising = _two_of("raise")
    with pytest.raises(hw.NonFiniteGradientError, match="term 'root'"):
        torch.func.grad(raising)(y[0])
    with pytest.raises(ValueError, match=r"vmap has no values to ask\. Use 'drop'"):
        torch.func.vmap(torch.func.grad(raising))(y)


def test_a_feature_junction_of_a_text_or_of_several_features():
    with pytest.raises(ValueError, match=r"junction 'trunk': readers are a list of distinct names, .* found 'ab'"):
        hw.Junction("trunk", "ab")
    with pytest.raises(ValueError, match="junction 'trunk': one feature, a tensor; found list"):
        hw.Junction("trunk", ["a", "b"])([torch.ones(2), torch.ones(2)])
