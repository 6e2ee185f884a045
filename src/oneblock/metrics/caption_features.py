"""A small image encoder with the captions of a data set in its space: trained here, on the images and captions of the
very data that are scored.

Images and vectors of their captions are mapped to unit vectors u and v of one space: the images by a convolutional
network, the captions by a linear map of vectors that stay as they are. With u_i the images of a batch, v_c its
different captions, c(i) the caption of image i and s a scale that is learned, the loss is

    - 1/2n sum_i [ log softmax_c(s u_i . v_c)[c(i)] + log softmax_j(s u_j . v_c(i))[i] ],

symmetrical InfoNCE, after Radford et al., "Learning Transferable Visual Models From Natural Language Supervision",
section 2.3, arXiv 2103.00020, which trains both readers. A caption that stands several times in a batch is one of its
candidates, so that no image is pushed away from its own caption.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.functional import normalize

from oneblock.checks import check_seed
from oneblock.metrics.features import check_images, scale_pixels

VERSION = 1
"""Of everything below that ``trained_with`` does not name."""
NAME = "captions-cnn"
DIM = 64
SIZE = 32
"""Pixels a side that images are resized to."""
WIDTHS = (32, 64, 128)
"""Channels of the convolutions, each of which halves the side."""
BATCH = 128
EPOCHS = 40
MOST_STEPS = 600
"""Of training, which bounds its time: more images are seen fewer times."""
SHIFT = 2
"""Pixels that an image is moved by in training, at most: without it small sets are learned by heart."""
LEARNING_RATE, WEIGHT_DECAY = 2e-3, 0.1
SCALE, MOST_SCALE = 10.0, 100.0
"""The scale of similarities in the beginning, and at most."""
FEWEST_CAPTIONS = 2
"""Different ones: with one there is nothing to tell apart."""


def trained_with() -> str:
    """Tells how features are trained: the same images and captions give others where this differs."""
    return repr((VERSION, DIM, SIZE, WIDTHS, BATCH, EPOCHS, MOST_STEPS, SHIFT, LEARNING_RATE, WEIGHT_DECAY, SCALE))


class CaptionNetwork(nn.Module):
    """Images and vectors of captions in one space.

    Args:
        text_dim: k, of a vector of a caption.
    """

    def __init__(self, text_dim: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for width in WIDTHS:
            layers += [nn.Conv2d(channels, width, 4, stride=2, padding=1), nn.GroupNorm(8, width), nn.GELU()]
            channels = width
        side = SIZE // 2 ** len(WIDTHS)
        self.image = nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels * side * side, DIM))
        self.text = nn.Linear(text_dim, DIM)
        self.log_scale = nn.Parameter(torch.tensor(math.log(SCALE)))

    def loss(self, pixels: Tensor, texts: Tensor, own: Tensor) -> Tensor:
        """The loss of pixels (n, 3, SIZE, SIZE), the vectors (m, k) of their different captions, and which is whose,
        int64 (n,)."""
        images, captions = normalize(self.image(pixels), dim=1), normalize(self.text(texts), dim=1)
        logits = self.log_scale.exp().clamp_max(MOST_SCALE) * images @ captions.T
        among_captions, among_images = logits.log_softmax(1), logits.log_softmax(0)
        mine = own[:, None]
        return -(among_captions.gather(1, mine) + among_images.gather(1, mine)).mean() / 2


class CaptionFeatures:
    """Extractor made of a trained ``CaptionNetwork``, for images uint8 (n, 1 or 3, h, w) of any size.

    Args:
        weights_hash: what tells it from others of its name: 16 hex digits of what it was trained on and with.
    """

    name = NAME
    dim = DIM

    def __init__(self, network: CaptionNetwork, weights_hash: str = "") -> None:
        self.weights_hash = weights_hash
        self._network = network.eval().requires_grad_(False)

    def __call__(self, images: Tensor) -> Tensor:
        """Unit vectors float32 (n, DIM) of images."""
        check_images("images", images)
        self._network.to(images.device)
        parts = (normalize(self._network.image(_pixels(some)), dim=1) for some in images.split(BATCH))
        return torch.cat(list(parts))

    def texts(self, vectors: Tensor) -> Tensor:
        """Unit vectors float32 (m, DIM) of captions, from vectors (m, k)."""
        return normalize(self._network.to(vectors.device).text(vectors), dim=1)

    def tensors(self) -> dict[str, Tensor]:
        """All weights by name, for ``restored``."""
        return self._network.state_dict()


def restored(tensors: Mapping[str, Tensor], weights_hash: str = "") -> CaptionFeatures:
    """The features with these weights (``CaptionFeatures.tensors``)."""
    network = CaptionNetwork(tensors["text.weight"].shape[1])
    network.load_state_dict(dict(tensors))
    return CaptionFeatures(network, weights_hash)


def train_caption_features(
    images: Tensor,
    labels: Tensor,
    texts: Tensor,
    weights_hash: str = "",
    seed: int = 0,
    told: Callable[[int, int], None] | None = None,
) -> CaptionFeatures:
    """The features of a data set; on one kind of machine the same for the same arguments.

    Args:
        images: uint8 (n, c, h, w).
        labels: which caption is whose, int64 (n,), rows of ``texts``.
        texts: vectors float32 (m, k) of the different captions.
        seed: of the first weights and of the batches.
        told: called after each step with it and the number of steps.

    Raises:
        ValueError: fewer than ``FEWEST_CAPTIONS`` captions have images.
    """
    check_images("images", images)
    check_seed("seed", seed)
    different = len(labels.unique())
    if different < FEWEST_CAPTIONS:
        raise ValueError(
            f"the images have {different} different caption; features of captions are trained to tell "
            f"{FEWEST_CAPTIONS} or more apart: give images with other captions"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = CaptionNetwork(texts.shape[1])
    size = min(BATCH, len(images))
    steps = min(MOST_STEPS, EPOCHS * -(-len(images) // size))
    optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps + 1)
    generator = torch.Generator().manual_seed(seed)
    order = _batches(len(images), size, steps, generator)
    for step, chosen in enumerate(order, 1):
        captions, own = labels[chosen].unique(return_inverse=True)
        optimizer.zero_grad()
        network.loss(_shifted(_pixels(images[chosen]), generator), texts[captions], own).backward()
        optimizer.step()
        schedule.step()
        if told is not None:
            told(step, steps)
    return CaptionFeatures(network, weights_hash)


def _batches(count: int, size: int, steps: int, generator: torch.Generator) -> list[Tensor]:
    """Indices int64 (size,) of each step: permutations one after the other, cut."""
    epochs = -(-steps * size // count)
    order = torch.cat([torch.randperm(count, generator=generator) for _ in range(epochs)])
    return list(order[: steps * size].split(size))


def _shifted(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Each image by up to ``SHIFT`` pixels in both directions, its border repeated."""
    padded = F.pad(pixels, (SHIFT, SHIFT, SHIFT, SHIFT), mode="replicate")
    places = torch.randint(2 * SHIFT + 1, (len(pixels), 2), generator=generator).tolist()
    return torch.stack([one[:, y : y + SIZE, x : x + SIZE] for one, (y, x) in zip(padded, places, strict=True)])


def _pixels(images: Tensor) -> Tensor:
    """What the network sees of images uint8 (n, 1 or 3, h, w): float32 (n, 3, SIZE, SIZE) in [-1, 1]."""
    pixels = scale_pixels(images).expand(-1, 3, -1, -1)
    if pixels.shape[-2:] == (SIZE, SIZE):
        return pixels
    return F.interpolate(pixels, size=(SIZE, SIZE), mode="bilinear", antialias=True)
