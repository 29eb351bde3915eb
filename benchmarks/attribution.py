"""What attribution costs, as ratios to one plain training step.

    python benchmarks/attribution.py            # writes benchmarks/results/attribution.md
    python benchmarks/attribution.py --quick    # small images, few rounds, prints only

Schemes take turns within a round; a cell is the median over rounds. Peak memory is that of live tensors during one step
(activations and gradients), counted from the allocations that torch's profiler records. Needs torchvision and torchjd.
"""

import argparse
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F
from torchjd.autojac import jac, mtl_backward

from headwise.attribution import JacobianSampler, effect, jacobian, trace

Step = Callable[[], Any]
RESULTS = Path(__file__).parent / "results" / "attribution.md"


class Network(nn.Module):
    """ResNet-18, a feature pyramid merged to one 128-channel map of stride 4, and heads that share it."""

    def __init__(self, num_heads: int) -> None:
        super().__init__()
        body = torchvision.models.resnet18(weights=None)
        self.stem = nn.Sequential(body.conv1, body.bn1, body.relu, body.maxpool)
        self.stages = nn.ModuleList([body.layer1, body.layer2, body.layer3, body.layer4])
        self.lateral = nn.ModuleList([nn.Conv2d(width, 128, 1) for width in (64, 128, 256, 512)])
        self.merge = nn.Sequential(nn.Conv2d(128, 128, 3, padding=1), nn.BatchNorm2d(128), nn.ReLU())
        self.heads = nn.ModuleList(
            [nn.Sequential(nn.Conv2d(128, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 1, 1)) for _ in range(num_heads)]
        )

    def features(self, image: Tensor) -> Tensor:
        x, levels = self.stem(image), []
        for stage, lateral in zip(self.stages, self.lateral, strict=True):
            x = stage(x)
            levels.append(lateral(x))
        top = levels[-1]
        for level in reversed(levels[:-1]):
            top = level + F.interpolate(top, size=level.shape[-2:])
        merged: Tensor = self.merge(top)
        return merged

    def losses(self, features: Tensor, target: Tensor) -> dict[str, Tensor]:
        return {
            f"loss{k}": (1 + k) * F.smooth_l1_loss(head(features), (k + 1) * target)
            for k, head in enumerate(self.heads)
        }


def backward(losses: dict[str, Tensor]) -> None:
    torch.autograd.backward([torch.stack(list(losses.values())).sum()])


