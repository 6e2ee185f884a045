"""A small autoencoder of diffusers, trained on one's own images, and a generator of its latents.

python examples/autoencoder.py          needs pip install 'oneblock[convert,data]'
"""

from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch.nn.functional import mse_loss

import oneblock as ob
from oneblock.data import MemorySource, load_images

KL = 1e-4


def train_autoencoder(images: MemorySource, out: Path, steps: int, channels: int = 4) -> float:
    """Write an autoencoder that halves sides twice, as diffusers keeps it; gives the error of its last images."""
    torch.manual_seed(0)
    model = AutoencoderKL(
        in_channels=images.shape[0],
        out_channels=images.shape[0],
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(16, 32, 32),
        norm_num_groups=8,
        latent_channels=channels,
        mid_block_add_attention=False,
    )
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    rates = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    for step in range(steps):
        pixels, _ = images.batch(step, 64, seed=0)
        latents = model.encode(pixels).latent_dist
        error = mse_loss(model.decode(latents.sample()).sample, pixels)
        optimizer.zero_grad()
        (error + KL * latents.kl().mean() / pixels[0].numel()).backward()
        optimizer.step()
        rates.step()
    with torch.no_grad():
        pixels, _ = images.samples(500)
        encoded = model.encode(pixels).latent_dist.mode()
    model.register_to_config(scaling_factor=1 / float(encoded.std()), shift_factor=float(encoded.mean()))
    model.save_pretrained(out)
    return error.item()


def main(data: str = "fashion-mnist", out: str = "runs/latents", steps: int = 1000, budget: str = "400k") -> None:
    autoencoder = Path(out) / "autoencoder"
    error = train_autoencoder(MemorySource(load_images(data)), autoencoder, steps)
    print(f"autoencoder: images of {data} come back with a mean squared error of {error:.4f}")
    recipe = ob.ImageRecipe(size="nano", blocks=3, budget=budget, patch=1, branch=0.5)
    ob.train(recipe, data=ob.ImageData(data=data, autoencoder=autoencoder), out=Path(out) / "run")
    print(f"Now: oneblock evaluate {out}/run --autoencoder {autoencoder}")


if __name__ == "__main__":
    main()
