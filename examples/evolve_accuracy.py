"""A classifier trained on the one thing that backpropagation cannot be given: whether its answers are right.

python examples/evolve_accuracy.py
"""

from typing import Any

import torch
from torch import Tensor, nn

import oneblock as ob


def accuracy(network: nn.Module, batch: Any) -> Tensor:
    """1 for a right answer and 0 for a wrong one; it has no slope anywhere."""
    images, labels = batch
    return (network(images).argmax(-1) == labels).float()


def main(steps: int = 300, population: int = 512) -> float:
    from sklearn.datasets import load_digits

    torch.manual_seed(0)
    digits = load_digits()
    images, labels = torch.tensor(digits.data, dtype=torch.float32) / 8 - 1, torch.tensor(digits.target)
    order = torch.randperm(len(images))
    held_out, training = order[:360], order[360:]
    network = nn.Sequential(nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 10))
    es = ob.Evolution(network, population=population, sigma=0.05, rank=1)
    right = 0.0
    for step in range(1, steps + 1):
        batch = training[torch.randint(len(training), (64,))]
        done = es.step((images[batch], labels[batch]), accuracy)
        if step % 50 == 0 or step == steps:
            with torch.no_grad():
                right = accuracy(network, (images[held_out], labels[held_out])).mean().item()
            print(
                f"step {step}: accuracy of the members {done.mean:.3f}, of the network on held-out digits {right:.3f}"
            )
    return right


if __name__ == "__main__":
    main()
