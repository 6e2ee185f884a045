"""Where tests of what a device does differently run: on a GPU with ``ONEBLOCK_TEST_DEVICE=cuda``."""

import os

import torch

DEVICE = torch.device(os.environ.get("ONEBLOCK_TEST_DEVICE", "cpu"))
