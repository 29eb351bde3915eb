"""(d) Attribution: the exact table, the rotating sampler and `effect`, beside TorchJD and a plain step."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.gpu.bench import Bench, Missing, Run, Way
from benchmarks.gpu.networks import ManyHeads, heads_batch
from benchmarks.gpu.report import Table
from headwise.attribution import JacobianSampler, effect, jacobian, trace

NOTE = "Eight heads on ResNet-50 and a feature pyramid, float32; one exact table gives the training gradient as well."


def run(bench: Bench) -> Iterator[Table]:
    work = Work(bench)
    ways: dict[str, Way] = {
        "plain step": lambda: work.plain,
        "again": lambda: work.plain,
        "trace": lambda: work.traced,
        "rotating, every step": work.rotating,
        "exact table, norms": lambda: lambda: work.table(cosine=False),
        "exact table, norms and cosines": lambda: lambda: work.table(cosine=True),
        "8 x autograd.grad, norms": lambda: work.naive,
        "effect": lambda: work.effect,
        "TorchJD mtl_backward": work.mtl,
        "TorchJD jac": work.jac,
    }
    table = Table("what a step with attribution costs", "plain step", NOTE)
    table.add("", bench.compare(ways))
    yield table


class Work:
    """One network and batch, and the steps that are compared."""

    def __init__(self, bench: Bench) -> None:
        torch.manual_seed(0)
        self.network = ManyHeads(bench.pick(50, 18, 0)).to(bench.device)
        self.image, self.targets = heads_batch(bench, *bench.pick((8, 256), (1, 64), (1, 32)))

    def losses(self, features: Tensor) -> dict[str, Tensor]:
        heads = self.network.heads.items()
        return {name: F.smooth_l1_loss(each(features), self.targets[name]) for name, each in heads}

    def forward(self) -> dict[str, Tensor]:
        self.network.zero_grad(set_to_none=True)
        return self.losses(self.network.features(self.image))

    def plain(self) -> None:
        torch.stack(list(self.forward().values())).sum().backward()

    def traced(self) -> None:
        losses = self.forward()
        trace(losses, self.network)
        torch.stack(list(losses.values())).sum().backward()

    def rotating(self) -> Run:
        sampler = JacobianSampler(self.network, every=1)

        def run() -> None:
            losses = self.forward()
            sampler.step(losses)
            torch.stack(list(losses.values())).sum().backward()

        return run

    def table(self, cosine: bool) -> None:
        jacobian(self.forward(), self.network, cosine=cosine, keep_gradient=True).assign_gradient(self.network)

    def naive(self) -> None:
        parameters = list(self.network.parameters())
        for loss in self.forward().values():
            gradients = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
            torch.stack([each.norm() for each in gradients if each is not None])

    def effect(self) -> None:
        effect(self.forward, self.network)

    def mtl(self) -> Run:
        from_torchjd = torchjd_autojac()

        def run() -> None:
            forget(self.network)
            features = self.network.features(self.image)
            from_torchjd.mtl_backward(list(self.losses(features).values()), features)

        return run

    def jac(self) -> Run:
        from_torchjd = torchjd_autojac()
        parameters = list(self.network.parameters())

        def run() -> None:
            forget(self.network)
            from_torchjd.jac(list(self.forward().values()), parameters)

        return run


def torchjd_autojac():
    if find_spec("torchjd") is None:
        raise Missing("needs TorchJD: pip install torchjd")
    from torchjd import autojac

    return autojac


def forget(network: nn.Module) -> None:
    """TorchJD adds to the Jacobians that it finds at the parameters."""
    for parameter in network.parameters():
        parameter.grad = None
        if hasattr(parameter, "jac"):
            del parameter.jac
