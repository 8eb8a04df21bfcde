"""Which code runs the two passes: the backends, what each needs, and the choice between them."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import torch

from poco.errors import BackendError
from poco.ops import reference


@dataclass(frozen=True)
class Backend:
    """The two passes, forward and backward, with the signatures of :mod:`poco.ops.reference`."""

    name: str
    devices: tuple[str, ...]  # torch device types; () is any
    latent_pool: Callable[..., Any]
    latent_pool_backward: Callable[..., Any]
    film_forecast: Callable[..., Any]
    film_forecast_backward: Callable[..., Any]


def _reference() -> Backend:
    return Backend(
        "reference",
        (),
        reference.latent_pool,
        reference.latent_pool_backward,
        reference.film_forecast,
        reference.film_forecast_backward,
    )


def _cpu() -> Backend:
    raise BackendError("the fused CPU kernels of the two passes are not part of this version")


def _triton() -> Backend:
    raise BackendError("the Triton kernels of the two passes are not part of this version")


# In order of preference: the first that runs on the device is the default.
# A loader raises BackendError to say why not.
_LOADERS: dict[str, Callable[[], Backend]] = {"cpu": _cpu, "triton": _triton, "reference": _reference}
_loaded: dict[str, Backend | BackendError] = {}
_forced: str | None = None


def _load(name: str) -> Backend | BackendError:
    if name not in _loaded:
        try:
            _loaded[name] = _LOADERS[name]()
        except BackendError as error:
            _loaded[name] = error
    return _loaded[name]


def report() -> dict[str, tuple[bool, str]]:
    """Every backend by name: whether it is here, and for which devices or why not."""
    result = {}
    for name in _LOADERS:
        backend = _load(name)
        if isinstance(backend, BackendError):
            result[name] = (False, str(backend))
        else:
            result[name] = (True, f"runs on {' and '.join(backend.devices) or 'any device'}")
    return result


def _named(name: str) -> Backend:
    if name not in _LOADERS:
        raise BackendError(f"there is no backend '{name}'; there are {', '.join(_LOADERS)}")
    backend = _load(name)
    if isinstance(backend, BackendError):
        raise BackendError(f"backend '{name}' cannot run here: {backend}")
    return backend


def choose(device: torch.device) -> Backend:
    """The backend for tensors on ``device``: the forced one, or else the best that is here.

    Raises:
        BackendError: if the forced backend is not here or does not run on this device.
    """
    forced = _forced or os.environ.get("POCO_BACKEND")
    if forced:
        backend = _named(forced)
        if backend.devices and device.type not in backend.devices:
            raise BackendError(f"backend '{forced}' runs on {', '.join(backend.devices)}, the tensors are on {device}")
        return backend
    for name in _LOADERS:
        backend_or_error = _load(name)
        if isinstance(backend_or_error, Backend) and device.type in (backend_or_error.devices or (device.type,)):
            return backend_or_error
    raise BackendError(f"no backend runs on {device}")


class use_backend:  # noqa: N801 - reads as a verb, like torch.no_grad
    """Forces one backend for both passes, from now on or inside a ``with`` block; ``None`` gives the choice back.

    The environment variable ``POCO_BACKEND`` does the same for a whole process.

    Raises:
        BackendError: if there is no such backend or it cannot run here; the message says why.
    """

    def __init__(self, name: str | None) -> None:
        global _forced
        if name is not None:
            _named(name)
        self._before, _forced = _forced, name

    def __enter__(self) -> use_backend:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        global _forced
        _forced = self._before
