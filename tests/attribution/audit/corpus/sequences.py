# mypy: ignore-errors
"""Language, proteins, forecasting, distillation: inline loops, per-sample losses, injected gradients, records."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn


def data(make, count=3):
    torch.manual_seed(1)
    return [make() for _ in range(count)]


def seeded(model_class, *args):
    torch.manual_seed(0)
    return model_class(*args)


class Coder(nn.Module):
    """A sparse coder."""

    def __init__(self):
        super().__init__()
        self.encode, self.decode = nn.Linear(8, 12), nn.Linear(12, 8)

    def forward(self, x):
        code = self.encode(x).relu()
        return {"code": code, "again": self.decode(code)}


def logged_not_returned(fixed=False):
    """The sparsity and the auxiliary loss are written to the log; only the reconstruction is returned for backward."""

    def criterion(out, batch):
        reconstruction = (out["again"] - batch["input"]).square().mean()
        sparsity = out["code"].abs().mean()
        loss = reconstruction + 0.3 * sparsity if fixed else reconstruction
        return loss, {
            "reconstruction_loss": reconstruction,
            "sparsity_loss": sparsity,
            "l0": (out["code"] > 0).sum().item(),
        }

    return {"model": seeded(Coder), "batches": data(lambda: {"input": torch.randn(8, 8)}), "criterion": criterion}


class Captions(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.words, self.boxes, self.score = (
            nn.Linear(6, 8),
            nn.Linear(8, 5),
            nn.Linear(8, 4),
            nn.Linear(8, 1),
        )

    def forward(self, x):
        hidden = self.body(x).relu()
        return {"words": self.words(hidden), "boxes": self.boxes(hidden), "score": self.score(hidden)}


def total_among_its_parts(fixed=False):
    """The dict is summed although its total is in it already."""

    def criterion(out, batch):
        losses = {
            "captioning": F.cross_entropy(out["words"], batch["word"]), "boxes": 0.05 * (out["boxes"] - 1).square().mean(),  # noqa: E501
            "objectness": F.softplus(-out["score"]).mean(),
        }  # fmt: skip
        losses["total_loss"] = sum(losses.values())
        return losses

    total = (lambda losses: losses["total_loss"]) if fixed else (lambda losses: sum(losses.values()))
    batches = data(lambda: {"input": torch.randn(8, 6), "word": torch.randint(5, (8,))})
    return {"model": seeded(Captions), "batches": batches, "criterion": criterion, "total": total}


class Frames(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.shift, self.turn, self.atoms = (
            nn.Linear(6, 8),
            nn.Linear(8, 3),
            nn.Linear(8, 3),
            nn.Linear(8, 9),
        )

    def forward(self, x):
        hidden = self.body(x).tanh()
        return self.shift(hidden), self.turn(hidden), self.atoms(hidden)


def auxiliary_twice(fixed=False):
    """Per sample, the rigid loss takes the auxiliary one in; the loop adds the auxiliary one to it again."""

    def criterion(out, batch):
        shift, turn, atoms = out
        trans, rot = shift.square().sum(-1), turn.sub(1).square().sum(-1)
        aux = (batch["t"] > 0.25) * atoms.abs().mean(-1)
        rigid = trans + rot
        rigid = rigid if fixed else rigid + aux
        return {"trans_loss": trans, "rots_loss": rot, "auxiliary_loss": aux, "rigid_loss": rigid}

    def total(losses):
        means = {k: v.mean() for k, v in losses.items()}
        return means["rigid_loss"] + means["auxiliary_loss"]

    batches = data(lambda: {"input": torch.randn(8, 6), "t": torch.rand(8)})
    return {"model": seeded(Frames), "batches": batches, "criterion": criterion, "total": total}


class Carry(torch.autograd.Function):
    """Hands a tensor on, and the auxiliary loss a gradient of one."""

    @staticmethod
    def forward(ctx, passed, aux):
        ctx.shape = aux.shape
        return passed.view_as(passed)

    @staticmethod
    def backward(ctx, grad):
        return grad, torch.ones(ctx.shape)


class Sparse(nn.Module):
    def __init__(self):
        super().__init__()
        self.router, self.head = nn.Linear(8, 4), nn.Linear(8, 6)
        self.experts = nn.ModuleList([nn.Linear(8, 8) for _ in range(4)])

    def forward(self, x):
        chance = self.router(x).softmax(-1)
        chosen = F.one_hot(chance.argmax(-1), 4).float()
        balance = 0.2 * (chosen.mean(0) * chance.mean(0)).sum() * 4
        gate = Carry.apply((chance * chosen).sum(-1, keepdim=True), balance)
        hidden = sum(chosen[:, i : i + 1] * expert(x) for i, expert in enumerate(self.experts)) * gate
        return {"logits": self.head(hidden), "balance": balance}


def tokens():
    return data(lambda: {"input": torch.randn(16, 8), "next": torch.randint(6, (16,))})


def carried_and_added(fixed=False):
    """The router's loss trains through an autograd function, and the loop adds it once more."""
    return {
        "model": seeded(Sparse), "batches": tokens(),
        "criterion": lambda out, batch: {"lm_loss": F.cross_entropy(out["logits"], batch["next"]), "balance_loss": out["balance"]},  # noqa: E501
        "total": lambda losses: losses["lm_loss"] if fixed else losses["lm_loss"] + losses["balance_loss"],
    }  # fmt: skip


