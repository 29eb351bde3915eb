"""Presets of other fields beside the originals' formulas, written once more in plain torch; their books; their cards.

Values and gradients are equal to rounding in float64; the books, which are kept in float32, to 1e-6.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import headwise as hw
from headwise.structure import leaves, mapped
from headwise.testing import assert_split_invariant
from tests.presets import samples

Weighted = dict[str, Tensor]


def drawn(name: str, num: int = 4, empty: int | None = None) -> Any:
    """Outputs and targets of a preset's sample."""
    generator = torch.Generator().manual_seed(1)
    draw = samples.Draw(num, num if empty is None else empty, torch.float64, generator)
    return {**samples.PRESETS, "two_tower": (None, towers)}[name][1](draw)


def towers(draw: samples.Draw) -> Any:
    outputs = {name: F.normalize(draw.normal(5), dim=1) for name in ("image_embedding", "text_embedding")}
    return {**outputs, "log_scale": torch.tensor(1.5, dtype=draw.dtype)}, {"pair": torch.arange(draw.num)}


def switch(outputs: Any, targets: Any, top_k: int = 1) -> Weighted:
    """Fedus et al.: alpha * E * sum of f_i P_i a layer, alpha 0.01; Zoph et al.: 0.001 * mean of squared logsumexp."""
    logits, label = outputs["logits"][targets["valid"]], targets["label"][targets["valid"]]
    balance = z = torch.zeros((), dtype=torch.float64)
    for router in outputs["router_logits"]:
        routed = router[targets["valid"]]
        p = torch.softmax(routed, -1)
        f = F.one_hot(routed.topk(top_k).indices, routed.shape[-1]).double().mean((0, 1))
        balance = balance + routed.shape[-1] * (f * p.mean(0)).sum()
        z = z + torch.logsumexp(routed, -1).square().mean()
    return {"tokens": F.cross_entropy(logits, label), "balance": 0.01 * balance, "z": 0.001 * z}


def mixtral(outputs: Any, targets: Any) -> Weighted:
    """transformers 5.24: counts and probabilities of all layers together, over all their tokens; coefficient 0.001."""
    counts = sums = torch.zeros(4, dtype=torch.float64)
    rows = 0.0
    flat = targets["valid"].reshape(-1).double()
    for router in outputs["router_logits"]:
        p = torch.softmax(router.reshape(-1, 4), -1)
        chosen = torch.topk(p, 2, -1).indices
        counts = counts.scatter_add(0, chosen.reshape(-1), flat.repeat_interleave(2))
        sums = sums + (p * flat[:, None]).sum(0)
        rows += float(flat.sum())
    label = torch.where(targets["valid"], targets["label"], -100)
    tokens = F.cross_entropy(outputs["logits"].transpose(1, 2), label)
    return {"tokens": tokens, "balance": 0.001 * 4 * (counts / rows * sums / rows).sum(), "z": 0.0 * sums.sum()}


def a2c(outputs: Any, targets: Any) -> Weighted:
    """stable-baselines3 a2c.py on the steps that there are; ent_coef 0.01, vf_coef 0.5."""
    keep = targets["valid"]
    policy = -(targets["advantage"][keep] * outputs["log_probability"][keep]).mean()
    return {"policy": policy, **critic(outputs, targets)}


def ppo(outputs: Any, targets: Any) -> Weighted:
    """stable-baselines3 ppo.py, clip_range 0.2."""
    keep = targets["valid"]
    ratio = torch.exp(outputs["log_probability"] - targets["log_probability"])[keep]
    advantage = targets["advantage"][keep]
    policy = -torch.min(advantage * ratio, advantage * torch.clamp(ratio, 1 - 0.2, 1 + 0.2)).mean()
    return {"policy": policy, **critic(outputs, targets)}


def critic(outputs: Any, targets: Any) -> Weighted:
    keep = targets["valid"]
    value = 0.5 * F.mse_loss(targets["return"][keep], outputs["value"][keep])
    return {"value": value, "entropy": 0.01 * -torch.mean(outputs["entropy"][keep])}


