from typing import Any

import pytest

from oneblock.train.machine import Machine


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"threads": -1}, "threads=-1 is not allowed; use a whole number, 0 or more"),
        ({"save_every": 0}, "save_every=0 is not allowed; use a whole number, 1 or more"),
        ({"keep": 0}, "keep=0 is not allowed; use a whole number, 1 or more"),
    ],
)
def test_settings_out_of_range_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Machine(**given)


def test_a_device_that_is_not_here_is_refused() -> None:
    with pytest.raises(ValueError, match="device='cuda:99' is not available"):
        Machine(device="cuda:99").torch_device()
