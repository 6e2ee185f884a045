"""Operations that have a fast form beside a plain one."""

from .attention import Attend, causal, concatenated, flex, full, two_pass, two_stream_mask, two_streams

__all__ = ["Attend", "causal", "concatenated", "flex", "full", "two_pass", "two_stream_mask", "two_streams"]
