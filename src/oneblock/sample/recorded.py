"""Calls of a denoiser that are recorded once and replayed (``ops.recorded``), as a wrapper that is a denoiser itself.

A sampler calls each block several times with tensors of the same shapes. What such a call reads is copied into tensors
that stay where they are, the recording works on these, and its answer is copied out.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable

import torch
from torch import Tensor

from oneblock.blockwise import BlockDenoiser, Denoiser, DenoiserLike
from oneblock.condition import Condition
from oneblock.ops import CannotRecordError, Recorded

SHAPES = 2
"""Recordings that are kept of a block: of whole batches, and of the rest of a division into batches."""


class RecordedDenoiser:
    """A denoiser of the whole noise range whose calls are replayed.

    Recordings are kept with their blocks, ``SHAPES`` of each at most, and are let go with them; a recording holds the
    activations of a call. A call whose samples belong to several blocks, one with gradients, and whatever cannot be
    recorded, goes to the denoiser as it is.

    Args:
        denoiser: routes levels to blocks.
        tell: is told why calls are not recorded, once for each reason.
    """

    def __init__(self, denoiser: Denoiser, tell: Callable[[str], None]) -> None:
        self._denoiser = denoiser
        self._tell = tell
        self._told: set[str] = set()
        self._refusal = ""

    def __call__(self, z: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        if self._refusal or torch.is_grad_enabled():
            return self._plain(self._refusal or "they keep gradients", z, sigma, condition)
        block = self._denoiser.owner(sigma)
        if block is None:
            return self._plain("their samples belong to several blocks", z, sigma, condition)
        try:
            form = self._form(block, z, sigma, condition)
        except CannotRecordError as error:
            self._refusal = str(error)
            return self._plain(self._refusal, z, sigma, condition)
        answer = form(z, sigma, condition)
        self._denoiser.worked(block)
        return answer

    def _plain(self, reason: str, z: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        if reason not in self._told:
            self._told.add(reason)
            self._tell(f"calls of the denoiser are not recorded, which may be slower: {reason}")
        return self._denoiser(z, sigma, condition)

    def _form(self, block: int, z: Tensor, sigma: Tensor, condition: Condition) -> DenoiserLike:
        """The recording for a call like this one, made if there is none; the one unused for longest makes room."""
        forms = self._denoiser.forms(block)
        kind = _kind(z, sigma, condition)
        found = forms.pop(kind, None)
        while found is None and len(forms) >= SHAPES:
            del forms[next(iter(forms))]
        forms[kind] = found or RecordedCall(self._denoiser.block(block), z, sigma, condition)
        return forms[kind]


class RecordedCall:
    """A call of a block, recorded for inputs like those that are given.

    Args:
        block: in evaluation, its weights where they will stay.
        z, sigma, condition: an example.

    Raises:
        CannotRecordError: see ``ops.Recorded``.
    """

    def __init__(self, block: BlockDenoiser, z: Tensor, sigma: Tensor, condition: Condition) -> None:
        every = torch.arange(len(condition), device=z.device)
        told = condition.take(every)  # an index copies
        device, inputs = z.device, (z.clone(), sigma.clone())
        self._inputs = (*inputs, *told.tensors())
        enabled, dtype = torch.is_autocast_enabled(device.type), torch.get_autocast_dtype(device.type)

        def work() -> Tensor:
            # it does not hold this object, so that a block goes as soon as nobody asks for it
            # autocast's cache would keep weights of low precision where a later replay does not find them
            with torch.autocast(device.type, dtype=dtype, enabled=enabled, cache_enabled=False):
                answer: Tensor = block(*inputs, told)
                return answer

        self._recorded = Recorded(work, device)

    def __call__(self, z: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        for mine, given in zip(self._inputs, (z, sigma, *condition.tensors()), strict=True):
            mine.copy_(given)
        return self._recorded().clone()


def _kind(z: Tensor, sigma: Tensor, condition: Condition) -> Hashable:
    """What a recording is made for: shapes and types, and all that is not a tensor."""
    device = z.device.type
    tensors = tuple((tuple(t.shape), t.dtype) for t in (z, sigma, *condition.tensors()))
    told = tuple((name, value) for name, value in vars(condition).items() if not isinstance(value, Tensor))
    autocast = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
    return "recorded", tensors, type(condition), told, autocast
