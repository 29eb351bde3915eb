"""`headwise audit TARGET`: exit codes, one-line errors, and files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from headwise.cli import main
from tests.forked import python
from tests.report.parsed import ParsedPage

TARGET = """
import sys

import torch
import torch.nn.functional as F
from torch import nn

def subject(criterion, **more):
    torch.manual_seed(0)
    batches = [{"input": torch.randn(4, 3, 4, 4), "y": torch.randn(4, 1, 4, 4)} for _ in range(2)]
    return {"model": nn.Conv2d(3, 2, 1), "batches": batches, "criterion": criterion, **more}

def fine():
    return subject(lambda o, b: {"a": F.l1_loss(o[:, :1], b["y"]), "b": F.l1_loss(o[:, 1:], b["y"])})

def faulty():
    return subject(lambda o, b: {"a": F.l1_loss(o[:, :1], b["y"]), "b": F.l1_loss(o[:, 1:], b["y"]).item()})

def noted():
    return subject(lambda o, b: F.l1_loss(o, b["y"].expand(-1, 2, -1, -1)) * (1 + 0 * float(o.mean())))

def broken():
    return subject(lambda o, b: b["nope"])

def leaves():
    sys.exit(0)

def wrong():
    return 3

class Holder:
    @staticmethod
    def fine():
        return fine()
"""


@pytest.fixture
def target(tmp_path: Path) -> Path:
    path = tmp_path / "train_me.py"
    path.write_text(TARGET)
    return path


@pytest.mark.parametrize(
    ("name", "options", "code"),
    [("fine", [], 0), ("Holder.fine", [], 0), ("faulty", [], 1), ("noted", [], 0), ("noted", ["--strict"], 1)],
)
def test_exit_codes(target, capsys, name, options, code):
    assert main(["audit", f"{target}:{name}", *options]) == code
    out = capsys.readouterr().out
    assert out.startswith("audit: ")
    assert max(map(len, out.splitlines())) <= 100
    assert ("FINDING  detached-loss: b" in out) == (name == "faulty")


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("broken", "criterion raised KeyError: 'nope' (train_me.py:"),
        ("leaves", "leaves() raised SystemExit: 0"),
        ("wrong", "expected a Subject"),
        ("nothing", "has no function 'nothing'. It has: subject, fine, faulty"),
    ],
)
def test_what_cannot_run_is_2_and_one_line(target, capsys, name, told):
    assert main(["audit", f"{target}:{name}"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("headwise: error: audit: ")
    assert error.count("\n") == 1
    assert told in error


@pytest.mark.parametrize("target", ["train_me", "nowhere.py:f", "no_such_module_here:f", "no.such.module:f"])
def test_targets_that_are_none(capsys, target):
    assert main(["audit", target]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_file_that_is_no_python(tmp_path, capsys):
    (tmp_path / "torn.py").write_text("def subject(:\n")
    assert main(["audit", f"{tmp_path / 'torn.py'}:subject"]) == 2
    error = capsys.readouterr().err
    assert "invalid syntax (torn.py, line 1) (the file is not valid Python)" in error


def test_files_that_cannot_be_written(target, capsys):
    assert main(["audit", f"{target}:fine", "--json", str(target / "x.json")]) == 2
    assert "cannot write" in capsys.readouterr().err


def test_a_script_is_not_replaced_by_a_result(target, capsys):
    before = target.read_bytes()
    for option in ("--json", "--html"):
        assert main(["audit", f"{target}:fine", option, str(target)]) == 2
        assert "is not replaced" in capsys.readouterr().err
    assert target.read_bytes() == before


def test_json_and_page(target, tmp_path, capsys):
    assert (
        main(["audit", f"{target}:faulty", "--json", str(tmp_path / "a.json"), "--html", str(tmp_path / "a.html")]) == 1
    )
    found = json.loads((tmp_path / "a.json").read_text())
    assert {"kind", "subject", "evidence", "remedy"} <= found["findings"][0].keys()
    assert [each["kind"] for each in found["findings"]][:2] == ["detached-loss", "untrained-output"]
    page = ParsedPage(tmp_path / "a.html")
    assert "detached-loss: b" in page.source
    for tag, attributes in page.tags:
        assert not {"src", "href"} & attributes.keys() or (attributes.get("href") or "").startswith("#"), tag
    assert page.source.count("Which loss trains which output") >= 1
    assert "http://" not in page.source.replace("http://www.w3.org", "")
    assert "https://" not in page.source


def test_a_module_beside_the_caller(target):
    done = python(target.parent, "-m", "headwise", "audit", "train_me:faulty")
    assert done.returncode == 1, done.stderr
    assert "detached-loss" in done.stdout
