"""Operations that have a fast form beside a plain one."""

from .attention import Attend, causal, concatenated, flex, full, two_pass, two_stream_mask, two_streams
from .recorded import CannotRecordError, Recorded

__all__ = [
    "Attend",
    "CannotRecordError",
    "Recorded",
    "causal",
    "concatenated",
    "flex",
    "full",
    "two_pass",
    "two_stream_mask",
    "two_streams",
]
