"""A forecaster on the ground: with what networks add to it, and with one apart from it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from poco.data.packed import PackedBatch
from poco.data.splits import Split
from poco.data.windows import Packer
from poco.errors import ConfigError
from poco.ground.config import GroundConfig
from poco.ground.estimator import CrossFit, Fitted
from poco.ground.model import FORMS, Ground, Parts, forecast_by_session
from poco.ground.networks import Residual, ShapeResidual
from poco.ground.penalties import USUAL, Penalties
from poco.ground.population import PopulationResidual
from poco.nn import files, vocabulary
from poco.nn.vocabulary import SessionSpec

#: The network that does not stand on the ground.
APART = "apart"
#: Training windows from which on a residual that reads the whole population is worth its time.
POPULATION_WINDOWS = 4000
_REMEMBERED = 1 << 27  # numbers that may be kept of the ground's forecasts of the training windows
_SCALE_WINDOWS = 256  # training windows that the scale of the conditions is measured on


@dataclass(frozen=True)
class GroundedConfig(GroundConfig):
    """Sizes of a forecaster on the ground: those of :class:`GroundConfig`, and its own.

    Attributes:
        context: frames that a forecast is made from, ``C``.
        horizon: frames that are forecast, ``H``.
        latents: latents of the population, ``K``; None: as many of 8, 32 and 64 as forecast best out of fold.
        own_means: a unit's own features are its means over so many last frames; 0 stands for the whole context.
        population_means: the same for the latents.
        clip: features are clipped at so many times their root mean square.
        width: hidden units of the networks.
        population: whether there is a residual that reads the whole population, beside those that do not. None:
            training has one where the training part has :data:`POPULATION_WINDOWS` windows.

    Raises:
        ConfigError: if a value cannot work.
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
    """The closed-form ground, and small networks beside it, trained by gradient steps.

    Residuals add to the ground's forecast, at first nothing: one sees a unit's own context and what the ground says of
    the unit and of the population; one sees of the same only the shape of the window; a third, where there is one,
    reads the whole population. The network :data:`APART` sees what that of the shape sees, and adds to the window's
    mean: what misleads the ground does not mislead it. Each is trained on its own error and keeps its own best
    weights, and how much of each is used is weighed afterwards (:mod:`poco.ground.gain`).

    While they train, windows of the training part are forecast with the coefficients of :class:`CrossFit`, which have
    not seen them; the networks then learn what they will meet later. Elsewhere, and once that training is over, the
    ground's own coefficients are used.

    Args:
        config: sizes.
        sessions: the sessions; a fitted ground brings its own, see :meth:`of`.

    Attributes:
        networks: by name: the residuals ``level``, ``shape`` and, where there is one, ``population``, and ``apart``.
        gains: ``[3 or 4]`` how much of the forecast of each is used, in place of the ground's; while they are trained,
            equal shares of the residuals.
        metadata: how the model was fitted and trained, as JSON can hold it; saved with it in ``config.json``.
    """

    gains: Tensor

    def __init__(self, config: GroundedConfig | None = None, sessions: Sequence[SessionSpec] = ()) -> None:
        super().__init__()
        self.config = config = config or GroundedConfig()
        self.ground = Ground(config.ground, sessions)
        sizes = (config.context, config.horizon, config.width, config.clip)
        self.networks = nn.ModuleDict({"level": Residual(*sizes), "shape": ShapeResidual(*sizes)})
        if config.population:
            self.networks["population"] = PopulationResidual(*sizes, config.most_latents)
        share = 1.0 / len(self.networks)
        self.networks[APART] = ShapeResidual(*sizes)
        self.register_buffer("gains", torch.tensor([0.0 if name == APART else share for name in self.networks]))
        self.metadata: dict[str, Any] = {}
        self._cross: tuple[CrossFit | None, ...] = ()
        self._remembered: tuple[tuple[Tensor, Tensor], ...] = ()  # of each session: first frames [W], parts [W, N, 3 H]

    @classmethod
    def of(cls, fitted: Fitted, split: Split, config: GroundedConfig) -> Grounded:
        """A forecaster on a fitted ground, whose networks have learnt nothing yet.

        Args:
            fitted: the ground; without ``cross`` training knows no terms of the units.
            split: what it was fitted to.
            config: sizes.
        """
        model = cls(dataclasses.replace(config, latents=fitted.ground.config.latents))
        model.ground.load_state_dict(fitted.ground.state_dict())
        model._cross = fitted.cross
        model.train()._remember(split)
        windows = split.windows("train")
        some = windows[:: max(1, len(windows) // _SCALE_WINDOWS)]
        total, rows = torch.zeros(2 * config.horizon, dtype=torch.float64), 0
        for _, batch in Packer(split, model.sessions).batches(some):
            condition = model._parts(batch).condition
            total += condition.double().square().sum(0)
            rows += len(condition)
        scale = (total / max(1, rows)).sqrt()
        for network in model.networks.modules():
            if isinstance(network, Residual):
                network.condition_scale.copy_(torch.where(scale > 1e-6, scale, torch.ones_like(scale)))
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

    def fitted_to(self, split: Split) -> bool:
        """Whether the ground was fitted to this split, with no session added or taken away since."""
        same = [spec.name for spec in self.sessions] == [recording.session for recording in split.recordings]
        return same and not self.metadata.get("adaptations") and self.metadata.get("split") == split.key

    def session_index(self, session: int | str | None) -> int:
        """Index of a session given by name or index, or of the only one; a VocabularyError if it is not known."""
        return self.ground.session_index(session)

    def normalisation(self, session: int | str) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation ``[N]``, float32, that the session's activity is normalised with."""
        return self.ground.normalisation(session)

    def forward(self, x: Tensor, session: int | str | None = None) -> Tensor:
        """Forecasts windows of one session, ``[B, N, C]`` -> ``[B, N, H]``, normalised activity.

        Raises:
            VocabularyError: if the session is not known, or there are several and none was chosen.
            ShapeError: if units or frames are not what the session has.
        """
        index = self.session_index(session)
        parts = self.ground.mixed(x, index).joined()
        windows, units = x.shape[:2]
        before = sum(len(spec.units) for spec in self.sessions[:index])
        unit_index = torch.arange(before, before + units, dtype=torch.int32, device=x.device).repeat(windows)
        offsets = torch.arange(windows + 1, dtype=torch.int32, device=x.device) * units
        rows = Parts.of_joined(parts.flatten(0, 1))
        return self._forecast(x.flatten(0, 1), rows, unit_index, offsets).view(windows, units, self.config.horizon)

    def forward_packed(self, batch: PackedBatch) -> Tensor:
        """Forecasts ``[R, H]`` of packed windows; a window holds all units of its session, in order.

        Raises:
            ShapeError: if the batch does not fit the model.
        """
        return self._forecast(batch.x, self._parts(batch), batch.unit_index, batch.window_offsets)

    @property
    def residuals(self) -> list[str]:
        """Names of the networks that add to the ground."""
        return [name for name in self.networks if name != APART]

    def trained_apart(self) -> dict[str, str]:
        """The networks that are trained, not frozen: name and prefix of the parameters of each."""
        trained = (n for n, network in self.networks.items() if any(p.requires_grad for p in network.parameters()))
        return {name: f"networks.{name}." for name in trained}

    def each_packed(self, batch: PackedBatch, names: Iterable[str] | None = None) -> list[Tensor]:
        """The forecasts ``[R, H]`` of each of these networks (all) in full, of a residual with the ground."""
        parts = self._parts(batch)
        return [*self._each(batch.x, parts, batch.unit_index, batch.window_offsets, names or self.networks).values()]

    def _forecast(self, x: Tensor, parts: Parts, unit_index: Tensor, offsets: Tensor) -> Tensor:
        out, gains = parts.forecast, dict(zip(self.networks, self.gains.to(x.dtype), strict=True))
        skip = not (self.training or torch.compiler.is_compiling())
        wanted = [name for name, gain in gains.items() if not (skip and gain == 0)]
        for name, forecast in self._each(x, parts, unit_index, offsets, wanted).items():
            out = out + gains[name] * (forecast - parts.forecast)
        return out

    def _each(
        self, x: Tensor, parts: Parts, unit_index: Tensor, offsets: Tensor, names: Iterable[str]
    ) -> dict[str, Tensor]:
        """The forecast of rows by each of these networks, of a residual with the ground."""
        # The more the ground is centred, the less of the level the residuals may see.
        centred = x - self.ground.shares[1].to(x.dtype) * x.mean(-1, keepdim=True)
        found = {}
        for name in names:
            network = self.networks[name]
            if name == APART:
                found[name] = x.mean(-1, keepdim=True) + network(x, parts.condition)
            elif name == "population":
                correlations = self.ground.correlations()
                found[name] = parts.forecast + network(centred, parts.condition, unit_index, offsets, correlations)
            else:
                found[name] = parts.forecast + network(centred, parts.condition)
        return found

    @torch.no_grad()
    def _parts(self, batch: PackedBatch) -> Parts:
        """The ground's forecasts of rows; in training by coefficients that have not seen the windows."""

        def forecast(x: Tensor, session: int, places: Tensor) -> Tensor:
            if not (self.training and self._cross and batch.window_start is not None):
                return self.ground.mixed(x, session).joined()
            return self._unseen(x, session, batch.window_start[places])

        return Parts.of_joined(forecast_by_session(batch, self.sessions, 3 * self.config.horizon, forecast))

    def _unseen(self, x: Tensor, session: int, start: Tensor) -> Tensor:
        """Forecasts of training windows by coefficients that have not seen them, ``[B, N, 3 H]``, parts side by side.

        Args:
            x: ``[B, N, C]`` windows of one session.
            session: its index.
            start: ``[B]`` first frames of the windows.
        """
        if self._remembered:
            starts, parts = self._remembered[session]
            return parts[torch.searchsorted(starts, start.cpu())].to(x.device)
        cross = self._cross[session]
        if cross is None:  # too short for folds: better no terms of the units than terms that have seen the window
            forms = [self.ground.terms(session).form(index) for index in range(len(FORMS))]
            return self.ground.mixed(x, session, [torch.zeros_like(form.coefficients) for form in forms]).joined()
        folds = torch.searchsorted(torch.from_numpy(cross.first).to(x.device), start, right=True) - 1
        out = torch.empty(*x.shape[:2], 3 * self.config.horizon, dtype=x.dtype, device=x.device)
        for fold in folds.clamp(min=0).unique().tolist():
            inside = (folds.clamp(min=0) == fold).nonzero()[:, 0]
            coefficients = [c[fold].to(x.device) for c in cross.coefficients]
            out[inside] = self.ground.mixed(x[inside], session, coefficients).joined()
        return out

    def _remember(self, split: Split) -> None:
        """Keeps the forecasts of all training windows where they take little room: each is asked for several times."""
        windows = split.windows("train")
        units = np.array([recording.units for recording in split.recordings])
        if int(units[windows.session].sum()) * 3 * self.config.horizon > _REMEMBERED:
            return
        packer = Packer(split, self.sessions)
        remembered = []
        for session in range(len(split.recordings)):
            own = windows[windows.session == session]
            found = [
                self._parts(batch).joined().view(len(some), int(units[session]), -1)
                for some, batch in packer.batches(own)
            ]
            remembered.append((torch.from_numpy(own.start), torch.cat(found)))
        self._remembered = tuple(remembered)

    def forget(self) -> None:
        """Lets go of what only training needs; windows of the training part are then forecast as all others are."""
        self._cross, self._remembered = (), ()

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
