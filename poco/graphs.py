"""Inference and gradients as CUDA graphs: one launch instead of dozens, so small kernels cost nothing to start."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from poco.data.packed import PackedBatch
from poco.errors import BackendError, ConfigError, ShapeError
from poco.models import model_of
from poco.nn.model import POCO
from poco.ops.backends import choose

if TYPE_CHECKING:
    from poco.run import Run

_WARM_UPS = 3  # calls before the recording: kernels are compiled and libraries make their work space


def record(call: Callable[[], Tensor]) -> tuple[torch.cuda.CUDAGraph, Tensor]:
    """A graph of the call and its result, which every replay overwrites; on the current device."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(_WARM_UPS):
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = call()
    return graph, result


def _expect_triton(model: POCO) -> None:
    device, dtype = model.latents.device, model.latents.dtype
    if device.type != "cuda":
        raise BackendError(f"CUDA graphs need a model on a CUDA device, this one is on {device}: model.cuda()")
    backend = choose(device, dtype).name
    if backend != "triton":
        raise BackendError(f"CUDA graphs need the backend 'triton'; on {device} with {dtype} it is '{backend}'")


@torch.no_grad()
def _bind(parameters: Sequence[nn.Parameter], gradients: Sequence[Tensor]) -> None:
    """Makes these the ``.grad`` of the parameters, with the numbers of those that were there; 0 where none was."""
    for parameter, gradient in zip(parameters, gradients, strict=True):
        if parameter.grad is gradient:
            continue
        if parameter.grad is None:
            gradient.zero_()
        else:
            gradient.copy_(parameter.grad)
        parameter.grad = gradient


class InferenceGraph:
    """Forecasts of one session as one CUDA graph.

    What does not depend on the activity (queries of the latents, the folded shift, angles, weights in the order of the
    kernels) is made once. After the model or its embeddings have changed, call :meth:`warmup` again.

    Args:
        model: a POCO in evaluation mode on a CUDA device, float32 or bfloat16; or a run of one, or a folder of either
            (:func:`poco.load`), which is loaded onto the current CUDA device.
        session: name or index of the session; None: the only one.
        windows: windows of a call.

    Raises:
        BackendError: if the model is not where the Triton kernels run.
        VocabularyError: if the model does not know the session, or several and none was chosen.
        ConfigError: if it is no POCO, or one that has no fused form.
        CheckpointError: if the folder holds no model.
    """

    def __init__(self, model: POCO | Run | str | Path, session: int | str | None = None, windows: int = 1) -> None:
        found = model_of(model, "what a CUDA graph is recorded of")
        if isinstance(model, (str, Path)) and torch.cuda.is_available():
            found = found.cuda()
        if not isinstance(found, POCO):
            raise ConfigError(f"a CUDA graph is recorded of a POCO, not of a model of kind {type(found).__name__}")
        _expect_triton(found)
        self.model, self.session = found, found.session_index(session)
        units, config, like = len(found.sessions[self.session].units), found.config, found.latents
        self.x = like.new_zeros(windows, units, config.context)
        self._unit_index = torch.arange(units, dtype=torch.int32, device=like.device).repeat(windows)
        self._offsets = torch.arange(windows + 1, dtype=torch.int32, device=like.device) * units
        self._graph: torch.cuda.CUDAGraph | None = None
        self._forecast = like.new_empty(windows, units, config.horizon)

    @torch.no_grad()
    def warmup(self) -> InferenceGraph:
        """Compiles the kernels, prepares the model as it now is and records the graph; returns itself."""
        from poco.kernels import inference

        seen = self.model.config.seen
        prepared = inference.prepare(*self.model.inference_inputs(self.session), context=seen)

        def call() -> Tensor:
            rows = self.x[..., -seen:].flatten(0, 1)
            return inference.run(prepared, rows, self._unit_index, self._offsets)

        with torch.cuda.device(self.x.device):
            self._graph, forecast = record(call)
        self._prepared = prepared  # the graph reads it
        self._forecast = forecast.view(self._forecast.shape)
        return self

    def __call__(self, x: Tensor) -> Tensor:
        """Forecasts windows of the session.

        Args:
            x: ``[B, N, C]`` normalised activity, on any device; it is copied into ``self.x`` before this returns.

        Returns:
            ``[B, N, H]`` normalised forecasts in the dtype of the model. The next call overwrites them.

        Raises:
            ShapeError: if windows, units or frames are not what the graph was made for.
        """
        if x.shape != self.x.shape:
            raise ShapeError(f"the graph takes {list(self.x.shape)}, got {list(x.shape)}")
        if self._graph is None:
            self.warmup()
        self.x.copy_(x)
        return self.replay()

    def replay(self) -> Tensor:
        """Forecasts what is in ``self.x``, as a call does."""
        if self._graph is None:
            self.warmup()
        assert self._graph is not None
        with torch.cuda.device(self.x.device):
            self._graph.replay()
        return self._forecast


