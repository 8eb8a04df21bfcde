"""Who takes part: the published form, run in every way that PyTorch and ONNX Runtime offer, and our two passes."""

from __future__ import annotations

import contextlib
import copy
import importlib.util
import logging
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import poco
from benchmarks.cases import ADAPTATION, FORWARD, TRAINING, Case
from benchmarks.inputs import Inputs
from benchmarks.published import PublishedPOCO
from benchmarks.two_passes import TwoPasses

FLOAT32, AUTOCAST, BFLOAT16 = "float32", "autocast", "bfloat16"
EAGER, COMPILED, ONNX, STREAMED = "eager", "compiled", "ONNX Runtime", "streamed"
_LEARNING_RATE = {TRAINING: 3e-4, ADAPTATION: 2e-2}


@dataclass(frozen=True)
class Contestant:
    """A way to compute a case.

    Attributes:
        form: ``published``, or ``poco`` and ``reference``, the backends of our two passes.
        precision: FLOAT32, AUTOCAST (float32 parameters, products in bfloat16), BFLOAT16 (all in bfloat16).
        how: EAGER, COMPILED (``torch.compile``), ONNX, or STREAMED: a frame pushed into :class:`poco.Stream`.
    """

    form: str
    precision: str
    how: str = EAGER

    @property
    def name(self) -> str:
        """What tables call it."""
        return " ".join([self.form, self.precision, *([] if self.how == EAGER else [self.how])])

    @property
    def dtype(self) -> str:
        """The precision of its products."""
        return FLOAT32 if self.precision == FLOAT32 else BFLOAT16

    def missing(self) -> str | None:
        """Why it cannot run on this machine; None where it can."""
        if self.how == ONNX:
            lacking = [name for name in ("onnx", "onnxscript", "onnxruntime") if not importlib.util.find_spec(name)]
            return f"{', '.join(lacking)} not installed: pip install 'poco-forecast[benchmarks]'" if lacking else None
        if self.how == COMPILED and not any(map(shutil.which, ("c++", "g++", "clang++"))):
            return "torch.compile needs a C++ compiler"
        backends = poco.info()["backends"]
        if self.form == "poco" and not backends["cpu"]["available"]:
            return str(backends["cpu"]["reason"])
        return None

    def takes(self, case: Case) -> bool:
        """Whether the case is meant for it: gradients in bfloat16 are autocast's, ONNX Runtime has none."""
        if case.scaling and (self.form != "poco" or self.how != EAGER):
            return False
        if self.how == STREAMED:
            return case.part == "model" and case.mode == FORWARD and case.windows == 1
        if case.gradients:
            return self.precision != BFLOAT16 and self.how != ONNX
        return not (self.form == "poco" and self.precision == AUTOCAST)


CONTESTANTS = (
    Contestant("published", FLOAT32),
    Contestant("published", AUTOCAST),
    Contestant("published", BFLOAT16),
    Contestant("published", FLOAT32, COMPILED),
    Contestant("published", AUTOCAST, COMPILED),
    Contestant("published", BFLOAT16, COMPILED),
    Contestant("published", FLOAT32, ONNX),
    Contestant("reference", FLOAT32),
    Contestant("poco", FLOAT32),
    Contestant("poco", FLOAT32, COMPILED),
    Contestant("poco", AUTOCAST),
    Contestant("poco", BFLOAT16),
    Contestant("poco", FLOAT32, STREAMED),
    Contestant("poco", BFLOAT16, STREAMED),
)


def forget_compiled() -> None:
    """Drops compiled code: contestants share source lines, and a line may be compiled only so many times."""
    torch._dynamo.reset()
    torch._dynamo.config.recompile_limit = 64


class Part(nn.Module):
    """The part of a form that a case is about, as a function of activity and, in pass 2, latents."""

    def __init__(self, form: PublishedPOCO | TwoPasses, part: str) -> None:
        super().__init__()
        self.form, self.part = form, part

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        if self.part == "latent_pool":
            return self.form.encode(x)
        if self.part == "film_forecast":
            return self.form.decode(x, z)
        return self.form(x)  # type: ignore[no-any-return]


