import json
import multiprocessing
import os
import random
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import torch

from headwise.runs.top_samples import read_top_samples
from headwise.training import Batch, Task, train
from headwise.training.folder.checkpoints import list_checkpoints, load_checkpoint
from headwise.training.processes.interrupts import ONE_REQUEST, Interrupts
from headwise.training.ranks import Ranks
from tests.training import tiny


def lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a log without what depends on the clock."""
    entries = [json.loads(line) for line in path.read_text().splitlines()]
    return [
        {key: value for key, value in entry.items() if key not in ("time", "images_per_second")} for entry in entries
    ]


def assert_same_run(one: Path, other: Path) -> None:
    assert lines(one / "log.jsonl") == lines(other / "log.jsonl")
    assert lines(one / "evaluation.jsonl") == lines(other / "evaluation.jsonl")
    assert read_top_samples(one) == read_top_samples(other)
    first, second = (load_checkpoint(list_checkpoints(run / "checkpoints")[0]) for run in (one, other))
    assert first["step"] == second["step"] == tiny.STEPS
    for part in ("network", "criterion", "optimizer", "scheduler", "scaler"):
        assert_equal(first[part], second[part])


def assert_equal(one: Any, other: Any) -> None:
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_equal(one[key], other[key])
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for left, right in zip(one, other, strict=True):
            assert_equal(left, right)
    else:
        assert one == other


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run, in a process of its own like those it is compared with."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert end(start(folder)) == 0
    return folder


def start(folder: Path, *, resume: bool = False, pause: float = 0.0) -> BaseProcess:
    """Begin the tiny run in a process that can be killed; its imports are shared by all through a fork server."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.training.tiny"])
    process = context.Process(target=tiny.main, args=(str(folder), resume, pause))
    process.start()
    return process


def end(process: BaseProcess) -> int | None:
    process.join(60)
    return process.exitcode


def test_the_run_folder_is_as_reports_expect(whole):
    config = json.loads((whole / "config.json").read_text())
    assert config["recipe"] == "tiny"
    assert config["terms"] == ["region", "level"]
    assert config["steps"] == tiny.STEPS
    assert config["arguments"] == tiny.ARGUMENTS
    assert config["card"] == "| term | loss |"
    assert torch.__version__.startswith(config["versions"]["torch"])
    entries = lines(whole / "log.jsonl")
    assert [entry["step"] for entry in entries] == [1, *range(2, tiny.STEPS + 1, 2)]
    assert [entry["step"] for entry in lines(whole / "evaluation.jsonl")] == [5, 10, 15, 20]
    assert entries[-1]["terms"].keys() == {"region", "level"}
    assert entries[0]["total"] > entries[-1]["total"]
    assert len(list_checkpoints(whole / "checkpoints")) == 3
    assert any((whole / "tensorboard").iterdir())
    top = read_top_samples(whole)
    assert top is not None
    assert top.step == tiny.STEPS
    assert {each.name for each in top.terms["level"]["gradient"]} == {f"picture {n}" for n in range(tiny.BATCH)}
    assert {each.step for each in top.terms["region"]["gradient"]} == {tiny.STEPS - 1}
    assert len(top.pictures) == tiny.BATCH


@pytest.mark.parametrize("seed", [0, 1])
def test_a_run_that_is_killed_and_resumed_is_the_same_to_the_bit(whole, tmp_path, seed):
    """SIGKILL at three random moments, from before the first checkpoint to after the last log line."""
    folder = tmp_path / "run"
    moments = random.Random(seed)
    kills = 0
    for attempt in range(3):
        process = start(folder, resume=attempt > 0, pause=0.05)
        wait_for_work(folder, process)
        time.sleep(moments.uniform(0, 0.5))
        process.kill()
        kills += end(process) == -signal.SIGKILL
    assert kills >= 2
    assert end(start(folder, resume=True)) == 0
    assert_same_run(whole, folder)


