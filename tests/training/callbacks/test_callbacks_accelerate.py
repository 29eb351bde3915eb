"""The books in a loop written with Accelerate."""

import pytest
import torch

import headwise as hw
from headwise.attribution import wrap
from headwise.training.callbacks import accelerate_hooks
from tests.training.loops import (
    EVERY,
    KEYS,
    MICRO_BATCHES,
    TERMS,
    board,
    books_by_hand,
    magnitudes,
    make_criterion,
    make_network,
    make_samples,
    squares,
)

pytest.importorskip("accelerate", reason="pip install accelerate (dependency group loops)")


def train(folder, *, every=EVERY, hooked=True, dropout=0.2):
    """A loop as Accelerate's documentation writes it; the hooks are one line before it."""
    from accelerate import Accelerator
    from accelerate.utils import set_seed

    accelerator = Accelerator(
        cpu=True, gradient_accumulation_steps=MICRO_BATCHES, log_with="tensorboard", project_dir=str(folder)
    )
    accelerator.init_trackers("run")
    set_seed(0)
    model, criterion, seen = make_network(dropout), make_criterion(), []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    loader = torch.utils.data.DataLoader(make_samples(), batch_size=4)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    hooks = accelerate_hooks(accelerator, optimizer, criterion, every=every) if hooked else None
    for batch in loader:
        seen.append(({name: p.detach().clone() for name, p in model.state_dict().items()}, batch))
        with accelerator.accumulate(model):
            breakdown = criterion(model(batch["x"]), batch)
            accelerator.backward(breakdown.total)
            optimizer.step()
            optimizer.zero_grad()
    accelerator.end_training()
    if hooks is not None:
        hooks.close()
        assert criterion.recorder is None
    return model, hooks, seen


def test_training_is_equal_to_the_bit_with_and_without(tmp_path):
    model, hooks, _ = train(tmp_path / "with")
    plain, _, _ = train(tmp_path / "without", hooked=False)
    for one, other in zip(model.parameters(), plain.parameters(), strict=True):
        assert torch.equal(one, other)
    assert hooks.step == 4
    assert [books.step for books in hooks.history] == [2, 4]


def test_keys_and_numbers_are_in_the_event_file(tmp_path):
    _, hooks, _ = train(tmp_path)
    logged = board(tmp_path)
    assert set(logged) == KEYS
    for term in TERMS:
        told = [(books.step, pytest.approx(books[term].value)) for books in hooks.history]
        assert logged[f"headwise/{term}/value"] == told


def test_micro_batches_are_counted_also_in_a_short_last_step(tmp_path):
    _, hooks, seen = train(tmp_path, every=1, dropout=0.0)
    assert [books.step for books in hooks.history] == [1, 2, 3, 4]
    for books, first in zip(hooks.history, (0, 2, 4, 6), strict=True):
        batches = [batch for _, batch in seen[first : first + 2]]
        network = make_network().eval()
        network.load_state_dict(seen[first][0])
        for term, (value, norm) in books_by_hand(network, batches).items():
            assert books[term].value == pytest.approx(value, rel=1e-5)
            assert books[term].grad_norm == pytest.approx(norm, rel=1e-5)


def test_a_wrapped_foreign_criterion_is_logged_under_the_same_keys(tmp_path):
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True, log_with="tensorboard", project_dir=str(tmp_path))
    accelerator.init_trackers("run")
    model = make_network(0.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    model, optimizer = accelerator.prepare(model, optimizer)

    def foreign(outputs, batch):
        height, slope = outputs["y"].split(1, dim=1)
        return squares(height, batch["height"]), magnitudes(slope, batch["slope"])

    wrapped = wrap(foreign, names=TERMS)
    with accelerate_hooks(accelerator, optimizer, wrapped, every=1) as hooks:
        for batch in torch.utils.data.DataLoader(make_samples(2), batch_size=4):
            accelerator.backward(sum(wrapped(model(batch["x"]), batch)))
            optimizer.step()
            optimizer.zero_grad()
    accelerator.end_training()
    assert set(board(tmp_path)) == KEYS
    assert [books.step for books in hooks.history] == [1, 2]


def test_a_resumed_run_goes_on_after_its_step(tmp_path):
    from accelerate import Accelerator

    hw.Run(tmp_path / "run", every=1).close()
    network, criterion, accelerator = make_network(), make_criterion(), Accelerator(cpu=True)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    with (
        hw.Run(tmp_path / "run", resume=6) as run,
        accelerate_hooks(accelerator, optimizer, criterion, every=1, run=run) as hooks,
    ):
        for batch in torch.utils.data.DataLoader(make_samples(2), batch_size=4):
            criterion(network(batch["x"]), batch).total.backward()
            optimizer.step()
    assert hooks.step == 8
    assert run.recorded().log.steps == [7, 8]


def test_closed_hooks_leave_the_optimizer_alone(tmp_path):
    from accelerate import Accelerator

    network, criterion = make_network(), make_criterion()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    with accelerate_hooks(Accelerator(cpu=True), optimizer, criterion) as hooks:
        optimizer.step()
    optimizer.step()
    assert hooks.step == 1
    assert criterion.recorder is None
