"""The lines of SECURITY.md, each shown to hold."""

import base64
import hashlib
import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import headwise as hw
from headwise.cli import main
from headwise.report import write_report
from headwise.runs.samples import read_sample
from headwise.training.folder import checkpoints
from headwise.training.folder.checkpoints import load_checkpoint, save_checkpoint
from tests.reliability import kit


class Evil:
    ran = False

    def __reduce__(self) -> Any:
        return (setattr, (Evil, "ran", True))


def test_a_checkpoint_with_a_digest_of_its_own_runs_no_code(tmp_path):
    """Whoever may write a file may write its digest."""
    path = tmp_path / "step_00000001.pt"
    path.write_bytes(checkpoints._archive({"format": checkpoints.FORMAT, "code": Evil()}))
    with pytest.raises(ValueError, match="no checkpoint"):
        load_checkpoint(path)
    assert not Evil.ran


def test_nothing_of_a_damaged_checkpoint_is_parsed(tmp_path, monkeypatch):
    path = save_checkpoint(tmp_path, 1, {"network": {"w": torch.ones(3)}})
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))
    monkeypatch.setattr(torch, "load", pytest.fail)
    with pytest.raises(ValueError, match="damaged: its content is not what was written"):
        load_checkpoint(path)


def test_a_tensor_that_is_not_what_was_written_is_named(tmp_path):
    path = save_checkpoint(tmp_path, 1, {"network": {"w": torch.ones(3)}})
    state = torch.load(path, weights_only=True)
    state["network"]["w"][1] = 2
    path.write_bytes(checkpoints._archive(state))
    with pytest.raises(ValueError, match=r"'network.w' is not what was written"):
        load_checkpoint(path)


def test_a_page_runs_and_applies_what_is_its_own_and_loads_nothing(tmp_path):
    names = ["heat", "</script><script>1</script>", "<style>*{display:none}</style>"]
    page = write_report(kit.run_folder(tmp_path / "run", names), png=False).read_text()
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)
    assert policy is not None
    told = policy[1].replace("&#x27;", "'")
    assert "default-src 'none'" in told
    assert "unsafe" not in told
    allowed = {*re.findall(r"'sha256-([^']+)'", told)}
    own = re.findall(r"<(?:script|style)>(.*?)</(?:script|style)>", page, re.DOTALL)
    assert {base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in own} == allowed
    assert not re.search(r'<[^>]+\s(?:style|on\w+)="', page)
    assert not re.search(r'(?:src|href)="(?!data:|#)', page)


def test_names_are_no_paths(tmp_path):
    names = ["../../up", "/etc/passwd", "a/b", "con", "a\0b"]

    def levels(rows: Any) -> None:
        numbers = {"value": 0.1, "weighted": 0.1, "share": 0.1, "grad_norm": 0.1, "finite": True}
        for row in rows:
            for name in names:
                row["terms"][name]["levels"] = {"fine": numbers, "coarse": numbers}

    folder = kit.run_folder(tmp_path / "run", names, change_lines=levels)
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    write_report(folder)
    written = {path for path in tmp_path.rglob("*") if path.is_file()} - before
    assert {path.parent for path in written} == {folder / "report"}
    assert len(written) > 2 * len(names)


def test_a_sample_is_read_without_pickles(tmp_path):
    np.savez(tmp_path / "000.npz", image=np.array([Evil()], dtype=object))
    with pytest.raises(ValueError, match=r"000\.npz"):
        read_sample(tmp_path / "000.npz")
    assert not Evil.ran


def test_a_log_line_costs_what_it_is_worth(tmp_path):
    """Ten thousand numbers of their own on each of 200 lines: two million columns, if they were read."""

    def many(rows: Any) -> None:
        for number, row in enumerate(rows):
            row["made_up"] = {f"{number}.{place}": 1.0 for place in range(10_000)}

    folder = kit.run_folder(tmp_path / "run", ["heat", "offset"], lines=20, change_lines=many)
    page = write_report(folder, png=False).read_text()
    assert "holds more than 10,000 different numbers" in page
    assert "heat" in page


@pytest.mark.parametrize("how", ["from_dict", "from_json", "from_yaml"])
def test_a_configuration_runs_no_code_that_nobody_allowed(how, tmp_path, monkeypatch):
    """Of two modules, the one that was allowed is imported, and no other."""
    for name in ("planted_mine", "planted_other"):
        code = f"import pathlib\npathlib.Path({str(tmp_path / name)!r}).touch()\ndef f(output, target):\n    return 0\n"
        (tmp_path / f"{name}.py").write_text(code)
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    read = getattr(hw.Criterion, how)

    def declared(loss: str) -> Any:
        content = {"terms": [{"name": "alpha", "loss": loss, "output": "x", "target": "y"}]}
        return content if how == "from_dict" else json.dumps(content)

    for allow in ((), ["planted_other"], ["planted"], ["planted_mine.f"]):
        with pytest.raises(ValueError, match=r"'alpha'.*allow"):
            read(declared("planted_mine:f"), allow=allow)
    with pytest.raises(ValueError, match=r"'alpha'.*allow"):
        read(declared("os:system"), allow=["planted_mine"])
    assert not list(tmp_path.glob("planted_mine")), "a module was imported while a configuration was read"
    assert read(declared("planted_mine:f"), allow=["planted_mine"]).terms[0].name == "alpha"
    assert not list(tmp_path.glob("planted_other"))


@pytest.mark.parametrize("name", ["config.yaml", "config.json"])
def test_fields_from_a_file_are_plain_data(name, tmp_path, capsys):
    """YAML's way to make objects is closed; a value that is no number, text or list is told."""
    made = {"config.yaml": "seed: !!python/object/apply:os.mkdir [flag]\n", "config.json": '{"seed": {"os": "mkdir"}}'}
    (tmp_path / name).write_text(made[name].replace("flag", str(tmp_path / "flag")))
    assert main(["train", "ssd", "--out", str(tmp_path / "run"), "--config", str(tmp_path / name)]) == 2
    assert name in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {name}


def test_every_line_has_its_test():
    """A new row of SECURITY.md's table needs a test here."""
    text = (Path(__file__).parents[1] / "SECURITY.md").read_text()
    rows = [
        line.split("|")[1].strip()
        for line in text.splitlines()
        if line.startswith("| ") and "what Headwise" not in line
    ]
    assert rows == [
        "a checkpoint",
        "a configuration (`config.json`, a criterion's JSON or YAML)",
        "a log, an evaluation",
        "a name of a term, an output, a class, a picture",
        "a picture, a sample (`.npz`)",
        "a page",
    ]