def schnetpack(outputs: Any, targets: Any) -> Weighted:
    """Two mean squared errors; the forces of all atoms of the batch in one long list."""
    forces = F.mse_loss(outputs["forces"][targets["atoms"]], targets["forces"][targets["atoms"]])
    return {"energy": 0.01 * F.mse_loss(outputs["energy"], targets["energy"]), "forces": 0.99 * forces}


def mace(outputs: Any, targets: Any) -> Weighted:
    num_atoms = targets["atoms"].sum(1, keepdim=True)
    energy = torch.mean(torch.square((targets["energy"] - outputs["energy"]) / num_atoms))
    difference = (targets["forces"] - outputs["forces"])[targets["atoms"]]
    return {"energy": 1.0 * energy, "forces": 100.0 * torch.mean(torch.square(difference))}


def raissi(outputs: Any, targets: Any) -> Weighted:
    return {
        name: torch.mean(torch.square(targets[name] - outputs[name])) for name in ("residual", "boundary", "initial")
    }


def taming(outputs: Any, targets: Any, legacy: bool) -> Weighted:
    """vqperceptual.py with d_weight * disc_factor = 0.8, quantize.py with beta = 0.25 on either term."""
    z, z_q, beta = outputs["encoding"], outputs["codes"], 0.25
    commitment, codebook = torch.mean((z_q.detach() - z) ** 2), torch.mean((z_q - z.detach()) ** 2)
    features = zip(outputs["features"], targets["features"], strict=True)
    return {
        "reconstruction": torch.abs(targets["image"] - outputs["image"]).mean(),
        "perceptual": torch.stack([F.mse_loss(ours, real) for ours, real in features]).sum(),
        "codebook": beta * codebook if legacy else codebook,
        "commitment": commitment if legacy else beta * commitment,
        "adversarial": 0.8 * -torch.mean(outputs["fake_logits"]),
    }


def hinge_d_loss(outputs: Any, targets: Any) -> Weighted:
    real, fake = outputs["real_logits"], outputs["fake_logits"]
    return {"real": 0.5 * torch.mean(F.relu(1.0 - real)), "fake": 0.5 * torch.mean(F.relu(1.0 + fake))}


def clip(outputs: Any, targets: Any) -> Weighted:
    """Radford et al., figure 3."""
    logits = outputs["image_embedding"] @ outputs["text_embedding"].T * torch.exp(outputs["log_scale"])
    labels = torch.arange(len(logits))
    return {
        "image_to_text": F.cross_entropy(logits, labels) / 2,
        "text_to_image": F.cross_entropy(logits.T, labels) / 2,
    }


presets = hw.presets
CASES: dict[str, tuple[str, Callable[[], hw.Criterion], Callable[[Any, Any], Weighted]]] = {
    "switch": ("mixture_of_experts", partial(presets.mixture_of_experts, mask="valid"), switch),
    "switch, top 2": (
        "mixture_of_experts",
        partial(presets.mixture_of_experts, mask="valid", top_k=2),
        partial(switch, top_k=2),
    ),
    "mixtral": (
        "mixture_of_experts",
        partial(presets.mixture_of_experts, mask="valid", as_published=True, num_routers=2),
        mixtral,
    ),
    "a2c": ("actor_critic", partial(presets.actor_critic, mask="valid"), a2c),
    "ppo": ("actor_critic", partial(presets.actor_critic, mask="valid", clip=0.2), ppo),
    "schnetpack": ("energy_and_forces", presets.energy_and_forces, schnetpack),
    "mace": (
        "energy_and_forces",
        partial(presets.energy_and_forces, per_atom=True, energy_weight=1.0, forces_weight=100.0),
        mace,
    ),
    "raissi": ("physics_informed", presets.physics_informed, raissi),
    "taming": ("vq_gan", partial(presets.vq_gan, as_published=True), partial(taming, legacy=True)),
    "taming, mended": ("vq_gan", presets.vq_gan, partial(taming, legacy=False)),
    "hinge": ("vq_gan_discriminator", presets.vq_gan_discriminator, hinge_d_loss),
    "clip": ("two_tower", presets.two_tower, clip),
}
each_case = pytest.mark.parametrize("case", CASES)


