"""Operations that have a fast form beside a plain one."""

from .attention import Attend, causal, concatenated, flex, full, two_pass, two_stream_mask, two_streams
from .block_attention import AttentionState, BlockAttention, KeyValueState, softmax_attention
from .linear_attention import LinearState, masked_quadratic, relu_linear_attention
from .recorded import CannotRecordError, Recorded
from .rope import Rope, rope_3d, turned

__all__ = [
    "Attend",
    "AttentionState",
    "BlockAttention",
    "CannotRecordError",
    "KeyValueState",
    "LinearState",
    "Recorded",
    "Rope",
    "causal",
    "concatenated",
    "flex",
    "full",
    "masked_quadratic",
    "relu_linear_attention",
    "rope_3d",
    "softmax_attention",
    "turned",
    "two_pass",
    "two_stream_mask",
    "two_streams",
]
