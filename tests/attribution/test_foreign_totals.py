"""Books of a criterion, or a model, that Headwise did not write: tied to the number that backward was called on.

Where a total cannot be told apart into the losses that were returned, a part of its own ("in no loss") is right too:
only the sum is checked then.
"""

import pytest
import torch
from torch import nn

import headwise as hw
from tests.expect import near, right_or_refused

KINDS = (ValueError, RuntimeError)


def outputs_of(width=3):
    torch.manual_seed(0)
    return nn.Linear(4, width), torch.randn(8, 4)


def wrapped_books(criterion, width=3, total=lambda found: found["loss"], names=None):
    network, x = outputs_of(width)
    wrapped = hw.attribution.wrap(criterion, names)
    number = total(wrapped(network(x), None))
    number.backward()
    return wrapped.ledger.read(), float(number.detach())


def check_total(books, number):
    near(books.total, number, "total")
    near(sum(each.share for each in books.values()), 1.0, "sum of the shares", 1e-4)
    assert all(each.share >= -1e-6 for each in books.values()), "a share below 0, of losses that are all positive"


def test_a_loss_that_is_written_twice():
    """Was: `5 * iou` in the total and again in the return: the main loss has weight 0, "(no backward)"."""

    def criterion(y, batch):
        box, score = y[:, 0].square().mean(), y[:, 1].square().mean()
        return {"loss": 5 * box + score, "box": 5 * box, "score": score}

    with right_or_refused("box", kinds=KINDS):
        books, number = wrapped_books(criterion)
        check_total(books, number)
        near(books["score"].weight, 1.0, "weight of score")


def test_parts_divided_again_on_return():
    """Was: in (total, part / n, part / n), each unsqueezed, the total is a loss of 100 %, the parts not trained."""

    def criterion(y, batch):
        a, b, c = (y[:, number].square().mean() for number in range(3))
        return tuple(each.unsqueeze(0) for each in ((a + b + c) / 2, a / 2, b / 2, c / 2))

    names = ("loss", "focal", "pull", "push")
    with right_or_refused("focal", kinds=KINDS):
        books, number = wrapped_books(criterion, total=lambda found: found[0].mean(), names=names)
        check_total(books, number)
        assert "loss" not in books or books["loss"].share < 0.99, "the total is booked as a loss of its own"


def test_a_subtotal_beside_its_parts():
    """Was: a group of losses and its own sum are both booked: 3.06 for 1.96."""

    def criterion(y, batch):
        a, b, c, d = (y[:, number].square().mean() for number in range(4))
        return {"cls": a, "box": b, "loss_det": a + b, "dice": c, "bce": d, "loss_seg": c + d}

    with right_or_refused("loss_seg", kinds=KINDS):
        check_total(*wrapped_books(criterion, 4, lambda found: found["loss_det"] + found["loss_seg"]))


def test_a_subtotal_beside_its_parts_and_the_total():
    """Was: a generator's loss and its two parts are booked: 1.96 for 1.10."""

    def criterion(y, batch):
        a, b, c = (y[:, number].square().mean() for number in range(3))
        group = a + b
        return {"loss": group + c, "group": group, "mel": c, "first": a, "second": b}

    with right_or_refused("group", kinds=KINDS):
        check_total(*wrapped_books(criterion))


