"""The training loop: plain, deterministic, and able to continue exactly where it was killed."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from poco.data.splits import Split
from poco.data.windows import Packer, ShuffledWindows, vocabulary
from poco.errors import CheckpointError, ConfigError, PocoError
from poco.graphs import GradientGraph
from poco.nn import POCO
from poco.training.callbacks import Callback, check_callbacks
from poco.training.checkpoint import (
    Checkpoint,
    load_checkpoint,
    load_optimizer,
    optimizer_tensors,
    save_checkpoint,
    take,
)
from poco.training.config import TrainConfig
from poco.training.interrupt import Interrupted, SignalWatch
from poco.training.schedule import learning_rate
from poco.training.seeds import drawing
from poco.training.validation import check_forecaster, errors_of, trained_apart, training_loss


class DivergedError(PocoError):
    """The training loss is no longer a finite number."""


@dataclass
class History:
    """What happened during training.

    Attributes:
        records: one entry per logged loss (``step``, ``loss``, the mean over data sets and over parts that are trained
            apart, ``learning_rate``, ``seconds``) and per validation (``step``, ``val_mse``, ``best``, ``seconds``), in
            order.
        step: steps done.
        best_steps: step with the lowest validation error of each part that is trained apart, by name; most models are
            one part without a name.
        best_errors: that error, by the criterion of the settings.
        since_best: validations since the last that was the best of any part.
        stopped: why training ended: ``"steps"``, ``"patience"``, or ``""`` while it has not.
        seconds: time spent in the loop, over all resumptions.
    """

    records: list[dict[str, Any]] = field(default_factory=list)
    step: int = 0
    best_steps: dict[str, int] = field(default_factory=dict)
    best_errors: dict[str, float] = field(default_factory=dict)
    since_best: int = 0
    stopped: str = ""
    seconds: float = 0.0

    @property
    def best_step(self) -> int:
        """The last step that best weights are from; 0 before the first validation."""
        return max(self.best_steps.values(), default=0)


def fit(
    model: nn.Module,
    split: Split,
    config: TrainConfig,
    *,
    callbacks: Sequence[Callback] = (),
    checkpoint: str | Path | None = None,
    resume: bool = False,
    labels: Mapping[str, Any] | None = None,
) -> History:
    """Train a forecaster on the training part of a split and leave it with its best weights.

    Parameters that do not require a gradient stay as they are. Buffers that training changes, such as running means of
    a batch, are kept and put back with the weights. The best weights are those with the lowest squared error
    over all validation windows, by the criterion of the settings. Parts of a model that are trained apart, each on its
    own error (``trained_apart() -> {name: prefix of its parameters}``, ``each_packed(batch) -> [forecasts [R, H]]``),
    keep the best weights of each. The caller's random state is left as it was. A POCO that does not know yet how its
    sessions are normalised is told.

    Args:
        model: an ``nn.Module`` with ``forward_packed(batch) -> [R, H]``; one with a vocabulary of sessions must know
            every session of the split.
        split: recordings, parts and statistics.
        config: settings.
        callbacks: what may watch.
        checkpoint: file to save the state in, at each validation, every ``checkpoint_seconds`` and on SIGINT and
            SIGTERM. None: nothing is saved and signals are left alone.
        resume: continue from ``checkpoint`` if it is there; on the CPU, and with as many threads, the result then
            equals that of a run never interrupted, bit for bit.
        labels: what every record begins with.

    Returns:
        What happened.

    Raises:
        CheckpointError: if the checkpoint cannot be read, does not belong to this run, or cannot be written.
        DivergedError: if the loss is no longer finite.
        Interrupted: after SIGINT or SIGTERM, when the state has been saved.
        ConfigError: if no parameter requires a gradient, the model has no ``forward_packed``, its forecast does not
            hang on them, or another argument is not of its kind.
        ShapeError: if a forecast is not ``[R, H]``.
    """
    check_forecaster(model, "what is trained")
    check_callbacks(callbacks)
    if not isinstance(split, Split):
        raise ConfigError(f"what is trained on is a split, poco.split(recordings), got {type(split).__name__}")
    if not isinstance(config, TrainConfig):
        raise ConfigError(f"the settings of the loop are a poco.TrainConfig, got {type(config).__name__}")
    checkpoint = None if checkpoint is None else Path(checkpoint)
    config = config.for_sessions(len(split.recordings))
    device = config.torch_device()
    with drawing(config.seed, "dropout", device):
        loop = _Loop(model, split, config, device, callbacks, labels or {})
        if resume and checkpoint is not None and checkpoint.exists():
            loop.restore(checkpoint)
        loop.run(checkpoint)
    if isinstance(model, POCO):
        for recording, mean, std in zip(split.recordings, split.mean, split.std, strict=True):
            if not model.is_normalised(recording.session):
                model.set_normalisation(recording.session, mean.copy(), std.copy())
    return loop.history


class _Loop:
    """Model, optimiser, sampler, averages and best weights of one run of :func:`fit`."""

    def __init__(
        self,
        model: nn.Module,
        split: Split,
        config: TrainConfig,
        device: torch.device,
        callbacks: Sequence[Callback],
        labels: Mapping[str, Any],
    ) -> None:
        assert config.steps is not None
        assert config.batch_size is not None
        assert config.val_stride is not None
        self.model, self.config, self.device, self.callbacks = model.to(device), config, device, callbacks
        self.steps, self.labels = config.steps, labels
        self.parameters: dict[str, torch.Tensor] = {n: p for n, p in model.named_parameters() if p.requires_grad}
        if not self.parameters:
            raise ConfigError("the model has no parameter to train: every one has requires_grad off")
        self.optimizer = torch.optim.AdamW(
            self.parameters.values(),
            lr=config.learning_rate,
            weight_decay=config.weight_decay,
            amsgrad=config.amsgrad,
            fused=all(p.is_floating_point() for p in self.parameters.values()),
        )
        self.packer = Packer(split, vocabulary(model))
        self.graph: GradientGraph | None = None
        if config.loss == "mse" and isinstance(model, POCO) and GradientGraph.serves(model):
            most = config.batch_size * int(self.packer.units.max())
            self.graph = GradientGraph(model, most, config.batch_size, config.precision)
        self.sampler = ShuffledWindows(split, config.batch_size, config.seed)
        self.validation = split.windows("val", config.val_stride)
        self.split = split
        kept = model.state_dict()
        self.first = {n: b.clone() for n, b in model.named_buffers() if n in kept}  # what training began with
        self.best_buffers = dict(self.first)
        self.average = self._copy() if config.ema is not None else None
        self.best = self._copy()
        self.history = History()
        self.loss_sum = torch.zeros((), dtype=torch.float64, device=device)
        self.loss_count = 0
        self.began = 0.0

    def run(self, checkpoint: Path | None) -> None:
        history = self.history
        self.began = time.monotonic() - history.seconds
        saved_at = time.monotonic()
        for callback in self.callbacks:
            callback.start(history.step, self.steps)
        self.model.train()
        try:
            with SignalWatch(enabled=checkpoint is not None) as watch:
                if self.config.val_first and history.step == 0:
                    self.validate()
                while not history.stopped:
                    self.step()
                    if self.history.step % self.config.log_every == 0 or self.history.step == self.steps:
                        self.log()
                    validated = history.step % self.config.val_every == 0 or history.step == self.steps
                    if validated:
                        self.validate()
                    due = validated or time.monotonic() - saved_at > self.config.checkpoint_seconds
                    if checkpoint is not None and (due or watch.received is not None):
                        self.save(checkpoint)
                        saved_at = time.monotonic()
                    if watch.received is not None:
                        raise Interrupted(
                            f"interrupted at step {history.step} of {self.steps}: the state is saved in "
                            f"{checkpoint}; resume to continue",
                            watch.received,
                        )
            _copy_into(self.parameters, self.best)
            _copy_into(self._moved(), self.best_buffers)
        finally:
            history.seconds = time.monotonic() - self.began
            self.model.eval()
            for callback in self.callbacks:
                callback.end(history)

    def step(self) -> None:
        """One optimiser step over one batch of each data set: losses are summed, what is recorded is their mean."""
        step = self.history.step + 1
        rate = learning_rate(self.config, step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=self.graph is None)
        batches = self.sampler.next()
        for windows in batches:
            if self.graph is not None:
                loss = self.graph.loss(self.packer.pack(windows))
            else:
                batch = self.packer.pack(windows).to(self.device)
                loss = training_loss(self.model, batch, self.config.precision, self.config.loss)
                if not loss.requires_grad:
                    kind = type(self.model).__name__
                    raise ConfigError(f"the forecast of {kind} does not hang on its parameters: was it detached?")
                loss.backward()  # type: ignore[no-untyped-call]
            self.loss_sum += loss.detach() / len(batches)
        if self.config.clip is not None:
            torch.nn.utils.clip_grad_norm_(self.parameters.values(), self.config.clip)
        self.optimizer.step()
        if self.average is not None:
            assert self.config.ema is not None
            with torch.no_grad():
                for name, parameter in self.parameters.items():
                    self.average[name].lerp_(parameter, 1.0 - self.config.ema)
        self.loss_count += 1
        self.history.step = step

    def log(self) -> None:
        """Record the mean training loss since the last record; of parts that are trained apart, their mean."""
        loss = float(self.loss_sum) / self.loss_count / len(trained_apart(self.model))
        if not math.isfinite(loss):
            raise DivergedError(
                f"the training loss is not finite at step {self.history.step}: "
                "lower the learning rate, add warm-up, or clip gradients"
            )
        self.loss_sum.zero_()
        self.loss_count = 0
        self._record("log", loss=loss, learning_rate=self.optimizer.param_groups[0]["lr"])

    def validate(self) -> None:
        """Error over all validation windows; keep the weights if they are the best so far."""
        history, weights = self.history, self.average
        trained = self._copy()  # put back at the end
        if weights is not None:
            _copy_into(self.parameters, weights)
        found = errors_of(self.model, self.packer, self.validation, device=self.device, precision=self.config.precision)
        errors, judged = found.pooled(), found.pooled() if self.config.criterion == "pooled" else found.relative()
        if not all(map(math.isfinite, errors)):
            raise DivergedError(f"the validation error is not finite at step {history.step}: lower the learning rate")
        better = False
        for (part, prefix), error in zip(trained_apart(self.model).items(), judged, strict=True):
            if error < history.best_errors.get(part, math.inf):
                history.best_errors[part], history.best_steps[part], better = error, history.step, True
                self.best |= {n: p.detach().clone() for n, p in self.parameters.items() if n.startswith(prefix)}
                self.best_buffers |= {n: b.clone() for n, b in self._moved(prefix).items()}
        history.since_best = 0 if better else history.since_best + 1
        if better:
            _copy_into(self.parameters, self.best)
        if history.step >= self.steps:
            history.stopped = "steps"
        elif self.config.patience is not None and history.since_best >= self.config.patience:
            history.stopped = "patience"
        # Callbacks see the weights that were validated; parts that were better before as they were then.
        self._record("validated", val_mse=math.fsum(errors) / len(errors), best=better)
        _copy_into(self.parameters, trained)

    def save(self, path: Path) -> None:
        """Save everything that the next step depends on."""
        history = self.history
        history.seconds = time.monotonic() - self.began
        tensors = {f"model/{name}": p for name, p in self.parameters.items()}
        tensors |= {f"best/{name}": p for name, p in self.best.items()}
        tensors |= {f"average/{name}": p for name, p in (self.average or {}).items()}
        for name, buffer in self._moved().items():
            tensors |= {f"buffer/{name}": buffer, f"best_buffer/{name}": self.best_buffers[name]}
        tensors |= {f"optimizer/{name}": p for name, p in optimizer_tensors(self.optimizer).items()}
        tensors["random/cpu"] = torch.get_rng_state()
        if self.device.type == "cuda":
            tensors["random/cuda"] = torch.cuda.get_rng_state(self.device)
        values = {
            "config": self.config.to_json(),
            "sampler": self.sampler.state_dict(),
            "split": self.split.key_of_frames,
            "threads": torch.get_num_threads(),
            "loss_sum": float(self.loss_sum),
            "loss_count": self.loss_count,
            "history": vars(history),
        }
        save_checkpoint(path, Checkpoint("training", tensors, values))

    def restore(self, path: Path) -> None:
        """Continue from a saved state."""
        saved = load_checkpoint(path, "training")
        try:
            self._restore(path, saved)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            if isinstance(error, PocoError):
                raise
            raise CheckpointError(f"{path} does not fit this model: {str(error).splitlines()[0]}") from error

    def _restore(self, path: Path, saved: Checkpoint) -> None:
        self._check_config(path, saved)
        if saved.values.get("split") != self.split.key_of_frames:
            raise CheckpointError(
                f"{path} is of training on other recordings, parts or sizes: start again, or use those"
            )
        self.sampler.load_state_dict(saved.values["sampler"])
        for prefix, into in (("model/", self.parameters), ("best/", self.best), ("average/", self.average)):
            if into is None:
                continue
            tensors = take(saved.tensors, prefix)
            if {n: t.shape for n, t in tensors.items()} != {n: t.shape for n, t in into.items()}:
                raise CheckpointError(
                    f"{path} belongs to a model with other parameters: start again, or use that model"
                )
            _copy_into(into, tensors)
        buffers = dict(self.model.named_buffers())
        for name, buffer in take(saved.tensors, "buffer/").items():
            if name not in buffers or buffers[name].shape != buffer.shape:
                raise CheckpointError(f"{path} belongs to a model with other buffers: start again, or use that model")
            buffers[name].copy_(buffer)
        self.best_buffers |= {n: b.to(self.device) for n, b in take(saved.tensors, "best_buffer/").items()}
        load_optimizer(self.optimizer, take(saved.tensors, "optimizer/"))
        torch.set_rng_state(saved.tensors["random/cpu"])
        if self.device.type == "cuda" and "random/cuda" in saved.tensors:
            torch.cuda.set_rng_state(saved.tensors["random/cuda"], self.device)
        self.history = History(**saved.values["history"])
        self.loss_sum.fill_(saved.values["loss_sum"])
        self.loss_count = saved.values["loss_count"]
        if self.history.stopped == "steps" and self.history.step < self.steps:
            self.history.stopped = ""  # a finished run is given more steps
        if saved.values["threads"] != torch.get_num_threads():
            for callback in self.callbacks:
                callback.message(
                    f"note: the run was started with {saved.values['threads']} threads and goes on with "
                    f"{torch.get_num_threads()}: results may differ in the last digits"
                )

    def _check_config(self, path: Path, saved: Checkpoint) -> None:
        before, now = TrainConfig.from_json(saved.values["config"]), self.config
        changed = config_changes(before, now)
        if changed:
            raise CheckpointError(f"cannot resume from {path} with other settings: {'; '.join(changed)}")

    def _record(self, kind: str, **values: Any) -> None:
        record = {
            **self.labels,
            "step": self.history.step,
            **values,
            "seconds": round(time.monotonic() - self.began, 3),
        }
        self.history.records.append(record)
        for callback in self.callbacks:
            getattr(callback, kind)(record)

    def _moved(self, prefix: str = "") -> dict[str, torch.Tensor]:
        """Buffers below a prefix that are no longer what training began with; most models have none.

        Those that no state dict holds, that come on the way, or that grow, are caches of the model's own.
        """
        own = {n: b for n, b in self.model.named_buffers() if n.startswith(prefix) and n in self.first}
        return {n: b for n, b in own.items() if b.shape == self.first[n].shape and not torch.equal(b, self.first[n])}

    def _copy(self) -> dict[str, torch.Tensor]:
        return {name: p.detach().clone() for name, p in self.parameters.items()}


#: Settings that do not change the result of training, so a run may go on with others.
_FREE = ("log_every", "checkpoint_seconds", "device")


def config_changes(before: TrainConfig, now: TrainConfig) -> list[str]:
    """What keeps a run from going on under other settings, one text per setting.

    With a constant learning rate the number of steps may grow.
    """
    changes = []
    for name, old in before.to_json().items():
        new = getattr(now, name)
        grows = name == "steps" and now.schedule == "constant" and (new or 0) >= (old or 0)
        if new != old and name not in _FREE and not grows:
            changes.append(f"{name} was {old}, now {new}")
    return changes


@torch.no_grad()
def _copy_into(targets: dict[str, torch.Tensor], values: dict[str, torch.Tensor]) -> None:
    for name, target in targets.items():
        target.copy_(values[name])
