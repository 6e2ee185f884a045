"""Networks and Datasets of the user's own under our loop: trained, killed, resumed, sampled; refused where broken."""

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import own
import own_cifar
import pytest
import torch
from commands import ENVIRONMENT
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

import oneblock as ob
from oneblock.launch.status import status
from oneblock.train.drive import Watch

QUIET = Watch(bars=False)
PROGRAM = [sys.executable, str(Path(own_cifar.__file__))]


def newest(run: Path) -> dict[str, bytes]:
    return {path.name: max(path.glob("step-*")).read_bytes() for path in sorted(run.glob("block-*"))}


def test_a_user_trains_survives_a_kill_and_samples(tmp_path: Path) -> None:
    assert len([line for line in Path(own_cifar.__file__).read_text().splitlines() if line]) < 40
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    subprocess.run([*PROGRAM, str(whole)], env=ENVIRONMENT, check=True)
    process = subprocess.Popen([*PROGRAM, str(killed)], env=ENVIRONMENT)
    deadline = time.monotonic() + 120
    while not list(killed.glob("block-1/step-*")) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    steps = {job.job: (job.saved, job.num_steps) for job in status(killed)}
    assert any(saved < last for saved, last in steps.values()), "it was killed in the middle"
    machine = ob.Machine(threads=1)
    ob.train(
        own_cifar.RECIPE, backbone=own_cifar.Mixer, data=own_cifar.Cifar(), out=killed, machine=machine, watch=QUIET
    )
    assert newest(killed) == newest(whole)
    model = ob.Model.open(killed, backbone=own_cifar.Mixer)
    images = model.sample([0, 9] * 4, steps=8)
    assert (images.dtype, images.shape) == (torch.uint8, (8, 3, 32, 32))
    dark, bright = images[::2].float().mean(), images[1::2].float().mean()
    assert dark < bright, "it has learned something of its classes"


class Unused(own.Own):
    """Has weights that no forward pass touches."""

    def __init__(self, layers: range) -> None:
        super().__init__(layers)
        self.spare = nn.Linear(2, 2)


class Tied(own.Own):
    """One matrix takes pixels in and gives them out."""

    def __init__(self, layers: range) -> None:
        super().__init__(layers)
        self.stem.pixels.weight = nn.Parameter(0.1 * torch.randn(own.WIDTH, 64))
        self.head.out = TiedOut(self.stem.pixels)  # type: ignore[assignment]


class TiedOut(nn.Module):
    def __init__(self, pixels: nn.Linear) -> None:
        super().__init__()
        self.pixels = pixels

    def forward(self, h: Tensor) -> Tensor:
        return h @ self.pixels.weight


class Buffered(own.Own):
    """Has a table that is not learned, and reads a number out of a tensor while it is built."""

    def __init__(self, layers: range) -> None:
        super().__init__(layers)
        self.register_buffer("scales", torch.linspace(0.5, 1, int(torch.tensor(4).item())))
        for name, layer in self.layers.items():
            nn.init.constant_(layer.inner.weight, float(self.get_buffer("scales")[int(name)]))


class Dropped(own.Own):
    """Draws random numbers in its forward pass."""

    def __init__(self, layers: range) -> None:
        super().__init__(layers)
        for layer in self.layers.values():
            layer.inner = nn.Sequential(layer.inner, nn.Dropout(0.5))