class Entry:
    """A contestant made ready for a case."""

    def __init__(self, contestant: Contestant, case: Case, inputs: Inputs) -> None:
        self.contestant, self.case, self.inputs = contestant, case, inputs
        low = contestant.precision == BFLOAT16
        model = copy.deepcopy(inputs.model) if low or case.steps else inputs.model
        self.x, self.z = inputs.x, inputs.z.clone()
        if low:
            model, self.x, self.z = model.bfloat16(), self.x.bfloat16(), self.z.bfloat16()
        self.z.requires_grad_(case.gradients and case.part == "film_forecast")
        form = PublishedPOCO(model) if contestant.form == "published" else TwoPasses(model)
        self.part = Part(form, case.part).eval()
        own = {id(parameter) for parameter in model.session_parameters(0)}
        for parameter in self.part.parameters():
            parameter.requires_grad_(case.gradients and (case.mode != ADAPTATION or id(parameter) in own))
        self.run: Callable[..., Any] = self.part
        if contestant.how == COMPILED:
            # One graph or an error, never eager code under this name.
            self.run = torch.compile(self.part, fullgraph=True, dynamic=False)
        elif contestant.how == ONNX:
            self.run = onnx_session(self.part, self.x, self.z)
        elif contestant.how == STREAMED:
            self.run = Streamed(inputs.model, inputs.x, contestant.precision)
        self.optimiser = self._optimiser() if case.steps else None

    def _optimiser(self) -> torch.optim.Optimizer:
        fitted = [p for p in self.part.parameters() if p.requires_grad]
        rate = _LEARNING_RATE[self.case.mode]
        return torch.optim.AdamW(fitted, lr=rate, weight_decay=1e-4, amsgrad=True, fused=True)

    @contextlib.contextmanager
    def _context(self) -> Any:
        with contextlib.ExitStack() as stack:
            if self.contestant.form != "published":
                backend = "cpu" if self.contestant.form == "poco" else self.contestant.form
                stack.enter_context(poco.ops.use_backend(backend))
            if self.contestant.precision == AUTOCAST:
                stack.enter_context(torch.autocast("cpu", torch.bfloat16))
            if not self.case.gradients:
                stack.enter_context(torch.inference_mode())
            yield

    def call(self) -> None:
        """Does what is timed, once."""
        if not self.case.steps:
            self._compute()
            return
        assert self.optimiser is not None
        self.part.train()
        self._compute()
        torch.nn.utils.clip_grad_norm_([p for p in self.part.parameters() if p.requires_grad], 5.0)
        self.optimiser.step()

    def answer(self) -> tuple[Tensor, dict[str, Tensor]]:
        """The output, and gradients by name (none forward), without dropout and optimiser."""
        self.part.eval()
        if isinstance(self.run, Streamed):
            return self.run.window(), {}
        output = self._compute().detach().float()
        gradients = {}
        if self.case.gradients:
            gradients = {name: gradient.detach().float() for name, gradient in self.part.form.gradients().items()}
            if self.z.grad is not None:
                gradients["z"] = self.z.grad.float()
            self.forget()
        return output, gradients

    def _compute(self) -> Tensor:
        self.forget()
        with self._context():
            output: Tensor = self.run(self.x, self.z)
            loss = nn.functional.mse_loss(output.float(), self.inputs.target) if self.case.steps else None
        if loss is not None:
            loss.backward()
        elif self.case.gradients:
            output.backward(self.inputs.target.to(output.dtype))
        return output

    def forget(self) -> None:
        """Lets go of the gradients."""
        if self.case.gradients:
            self.part.zero_grad(set_to_none=True)
            self.z.grad = None


class Streamed:
    """The streaming engine, given the frames of a window ``[1, N, C]`` over and over: a forecast for each frame."""

    def __init__(self, model: poco.POCO, x: Tensor, precision: str) -> None:
        names = {FLOAT32: "float32", BFLOAT16: "bf16"}
        self.frames = np.ascontiguousarray(x[0].T.numpy())
        self.stream = poco.Stream(model, precision=names[precision], threads=torch.get_num_threads(), device="cpu")
        self.window()

    def __call__(self, *_: Tensor) -> Tensor:
        self.pushed += 1
        return self._push(self.frames[self.pushed % len(self.frames)])

    def window(self) -> Tensor:
        """``[1, N, H]``: the forecast of the whole window."""
        for frame in self.frames:
            forecast = self._push(frame)
        self.pushed = -1
        return forecast

    def _push(self, frame: np.ndarray) -> Tensor:
        values = self.stream.push(frame).values
        return torch.from_numpy(values)[None] if values is not None else torch.empty(0)


def onnx_session(part: Part, x: Tensor, z: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """ONNX Runtime on the exported part, shapes fixed, as many threads as torch has."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    for name in ("torch.onnx", "onnxscript"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(None):
        path = Path(folder) / "part.onnx"
        torch.onnx.export(part, (x, z), path, dynamo=True, verbose=False)
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_inputs()]
    values = {"x": x.numpy(), "z": z.numpy()}

    def run(x: Tensor, z: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {name: values[name] for name in names})[0])

    return run
