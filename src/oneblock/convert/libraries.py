"""The libraries that networks come from: how each builds, reads and writes one. None is loaded until it is asked for.

Nothing is fetched, nothing that came with a checkpoint is run, and weights are read from safetensors alone.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import torch
from safetensors.torch import load_file
from torch import nn
from torch.overrides import TorchFunctionMode

from oneblock.checks import shown
from oneblock.convert.kinds import kind_of_class
from oneblock.plain import read_plain

CONFIG_FILE = "config.json"
EXTRA = "pip install 'oneblock[convert]'"
TIMM_WEIGHTS = "model.safetensors"


class Library(ABC):
    """A library of networks."""

    name: ClassVar[str]

    def module(self) -> ModuleType:
        """The library itself.

        Raises:
            ImportError: it is not installed.
        """
        try:
            return import_module(self.name)
        except ImportError as error:
            raise ImportError(f"a network of {self.name} needs {self.name} ({error}); {EXTRA}") from error

    @abstractmethod
    def class_name(self, settings: Mapping[str, Any], where: str) -> str:
        """The class that a configuration names."""

    @abstractmethod
    def fresh(self, settings: Mapping[str, Any]) -> nn.Module:
        """A network of a configuration, with fresh weights."""

    @abstractmethod
    def load(self, directory: Path, settings: Mapping[str, Any]) -> nn.Module:
        """A network with the weights of a directory, in 32 bits."""

    @abstractmethod
    def save(self, network: nn.Module, directory: Path) -> None:
        """Write configuration and weights as the library does."""

    @abstractmethod
    def save_settings(self, network: nn.Module, directory: Path) -> None:
        """Write the configuration alone."""

    def knows(self, network: nn.Module) -> bool:
        """Whether a network of it says how it is built again."""
        return True

    def settings(self, directory: Path) -> dict[str, Any]:
        """The configuration in a directory, checked to be of a network that is known.

        Raises:
            ValueError: there is none, or it is of something else.
        """
        path = directory / CONFIG_FILE
        if not path.is_file():
            raise ValueError(
                f"{directory} has no {CONFIG_FILE}; give the directory of a network, as {self.name} saves one"
            )
        found = read_plain(path)
        if not isinstance(found, dict):
            raise ValueError(f"{path} holds a {type(found).__name__}; the configuration of a network is an object")
        if "auto_map" in found:
            raise ValueError(
                f"{path} names code of its own ({shown(found['auto_map'])}), which is never run; use a network whose "
                f"class is part of {self.name}"
            )
        if "quantization_config" in found:
            raise ValueError(f"the weights in {directory} are quantised; give the network in 32 or 16 bits")
        self.class_name(found, str(path))
        return found


class _Pretrained(Library):
    """A library with ``from_pretrained`` and ``save_pretrained``."""

    def found_class(self, name: object, where: str) -> Any:
        """The class called ``name`` in the installed library."""
        kind = getattr(self.module(), name, None) if isinstance(name, str) and name.isidentifier() else None
        if not (isinstance(kind, type) and issubclass(kind, nn.Module)):
            raise ValueError(
                f"{where} names the class {shown(name)}, which is not in {self.name} {self.module().__version__}; use "
                "a version that has it, or another network"
            )
        kind_of_class(kind)
        return kind

    def load(self, directory: Path, settings: Mapping[str, Any]) -> nn.Module:
        kind = self.found_class(self.class_name(settings, str(directory)), str(directory))
        words: dict[str, Any] = {"local_files_only": True, "use_safetensors": True, "output_loading_info": True}
        try:
            network, told = kind.from_pretrained(str(directory), **{self.dtype_word: torch.float32}, **words)
        except Exception as error:  # the libraries check little: a damaged file ends in any error
            raise ValueError(f"{directory} does not hold a {kind.__name__} ({error}); save it again") from error
        wrong = [f"{key}: {shown(list(told[key]))}" for key in ("missing_keys", "mismatched_keys") if told.get(key)]
        if wrong:
            raise ValueError(
                f"the weights in {directory} are not those of its {kind.__name__} ({', '.join(wrong)}), which would "
                "start with random numbers; save the network again"
            )
        made: nn.Module = network
        return made.train()

    dtype_word: ClassVar[str]

    def save(self, network: nn.Module, directory: Path) -> None:
        with _silent():
            saved: Any = network
            saved.save_pretrained(str(directory), safe_serialization=True)


class Transformers(_Pretrained):
    """The transformers library."""

    name = "transformers"
    dtype_word = "dtype"

    def class_name(self, settings: Mapping[str, Any], where: str) -> str:
        names = settings.get("architectures")
        if not (isinstance(names, list) and names and isinstance(names[0], str)):
            raise ValueError(
                f"{where} does not say which class of {self.name} it is of (architectures); save the network again, "
                "with its head"
            )
        name: str = self.found_class(names[0], where).__name__
        return name

    def fresh(self, settings: Mapping[str, Any]) -> nn.Module:
        kind = self.found_class(settings["architectures"][0], CONFIG_FILE)
        made: nn.Module = kind(kind.config_class.from_dict(dict(settings)))
        return made

    def load(self, directory: Path, settings: Mapping[str, Any]) -> nn.Module:
        with _silent():
            return super().load(directory, settings)

    def save_settings(self, network: nn.Module, directory: Path) -> None:
        config: Any = network.config
        values = {**json.loads(config.to_json_string(use_diff=False)), "architectures": [type(network).__name__]}
        (directory / CONFIG_FILE).write_text(json.dumps(values, indent=2, sort_keys=True) + "\n")


class Diffusers(_Pretrained):
    """The diffusers library."""

    name = "diffusers"
    dtype_word = "torch_dtype"

    def class_name(self, settings: Mapping[str, Any], where: str) -> str:
        name: str = self.found_class(settings.get("_class_name"), where).__name__
        return name

    def fresh(self, settings: Mapping[str, Any]) -> nn.Module:
        kind = self.found_class(settings["_class_name"], CONFIG_FILE)
        made: nn.Module = kind.from_config(dict(settings))
        return made

    def save_settings(self, network: nn.Module, directory: Path) -> None:
        saved: Any = network
        saved.save_config(str(directory))


class Timm(Library):
    """The timm library: a directory as its ``save_for_hf`` writes it."""

    name = "timm"

    def module(self) -> ModuleType:
        try:
            return import_module(self.name)
        except (ImportError, RuntimeError) as error:  # RuntimeError: torchvision does not fit torch
            raise ImportError(
                f"a network of timm needs timm, and timm needs torchvision ({error}); pip install timm torchvision"
            ) from error

    def knows(self, network: nn.Module) -> bool:
        """``timm.create_model`` writes down what it made; the classes themselves do not."""
        return getattr(network, "pretrained_cfg", None) is not None

    def class_name(self, settings: Mapping[str, Any], where: str) -> str:
        name = settings.get("architecture")
        timm: Any = self.module()
        if not (isinstance(name, str) and timm.is_model(name)):
            raise ValueError(
                f"{where} names the architecture {shown(name)}, which is not in timm {timm.__version__}; use one of "
                "timm.list_models()"
            )
        return name

    def fresh(self, settings: Mapping[str, Any]) -> nn.Module:
        timm: Any = self.module()
        words = {"num_classes": settings.get("num_classes"), **settings.get("model_args", {})}
        known = {key: tuple(value) if isinstance(value, list) else value for key, value in words.items()}
        made: nn.Module = timm.create_model(
            settings["architecture"], pretrained=False, **{key: v for key, v in known.items() if v is not None}
        )
        return made

    def load(self, directory: Path, settings: Mapping[str, Any]) -> nn.Module:
        made = self.fresh(settings)
        try:
            made.load_state_dict(load_file(directory / TIMM_WEIGHTS))
        except Exception as error:  # of safetensors and torch
            raise ValueError(
                f"{directory / TIMM_WEIGHTS} does not hold the weights of {settings['architecture']} ({error}); save "
                "the network again"
            ) from error
        return made.float().train()

    def save(self, network: nn.Module, directory: Path) -> None:
        from timm.models import save_for_hf

        save_for_hf(network, str(directory), model_args=_drop_rates(network), safe_serialization=True)

    def save_settings(self, network: nn.Module, directory: Path) -> None:
        from timm.models._hub import save_config_for_hf

        save_config_for_hf(network, str(directory / CONFIG_FILE), model_args=_drop_rates(network))


LIBRARIES: dict[str, Library] = {library.name: library for library in (Transformers(), Diffusers(), Timm())}


def library_of(network: nn.Module) -> Library | None:
    """The library whose own class a network is; None if it is a class of someone else, or was made in a way that the
    library does not write down."""
    library = LIBRARIES.get(type(network).__module__.partition(".")[0])
    return library if library is not None and library.knows(network) else None


def weight_files(directory: Path) -> list[Path]:
    """Files with weights as safetensors.

    Raises:
        ValueError: there are none.
    """
    found = sorted(path for path in directory.glob("*.safetensors") if path.name != "told.safetensors")
    if not found:
        others = sorted(path.name for path in directory.iterdir() if path.suffix in (".bin", ".pt", ".pth", ".ckpt"))
        reason = f"only {', '.join(others)}, and reading it could run code" if others else "no weights"
        raise ValueError(f"{directory} has {reason}; save the network as safetensors")
    return found


def _drop_rates(network: nn.Module) -> dict[str, Any]:
    """What timm leaves out of a configuration, though training goes on with it."""
    told: Mapping[str, Any] = getattr(network, "_model_args", {})
    return {key: value for key, value in told.items() if "drop" in key}


class Unfilled(TorchFunctionMode):
    """Within it new parameters get no numbers, as others will be read into them. So a network takes no memory before it
    is read: pages that nothing has written are not there."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        words, name = kwargs or {}, getattr(func, "__name__", "")
        first = args[0] if args else next(iter(words.values()), None)
        fills = name.endswith("_") and not name.endswith("__") and name != "requires_grad_"
        if fills and isinstance(first, nn.Parameter):
            return first
        return func(*args, **words)


@contextmanager
def _silent() -> Iterator[None]:
    """Without the progress bars of transformers, which has one for every file and every tensor."""
    try:
        logging: Any = import_module("transformers.utils.logging")
    except ImportError:
        yield
        return
    shown_before = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown_before:
            logging.enable_progress_bar()
