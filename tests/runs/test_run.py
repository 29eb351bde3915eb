"""Any loop has a run folder: written beside its optimizer, readable at every moment, small."""

import errno
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import headwise as hw
from headwise import losses
from headwise.report import write_report
from headwise.runs.alerts import replay
from headwise.runs.comparing import compare
from headwise.runs.entries import brief, full, pairs_of, split_pair, step_entry
from headwise.runs.log import JsonLines
from headwise.runs.reading import read_run


def criterion(terms: int, outputs: int) -> hw.Criterion:
    return hw.Criterion(
        [
            hw.Term(f"term_{n}", losses.squared_error, output=f"out_{n % outputs}", target=f"y_{n}", weight=0.5)
            for n in range(terms)
        ]
    )


def step(declared: hw.Criterion, terms: int, outputs: int) -> None:
    x = {f"out_{n}": torch.randn(2, 3, requires_grad=True) for n in range(outputs)}
    declared(x, {f"y_{n}": torch.randn(2, 3) for n in range(terms)}).total.backward()


def test_a_plain_loop_gets_a_page(tmp_path):
    declared = criterion(3, 2)
    with hw.Ledger(declared) as ledger, hw.Run(tmp_path / "mine", ledger, every=2, config={"rate": 0.1}) as run:
        for number in range(1, 7):
            step(declared, 3, 2)
            run.log(number)
        run.evaluate(6, {"iou": {"f": 0.5}})
        run.show(torch.zeros(8, 9, 3, dtype=torch.uint8).numpy())
    read = read_run(tmp_path / "mine")
    assert read.log.steps == [1, 2, 4, 6]
    assert read.terms == ["term_0", "term_1", "term_2"]
    assert read.term("term_1", "finite") == [1.0] * 4
    assert read.evaluation.column("iou", "f") == [0.5]
    page = write_report(tmp_path / "mine", png=False).read_text()
    assert all(name in page for name in read.terms)


@pytest.mark.parametrize(("terms", "outputs"), [(5, 5), (20, 20), (13, 1), (15, 3)])
def test_a_term_takes_at_most_200_bytes_a_line(tmp_path, terms, outputs):
    declared = criterion(terms, outputs)
    with hw.Ledger(declared) as ledger, hw.Run(tmp_path / "run", ledger, every=1) as run:
        for number in range(1, 9):
            step(declared, terms, outputs)
            run.log(number)
    assert (tmp_path / "run" / "log.jsonl").stat().st_size / 8 / terms <= 200


@pytest.mark.parametrize(("terms", "outputs"), [(4, 4), (4, 2), (3, 1)])
def test_what_is_written_briefly_is_read_in_full(terms, outputs):
    declared = criterion(terms, outputs)
    with hw.Ledger(declared) as ledger:
        step(declared, terms, outputs)
        entry = step_entry(1, ledger.read(), time=1.0)
    read = full(json.loads(brief(entry)))
    assert read["cosine"].keys() == entry["cosine"].keys()
    assert read["cosine"] == pytest.approx(entry["cosine"], abs=5e-4)
    for name, term in entry["terms"].items():
        assert read["terms"][name]["outputs"].keys() == term["outputs"].keys()
        for path, output in term["outputs"].items():
            assert read["terms"][name]["outputs"][path] == {
                "grad_norm": pytest.approx(output["grad_norm"], rel=1e-5),
                "finite": True,
            }
        for quantity in ("value", "weight", "weighted", "share", "grad_norm", "finite"):
            assert read["terms"][name][quantity] == pytest.approx(term[quantity], rel=1e-5)


LOOP = """
import sys, torch, headwise as hw
from tests.runs.test_run import criterion, step
declared = criterion(2, 2)
ledger = hw.Ledger(declared)
run = hw.Run(sys.argv[1], ledger, every=1)
for number in range(1, 10**6):
    step(declared, 2, 2)
    run.log(number)
"""