def at_hand(case: str) -> tuple[hw.Criterion, Any, Any, Weighted]:
    name, make, theirs = CASES[case]
    outputs, targets = drawn(name)
    if case == "ppo":
        targets["log_probability"] = outputs["log_probability"] + 0.3 * outputs["entropy"]  # ratios on both sides
    if case == "mace":
        targets["atoms"][:, 0] = True  # it divides by the number of atoms
    outputs = mapped(outputs, lambda each: each.detach().requires_grad_())
    return make(), outputs, targets, theirs(outputs, targets)


def gradients(value: Tensor, outputs: Any) -> list[Tensor]:
    held = [each for _, each in leaves(outputs)]
    found = torch.autograd.grad(value, held, retain_graph=True, allow_unused=True)
    return [torch.zeros_like(a) if b is None else b for a, b in zip(held, found, strict=True)]


@each_case
def test_values_and_gradients_are_the_originals(case):
    criterion, outputs, targets, theirs = at_hand(case)
    breakdown = criterion(outputs, targets)
    assert list(breakdown) == list(theirs)
    for name, wanted in theirs.items():
        torch.testing.assert_close(breakdown[name].weighted, wanted, rtol=1e-12, atol=1e-15)
        found = gradients(breakdown[name].weighted, outputs)
        torch.testing.assert_close(found, gradients(wanted, outputs), rtol=1e-10, atol=1e-14)
    torch.testing.assert_close(breakdown.total, torch.stack(list(theirs.values())).sum(), rtol=1e-12, atol=0)


@each_case
def test_books_are_the_norms_of_independent_gradients(case):
    criterion, outputs, targets, theirs = at_hand(case)
    with hw.Ledger(criterion) as ledger:
        criterion(outputs, targets).total.backward()
        books = ledger.read()
    assert books.balanced
    for name, wanted in theirs.items():
        norm = torch.cat([each.flatten() for each in gradients(wanted, outputs)]).norm().item()
        assert books[name].grad_norm == pytest.approx(norm, rel=1e-6, abs=1e-12), name
        assert books[name].weighted == pytest.approx(wanted.item(), rel=1e-6, abs=1e-12), name


def test_the_mixture_of_experts_as_the_installed_transformers_computes_it():
    modeling = pytest.importorskip("transformers.models.mixtral.modeling_mixtral")
    criterion, outputs, targets, _ = at_hand("mixtral")
    routers = tuple(each.reshape(-1, 4) for each in outputs["router_logits"])
    theirs = modeling.load_balancing_loss_func(routers, 4, 2, targets["valid"].long())
    # As the model returns them: flat, in a tuple. Theirs counts in float32.
    ours = criterion({"logits": outputs["logits"], "router_logits": routers}, targets)["balance"].value
    torch.testing.assert_close(ours.float(), theirs.float(), rtol=1e-6, atol=0)


def test_clip_as_the_installed_transformers_computes_it():
    modeling = pytest.importorskip("transformers.models.clip.modeling_clip")
    criterion, outputs, targets, _ = at_hand("clip")
    similarity = outputs["text_embedding"] @ outputs["image_embedding"].T * outputs["log_scale"].exp()
    theirs = modeling.image_text_contrastive_loss(similarity)
    torch.testing.assert_close(criterion(outputs, targets).total, theirs, rtol=1e-12, atol=0)


