"""What the callbacks of all loops share."""

import math
import subprocess
import sys
from unittest.mock import Mock

import pytest
import torch

import headwise as hw
from headwise.training.callbacks import AccelerateHooks, Keeper, huggingface_callback, lightning_callback, log_entries
from tests.training.loops import KEYS, make_criterion, make_network, make_samples


def backward(criterion, network, factor=1.0):
    batch = torch.utils.data.default_collate(make_samples(1))
    (factor * criterion(network(batch["x"]), batch).total).backward()


def test_entries_are_the_books_under_stable_keys():
    criterion, network = make_criterion(), make_network()
    with hw.Ledger(criterion) as ledger:
        backward(criterion, network)
        books = ledger.read()
    entries = log_entries(books)
    assert set(entries) == KEYS
    assert entries["headwise/slope/value"] == books["slope"].value
    assert entries["headwise/slope/share"] == books["slope"].share
    assert entries["headwise/slope/grad_norm"] == books["slope"].grad_norm
    assert entries["headwise/total"] == books.total
    assert entries["headwise/slope/finite"] == 1.0
    assert set(log_entries(books, "run/loss")) == {key.replace("headwise", "run/loss") for key in KEYS}


def test_a_term_that_is_not_finite_is_logged_as_that():
    criterion = hw.Criterion([hw.Term("bad", lambda y: y.log().sum(), 1.0, output="y")])
    with hw.Ledger(criterion) as ledger:
        criterion({"y": torch.tensor([0.0], requires_grad=True)}, {}).total.backward()
        entries = log_entries(ledger.read())
    assert entries["headwise/bad/finite"] == 0.0
    assert math.isinf(entries["headwise/bad/value"])


def test_keeper_reads_a_ledger_as_it_is():
    criterion, network = make_criterion(), make_network()
    with hw.Ledger(criterion) as ledger:
        keeper = Keeper(ledger)
        keeper.begin(4)
        backward(criterion, network)
        assert keeper.read(7)["headwise/height/value"] == ledger.read()["height"].value
        keeper.close()
        assert [books.step for books in keeper.history] == [7]
        assert criterion.recorder is ledger


def test_keeper_reads_a_wrapped_foreign_criterion():
    wrapped = hw.attribution.wrap(lambda y: {"height": y[0].square(), "slope": y[1].abs()})
    keeper = Keeper(wrapped)
    keeper.begin(1)
    y = torch.tensor([3.0, -2.0], requires_grad=True)
    losses = wrapped(y)
    (losses["height"] + 0.5 * losses["slope"]).backward()
    entries = keeper.read(1)
    assert set(entries) == KEYS
    assert entries["headwise/height/grad_norm"] == 6.0
    assert entries["headwise/slope/grad_norm"] == 0.5
    assert entries["headwise/slope/share"] == 0.1
    assert entries["headwise/total"] == 10.0


def test_a_run_folder_gets_what_is_read(tmp_path):
    criterion, network = make_criterion(), make_network()
    run = hw.Run(tmp_path / "run", every=1000)  # the loop says when it is time, not the run
    keeper = Keeper(criterion, run=run)
    for step in (7, 8):
        keeper.begin(1)
        backward(criterion, network)
        keeper.read(step)
    keeper.close()
    recorded = run.recorded()
    assert recorded.log.steps == [7, 8]
    assert recorded.term("slope", "grad_norm") == pytest.approx([b["slope"].grad_norm for b in keeper.history], 1e-5)


def test_a_step_with_fewer_micro_batches_is_booked_as_what_it_was():
    criterion, network = make_criterion(), make_network()
    network.eval()
    keeper = Keeper(criterion)
    read = []
    for calls in (3, 1, 3):
        keeper.begin(3)
        for _ in range(calls):
            backward(criterion, network, 1 / calls)
        read.append(keeper.read(0))
    keeper.close()
    assert criterion.recorder is None
    batch_norm, single = read[0]["headwise/height/grad_norm"], read[1]["headwise/height/grad_norm"]
    assert batch_norm == pytest.approx(single / math.sqrt(3), rel=1e-5)  # three equal parts of a third each
    assert read[2] == read[0]
    assert read[0]["headwise/height/value"] == pytest.approx(read[1]["headwise/height/value"], rel=1e-6)


def test_a_criterion_that_the_loop_never_calls_is_an_error():
    keeper = Keeper(make_criterion())
    keeper.begin(1)
    with pytest.raises(ValueError, match="step 50: no backward pass of this criterion"):
        keeper.read(50)


def test_a_step_without_the_criterion_is_passed_over_once_it_has_been_called():
    criterion, network = make_criterion(), make_network()
    keeper = Keeper(criterion)
    keeper.begin(1)
    backward(criterion, network)
    assert keeper.read(1)
    keeper.begin(1)
    assert keeper.read(2) == {}
    assert [books.step for books in keeper.history] == [1]


@pytest.mark.parametrize("source", [torch.nn.MSELoss(), None, {"loss": 1.0}])
def test_what_keeps_no_books_is_refused(source):
    with pytest.raises(ValueError, match=r"expected a headwise Criterion, a Ledger, or .*wrap"):
        Keeper(source)


def test_numbers_below_one_are_refused():
    with pytest.raises(ValueError, match="calls"):
        Keeper(make_criterion(), calls=0)
    with pytest.raises(ValueError, match="every"):
        AccelerateHooks(Mock(), Mock(), make_criterion(), every=0)


@pytest.mark.parametrize(
    ("make", "package"), [(lightning_callback, "lightning"), (huggingface_callback, "transformers")]
)
def test_a_missing_library_is_named_with_its_extra(make, package, monkeypatch):
    monkeypatch.setattr("headwise.require.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=rf"needs {package}\. Install with: pip install 'headwise\[loops\]'"):
        make(make_criterion())


def test_importing_the_callbacks_imports_no_library():
    found = "[name for name in ('lightning', 'transformers', 'accelerate') if name in sys.modules]"
    code = f"import sys, headwise.training.callbacks; print({found})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