class GradientGraph:
    """Mean squared error of a model's forecasts, and the gradients of its parameters, as one CUDA graph.

    Batches of any sessions are padded to a fixed number of rows and windows; the padding has no part in the loss or
    in any gradient.

    The graph adds to tensors of its own and makes them ``.grad``. Where a call finds another tensor there, or None, as
    ``zero_grad()`` leaves it, it copies that into its own and makes its own ``.grad`` again;
    ``zero_grad(set_to_none=False)`` spares it that.

    Args:
        model: a POCO on a CUDA device, in training mode.
        rows: most rows of a batch.
        windows: most windows of a batch.
        precision: ``"float32"`` or ``"bf16"`` (autocast).

    Raises:
        BackendError: if the model is not where the Triton kernels run.
    """

    def __init__(self, model: POCO, rows: int, windows: int, precision: str = "float32") -> None:
        _expect_triton(model)
        self.model, self.precision = model, precision
        device, config = model.latents.device, model.config
        self.rows, self.windows = rows, windows
        self._x = torch.zeros(rows, config.context, device=device)
        self._target = torch.zeros(rows, config.horizon, device=device)
        self._unit_index = torch.zeros(rows, dtype=torch.int32, device=device)
        self._offsets = torch.zeros(windows + 2, dtype=torch.int32, device=device)  # one more window for the padding
        self._window_session = torch.zeros(windows + 1, dtype=torch.int64, device=device)
        self._weight = torch.zeros(rows, 1, device=device)  # 1 / elements, 0 in the padding
        self._graph: torch.cuda.CUDAGraph | None = None
        self._parameters: list[nn.Parameter] = []
        self._gradients: list[Tensor] = []  # what the graph adds to
        self._loss = torch.zeros((), device=device)

    @staticmethod
    def serves(model: object) -> bool:
        """Whether this model's training can be recorded: no shape depends on chance, and kernels do all of it."""
        if not isinstance(model, POCO) or model.latents.device.type != "cuda":
            return False
        plain = model.config.film_depth == 1 and not model.config.unit_dropout
        return plain and choose(model.latents.device, model.latents.dtype).name == "triton"

    def loss(self, batch: PackedBatch) -> Tensor:
        """The loss of a batch, a scalar that the next call overwrites; gradients are added to ``.grad``.

        A batch in pinned memory is still being read when this returns: it must not change before the loss is there.

        Raises:
            ShapeError: if the batch has no target, or more rows or windows than the graph was made for.
        """
        self._fill(batch)
        with torch.cuda.device(self._x.device):
            if self._graph is None:
                self._warmup()
            assert self._graph is not None
            _bind(self._parameters, self._gradients)
            self._graph.replay()
        return self._loss

    def _fill(self, batch: PackedBatch) -> None:
        rows, windows = batch.x.shape[0], batch.window_session.shape[0]
        if batch.target is None:
            raise ShapeError("a loss needs a batch with a target")
        if rows > self.rows or windows > self.windows:
            raise ShapeError(
                f"the graph was made for {self.rows} rows in {self.windows} windows, got {rows} in {windows}"
            )
        self._x[:rows].copy_(batch.x, non_blocking=True)
        self._target[:rows].copy_(batch.target, non_blocking=True)
        self._unit_index[:rows].copy_(batch.unit_index, non_blocking=True)
        for padded in (self._x, self._target, self._unit_index):
            padded[rows:].zero_()  # of an earlier batch; a weight of 0 would not hide what is not finite
        self._offsets[: windows + 1].copy_(batch.window_offsets, non_blocking=True)
        self._offsets[windows + 1 : -1].fill_(rows)
        self._offsets[-1].fill_(self.rows)
        self._window_session[:windows].copy_(batch.window_session, non_blocking=True)
        self._weight.zero_()
        self._weight[:rows].fill_(1 / max(1, batch.target.numel()))

    def _backward(self) -> Tensor:
        batch = PackedBatch(self._x, self._unit_index, self._offsets, self._window_session, self._target)
        with torch.autocast("cuda", torch.bfloat16, enabled=self.precision == "bf16"):
            forecast = self.model.forward_packed(batch)
        loss = ((forecast.float() - self._target).square() * self._weight).sum()
        # Added at once: what autograd adds to .grad by itself is a kernel for each parameter.
        gradients = torch.autograd.grad(loss, self._parameters, allow_unused=True)
        there = [(mine, g) for mine, g in zip(self._gradients, gradients, strict=True) if g is not None]
        torch._foreach_add_([mine for mine, _ in there], [g for _, g in there])
        return loss.detach()

    def _warmup(self) -> None:
        """Records the graph; what gradients there are stay as they are."""
        self._parameters = [p for p in self.model.parameters() if p.requires_grad]
        self._gradients = [torch.zeros_like(p) for p in self._parameters]
        state = torch.cuda.get_rng_state(self._x.device)
        self._graph, self._loss = record(self._backward)
        self._frequencies = (
            self.model.rotary.frequencies
        )  # as long as they are there, so is what the graph reads of them
        torch.cuda.set_rng_state(state, self._x.device)