def test_features_that_are_weighted_by_their_roots_give_lpips():
    """LPIPS: a sum over layers of means over places of w_c * squared differences, summed over channels."""
    ours, real = (torch.randn(2, 5, 3, 3, generator=torch.Generator().manual_seed(n)).double() for n in (0, 1))
    weight = torch.rand(5, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    lpips = ((ours - real) ** 2 * weight[:, None, None]).sum(1).mean((1, 2)).mean()
    root = (5 * weight).sqrt()[:, None, None]
    outputs, targets = drawn("vq_gan", num=2)
    outputs["features"], targets["features"] = [ours * root], [real * root]
    found = presets.vq_gan()(outputs, targets)["perceptual"].value
    torch.testing.assert_close(found, lpips, rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    ("case", "why"),
    [
        ("switch", {"balance": "per_sequence is exact"}),
        ("mixtral", {"balance": "as_published=False with per_sequence is exact"}),
    ],
)
def test_terms_that_depend_on_the_split_say_so(case, why):
    criterion, outputs, targets, _ = at_hand(case)
    assert set(criterion.split_variants) == set(why)
    for name, words in why.items():
        assert words in criterion.split_variants[name]
    with pytest.raises(AssertionError, match="the share of tokens of each expert"):
        assert_split_invariant(criterion, outputs, targets)
    assert_split_invariant(criterion, outputs, targets, exempt=why)


def test_the_negatives_of_a_pair_depend_on_the_split():
    criterion, outputs, targets, _ = at_hand("clip")
    assert set(criterion.split_variants) == {"image_to_text", "text_to_image"}
    whole = criterion(outputs, targets)["image_to_text"]
    part = criterion(
        {**outputs, "image_embedding": outputs["image_embedding"][:2], "text_embedding": outputs["text_embedding"][:2]},
        {"pair": targets["pair"][:2]},
    )
    assert part["image_to_text"].value < whole.value
    assert whole.split_variant is not None
    assert "gather" in whole.split_variant


@pytest.mark.parametrize("name", ["mixture_of_experts", "actor_critic", "energy_and_forces"])
def test_nothing_to_learn_from_is_zero(name):
    """All is padding: 0 and a zero gradient, but for energies, which every molecule has."""
    outputs, targets = drawn(name, empty=0)
    outputs = mapped(outputs, lambda each: each.detach().requires_grad_())
    breakdown = samples.PRESETS[name][0]()(outputs, targets)
    for term, entry in breakdown.items():
        found = gradients(entry.weighted, outputs)
        assert (entry.value == 0) == (term != "energy")
        assert any(each.any() for each in found) == (term == "energy")
        assert all(each.isfinite().all() for each in found)


@each_case
def test_configuration_card_and_names(case):
    criterion = CASES[case][1]()
    assert hw.Criterion.from_json(criterion.to_json()).to_dict() == criterion.to_dict()
    card = presets.card(CASES[case][0])
    assert all(f"\n{name} " in card for name in criterion.names)


@pytest.mark.parametrize("case", ["mixtral", "clip"])
def test_compiles_to_one_graph(case):
    criterion, outputs, targets, _ = at_hand(case)
    torch._dynamo.reset()
    compiled = torch.compile(lambda o: criterion(o, targets).total, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(outputs), criterion(outputs, targets).total, rtol=1e-12, atol=0)


def test_options_change_the_terms():
    assert presets.vq_gan(perceptual_weight=None).names == ("reconstruction", "codebook", "commitment", "adversarial")
    assert presets.physics_informed(["wall", "observed"], weights={"wall": 5.0}).weights["wall"] == 5.0
    assert presets.physics_informed(["wall"]).names == ("residual", "wall")
    assert presets.two_tower(("query", "document")).names == ("query_to_document", "document_to_query")
    forces = torch.ones(7, 3)  # molecules one after another, no padding
    outputs = {"energy": torch.zeros(2), "forces": forces}
    targets = {"energy": torch.zeros(2), "forces": torch.zeros(7, 3)}
    assert presets.energy_and_forces(mask=None)(outputs, targets)["forces"].value == 1.0


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (partial(presets.mixture_of_experts, as_published=True), "num_routers is at least 1.*found None"),
        (partial(presets.mixture_of_experts, as_published=True, num_routers=2, per_sequence=True), "and True"),
        (partial(presets.actor_critic, clip=0.0), "clip is positive or None; found 0.0"),
        (partial(presets.energy_and_forces, per_atom=True, mask=None), "per_atom needs the path of the atoms"),
        (partial(presets.physics_informed, weights={"wall": 1.0}), "no term 'wall' to weigh"),
        (partial(presets.physics_informed, ["residual"]), "two terms are named 'residual'"),
        (partial(presets.card, "gan"), "no preset 'gan'.*vq_gan"),
        (partial(presets.card, "card"), "no preset 'card'"),
    ],
)
def test_message(call, words):
    with pytest.raises(ValueError, match=words):
        call()
