"""What the page of a long run costs: its size, and the time it takes.

    python -m benchmarks.page [--steps 100000] [--terms 9] [--write FILE]

A log of so many steps of so many terms, each with a value, a gradient norm, a count and an output, and one pair with a
cosine, is written as a run writes it; then the page is made. Time is this process's CPU time, without imports.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import tempfile
import time
from pathlib import Path
from typing import Any

import headwise.report.figures.plots  # noqa: F401  matplotlib is not what is measured
from benchmarks.measure import machine, markdown, publish
from headwise.report import write_report
from headwise.runs.entries import brief


def line(step: int, steps: int, terms: list[str], draw: random.Random) -> dict[str, Any]:
    found = {}
    for number, name in enumerate(terms):
        value, norm = (math.exp(-fall * step / steps + draw.gauss(0, 0.2)) for fall in (3, 2))
        outputs = {f"out[{number}]": {"grad_norm": norm, "finite": True}}
        found[name] = {"value": value, "weight": 1.0, "weighted": value, "share": 1 / len(terms), "grad_norm": norm}
        found[name] |= {"finite": True, "count": 1024.0, "outputs": outputs}
    total = math.fsum(each["value"] for each in found.values())
    pair = {f"{terms[0]}|{terms[1]}": math.tanh(draw.gauss(0, 1))}
    return {"step": step, "time": 0.03 * step, "learning_rate": 1e-3, "total": total, "terms": found, "cosine": pair}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--terms", type=int, default=9)
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    terms, draw = [f"term_{number}" for number in range(options.terms)], random.Random(0)
    with tempfile.TemporaryDirectory() as held:
        folder = Path(held)
        (folder / "config.json").write_text(json.dumps({"recipe": "long", "arguments": {}, "terms": terms}))
        with (folder / "log.jsonl").open("wb") as log:
            log.writelines(
                brief(line(step, options.steps, terms, draw)) + b"\n" for step in range(1, options.steps + 1)
            )
        begun = time.process_time()
        page = write_report(folder)
        seconds = time.process_time() - begun
        sizes = [f"{path.stat().st_size / 1e6:.1f}" for path in (folder / "log.jsonl", page)]
    heading = ("steps", "terms", "log, MB", "page, MB", "CPU time, s")
    text = markdown(heading, [(f"{options.steps:,}", options.terms, *sizes, f"{seconds:.1f}")])
    report = f"# What the page of a long run costs\n\n`python -m benchmarks.page`\n\n{machine()}\n\n{text}\n"
    publish(report, options.write)


if __name__ == "__main__":
    main()
