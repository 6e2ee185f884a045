"""AdamW (Loshchilov and Hutter, Algorithm 2, https://arxiv.org/abs/1711.05101) with its two moments in 32 or 8 bits.

In 8 bits a moment is stored by block-wise quantization (Dettmers et al., "8-bit Optimizers via Block-wise
Quantization", Section 2, https://arxiv.org/abs/2110.02861), here by torchao. 256 consecutive values x_i share a 32-bit
scale, and each value is a code of one byte: the index of the nearest of 256 numbers q, the paper's dynamic map.

    scale = max_i |x_i|,    code_i = argmin_j |q_j - x_i / scale|,    x_i ~ q[code_i] scale

so that a value takes 1 + 4/256 bytes where it took 4. Each step decodes, updates in 32 bits and encodes again.
Parameters of fewer than ``LEAST`` elements, or of a number that 256 does not divide, keep moments of 32 bits.

The step is one parameter's after the other. Run eagerly, it holds temporary tensors of about 13 times the largest
parameter, at a time when activations are gone. Compiled, they are about twice that parameter (on a CPU) and the step is
many times as fast, but ``torch.compile`` needs a compiler and, at a process's first step, about ten seconds for each
shape of a parameter. The two round differently, so that only runs of one kind are equal bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, cast

import torch
from torch import Tensor

AdamWKind = Literal["adamw", "adamw8bit"]
SCALED = 256
"""Values that share a scale; also the length of the map q."""
LEAST = 4096
"""Elements of a parameter from which on torchao keeps its moments in 8 bits."""


def make_adamw(
    parameters: Iterable[Tensor],
    kind: AdamWKind = "adamw",
    *,
    learning_rate: float,
    beta1: float,
    beta2: float,
    weight_decay: float,
    compile: bool = False,
) -> torch.optim.Optimizer:
    """AdamW over ``parameters``, of which only matrices decay.

    Args:
        kind: how moments are stored.
        compile: pass the step of ``"adamw8bit"`` through ``torch.compile``; the other is a fused kernel anyway.

    Raises:
        ValueError: ``kind`` is neither.
        ImportError: torchao, which ``"adamw8bit"`` needs, is not installed.
    """
    if kind not in ("adamw", "adamw8bit"):
        raise ValueError(f"optimizer={kind!r} is unknown; use adamw or adamw8bit")
    parameters = list(parameters)
    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters if p.ndim > 1]},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    betas = (beta1, beta2)
    if kind == "adamw":
        return torch.optim.AdamW(groups, lr=learning_rate, betas=betas, weight_decay=weight_decay, fused=True)
    try:
        from torchao.optim import AdamW8bit
    except ImportError as error:
        raise ImportError(
            "optimizer='adamw8bit' needs torchao; pip install 'oneblock[eightbit]', or use adamw"
        ) from error

    class Eager(AdamW8bit):  # type: ignore[misc]
        def step(self, closure: Any = None) -> Any:
            with torch.compiler.set_stance("force_eager"):  # torchao compiles unless told otherwise
                return super().step(closure)

    _make_maps()
    made = AdamW8bit if compile else Eager
    return made(groups, lr=learning_rate, betas=betas, weight_decay=weight_decay)


def bytes_8bit(elements: int) -> int:
    """Bytes of the state that ``"adamw8bit"`` keeps for a parameter of so many elements: two moments (codes, scales and
    the map q, or 32 bits each) and the number of steps."""
    in_8_bits = elements >= LEAST and elements % SCALED == 0
    moment = elements + 4 * (elements // SCALED + SCALED) if in_8_bits else 4 * elements
    return 2 * moment + 4


def make_state(optimizer: torch.optim.Optimizer) -> None:
    """One update with zero gradients: afterwards the optimizer holds the state it holds between two steps.

    Weights decay in it, as in any update.
    """
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if parameter.requires_grad:
                parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def state_tensors(optimizer: torch.optim.Optimizer, parameter: Tensor) -> dict[str, Tensor]:
    """The optimizer's tensors for ``parameter``, sharing memory with it; empty before its first update.

    ``"step"`` (the number of updates, a scalar) and ``"exp_avg"``, ``"exp_avg_sq"`` (the moments, shaped like the
    parameter). A moment m of 8 bits comes as ``"m.codes"`` (uint8, shaped like the parameter), ``"m.scale"`` (one for
    each 256 elements) and ``"m.qmap"`` (256 numbers in [-1, 1]).
    """
    found: dict[str, Tensor] = {}
    if parameter in optimizer.state:
        for name, tensor in optimizer.state[parameter].items():
            parts = getattr(tensor, "tensor_attrs", None)  # torchao's; shards of other tensors stay one
            found |= {f"{name}.{part}": getattr(tensor, part) for part in parts} if parts else {name: tensor}
    return found


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """The rate of the next updates, for all parameters."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(learning_rate)  # a compiled step has taken in this tensor
        else:
            group["lr"] = learning_rate


def hold_while(optimizer: torch.optim.Optimizer, held: Tensor) -> None:
    """From here on no step of fused AdamW moves weights or moments while ``held`` (a scalar, float32, beside the
    parameters) is 1; and its learning rate is a tensor beside it.

    Neither needs the processor, so that steps can be recorded and replayed (``ops.recorded``).
    """
    for group in optimizer.param_groups:
        group["lr"] = torch.tensor(float(group["lr"]), device=held.device)
        group["capturable"] = held.is_cuda
    cast(Any, optimizer).found_inf = held  # what a GradScaler tells a fused optimizer


def move_state(optimizer: torch.optim.Optimizer, device: torch.device) -> None:
    """Move the moments to ``device``."""
    fused = isinstance(optimizer, torch.optim.AdamW)
    for state in optimizer.state.values():
        # torchao counts steps on the CPU wherever the parameters are, fused AdamW beside them
        state.update({name: t.to(device) for name, t in state.items() if fused or name != "step"})


def _make_maps() -> None:
    """Have torchao make its two maps q, which it keeps: later it might be under ``FakeTensorMode``, where it cannot."""
    from torch._subclasses.fake_tensor import unset_fake_temporarily
    from torchao.optim.subclass_8bit import OptimState8bit

    with unset_fake_temporarily():
        for signed in (True, False):
            OptimState8bit.zeros((256,), signed=signed)
