from collections.abc import Callable
from dataclasses import FrozenInstanceError

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from oneblock.condition import ClassIds, Condition, Frames, Nothing, Tokens, as_condition, told

Make = Callable[[int], Condition]
KINDS: dict[str, Make] = {
    "classes": lambda n: ClassIds(torch.arange(n) % 3, null_id=3),
    "words": lambda n: Tokens(torch.arange(4 * n).view(n, 4)),
    "masked": lambda n: Tokens(torch.arange(4 * n).view(n, 4), torch.arange(4 * n).view(n, 4) % 3 > 0),
    "vectors": lambda n: Tokens(torch.arange(6.0 * n).view(n, 2, 3), torch.arange(2 * n).view(n, 2) % 3 > 0),
    "frames": lambda n: Frames(torch.arange(8.0 * n).view(n, 2, 2, 2)),
    "nothing": Nothing,
}
ALL = pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)
SIZES = st.integers(0, 7)


def same(a: Condition, b: Condition) -> bool:
    """All that two conditions say is alike, the null class included."""
    if type(a) is not type(b) or len(a) != len(b) or getattr(a, "null_id", None) != getattr(b, "null_id", None):
        return False
    ours, theirs = a.tensors(), b.tensors()
    return len(ours) == len(theirs) and all(
        x.dtype == y.dtype and x.equal(y) for x, y in zip(ours, theirs, strict=True)
    )


@ALL
@given(data=st.data(), n=SIZES)
def test_taking_is_indexing_every_tensor(make: Make, data: st.DataObject, n: int) -> None:
    condition = make(n)
    places = data.draw(st.lists(st.integers(0, n - 1), max_size=9) if n else st.just([]))
    kept = data.draw(st.lists(st.booleans(), min_size=n, max_size=n))
    start, stop = sorted(data.draw(st.tuples(SIZES, SIZES)))
    for index in (torch.tensor(places, dtype=torch.int64), torch.tensor(kept, dtype=torch.bool), slice(start, stop)):
        part = condition.take(index)
        assert len(part) == len(torch.arange(n)[index])
        assert all(ours.equal(whole[index]) for ours, whole in zip(part.tensors(), condition.tensors(), strict=True))
        assert getattr(part, "null_id", None) == getattr(condition, "null_id", None)


@ALL
@given(n=SIZES, count=st.integers(1, 9))
def test_parts_are_those_of_tensor_split_and_join_to_the_whole(make: Make, n: int, count: int) -> None:
    condition = make(n)
    parts = condition.split(count)
    assert [len(part) for part in parts] == [len(part) for part in torch.arange(n).tensor_split(count)]
    joined = parts[0]
    for part in parts[1:]:
        joined = joined.join(part)
    assert same(joined, condition)


@ALL
@given(n=SIZES, m=SIZES)
def test_joining_keeps_the_order(make: Make, n: int, m: int) -> None:
    whole = make(n + m)
    first, second = whole.take(slice(n)), whole.take(slice(n, None))
    assert same(first.join(second), whole)
    assert same(first.join(second).take(slice(n, None)), second)


@ALL
@given(n=SIZES)
def test_moving_changes_nothing_but_the_place(make: Make, n: int) -> None:
    condition = make(n)
    assert same(condition.to("cpu"), condition)
    away = condition.to(torch.device("meta"))
    assert len(away) == n
    assert all(
        t.is_meta and t.shape == whole.shape for t, whole in zip(away.tensors(), condition.tensors(), strict=True)
    )


def test_what_is_told_to_those_that_are_told_nothing() -> None:
    classes = ClassIds(torch.tensor([2, 0]), null_id=5).null()
    assert classes.ids.tolist() == [5, 5] and classes.null_id == 5
    for words in (Tokens(torch.ones(2, 3, dtype=torch.int64)), Tokens(torch.ones(2, 3, 4), torch.ones(2, 3) > 0)):
        assert words.null().mask is not None and words.null().mask.tolist() == [[False] * 3] * 2
        assert words.null().values is words.values
    assert len(Nothing(4).null()) == 4


@ALL
def test_a_null_has_as_many_samples_and_joins_them(make: Make) -> None:
    condition = make(3)
    if isinstance(condition, Frames):
        with pytest.raises(
            ValueError, match=r"frames \(3, 2, 2, 2\) cannot be nulled: no image stands for 'nothing'; leave guid"
        ):
            condition.null()
        return
    both = condition.join(condition.null())
    assert len(both) == 6
    assert same(both.take(slice(3, None)).null(), condition.null())


def test_one_mask_is_enough_to_have_one() -> None:
    plain, masked = Tokens(torch.ones(1, 2, dtype=torch.int64)), Tokens(torch.ones(1, 2, dtype=torch.int64)).null()
    for joined, expected in (
        (plain.join(masked), [[True] * 2, [False] * 2]),
        (masked.join(plain), [[False] * 2, [True] * 2]),
    ):
        assert joined.mask is not None and joined.mask.tolist() == expected
    assert plain.join(plain).mask is None


def test_tensors_are_all_that_is_held() -> None:
    values, mask = torch.zeros(2, 3, dtype=torch.int64), torch.zeros(2, 3, dtype=torch.bool)
    assert Tokens(values, mask).tensors() == (values, mask) and Tokens(values).tensors() == (values,)
    assert Nothing(2).tensors() == ()


