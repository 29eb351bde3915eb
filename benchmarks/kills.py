"""A two-process run that is killed at random moments, resumed each time, and must end as if nothing had happened.

    python -m benchmarks.kills --kills 200 --write

Each run is killed ten times with SIGKILL, process 0, process 1 or both at once, and is then resumed to its end. A fifth
of the kills come while the processes start, the others after up to 16 steps, and up to 0.2 seconds into what follows.
Weights, optimizer, schedule, scores and log lines must be those of an undisturbed run to the bit, and every step must
have used its own samples: none is lost, none comes twice in an epoch. Where one process was killed, the other must end
by itself and name it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tests.distributed import runs

from headwise.training.folder.checkpoints import list_checkpoints, load_checkpoint

STEPS, KILLS_A_RUN = 100, 10
EARLY, MOST_STEPS, LATEST = 0.2, 16, 0.2
SETTINGS = {"steps": STEPS, "log_every": 10, "checkpoint_every": 3, "evaluate_every": 50}
RESULT = Path(__file__).parent / "results" / "kills.md"


@dataclass
class Tally:
    """What was seen."""

    kills: dict[str, int] = field(default_factory=lambda: {"process 0": 0, "process 1": 0, "both": 0})
    runs: int = 0
    steps_done_again: int = 0
    seconds_until_end: list[float] = field(default_factory=list)
    other_messages: list[str] = field(default_factory=list)
    before_a_checkpoint: int = 0
    before_joining: int = 0

    @property
    def total(self) -> int:
        return sum(self.kills.values())


def forked(spec: runs.Spec) -> tuple[list[int], Path]:
    """The processes of a run, forked from this one, which has imported everything and computed nothing."""
    meet, pids = Path(tempfile.mkdtemp(prefix="kills")), []
    for rank in range(spec.ranks):
        pid = os.fork()
        if pid == 0:
            try:
                runs.main(rank, spec, str(meet))
            except BaseException:
                (meet / f"{rank}.txt").write_text(traceback.format_exc())
            os._exit(9)
        pids.append(pid)
    return pids, meet


def waited(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def finished(pid: int) -> bool:
    """Whether a process has ended, which stays to be waited for."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def end_as_torchrun_does(pids: list[int]) -> bool:
    """Give the processes two seconds to end, then SIGTERM; whether that was needed."""
    deadline = time.monotonic() + 2
    while time.monotonic() < deadline:
        if all(finished(pid) for pid in pids):
            return False
        time.sleep(0.005)
    for pid in pids:
        os.kill(pid, signal.SIGTERM)
    return True


def done(spec: runs.Spec) -> int:
    """How many steps process 0 has begun, over all starts."""
    file = Path(spec.folder) / "samples.0"
    return file.read_bytes().count(b"\n") if file.exists() else 0


def whole_run(spec: runs.Spec) -> float:
    """Run to the end; the seconds that it took."""
    began = time.monotonic()
    pids, meet = forked(spec)
    codes = [waited(pid) for pid in pids]
    if codes != [0] * spec.ranks:
        raise SystemExit(f"a run ended with {codes}: " + " ".join(path.read_text() for path in meet.glob("*.txt")))
    shutil.rmtree(meet)
    return time.monotonic() - began


def kill_once(spec: runs.Spec, moments: random.Random, start: float, tally: Tally) -> bool:
    """Start a run and kill it at some moment; False if it was at its end before."""
    before = done(spec)
    pids, meet = forked(spec)
    whom = moments.choice(list(tally.kills))
    chosen = pids if whom == "both" else [pids[int(whom[-1])]]
    early, wait, delay = moments.random() < EARLY, moments.randrange(1, MOST_STEPS), moments.random()
    deadline = time.monotonic() + start * delay if early else None
    while not any(finished(pid) for pid in pids) and (deadline is None or time.monotonic() < deadline):
        if deadline is None and done(spec) >= before + wait:
            deadline = time.monotonic() + LATEST * delay
        time.sleep(0.002)
    late = any(finished(pid) for pid in pids)
    for pid in chosen:
        os.kill(pid, signal.SIGKILL)
    began = time.monotonic()
    unjoined = end_as_torchrun_does(pids)
    codes = {pid: waited(pid) for pid in pids}
    if late:
        if set(codes.values()) - {0, -signal.SIGKILL}:
            raise SystemExit(f"a run ended with {codes}: " + " ".join(path.read_text() for path in meet.glob("*.txt")))
        shutil.rmtree(meet)
        return False
    tally.kills[whom] += 1
    tally.before_a_checkpoint += not list_checkpoints(Path(spec.folder) / "checkpoints")
    tally.before_joining += unjoined
    if whom != "both" and not unjoined:
        tally.seconds_until_end.append(time.monotonic() - began)
        other = meet / f"{1 - int(whom[-1])}.txt"
        text = other.read_text() if other.exists() else ""
        if f"{whom} was killed" not in text:
            tally.other_messages.append((text.strip().splitlines() or ["nothing"])[-1])
    shutil.rmtree(meet)
    return True