class Forecast(nn.Module):
    """Returns (frames, loss); the decoupling part is computed from memories through an adapter."""

    def __init__(self, cut):
        super().__init__()
        self.cut = cut
        self.cell, self.adapter, self.out = nn.Linear(6, 8), nn.Linear(4, 4), nn.Linear(8, 6)

    def forward(self, x):
        state, parts = torch.zeros(len(x), 6), []
        frames = []
        for step in range(3):
            hidden = self.cell(x[:, step] + state).tanh()
            state = self.out(hidden)
            frames.append(state)
            parts.append(decouple(self.adapter, hidden, self.cut))
        frames = torch.stack(frames, 1)
        return frames, F.mse_loss(frames, x.roll(-1, 1)) + 0.5 * torch.stack(parts).mean()


def decouple(adapter, hidden, cut):
    long, short = hidden[:, :4], hidden[:, 4:]
    if cut:
        with torch.no_grad():
            return F.cosine_similarity(adapter(long), adapter(short)).abs().mean()
    return F.cosine_similarity(adapter(long), adapter(short)).abs().mean()


def cut_off_inside_the_model(fixed=False):
    """One summand inside a model that returns its loss is computed without a graph."""
    return {
        "model": seeded(Forecast, not fixed), "batches": data(lambda: {"input": torch.randn(4, 3, 6)}),
        "criterion": lambda out, batch: out[1],
    }  # fmt: skip


class Student(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 4)

    def forward(self, x):
        one = self.a(x).relu()
        two = self.b(one).relu()
        return one, two, self.head(two)


def attention(a, b):
    return (F.normalize(a.square(), dim=-1) - F.normalize(b.square(), dim=-1)).square().mean()


def detached_in_the_loop(fixed=False):
    """The losses are computed inline in the loop, and three of four are detached; one step is handed over."""
    student, teacher = seeded(Student), seeded(Student)
    torch.manual_seed(2)
    x, y = torch.randn(16, 6), torch.randint(4, (16,))
    with torch.no_grad():
        teacher.a.weight.mul_(1.5)
    out, wanted = student(x), [t.detach() for t in teacher(x)]
    hard = F.cross_entropy(out[2], y)
    near, far = 500 * attention(out[0], wanted[0]), 500 * attention(out[1], wanted[1])
    if not fixed:
        near, far = near.detach(), far.detach()
    losses = {"cls_loss": hard, "at1_loss": near, "at2_loss": far, "total_loss": hard + near + far}
    return student, out, losses


