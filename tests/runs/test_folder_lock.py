"""One folder, one run, for as long as its process lives."""

import os
import shutil
import signal
import subprocess
import sys

import pytest

from headwise.files import write_atomically
from headwise.runs.folder_lock import check_sole, sole_run

HOLDER = """
import sys, time
from pathlib import Path
from headwise.runs.folder_lock import sole_run

with sole_run(Path(sys.argv[1]), print):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_living_process_keeps_others_out_and_a_killed_one_does_not(tmp_path):
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        said = rf"a run is under way there \(process {holder.pid} on"
        with pytest.raises(ValueError, match=said), sole_run(tmp_path, pytest.fail):
            pass
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    with sole_run(tmp_path, pytest.fail):
        pass


def test_a_process_keeps_itself_out(tmp_path):
    """The system's locks would let it in."""
    with sole_run(tmp_path / "new", pytest.fail):  # noqa: SIM117
        with (
            pytest.raises(ValueError, match=r"under way there \(this process\)"),
            sole_run(tmp_path / "." / "new", pytest.fail),
        ):
            pass
    with sole_run(tmp_path / "new", pytest.fail):
        pass


def test_another_lock_in_the_same_place_is_seen(tmp_path):
    with sole_run(tmp_path / "run", pytest.fail):
        check_sole(tmp_path / "run")
        (tmp_path / "run/lock").unlink()
        check_sole(tmp_path / "run")
        (tmp_path / "run/lock").touch()
        with pytest.raises(ValueError, match="another run began in its place"):
            check_sole(tmp_path / "run")


def test_no_file_appears_in_a_folder_that_another_took(tmp_path):
    """However late it is seen: a run may be stopped between its look and the write."""
    folder = tmp_path / "run"
    with sole_run(folder, pytest.fail):
        write_atomically(folder / "samples/first", b"mine")
        shutil.rmtree(folder)
        write_atomically(folder / "samples/first", b"mine")  # a folder that was removed is no one else's
        (folder / "lock").touch()
        for name in ("log.jsonl", "samples/first"):
            with pytest.raises(ValueError, match="another run began in its place"):
                write_atomically(folder / name, b"yours")
        write_atomically(tmp_path / "beside", b"")
    assert {str(each.relative_to(folder)): each.read_bytes() for each in folder.rglob("*") if each.is_file()} == {
        "lock": b"",
        "samples/first": b"mine",
    }
    write_atomically(folder / "log.jsonl", b"free again")


def test_a_forked_process_does_not_outlive_a_run_with_its_lock(tmp_path):
    with sole_run(tmp_path, pytest.fail):
        child = os.fork()
        if child == 0:
            signal.pause()
            os._exit(0)
    try:
        other = subprocess.run(
            [sys.executable, "-c", HOLDER.replace("600", "0"), str(tmp_path)],
            capture_output=True, text=True, check=True, timeout=240,
        )  # fmt: skip
        assert other.stdout == "held\n"
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_what_the_holder_wrote_cannot_break_the_line(tmp_path):
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True) as holder:
        try:
            assert holder.stdout is not None
            holder.stdout.readline()
            (tmp_path / "lock").write_text("a\nb\u202e" + "x" * 5_000)
            with pytest.raises(ValueError, match="under way there") as error, sole_run(tmp_path, pytest.fail):
                pass
        finally:
            holder.kill()
    assert "\n" not in str(error.value)
    assert "\u202e" not in str(error.value)
    assert len(str(error.value)) < 600
