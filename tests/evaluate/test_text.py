import pytest
import torch

from oneblock.data import Bytes, Characters
from oneblock.evaluate.writing import CausalWriting, MaskedWriting, Writing, tokens_per_byte


def test_characters_are_bytes_where_they_are_letters() -> None:
    tokens = torch.stack([Characters().encode("the cat "), Characters().encode("sat onxy")])
    assert tokens_per_byte(tokens, Characters()) == 1.0


def test_letters_of_two_bytes_count_twice() -> None:
    tokens = Bytes().encode("naïve é")[None]
    assert tokens.shape == (1, 9)
    assert tokens_per_byte(tokens, Bytes()) == 1.0


def test_writing_holds_the_settings_of_both_tasks() -> None:
    writing = Writing(reveals=3, tokens=5)
    assert isinstance(writing, MaskedWriting) and isinstance(writing, CausalWriting)
    assert writing.prompts(Characters(), 10).shape == (4, 0)
    given, count = Writing(prompt="cat").to_write(Characters(), 10)
    assert (given.tolist(), count) == (Characters().encode("cat").tolist(), 7)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"prompt": "a cat sat on it"}, "has 15 tokens, but the network sees only 10; cut the prompt"),
        ({"prompt": "a cat", "tokens": 6}, "tokens=6 more are asked for, but the network sees only 10 together"),
        ({"tokens": -1}, "tokens=-1 more are asked for"),
    ],
)
def test_more_than_the_network_sees_is_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Writing(**settings).to_write(Characters(), 10)  # type: ignore[arg-type]


def test_nothing_to_write_is_refused() -> None:
    with pytest.raises(ValueError, match="count=0 writes nothing; use 1 or more"):
        Writing(count=0)
