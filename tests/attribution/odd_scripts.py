"""Training scripts in manners of their own: what one step does, its weights by name, and what is to be said of it."""

from __future__ import annotations

from dataclasses import dataclass

HEAD = """\
import copy, types
from dataclasses import dataclass
import torch, torch.nn.functional as F
from torch import nn
torch.manual_seed(0)
body, cls, box = nn.Linear(6, 8), nn.Linear(8, 3), nn.Linear(8, 4)
params = [*body.parameters(), *cls.parameters(), *box.parameters()]
opt = torch.optim.SGD(params, 0.01)
{before}
for step in range(3):
    x, y, t = torch.randn(8, 6), torch.randint(3, (8,)), torch.randn(8, 4)
    h = body(x).relu()
{step}
torch.save([each.state_dict() for each in (body, cls, box)], "weights.pt")
"""
STEP = "opt.zero_grad(); {}.backward(); opt.step()"


@dataclass(frozen=True)
class Odd:
    """A script: lines before the loop, lines of a step, the weights, words that are said, the factor divided out."""

    step: str
    weights: dict[str, float]
    told: tuple[str, ...] = ()
    before: str = ""
    factor: float = 1.0

    def text(self) -> str:
        lines = self.step.strip("\n").splitlines()
        return HEAD.format(before=self.before, step="\n".join(f"    {line}" for line in lines))