def test_what_a_tensor_or_none_says() -> None:
    assert isinstance(as_condition(None, 3), Nothing) and len(as_condition(None, 3)) == 3
    for dtype in (torch.int64, torch.int32, torch.uint8):
        classes = as_condition(torch.tensor([1, 2], dtype=dtype), 2)
        assert isinstance(classes, ClassIds) and classes.null_id is None
        assert classes.ids.dtype == torch.int64 and classes.ids.tolist() == [1, 2]
    for values in (
        torch.rand(2),
        torch.tensor([True, False]),
        torch.ones(2, 3, dtype=torch.int64),
        torch.rand(2, 3, 4),
    ):
        frames = as_condition(values, 2)
        assert isinstance(frames, Frames) and frames.values is values
    words = Tokens(torch.rand(2, 3, 4))
    assert as_condition(words, 2) is words


@pytest.mark.parametrize("x", [torch.arange(3), torch.rand(3, 2), Nothing(3)])
def test_another_number_of_samples_is_refused(x: Condition | Tensor) -> None:
    with pytest.raises(
        ValueError, match="the condition is for 3 samples, but there are 2; give one entry for each sample"
    ):
        as_condition(x, 2)


def test_a_network_is_told_what_it_knows() -> None:
    classes = ClassIds(torch.arange(2))
    assert told(classes, ClassIds) is classes
    with pytest.raises(ValueError, match="the condition is Nothing; this network needs ClassIds"):
        told(Nothing(2), ClassIds)
    with pytest.raises(ValueError, match="the condition is Tensor; this network needs Tokens"):
        told(torch.arange(2), Tokens)  # type: ignore[arg-type]


def test_conditions_stay_as_they_are_made() -> None:
    with pytest.raises(FrozenInstanceError):
        ClassIds(torch.arange(2)).null_id = 3  # type: ignore[misc]


@ALL
@pytest.mark.parametrize(
    "index", [torch.tensor([0.0]), torch.tensor([[0]]), torch.tensor(0), torch.tensor([True]), torch.tensor([0]).int()]
)
def test_an_index_of_another_type_or_shape_is_refused(make: Make, index: Tensor) -> None:
    with pytest.raises(
        ValueError, match=r"index is torch\.\w+ \(.*\); torch.int64 \(m,\), torch.bool \(3,\) or a slice"
    ):
        make(3).take(index)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ClassIds(torch.zeros(2)), r"ids is torch.float32 \(2,\); torch.int64 \(n,\) is allowed: one class"),
        (lambda: ClassIds(torch.zeros(2, 1, dtype=torch.int64)), r"ids is torch.int64 \(2, 1\); torch.int64 \(n,\)"),
        (lambda: Tokens(torch.zeros(2, dtype=torch.int64)), r"values is torch.int64 \(2,\); integers \(n, t\) or"),
        (lambda: Tokens(torch.zeros(2, 3)), r"values is torch.float32 \(2, 3\); .* floating point \(n, t, d\) are"),
        (lambda: Tokens(torch.zeros(2, 3, 4, dtype=torch.int64)), r"values is torch.int64 \(2, 3, 4\); integers"),
        (lambda: Tokens(torch.zeros(2, 3) > 0), r"values is torch.bool \(2, 3\); integers"),
        (
            lambda: Tokens(torch.zeros(2, 3, 4), torch.zeros(2, 3)),
            r"mask is torch.float32 \(2, 3\); torch.bool \(2, 3\)",
        ),
        (
            lambda: Tokens(torch.zeros(2, 3, 4), torch.zeros(3) > 0),
            r"mask is torch.bool \(3,\); torch.bool \(2, 3\) is",
        ),
        (lambda: Frames(torch.tensor(1.0)), r"values is torch.float32 \(\); \(n, ...\) is allowed: the first axis"),
        (lambda: Nothing(-1), "count=-1 is not a number of samples; use 0 or more"),
        (lambda: Nothing(3).split(0), "count=0 is not a number of parts; use 1 or more"),
        (
            lambda: ClassIds(torch.arange(2)).null(),
            r"null_id=None: these labels have no null class; .*null_id=\.\.\.\), else leave guidance out",
        ),
        (
            lambda: Nothing(1).join(ClassIds(torch.arange(2))),
            "Nothing and ClassIds cannot be joined; use one kind for all samples",
        ),
        (
            lambda: ClassIds(torch.arange(2), 2).join(ClassIds(torch.arange(2), 3)),
            "null_id=2 and null_id=3 cannot be joined; use the same for both",
        ),
        (
            lambda: Frames(torch.zeros(2, 3)).join(Frames(torch.zeros(2, 4))),
            r"values torch.float32 \(2, 3\) and torch.float32 \(2, 4\) cannot be joined; use one dtype and one shape",
        ),
        (
            lambda: Tokens(torch.zeros(2, 3, 4)).join(Tokens(torch.zeros(2, 3, dtype=torch.int64))),
            r"values torch.float32 \(2, 3, 4\) and torch.int64 \(2, 3\) cannot be joined",
        ),
    ],
)
def test_what_does_not_fit_is_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
