"""Planted faults, in the style of published criteria; and healthy training code beside them.

`PLANTED`: name -> (builder of a subject, kind, a piece of the subject that the finding must name).
`HEALTHY`: name -> builder.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.attribution.audit.nets import Heads, Maps, batches

Build = Callable[[], Any]
PLANTED: dict[str, tuple[Build, str, str]] = {}
HEALTHY: dict[str, Build] = {}


def planted(kind: str, where: str) -> Callable[[Build], Build]:
    def register(build: Build) -> Build:
        PLANTED[build.__name__] = (build, kind, where)
        return build

    return register


def healthy(build: Build) -> Build:
    HEALTHY[build.__name__] = build
    return build


def two(criterion: Any, **more: Any) -> dict[str, Any]:
    """A classifying and a regressing head."""
    torch.manual_seed(0)
    subject: dict[str, Any] = {"model": Heads(cls=2, reg=1), "batches": batches(), "criterion": criterion}
    return subject | more


def cls_loss(outputs: Any, batch: Any) -> Tensor:
    return F.cross_entropy(outputs["cls"], batch["label"])


def reg_loss(outputs: Any, batch: Any) -> Tensor:
    return F.smooth_l1_loss(outputs["reg"], batch["value"])


def snake_terms(maps: Tensor, batch: dict[str, Tensor]) -> tuple[Tensor, ...]:
    mask = batch["mask"]
    tr = F.cross_entropy(maps[:, 0:2], batch["region"])
    tcl = F.cross_entropy(maps[:, 2:4], batch["label"])
    scale = (maps[:, 4] ** 2 + maps[:, 5] ** 2 + 1e-6).rsqrt()
    radii = F.smooth_l1_loss(maps[:, 6][mask] / batch["radius"][mask], torch.ones_like(batch["radius"][mask]))
    sin = F.smooth_l1_loss((maps[:, 4] * scale)[mask], batch["sin"][mask])
    cos = F.smooth_l1_loss((maps[:, 5] * scale)[mask], batch["cos"][mask])
    return tr, tcl, radii, sin, cos


def snake(criterion: Any = snake_terms, **more: Any) -> dict[str, Any]:
    torch.manual_seed(0)
    subject: dict[str, Any] = {"model": Maps(), "batches": batches(), "criterion": criterion}
    return subject | more


REGIONS = {
    "tr": "output[:, 0:2]", "tcl": "output[:, 2:4]", "radii": "output[:, 6]", "sin": "output[:, 4]",
    "cos": "output[:, 5]",
}  # fmt: skip


# --- names -------------------------------------------------------------------------------------------------------


@planted("rotated-names", "radii")
def textsnake_names() -> Any:
    """Returned as tr, tcl, radii, sin, cos; unpacked as tr, tcl, sin, cos, radii."""
    return snake(reads={name: REGIONS[name] for name in ("tr", "tcl", "sin", "cos", "radii")})


@planted("rotated-names", "offset")
def swapped_keys() -> Any:
    def criterion(outputs: Any, batch: Any) -> dict[str, Tensor]:
        return {
            "loss_size": F.l1_loss(outputs["offset"], batch["value"]),
            "loss_offset": F.l1_loss(outputs["size"], batch["value"]),
        }

    torch.manual_seed(0)
    return {"model": Heads(size=1, offset=1), "batches": batches(), "criterion": criterion}


# --- dead and detached -------------------------------------------------------------------------------------------


@planted("dead-loss", "push")
def bool_mask_makes_push_dead() -> Any:
    """uint8 masks added give 2; bool masks added give True, which is never equal to 2."""

    def criterion(outputs: Any, batch: Any) -> tuple[Tensor, Tensor]:
        tags = outputs["tag"].flatten(2)[:, 0].gather(1, batch["index"])
        mask = batch["slots"].bool()
        num = mask.sum(1, keepdim=True).float()
        mean = (tags * mask).sum(1, keepdim=True) / num
        pull = (((tags - mean) ** 2 / (num + 1e-4)) * mask).sum()
        pairs = (mask.unsqueeze(1) + mask.unsqueeze(2)).eq(2)
        distance = F.relu(1 - (tags.unsqueeze(1) - tags.unsqueeze(2)).abs())
        push = (distance[pairs] / ((num - 1) * num + 1e-4).mean()).sum()
        return pull, push

    torch.manual_seed(0)
    return {
        "model": Heads(tag=1), "batches": batches(), "criterion": criterion, "reads": {"pull": "tag", "push": "tag"}
    }  # fmt: skip


@planted("dead-loss", "count")
def saturated_clamp() -> Any:
    def criterion(outputs: Any, batch: Any) -> dict[str, Tensor]:
        count = (outputs["reg"].sigmoid().clamp(max=1e-4).mean() - batch["value"].mean()) ** 2
        return {"cls": cls_loss(outputs, batch), "reg": reg_loss(outputs, batch), "count": count}

    return two(criterion)


@planted("dead-loss", "cls")
def softmax_over_one_channel() -> Any:
    def criterion(outputs: Any, batch: Any) -> dict[str, Tensor]:
        scores = outputs["cls"].softmax(1)
        return {"cls": F.mse_loss(scores[:, 0], batch["label"].float()), "reg": reg_loss(outputs, batch)}

    torch.manual_seed(0)
    return {"model": Heads(cls=1, reg=1), "batches": batches(), "criterion": criterion}


@planted("detached-loss", "reg")
def detached_by_item() -> Any:
    return two(lambda o, b: {"cls": cls_loss(o, b), "reg": reg_loss(o, b).item()})


@planted("detached-loss", "reg")
def detached_by_data() -> Any:
    def criterion(outputs: Any, batch: Any) -> tuple[Tensor, Tensor]:
        return cls_loss(outputs, batch), F.smooth_l1_loss(outputs["reg"].data, batch["value"])

    return two(criterion, reads={"cls": "cls", "reg": "reg"})


@planted("detached-loss", "loss_reg")
def detached_through_numpy() -> Any:
    def criterion(outputs: Any, batch: Any) -> dict[str, Tensor]:
        value = outputs["reg"].detach().numpy()
        return {
            "loss_cls": cls_loss(outputs, batch),
            "loss_reg": torch.tensor(abs(value - batch["value"].numpy()).mean()),
        }

    return two(criterion)


@planted("detached-loss", "1")
def detached_in_the_model() -> Any:
    class Net(Heads):
        def forward(self, image: Tensor) -> dict[str, Tensor]:
            found = super().forward(image)
            return found | {"reg": found["reg"].detach()}

    torch.manual_seed(0)
    return {
        "model": Net(cls=2, reg=1), "batches": batches(), "criterion": lambda o, b: [cls_loss(o, b), reg_loss(o, b)]
    }  # fmt: skip


@planted("detached-loss", "reg")
def new_tensor_around_a_loss() -> Any:
    def criterion(outputs: Any, batch: Any) -> dict[str, Tensor]:
        reg = torch.tensor(float(reg_loss(outputs, batch)), requires_grad=True)
        return {"cls": cls_loss(outputs, batch), "reg": reg}

    return two(criterion)


# --- the sum -----------------------------------------------------------------------------------------------------


@planted("sum-mismatch", "center")
def misspelt_key_drops_a_term() -> Any:
    def criterion(outputs: Any, batch: Any) -> dict[str, Tensor]:
        return {"cls": cls_loss(outputs, batch), "center": reg_loss(outputs, batch)}

    return two(criterion, total=lambda losses: losses["cls"] + losses.get("centers", 0.0))


@planted("sum-mismatch", "reg")
def dropped_inside_the_criterion() -> Any:
    def criterion(outputs: Any, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        parts = {"cls": cls_loss(outputs, batch), "reg": reg_loss(outputs, batch)}
        total = parts["cls"]
        return total, parts

    return two(criterion)


@planted("sum-mismatch", "reg")
def dropped_and_only_logged() -> Any:
    def criterion(outputs: Any, batch: Any) -> tuple[Tensor, dict[str, float]]:
        cls, reg, extra = cls_loss(outputs, batch), reg_loss(outputs, batch), outputs["cls"].square().mean()
        total = cls + extra
        return total, {"cls": cls.item(), "reg": reg.item(), "extra": extra.item()}

    return two(criterion)


@planted("sum-mismatch", "cls")
def total_summed_with_its_parts() -> Any:
    def criterion(outputs: Any, batch: Any) -> dict[str, Tensor]:
        cls, reg = cls_loss(outputs, batch), reg_loss(outputs, batch)
        return {"cls": cls, "reg": reg, "loss": cls + reg}

    return two(criterion, total=lambda losses: sum(losses.values()))


@planted("sum-mismatch", "1")
def added_twice_in_a_list() -> Any:
    def total(losses: list[Tensor]) -> Tensor:
        found = torch.stack(losses).sum()
        return found + losses[1]

    return two(lambda o, b: [cls_loss(o, b), reg_loss(o, b)], total=total)


@planted("sum-mismatch", "reg")
def computed_and_added_again() -> Any:
    def criterion(outputs: Any, batch: Any) -> dict[str, Tensor]:
        cls, reg = cls_loss(outputs, batch), reg_loss(outputs, batch)
        return {"cls": cls, "reg": reg, "total": cls + reg + F.smooth_l1_loss(outputs["reg"], batch["value"])}

    return two(criterion)


@planted("sum-mismatch", "reg")
def counted_twice_in_a_scalar() -> Any:
    def criterion(outputs: Any, batch: Any) -> Tensor:
        cls, reg = cls_loss(outputs, batch), reg_loss(outputs, batch)
        total = cls + reg
        return total + reg

    return two(criterion)


class Weighted(nn.Module):
    """Declares weights."""

    def __init__(self, in_forward: bool) -> None:
        super().__init__()
        self.reg_weight, self.in_forward = 0.3, in_forward

    def forward(self, outputs: Any, batch: Any) -> dict[str, Tensor]:
        factor = self.reg_weight if self.in_forward else 1.0
        return {"cls_loss": cls_loss(outputs, batch), "reg_loss": factor * reg_loss(outputs, batch)}


@planted("sum-mismatch", "reg_loss")
def weight_never_applied() -> Any:
    return two(Weighted(False))


@planted("sum-mismatch", "reg_loss")
def weight_never_applied_behind_a_function() -> Any:
    module = Weighted(False)

    def adapted(outputs: Any, batch: Any) -> Any:
        return module(outputs, batch)

    return two(lambda o, b: adapted(o, b))


@planted("sum-mismatch", "reg")
def weight_never_applied_in_a_scalar() -> Any:
    class Summed(Weighted):
        def forward(self, outputs: Any, batch: Any) -> Any:
            return torch.stack(list(super().forward(outputs, batch).values())).sum()

    return two(Summed(False))


@planted("unreached-parameter", "criterion.spare")
def parameter_of_the_criterion_never_used() -> Any:
    module = Weighted(True)
    module.spare = nn.Parameter(torch.zeros(2))
    return two(lambda o, b: module(o, b))


@planted("sum-mismatch", "reg_loss")
def weight_applied_twice() -> Any:
    criterion = Weighted(True)
    return two(criterion, total=lambda losses: losses["cls_loss"] + criterion.reg_weight * losses["reg_loss"])


@planted("sum-mismatch", "push")
def literal_weight_applied_twice() -> Any:
    def criterion(outputs: Any, batch: Any) -> dict[str, Tensor]:
        return {"pull": cls_loss(outputs, batch), "push": 0.1 * reg_loss(outputs, batch)}

    return two(criterion, total=lambda losses: losses["pull"] + 0.1 * losses["push"])


@planted("sum-mismatch", "reg")
def weight_table_never_applied() -> Any:
    weights = {"cls": 1.0, "reg": 0.2}

    def criterion(outputs: Any, batch: Any) -> dict[str, Tensor]:
        assert weights
        return {"cls": cls_loss(outputs, batch), "reg": reg_loss(outputs, batch)}

    return two(criterion)


# --- outputs and parameters --------------------------------------------------------------------------------------


@planted("sum-mismatch", "reg")
def weight_under_a_misspelt_key() -> Any:
    weights = {"cls": 1.0, "rge": 0.2}
    return two(
        lambda o, b: {"cls": cls_loss(o, b), "reg": reg_loss(o, b)},
        total=lambda losses: sum(weights.get(name, 1.0) * loss for name, loss in losses.items()),
    )


@planted("detached-loss", "total")
def total_of_items() -> Any:
    def total(losses: list[Tensor]) -> Tensor:
        return torch.tensor(sum(loss.item() for loss in losses), requires_grad=True)

    return two(lambda o, b: [cls_loss(o, b), reg_loss(o, b)], total=lambda losses: total(losses).detach())


@planted("untrained-output", "reg")
def detached_part_of_a_logged_total() -> Any:
    def criterion(outputs: Any, batch: Any) -> tuple[Tensor, dict[str, float]]:
        cls, reg = cls_loss(outputs, batch), reg_loss(outputs, batch)
        return cls + reg.item(), {"cls": cls.item(), "reg": reg.item()}

    return two(criterion)


@planted("untrained-output", "aux")
def head_never_used() -> Any:
    torch.manual_seed(0)
    model = Heads(cls=2, reg=1, aux=2)
    return two(lambda o, b: {"cls": cls_loss(o, b), "reg": reg_loss(o, b)}, model=model)


@planted("unreached-parameter", "heads.aux.weight")
def head_never_used_parameters() -> Any:
    return head_never_used()


@planted("untrained-output", "[:, 2:4]")
def channels_never_read() -> Any:
    def criterion(maps: Tensor, batch: Any) -> tuple[Tensor, Tensor]:
        return F.cross_entropy(maps[:, 0:2], batch["region"]), F.l1_loss(
            maps[:, 4:], batch["value"].expand(-1, 3, -1, -1)
        )

    return snake(criterion)


@planted("unreached-parameter", "extra.weight")
def layer_never_called() -> Any:
    torch.manual_seed(0)
    model = Heads(cls=2, reg=1)
    model.extra = nn.Conv2d(8, 8, 1)
    return two(lambda o, b: cls_loss(o, b) + reg_loss(o, b), model=model)


@planted("outside-mask", "reg")
def mask_after_the_mean() -> Any:
    def criterion(outputs: Any, batch: Any) -> dict[str, Tensor]:
        reg = (F.l1_loss(outputs["reg"], batch["value"]) * batch["mask_float"]).mean()
        return {"cls": cls_loss(outputs, batch), "reg": reg}

    return two(criterion, masks={"reg": "mask"})


@planted("outside-mask", "reg")
def mask_on_the_target_only() -> Any:
    def criterion(outputs: Any, batch: Any) -> tuple[Tensor, Tensor]:
        return cls_loss(outputs, batch), F.mse_loss(outputs["reg"], batch["value"] * batch["mask_float"].unsqueeze(1))

    return two(criterion, reads={"cls": "cls", "reg": "reg"}, masks={"reg": "mask_uint8"})


@planted("outside-mask", "radius at output[:, 6]")
def int64_mask_as_index() -> Any:
    """`maps[mask]` with an int64 mask of 0 and 1 gathers images 0 and 1, over and over."""

    def criterion(maps: Tensor, batch: Any) -> dict[str, Tensor]:
        flat = maps[:, 6].reshape(-1)
        picked = flat[batch["mask_int64"].reshape(-1)]
        return {"maps": F.cross_entropy(maps[:, :2], batch["label"]), "radius": (picked - 1).abs().mean()}

    return snake(criterion, masks={"output[:, 6]": "mask_all"}, batches=[
        each | {"mask_all": torch.zeros(4, 8, 8, dtype=torch.bool).index_fill(2, torch.tensor([5]), True)}
        for each in batches()
    ])  # fmt: skip


# --- not finite --------------------------------------------------------------------------------------------------


@planted("nonfinite-gradient", "angle")
def zero_times_infinity_under_a_mask() -> Any:
    """Masked pixels with sin = cos = 0: the value is finite, the gradient is NaN."""

    class Net(Heads):
        def forward(self, image: Tensor) -> dict[str, Tensor]:
            found = super().forward(image)
            keep = torch.ones(8, 8)
            keep[0] = 0
            return found | {"angle": found["angle"] * keep}

    def criterion(outputs: Any, batch: Any) -> dict[str, Tensor]:
        mask = torch.ones(8, 8)
        mask[0] = 0
        s, c = outputs["angle"][:, 0], outputs["angle"][:, 1]
        scale = torch.sqrt(1 / (s**2 + c**2))
        angle = torch.where(mask.bool(), s * scale - batch["sin"], torch.zeros(())).abs().mean()
        return {"cls": cls_loss(outputs, batch), "angle": angle}

    torch.manual_seed(0)
    return {"model": Net(cls=2, angle=2), "batches": batches(), "criterion": criterion}


@planted("nonfinite-gradient", "norm")
def square_root_at_zero() -> Any:
    def criterion(outputs: Any, batch: Any) -> tuple[Tensor, Tensor]:
        gap = outputs["reg"] * batch["mask_float"].unsqueeze(1)
        return cls_loss(outputs, batch), (gap**2).sum(1).sqrt().mean()

    return two(criterion, reads={"cls": "cls", "norm": "reg"})


@planted("nonfinite-gradient", "parameters")
def square_root_at_zero_in_the_model() -> Any:
    class Net(Heads):
        def forward(self, image: Tensor) -> dict[str, Tensor]:
            found = super().forward(image)
            keep = torch.ones(8, 8).index_fill(0, torch.tensor([0]), 0.0)
            return found | {"reg": ((found["reg"] * keep) ** 2).sqrt()}

    torch.manual_seed(0)
    return two(lambda o, b: {"cls": cls_loss(o, b), "parameters": reg_loss(o, b)}, model=Net(cls=2, reg=1))


# --- what the criterion does to others ---------------------------------------------------------------------------


@planted("mutated-input", "outputs.cls")
def sigmoid_in_place() -> Any:
    def criterion(outputs: Any, batch: Any) -> dict[str, Tensor]:
        scores = outputs["cls"].sigmoid_().clamp(1e-4, 1 - 1e-4)
        return {"cls": F.binary_cross_entropy(scores[:, 0], batch["label"].float()) + scores[:, 1].mean(),
                "reg": reg_loss(outputs, batch)}  # fmt: skip

    return two(criterion)


@planted("mutated-input", "batch.value")
def targets_scaled_in_place() -> Any:
    def criterion(outputs: Any, batch: Any) -> list[Tensor]:
        batch["value"] /= 10
        return [cls_loss(outputs, batch), reg_loss(outputs, batch)]

    return two(criterion)


@planted("grad-mode", "criterion")
def grad_left_on() -> Any:
    def criterion(outputs: Any, batch: Any) -> dict[str, Tensor]:
        torch.set_grad_enabled(False)
        weight = outputs["cls"].softmax(1)[:, :1]
        torch.set_grad_enabled(True)
        reg = (weight * (outputs["reg"] - batch["value"]).abs()).mean()
        return {"cls": cls_loss(outputs, batch), "reg": reg}

    return two(criterion)


@planted("grad-mode", "criterion")
def grad_left_off() -> Any:
    def criterion(outputs: Any, batch: Any) -> dict[str, Tensor]:
        losses = {"cls": cls_loss(outputs, batch), "reg": reg_loss(outputs, batch)}
        torch.set_grad_enabled(False)
        losses["accuracy"] = (outputs["cls"].argmax(1) == batch["label"]).float().mean()
        return losses

    return two(criterion)


# --- notes -------------------------------------------------------------------------------------------------------


@planted("split-variant", "reg")
def mean_of_means() -> Any:
    def criterion(outputs: Any, batch: Any) -> dict[str, Tensor]:
        mask = (
            batch["mask_float"].unsqueeze(1) * torch.linspace(0, 1, 4).ceil().view(-1, 1, 1, 1)[: len(outputs["reg"])]
        )
        reg = ((outputs["reg"] - batch["value"]).abs() * mask).sum() / mask.sum().clamp(min=1)
        return {"cls": cls_loss(outputs, batch), "reg": reg}

    return two(criterion)


@planted("split-variant", "score")
def broadcast_to_a_matrix() -> Any:
    def criterion(output: Tensor, batch: Any) -> dict[str, Tensor]:
        return {"score": ((output - batch["value"][:, 0, 0, 0]) ** 2).mean()}

    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 1))
    return {"model": model, "batches": batches(), "criterion": criterion}


@planted("random-draw", "cls")
def random_negatives() -> Any:
    def criterion(outputs: Any, batch: Any) -> dict[str, Tensor]:
        each = F.cross_entropy(outputs["cls"], batch["label"], reduction="none").flatten()
        return {"cls": each[torch.randperm(len(each))[:32]].mean(), "reg": reg_loss(outputs, batch)}

    return two(criterion)


@planted("host-sync", "planted.py")
def items_for_the_log() -> Any:
    def criterion(outputs: Any, batch: Any) -> dict[str, Tensor]:
        if bool(batch["mask"].any()):
            float(outputs["cls"].mean())
        return {
            "cls": cls_loss(outputs, batch),
            "reg": F.l1_loss(outputs["reg"][batch["mask"].unsqueeze(1)], torch.ones(())),
        }

    return two(criterion, batches=[each | {"mask": torch.ones(4, 8, 8, dtype=torch.bool)} for each in batches()])


@planted("dominance", "reg at parameters of trunk")
def one_term_drowns_the_other() -> Any:
    return two(lambda o, b: {"cls": cls_loss(o, b), "reg": 1e4 * reg_loss(o, b)})


@planted("conflict", "up and down at reg")
def terms_against_each_other() -> Any:
    def criterion(outputs: Any, batch: Any) -> dict[str, Tensor]:
        return {"up": (outputs["reg"] - 9).abs().mean(), "down": (outputs["reg"] + 9).square().mean(),
                "cls": cls_loss(outputs, batch)}  # fmt: skip

    return two(criterion)


class Normalized(torch.autograd.Function):
    """Sends back a gradient of norm 1, however large it was."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        return grad / grad.norm().clamp_min(1e-12)