@pytest.mark.parametrize("backbone", [Unused, Tied, Buffered, Dropped])
def test_any_network_resumes_in_the_same_bytes_merges_and_is_opened(
    backbone: Callable[[range], nn.Module], tmp_path: Path
) -> None:
    recipe, data = ob.ImageRecipe(**TINY), TensorDataset(torch.rand(64, 1, 8, 8), torch.arange(64) % 10)
    machine = ob.Machine(threads=1, save_every=3, keep=100)
    for _ in range(2):  # the second time from where the deleted checkpoints leave off
        ob.train(recipe, backbone=backbone, data=data, out=tmp_path / "run", machine=machine, watch=QUIET)
        if not (tmp_path / "whole").exists():
            shutil.copytree(tmp_path / "run", tmp_path / "whole")
            for job in ("block-0", "block-1"):
                for path in sorted((tmp_path / "run" / job).glob("step-*"))[2:]:
                    path.unlink()
            assert newest(tmp_path / "run") != newest(tmp_path / "whole")
    assert newest(tmp_path / "run") == newest(tmp_path / "whole")
    merged = ob.merge(tmp_path / "run", out=tmp_path / "model").model
    samples = [ob.Model.open(path, backbone=backbone).sample([0, 1], steps=4) for path in (tmp_path / "run", merged)]
    assert samples[0].equal(samples[1])


class Batchwise(own.Own):
    def __init__(self, layers: range) -> None:
        super().__init__(layers)
        for layer in self.layers.values():
            layer.inner = nn.Sequential(layer.inner, nn.BatchNorm1d(own.WIDTH))


class Short(own.Own):
    def __init__(self, layers: range) -> None:
        super().__init__(layers)
        del self.head


class Stubborn(own.Own):
    """Builds all layers, whatever it is asked for."""

    def __init__(self, layers: range) -> None:
        super().__init__(range(4))


class Renamed(own.Own):
    def __init__(self, layers: range) -> None:
        super().__init__(range(len(layers)))


class Flat(own.Own):
    def __init__(self, layers: range) -> None:
        super().__init__(layers)
        self.head = nn.Sequential()  # gives tokens in the place of images

        def forward(h: Tensor, modulation: Tensor) -> Tensor:
            return h

        self.head.forward = forward  # type: ignore[method-assign]


class Growing(own.Own):
    def __init__(self, layers: range) -> None:
        super().__init__(layers)
        for layer in self.layers.values():
            layer.inner = nn.Linear(own.WIDTH, own.WIDTH)
            layer.forward = lambda h, modulation: torch.cat([h, h], dim=1)  # type: ignore[method-assign]


class Listed(own.Own):
    def __init__(self, layers: range) -> None:
        super().__init__(layers)
        self.layers = nn.ModuleList(self.layers.values())  # type: ignore[assignment]


TINY: dict[str, Any] = {"depth": 4, "width": 16, "heads": 2, "blocks": 2, "batch_size": 8, "budget": 192}


@pytest.mark.parametrize(
    ("backbone", "message"),
    [
        (Short, "Short has no head; a backbone needs stem"),
        (Stubborn, r"Stubborn was asked for 1 of its layers, range\(0, 1\), and made 4"),
        (Renamed, r"the layers of Renamed are named 0; those of range\(1, 2\) must be named 1"),
        (Flat, r"the head of Flat returns \(2, 8\); it must return \(2, 1, 8, 8\)"),
        (Growing, r"layer 0 of Growing takes h of shape \(2, 8\) and returns \(2, 16\)"),
        (Listed, "Listed.layers is a ModuleList; a torch.nn.ModuleDict is allowed"),
        (Batchwise, "Batchwise changes its buffers in training .*running_mean.*; use a norm without statistics"),
    ],
)
def test_a_network_that_breaks_the_contract_is_refused_before_any_work(
    backbone: Callable[[range], nn.Module], message: str, tmp_path: Path
) -> None:
    pytest.importorskip("sklearn")
    with pytest.raises(ValueError, match=message):
        ob.train(ob.ImageRecipe(**TINY), backbone=backbone, data="digits", out=tmp_path / "run", watch=QUIET)
    assert not (tmp_path / "run").exists()


class Vectors(nn.Module):
    """For vectors of four numbers without classes."""

    def __init__(self, layers: range) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(5, 8), nn.Linear(8, 4)
        self.layers = nn.ModuleDict({str(i): own.Layer() for i in layers})

    def stem(self, z: Tensor, noise: Tensor, condition: ob.Condition) -> tuple[Tensor, Tensor]:
        h = self.enter(torch.cat([z, noise[:, None]], dim=1))
        return h, torch.zeros_like(h)

    def head(self, h: Tensor, modulation: Tensor) -> Tensor:
        out: Tensor = self.leave(h)
        return out


