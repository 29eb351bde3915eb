"""What verbs say of a run whose log is damaged or gone, and of terms whose names hold the bar that joins two."""

import os
from contextlib import closing
from pathlib import Path

import pytest
import torch

import headwise as hw
from headwise import losses
from headwise.attribution.ledger.samples.samples import Sample, TermSamples
from headwise.cli import main
from headwise.runs.alerts import Alert, replay
from headwise.runs.entries import pair_key
from headwise.runs.log import JsonLines
from headwise.runs.log_reading import LogReader, read_log
from headwise.runs.reading import read_run


def opponents(folder: Path) -> Path:
    """A run of two terms that ask for the opposite, named with bars."""
    names = {"p|q": "up", "r | s": "down"}
    criterion = hw.Criterion([hw.Term(n, losses.squared_error, output="y", target=t) for n, t in names.items()])
    with hw.Ledger(criterion) as ledger, hw.Run(folder, ledger, every=1, alerts=None) as run:
        for step in range(1, 31):
            goals = {"up": torch.ones(3), "down": -torch.ones(3)}
            criterion({"y": torch.zeros(3, requires_grad=True)}, goals).total.backward()
            run.log(step)
    return folder


def test_two_that_fight_keep_the_bars_in_their_names(tmp_path):
    (fight,) = [alert for alert in replay(read_run(opponents(tmp_path / "run"))) if alert.kind == "fighting"]
    assert fight.term == "p|q | r | s"


def test_samples_of_two_that_fight_are_theirs():
    def of(name: str) -> TermSamples:
        sample = Sample(id=name, grad_norm=1.0, value=1.0, step=1)
        return TermSamples(term=name, by_gradient=(sample,), by_value=())

    alert = Alert("fighting", "p|q | r | s", 1, 2, "", "")
    blamed = alert.blaming({name: of(name) for name in ("other", "p|q", "r | s", "p", "s")})
    assert set(blamed.samples) == {"p|q", "r | s"}


@pytest.mark.parametrize("damage", ["utf-16", "gone", "noise"])
@pytest.mark.parametrize("verb", ["alerts", "suggest", "compare"])
def test_a_log_that_cannot_be_read_is_no_empty_one(tmp_path, capsys, damage, verb):
    """Before, `headwise alerts` said "No step is logged yet." and ended with 0."""
    runs = [str(opponents(tmp_path / name)) for name in "ab"]
    log = tmp_path / "b" / "log.jsonl"
    if damage == "gone":
        log.unlink()
    else:
        log.write_bytes(log.read_text().encode("utf-16") if damage == "utf-16" else os.urandom(999))
    assert main([verb, *(runs if verb == "compare" else runs[1:])]) == 2
    told = capsys.readouterr().err
    assert runs[1] in told
    assert "log.jsonl" in told


@pytest.mark.parametrize("verb", ["alerts", "suggest", "compare"])
def test_lines_that_were_left_out_are_told(tmp_path, capsys, verb):
    runs = [str(opponents(tmp_path / name)) for name in "ab"]
    log = tmp_path / "b" / "log.jsonl"
    lines = log.read_bytes().split(b"\n")
    log.write_bytes(b"\n".join([*lines[:9], lines[9][:20], *lines[10:]]))
    main([verb, *(runs if verb == "compare" else runs[1:])])
    assert "1 line of log.jsonl cannot be read and was left out, line 10 first" in capsys.readouterr().err


def test_a_run_that_has_just_begun_is_no_fault(tmp_path, capsys):
    hw.Run(tmp_path / "run").close()
    assert main(["alerts", str(tmp_path / "run")]) == 0
    assert capsys.readouterr().out == "No step is logged yet.\n"


def test_another_log_in_the_same_place_is_read_from_its_beginning(tmp_path):
    """Systems give the number of a file that was removed to the next one."""
    path = tmp_path / "log.jsonl"
    path.write_text("".join(f'{{"step":{step},"time":{step / 7}}}\n' for step in range(1, 4)))
    reader = LogReader(path)
    reader.follow()
    number = path.stat().st_ino
    path.write_text("".join(f'{{"step":{step},"time":{step / 3}}}\n' for step in range(1, 9)))
    assert path.stat().st_ino == number
    assert reader.follow()
    log = reader.log()
    assert log.steps == [*range(1, 9)]
    assert log.column("time") == [step / 3 for step in range(1, 9)]
    assert log.remarks == ()
    path.unlink()
    assert reader.follow()
    assert not reader.follow()
    assert reader.log().remarks == ("log.jsonl is missing.",)


@pytest.mark.parametrize("name", ['a":1', 'a":1e5,"b":2', 'x,"cosine":[', '":', "step", "1|2|3", "\u2028\n\0"])
def test_names_may_look_like_a_line_of_the_log(tmp_path, name):
    terms = {each: {"value": 0.5, "weight": 2.0} for each in (name, "other")}
    with closing(JsonLines(tmp_path / "log.jsonl", 0)) as lines:
        for step in (1, 2):
            lines.write({"step": step, "terms": terms, "cosine": {pair_key(name, "other"): 0.25}})
    log = read_log(tmp_path / "log.jsonl")
    assert log.remarks == ()
    assert log.column("terms", name, "weight") == [2.0] * 2
    assert log.column("cosine", pair_key(name, "other")) == [0.25] * 2


@pytest.mark.parametrize("verb", ["alerts", "suggest", "report"])
def test_what_is_no_run_is_told_by_the_verb_that_was_called(tmp_path, capsys, verb):
    (tmp_path / "empty").mkdir()
    for name, told in (("missing", "no run folder "), ("empty", "is not a run folder")):
        assert main([verb, str(tmp_path / name)]) == 2
        said = capsys.readouterr().err
        assert told in said
        assert "report:" not in said