def wait_for_work(folder: Path, process: BaseProcess) -> None:
    """Wait until the process has logged a line."""
    log = folder / "log.jsonl"
    size = log.stat().st_size if log.exists() else 0
    deadline = time.monotonic() + 30
    while process.is_alive() and time.monotonic() < deadline:
        if log.exists() and log.stat().st_size not in (0, size):
            return
        time.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_step_and_saves(whole, tmp_path, number):
    folder = tmp_path / "run"
    process = start(folder, pause=0.05)
    wait_for_work(folder, process)
    os.kill(process.pid or 0, number)
    assert end(process) == 128 + number
    assert 0 < load_checkpoint(list_checkpoints(folder / "checkpoints")[0])["step"] < tiny.STEPS
    assert end(start(folder, resume=True)) == 0
    assert_same_run(whole, folder)


class InterruptedBatches(tiny.Batches):
    """Ctrl-C while the fourth batch is loaded, twice, as a terminal and a launcher send it."""

    def __call__(self, first: int, last: int, micro_batches: int, ranks: Ranks) -> Iterator[Batch]:
        for number, batch in enumerate(super().__call__(first, last, micro_batches, ranks)):
            if number == 3:
                os.kill(os.getpid(), signal.SIGINT)
                os.kill(os.getpid(), signal.SIGINT)
            yield batch


def test_a_later_signal_acts_as_before():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with Interrupts() as interrupts:
            os.kill(os.getpid(), signal.SIGINT)
            assert interrupts.received == signal.SIGINT
            interrupts.since -= 2 * ONE_REQUEST
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


def test_stopping_says_how_to_resume(tmp_path, capsys):
    task = replace(tiny.make_task(), batches=InterruptedBatches())
    outcome = train(task, tiny.settings(), tmp_path / "run")
    assert outcome.signal == signal.SIGINT
    assert outcome.steps == 3
    output = capsys.readouterr().out
    assert f"Continue with: headwise train tiny --out {tmp_path / 'run'} --resume" in output
    assert "region" in output, "plain lines name the terms"


class HangingBatches(tiny.Batches):
    """A fourth batch that never comes."""

    def __init__(self, number: int | None = None) -> None:
        super().__init__()
        self.number = number

    def __call__(self, first: int, last: int, micro_batches: int, ranks: Ranks) -> Iterator[Batch]:
        for number, batch in enumerate(super().__call__(first, last, micro_batches, ranks)):
            if number == 3:
                if self.number is not None:
                    os.kill(os.getpid(), self.number)
                time.sleep(60)
            yield batch


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_breaks_off_a_wait_for_batches(tmp_path, number):
    began = time.monotonic()
    outcome = train(replace(tiny.make_task(), batches=HangingBatches(number)), tiny.settings(), tmp_path / "run")
    assert time.monotonic() - began < 30
    assert (outcome.steps, outcome.signal) == (3, number)


def test_a_wait_for_batches_ends_by_itself(tmp_path):
    task = replace(tiny.make_task(), batches=HangingBatches())
    with pytest.raises(TimeoutError, match=r"loading the batches of step 4 took longer than 5 s \(patience\)"):
        train(task, tiny.settings(patience=5.0), tmp_path / "run")
    assert load_checkpoint(list_checkpoints(tmp_path / "run" / "checkpoints")[0])["step"] == 3