class Watched(nn.Module):
    """Returns a metric that carries a graph beside its losses."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.trunk, self.head = nn.Linear(4, 8), nn.Linear(8, 5)

    def forward(self, x):
        y = self.head(self.trunk(x).relu())
        p = y.softmax(-1).mean(0)
        perplexity = (-(p * (p + 1e-7).log()).sum()).exp()
        contrast, diversity = y.square().mean(), (5 - perplexity) / 5
        return {
            "loss": contrast + 0.1 * diversity,
            "perplexity": perplexity,
            "contrastive_loss": contrast,
            "diversity_loss": diversity,
        }


def test_a_metric_with_a_graph():
    """Was: the perplexity is booked as a loss of share -432 %, the others as 513 % and 19 %."""
    model = Watched()
    watched = hw.attribution.watch(model, ["head"])
    with right_or_refused("perplexity", kinds=KINDS):
        loss = model(torch.randn(8, 4))["loss"]
        loss.backward()
        books = watched.ledger.read()
        check_total(books, float(loss.detach()))
        near(books["contrastive_loss"].share, books["contrastive_loss"].value / float(loss.detach()), "share")


def test_learned_uncertainty():
    """Was: the log-variances in the total belong to no loss, and are missing: 0.81 for 1.27."""
    torch.manual_seed(0)
    logvar = torch.tensor([0.4, 0.5], requires_grad=True)

    def criterion(y, batch):
        depth, normal = y[:, 0].square().mean(), (y[:, 1] - 1).abs().mean()
        total = (-logvar[0]).exp() * depth + (-logvar[1]).exp() * normal + logvar.sum() / 2
        return {"loss": total, "depth": depth, "normal": normal}

    with right_or_refused("loss", kinds=KINDS):
        books, number = wrapped_books(criterion)
        near(books["depth"].weight, float((-logvar[0]).exp().detach()), "weight of depth")
        check_total(books, number)


def test_a_detached_loss_in_the_total():
    """Was: a loss without a graph is in the number that the loop prints, and not in the books' total."""

    def criterion(y, batch):
        first, second = y[:, 0].square().mean(), (y[:, 1] - 3).square().mean().detach()
        return {"loss": first + 2 * second, "first": first, "second": second}

    with right_or_refused("second", kinds=KINDS):
        books, number = wrapped_books(criterion)
        check_total(books, number)
        assert books["first"].share < 0.99, "one loss is said to be all of the total"


def test_a_balancer_that_takes_gradients_itself():
    """Was: weights 1 and norms of the bare losses are booked, for a pass that sent norms 3 and 1."""
    network, x = outputs_of(2)
    wrapped = hw.attribution.wrap(
        lambda y, batch: {"depth": y[:, 0].square().mean(), "normal": 100 * (y[:, 1] - 3).square().mean()}
    )
    with right_or_refused("depth", kinds=KINDS, told=True):
        y = network(x)
        found, wanted = wrapped(y, None), {"depth": 3.0, "normal": 1.0}
        grads = {name: torch.autograd.grad(loss, y, retain_graph=True)[0] for name, loss in found.items()}
        y.backward(sum(wanted[name] * grads[name] / grads[name].norm() for name in found))
        books = wrapped.ledger.read()
        for name, norm in wanted.items():
            near(books[name].grad_norm, norm, f"gradient norm of {name}")


def test_losses_per_sample_weighed_unequally():
    """Was: beside a scalar loss, a loss per sample vanishes from the books: 1.00 for 1.52."""
    network, x = outputs_of(1)
    wrapped = hw.attribution.wrap(lambda y, b: {"depth": y[:, 0].square(), "normal": (y[:, 0] - 1).abs().mean()})
    weights = torch.tensor([8.0, 0, 0, 0, 0, 0, 0, 0])
    with right_or_refused("depth", kinds=KINDS):
        y = network(x)
        found = wrapped(y, None)
        part = (found["depth"] * weights).mean()
        (grad,) = torch.autograd.grad((y[:, 0].square() * weights).mean(), y, retain_graph=True)
        total = part + found["normal"]
        total.backward()
        books = wrapped.ledger.read()
        near(books["depth"].weighted, part, "what depth adds")
        near(books["depth"].grad_norm, grad.norm(), "gradient norm of depth")
        near(books.total, total, "total")


