"""The examples of the presets beyond vision: a few steps of each, its books, and what a run folder holds of them."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import pytest

import headwise as hw

FOLDER = Path(__file__).parents[2] / "examples" / "presets"
# The terms that the books of each example name, first set first.
TERMS = {
    "mixture_of_experts": ["tokens", "balance", "z"],
    "actor_critic": ["policy", "value", "entropy"],
    "energy_and_forces": ["energy", "forces"],
    "physics_informed": ["residual", "boundary", "initial"],
    "vq_gan": ["reconstruction", "perceptual", "codebook", "commitment", "adversarial", "real", "fake"],
    "two_tower": ["image_to_text", "text_to_image"],
}


@pytest.mark.parametrize("name", TERMS)
def test_example_trains_and_its_books_balance(name, tmp_path, capsys):
    found = runpy.run_path(str(FOLDER / f"{name}.py"))["main"](
        steps=22 if name == "vq_gan" else 2, out=tmp_path / "run"
    )
    ledgers = found if isinstance(found, tuple) else (found,)
    printed = [line.split()[0] for line in capsys.readouterr().out.splitlines() if line.strip()]
    seen = [word for word in printed if word in TERMS[name]]
    assert seen == TERMS[name]
    for ledger in ledgers:
        assert all(books.balanced for books in ledger.history())
        assert all(term.finite and term.grad_norm > 0 for term in ledger.read().values())
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert lines[0]["step"] == 1
    assert list(lines[0]["terms"]) == TERMS[name][: len(lines[0]["terms"])]


def test_every_example_is_tried():
    assert {path.stem for path in FOLDER.glob("*.py")} == set(TERMS) <= set(hw.presets.__all__)


def test_the_adversarial_weight_of_the_books_is_the_loops():
    """Nothing before it begins, then 0.8 times the ratio of gradients at the last layer."""
    example = runpy.run_path(str(FOLDER / "vq_gan.py"))
    rates: list[float] = []
    measured = example["adaptive"]

    def remembered(*arguments):
        rates.append(float(measured(*arguments)))
        return measured(*arguments)

    example["main"].__globals__["adaptive"] = remembered
    ledger, _ = example["main"](steps=23)
    weights = [books["adversarial"].weight for books in ledger.history()]
    wanted = [0.0 if step < example["START"] else 0.8 * rate for step, rate in enumerate(rates)]
    assert weights == pytest.approx(wanted, rel=1e-4)
    assert sum(weight > 0 for weight in weights) == 3