def test_a_clock_that_goes_back_changes_nothing(whole, tmp_path, monkeypatch):
    times = iter(range(10**9, 0, -3600))
    monkeypatch.setattr(time, "time", lambda: float(next(times)))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as `whole` ran: how a sum is split among threads decides its last bits
    try:
        tiny.run(tmp_path / "run")
    finally:
        torch.set_num_threads(threads)
    assert lines(tmp_path / "run" / "log.jsonl") == lines(whole / "log.jsonl")
    seconds = [json.loads(line)["time"] for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert seconds == sorted(seconds)


def test_a_checkpoint_that_does_not_fit_is_named(tmp_path):
    tiny.run(tmp_path / "run")
    task = replace(tiny.make_task(), network=torch.nn.Conv2d(3, 3, 1))
    optimizer = torch.optim.AdamW(task.network.parameters(), 0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.01, tiny.STEPS)
    task = replace(task, optimizer=optimizer, scheduler=schedule)
    with pytest.raises(ValueError, match=r"run: its checkpoint of step 20 does not fit what is to be trained"):
        train(task, tiny.settings(), tmp_path / "run", resume=True)


def test_a_forked_process_is_not_held_by_the_run():
    """It has the signals as they were before; a pool of the data's would ignore its own end otherwise."""
    with Interrupts():
        for _ in range(20):  # at once: it may come before the new process has run a line
            process = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
            process.start()
            process.terminate()
            process.join(20)
            assert process.exitcode == -signal.SIGTERM


def test_resuming_a_finished_run_changes_nothing(tmp_path):
    first = tiny.run(tmp_path)
    before = (tmp_path / "log.jsonl").read_bytes()
    again = tiny.run(tmp_path, resume=True)
    assert again.steps == tiny.STEPS
    assert again.scores == first.scores
    assert (tmp_path / "log.jsonl").read_bytes() == before


def test_a_truncated_checkpoint_is_left_out_with_a_warning(tmp_path, capsys):
    tiny.run(tmp_path)
    expected = lines(tmp_path / "log.jsonl")
    newest = list_checkpoints(tmp_path / "checkpoints")[0]
    newest.write_bytes(newest.read_bytes()[:500])
    tiny.run(tmp_path, resume=True)
    assert f"warning: {newest}: truncated" in capsys.readouterr().out
    assert lines(tmp_path / "log.jsonl") == expected


def test_a_second_run_in_one_folder_is_refused(tmp_path):
    tiny.run(tmp_path)
    with pytest.raises(ValueError, match=r"a run is there already. Continue it with --resume"):
        tiny.run(tmp_path)


def test_a_checkpoint_of_another_preset_is_refused(tmp_path):
    tiny.run(tmp_path)
    with pytest.raises(ValueError, match="preset 'tiny', but the run is of 'other'"):
        train(tiny.make_task(preset="other"), tiny.settings(), tmp_path, resume=True)


def test_other_arguments_are_refused(tmp_path):
    tiny.run(tmp_path)
    with pytest.raises(ValueError, match="started with another width"):
        train(tiny.make_task(arguments={"width": 8}), tiny.settings(), tmp_path, resume=True)


def test_resuming_where_nothing_is_begins_at_the_first_step(whole, tmp_path, capsys):
    tiny.run(tmp_path / "run", resume=True)
    assert "no checkpoint yet" in capsys.readouterr().out
    assert len(lines(tmp_path / "run" / "log.jsonl")) == len(lines(whole / "log.jsonl"))


def test_a_balance_comes_true_and_resumes_to_the_bit(tmp_path):
    """The averages of the rule and the weights are part of a checkpoint."""
    numbers = tiny.settings(balance="region=1,level=3", micro_batches=2)
    for name in ("whole", "resumed"):
        train(tiny.make_task(), numbers, tmp_path / name)
    for path in list_checkpoints(tmp_path / "resumed" / "checkpoints")[:2]:
        path.unlink()
    train(tiny.make_task(), numbers, tmp_path / "resumed", resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "resumed")
    terms = lines(tmp_path / "whole" / "log.jsonl")[-1]["terms"]
    norms = {name: term["grad_norm"] for name, term in terms.items()}
    assert norms["level"] / sum(norms.values()) == pytest.approx(0.75, abs=0.1)
    assert terms["level"]["weight"] != lines(tmp_path / "whole" / "log.jsonl")[0]["terms"]["level"]["weight"]
    with pytest.raises(ValueError, match=r"grad_norm, uncertainty, or shares .* found 'even'"):
        tiny.settings(balance="even")


HALF: list[Any] = ["bf16-mixed", "16-mixed"]


@pytest.mark.parametrize("precision", HALF)
@pytest.mark.parametrize("clip_norm", [None, 1.0])
def test_half_precision_resumes_to_the_bit(tmp_path, precision, clip_norm):
    """The scale of the loss is part of a checkpoint; a fused optimizer may be clipped."""
    numbers = tiny.settings(precision=precision, clip_norm=clip_norm, micro_batches=2)
    for name in ("whole", "resumed"):
        train(fused_task(), numbers, tmp_path / name)
    for path in list_checkpoints(tmp_path / "resumed" / "checkpoints")[:2]:
        path.unlink()
    train(fused_task(), numbers, tmp_path / "resumed", resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "resumed")
    state = load_checkpoint(list_checkpoints(tmp_path / "whole" / "checkpoints")[0])
    assert ("scale" in state["scaler"]) == (precision == "16-mixed")
    entries = lines(tmp_path / "whole" / "log.jsonl")
    assert entries[0]["total"] > entries[-1]["total"]


def fused_task() -> Task:
    task = tiny.make_task()
    optimizer = torch.optim.AdamW(task.network.parameters(), 0.01, fused=True)
    return replace(
        task, optimizer=optimizer, scheduler=torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.01, tiny.STEPS)
    )