class Bench:
    """The steps that are compared, on one network and batch."""

    def __init__(self, num_heads: int, size: int) -> None:
        torch.manual_seed(0)
        self.model = Network(num_heads).train()
        self.image = torch.randn(4, 3, size, size)
        self.target = torch.rand(4, 1, size // 4, size // 4)
        self.sampler = JacobianSampler(self.model, every=1)
        self.turn = 0
        self.heads = {id(p) for p in self.model.heads.parameters()}

    def forward(self) -> dict[str, Tensor]:
        return self.model.losses(self.model.features(self.image), self.target)

    def plain(self) -> None:
        backward(self.forward())

    def rotating(self) -> None:
        losses = self.forward()
        self.sampler.step(losses)
        backward(losses)

    def one_more_pass(self) -> None:
        losses = self.forward()
        shared = [p for p in self.model.parameters() if id(p) not in self.heads]
        torch.autograd.grad(list(losses.values())[self.turn % len(losses)], shared, retain_graph=True)
        self.turn += 1
        backward(losses)

    def full(self) -> Any:
        table = jacobian(self.forward(), self.model, keep_gradient=True)
        table.assign_gradient(self.model)
        return table

    def norms(self) -> None:
        jacobian(self.forward(), self.model, cosine=False, keep_gradient=True).assign_gradient(self.model)

    def full_then_backward(self) -> None:
        losses = self.forward()
        jacobian(losses, self.model)
        backward(losses)

    def gramian(self) -> None:
        jacobian(self.forward(), self.model, keep_gradient=True, gramian=True).assign_gradient(self.model)

    def naive(self) -> None:
        parameters = list(self.model.parameters())
        for loss in self.forward().values():
            grads = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
            torch.stack([g.norm() for g in grads if g is not None])

    def mtl(self) -> None:
        features = self.model.features(self.image)
        mtl_backward(list(self.model.losses(features, self.target).values()), features)

    def jac(self) -> None:
        jac(list(self.forward().values()), list(self.model.parameters()))

    def effect(self) -> None:
        effect(self.forward, self.model)

    def clear(self) -> None:
        for parameter in self.model.parameters():
            parameter.grad = None
            parameter.__dict__.pop("jac", None)
            if hasattr(parameter, "jac"):
                parameter.jac = None

    def schemes(self, names: str) -> dict[str, Step]:
        return {name: getattr(self, name) for name in names.split()}


def seconds(bench: Bench, schemes: dict[str, Step], rounds: int, clock: Callable[[], float]) -> dict[str, float]:
    """Medians, after one warm-up, of schemes that take turns."""
    times: dict[str, list[float]] = {name: [] for name in schemes}
    for number in range(rounds + 1):
        for name, step in schemes.items():
            bench.clear()
            start = clock()
            step()
            if number:
                times[name].append(clock() - start)
    bench.clear()
    return {name: statistics.median(each) for name, each in times.items()}


def peak_megabytes(bench: Bench, step: Step) -> float:
    """The highest sum of live allocations during one step, over what lived before it."""
    step()
    bench.clear()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        step()
    events = sorted(
        (e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"), key=lambda e: e.start_ns()
    )
    live = peak = 0
    for event in events:
        live += event.nbytes()
        peak = max(peak, live)
    bench.clear()
    return peak / 2**20


def difference_from_torchjd(bench: Bench) -> float:
    """The largest relative difference of a norm, over the shared parameters and all losses."""
    bench.model.double()
    bench.image, bench.target = bench.image.double(), bench.target.double()
    features = bench.model.features(bench.image)
    losses = bench.model.losses(features, bench.target)
    table = jacobian(losses, bench.model)
    mtl_backward(list(losses.values()), features)
    worst = 0.0
    largest = max(row.norm for row in table.rows)
    for name, parameter in bench.model.named_parameters():
        rows = getattr(parameter, "jac", None)
        if rows is None:
            continue
        for loss, row in zip(losses, rows, strict=True):
            norm = float(row.norm())
            worst = max(worst, abs(norm - table.norm(loss, name)) / max(norm, 1e-6 * largest))
    return worst


def trace_milliseconds(rounds: int) -> tuple[float, int, int]:
    """Median time of a trace of RetinaNet, its cells, and how many disagree with autograd."""
    torch.manual_seed(0)
    model = torchvision.models.detection.retinanet_resnet50_fpn(
        weights=None, weights_backbone=None, min_size=64, max_size=64
    ).train()
    target = {"boxes": torch.tensor([[5.0, 5.0, 40.0, 40.0]]), "labels": torch.tensor([1])}
    times = []
    for _ in range(rounds):
        losses = model([torch.rand(3, 64, 64)], [target])
        start = time.perf_counter()
        table = trace(losses, model)
        times.append(time.perf_counter() - start)
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    wrong = 0
    for loss, value in losses.items():
        grads = torch.autograd.grad(value, list(named.values()), retain_graph=True, allow_unused=True)
        wrong += sum(table.reaches(loss, n) != (g is not None) for n, g in zip(named, grads, strict=True))
    return 1e3 * statistics.median(times), len(losses) * len(named), wrong


ROWS = {
    "plain": "plain step",
    "again": "plain step again (A/A)",
    "one_more_pass": "one loss's gradient at what it shares, by `autograd.grad`, and nothing else",
    "rotating": "rotating: one loss's row a step",
    "norms": "full exact table without cosines (norms, shares), which also gives the training gradient",
    "full": "full exact table with cosines, which also gives the training gradient",
    "full_then_backward": "full exact table with cosines, then `total.backward()`",
    "gramian": "full exact table with the Gramian",
    "naive": "K x `autograd.grad`, norms only",
    "mtl": "TorchJD `mtl_backward`",
    "jac": "TorchJD `jac`",
    "effect": "`effect`: fresh forward, gradient, forward mode",
}


def report(quick: bool, rounds: int, threads: int, clock: Callable[[], float]) -> str:
    size = 64 if quick else 256
    bench, wide = Bench(8, size), Bench(16, size)
    schemes = bench.schemes("plain one_more_pass rotating norms full full_then_backward gramian naive mtl jac effect")
    times = seconds(bench, {"plain": bench.plain, "again": bench.plain, **schemes}, rounds, clock)
    wide_times = seconds(wide, wide.schemes("plain one_more_pass rotating effect"), rounds, clock)
    memory = {name: peak_megabytes(bench, step) for name, step in schemes.items()}
    milliseconds, cells, wrong = trace_milliseconds(3 if quick else 9)
    lines = [f"| ResNet-18 + FPN + 8 heads, batch 4, {size} x {size} | time | peak memory |", "|---|---|---|"]
    for name, label in ROWS.items():
        peak = f"{memory[name] / memory['plain']:.2f}" if name in memory else ""
        lines.append(f"| {label} | {times[name] / times['plain']:.2f} | {peak} |")
    for name in ("one_more_pass", "rotating", "effect"):
        lines.append(f"| {ROWS[name]}, 16 heads | {wide_times[name] / wide_times['plain']:.2f} | |")
    lines += [
        "",
        f"- One plain step: {times['plain']:.3f} s, {memory['plain']:.0f} MB.",
        f"- Without cosines the table is {times['mtl'] / times['norms']:.2f}x faster than `mtl_backward` and "
        f"{times['jac'] / times['norms']:.2f}x faster than `jac`, with them {times['mtl'] / times['full']:.2f}x and "
        f"{times['jac'] / times['full']:.2f}x; largest relative difference of a norm from `mtl_backward` in float64: "
        f"{difference_from_torchjd(bench):.1e}.",
        f"- trace of torchvision's retinanet_resnet50_fpn with its two losses: {milliseconds:.2f} ms (a fresh graph "
        f"each time); {wrong} of {cells} cells disagree with autograd.",
        "",
        f"`python {' '.join(sys.argv)}`, {rounds} rounds, {threads} threads; torch {torch.__version__}, torchvision "
        f"{torchvision.__version__}, torchjd {version('torchjd')}; {platform.machine()}, {cpu_name()}.",
    ]
    return "\n".join(lines) + "\n"


def version(package: str) -> str:
    from importlib.metadata import version as installed

    return installed(package)


def cpu_name() -> str:
    try:
        info = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor()
    return next((line.split(":")[1].strip() for line in info.splitlines() if line.startswith("model name")), "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="64 x 64 pixels, print only")
    parser.add_argument("--rounds", type=int, default=None)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cpu-clock", action="store_true", help="time of this process only, for a busy machine")
    options = parser.parse_args()
    clock = time.process_time if options.cpu_clock else time.perf_counter
    torch.set_num_threads(options.threads)
    text = report(options.quick, options.rounds or (3 if options.quick else 9), options.threads, clock)
    print(text)
    if not options.quick:
        RESULTS.parent.mkdir(exist_ok=True)
        notes = "".join(RESULTS.read_text().partition("\n## ")[1:]) if RESULTS.exists() else ""
        head = "# What attribution costs\n\nRatios to a plain step, medians, interleaved.\n\n"
        RESULTS.write_text(head + text + notes)


if __name__ == "__main__":
    main()