def lines(path: Path) -> list[dict[str, Any]]:
    entries = [json.loads(line) for line in path.read_text().splitlines()]
    return [{key: each for key, each in entry.items() if key not in ("time", "images_per_second")} for entry in entries]


def assert_equal(one: Any, other: Any, where: str) -> None:
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other), where
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            assert_equal(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), where
        for left, right in zip(one, other, strict=True):
            assert_equal(left, right, where)
    else:
        assert one == other, where


def check(folder: Path, undisturbed: Path, tally: Tally) -> None:
    """Compare a run that was killed with one that was not."""
    one, other = (load_checkpoint(list_checkpoints(each / "checkpoints")[0]) for each in (folder, undisturbed))
    assert one["step"] == STEPS
    for part in ("network", "optimizer", "scheduler", "criterion", "scores"):
        assert_equal(one[part], other[part], part)
    for name in ("log.jsonl", "evaluation.jsonl"):
        assert lines(folder / name) == lines(undisturbed / name), name
    shares = [runs.used_samples(folder, rank) for rank in range(2)]
    assert [used for used, _ in shares] == [runs.used_samples(undisturbed, rank)[0] for rank in range(2)]
    stream = [number for step in range(STEPS) for used, _ in shares for number in used[step]]
    for begin in range(0, len(stream) - runs.NUM_PICTURES, runs.NUM_PICTURES):
        epoch = stream[begin : begin + runs.NUM_PICTURES]
        assert sorted(epoch) == list(range(runs.NUM_PICTURES)), f"the epoch at sample {begin}: {epoch}"
    tally.steps_done_again += shares[0][1]


def report(tally: Tally, arguments: argparse.Namespace, seconds: float) -> str:
    waits = sorted(tally.seconds_until_end)
    named = len(waits) - len(tally.other_messages)
    rows = {
        "kills (SIGKILL)": f"{tally.total} ({', '.join(f'{whom} {number}' for whom, number in tally.kills.items())})",
        "of them before the first checkpoint": tally.before_a_checkpoint,
        "of them before the two had joined, so that the other waited for SIGTERM": tally.before_joining,
        f"runs of {STEPS} steps, each compared with an undisturbed one": tally.runs,
        "runs that differ in a bit of weights, optimizer, schedule, scores or log": 0,
        "samples lost or repeated": 0,
        "steps done again after a kill": tally.steps_done_again,
        "seconds until the other process had ended: median, largest": f"{waits[len(waits) // 2]:.2f}, {waits[-1]:.2f}",
        "messages of the other process that name the killed one": f"{named} of {len(waits)}",
        "other messages": "; ".join(tally.other_messages) or "none",
        "seconds in all": round(seconds),
    }
    table = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    machine = f"{platform.machine()}, {os.cpu_count()} CPU cores, shared with other work"
    return (
        "# Kills of a two-process run\n\n"
        f"`python -m benchmarks.kills --kills {arguments.kills} --seed {arguments.seed} "
        f"--minutes {arguments.minutes:g} --write`: DDP over gloo, a network with batch normalization and dropout, "
        f"a checkpoint every {SETTINGS['checkpoint_every']} steps.\n\n| | |\n| --- | --- |\n{table}\n\n"
        "Before the two have joined, nothing tells the one that the other was killed. The launcher does: torchrun "
        "sends SIGTERM at once, the benchmark after two seconds.\n\n"
        f"{machine}; Python {platform.python_version()}, torch {torch.__version__}, {time.strftime('%Y-%m-%d')}.\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=60.0, help="begin no further run after them")
    parser.add_argument("--write", action="store_true", help=f"write {RESULT.name}")
    arguments = parser.parse_args()
    began, moments, tally = time.monotonic(), random.Random(arguments.seed), Tally()
    with tempfile.TemporaryDirectory() as place:
        undisturbed = Path(place) / "undisturbed"
        whole_run(runs.Spec(str(undisturbed), settings=SETTINGS))
        start = whole_run(runs.Spec(f"{place}/short", settings={**SETTINGS, "steps": 3}))
        while tally.total < arguments.kills and time.monotonic() - began < 60 * arguments.minutes:
            folder = Path(place) / f"run{tally.runs}"
            spec = runs.Spec(str(folder), resume=True, settings=SETTINGS)
            kills = min(KILLS_A_RUN, arguments.kills - tally.total)
            while kills > 0 and kill_once(spec, moments, start, tally):
                kills -= 1
            whole_run(spec)
            check(folder, undisturbed, tally)
            tally.runs += 1
            shutil.rmtree(folder)
            print(f"{tally.total} kills, {tally.runs} runs equal, {time.monotonic() - began:.0f} s", flush=True)
    text = report(tally, arguments, time.monotonic() - began)
    print(text)
    if arguments.write:
        RESULT.write_text(text)


if __name__ == "__main__":
    sys.exit(main())
