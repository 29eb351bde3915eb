"""The books in a real Lightning Trainer."""

import pytest
import torch

import headwise as hw
from headwise.training.callbacks import lightning_callback
from tests.training.loops import (
    EVERY,
    KEYS,
    MICRO_BATCHES,
    TERMS,
    board,
    books_by_hand,
    make_criterion,
    make_network,
    make_samples,
)

pytest.importorskip("lightning", reason="pip install lightning (dependency group loops)")
pytestmark = [
    pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.`:FutureWarning"),  # lightning 2.6, newer torch
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),  # a hint of lightning's; the data is in memory
]


def train(folder, callback_of=None, *, dropout=0.2, epochs=1, **options):
    """An unchanged module and trainer; `callback_of` gets the criterion."""
    import lightning
    from lightning.pytorch.loggers import TensorBoardLogger

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.network, self.criterion, self.seen = make_network(dropout), make_criterion(), []

        def training_step(self, batch, index):
            self.seen.append(({n: p.detach().clone() for n, p in self.network.state_dict().items()}, batch))
            return self.criterion(self.network(batch["x"]), batch).total

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)

    lightning.seed_everything(0, verbose=False)
    module = Module()
    callbacks = [callback_of(module.criterion)] if callback_of else []
    trainer = lightning.Trainer(
        max_epochs=epochs, accelerator="cpu", accumulate_grad_batches=MICRO_BATCHES, log_every_n_steps=EVERY,
        callbacks=callbacks, logger=TensorBoardLogger(folder, name=""), enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, **options,
    )  # fmt: skip
    trainer.fit(module, torch.utils.data.DataLoader(make_samples(), batch_size=4))
    return module, (callbacks or [None])[0]


def test_training_is_equal_to_the_bit_with_and_without(tmp_path):
    module, callback = train(tmp_path / "with", lightning_callback)
    plain, _ = train(tmp_path / "without")
    for one, other in zip(module.parameters(), plain.parameters(), strict=True):
        assert torch.equal(one, other)
    assert [books.step for books in callback.history] == [2, 4]
    assert module.criterion.recorder is None


def test_keys_and_numbers_are_in_the_event_file(tmp_path):
    _, callback = train(tmp_path, lightning_callback, epochs=2)
    logged = board(tmp_path)
    assert {key for key in logged if key.startswith("headwise")} == KEYS
    for term in TERMS:
        told = [(books.step, books[term].grad_norm) for books in callback.history]
        assert logged[f"headwise/{term}/grad_norm"] == [(step, pytest.approx(norm)) for step, norm in told]
        assert [step for step, _ in told] == [2, 4, 6, 8]


def test_micro_batches_are_counted_also_in_a_short_last_step(tmp_path):
    module, callback = train(tmp_path, lambda criterion: lightning_callback(criterion, every=1), dropout=0.0)
    assert [books.step for books in callback.history] == [1, 2, 3, 4]
    for books, first in zip(callback.history, (0, 2, 4, 6), strict=True):
        seen = module.seen[first : first + 2]
        network = make_network().eval()
        network.load_state_dict(seen[0][0])
        # lightning divides every micro-batch by 2, also in the last step, which has one
        for term, (value, norm) in books_by_hand(network, [batch for _, batch in seen]).items():
            assert books[term].value == pytest.approx(value, rel=1e-5)
            assert books[term].grad_norm == pytest.approx(norm, rel=1e-5)


def test_a_ledger_of_yours_is_read_as_it_is(tmp_path):
    ledgers = []

    def callback_of(criterion):
        ledgers.append(hw.Ledger(criterion, micro_batches=MICRO_BATCHES))
        return lightning_callback(ledgers[0], every=1)

    _, callback = train(tmp_path, callback_of)
    assert len(ledgers[0].history()) == len(callback.history) == 4
    assert [b["slope"].value for b in ledgers[0].history()] == [b["slope"].value for b in callback.history]


def test_books_are_closed_after_an_error(tmp_path):
    class Stop(Exception):
        pass

    criteria = []

    def callback_of(criterion):
        criteria.append(criterion)
        criterion.register_forward_hook(stop)
        return lightning_callback(criterion)

    def stop(*_):
        raise Stop

    with pytest.raises(Stop):
        train(tmp_path, callback_of)
    assert criteria[0].recorder is None
