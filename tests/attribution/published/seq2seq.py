"""In the manner of published code, unchanged for `headwise run`."""

import torch
from torch import nn

torch.manual_seed(0)
encoder, embedding = nn.GRU(4, 8, batch_first=True), nn.Embedding(7, 8)
decoder, out = nn.GRUCell(8, 8), nn.Linear(8, 7)
parameters = [p for part in (encoder, embedding, decoder, out) for p in part.parameters()]
optimizer = torch.optim.SGD(parameters, lr=0.1)
criterion = nn.NLLLoss()


def train_step(source, target, teacher_forcing):
    optimizer.zero_grad()
    loss = 0
    _, hidden = encoder(source)
    hidden, token = hidden[0], torch.zeros(len(source), dtype=torch.long)
    for di in range(target.shape[1]):
        hidden = decoder(embedding(token), hidden)
        output = out(hidden).log_softmax(-1)
        loss += criterion(output, target[:, di])
        token = target[:, di] if teacher_forcing else output.argmax(-1).detach()
    loss.backward()
    optimizer.step()
    return loss.item() / target.shape[1]


for step in range(3):
    train_step(torch.randn(3, 5, 4), torch.randint(7, (3, 4)), step % 2 == 0)
torch.save([part.state_dict() for part in (encoder, embedding, decoder, out)], "weights.pt")