@pytest.mark.parametrize("precision", HALF)
def test_the_books_do_not_depend_on_the_precision(tmp_path, precision):
    """Values and gradient norms of the first step: the scale of the loss is divided out."""
    steps = {"steps": 1, "log_every": 1}
    for name in ("32-true", precision):
        train(fused_task(), tiny.settings(precision=name, **steps), tmp_path / name)
    exact, half = (lines(tmp_path / name / "log.jsonl")[0] for name in ("32-true", precision))
    for term, known in exact["terms"].items():
        for column in ("value", "weighted", "grad_norm"):
            assert half["terms"][term][column] == pytest.approx(known[column], rel=0.02)


@pytest.mark.parametrize("fused", [True, False])
def test_steps_that_overflow_are_skipped_until_the_scale_fits(tmp_path, monkeypatch, fused):
    """Nothing is warned of, nothing spoilt, and the schedule moves on; only fused optimizers skip steps themselves."""
    monkeypatch.setattr("torch.amp.GradScaler", partial(torch.amp.GradScaler, init_scale=2.0**100, backoff_factor=1e-3))
    task = fused_task() if fused else tiny.make_task()
    train(task, tiny.settings(precision="16-mixed"), tmp_path / "run")
    state = load_checkpoint(list_checkpoints(tmp_path / "run" / "checkpoints")[0])
    assert 0 < float(state["optimizer"]["state"][0]["step"]) < tiny.STEPS
    assert state["scaler"]["scale"] < 2.0**100
    assert state["scheduler"]["last_epoch"] == tiny.STEPS
    assert all(torch.isfinite(value).all() for value in state["network"].values())


@pytest.mark.parametrize("changes", [{"strategy": "fsdp2"}, {"on_nonfinite": "drop"}])
def test_what_a_loss_scale_excludes_is_refused(changes):
    with pytest.raises(ValueError, match="precision 16-mixed goes with strategy ddp and on_nonfinite keep"):
        tiny.settings(precision="16-mixed", **changes)


def test_an_unknown_precision_is_refused():
    with pytest.raises(ValueError, match="precision is one of 32-true, bf16-mixed, 16-mixed, found 'fp16'"):
        tiny.settings(precision="fp16")


@pytest.mark.parametrize("name", ["steps", "log_every", "checkpoint_every"])
def test_numbers_below_one_are_refused(name):
    with pytest.raises(ValueError, match=f"{name} is 0, but must be at least 1"):
        tiny.settings(**{name: 0})
