"""What a total adds, told from its graph; and how each loss stands in it."""

from __future__ import annotations

import pytest
import torch

from headwise.attribution.apart.returned.entries import LossEntry
from headwise.attribution.apart.returned.losses import read_losses
from headwise.attribution.apart.sums.counts import added, held, links, most_added, summands
from headwise.attribution.apart.sums.solve import mixture
from headwise.attribution.audit.measures.account import account_of
from headwise.attribution.audit.measures.literals import is_silenced, literal_factors
from headwise.attribution.audit.measures.rows import edge_gradients
from headwise.graph import gradient_edge


@pytest.fixture
def parts():
    leaf = torch.arange(1.0, 4.0, requires_grad=True)
    return leaf, {"a": leaf.square().sum(), "b": leaf.sum(), "c": leaf.prod()}


def standing(total, losses):
    found = account_of(total, [LossEntry(name, loss) for name, loss in losses.items()]).standings
    return {name: (each.times, each.factor) for name, each in found.items()}


def test_paths_and_factors(parts):
    _, losses = parts
    a, b, c = losses.values()
    assert standing(a + 2 * b + c, losses) == {"a": (1, 1), "b": (1, 2), "c": (1, 1)}
    assert standing((a + b + a) / 4, losses) == {"a": (2, 0.5), "b": (1, 0.25), "c": (0, None)}
    assert standing(torch.stack([a, b, b]).mean(), losses)["b"] == (2, pytest.approx(2 / 3))
    assert standing(sum([a, b, c, a + b + c], torch.zeros(())), losses) == dict.fromkeys("abc", (2, 2))
    assert standing(torch.where(torch.tensor(True), a.clone()[None] + b, 0).mean().double(), losses)["a"] == (1, 1)


def test_a_learned_weight_is_the_factor(parts):
    _, losses = parts
    log_var = torch.tensor([0.5, -0.5], requires_grad=True)
    total = torch.exp(-log_var[0]) * losses["a"] + log_var[0] + torch.exp(-log_var[1]) * losses["b"] + log_var[1]
    found = standing(total, losses)
    assert found["a"] == (1, pytest.approx(0.6065307))
    assert found["b"] == (1, pytest.approx(1.6487213))
    assert found["c"] == (0, None)


@pytest.mark.parametrize("reduced", ["sum", "mean"])
def test_weights_that_are_learned_together_beside_their_penalty(parts, reduced):
    """As a module for uncertainty is written in one line; 0.5 and the like change nothing in kind."""
    _, losses = parts
    log_var = torch.tensor([0.5, -0.5], requires_grad=True)
    stacked = torch.stack([losses["a"], losses["b"]])
    parted = 1 if reduced == "sum" else 2
    for total in (torch.exp(-log_var) * stacked + log_var, 0.5 * (stacked / log_var.exp() + log_var)):
        found = standing(getattr(total, reduced)(), losses)
        half = 0.5 if "Mul" in str(total.grad_fn) else 1
        assert found["a"] == (1, pytest.approx(half * 0.6065307 / parted))
        assert found["b"] == (1, pytest.approx(half * 1.6487213 / parted))
    again = standing((torch.exp(-log_var) * stacked + log_var).sum() + losses["b"], losses)
    assert again["b"] == (2, pytest.approx(2.6487213))


def test_weights_that_are_learned_together_in_products_of_vectors(parts):
    _, losses = parts
    log_var = torch.tensor([0.5, -0.5], requires_grad=True)
    stacked = torch.stack([losses["a"], losses["b"]])
    for total in (torch.einsum("i,i->", torch.exp(-log_var), stacked), torch.exp(-log_var)[None] @ stacked[:, None]):
        assert standing(total.squeeze(), losses)["b"] == (1, pytest.approx(1.6487213))


def test_a_part_of_a_subtotal_has_no_factor_of_its_own(parts):
    _, losses = parts
    losses["group"] = losses["a"] + 3 * losses["b"]
    found = account_of(2 * losses["group"] + losses["b"], [LossEntry(k, v) for k, v in losses.items()]).standings
    assert (found["b"].factor, found["b"].own, found["b"].times) == (7, 1, 2)
    assert (found["a"].factor, found["a"].own) == (2, 0)
    assert found["group"].parts == ("a", "b")


