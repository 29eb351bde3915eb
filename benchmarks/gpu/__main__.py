"""The command line: runs the parts that are asked for, and writes the results after each of them."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from benchmarks.gpu import attribution, coders, graphs, losses, ranks, steps
from benchmarks.gpu.bench import Bench
from benchmarks.gpu.report import Report, Table
from benchmarks.gpu.warm import compile_ahead

PARTS: dict[str, tuple[str, Callable[[Bench], Iterator[Table]], float]] = {
    "a": ("losses, forward and backward", losses.run, 95),
    "b": ("a training step", steps.run, 105),
    "c": ("CUDA graphs", graphs.run, 70),
    "d": ("attribution", attribution.run, 50),
    "e": ("encoding and decoding", coders.run, 35),
    "f": ("one rank", ranks.run, 40),
}
RESULTS = Path(__file__).parents[1] / "results" / "gpu.md"


def read() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description="Figures of one GPU.")
    parser.add_argument("--parts", default=",".join(PARTS), help="which of a to f, with commas (default: all)")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda" if torch.cuda.is_available() else "cpu")
    sizes = parser.add_mutually_exclusive_group()
    sizes.add_argument("--small", action="store_true", help="small networks and maps, few rounds: what CPUs allow")
    sizes.add_argument(
        "--smoke", action="store_true", help="smallest sizes, one round, nothing compiled to machine code"
    )
    parser.add_argument("--rounds", type=int, help="how often the ways of a table take turns")
    parser.add_argument("--budget", type=float, help="seconds for each part, in place of its own (at most 120)")
    parser.add_argument("--kinds", default="eager,compiled", help="which halves of part a, with a comma")
    parser.add_argument("--ahead", type=float, default=80, help="seconds of compiling ahead in several processes")
    parser.add_argument("--out", type=Path, help=f"results file (default: {RESULTS.name} beside the others on a GPU)")
    options = parser.parse_args()
    options.parts = [part.strip() for part in options.parts.split(",") if part.strip()]
    if not set(options.parts) <= PARTS.keys():
        parser.error(f"--parts: the parts are {', '.join(PARTS)}; found {','.join(options.parts)}")
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch finds no GPU here. Use --device cpu --small")
    return options


def main() -> int:
    options = read()
    size = "small" if options.small else "smoke" if options.smoke else "full"
    bench = Bench(torch.device(options.device), size, options.rounds)
    bench.kinds = tuple(options.kinds.split(","))
    out = options.out or (RESULTS if options.device == "cuda" and size == "full" else None)
    report = Report(bench, f"python -m benchmarks.gpu {' '.join(sys.argv[1:])}".strip(), out)
    compiling = [part for part in options.parts if part != "a" or "compiled" in bench.kinds]
    report.say(compile_ahead(bench, compiling, options.ahead))
    failed = False
    # CUDA graphs come last: a capture that breaks can leave the device unusable for what follows.
    for part in sorted(options.parts, key=lambda part: (part == "c", part)):
        title, run, seconds = PARTS[part]
        report.open(part, title)
        start = time.perf_counter()
        with bench.within(options.budget or seconds):
            for table in run(bench):
                report.add(part, table)
        report.close(part, time.perf_counter() - start, bench.failure)
        failed = failed or bool(bench.failure)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