def test_vectors_without_labels_train_and_are_sampled(tmp_path: Path) -> None:
    points = TensorDataset(torch.randn(64, 4, generator=torch.Generator().manual_seed(0)))
    with pytest.raises(ValueError, match="conditional=True tells the network a class, but the data have no labels"):
        ob.train(ob.ImageRecipe(**TINY), backbone=Vectors, data=points, out=tmp_path / "run", watch=QUIET)
    with pytest.raises(ValueError, match=r"samples have shape \(4,\); this network takes images"):
        ob.train(ob.ImageRecipe(**TINY, conditional=False), data=points, out=tmp_path / "run", watch=QUIET)
    recipe = ob.ImageRecipe(**TINY, conditional=False)
    ob.train(recipe, backbone=Vectors, data=points, out=tmp_path / "run", watch=QUIET)
    model = ob.Model.open(tmp_path / "run", backbone=Vectors)
    samples = model.sample(count=6, steps=4)
    assert (samples.dtype, samples.shape) == (torch.float32, (6, 4))
    assert bool(samples.isfinite().all())
    with pytest.raises(ValueError, match="the network of this run is the user's own"):
        ob.Model.open(tmp_path / "run")


def test_a_label_beyond_the_classes_is_refused(tmp_path: Path) -> None:
    labels = torch.arange(64) % 10
    labels[5] = 10
    data: Any = TensorDataset(torch.rand(64, 1, 8, 8), labels)
    data.classes = [str(i) for i in range(10)]
    with pytest.raises(ValueError, match="label 10 is unknown; the plan has 10 classes, from 0 on"):
        ob.train(ob.ImageRecipe(**TINY), data=data, out=tmp_path / "run", watch=QUIET)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"strategy": "robin"}, "strategy='robin'"),
        ({"order": "random"}, "order='random' is not allowed; use one of sequential, turns"),
        ({"order": "turns", "turn_seconds": -1}, "turn_seconds=-1 is not allowed; use a number, 0 or more"),
        ({"order": "turns", "idle": "attic"}, "idle='attic' is not allowed; use one of device, host, disk"),
        ({"idle": "disk"}, "idle='disk' goes with --order turns; one after the other, no block waits"),
        ({"turn_seconds": 5}, "turn_seconds=5 goes with --order turns"),
        ({"order": "turns", "strategy": "plan-only"}, "order='turns' goes with --strategy all, not plan-only"),
        ({"order": "turns", "recipe": ob.ImageRecipe(**TINY, shared="joint")}, "leave out order, turn_seconds and"),
        ({"strategy": "one-block", "block": 7}, "block=7 does not exist"),
    ],
)
def test_an_order_that_does_not_exist_is_refused_before_any_work(
    given: dict[str, Any], message: str, tmp_path: Path
) -> None:
    data = TensorDataset(torch.rand(64, 1, 8, 8), torch.arange(64) % 10)
    with pytest.raises(ValueError, match=message):
        ob.train(**{"recipe": ob.ImageRecipe(**TINY), "data": data, "out": tmp_path / "run", "watch": QUIET, **given})
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (DataLoader(TensorDataset(torch.zeros(4, 1, 8, 8))), "data is a DataLoader; give the Dataset inside it"),
        (iter([1, 2]), "data is a list_iterator, which has no length or cannot be indexed"),
        (TensorDataset(torch.zeros(4, 1, 8, 6), torch.zeros(4).long()), "images are 8 x 6; use square images"),
    ],
)
def test_data_that_cannot_be_used_are_refused_before_any_work(data: Dataset[Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        ob.train(ob.ImageRecipe(**TINY), data=data, out=tmp_path / "run", watch=QUIET)
    assert not (tmp_path / "run").exists()
