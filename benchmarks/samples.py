"""Whether the books name the wrong samples: one of 32 pictures with another's annotation, and wrong digits.

    python -m benchmarks.samples RUN... [--trials 100] [--write FILE]

RUN is a trained run of a recipe (``headwise train NAME --demo --out RUN``). A trial takes a batch of 32 training
pictures, augmented as in training, and gives one of them, drawn at random, the targets of a 33rd. Counted is how often
it is the first sample of a term, by gradient and by value, after one backward pass: of the network in evaluation,
and of one that has learned these pictures, whose outputs were fitted to the right targets by 80 steps of Adam.
The digits are those of scikit-learn, 1,797 and 203 of them twice, 20 with a wrong label: how many of the 20 are
among the first 40 after one pass by value, and by gradient, over five seeds.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import headwise as hw
from benchmarks.measure import machine, markdown, publish
from headwise import losses
from headwise.recipes.prediction import load_network
from headwise.structure import leaves, mapped
from headwise.training.ranks import Ranks

BATCH, BATCHES, FIT = 32, 5, 80


def batches_of(recipe: Any, configuration: Any) -> list[Any]:
    """Some batches of 33, from the end of the training."""
    given = {**vars(configuration), "batch_size": BATCH + 1, "num_workers": 0}
    data = recipe.make_data(type(configuration)(**given))
    first = configuration.steps
    return list(data.batches(first, first + BATCHES, 1, Ranks(0, 1, None)))


def with_other(targets: Any, place: int | None) -> Any:
    """The first 32 samples' targets, one of them, if any, with those of the 33rd."""

    def changed(each: Tensor) -> Tensor:
        if not each.dim() or len(each) != BATCH + 1:
            return each
        found = each[:BATCH].clone()
        if place is not None:
            found[place] = each[BATCH]
        return found

    return mapped(targets, changed)


def free(outputs: Any) -> Any:
    """The outputs of the first 32 samples, as if they were parameters."""
    found = mapped(outputs, lambda each: each[:BATCH].detach().clone() if each.is_floating_point() else each[:BATCH])
    for _, each in leaves(found):
        if each.is_floating_point():
            each.requires_grad_()
    return found


def fit(criterion: hw.Criterion, outputs: Any, targets: Any) -> None:
    """Learns the right targets."""
    learned = [each for _, each in leaves(outputs) if each.is_floating_point()]
    optimizer = torch.optim.Adam(learned, lr=0.1)
    for _ in range(FIT):
        optimizer.zero_grad()
        criterion(outputs, targets).total.backward()
        optimizer.step()


def corrupted(run: Path, trials: int, learned: bool) -> dict[str, dict[str, int]]:
    """By term and ranking, how often the wrong one of 32 came first."""
    network, recipe, configuration = load_network(run)
    criterion = recipe.make_criterion(configuration)
    draw = torch.Generator().manual_seed(0)
    found: dict[str, Counter[str]] = {name: Counter() for name in criterion.names}
    for batch in batches_of(recipe, configuration):
        with torch.no_grad():
            outputs = network(batch.images)
        outputs = free(outputs)
        if learned:
            fit(criterion, outputs, with_other(batch.targets, None))
        for place in torch.randperm(BATCH, generator=draw)[: trials // BATCHES].tolist():
            with hw.Ledger(criterion, samples=1, values_every=1) as ledger:
                criterion(outputs, with_other(batch.targets, place), ids=list(range(BATCH))).total.backward()
                for name, ranked in ledger.samples().items():
                    for by in ("gradient", "value"):
                        first: Sequence[Any] = ranked.top(1, by)  # type: ignore[arg-type]
                        found[name][by] += bool(first) and first[0].id == place
    return {name: dict(each) for name, each in found.items()}


def digits(seed: int) -> dict[str, int]:
    """How many of 20 wrong labels are in the first 40, by ranking, in one look over all digits after 12 epochs."""
    images, labels = load_digits(return_X_y=True)
    chosen = torch.cat([torch.arange(len(images)), torch.arange(2000 - len(images))])
    x, y = torch.tensor(images, dtype=torch.float32)[chosen] / 16, torch.tensor(labels)[chosen]
    draw = torch.Generator().manual_seed(seed)
    wrong = torch.randperm(2000, generator=draw)[:20]
    y[wrong] = (y[wrong] + 1 + torch.randint(0, 9, (20,), generator=draw)) % 10
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    criterion = hw.Criterion([hw.Term("digit", losses.cross_entropy, output="logits", target="label")])
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
    with hw.Ledger(criterion, optimizer=optimizer, samples=40, values_every=1) as ledger:
        for _ in range(4):
            ledger.forget_samples()
            for part in torch.randperm(2000, generator=draw).split(50):
                optimizer.zero_grad()
                criterion({"logits": network(x[part])}, {"label": y[part]}, ids=part).total.backward()
                optimizer.step()
        found = ledger.samples("digit")
    told = set(wrong.tolist())
    return {by: len(told & {each.id for each in found.top(40, by)}) for by in ("gradient", "value")}  # type: ignore[arg-type]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", type=Path)
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[list[object]] = []
    for run in options.runs:
        as_is, learned = (corrupted(run, options.trials, each) for each in (False, True))
        for name in as_is:
            counts = [each[name].get(by, 0) for each in (as_is, learned) for by in ("gradient", "value")]
            rows.append([run.name, name, *counts])
    heading = ("run", "term", f"first by gradient, of {options.trials}", "by value")
    text = markdown((*heading, "learned: by gradient", "learned: by value"), rows)
    counts = [digits(seed) for seed in range(5)]
    table = [[seed, each["gradient"], each["value"]] for seed, each in enumerate(counts)]
    text += "\n\n" + markdown(("digits, seed", "wrong ones in the first 40 by gradient, of 20", "by value"), table)
    report = f"# Whether the books name the wrong samples\n\n{machine()}\n\n{text}\n"
    publish(report, options.write)


if __name__ == "__main__":
    main()