def test_no_two_pairs_of_terms_have_one_key(tmp_path):
    names = ("a|b", "a", "b|a", "\\", "|", "\\|", "a\\", "\n|", "b")
    assert len(set(pairs_of(names))) == len(pairs_of(names))
    assert [split_pair(key, names) for key in pairs_of(names)] == [*itertools.combinations(names, 2)]
    assert split_pair("a|c", names) is None
    declared = hw.Criterion(
        [hw.Term(name, losses.squared_error, output="y", target=f"t{n}") for n, name in enumerate(names[:3])]
    )
    y = torch.zeros(1, 2, requires_grad=True)
    with hw.Ledger(declared) as ledger, hw.Run(tmp_path / "run", ledger) as run:
        targets = [(1.0, 0.0), (0.6, 0.8), (0.0, -1.0)]  # their gradients at 0 point there
        declared({"y": y}, {f"t{n}": torch.tensor([each]) for n, each in enumerate(targets)}).total.backward()
        run.log(1)
    assert run.recorded().pairs() == {
        ("a|b", "a"): [0.6],
        ("a|b", "b|a"): [0.0],
        ("a", "b|a"): [-0.8],
    }


def test_a_killed_loop_has_lost_one_line_at_most_and_goes_on(tmp_path):
    child = subprocess.Popen([sys.executable, "-c", LOOP, str(tmp_path / "run")], env=dict(os.environ))
    log = tmp_path / "run" / "log.jsonl"
    end = time.monotonic() + 120
    while time.monotonic() < end and not (log.is_file() and log.read_bytes().count(b"\n") > 20):
        time.sleep(0.05)
    child.send_signal(signal.SIGKILL)
    child.wait()
    whole = [json.loads(line)["step"] for line in log.read_bytes().split(b"\n")[:-1]]
    assert whole == list(range(1, len(whole) + 1))
    assert len(whole) > 20
    with hw.Run(tmp_path / "run", every=1, resume=10) as run:
        assert run.folder == tmp_path / "run"
    assert read_run(tmp_path / "run").log.steps == list(range(1, 11))


def test_what_is_there_stays(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"notes\.txt"):
        hw.Run(tmp_path / "mine")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes.txt"]
    hw.Run(tmp_path / "run").close()
    with pytest.raises(ValueError, match="a run is there already"):
        hw.Run(tmp_path / "run")


def test_books_may_be_given_and_must_come_from_somewhere(tmp_path):
    with hw.Run(tmp_path / "run") as run:
        run.log(3)
        with pytest.raises(ValueError, match="no ledger"):
            run.log(1)


def test_steps_of_any_kind_of_whole_number_which_never_go_back(tmp_path):
    ledger, train = a_loop()
    with hw.Run(tmp_path / "run", ledger, every=1) as run:
        train()
        steps: list[Any] = [1, np.int64(2), torch.tensor(3), 3]
        for step in steps:
            run.log(step, ledger.read())
        others: list[Any] = [2.5, 4.0, "4", None, True, -1, float("nan")]
        for other in others:
            with pytest.raises(ValueError, match="a step is a whole number from 0"):
                run.log(other)
        with pytest.raises(ValueError, match="step 1 comes after step 3"):
            run.log(1)  # of the second epoch
    assert read_run(tmp_path / "run").log.steps == [1, 2, 3]
    with hw.Run(tmp_path / "run", ledger, resume=3) as run:
        with pytest.raises(ValueError, match=r"comes after step 3.*give resume=STEP the step of that"):
            run.log(1)
        with pytest.raises(ValueError, match=r"comes after step 3.*give resume=STEP the step of that"):
            run.evaluate(2, {"accuracy": 0.5})


def test_old_books_are_not_logged_as_those_of_another_step(tmp_path):
    """Steps of the other criterion of a pair, or logged before their backward pass."""
    ledger, train = a_loop()
    with hw.Run(tmp_path / "run", ledger, every=1) as run:
        train()
        run.log(1)
        with pytest.warns(RuntimeWarning, match=r"step 2 is not logged.*booked nothing since step 1, whose books"):
            run.log(2)
        run.log(3)  # told once
        train()
        run.log(4)
        run.log(4)
    read = read_run(tmp_path / "run")
    assert read.log.steps == [1, 4]
    assert read.remarks == ()


