"""A forecaster on the ground: ``forecast = ground + residuals``."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from poco.data.packed import PackedBatch
from poco.data.splits import Split
from poco.data.windows import Packer
from poco.errors import ConfigError
from poco.ground.config import GroundConfig
from poco.ground.estimator import CrossFit, Fitted
from poco.ground.model import FORMS, Ground, Parts, by_session
from poco.ground.penalties import USUAL, Penalties
from poco.ground.population import PopulationResidual
from poco.ground.residual import Residual
from poco.nn import files, vocabulary
from poco.nn.vocabulary import SessionSpec

#: Training windows from which on a residual that reads the whole population is worth its time.
POPULATION_WINDOWS = 4000
_SCALE_WINDOWS = 256  # training windows that the scale of the conditions is measured on


@dataclass(frozen=True)
class GroundedConfig(GroundConfig):
    """Sizes of a forecaster on the ground.

    Attributes:
        width: hidden units of the residuals.
        population: whether there is a residual that reads the whole population, beside the one that does not. None:
            training has one where the training part has :data:`POPULATION_WINDOWS` windows.
    """

    width: int = 256
    population: bool | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.width < 1:
            raise ConfigError(f"width must be at least 1, got {self.width}")

    @property
    def ground(self) -> GroundConfig:
        """Sizes of the ground alone."""
        names = [field.name for field in dataclasses.fields(GroundConfig)]
        return GroundConfig(**{name: getattr(self, name) for name in names})


class Grounded(nn.Module):
    """The closed-form ground, and small networks for what it leaves, trained by gradient steps from zero.

    One network sees a unit's own context and what the ground says of the unit and of the population; the other, where
    there is one, reads the whole population. Each is trained on its own error, and how much of each is added is
    weighed afterwards (:mod:`poco.ground.gain`).

    While they train, windows of the training part are forecast with the coefficients of :class:`CrossFit`, which have
    not seen them; the residuals then learn what they will meet later. Elsewhere the ground's own coefficients are used.

    Args:
        config: sizes.
        sessions: the sessions; a fitted ground brings its own, see :meth:`of`.

    Attributes:
        gains: ``[1 or 2]`` how much of each residual is used; equal shares while they are trained.
        metadata: how the model was fitted and trained, as JSON can hold it; saved with it in ``config.json``.
    """

    gains: Tensor

    def __init__(self, config: GroundedConfig | None = None, sessions: Sequence[SessionSpec] = ()) -> None:
        super().__init__()
        self.config = config = config or GroundedConfig()
        self.ground = Ground(config.ground, sessions)
        sizes = (config.context, config.horizon, config.width, config.clip)
        self.residual = Residual(*sizes)
        self.population = PopulationResidual(*sizes, config.most_latents) if config.population else None
        count = 1 if self.population is None else 2
        self.register_buffer("gains", torch.full((count,), 1.0 / count))
        self.metadata: dict[str, Any] = {}
        self._cross: tuple[CrossFit | None, ...] = ()

    @classmethod
    def of(cls, fitted: Fitted, split: Split, config: GroundedConfig) -> Grounded:
        """A forecaster on a fitted ground, its residuals zero.

        Args:
            fitted: the ground; with ``cross``, or training sees what the ground has memorised.
            split: what it was fitted to.
            config: sizes.
        """
        model = cls(dataclasses.replace(config, latents=fitted.ground.config.latents))
        model.ground.load_state_dict(fitted.ground.state_dict())
        model._cross = fitted.cross
        windows = split.windows("train")
        some = slice(None, None, max(1, len(windows) // _SCALE_WINDOWS))
        total, rows = torch.zeros(2 * config.horizon, dtype=torch.float64), 0
        chosen = type(windows)(windows.session[some].copy(), windows.start[some].copy())
        with torch.no_grad():
            for _, batch in Packer(split, model.sessions).batches(chosen):
                condition = _by_rows(model, batch)
                total += condition.double().square().sum(0)
                rows += len(condition)
        scale = (total / max(1, rows)).sqrt()
        for residual in (model.residual, *([] if model.population is None else [model.population.own])):
            residual.condition_scale.copy_(torch.where(scale > 1e-6, scale, torch.ones_like(scale)))
        return model

    @property
    def penalties(self) -> tuple[Penalties, ...]:
        """The penalties that the ground was fitted with, by which a session is added."""
        known = (self.metadata.get("ground") or {}).get("penalties") or [vars(USUAL)] * len(FORMS)
        return tuple(Penalties(**entry) for entry in known)

    @property
    def sessions(self) -> tuple[SessionSpec, ...]:
        """The sessions that the model knows."""
        return self.ground.sessions

    def session_index(self, session: int | str) -> int:
        """Index of a session given by name or index; a VocabularyError if it is not known."""
        return self.ground.session_index(session)

    def normalisation(self, session: int | str) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation ``[N]``, float32, that the session's activity is normalised with."""
        return self.ground.normalisation(session)

    def forward(self, x: Tensor, session: int | str = 0) -> Tensor:
        """Forecasts windows of one session, ``[B, N, C]`` -> ``[B, N, H]``, normalised activity."""
        index = self.session_index(session)
        return self._forecast(x, index, self.ground.mixed(x, index))

    def forward_packed(self, batch: PackedBatch) -> Tensor:
        """Forecasts ``[R, H]`` of packed windows; a window holds all units of its session, in order.

        Raises:
            ShapeError: if the batch does not fit the model.
        """

        def forecast(x: Tensor, session: int, places: Tensor) -> Tensor:
            return self._forecast(x, session, self._parts(x, session, places, batch))

        return by_session(batch, self.sessions, self.config.horizon, forecast)

    def each_packed(self, batch: PackedBatch) -> Tensor:
        """The forecasts of the ground with each residual in full, without the other: ``[R, n H]``, side by side."""

        def forecasts(x: Tensor, session: int, places: Tensor) -> Tensor:
            parts = self._parts(x, session, places, batch)
            return torch.cat([parts.forecast + r for r in self._residuals(x, session, parts)], -1)

        return by_session(batch, self.sessions, len(self.gains) * self.config.horizon, forecasts)

    def loss_packed(self, batch: PackedBatch) -> Tensor:
        """The mean squared errors of :meth:`each_packed` against the target of the batch, added up, for training."""
        assert batch.target is not None
        count = len(self.gains)
        each = self.each_packed(batch).float()
        return (each - batch.target.repeat(1, count)).square().mean() * count

    def _forecast(self, x: Tensor, session: int, parts: Parts) -> Tensor:
        out = parts.forecast
        for gain, residual in zip(self.gains.to(x.dtype), self._residuals(x, session, parts), strict=True):
            out = out + gain * residual
        return out

    def _residuals(self, x: Tensor, session: int, parts: Parts) -> list[Tensor]:
        """What each residual adds to the ground's forecast of windows of one session."""
        # The more the ground is centred, the less of the level the residuals may see.
        centred = x - self.ground.shares[1].to(x.dtype) * x.mean(-1, keepdim=True)
        condition = torch.cat([parts.own, parts.population], -1)
        found: list[Tensor] = [self.residual(centred, condition)]
        if self.population is not None:
            found.append(self.population(centred, condition, self.ground.correlations(session)))
        return found

    @torch.no_grad()
    def _parts(self, x: Tensor, session: int, places: Tensor, batch: PackedBatch) -> Parts:
        """The ground's forecast; in training with coefficients that have not seen the window."""
        if not (self.training and self._cross and batch.window_start is not None):
            return self.ground.mixed(x, session)
        cross = self._cross[session]
        if cross is None:  # too short for folds: better no terms of the units than terms that have seen the window
            forms = [self.ground.terms(session).form(index) for index in range(len(FORMS))]
            return self.ground.mixed(x, session, [torch.zeros_like(form.coefficients) for form in forms])
        first = torch.from_numpy(cross.first).to(x.device)
        folds = torch.searchsorted(first, batch.window_start[places], right=True) - 1
        order, found = [], []
        for fold in folds.clamp(min=0).unique().tolist():
            inside = (folds == fold).nonzero()[:, 0]
            order.append(inside)
            found.append(self.ground.mixed(x[inside], session, [c[fold].to(x.device) for c in cross.coefficients]))
        back = torch.cat(order).argsort()
        return Parts(*(torch.cat([getattr(p, name) for p in found])[back] for name in ("base", "own", "population")))

    def save_pretrained(self, folder: str | Path, metadata: Mapping[str, Any] | None = None) -> None:
        """Writes ``config.json`` and ``model.safetensors``."""
        files.save(self, Path(folder), metadata or {})

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Grounded:
        """The model that :meth:`save_pretrained` wrote, on the CPU, evaluating.

        Raises:
            CheckpointError: if a file is missing, damaged, or of another model.
        """
        return files.load_as(cls.__name__, Path(folder), cls.build)

    @classmethod
    def build(cls, config: Mapping[str, Any], state: Mapping[str, Tensor]) -> Grounded:
        """The model of a ``config`` and tensors that :meth:`save_pretrained` wrote."""
        model = cls(GroundedConfig.from_dict(config), vocabulary.decode(state["ground.vocabulary"]))
        model.load_state_dict(state)
        return model


def _by_rows(model: Grounded, batch: PackedBatch) -> Tensor:
    """Conditions ``[R, 2 H]`` of a batch, cross-fitted."""
    model.train()

    def condition(x: Tensor, session: int, places: Tensor) -> Tensor:
        parts = model._parts(x, session, places, batch)
        return torch.cat([parts.own, parts.population], -1)

    return by_session(batch, model.sessions, 2 * model.config.horizon, condition)
