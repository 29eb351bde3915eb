"""The suite for GPUs in its smallest form on the CPU, and its tests there, so that neither rots between GPUs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
MAY_BE_MISSING = ("needs a GPU", "needs TorchJD", "seconds are over", "unexpected keyword argument 'samples'")


def run(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    paths = {"PYTHONPATH": os.pathsep.join([str(ROOT / "src"), *filter(None, [os.environ.get("PYTHONPATH")])])}
    return subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env={**os.environ, **paths, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_every_part_has_a_figure_for_every_line(tmp_path):
    out = tmp_path / "gpu.md"
    done = run("-m", "benchmarks.gpu", "--device", "cpu", "--smoke", "--budget", "120", "--out", str(out))
    assert done.returncode == 0, done.stdout + done.stderr
    text = out.read_text(encoding="utf-8")
    assert re.findall(r"^## \((.)\)", text, re.MULTILINE) == list("abcdef")
    lines = [line for line in text.splitlines() if line.startswith("|")]
    bad = [line for line in lines if "not measured" in line and not any(word in line for word in MAY_BE_MISSING)]
    assert not bad, "\n".join(bad)
    assert len(lines) > 80
    assert "apart from plain torch's" not in text


def test_a_part_alone_and_what_is_unknown():
    done = run("-m", "benchmarks.gpu", "--device", "cpu", "--smoke", "--parts", "e")
    assert done.returncode == 0, done.stderr
    assert "## (e)" in done.stdout
    assert "## (a)" not in done.stdout
    done = run("-m", "benchmarks.gpu", "--parts", "z")
    assert done.returncode == 2
    assert "the parts are a, b, c, d, e, f; found z" in done.stderr


def test_a_line_that_breaks_says_why_and_the_rest_is_measured():
    code = """
import torch
from benchmarks.gpu.bench import Bench
from benchmarks.gpu.report import Table

def broken():
    raise ValueError("this | way is broken")

bench = Bench(torch.device("cpu"), "smoke")
table = Table("t", "good")
table.add("case", bench.compare({"good": lambda: lambda: torch.ones(3).sum(), "bad": broken}))
with bench.within(0.01):
    while True:
        torch.ones(3).sum()
print(table.rows, bench.failure)
"""
    done = run("-c", code)
    assert done.returncode == 0, done.stderr
    assert "not measured: ValueError: this / way is broken" in done.stdout
    assert "'1.000'" in done.stdout
    assert "seconds are over" in done.stdout


def test_the_gpu_tests_hold_on_the_cpu():
    done = run(
        "-m", "pytest", "-q", "-p", "no:cacheprovider", "-n0", "-m", "gpu", "tests/gpu", HEADWISE_TEST_DEVICE="cpu"
    )
    assert done.returncode == 0, done.stdout[-4000:]
    assert " passed" in done.stdout
    assert "skipped" not in done.stdout
