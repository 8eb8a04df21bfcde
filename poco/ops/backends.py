"""Which code runs the two passes: the backends, what each needs, and the choice between them."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from poco import core
from poco.errors import BackendError
from poco.modules import is_installed
from poco.ops import cpu, model_reference, reference

_LEAST_CAPABILITY = (8, 0)  # matrix instructions for bfloat16


def _nothing(device: torch.device) -> str:
    return ""


#: Pairs of a width and the most latents up to it.
Sizes = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Between:
    """What happens between the passes in training, by kernels.

    Attributes:
        forward: keys, values and what the backward needs, of the inputs of ``torch.ops.poco.latent_transformer``.
        backward: its gradients, of those of ``torch.ops.poco.latent_transformer_backward``.
        kept_bytes: how many bytes the backward needs, of windows and the op's inputs behind ``pooled``, its
            shape given.
        most: of a dtype that products are made of, pairs of a width and the most latents that are taken up to it.
    """

    forward: Callable[..., Any]
    backward: Callable[..., Any]
    kept_bytes: Callable[..., Any]
    most: Callable[[torch.dtype], Sizes]


@dataclass(frozen=True)
class Backend:
    """The two passes, forward and backward, what is between them, and inference by the whole model.

    Signatures are those of :mod:`poco.ops.reference` and :mod:`poco.ops.model_reference`.

    Attributes:
        name: what it is asked for by.
        devices: torch device types that it runs on; ``()`` is any.
        dtypes: of ``x`` that it takes; ``()`` is any.
        latent_pool: pass 1.
        latent_pool_backward: its gradients.
        film_forecast: pass 2.
        film_forecast_backward: its gradients.
        inference: the whole model.
        between: kernels of what is between the passes in training; None where autograd differentiates the reference.
        how: what else there is to say about it.
        lacking: what a device of those types lacks for it, in words; "" is nothing.
    """

    name: str
    devices: tuple[str, ...]
    dtypes: tuple[torch.dtype, ...]
    latent_pool: Callable[..., Any]
    latent_pool_backward: Callable[..., Any]
    film_forecast: Callable[..., Any]
    film_forecast_backward: Callable[..., Any]
    inference: Callable[..., Any]
    between: Between | None = None
    how: str = ""
    lacking: Callable[[torch.device], str] = _nothing

    def runs_on(self, device: torch.device, dtype: torch.dtype) -> bool:
        """Whether the passes can run where ``x`` is on this device and of this dtype."""
        if (self.devices and device.type not in self.devices) or (self.dtypes and dtype not in self.dtypes):
            return False
        return not self.lacking(device)


def _words(dtypes: tuple[torch.dtype, ...]) -> str:
    return ", ".join(str(dtype).removeprefix("torch.") for dtype in dtypes) or "any dtype"


def _reference() -> Backend:
    return Backend(
        "reference",
        (),
        (),
        reference.latent_pool,
        reference.latent_pool_backward,
        reference.film_forecast,
        reference.film_forecast_backward,
        model_reference.inference,
    )


def _cpu() -> Backend:
    missing = core.kernels_missing()
    if missing:
        raise BackendError(missing)
    return Backend(
        "cpu",
        ("cpu",),
        cpu.DTYPES,
        cpu.latent_pool,
        cpu.latent_pool_backward,
        cpu.film_forecast,
        cpu.film_forecast_backward,
        cpu.inference,
        Between(
            cpu.latent_transformer,
            cpu.latent_transformer_backward,
            cpu.latent_kept_bytes,
            lambda dtype: ((sys.maxsize, cpu.most_latents()),),
        ),
        f"{core.build_info()['isa']} kernels, "
        + (
            "products in the precision of the input"
            if multiplies_bfloat16(torch.device("cpu"))
            else "products in float32, as this processor has none in bfloat16"
        ),
    )


@functools.cache
def _capability(index: int) -> tuple[int, int]:
    return torch.cuda.get_device_capability(index)


def _capability_of(device: torch.device) -> tuple[int, int]:
    """Compute capability of a GPU; without an index of the one that is current."""
    return _capability(torch.cuda.current_device() if device.index is None else device.index)


def _lacking_for_triton(device: torch.device) -> str:
    capability = _capability_of(device)
    if capability >= _LEAST_CAPABILITY:
        return ""
    least, found = (".".join(map(str, c)) for c in (_LEAST_CAPABILITY, capability))
    return f"the kernels need a GPU of compute capability {least} or above, this one has {found}"


def _triton() -> Backend:
    # Triton is imported only where it can run: importing it takes long, and it asks for a driver.
    if not is_installed("triton"):
        raise BackendError("Triton is not installed: 'pip install triton', on Linux with an NVIDIA GPU")
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    names: list[str] = []
    if not interpreted:
        if not torch.cuda.is_available():
            raise BackendError("PyTorch sees no CUDA device")
        gpus = [torch.device("cuda", i) for i in range(torch.cuda.device_count())]
        names = [torch.cuda.get_device_name(gpu) for gpu in gpus if not _lacking_for_triton(gpu)]
        if not names:
            raise BackendError(_lacking_for_triton(gpus[0]))
    from poco.ops import triton

    return Backend(
        "triton",
        ("cpu",) if interpreted else ("cuda",),
        triton.DTYPES,
        triton.latent_pool,
        triton.latent_pool_backward,
        triton.film_forecast,
        triton.film_forecast_backward,
        triton.inference,
        Between(triton.latent_transformer, triton.latent_transformer_backward, triton.kept_bytes, triton.most_latents),
        "interpreted, slowly, as TRITON_INTERPRET asks" if interpreted else ", ".join(dict.fromkeys(names)),
        _nothing if interpreted else _lacking_for_triton,
    )


# In order of preference: the first that runs on the device is the default.
# A loader raises BackendError to say why not.
_LOADERS: dict[str, Callable[[], Backend]] = {"cpu": _cpu, "triton": _triton, "reference": _reference}
_loaded: dict[str, Backend | BackendError] = {}
# The innermost forced backend of this thread (or task) with what was forced outside it; None where there was none.
_Forced = tuple["str | None", "_Forced | None"]
_inside: ContextVar[_Forced | None] = ContextVar("_inside", default=None)


def forced() -> str | None:
    """The name of the backend that is forced in this thread, or by the environment for all."""
    inside = _inside.get()
    return (inside and inside[0]) or os.environ.get("POCO_BACKEND")


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
            where = " and ".join(backend.devices) or "any device"
            result[name] = (
                True,
                f"runs on {where} with {_words(backend.dtypes)}" + (backend.how and f": {backend.how}"),
            )
    return result


def _named(name: str) -> Backend:
    if name not in _LOADERS:
        raise BackendError(f"there is no backend '{name}'; there are {', '.join(_LOADERS)}")
    backend = _load(name)
    if isinstance(backend, BackendError):
        raise BackendError(f"backend '{name}' cannot run here: {backend}")
    return backend


def choose(device: torch.device, dtype: torch.dtype = torch.float32) -> Backend:
    """The backend where ``x`` is of ``dtype`` on ``device``: the forced one, or else the best that is here.

    Raises:
        BackendError: if the forced backend is not here or does not run on this device or with this dtype.
    """
    name = forced()
    if name:
        backend = _named(name)
        if not backend.runs_on(device, dtype):
            where = " and ".join(backend.devices) or "any device"
            lacking = backend.lacking(device) if device.type in backend.devices else ""
            raise BackendError(
                f"backend '{name}' runs on {where} with {_words(backend.dtypes)}; "
                f"the tensors are {_words((dtype,))} on {device}" + (lacking and f": {lacking}")
            )
        return backend
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", torch.cuda.current_device())  # which is another tomorrow
    return _default(device, dtype)


@functools.cache
def _default(device: torch.device, dtype: torch.dtype) -> Backend:
    for name in _LOADERS:
        backend_or_error = _load(name)
        if isinstance(backend_or_error, Backend) and backend_or_error.runs_on(device, dtype):
            return backend_or_error
    raise BackendError(f"no backend runs on {device} with {_words((dtype,))}")


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether products in bfloat16 are faster than in float32 there: the processor or GPU has instructions for them."""
    if device.type == "cpu":
        return core.build_info().get("isa") in ("avx512_bf16", "amx")
    if device.type != "cuda" or not torch.cuda.is_available():
        return False
    return torch.version.hip is not None or _capability_of(device) >= _LEAST_CAPABILITY