def test_what_has_no_name_is_a_summand_with_its_gradient(parts):
    leaf, losses = parts
    extra = (3 * leaf).sum()
    found = account_of(losses["a"] + extra + extra, [LossEntry("a", losses["a"])]).summands
    free = {edge: each for edge, each in found.items() if each.is_free}
    assert [each.times for each in free.values()] == [2]
    ((grad,),) = edge_gradients(free, [leaf])
    assert grad is not None
    assert torch.equal(grad, torch.full((3,), 3.0))


def test_a_ratio_of_shared_sums_is_one_summand(parts):
    leaf, _ = parts
    both = leaf.sum()
    ratio = 1 - 2 * both / (both + leaf.square().sum())
    assert list(summands(gradient_edge(ratio)).values()) == [1]


def test_of_several_ways_to_make_a_sum_one_is_found():
    vectors = torch.tensor([[1.0, 0, 0, 2], [0, 3, 0, 1], [2, 0, 0, 4]], dtype=torch.float64)
    found = mixture(vectors, 5 * vectors[0] + 0.5 * vectors[1])
    assert found.keys() == {0, 1, 2}
    assert found[0] + 2 * found[2] == pytest.approx(5)
    assert found[1] == pytest.approx(0.5)
    assert mixture(vectors, vectors[0]).keys() == {0, 2}
    assert not mixture(vectors, vectors[0] - vectors[1])
    assert not mixture(vectors, torch.ones(4, dtype=torch.float64))
    assert not mixture(vectors, torch.zeros(4, dtype=torch.float64))


def test_a_loss_is_added_as_often_as_the_link_to_which_most_paths_lead(parts):
    leaf, _ = parts
    each = leaf.square()
    mean = each.mean()
    counts = added(gradient_edge(mean + (each + 1).sum()))
    place = most_added(links(gradient_edge(mean)), counts)
    assert place is not None
    assert place == gradient_edge(each)
    assert counts[place] == 2
    assert held(gradient_edge(mean + leaf.prod()), {"mean": links(gradient_edge(mean))}) == ["mean"]
    assert held(gradient_edge(3 * mean), {"mean": links(gradient_edge(mean))}) == []


def test_a_division_by_a_trained_number_is_no_sum(parts):
    _, losses = parts
    assert gradient_edge(losses["a"]) not in added(gradient_edge(1 / losses["a"]))


def test_literal_factors(parts):
    _, losses = parts
    assert literal_factors(0.1 * losses["a"]) == pytest.approx((0.1,))
    assert literal_factors(losses["a"] * 0.5 * 3) == pytest.approx((3, 0.5))
    assert literal_factors(losses["a"]) == ()


def test_a_zero_of_the_code_silences_and_a_zero_of_the_data_does_not(parts):
    _, losses = parts
    assert is_silenced(0.0 * losses["a"])
    assert is_silenced(0 * losses["a"] + 0.0 * losses["b"])
    assert not is_silenced(0.0 * losses["a"] + losses["b"])
    assert not is_silenced(torch.zeros(()) * losses["a"])
    assert not is_silenced(losses["a"])


def test_reading_a_graph_runs_no_checkpoint_again():
    calls = []

    def part(x):
        calls.append(1)
        return (x * torch.arange(3.0)).sum()

    leaf = torch.ones(3, requires_grad=True)
    loss = torch.utils.checkpoint.checkpoint(part, leaf, use_reentrant=False)
    read_losses({"a": loss, "b": loss * 2, "total": loss + loss * 2})
    assert len(calls) == 1


def test_a_metric_beside_the_losses_is_no_loss(parts):
    leaf, losses = parts
    perplexity = leaf.exp().mean()
    diversity, metric = (3 - perplexity) / 3, torch.tensor(2.0)
    kept = {"diversity": diversity, "a": losses["a"], "perplexity": perplexity, "class_error": metric}
    found = read_losses({"loss": losses["a"] + diversity, **kept})
    assert [each.name for each in found.terms] == ["diversity", "a"]
    assert [each.name for each in found.logs] == ["perplexity", "class_error"]
    assert found.total is not None
    assert found.total.name == "loss"
