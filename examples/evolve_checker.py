"""A network that learns to close brackets from a checker in plain Python, which knows no gradients and no right answer.

python examples/evolve_checker.py
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

import oneblock as ob

CLOSING = {"(": ")", "[": "]", "{": "}"}
OPENING, SYMBOLS = "([{", "([{)]}"
LENGTH = 5


def checker(text: str) -> float:
    """Share of the first ``LENGTH`` brackets that are closed, each by its own kind and in the right order."""
    waiting: list[str] = []
    closed = 0
    for symbol in text:
        if symbol in CLOSING:
            waiting.append(CLOSING[symbol])
        else:
            closed += bool(waiting) and waiting.pop() == symbol
    return closed / LENGTH


def texts(given: Tensor, answers: Tensor) -> list[str]:
    """Openings (n, LENGTH) and the symbols (n, LENGTH) that a network puts behind them."""
    joined = torch.cat([given, answers], dim=1).tolist()
    return ["".join(SYMBOLS[i] for i in row) for row in joined]


def write(logits: Tensor) -> Tensor:
    """Logits (..., LENGTH * symbols) -> the likeliest symbol at each place (..., LENGTH)."""
    return logits.unflatten(-1, (LENGTH, len(SYMBOLS))).argmax(-1)


def main(steps: int = 150, population: int = 256) -> float:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3 * LENGTH, 64), nn.GELU(), nn.Linear(64, LENGTH * len(SYMBOLS)))
    es = ob.Evolution(network, population=population, sigma=0.2, optimizer=torch.optim.Adam(network.parameters(), 0.02))
    right = 0.0
    for step in range(1, steps + 1):
        given = torch.randint(len(OPENING), (32, LENGTH))
        shown = one_hot(given, len(OPENING)).flatten(1).float()
        es.tell([sum(map(checker, texts(given, own))) / len(own) for own in write(es.ask(shown))])
        if step % 50 == 0 or step == steps:
            every = torch.cartesian_prod(*[torch.arange(len(OPENING))] * LENGTH)
            with torch.no_grad():
                answers = write(network(one_hot(every, len(OPENING)).flatten(1).float()))
            right = sum(checker(text) == 1 for text in texts(every, answers)) / len(every)
            print(f"step {step}: the checker accepts {right:.3f} of all {len(every)} texts")
    return right


if __name__ == "__main__":
    main()
