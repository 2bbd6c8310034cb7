"""Choose the device that a model runs on."""

from __future__ import annotations

import torch

from cyclevar.core.errors import ConfigError, UnknownNameError


def choose_device(name: str = "auto") -> torch.device:
    """``cpu``, ``cuda`` (perhaps ``cuda:1``), or with ``auto`` the GPU where there is one.

    Raises `ConfigError` for a GPU that is not there.
    """
    gpus = torch.cuda.device_count()
    if name == "auto":
        return torch.device("cuda" if gpus else "cpu")
    kind, _, number = name.partition(":")
    if kind not in ("cpu", "cuda") or not (number.isdecimal() or not number):
        raise UnknownNameError("device", name, ["auto", "cpu", "cuda"])
    if kind == "cuda" and int(number or 0) >= gpus:
        raise ConfigError(f"there is no device {name}: torch finds {gpus} GPUs here", hint="use --device cpu")
    return torch.device(name)