@planted("nonlinear-backward", "NormalizedBackward")
def a_backward_pass_that_normalizes() -> Any:
    def criterion(outputs: Any, batch: Any) -> dict[str, Tensor]:
        reg = Normalized.apply(outputs["reg"])
        return {"far": (reg - 9).square().mean(), "near": reg.abs().mean(), "cls": cls_loss(outputs, batch)}

    return two(criterion)


# --- healthy -----------------------------------------------------------------------------------------------------


class Injecting(torch.autograd.Function):
    """Adds a gradient of its own to every pass that comes by."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        return grad + 0.1 * ctx.saved_tensors[0]


@healthy
def a_gradient_that_is_injected() -> Any:
    def criterion(outputs: Any, batch: Any) -> dict[str, Tensor]:
        reg = Injecting.apply(outputs["reg"])
        return {"far": (reg - 9).square().mean(), "near": reg.abs().mean(), "cls": cls_loss(outputs, batch)}

    return two(criterion)


@healthy
def plain_dict() -> Any:
    return two(lambda o, b: {"cls": cls_loss(o, b), "reg": reg_loss(o, b)}, reads={"cls": "cls", "reg": "reg"})


@healthy
def plain_tuple_with_reads() -> Any:
    return snake(reads=REGIONS)


@healthy
def plain_scalar() -> Any:
    return two(lambda o, b: cls_loss(o, b) + 2 * reg_loss(o, b))


@healthy
def total_beside_detached_logs() -> Any:
    def criterion(outputs: Any, batch: Any) -> tuple[Tensor, dict[str, Any]]:
        cls, reg = cls_loss(outputs, batch), reg_loss(outputs, batch)
        accuracy = (outputs["cls"].argmax(1) == batch["label"]).float().mean()
        return cls + 0.5 * reg, {"cls": cls.detach(), "reg": reg.item(), "accuracy": accuracy}

    return two(criterion)


@healthy
def total_among_its_parts() -> Any:
    def criterion(outputs: Any, batch: Any) -> dict[str, Tensor]:
        cls, reg = cls_loss(outputs, batch), reg_loss(outputs, batch)
        return {"loss": cls + 2 * reg, "loss_cls": cls, "loss_reg": reg}

    return two(criterion)


@healthy
def zero_weight_declared() -> Any:
    weights = {"cls": 1.0, "reg": 1.0, "aux": 0.0}

    def criterion(outputs: Any, batch: Any) -> dict[str, Tensor]:
        aux = F.cross_entropy(outputs["aux"], batch["region"])
        return {"cls": cls_loss(outputs, batch), "reg": reg_loss(outputs, batch), "aux": aux}

    torch.manual_seed(0)
    total = lambda losses: sum(weights[name] * loss for name, loss in losses.items())  # noqa: E731
    return two(criterion, model=Heads(cls=2, reg=1, aux=2), total=total)


@healthy
def zero_weight_keeps_ddp_happy() -> Any:
    def criterion(outputs: Any, batch: Any) -> dict[str, Tensor]:
        return {"cls": cls_loss(outputs, batch), "reg": reg_loss(outputs, batch), "aux": 0.0 * outputs["aux"].sum()}

    torch.manual_seed(0)
    return two(criterion, model=Heads(cls=2, reg=1, aux=2))


@healthy
def frozen_trunk() -> Any:
    torch.manual_seed(0)
    model = Heads(cls=2, reg=1)
    model.spare = nn.Linear(3, 3)
    for parameter in model.trunk.parameters():
        parameter.requires_grad_(False)
    return two(lambda o, b: [cls_loss(o, b), reg_loss(o, b)], model=model, frozen=["spare.*"])


@healthy
def one_loss_empty_in_one_batch() -> Any:
    def criterion(outputs: Any, batch: Any) -> dict[str, Any]:
        reg: Any = 0.0
        if batch["positive"].any():
            reg = (outputs["reg"][:, 0] - batch["sin"]).abs()[batch["positive"]].mean()
        return {"cls": cls_loss(outputs, batch), "reg": reg}

    found = [each | {"positive": each["mask"] & (index != 1)} for index, each in enumerate(batches())]
    return two(criterion, batches=found)


@healthy
def auxiliary_heads() -> Any:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
            self.aux, self.main = nn.Conv2d(8, 2, 1), nn.Conv2d(8, 2, 1)

        def forward(self, image: Tensor) -> tuple[Tensor, list[Tensor]]:
            low = self.one(image).relu()
            return self.main(self.two(low).relu()), [self.aux(low)]

    def criterion(outputs: Any, batch: Any) -> tuple[Tensor, Tensor]:
        main, (aux,) = outputs
        return F.cross_entropy(main, batch["label"]), 0.4 * F.cross_entropy(aux, batch["label"])

    torch.manual_seed(0)
    return {"model": Net(), "batches": batches(), "criterion": criterion, "forward": lambda m, b: m(b["input"])}


@healthy
def dropout_and_generator_of_batches() -> Any:
    torch.manual_seed(0)
    return two(
        lambda o, b: [cls_loss(o, b), reg_loss(o, b)],
        model=Heads(dropout=0.5, cls=2, reg=1), batches=(each for each in batches(5)),
    )  # fmt: skip


@healthy
def mixed_dtypes() -> Any:
    def criterion(outputs: Any, batch: Any) -> dict[str, Tensor]:
        half = outputs["reg"].bfloat16()
        return {
            "cls": cls_loss(outputs, batch).double(),
            "reg": (half - batch["value"].bfloat16()).abs().float().mean(),
        }

    return two(criterion)


@healthy
def uncertainty_weighting() -> Any:
    class Uncertainty(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.log_vars = nn.Parameter(torch.tensor([0.1, -0.2]))

        def forward(self, outputs: Any, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
            parts = {"cls": cls_loss(outputs, batch), "reg": reg_loss(outputs, batch)}
            total = torch.zeros(())
            for log_var, loss in zip(self.log_vars, parts.values(), strict=True):
                total = total + torch.exp(-log_var) * loss + log_var
            return total, parts

    return two(Uncertainty())


@healthy
def constant_in_one_batch() -> Any:
    def criterion(outputs: Any, batch: Any) -> dict[str, Tensor]:
        hinge = F.relu(outputs["reg"] - batch["margin"]).mean()
        return {"cls": cls_loss(outputs, batch), "hinge": hinge}

    found = [each | {"margin": torch.tensor(1e3 if index == 0 else -1.0)} for index, each in enumerate(batches())]
    return two(criterion, batches=found)


@healthy
def scaled_total() -> Any:
    return two(
        lambda o, b: {"cls": cls_loss(o, b), "reg": reg_loss(o, b)},
        total=lambda losses: 65536.0 * (losses["cls"] + losses["reg"]) / 4,
    )


@healthy
def hard_negatives() -> Any:
    def criterion(outputs: Any, batch: Any) -> dict[str, Tensor]:
        each = F.cross_entropy(outputs["cls"], batch["label"], reduction="none").flatten()
        return {"cls": each.topk(64).values.mean(), "reg": reg_loss(outputs, batch)}

    return two(criterion)


@healthy
def masks_that_hold() -> Any:
    def criterion(outputs: Any, batch: Any) -> dict[str, Tensor]:
        mask = batch["mask"].unsqueeze(1)
        gap = torch.where(mask, outputs["reg"] - batch["value"], torch.zeros(()))
        return {"cls": cls_loss(outputs, batch), "reg": gap.abs().sum() / mask.sum()}

    return two(criterion, masks={"reg": "mask_int64"})


@healthy
def weights_applied_once() -> Any:
    criterion = Weighted(True)
    return two(criterion, total=lambda losses: losses["cls_loss"] + losses["reg_loss"])


@healthy
def weights_applied_in_a_scalar() -> Any:
    criterion = Weighted(True)
    return two(lambda o, b: torch.stack(list(criterion(o, b).values())).sum())


@healthy
def weight_table_in_the_total() -> Any:
    weight_dict = {"loss_cls": 2.0, "loss_reg": 0.3}

    def total(losses: dict[str, Tensor]) -> Tensor:
        found = [losses[name] * weight for name, weight in weight_dict.items()]
        return torch.stack(found).sum()

    return two(lambda o, b: {"loss_cls": cls_loss(o, b), "loss_reg": reg_loss(o, b)}, total=total)


@dataclass
class Detections:
    logits: Tensor
    extra: dict[str, list[Tensor]]
    anchors: Tensor


@healthy
def nested_outputs_in_a_dataclass() -> Any:
    class Net(Heads):
        def forward(self, image: Tensor) -> Any:
            found = super().forward(image)
            return Detections(found["cls"], {"levels": [found["reg"], found["box"]]}, torch.arange(8.0))

    def criterion(outputs: Detections, batch: Any) -> dict[str, Any]:
        box = F.l1_loss(outputs.extra["levels"][1], batch["box"])
        return {
            "rpn": {"cls": F.cross_entropy(outputs.logits, batch["label"])},
            "roi": {"reg": F.l1_loss(outputs.extra["levels"][0], batch["value"]), "box": box},
        }

    def total(losses: Any) -> Tensor:
        found: Tensor = losses["rpn"]["cls"] + losses["roi"]["reg"] + losses["roi"]["box"]
        return found

    torch.manual_seed(0)
    return {"model": Net(cls=2, reg=1, box=4), "batches": batches(), "criterion": criterion, "total": total}


class Losses(NamedTuple):
    cls: Tensor
    reg: Tensor


@healthy
def named_tuple_and_regularizer_in_the_total() -> Any:
    torch.manual_seed(0)
    model = Heads(cls=2, reg=1)

    def total(losses: Losses) -> Tensor:
        decay = sum((p.square().sum() for p in model.parameters()), torch.zeros(()))
        return losses.cls + losses.reg + 1e-4 * decay

    return two(lambda o, b: Losses(cls_loss(o, b), reg_loss(o, b)), model=model, total=total)


@healthy
def a_channel_per_class() -> Any:
    """Some classes never come in these few batches: their channels get no gradient, and that is no fault."""

    def criterion(outputs: Any, batch: Any) -> dict[str, Tensor]:
        picked = outputs["box"].gather(1, batch["label"].unsqueeze(1) + batch["shift"].view(-1, 1, 1, 1))
        return {"cls": cls_loss(outputs, batch), "box": (picked - batch["value"]).abs().mean()}

    found = [each | {"shift": torch.arange(4) % 2 * 2} for each in batches()]
    torch.manual_seed(0)
    return two(criterion, model=Heads(cls=2, box=9), batches=found)


@healthy
def probabilities_beside_logits() -> Any:
    class Net(Heads):
        def forward(self, image: Tensor) -> dict[str, Tensor]:
            found = super().forward(image)
            return found | {"scores": found["cls"].softmax(1), "features": found["reg"] * 2}

    def criterion(outputs: Any, batch: Any) -> dict[str, Any]:
        cls, reg = cls_loss(outputs, batch), F.l1_loss(outputs["features"], batch["value"])
        loss = cls + reg
        logs = {"total_loss": loss.item(), "logits": outputs["cls"], "temperature": outputs["cls"].std()}
        return {"loss": loss, "loss_cls": cls, "loss_reg": reg} | logs

    torch.manual_seed(0)
    return two(criterion, model=Net(cls=2, reg=1))


@healthy
def adds_in_place_into_the_first_loss() -> Any:
    def total(losses: list[Tensor]) -> Tensor:
        found = losses[0]
        found += losses[1]
        return found

    return two(lambda o, b: [cls_loss(o, b), reg_loss(o, b)], total=total)


@healthy
def weights_kept_twice() -> Any:
    class Kept(nn.Module):
        def __init__(self, weights: dict[str, float]) -> None:
            super().__init__()
            self.weights = weights
            self.table = nn.Buffer(torch.tensor(list(weights.values())))

        def forward(self, outputs: Any, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
            parts = {"cls": cls_loss(outputs, batch), "reg": reg_loss(outputs, batch)}
            return (torch.stack(list(parts.values())) * self.table).sum(), parts

    return two(Kept({"cls": 0.7, "reg": 0.2}))


@healthy
def distilled_from_a_teacher() -> Any:
    torch.manual_seed(7)
    teacher = Heads(cls=2, spare=1)

    def criterion(outputs: Any, batch: Any) -> dict[str, Tensor]:
        like = F.mse_loss(outputs["cls"], teacher(batch["input"])["cls"].detach())
        return {"cls": cls_loss(outputs, batch), "reg": reg_loss(outputs, batch), "like": like}

    return two(criterion)


@healthy
def shared_last_layer_with_eval_mode() -> Any:
    subject = snake(lambda m, b: dict(zip(REGIONS, snake_terms(m, b), strict=True)), reads=REGIONS)
    subject["model"].eval()
    return subject
