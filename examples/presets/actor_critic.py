"""Actor and critic on a corridor of nine cells: a step to the right is a step to the goal.

Run it with ``python examples/presets/actor_critic.py``; a junction shows how actor and critic agree in the trunk.
"""

import torch
from torch import Tensor, nn

import headwise as hw

CELLS, ACTORS, STEPS, DISCOUNT = 9, 32, 16, 0.95


class ActorCritic(nn.Module):
    """A trunk that a policy and a value share."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.actor, self.critic = nn.Linear(CELLS, 32), nn.Linear(32, 2), nn.Linear(32, 1)
        self.junction = hw.Junction("trunk", ["actor", "critic"])

    def forward(self, cell: Tensor) -> tuple[torch.distributions.Categorical, Tensor]:
        actor, critic = self.junction(self.trunk(nn.functional.one_hot(cell, CELLS).float()).tanh())
        return torch.distributions.Categorical(logits=self.actor(actor)), self.critic(critic).squeeze(-1)


@torch.no_grad()
def play(network: ActorCritic) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Cells, actions, returns and advantages of an episode of every actor, (N, T); the goal gives 1 and leads back."""
    cell, cells, actions, rewards = torch.zeros(ACTORS, dtype=torch.long), [], [], []
    for _ in range(STEPS):
        action = network(cell)[0].sample()
        cells.append(cell)
        actions.append(action)
        cell = (cell + 2 * action - 1).clamp(min=0)
        rewards.append((cell == CELLS - 1).float())
        cell = torch.where(cell == CELLS - 1, 0, cell)
    following, returns = network(cell)[1], []
    for reward in reversed(rewards):
        following = reward + DISCOUNT * following
        returns.append(following)
    seen, found = torch.stack(cells, 1), torch.stack(returns[::-1], 1)
    return seen, torch.stack(actions, 1), found, found - network(seen)[1]


def main(steps: int = 150, out: str | None = None) -> hw.Ledger:
    """Train, print the books of the last step, and write a run folder if one is named."""
    torch.manual_seed(0)
    network, criterion = ActorCritic(), hw.presets.actor_critic()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    ledger = hw.Ledger(criterion, network, optimizer=optimizer)
    run = hw.Run(out, ledger, every=20) if out else None
    for step in range(1, steps + 1):
        cells, actions, returns, advantage = play(network)
        policy, value = network(cells)
        outputs = {"log_probability": policy.log_prob(actions), "value": value, "entropy": policy.entropy()}
        optimizer.zero_grad()
        criterion(outputs, {"advantage": advantage, "return": returns}).total.backward()
        optimizer.step()
        if run is not None:
            run.log(step)
    if run is not None:
        run.close()
    books = ledger.read()
    print(books)
    print(f"in the trunk, actor and critic: cosine {books.features['trunk'].cosine('actor', 'critic'):+.2f}")
    print(f"steps to the right: {actions.float().mean():.0%}")
    return ledger


if __name__ == "__main__":
    main()