class PerSample(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.trunk, self.head = nn.Linear(4, 8), nn.Linear(8, 2)

    def forward(self, x):
        y = self.head(self.trunk(x).relu())
        return {"depth": y[:, 0].square(), "normal": y[:, 1].square(), "count": 3}


def test_a_watched_model_with_losses_per_sample():
    """Was: mean times sum of factors is booked: 0.135 for 0.110."""
    model, weights = PerSample(), torch.tensor([1.0, 0, 0, 0, 0, 0, 0, 7.0])
    watched = hw.attribution.watch(model, ["head"])
    with right_or_refused("depth", kinds=KINDS):
        found = model(torch.randn(8, 4))
        part = (found["depth"] * weights).mean()
        total = part + found["normal"].mean()
        total.backward()
        books = watched.ledger.read()
        near(books["depth"].weighted, part, "what depth adds")
        near(books.total, total, "total")


def test_proper_summands_are_exact():
    """Always: declared nowhere, read off the backward pass."""

    def criterion(y, batch):
        return {"depth": y[:, 0].square().mean(), "normal": (y[:, 1] - 1).abs().mean()}

    books, number = wrapped_books(criterion, total=lambda found: 2 * found["depth"] + 0.5 * found["normal"])
    near(books["depth"].weight, 2.0, "weight of depth")
    near(books["normal"].weight, 0.5, "weight of normal")
    check_total(books, number)


def test_a_total_that_is_returned_is_no_loss():
    """Always: {total, parts} where the total adds up the very parts."""

    def criterion(y, batch):
        depth, normal = y[:, 0].square().mean(), (y[:, 1] - 1).abs().mean()
        return {"loss": depth + 0.5 * normal, "depth": depth, "normal": normal}

    books, number = wrapped_books(criterion)
    check_total(books, number)
    near(books["normal"].weight, 0.5, "weight of normal")


def wrapped_step(criterion, of=lambda L: L["loss"], width=4):
    torch.manual_seed(0)
    network, x = nn.Linear(5, width), torch.randn(8, 5)
    wrapped = hw.attribution.wrap(criterion)
    losses = wrapped(network(x), None)
    total = of(losses)
    total.backward()
    return wrapped.ledger.read(), float(total.detach())


def parts(out):
    return [out[:, i].sub(i).square().mean() for i in range(4)]


def adds_up(books, total):
    booked = sum(term.weighted for term in books.values())
    assert abs(booked - total) < 1e-4 * abs(total), (
        booked,
        total,
        {k: (t.weight, t.weighted) for k, t in books.items()},
    )


def twin(out, batch):
    a, b, *_ = parts(out)
    return {"loss": 5 * a + b, "iou": 5 * a, "obj": b}


def subtotals(out, batch):
    a, b, c, d = parts(out)
    return {"loss": a + b + c + d, "cls": a, "box": b, "det": a + b, "dice": c, "bce": d, "seg": c + d}


def averaged(out, batch):
    a, b, c, _ = (out[:, i].sub(i).square() for i in range(4))
    return {k: v.mean() for k, v in {"loss": a + b + c, "a": a, "b": b, "c": c}.items()}


def unsqueezed(out, batch):
    a, b, c, _ = parts(out)
    return {k: v.unsqueeze(0) / 2 for k, v in {"loss": a + b + c, "a": a, "b": b, "c": c}.items()}


def metric(out, batch):
    a, b, *_ = parts(out)
    return {"loss": a + b, "a": a, "b": b, "perplexity": out.softmax(-1).mean(0).log().sum().neg().exp()}


@pytest.mark.parametrize("criterion", [twin, subtotals, averaged, unsqueezed, metric])
def test_the_books_add_up_to_the_total(criterion):
    books, total = wrapped_step(criterion, of=lambda L: L["loss"].sum())
    adds_up(books, total)


@pytest.mark.parametrize("criterion", [twin, averaged, unsqueezed])
def test_each_part_has_the_weight_it_trains_with(criterion):
    books, _ = wrapped_step(criterion, of=lambda L: L["loss"].sum())
    assert {round(t.weight, 4) for name, t in books.items() if name != "loss"} == {1.0}, {
        k: t.weight for k, t in books.items()
    }


def test_what_is_in_no_term_has_a_row():
    def uncertainty(out, batch):
        a, b, *_ = parts(out)
        s = out[:, 3].mean()
        return {"loss": (-s).exp() * a + b + 3 * s, "a": a, "b": b}

    books, total = wrapped_step(uncertainty)
    adds_up(books, total)


def test_a_detached_loss_is_in_the_printed_total_or_the_line_says_so():
    def cut(out, batch):
        a, b, *_ = parts(out)
        return {"cls": a, "attention": (10 * b).detach()}

    books, total = wrapped_step(cut, of=lambda L: L["cls"] + 2 * L["attention"])
    text = str(books)
    assert f"{total:.4g}" in text or "no graph" in text or "booked terms" in text, text


def test_a_per_sample_loss_beside_a_scalar_stays_in_the_books():
    def mixed(out, batch):
        return {"a": out[:, 0].square(), "b": out[:, 1].sub(1).abs().mean()}

    books, total = wrapped_step(mixed, of=lambda L: L["a"].mean() + L["b"])
    assert set(books) == {"a", "b"}
    adds_up(books, total)


def test_watch_takes_a_container_of_heads():
    class Levels(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.preds = nn.ModuleList([nn.Linear(4, 2), nn.Linear(4, 2)])

        def forward(self, x):
            a, b = (pred(x) for pred in self.preds)
            return {"near": a.square().mean(), "far": b.abs().mean()}

    model = Levels()
    watched = hw.attribution.watch(model, ["preds"])
    sum(model(torch.randn(3, 4)).values()).backward()
    assert all(term.grad_norm > 0 for term in watched.ledger.read().values())


def test_stays_exact_for_plain_parts():
    def criterion(out, batch):
        return dict(zip("abcd", parts(out), strict=True))

    books, total = wrapped_step(criterion, of=lambda L: sum((i + 1) * v for i, v in enumerate(L.values())))
    adds_up(books, total)
    assert [round(t.weight, 5) for t in books.values()] == [1, 2, 3, 4]


@pytest.mark.parametrize("log", [torch.Tensor.detach, torch.Tensor.item])
def test_the_number_of_a_total_beside_parts_that_have_no_graph(log):
    """Was: a total beside parts that are for the log alone was NaN, though backward was called on it."""

    def criterion(y, batch):
        box, score = y[:, 0].square().mean(), y[:, 1].square().mean()
        return {"loss": 5 * box + score, "box": log(box), "score": log(score)}

    books, number = wrapped_books(criterion)
    near(books.total, number, "total")
    assert sorted(each.weight for each in books.values()) == [1.0, 5.0]
    assert str(books).splitlines()[-1].split() == ["total", f"{number:.5g}"]


@pytest.mark.parametrize("gain", [1.0, 5.0], ids=["bare", "weighted"])
def test_losses_that_are_all_computed_twice(gain):
    """Was: each loss was called anew for the return: the main one had weight 0, and all shares were NaN."""

    def box(y):
        return y[:, 0].square().mean()

    def score(y):
        return y[:, 1].abs().mean()

    books, number = wrapped_books(lambda y, _: {"loss": 5 * box(y) + score(y), "box": gain * box(y), "score": score(y)})
    check_total(books, number)
    near(books["box"].weight, 5.0 / gain, "weight of box")
    near(books["score"].weight, 1.0, "weight of score")
    assert list(books) == ["box", "score"]


PICKED = {
    "topk": lambda each: each.topk(3).values.mean(),
    "sort": lambda each: each.sort(descending=True).values[:3].mean(),
    "max": lambda each: each.max(),
    "amax": lambda each: each.view(2, 4).amax(1).mean(),
    "max of groups": lambda each: each.view(2, 4).max(1).values.mean(),
    "median": lambda each: each.median(),
    "kthvalue": lambda each: each.kthvalue(3).values,
}


@pytest.mark.parametrize("how", PICKED)
def test_the_hardest_samples_of_a_loss_per_sample(how):
    """Was: what picks samples (online hard example mining) was followed no further: the loss was missing."""
    network, x = outputs_of(1)
    wrapped = hw.attribution.wrap(lambda y, b: {"depth": y[:, 0].square(), "normal": (y[:, 0] - 1).abs().mean()})
    y = network(x)
    found = wrapped(y, None)
    part = PICKED[how](found["depth"])
    (grad,) = torch.autograd.grad(PICKED[how](y[:, 0].square()), y, retain_graph=True)
    total = part + found["normal"]
    total.backward()
    books = wrapped.ledger.read()
    near(books["depth"].weighted, part, "what depth adds")
    near(books["depth"].grad_norm, grad.norm(), "gradient norm of depth")
    check_total(books, float(total.detach()))
