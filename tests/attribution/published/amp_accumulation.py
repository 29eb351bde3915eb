"""In the manner of published code, unchanged for `headwise run`."""

import torch
from torch import nn

torch.manual_seed(0)
model = nn.ModuleDict({"trunk": nn.Linear(6, 8), "cls": nn.Linear(8, 3), "reg": nn.Linear(8, 2)})
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
scaler = torch.amp.GradScaler("cpu", init_scale=256.0)
accumulation_steps = 4
for i in range(8):
    inputs, labels, boxes = torch.randn(5, 6), torch.randint(3, (5,)), torch.randn(5, 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        h = model["trunk"](inputs).relu()
        logits, pred = model["cls"](h), model["reg"](h)
    cls_loss = nn.functional.cross_entropy(logits.float(), labels)
    reg_loss = nn.functional.smooth_l1_loss(pred.float(), boxes)
    loss = (cls_loss + 2.0 * reg_loss) / accumulation_steps
    scaler.scale(loss).backward()
    if (i + 1) % accumulation_steps == 0:
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)
torch.save(model.state_dict(), "weights.pt")
