import sys
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from oneblock.optim.adamw import AdamWKind, make_adamw, make_state, move_state, set_learning_rate, state_tensors

pytest.importorskip("torchao")
KINDS: tuple[AdamWKind, ...] = ("adamw", "adamw8bit")
LARGE, SMALL, VECTOR = (64, 96), (40, 96), (128,)  # 6144 elements, 3840, 128


def adamw_of(kind: AdamWKind, *shapes: tuple[int, ...]) -> tuple[list[nn.Parameter], torch.optim.Optimizer]:
    generator = torch.Generator().manual_seed(0)
    parameters = [nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]
    return parameters, make_adamw(parameters, kind, learning_rate=0.01, beta1=0.9, beta2=0.99, weight_decay=0.1)


def step_with(optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter], seed: int = 1) -> None:
    generator = torch.Generator().manual_seed(seed)
    for p in parameters:
        p.grad = torch.randn(p.shape, generator=generator)
    optimizer.step()


def stored(moment: Tensor, qmap: Tensor) -> Tensor:
    """What is left of a moment after it was stored in 8 bits: by search over the whole map, 256 values at a time."""
    blocks = moment.reshape(-1, 256)
    scale = blocks.abs().amax(1, keepdim=True)
    nearest = ((blocks / scale).unsqueeze(2) - qmap).abs().argmin(2)
    return (qmap[nearest] * scale).view(moment.shape)


def test_eight_bits_are_adamw_whose_moments_are_rounded_between_steps() -> None:
    (p,), optimizer = adamw_of("adamw8bit", LARGE)
    z, m, v = p.detach().clone(), torch.zeros(LARGE), torch.zeros(LARGE)
    for t in range(1, 4):
        step_with(optimizer, [p], seed=t)
        state = state_tensors(optimizer, p)
        g = p.grad
        assert g is not None
        m, v = 0.9 * m + 0.1 * g, 0.99 * v + 0.01 * g * g
        z = z * (1 - 0.01 * 0.1) - 0.01 * (m / (1 - 0.9**t)) / ((v / (1 - 0.99**t)).sqrt() + 1e-8)
        torch.testing.assert_close(p.detach(), z, rtol=1e-4, atol=1e-6)
        m, v = stored(m, state["exp_avg.qmap"]), stored(v, state["exp_avg_sq.qmap"])
        for name, moment in {"exp_avg": m, "exp_avg_sq": v}.items():
            codes, scale = state[f"{name}.codes"], state[f"{name}.scale"]
            found = state[f"{name}.qmap"][codes.int()].view(-1, 256) * scale.view(-1, 1)
            wrong = ~torch.isclose(found.view(LARGE), moment, rtol=1e-4, atol=1e-7)
            assert wrong.sum() <= 2, "but for values in the middle between two numbers of the map"
    assert state["step"] == 3


def test_which_moments_are_stored_in_eight_bits() -> None:
    parameters, optimizer = adamw_of("adamw8bit", LARGE, SMALL, VECTOR, (4097, 1))
    assert all(state_tensors(optimizer, p) == {} for p in parameters)
    make_state(optimizer)
    large, *others = ([*state_tensors(optimizer, p)] for p in parameters)
    assert large == ["step", *(f"{m}.{part}" for m in ("exp_avg", "exp_avg_sq") for part in ("codes", "scale", "qmap"))]
    assert others == [["step", "exp_avg", "exp_avg_sq"]] * 3


@pytest.mark.parametrize("kind", KINDS)
def test_a_state_is_copied_through_its_tensors(kind: AdamWKind) -> None:
    (one, first), (two, second) = (adamw_of(kind, LARGE, SMALL, VECTOR) for _ in range(2))
    step_with(first, one)
    make_state(second)
    with torch.no_grad():
        for p, q in zip(one, two, strict=True):
            q.copy_(p)
            for name, t in state_tensors(second, q).items():
                t.copy_(state_tensors(first, p)[name])
    step_with(first, one, seed=2)
    step_with(second, two, seed=2)
    assert all(p.equal(q) for p, q in zip(one, two, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_only_matrices_decay_and_the_rate_can_change(kind: AdamWKind) -> None:
    parameters, optimizer = adamw_of(kind, LARGE, SMALL, VECTOR)
    before = [p.detach().clone() for p in parameters]
    set_learning_rate(optimizer, 0.5)
    make_state(optimizer)
    for p, old in zip(parameters, before, strict=True):
        torch.testing.assert_close(p.detach(), old * (1 - 0.5 * 0.1) if p.ndim > 1 else old)
    assert all(p.grad is None for p in parameters)


@pytest.mark.parametrize(("kind", "counter"), [("adamw", "meta"), ("adamw8bit", "cpu")])
def test_moments_move_and_the_counter_stays_where_the_step_wants_it(kind: AdamWKind, counter: str) -> None:
    parameters, optimizer = adamw_of(kind, LARGE, VECTOR)
    make_state(optimizer)
    move_state(optimizer, torch.device("meta"))
    for p in parameters:
        places = {name: t.device.type for name, t in state_tensors(optimizer, p).items()}
        assert places.pop("step") == counter
        assert set(places.values()) == {"meta"}


def test_a_first_state_can_be_one_of_fake_tensors(fresh_maps: Callable[[], None]) -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    fresh_maps()
    with FakeTensorMode():
        parameters, optimizer = adamw_of("adamw8bit", LARGE)
        make_state(optimizer)
    assert state_tensors(optimizer, parameters[0])["exp_avg.codes"].shape == LARGE
    parameters, optimizer = adamw_of("adamw8bit", LARGE)
    make_state(optimizer)
    assert float(state_tensors(optimizer, parameters[0])["exp_avg.qmap"].max()) == 1.0


@pytest.fixture
def fresh_maps() -> Callable[[], None]:
    """Lets torchao forget what it keeps."""
    from torchao.optim.subclass_8bit import get_qmap_signed, get_qmap_unsigned

    def forget() -> None:
        get_qmap_signed.cache_clear()
        get_qmap_unsigned.cache_clear()

    return forget


def test_what_is_missing_or_unknown_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="optimizer='sgd' is unknown; use adamw or adamw8bit"):
        adamw_of("sgd", LARGE)  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "torchao.optim", None)
    with pytest.raises(ImportError, match=r"needs torchao; pip install 'oneblock\[eightbit\]', or use adamw"):
        adamw_of("adamw8bit", LARGE)
    adamw_of("adamw", LARGE)