def test_a_step_that_is_logged_after_each_micro_batch_has_all_of_them(tmp_path):
    criterion = hw.Criterion([hw.Term("y", losses.squared_error, output="y", target="t")])
    weight = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([weight], lr=0.0)
    with hw.Ledger(criterion, optimizer=optimizer) as ledger, hw.Run(tmp_path / "run", ledger, every=1) as run:
        for number in (1, 2, 3):
            for _ in range(3):
                (criterion({"y": weight * 1}, {"t": torch.zeros(2)}).total / 3).backward()
                run.log(number)
            optimizer.step()
    read = read_run(tmp_path / "run")
    assert read.log.steps == [1, 2, 3]
    assert read.log.column("terms", "y", "count") == [2.0, 6.0, 6.0]  # the first: nobody knows yet that more come
    assert read.remarks == ()


def test_a_step_that_the_disk_did_not_take_is_logged_by_the_next_try(tmp_path, monkeypatch):
    ledger, train = a_loop()
    train()
    with hw.Run(tmp_path / "run", ledger, every=1) as run:
        with monkeypatch.context() as full:
            full.setattr(JsonLines, "write", fail)
            with pytest.raises(OSError, match="no room"):
                run.log(1)
        run.log(1)
    assert read_run(tmp_path / "run").log.steps == [1]


def fail(*_: Any) -> None:
    raise OSError("no room")


def test_an_evaluation_in_parts_is_whole_and_none_goes_back(tmp_path):
    with hw.Run(tmp_path / "run") as run:
        run.evaluate(2, {"coco": {"ap": 0.5}, "accuracy": 0.25})
        run.evaluate(2, {"text": {"f": 0.75}, "recall": 0.5, "num_images": 8})
        run.evaluate(4, {"coco": {"ap": 0.625}})
        with pytest.raises(ValueError, match="step 2 comes after step 4"):
            run.evaluate(2, {"coco": {"ap": 0.875}})
    read = read_run(tmp_path / "run").evaluation
    assert read.steps == [2, 4]
    assert read.column("coco", "ap") == [0.5, 0.625]
    assert [read.column(*path)[0] for path in (("text", "f"), ("scores", "accuracy"), ("scores", "recall"))] == [
        0.75,
        0.25,
        0.5,
    ]
    assert read.remarks == ()


def test_a_log_that_was_moved_or_removed_takes_no_more_lines_in_silence(tmp_path):
    ledger, train = a_loop()
    run = hw.Run(tmp_path / "run", ledger, every=1)
    train()
    run.log(1)
    (tmp_path / "run").rename(tmp_path / "moved")
    train()
    with pytest.raises(OSError, match=r"run/log\.jsonl: it was moved, removed or replaced"):
        run.log(2)


ANOTHER = """
import sys
import headwise as hw

try:
    hw.Run(sys.argv[1], resume=0)
except ValueError as error:
    print(error)
"""


def test_another_process_is_kept_out_of_the_folder_of_a_run(tmp_path):
    """It would put a new log in place of the one that the first writes into, whose lines nobody would find."""

    def another() -> str:
        command = [sys.executable, "-c", ANOTHER, str(tmp_path / "run")]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout

    with hw.Run(tmp_path / "run"):
        assert f"a run is under way there (process {os.getpid()} on" in another()
    assert another() == ""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
def test_a_forked_process_writes_nothing_into_the_run_that_it_inherited(tmp_path):
    """Both would write into one log, and the child's end would rewrite what the parent keeps."""
    ledger, train = a_loop()
    train()
    run = hw.Run(tmp_path / "run", ledger, every=1)
    told = tmp_path / "told"
    if (child := os.fork()) == 0:
        try:
            for write in (lambda: run.log(1), lambda: run.evaluate(1, {"f": 1.0}), lambda: run.show(None)):
                with pytest.raises(ValueError, match="was forked from it"):
                    write()
            run.close()
            told.touch()
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert told.exists()
    run.log(1)
    assert read_run(tmp_path / "run").log.steps == [1]


def test_readers_take_a_run_its_folder_or_what_it_recorded(tmp_path):
    ledger, train = a_loop()
    train()
    with hw.Run(tmp_path / "run", ledger, every=1) as run:
        run.log(1)
    pages = {write_report(each, png=False).read_text() for each in (run, run.folder, str(run.folder), run.recorded())}
    assert len(pages) == 1
    assert replay(run) == replay(run.folder) == []
    assert compare([run, run.folder]).steps == compare([run.recorded(), str(run.folder)]).steps == 1


