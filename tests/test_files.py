"""Files appear whole or not at all, and never in place of what is not ours."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from headwise.files import refuse_to_replace, write_atomically


def test_a_file_is_whole_and_readable(tmp_path):
    path = write_atomically(tmp_path / "new" / "file", b"content")
    assert path.read_bytes() == b"content"
    assert path.stat().st_mode & 0o777 == 0o644
    assert [each.name for each in path.parent.iterdir()] == ["file"]


def test_what_cannot_be_written_leaves_what_was_there(tmp_path, monkeypatch):
    path = write_atomically(tmp_path / "file", b"before")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ValueError, match=r"cannot write .*file \(No space left on device\)") as caught:
        write_atomically(path, b"after")
    assert isinstance(caught.value, OSError)
    assert caught.value.errno == errno.ENOSPC
    assert path.read_bytes() == b"before"
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


def test_what_a_killed_writer_left_goes_with_the_next_write_of_the_same_file(tmp_path):
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    names = [f".{name}.{writer}-7.tmp" for name in ("a b", "c") for writer in (child, os.getpid())]
    for name in names:
        (tmp_path / name).touch()
    write_atomically(tmp_path / "a b", b"")
    assert sorted(each.name for each in tmp_path.iterdir()) == sorted([*names[1:], "a b"])


def test_a_full_folder_is_listed_once_for_many_writes(tmp_path, monkeypatch):
    """Ten thousand predictions, each of which looked through all before, took a square of their number."""
    listed, real = [], Path.glob

    def noted(self: Path, pattern: str) -> Iterator[Path]:
        listed.append(self)
        return real(self, pattern)

    monkeypatch.setattr(Path, "glob", noted)
    for number in range(20):
        write_atomically(tmp_path / str(number), b"")
    assert listed == [tmp_path]


def test_a_file_where_a_folder_should_be(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ValueError, match="cannot write"):
        write_atomically(tmp_path / "file" / "inside", b"")


def test_what_is_not_ours_stays(tmp_path):
    script = write_atomically(tmp_path / "train.py", b"import torch")
    for path in (script, tmp_path):
        with pytest.raises(ValueError, match=f"{path.name} is there and is no page"):
            refuse_to_replace(path, "<!doctype html>", "page")
    assert script.read_bytes() == b"import torch"


def test_ours_and_nobodys_may_be_replaced(tmp_path):
    ours = write_atomically(tmp_path / "page", b"<!doctype html><html>")
    for path in (ours, write_atomically(tmp_path / "empty", b""), tmp_path / "missing"):
        refuse_to_replace(path, "<!doctype html>", "page")