def kernels_serve(inputs: Iterable[Tensor], like: Tensor) -> bool:
    """Whether an op without a gradient is the way to go: no input wants one, and fused kernels run here.

    Args:
        inputs: all tensors that the op would be given.
        like: one of them, whose device and dtype choose the backend.

    Raises:
        BackendError: if a forced backend does not run on this device or with this dtype.
    """
    if torch.is_grad_enabled() and any(map(_wants_gradient, inputs)):
        return False
    return by_kernels(like.device, like.dtype)


def _wants_gradient(tensor: Tensor) -> bool:
    """Whether it requires a gradient, or what ``torch.func`` has wrapped in it does."""
    if tensor.requires_grad or torch.compiler.is_compiling():
        return tensor.requires_grad
    functorch = torch._C._functorch
    return functorch.is_functorch_wrapped_tensor(tensor) and _wants_gradient(functorch.get_unwrapped(tensor))


def by_kernels(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether fused kernels, of whatever backend, run where ``x`` is of ``dtype`` on ``device``."""
    return choose(device, dtype).name != "reference"


def by_cpu_kernels(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether the CPU kernels run where ``x`` is of ``dtype`` on ``device``."""
    return choose(device, dtype).name == "cpu"


def between(device: torch.device, dtype: torch.dtype, products: torch.dtype) -> tuple[str, Sizes]:
    """The backend whose kernels do what is between the passes, and for which sizes; "" and none if none does.

    Args:
        device: of the latents.
        dtype: theirs.
        products: dtype that products are made of.
    """
    backend = choose(device, dtype)
    return (backend.name, backend.between.most(products)) if backend.between else ("", ())


def between_of(name: str) -> Between:
    """The kernels of a backend that has such."""
    found = _named(name).between
    assert found is not None
    return found


# What torch.compiler.assume_constant_result does, without the second that importing the compiler takes. Compiled code
# keeps the answer; it calls ops, which choose when they are called.
_ANSWERS: tuple[Any, ...] = (by_kernels, by_cpu_kernels, between)
for _answer in _ANSWERS:
    _answer._dynamo_marked_constant = True


class use_backend:  # noqa: N801 - reads as a verb, like torch.no_grad
    """Forces one backend for both passes, from now on or inside a ``with`` block; ``None`` gives the choice back.

    It holds in this thread, as ``torch.set_grad_enabled`` does, and a gradient is computed by what was forced for its
    forecast. The environment variable ``POCO_BACKEND`` does the same for a whole process.

    Raises:
        BackendError: if there is no such backend or it cannot run here; the message says why.
    """

    def __init__(self, name: str | None) -> None:
        if name is not None:
            _named(name)
        self._name = name
        self._made: _Forced | None = (name, _inside.get())
        _inside.set(self._made)

    def __enter__(self) -> use_backend:
        if _inside.get() is not self._made:  # used again, or in another thread than it was made in
            _inside.set((self._name, _inside.get()))
        self._made = None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        inside = _inside.get()
        _inside.set(inside and inside[1])