def test_of_two_runs_of_one_process_the_later_has_the_folder(tmp_path):
    """In a notebook the earlier one is still there while the cell runs anew, or held by an error's frames."""
    ledger, train = a_loop()
    train()
    earlier = hw.Run(tmp_path / "run", ledger, every=1)
    earlier.log(1)
    with pytest.raises(ValueError, match="a run is there already"):
        hw.Run(tmp_path / "run", ledger)
    earlier.evaluate(1, {"f": 0.5})  # a refusal closes nothing
    later = hw.Run(tmp_path / "run", ledger, every=1, resume=1)
    with pytest.raises(ValueError, match="this run is closed"):
        earlier.log(2)
    later.log(2)
    assert read_run(tmp_path / "run").log.steps == [1, 2]


def test_a_refused_folder_stays_as_it_was(tmp_path):
    (tmp_path / "note").touch()
    with pytest.raises(ValueError, match="it holds 'note', and no run"):
        hw.Run(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["note"]
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad/config.json").write_text("{")
    for _ in range(2):  # the lock was given back
        with pytest.raises(ValueError, match=r"bad/config\.json: it cannot be read"):
            hw.Run(tmp_path / "bad", resume=1)


@pytest.mark.parametrize("folder", ["file", "file/below", "locked"])
def test_a_folder_that_cannot_be_written_is_told(tmp_path, folder, monkeypatch):
    (tmp_path / "file").touch()
    if folder == "locked":
        monkeypatch.setattr(os, "open", refuse_to_open)
    with pytest.raises(OSError, match=rf"cannot write .*{folder}/lock \(.*make .*{folder} a folder you may write to"):
        hw.Run(tmp_path / folder)


def refuse_to_open(*_: object) -> int:
    raise PermissionError(errno.EACCES, "denied")


def test_a_process_that_is_not_the_first_writes_nothing_though_it_was_alone_when_the_run_began(tmp_path, monkeypatch):
    """A launcher that forks, or a run before `init_process_group`: all would write into one file."""
    ledger, train = a_loop()
    train()
    with hw.Run(tmp_path / "run", ledger, every=1) as run:
        run.log(1)
        with monkeypatch.context() as other:
            other.setattr("headwise.runs.run._is_first", lambda: False)
            train()
            run.log(2)
            run.evaluate(2, {"f": 0.5})
            run.show(np.zeros((2, 2, 3), np.uint8))
    read = read_run(tmp_path / "run")
    assert (read.log.steps, read.evaluation.steps, read.samples) == ([1], [], ())


def test_weights_that_move_after_a_resume_are_meant_to(tmp_path):
    for resume, scheduled in ((None, "a"), (1, "b")):
        moving: Any = SimpleNamespace(read=list, scheduled=[scheduled])
        with hw.Run(tmp_path / "run", moving, resume=resume):
            pass
    assert read_run(tmp_path / "run").config["scheduled"] == ["a", "b"]


def test_scores_of_any_kind_of_number(tmp_path):
    with hw.Run(tmp_path / "run") as run:
        given = {"accuracy": np.float32(0.5), "iou": {"cat": {"f": torch.tensor(0.25)}}, "n": 3, "num_images": 8}
        run.evaluate(2, given)
        others: list[Any] = [None, 3, {"iou": [1, 2]}, {"iou": {"f": "text"}}, {"iou": torch.ones(2)}, {"step": 1}]
        for scores in others:
            with pytest.raises(ValueError, match=r"runs\.Run\.evaluate: "):
                run.evaluate(4, scores)
    (line,) = (tmp_path / "run/evaluation.jsonl").read_text().splitlines()
    told = {"scores": {"accuracy": 0.5, "n": 3}, "iou": {"cat": {"f": 0.25}}, "num_images": 8}
    assert json.loads(line) == {"step": 2, **told}


def a_loop():
    criterion = hw.Criterion([hw.Term("y", losses.squared_error, output="y", target="t")])

    def train():
        criterion({"y": torch.ones(2, requires_grad=True)}, {"t": torch.zeros(2)}).total.backward()

    return hw.Ledger(criterion), train