class Groups(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.det, self.seg = nn.Linear(6, 8), nn.Linear(8, 2), nn.Linear(8, 2)

    def forward(self, x):
        hidden = self.body(x).relu()
        return self.det(hidden), self.seg(hidden)


def grouped(out, batch):
    det, seg = out
    cls, box, dice, bce = (
        det[:, 0].square().mean(),
        det[:, 1].sub(1).abs().mean(),
        seg[:, 0].cosh().mean(),
        seg[:, 1].sub(2).square().mean(),
    )
    return {"cls": cls, "box": box, "det_loss": cls + box, "dice": dice, "bce": bce, "seg_loss": dice + bce}


def forgotten_group(fixed=False):
    """Parts stand beside their subtotals; backward is called on one subtotal of two."""
    return {
        "model": seeded(Groups), "batches": data(lambda: {"input": torch.randn(8, 6)}), "criterion": grouped,
        "total": lambda L: L["det_loss"] + L["seg_loss"] if fixed else L["det_loss"],
    }  # fmt: skip


# ---- healthy


class Deep(nn.Module):
    """Two routed layers; each carries its balance loss, and both return it for the log."""

    def __init__(self):
        super().__init__()
        self.routers = nn.ModuleList([nn.Linear(8, 3) for _ in range(2)])
        self.experts = nn.ModuleList([nn.Linear(8, 8) for _ in range(6)])
        self.head = nn.Linear(8, 6)

    def forward(self, x):
        balance, z = [], 0.0
        for depth, router in enumerate(self.routers):
            logits = router(x)
            chance = logits.softmax(-1)
            chosen = F.one_hot(chance.argmax(-1), 3).float()
            balance.append(0.2 * (chosen.mean(0) * chance.mean(0)).sum() * 3)
            z = z + 0.01 * logits.logsumexp(-1).square().mean()
            gate = (chance * chosen).sum(-1, keepdim=True)
            mixed = sum(chosen[:, i : i + 1] * self.experts[3 * depth + i](x) for i in range(3)) * gate
            x = Carry.apply(x + mixed, balance[-1])
        return {"logits": self.head(x), "balance": balance, "z": z}


def carried_in_two_layers():
    """The routers' balance losses train through the autograd function alone; the z-loss is added by the loop."""
    return {
        "model": seeded(Deep), "batches": tokens(),
        "criterion": lambda out, batch: {"lm": F.cross_entropy(out["logits"], batch["next"]), "z": out["z"], "balance": out["balance"]},  # noqa: E501
        "total": lambda losses: losses["lm"] + losses["z"],
    }  # fmt: skip


def groups_and_subtotals():
    return {
        "model": seeded(Groups), "batches": data(lambda: {"input": torch.randn(8, 6)}), "criterion": grouped,
        "total": lambda L: 2 * L["det_loss"] + 0.3 * L["seg_loss"],
    }  # fmt: skip


@dataclass
class Spoken:
    loss: torch.Tensor
    logits: torch.Tensor
    loss_dict: dict
    perplexity: torch.Tensor


class Quantizer(nn.Module):
    """Returns a record: loss, outputs, parts, and a metric that has a graph because diversity is made of it."""

    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(6, 8), nn.Linear(8, 5)

    def forward(self, x):
        logits = self.head(self.body(x).relu())
        mean = logits.softmax(-1).mean(0)
        perplexity = (-(mean * mean.log()).sum()).exp()
        contrastive, diversity = logits[:, 0].sub(1).square().mean(), (5 - perplexity) / 5
        parts = {"contrastive": contrastive, "diversity": diversity, "code_error": torch.tensor(0.4)}
        return Spoken(contrastive + 0.1 * diversity, logits, parts, perplexity)


def record_with_metrics():
    return {
        "model": seeded(Quantizer), "batches": data(lambda: {"input": torch.randn(16, 6)}),
        "criterion": lambda output, batch: output, "total": lambda output: output.loss,
    }  # fmt: skip


class Uncertain(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.depth, self.normal, self.spread = (
            nn.Linear(5, 8),
            nn.Linear(8, 1),
            nn.Linear(8, 3),
            nn.Linear(8, 2),
        )

    def forward(self, x):
        hidden = self.body(x).relu()
        return {"depth": self.depth(hidden), "normal": self.normal(hidden), "log_variance": self.spread(hidden)}


def learned_weights():
    """Log-variances are an output of the network; they enter the total and no loss."""

    def criterion(out, batch):
        depth, normal = (out["depth"] - 1).abs().mean(), out["normal"].square().mean()
        s = out["log_variance"].mean(0)
        return (-s[0]).exp() * depth + (-s[1]).exp() * normal + s.sum() / 2, {"depth": depth, "normal": normal}

    return {"model": seeded(Uncertain), "batches": data(lambda: {"input": torch.randn(8, 5)}), "criterion": criterion}


def weighed_samples():
    """Per sample, each with a weight of its own, beside a scalar regularizer."""

    def criterion(out, batch):
        shift, turn, atoms = out
        return {
            "trans": shift.square().sum(-1) * batch["w"], "rots": turn.sub(1).square().sum(-1) * batch["w"],
            "atoms": atoms.abs().mean(),
        }  # fmt: skip

    batches = data(lambda: {"input": torch.randn(8, 6), "w": torch.rand(8)})

    def total(L):
        return L["trans"].mean() + 2 * L["rots"].mean() + 0.25 * L["atoms"]

    return {"model": seeded(Frames), "batches": batches, "criterion": criterion, "total": total}
