"""A small language model whose two layers are mixtures of experts, trained on sequences that count in steps.

Run it with ``python examples/presets/mixture_of_experts.py``; the books show the tokens beside the routers' losses.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import headwise as hw

VOCABULARY, LENGTH, WIDTH, EXPERTS = 31, 24, 32, 4


class Mixture(nn.Module):
    """Sends each token to one of four experts, and returns what its router said."""

    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(WIDTH, EXPERTS, bias=False)
        layers = [nn.Sequential(nn.Linear(WIDTH, 64), nn.GELU(), nn.Linear(64, WIDTH)) for _ in range(EXPERTS)]
        self.experts = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.router(x)
        best = logits.softmax(-1).max(-1, keepdim=True)
        every = torch.stack([expert(x) for expert in self.experts], -2)
        chosen = every.gather(-2, best.indices[..., None].expand(*x.shape[:-1], 1, WIDTH)).squeeze(-2)
        return x + best.values * chosen, logits


class LanguageModel(nn.Module):
    """A recurrent layer and two mixtures."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.mix = nn.Embedding(VOCABULARY, WIDTH), nn.GRU(WIDTH, WIDTH, batch_first=True)
        self.layers, self.head = nn.ModuleList([Mixture(), Mixture()]), nn.Linear(WIDTH, VOCABULARY)

    def forward(self, tokens: Tensor) -> dict[str, Tensor | list[Tensor]]:
        x, routed = self.mix(self.embed(tokens))[0], []
        for layer in self.layers:
            x, logits = layer(x)
            routed.append(logits)
        return {"logits": self.head(x), "router_logits": routed}


def batch(step: int) -> tuple[Tensor, dict[str, Tensor]]:
    """Sequences that count in steps of 1 to 5; the label is the next token."""
    draw = torch.Generator().manual_seed(step)
    start, stride = (torch.randint(low, high, (32, 1), generator=draw) for low, high in ((0, VOCABULARY), (1, 6)))
    tokens = (start + stride * torch.arange(LENGTH)) % VOCABULARY
    return tokens, {"label": F.pad(tokens[:, 1:], (0, 1), value=-100)}


def main(steps: int = 200, out: str | None = None) -> hw.Ledger:
    """Train, print the books of the last step, and write a run folder if one is named."""
    torch.manual_seed(0)
    network, criterion = LanguageModel(), hw.presets.mixture_of_experts()
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    ledger = hw.Ledger(criterion, optimizer=optimizer)
    run = hw.Run(out, ledger, every=20) if out else None
    for step in range(1, steps + 1):
        tokens, targets = batch(step)
        optimizer.zero_grad()
        criterion(network(tokens), targets).total.backward()
        optimizer.step()
        if run is not None:
            run.log(step)
    if run is not None:
        run.close()
    books = ledger.read()
    print(books)
    for path, router in books["balance"].levels.items():
        print(f"{path}: gradient norm {router.grad_norm:.2g}")
    return ledger


if __name__ == "__main__":
    main()
