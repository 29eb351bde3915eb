"""In the manner of published code, unchanged for `headwise run`."""

import torch
import torch.nn.functional as F
from torch import nn


def loss_fn_kd(outputs, labels, teacher_outputs, alpha=0.9, T=4.0):
    return nn.KLDivLoss(reduction="batchmean")(
        F.log_softmax(outputs / T, dim=1), F.softmax(teacher_outputs / T, dim=1)
    ) * (alpha * T * T) + F.cross_entropy(outputs, labels) * (1.0 - alpha)


torch.manual_seed(0)
teacher = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 5)).eval()
student = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 5))
optimizer = torch.optim.Adam(student.parameters(), lr=1e-3)
for _ in range(3):
    train_batch, labels_batch = torch.randn(8, 6), torch.randint(5, (8,))
    output_batch = student(train_batch)
    with torch.no_grad():
        output_teacher_batch = teacher(train_batch)
    loss = loss_fn_kd(output_batch, labels_batch, output_teacher_batch)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
torch.save(student.state_dict(), "weights.pt")
