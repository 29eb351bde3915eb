"""One folder, one run: a second one is refused while the first is under way, and only then."""

import json
import shutil
import signal

import pytest

from headwise.recipes import RECIPES
from tests.reliability import kit

LONG = """
import json, sys
from headwise.recipes import RECIPES

RECIPES["weighted_unet"](out=sys.argv[1], steps=100000, num_workers=0, **json.loads(sys.argv[2]))
"""
OPTIONS = {**kit.SMALL, "checkpoint_every": 100000, "log_every": 1}


@pytest.fixture(scope="module")
def under_way(tmp_path_factory):
    """A run that has done its first steps, and pauses until it is ended: it takes no time from the tests."""
    folder = tmp_path_factory.mktemp("under-way")
    child, log = kit.Child(folder, "-c", LONG, folder / "run", json.dumps(OPTIONS)), folder / "run" / "log.jsonl"
    begun = child.wait(lambda: log.is_file() and log.read_text().count("\n") > 1, 90)
    child.process.send_signal(signal.SIGSTOP)
    yield child, folder / "run"
    child.end()
    assert begun, child.err[-500:]


def small(folder, **changes):
    return RECIPES["weighted_unet"](out=folder, num_workers=0, **{"steps": 2, **kit.SMALL, **changes})


@pytest.mark.slow
def test_a_second_resume_is_refused(under_way, tmp_path):
    """With the arguments of the first, so that nothing else is wrong with it."""
    _, folder = under_way
    other = kit.Child(tmp_path, "-c", LONG, folder, json.dumps({**OPTIONS, "resume": True}))
    try:
        other.wait(lambda: "step 1/" in other.out, 60)
        trains = "step 1/" in other.out
    finally:
        other.end()
    assert not trains, "two runs in one folder"
    assert "was started with" not in other.err, "refused for its arguments alone"
    assert folder.name in other.err, other.err[-300:]
    assert other.code not in (None, 0)


@pytest.mark.slow
def test_a_second_run_is_refused(under_way):
    child, folder = under_way
    before = json.loads((folder / "config.json").read_text())
    try:
        small(folder, seed=1)
    except (ValueError, OSError) as error:
        kit.check_line(error, folder.name)
    else:
        pytest.fail("two runs in one folder")
    assert child.code is None, "the first run is gone"
    assert json.loads((folder / "config.json").read_text()) == before


@pytest.mark.slow
def test_a_run_whose_folder_was_given_to_another_stops(tmp_path):
    """Where somebody removed the folder to begin anew, and forgot that a run was under way there."""
    child, log = kit.Child(tmp_path, "-c", LONG, tmp_path / "run", json.dumps(OPTIONS)), tmp_path / "run/log.jsonl"
    try:
        assert child.wait(lambda: log.is_file() and log.read_text().count("\n") > 1, 250), child.err[-500:]
        child.process.send_signal(signal.SIGSTOP)
        shutil.rmtree(tmp_path / "run")
        small(tmp_path / "run")
        mine = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
        child.process.send_signal(signal.SIGCONT)
        assert child.ended(60), "two runs in one folder"
    finally:
        child.end()
    assert child.code == 1
    assert "another run began in its place" in child.err
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == mine


@pytest.mark.slow
def test_a_folder_of_a_killed_run_is_free(under_way):
    """what a killed run left keeps nobody out. (Ends the run of the tests above.)"""
    child, folder = under_way
    child.end()
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)  # of a second run, where that was not refused
    assert small(folder).steps == 2


def test_one_after_the_other(tmp_path):
    """a finished run may be resumed; a fresh one in its folder is refused by name."""
    folder = tmp_path / "run"
    small(folder)
    with kit.refused(folder.name):
        small(folder)
    assert small(folder, resume=True).steps == 2