TWO = "loss_cls = F.cross_entropy(cls(h), y)\nloss_box = F.smooth_l1_loss(box(h), t)\n"
BOTH = {"loss_cls": 1.0, "loss_box": 1.0}
SCRIPTS = {
    "an_alias_in_place": Odd(TWO + "total = loss_cls\ntotal += loss_box\n" + STEP.format("total"), BOTH),
    "a_loss_in_place": Odd(TWO + "loss_cls += loss_box\n" + STEP.format("loss_cls"), BOTH),
    "a_loss_written_over": Odd(TWO + "loss_cls = loss_cls + loss_box\n" + STEP.format("loss_cls"), BOTH),
    "in_place_and_scaled": Odd(
        TWO + "total = loss_cls\ntotal += loss_box\ntotal *= 2\n" + STEP.format("total"), dict.fromkeys(BOTH, 2.0)
    ),
    "in_place_and_divided_at_last": Odd(
        TWO + "total = loss_cls\ntotal += loss_box\n" + STEP.format("(total / 4)"), BOTH, factor=0.25
    ),
    "a_loss_of_the_hidden_layer": Odd(
        TWO + "sparse = h.abs().mean()\nloss = loss_cls + loss_box + 0.1 * sparse\n" + STEP.format("loss"),
        {**BOTH, "sparse": 0.1},
    ),
    "a_sum_in_a_loop": Odd(
        """
loss_seq = 0.0
for i in range(3):
    loss_seq = loss_seq + F.smooth_l1_loss(box(h * (i + 1)), t)
loss_cls = F.cross_entropy(cls(h), y)
loss = loss_cls + 0.5 * loss_seq
""" + STEP.format("loss"),
        {"loss_cls": 1.0, "loss_seq": 0.5},
    ),
    "accumulated_in_place": Odd(
        """
loss_seq = torch.zeros(())
for i in range(3):
    loss_seq += F.smooth_l1_loss(box(h * (i + 1)), t)
loss_cls = F.cross_entropy(cls(h), y)
loss = loss_cls + 0.5 * loss_seq
""" + STEP.format("loss"),
        {"loss_cls": 1.0, "loss_seq": 0.5},
    ),
    "mean_teacher": Odd(
        """
with torch.no_grad():
    soft = teacher(x).relu()
sup_loss = F.cross_entropy(cls(h), y)
cons_loss = F.mse_loss(h, soft)
loss = sup_loss + 10 * cons_loss
opt.zero_grad(); loss.backward(); nn.utils.clip_grad_norm_(params, 1.0); opt.step()
with torch.no_grad():
    for a, b in zip(teacher.parameters(), body.parameters()):
        a.mul_(0.99).add_(b, alpha=0.01)
""",
        {"sup_loss": 1.0, "cons_loss": 10.0},
        ("in an optimizer, without a gradient in the first steps: box.weight",),
        before="teacher = copy.deepcopy(body)\nteacher.requires_grad_(False)",
    ),
    "hinge_gan": Odd(
        """
real, fake = t, box(h)
d_real = F.relu(1 - dis(real)).mean()
d_fake = F.relu(1 + dis(fake.detach())).mean()
d_loss = 0.5 * (d_real + d_fake)
d_opt.zero_grad(); d_loss.backward(); d_opt.step()
adv = -dis(fake).mean()
rec = F.l1_loss(fake, real)
ce = F.cross_entropy(cls(h), y)
g_loss = adv + 100 * rec + ce
opt.zero_grad(); g_loss.backward(); opt.step()
""",
        {"d_real": 0.5, "d_fake": 0.5, "adv": 1.0, "rec": 100.0, "ce": 1.0},
        before="dis = nn.Linear(4, 1)\nd_opt = torch.optim.SGD(dis.parameters(), 0.1)",
    ),
    "actor_critic_with_entropy": Odd(
        """
dist = torch.distributions.Categorical(logits=cls(h))
action = dist.sample()
values = box(h)[:, :1].squeeze(1)
returns = t[:, 0]
advantage = returns - values
policy_loss = -(dist.log_prob(action) * advantage.detach()).mean()
value_loss = advantage.pow(2).mean()
entropy = dist.entropy().mean()
loss = policy_loss + 0.5 * value_loss - 0.01 * entropy
""" + STEP.format("loss"),
        {"policy_loss": 1.0, "value_loss": 0.5, "entropy": -0.01},
    ),
    "router_loss_in_an_attribute": Odd(
        """
logits, mixed = moe(h)
lm_loss = F.cross_entropy(cls(mixed), y)
det_loss = F.mse_loss(box(mixed), t)
loss = lm_loss + det_loss + 0.01 * moe.aux_loss
opt.zero_grad(); m_opt.zero_grad(); loss.backward(); opt.step(); m_opt.step()
""",
        {"lm_loss": 1.0, "det_loss": 1.0, "aux_loss": 0.01},
        before="""
class Moe(nn.Module):
    def __init__(self):
        super().__init__()
        self.router = nn.Linear(8, 3)
        self.experts = nn.ModuleList([nn.Linear(8, 8) for _ in range(3)])
    def forward(self, x):
        logits = self.router(x)
        chance = logits.softmax(-1)
        load = F.one_hot(chance.argmax(-1), 3).float().mean(0)
        self.aux_loss = 3 * (load * chance.mean(0)).sum()
        return logits, sum(chance[:, i:i + 1] * e(x) for i, e in enumerate(self.experts))
moe = Moe()
m_opt = torch.optim.SGD(moe.parameters(), 0.01)
""",
    ),
    "learned_uncertainty": Odd(
        """
losses = [F.cross_entropy(cls(h), y), F.mse_loss(box(h), t)]
loss = 0.0
for i, l in enumerate(losses):
    loss = loss + torch.exp(-s[i]) * l + s[i]
opt.zero_grad(); s_opt.zero_grad(); loss.backward(); opt.step(); s_opt.step()
""",
        {"losses[0]": 1.0, "losses[1]": 1.0, "parameter(s)": 1.0},
        before="s = nn.Parameter(torch.zeros(2)); s_opt = torch.optim.SGD([s], 0.01)",
    ),
    "zip_of_weights": Odd(
        """
losses = {"cls": F.cross_entropy(cls(h), y), "box": F.mse_loss(box(h), t), "l2": h.square().mean()}
loss = torch.stack([w * l for w, l in zip((1.0, 2.0, 0.3), losses.values())]).sum()
""" + STEP.format("loss"),
        {"cls": 1.0, "box": 2.0, "l2": 0.3},
    ),
    "info_nce_both_ways": Odd(
        """
a, b = F.normalize(cls(h), dim=-1), F.normalize(box(h)[:, :3], dim=-1)
sim = a @ b.t() / 0.1
labels = torch.arange(8)
loss_i2t = F.cross_entropy(sim, labels)
loss_t2i = F.cross_entropy(sim.t(), labels)
loss = (loss_i2t + loss_t2i) / 2
""" + STEP.format("loss"),
        {"loss_i2t": 0.5, "loss_t2i": 0.5},
    ),
    "weights_of_samples": Odd(
        """
w = torch.rand(8)
ce = (F.cross_entropy(cls(h), y, reduction="none") * w).sum() / w.sum()
reg = (F.smooth_l1_loss(box(h), t, reduction="none").mean(1) * w).mean()
loss = ce + 2.0 * reg
""" + STEP.format("loss"),
        {"ce": 1.0, "reg": 2.0},
    ),
    "a_term_that_begins_later": Odd(
        """
loss = F.cross_entropy(cls(h), y)
if step >= 1000:
    loss = loss + adv_loss
box_loss = F.mse_loss(box(h), t)
loss = loss + box_loss
""" + STEP.format("loss"),
        {"cross_entropy(cls)": 1.0, "box_loss": 1.0},
    ),
    "tasks_in_a_loop": Odd(
        """
losses = {}
for task, head in heads.items():
    losses[task] = F.mse_loss(head(h), targets[task])
total = sum(lambdas[task] * losses[task] for task in losses)
opt.zero_grad(); h_opt.zero_grad(); total.backward(); opt.step(); h_opt.step()
""",
        {"depth": 1.0, "normal": 0.5, "edge": 4.0},
        ("in an optimizer, without a gradient in the first steps: cls.weight, cls.bias",),
        before="""
heads = nn.ModuleDict({k: nn.Linear(8, 2) for k in ("depth", "normal", "edge")})
targets = {k: torch.randn(8, 2) for k in heads}
lambdas = {"depth": 1.0, "normal": 0.5, "edge": 4.0}
h_opt = torch.optim.SGD(heads.parameters(), 0.01)
""",
    ),
    "beta_vae": Odd(
        """
mu, logvar = box(h)[:, :2], box(h)[:, 2:]
z = mu + torch.randn_like(mu) * (0.5 * logvar).exp()
recon = F.mse_loss(decoder(z), x, reduction="sum") / x.size(0)
kld = -0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp()) / x.size(0)
loss = recon + 4.0 * kld + F.cross_entropy(cls(h), y)
opt.zero_grad(); d_opt.zero_grad(); loss.backward(); opt.step(); d_opt.step()
""",
        {"recon": 1.0, "kld": 4.0, "cross_entropy(cls)": 1.0},
        before="decoder = nn.Linear(2, 6); d_opt = torch.optim.SGD(decoder.parameters(), 0.001)",
    ),
    "features_by_a_hook": Odd(
        """
logits = cls(body(x).relu())
loss_ce = F.cross_entropy(logits, y)
loss_kd = F.mse_loss(kept["body"], goal)
loss_box = F.mse_loss(box(h), t)
loss = loss_ce + 3 * loss_kd + loss_box
""" + STEP.format("loss"),
        {"loss_ce": 1.0, "loss_kd": 3.0, "loss_box": 1.0},
        before="kept, goal = {}, torch.randn(8, 8)\nbody.register_forward_hook(lambda m, i, o: kept.update(body=o))",
    ),
    "two_passes_a_step": Odd(
        TWO + "opt.zero_grad()\nloss_cls.backward(retain_graph=True)\n(0.5 * loss_box).backward()\nopt.step()",
        {"loss_cls": 1.0, "loss_box": 0.5},
    ),
    "several_roots": Odd(TWO + "opt.zero_grad(); torch.autograd.backward([loss_cls, loss_box]); opt.step()", BOTH),
    "a_record_with_a_total": Odd(
        """
found = Found(F.cross_entropy(cls(h), y), F.mse_loss(box(h), t))
opt.zero_grad(); found.total.backward(); opt.step()
""",
        {"obj": 1.0, "iou": 5.0},
        before="""
@dataclass
class Found:
    obj: torch.Tensor
    iou: torch.Tensor
    @property
    def total(self):
        return self.obj + 5.0 * self.iou
""",
    ),
    "a_penalty_of_parameters": Odd(
        TWO + "l1 = sum(p.abs().sum() for p in body.parameters())\nloss = loss_cls + loss_box + 1e-4 * l1\n"
        + STEP.format("loss"),
        {**BOTH, "l1": 1e-4},
    ),
    "ctc_beside_detection": Odd(
        """
seq = cls(h).log_softmax(-1)[:, None].expand(8, 2, 3)
rec_loss = F.ctc_loss(seq, torch.randint(1, 3, (2, 3)), torch.tensor([8, 8]), torch.tensor([3, 2]))
prob, thresh = box(h)[:, 0].sigmoid(), box(h)[:, 1].sigmoid()
gt = (t[:, 0] > 0).float()
bce = F.binary_cross_entropy(prob, gt)
dice = 1 - 2 * (prob * gt).sum() / (prob.sum() + gt.sum() + 1e-6)
l1_thresh = (thresh - gt).abs().mean()
det_loss = bce + dice + 10 * l1_thresh
loss = det_loss + 0.5 * rec_loss
""" + STEP.format("loss"),
        {"bce": 1.0, "dice": 1.0, "l1_thresh": 10.0, "rec_loss": 0.5},
    ),
    "the_branch_that_was_not_taken": Odd(
        TWO + "late = torch.where(torch.tensor(step > 100), 3 * loss_box, loss_box)\nloss = loss_cls + late\n"
        + STEP.format("loss"),
        {"loss_cls": 1.0, "late": 1.0},
    ),
    "in_place_inside_of_a_model": Odd(
        """
loss = speech(x, y, t)
s_opt.zero_grad(); loss.backward(); s_opt.step()
""",
        {"ctc": 0.3, "att": 0.7},
        before="""
class Speech(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.cls, self.box = nn.Linear(6, 8), nn.Linear(8, 3), nn.Linear(8, 4)
    def forward(self, x, y, t):
        h = self.body(x).relu()
        ctc = F.cross_entropy(self.cls(h), y)
        att = F.smooth_l1_loss(self.box(h), t)
        loss = 0.3 * ctc
        loss += 0.7 * att
        return loss
speech = Speech()
s_opt = torch.optim.AdamW(speech.parameters())
""",
    ),
    "other_losses_in_later_steps": Odd(
        """
loss_cls = F.cross_entropy(cls(h), y)
if step == 0:
    loss_aux = F.mse_loss(box(h), t)
    loss = loss_cls + loss_aux
else:
    loss_box = F.mse_loss(box(h), t)
    loss = loss_cls + 2 * loss_box
""" + STEP.format("loss"),
        {"loss_cls": 1.0, "loss_aux": 1.0, "loss_box": 2.0},
    ),
    "a_loss_scale_over_accumulation": Odd(
        """
loss_cls, loss_box = F.cross_entropy(cls(h), y), F.smooth_l1_loss(box(h), t)
loss = (loss_cls + 2 * loss_box) / 2
scaler.scale(loss).backward()
if step % 2:
    scaler.unscale_(opt); nn.utils.clip_grad_norm_(params, 1.0); scaler.step(opt); scaler.update(); opt.zero_grad()
""",
        {"loss_cls": 0.5, "loss_box": 1.0}, factor=128.0,
        before='scaler = torch.amp.GradScaler("cpu", init_scale=128.0)',
    ),
    "a_product_of_vectors": Odd(
        TWO + 'loss = torch.einsum("i,i->", w, torch.stack([loss_cls, loss_box]))\n' + STEP.format("loss"),
        {"loss_cls": 1.0, "loss_box": 2.0}, before="w = torch.tensor([1.0, 2.0])",
    ),
    "a_linear_map_of_losses": Odd(
        TWO + "loss = F.linear(torch.stack([loss_cls, loss_box])[None], w[None]).squeeze()\n" + STEP.format("loss"),
        {"loss_cls": 1.0, "loss_box": 2.0}, before="w = torch.tensor([1.0, 2.0])",
    ),
    "a_product_that_is_added": Odd(
        TWO + "loss = torch.addcmul(loss_cls, loss_box, torch.tensor(2.0))\n" + STEP.format("loss"),
        {"loss_cls": 1.0, "loss_box": 2.0},
    ),
    "the_larger_of_two": Odd(
        TWO + "loss = torch.max(loss_cls, 0.1 * loss_box)\n" + STEP.format("loss"), {"loss": 1.0},
        ("in a number that is no sum of them, so that no weight is known: loss_cls, loss_box",),
    ),
    "lists_that_are_parsed": Odd(
        """
losses = {"loss_cls": [F.cross_entropy(cls(h), y), F.cross_entropy(cls(2 * h), y)], "acc": torch.tensor(0.3)}
losses["loss_box"] = F.l1_loss(box(h), t, reduction="none")
loss = parse_losses(losses)
""" + STEP.format("loss"),
        {"loss_cls": 1.0, "loss_box": 1.0},
        before="""
def parse_losses(losses):
    logs = {}
    for key, value in losses.items():
        logs[key] = sum(each.mean() for each in value) if isinstance(value, list) else value.mean()
    return sum(value for key, value in logs.items() if "loss" in key)
""",
    ),
    "fields_by_name": Odd(
        "found = Named(F.cross_entropy(cls(h), y), F.mse_loss(box(h), t))\nloss = found.loss_cls + 2 * found.loss_box\n"
        + STEP.format("loss"),
        {"loss_cls": 1.0, "loss_box": 2.0},
        before='from collections import namedtuple\nNamed = namedtuple("Named", "loss_cls loss_box")',
    ),
    "slots": Odd(
        "found = Slots(F.cross_entropy(cls(h), y), F.mse_loss(box(h), t))\nloss = found.loss_a + 2 * found.loss_b\n"
        + STEP.format("loss"),
        {"loss_a": 1.0, "loss_b": 2.0},
        before="""
class Slots:
    __slots__ = ("loss_a", "loss_b")
    def __init__(self, a, b):
        self.loss_a, self.loss_b = a, b
""",
    ),
    "one_loss_after_another": Odd(
        TWO + """
grads = []
for each in (loss_cls, loss_box):
    opt.zero_grad()
    each.backward(retain_graph=True)
    grads.append([p.grad.clone() if p.grad is not None else torch.zeros_like(p) for p in params])
for p, one, other in zip(params, *grads):
    p.grad = one + other
opt.step()
""",
        BOTH,
    ),
    "rolled_and_put_on_a_diagonal": Odd(
        TWO + "loss = torch.diag(torch.stack([loss_cls, loss_box]).roll(1)).sum()\n" + STEP.format("loss"), BOTH
    ),
    # Faults.
    "a_named_field_is_forgotten": Odd(
        "found = Named(F.cross_entropy(cls(h), y), F.mse_loss(box(h), t))\nloss = found.loss_cls\n"
        + STEP.format("loss"),
        {"loss_cls": 1.0}, ("computed, and in no number that backward was called on: loss_box", "box.weight"),
        before='from collections import namedtuple\nNamed = namedtuple("Named", "loss_cls loss_box")',
    ),
    "a_dict_summed_with_its_sum": Odd(
        TWO + 'losses = {"a": loss_cls, "b": loss_box}\nlosses["loss"] = sum(losses.values())\n'
        "total = sum(losses.values())\n" + STEP.format("total"),
        {"a": 2.0, "b": 2.0}, ("a: the number adds it 2 times", "b: the number adds it 2 times"),
    ),
    "weights_of_other_keys": Odd(
        """
weights = {"loss_ce": 1.0, "loss_bbox": 5.0, "loss_gious": 2.0}
losses = {"loss_ce": F.cross_entropy(cls(h), y), "loss_bbox": F.l1_loss(box(h), t)}
losses["loss_giou"] = (box(h) - t).square().mean()
loss = sum(losses[k] * weights[k] for k in losses if k in weights)
""" + STEP.format("loss"),
        {"loss_ce": 1.0, "loss_bbox": 5.0}, ("computed, and in no number that backward was called on: loss_giou",),
    ),
    "never_added": Odd(
        TWO + "loss_aux = h.square().mean()\nloss = loss_cls + loss_box\n" + STEP.format("loss"),
        BOTH, ("computed, and in no number that backward was called on: loss_aux",),
    ),
    "twice": Odd(
        TWO + "loss = loss_cls + loss_box\nloss = loss + loss_cls\n" + STEP.format("loss"),
        {"loss_cls": 2.0, "loss_box": 1.0}, ("loss_cls: the number adds it 2 times",),
    ),
    "twice_in_place": Odd(
        TWO + "loss = torch.zeros(())\nloss += loss_cls\nloss += loss_box\nloss += loss_box\n" + STEP.format("loss"),
        {"loss_cls": 1.0, "loss_box": 2.0}, ("loss_box: the number adds it 2 times",),
    ),
    "twice_through_a_subtotal": Odd(
        TWO + "loss_det = loss_cls + loss_box\nloss = loss_det + 0.5 * loss_box\n" + STEP.format("loss"),
        {"loss_cls": 1.0, "loss_box": 1.5}, ("loss_box: the number adds it 2 times",),
    ),
    "twice_through_a_mean": Odd(
        TWO + "loss = loss_cls + loss_box + torch.stack([loss_cls, loss_box]).mean()\n" + STEP.format("loss"),
        {"loss_cls": 1.5, "loss_box": 1.5},
        ("loss_cls: the number adds it 2 times", "loss_box: the number adds it 2 times"),
    ),
    "rounded_off": Odd(
        TWO + "loss = loss_cls.bfloat16().float() + loss_box\n" + STEP.format("loss"), {**BOTH, "unbooked": 1.0},
        ("has no gradient: a constant, or a detached loss, or what a narrower type rounded off",),
    ),
    "left_the_graph": Odd(
        TWO + "loss = loss_cls + loss_box.item()\n" + STEP.format("loss"), {"loss_cls": 1.0, "unbooked": 1.0},
        (
            "20% to 25% of the number in <module>, left_the_graph.py:16 has no gradient",
            "computed, and in no number that backward was called on: loss_box",
            "in an optimizer, without a gradient in the first steps: box.weight, box.bias",
        ),
    ),
    "weighed_by_zero": Odd(
        TWO + "loss = loss_cls + (1 // 2) * loss_box\n" + STEP.format("loss"), {"loss_cls": 1.0, "loss_box": 0.0},
        ("loss_box: its factor in the total is 0",),
    ),
    "selects_nothing": Odd(
        TWO + "mask = y > 5\nloss_push = (box(h)[mask]).square().sum() / (mask.sum() + 1)\n"
        "loss = loss_cls + loss_box + loss_push\n" + STEP.format("loss"),
        {**BOTH, "loss_push": 1.0}, ("loss_push: its gradient is 0 at every output that it reads",),
    ),
    "exchanged": Odd(
        "loss_box = F.cross_entropy(cls(h), y)\nloss_cls = F.smooth_l1_loss(box(h), t)\n"
        "loss = loss_cls + loss_box\n" + STEP.format("loss"),
        BOTH, ("loss_box trains cls, and not box", "loss_cls trains box, and not cls"),
    ),
    "written_over": Odd(
        "loss = F.cross_entropy(cls(h), y)\nloss = F.smooth_l1_loss(box(h), t)\n" + STEP.format("loss"),
        {"loss": 1.0}, ("cls.weight",),
    ),
    "not_in_the_optimizer": Odd(
        TWO + "loss_seg = F.mse_loss(seg(h), t[:, :2])\nloss = loss_cls + loss_box + loss_seg\n" + STEP.format("loss"),
        {**BOTH, "loss_seg": 1.0}, (),
        before="seg = nn.Linear(8, 2)",
    ),
    "no_grad_left_on": Odd(
        "loss_cls = F.cross_entropy(cls(h), y)\ntorch.set_grad_enabled(False)\nloss_box = F.smooth_l1_loss(box(h), t)\n"
        "torch.set_grad_enabled(True)\nloss = loss_cls + loss_box\n" + STEP.format("loss"),
        {"loss_cls": 1.0, "unbooked": 1.0}, ("has no gradient", "box.weight"),
    ),
    "a_head_that_is_not_finite": Odd(
        TWO + "loss_log = (box(h)[:, 0] * 0).log().mean()\nloss = loss_cls + loss_log\n"
        "opt.zero_grad(); loss.backward()",
        {"loss_cls": 1.0, "loss_log": 1.0}, ("loss_log: the value or the gradient is not finite", "loss_box"),
    ),
}  # fmt: skip
