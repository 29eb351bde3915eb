"""Training scripts in the manner of published ones, unchanged: names, weights, gradients, and the same bits."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from headwise.attribution.ledger.books import Books
from headwise.attribution.run.script import ScriptBooks

FOLDER = Path(__file__).parent / "published"
WEIGHTS: dict[str, dict[str, float]] = {
    "actor_critic": {"policy_losses": 1, "value_losses": 1},
    "amp_accumulation": {"cls_loss": 0.25, "reg_loss": 0.5},
    "center_loss": {"loss_xent": 1, "loss_cent": 1},
    "clip": {"loss_img(logits_per_image, ground_truth)": 0.5, "loss_txt(logits_per_text, ground_truth)": 0.5},
    "cyclegan": {
        **dict.fromkeys(("loss_id_A", "loss_id_B"), 2.5),
        **dict.fromkeys(("loss_GAN_AB", "loss_GAN_BA"), 0.5),
        **dict.fromkeys(("loss_cycle_A", "loss_cycle_B"), 5),
        **dict.fromkeys(("loss_real", "loss_fake"), 0.5),
        **dict.fromkeys(("loss_real (cyclegan.py:47)", "loss_fake (cyclegan.py:47)"), 0.5),
    },
    "dcgan": {"errD_real": 1, "errD_fake": 1, "errG": 1},
    "deep_supervision": {
        f"{name}{number}": weight / 3 for number in ("", " (2)", " (3)") for name, weight in (("bce", 0.5), ("dice", 1))
    },
    "detr": {
        f"loss_{name}{layer}": weight for layer in ("", "_0") for name, weight in (("ce", 1), ("bbox", 5), ("giou", 2))
    },
    "distillation": {"kl_div(student.2)": 0.9 * 16, "cross_entropy(student.2)": 0.1},
    "joint_bert": {"intent_loss": 1, "slot_loss": 0.7},
    "mixup": {"criterion(pred, y_a)": 0.3, "criterion(pred, y_b)": 0.7},
    "moco": {"loss": 1},
    "multi_task": {"seg": 1, "depth": 0.5, "normal": 10},
    "nerf": {"img_loss": 1, "img_loss0": 1},
    "ppo": {"pg_loss": 1, "v_loss": 0.5, "entropy_loss": -0.01},
    "segmentation": {"out": 1, "aux": 0.5},
    "seq2seq": {"nll_loss(out)": 1},
    "simsiam": {"criterion(p1, z2).mean()": -0.5, "criterion(p2, z1).mean()": -0.5},
    "ssd": {"loss_l": 1, "loss_c": 1},
    "tacotron": {"mel_loss": 1, "gate_loss": 1},
    "triplet": {"id_loss": 1, "tri_loss": 0.5},
    "vae": {"BCE": 1, "KLD": 1},
    "vqvae": {"e_latent_loss": 0.25, "q_latent_loss": 1, "recon_error": 1},
    "wgan_gp": {
        "gradient_penalty": 10, "torch.mean(fake_validity)": 1, "torch.mean(real_validity)": -1, "g_loss": 1,
    },
    "yolo": {"lbox": 5, "lobj": 5, "lcls": 5},
}  # fmt: skip


def run(script: Path) -> Any:
    """Runs a script in this process; what it saved."""
    main = ModuleType("__main__")
    main.__file__ = str(script)
    exec(compile(script.read_text(encoding="utf-8"), str(script), "exec"), main.__dict__)
    return torch.load("weights.pt")


def same_bits(left: Any, right: Any) -> bool:
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same_bits(left[key], right[key]) for key in left)
    if isinstance(left, list):
        return len(left) == len(right) and all(map(same_bits, left, right))
    return torch.equal(left, right)


Norms = dict[tuple[str, str], float]


@contextmanager
def gradients_by_hand(script: Path, found: Norms) -> Iterator[None]:
    """What each variable that holds a loss sends to what each module returned, in the last pass of a first step: norms.

    By `autograd.grad` from the variable, which knows nothing of weights: (name of the variable, of the module).
    """
    returned: dict[int, list[Tensor]] = {}
    seen: set[int] = set()
    over: set[int] = set()
    original = torch.autograd.backward

    def backward(tensors: Any, *others: Any, **named: Any) -> None:
        frame = sys._getframe(1)
        while frame.f_code.co_filename != str(script):
            assert frame.f_back is not None
            frame = frame.f_back
        held: dict[str, Any] = {**frame.f_globals, **frame.f_locals}
        if frame.f_lineno not in over:
            modules = _modules(held)
            for name, loss in _losses(held):
                for path, module in modules.items():
                    _note(found, (name, path), loss, returned.get(id(module), []))
        seen.add(frame.f_lineno)
        original(tensors, *others, **named)

    def keep(module: nn.Module, _: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.requires_grad and output.numel() > 1:
            returned.setdefault(id(module), []).append(output)

    handles = [
        nn.modules.module.register_module_forward_hook(keep),
        register_optimizer_step_post_hook(lambda *_: over.update(seen)),
    ]
    torch.autograd.backward = backward
    try:
        yield
    finally:
        torch.autograd.backward = original
        for handle in handles:
            handle.remove()


def _modules(held: dict[str, Any]) -> dict[str, nn.Module]:
    """Every module of a script under every name that it may be given."""
    found: dict[str, nn.Module] = {}
    for variable, value in held.items():
        if isinstance(value, nn.Module):
            for path, module in value.named_modules():
                found[".".join(filter(None, (variable, path)))] = module
                found.setdefault(path, module)
    return found


def _losses(held: dict[str, Any]) -> Iterator[tuple[str, Tensor]]:
    for name, value in held.items():
        parts = value.items() if isinstance(value, dict) else [(name, value)]
        for key, each in parts:
            if isinstance(each, Tensor) and each.numel() == 1 and each.requires_grad:
                yield str(key), each


def _note(found: Norms, key: tuple[str, str], loss: Tensor, outputs: list[Tensor]) -> None:
    try:
        grads = torch.autograd.grad(loss.sum(), outputs, retain_graph=True, allow_unused=True) if outputs else ()
    except RuntimeError:  # of another step, whose graph is gone
        return
    own = [each for each in grads if each is not None]
    if own:
        found[key] = math.sqrt(sum(float(each.double().square().sum()) for each in own))


@pytest.mark.parametrize("name", WEIGHTS)
def test_names_weights_gradients_and_the_same_bits(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    script = FOLDER / f"{name}.py"
    norms: Norms = {}
    with gradients_by_hand(script, norms):
        plain = run(script)
    booked: dict[str, Any] = {}
    steps: list[Books] = []

    def keep(_: int, books: Books) -> None:
        steps.append(books)
        for term in books:
            booked.setdefault(term, books[term])

    with ScriptBooks(1, None, keep) as books:
        ours = run(script)
    assert same_bits(plain, ours)
    assert books.told() == []
    assert {term: each.weight for term, each in booked.items()} == pytest.approx(WEIGHTS[name], rel=1e-5)
    for each in steps:
        assert each.balanced
        assert sum(term.weighted for term in each.values()) == pytest.approx(each.total, rel=1e-6)
    for term, each in booked.items():
        for path, output in each.outputs.items():
            by_hand = norms.get((term, path))
            # A penalty of gradients leaves the module in the graph of its gradient, not at what it returned.
            if by_hand is not None and term != "gradient_penalty":
                assert output.grad_norm == pytest.approx(abs(each.weight) * by_hand, rel=2e-6, abs=1e-9), (term, path)


def test_branches_that_call_one_loss_in_two_ways_are_one_place(tmp_path, monkeypatch):
    """Was: two places, the terms of the second of which got its line into their names."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "turns.py").write_text(TURNS)
    with ScriptBooks(1, None, lambda step, books: None) as books:
        run(tmp_path / "turns.py")
    assert [(site.name, site.passes) for site in books.sites.values()] == [
        ("<module>, turns.py:12", 4), ("<module>, turns.py:14", 2), ("<module>, turns.py:16", 2),
    ]  # fmt: skip
    assert [list(site.shown) for site in books.sites.values()] == [["loss"], ["loss_one"], ["loss_two"]]


TURNS = """\
import torch
from torch import nn
torch.manual_seed(0)
one, two = nn.Linear(3, 1), nn.Linear(3, 1)
scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
for step in range(4):
    x = torch.randn(4, 3)
    loss = one(x).square().mean()
    if step % 2:
        scaler.scale(loss).backward()
    else:
        loss.backward()
    if step % 2 == 0:
        (loss_one := one(x).abs().mean()).backward()
    else:
        (loss_two := two(x).abs().mean()).backward()
torch.save([one.state_dict(), two.state_dict()], "weights.pt")
"""


def test_most_terms_of_the_scripts_are_variables_so_that_their_gradients_are_compared(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    norms: Norms = {}
    for name in ("triplet", "detr", "ppo", "nerf", "yolo"):
        with gradients_by_hand(FOLDER / f"{name}.py", norms):
            run(FOLDER / f"{name}.py")
    compared: Callable[[str], bool] = lambda term: any(key[0] == term for key in norms)  # noqa: E731
    assert compared("id_loss")
    assert compared("loss_bbox_0")
    assert compared("v_loss")
    assert compared("img_loss0")
