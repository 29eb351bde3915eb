"""Whole runs on two processes: the same books as one, the same weights after whatever happens to long runs."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from headwise.data.loading import BatchSampler
from headwise.training.folder.checkpoints import list_checkpoints, load_checkpoint
from headwise.training.ranks import error_line
from tests.distributed.runs import GONE, NUM_PICTURES, Spec, end, run, start, used_samples

pytestmark = pytest.mark.timeout(240)

STEPS = 12


def state(folder: Path) -> dict[str, Any]:
    return load_checkpoint(list_checkpoints(folder / "checkpoints")[0])


def lines(path: Path) -> list[dict[str, Any]]:
    entries = [json.loads(line) for line in path.read_text().splitlines()]
    return [{key: each for key, each in entry.items() if key not in ("time", "images_per_second")} for entry in entries]


def samples(folder: Path, ranks: int = 2) -> dict[int, list[int]]:
    """The samples of every step, those of all processes, as they were last done."""
    shares = [used_samples(folder, rank)[0] for rank in range(ranks)]
    return {step: [number for share in shares for number in share[step]] for step in shares[0]}


def assert_same(one: Any, other: Any, rel: float | None = None) -> None:
    """The same to the bit, or with numbers as near as `rel`."""
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_same(one[key], other[key], rel)
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for left, right in zip(one, other, strict=True):
            assert_same(left, right, rel)
    elif isinstance(one, torch.Tensor):
        torch.testing.assert_close(one, other, rtol=rel or 0, atol=rel / 10 if rel else 0)
    elif isinstance(one, float) and rel:
        assert one == pytest.approx(other, rel=rel, abs=rel / 10)
    else:
        assert one == other


def assert_same_run(folder: Path, wanted: Path, rel: float | None = None) -> None:
    one, other = state(folder), state(wanted)
    assert one["step"] == other["step"]
    for part in ("network", "optimizer", "scheduler", "criterion", "scores"):
        assert_same(one[part], other[part], rel)
    for name in ("log.jsonl", "evaluation.jsonl"):
        assert_same(lines(folder / name), lines(wanted / name), rel)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two processes, with batch normalization and dropout."""
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    assert run(folder).codes == [0, 0]
    return folder


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One process and a network whose steps do not depend on the split."""
    folder = tmp_path_factory.mktemp("alone") / "run"
    assert run(folder, ranks=1, plain=True).codes == [0]
    return folder


SPLITS: dict[str, dict[str, Any]] = {
    "ddp": {},
    "ddp, micro-batches": {"micro_batches": 2},
    "fsdp2": {"strategy": "fsdp2", "micro_batches": 2},
}


@pytest.mark.parametrize("name", SPLITS)
def test_two_processes_keep_the_books_of_one(alone, tmp_path, name):
    """Weights, optimizer, every log line with its norms and cosines, and an evaluation that five pictures share."""
    assert run(tmp_path / "run", plain=True, settings=SPLITS[name]).codes == [0, 0]
    assert_same_run(tmp_path / "run", alone, rel=2e-5)
    assert samples(tmp_path / "run") == samples(alone, 1)


def test_the_limit_of_these_gradients_is_felt(alone, tmp_path):
    assert run(tmp_path / "run", ranks=1, plain=True, settings={"clip_norm": None}).codes == [0]
    limited, free = state(alone)["network"], state(tmp_path / "run")["network"]
    assert not torch.allclose(limited["head.weight"], free["head.weight"], atol=1e-3)


def test_every_epoch_uses_every_picture_once(undisturbed):
    used = samples(undisturbed)
    stream = [number for step in range(STEPS) for number in used[step]]
    assert len(stream) == STEPS * 5
    for begin in range(0, len(stream) - NUM_PICTURES, NUM_PICTURES):
        assert sorted(stream[begin : begin + NUM_PICTURES]) == list(range(NUM_PICTURES))


@pytest.mark.parametrize("num_ranks", [2, 3, 4])
@pytest.mark.parametrize(("num_pictures", "batch_size"), [(11, 5), (4, 7), (12, 4)])
def test_uneven_ends_are_neither_padded_nor_dropped(num_pictures, batch_size, num_ranks):
    def keys(rank: int) -> list[Any]:
        sampler = BatchSampler(num_pictures, batch_size, seed=0, last_step=num_pictures, rank=rank, num_ranks=num_ranks)
        return [key for batch in sampler for key in batch]

    used = sorted(key for rank in range(num_ranks) for key in keys(rank))
    assert used == [(epoch, picture) for epoch in range(batch_size) for picture in range(num_pictures)]


def test_a_killed_process_ends_the_other_which_names_it_and_the_run_goes_on_to_the_bit(undisturbed, tmp_path):
    """torchrun starts all of them again: its count of restarts means to resume."""
    folder = tmp_path / "run"
    for rank, step in ((0, 4), (1, 7)):
        ended = run(folder, events=((rank, step, "kill"),), resume=rank == 1)
        assert ended.codes[rank] == -signal.SIGKILL
        assert ended.codes[1 - rank] == 2
        assert f"process {1 - rank} stops because process {rank} was killed" in ended.said[1 - rank]
        assert state(folder)["step"] == 3 * (rank + 1)
    assert run(folder, environment={"TORCHELASTIC_RESTART_COUNT": "1"}).codes == [0, 0]
    assert_same_run(folder, undisturbed)
    assert samples(folder) == samples(undisturbed)


def test_a_sharded_run_goes_on_to_the_bit(tmp_path):
    """With the running statistics that the evaluation between kill and end reads on both processes."""
    settings = {"strategy": "fsdp2", "steps": 6, "checkpoint_every": 2, "evaluate_every": 4}
    assert run(tmp_path / "undisturbed", settings=settings).codes == [0, 0]
    assert run(tmp_path / "run", events=((0, 3, "kill"),), settings=settings).codes == [-signal.SIGKILL, 2]
    assert run(tmp_path / "run", resume=True, settings=settings).codes == [0, 0]
    assert_same_run(tmp_path / "run", tmp_path / "undisturbed")


def test_a_process_that_waits_for_a_lost_one_in_vain_ends_itself(tmp_path):
    ended = run(tmp_path / "run", events=((1, 4, "hang"), (0, 4, "kill")), grace=0.5)
    assert ended.codes == [-signal.SIGKILL, 1]
    assert ended.seconds < 50
    assert "process 1 stops because process 0 was killed" in ended.said[1]


def test_a_stopped_process_is_named_by_the_other(tmp_path):
    """It closes nothing and answers nothing; nobody but the one that waits for it can tell."""
    spec = Spec(str(tmp_path / "run"), events=((1, 4, "stop"),), grace=0.5, settings={"patience": 4.0})
    processes, meet = start(spec)
    processes[0].join(90)
    processes[1].kill()
    ended = end(processes, meet)
    assert ended.codes == [1, -signal.SIGKILL]
    assert "process 0 stops because process 1 has given no sign of life for 4 s (patience)" in ended.said[0]
    assert state(tmp_path / "run")["step"] == 3


def test_batches_that_do_not_come_end_all_after_a_checkpoint(tmp_path):
    ended = run(tmp_path / "run", events=((1, 5, "hang"),), settings={"patience": 8.0})
    assert ended.codes == [2, 2]
    assert "loading the batches of step 6 took longer than 8 s (patience)" in ended.said[1]
    assert "process 1: loading the batches of step 6" in ended.said[0]
    assert state(tmp_path / "run")["step"] == 5


def test_sigterm_to_one_process_saves_and_ends_all_after_the_same_step(undisturbed, tmp_path):
    ended = run(tmp_path / "run", events=((1, 5, "term"),))
    assert ended.codes == [143, 143]
    assert state(tmp_path / "run")["step"] == 5
    assert "after step 5 of 12; the checkpoint is written" in ended.said[0]
    assert run(tmp_path / "run", resume=True).codes == [0, 0]
    assert_same_run(tmp_path / "run", undisturbed)


@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1)])
def test_a_vanished_picture_ends_the_run_after_a_checkpoint_and_another_split_goes_on(alone, tmp_path, before, after):
    ended = run(tmp_path / "run", ranks=before, plain=True, events=((before - 1, 5, "gone"),))
    assert ended.codes == [2] * before
    assert all(GONE in said for said in ended.said)
    if before == 2:
        assert f"process 1: {GONE}" in ended.said[0]
    assert state(tmp_path / "run")["step"] == 5
    settings = {"micro_batches": before}
    assert run(tmp_path / "run", ranks=after, plain=True, resume=True, settings=settings).codes == [0] * after
    assert_same_run(tmp_path / "run", alone, rel=2e-5)


def test_a_term_that_is_not_finite_on_one_process_ends_all_with_its_name(tmp_path):
    ended = run(tmp_path / "run", events=((1, 5, "nan"),), settings={"on_nonfinite": "raise"})
    assert ended.codes == [2, 2]
    assert all("term 'level' at output 'maps[:, 2]'" in said for said in ended.said)
    assert state(tmp_path / "run")["step"] == 3


def test_a_term_that_is_not_finite_on_one_process_is_dropped_on_all_and_named(tmp_path):
    settings = {"on_nonfinite": "drop", "log_every": 4}
    ended = run(tmp_path / "run", plain=True, events=((1, 5, "nan"),), settings=settings)
    assert ended.codes == [0, 0]
    assert (
        "warning: step 6: the gradient of term 'level' is not finite on process 1 (output maps[:, 2])" in ended.said[0]
    )
    assert all(bool(each.isfinite().all()) for each in state(tmp_path / "run")["network"].values())


def test_a_full_disk_ends_all_with_the_name_of_the_file_and_of_the_last_good_checkpoint(tmp_path):
    ended = run(tmp_path / "run", events=((0, 4, "full"),), settings={"log_every": 100, "evaluate_every": 100})
    assert ended.codes == [2, 2]
    assert all("step_00000006.pt: the checkpoint could not be written" in said for said in ended.said)
    assert all("the last good one is step_00000003.pt" in said for said in ended.said)


def test_what_only_the_first_process_finds_out_ends_all(undisturbed, tmp_path):
    ended = run(undisturbed)
    assert ended.codes == [2, 2]
    assert all("a run is there already" in said for said in ended.said)


def test_truncated_and_foreign_checkpoints_are_named_and_the_last_good_one_is_used(undisturbed, tmp_path):
    run(tmp_path / "run", events=((0, 11, "gone"),))
    first, second, _ = list_checkpoints(tmp_path / "run" / "checkpoints")
    first.write_bytes(first.read_bytes()[:700])
    torch.save({"weights": torch.zeros(3)}, second)
    ended = run(tmp_path / "run", resume=True)
    assert ended.codes == [0, 0]
    assert f"warning: {first}: truncated" in ended.said[0]
    assert f"warning: {second}: no checkpoint of Headwise" in ended.said[0]
    assert "continuing after step 6" in ended.said[0]
    assert_same_run(tmp_path / "run", undisturbed)


def test_an_error_of_a_loading_process_is_told_by_its_last_line():
    trace = "Caught FileNotFoundError in DataLoader worker process 0.\nOriginal Traceback:\n  ...\n"
    assert error_line(FileNotFoundError(f"{trace}FileNotFoundError: {GONE}")) == GONE
    assert error_line(KeyError()) == "KeyError"
