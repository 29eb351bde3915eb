"""On a GPU: the books in the loops of three frameworks in half precision, and ``headwise run`` on a script."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from headwise.attribution.ledger.books import Books
from headwise.training.callbacks import accelerate_hooks, huggingface_callback, lightning_callback
from tests.attribution.run_scripts import booked, ran, under_us
from tests.training.loops import TERMS, make_criterion, make_network, make_samples

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.`:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*pin_memory:UserWarning"),
]
# Without a GPU the loop itself is tried: half precision is slow on many CPUs, and Accelerate refuses fp16 there.
HALVES = ["bf16", "fp16"] if torch.cuda.is_available() else [None]


def same(books: Books, wanted: Books) -> None:
    """Half precision has float32's numbers but for rounding; a scaler's factor of 65,536 would not be rounding."""
    for name in TERMS:
        for number in ("value", "weighted", "grad_norm"):
            assert float(getattr(books[name], number)) == pytest.approx(float(getattr(wanted[name], number)), rel=0.05)


def by_accelerate(device: torch.device, half: str | None) -> Books:
    accelerate = pytest.importorskip("accelerate")
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = accelerate.Accelerator(cpu=device.type == "cpu", mixed_precision=half or "no")
    model, criterion = make_network(0.0), make_criterion()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    loader = torch.utils.data.DataLoader(make_samples(), batch_size=4)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    hooks = accelerate_hooks(accelerator, optimizer, criterion, every=1)
    for batch in loader:
        accelerator.backward(criterion(model(batch["x"]), batch).total)
        optimizer.step()
        optimizer.zero_grad()
    hooks.close()
    return hooks.history[0]


def by_lightning(device: torch.device, half: str | None) -> Books:
    lightning = pytest.importorskip("lightning")
    base: Any = lightning.LightningModule

    class Module(base):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.network, self.criterion = make_network(0.0), make_criterion()

        def training_step(self, batch: Any, index: int) -> Any:
            return self.criterion(self.network(batch["x"]), batch).total

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.01)

    module = Module()
    callback = lightning_callback(module.criterion)
    precision = "32-true" if half is None else f"{half.removeprefix('fp')}-mixed"
    trainer = lightning.Trainer(
        max_epochs=1, accelerator="gpu" if device.type == "cuda" else "cpu", devices=1, precision=precision,
        callbacks=[callback], logger=False, log_every_n_steps=1, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, torch.utils.data.DataLoader(make_samples(), batch_size=4))
    return callback.history[0]


class Returning(nn.Module):
    """A model as the Trainer wants it: it returns its loss."""

    def __init__(self) -> None:
        super().__init__()
        self.network, self.criterion = make_network(0.0), make_criterion()

    def forward(self, **batch: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"loss": self.criterion(self.network(batch["x"]), batch).total}


def by_trainer(device: torch.device, half: str | None) -> Books:
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate").state.AcceleratorState._reset_state(reset_partial_state=True)
    model = Returning()
    callback = huggingface_callback(model.criterion)
    arguments = transformers.TrainingArguments(
        output_dir="unused", num_train_epochs=1, per_device_train_batch_size=4, use_cpu=device.type == "cpu",
        bf16=half == "bf16", fp16=half == "fp16", save_strategy="no", logging_steps=1, report_to=[], disable_tqdm=True,
        seed=0, learning_rate=0.01, max_grad_norm=0.0, remove_unused_columns=False, label_names=[],
    )  # fmt: skip
    transformers.Trainer(model, arguments, train_dataset=make_samples(), callbacks=[callback]).train()
    return callback.history[0]


@pytest.mark.parametrize("half", HALVES)
@pytest.mark.parametrize("loop", [by_accelerate, by_lightning, by_trainer])
def test_books_of_a_framework_in_half_precision(loop, half, device, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    same(loop(device, half), loop(torch.device("cpu"), None))


SCRIPT = """\
import sys
import torch
from torch import nn

device, half = sys.argv[1], getattr(torch, sys.argv[2])
torch.manual_seed(0)
net = nn.ModuleDict({"body": nn.Linear(8, 16), "label": nn.Linear(16, 4), "place": nn.Linear(16, 2)}).to(device)
optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
scaler = torch.amp.GradScaler(device, enabled=half == torch.float16)
draw = torch.Generator().manual_seed(1)
for step in range(6):
    x, label, place = (torch.randn(32, size, generator=draw).to(device) for size in (8, 4, 2))
    with torch.autocast(device, half, enabled=half != torch.float32):
        features = net["body"](x).relu()
        loss_label = nn.functional.cross_entropy(net["label"](features), label.softmax(1))
        loss_place = nn.functional.smooth_l1_loss(net["place"](features), place)
        loss = loss_label + 0.25 * loss_place
    optimizer.zero_grad()
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    scaler.update()
torch.save(net.state_dict(), "weights.pt")
"""


@pytest.mark.parametrize("half", ["float32", "bfloat16", "float16"] if torch.cuda.is_available() else ["float32"])
def test_a_script_under_headwise_run(half, device, tmp_path: Path):
    runs = []
    for run, name in ((under_us, "with"), (ran, "without")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "script.py").write_text(SCRIPT)
        options = ("--every", "2") if run is under_us else ()
        done = run(tmp_path / name, *options, "script.py", device.type, half)
        assert done.returncode == 0, done.stderr[-2000:]
        runs.append(torch.load(tmp_path / name / "weights.pt", map_location="cpu"))
    assert all(torch.equal(each, runs[1][name]) for name, each in runs[0].items())
    for entry in booked(tmp_path / "with"):
        weights = {name: round(term["weight"], 6) for name, term in entry["terms"].items()}
        assert weights == {"loss_label": 1.0, "loss_place": 0.25}
        assert all(0 < term["grad_norm"] < 10 for term in entry["terms"].values())
