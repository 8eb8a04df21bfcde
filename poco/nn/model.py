"""POCO, the population-conditioned forecaster."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from poco.data.packed import PackedBatch
from poco.errors import ConfigError, ShapeError, VocabularyError
from poco.nn import fused, vocabulary
from poco.nn.config import POCOConfig
from poco.nn.cross_attention import CrossAttention
from poco.nn.feed_forward import FeedForward
from poco.nn.film import Film
from poco.nn.fused import Rows
from poco.nn.latent_transformer import LatentLayer
from poco.nn.rotary import Rotary
from poco.nn.vocabulary import SessionEmbedding, SessionSpec
from poco.ops.model_reference import latent_queries


class POCO(nn.Module):
    """Forecasts every unit of a population by an MLP of its own past, modulated by a summary of the whole population.

    The population is read by ``latent_pool``, a small transformer lets the latents attend to each other, and
    ``film_forecast`` writes every unit's forecast. Inputs and forecasts are normalised activity (see
    :meth:`set_normalisation`); cost and memory are linear in the number of units.

    Source: POCO, population-conditioned forecasting (2025); the passes are an exact rewriting of its equations.

    Args:
        config: sizes and options.
        sessions: the sessions that the model knows; more come with :meth:`add_session`.

    Attributes:
        metadata: how the model was trained and adapted, as JSON can hold it; saved with it in ``config.json``.

    Raises:
        VocabularyError: if two sessions have one name.
    """

    vocabulary: Tensor

    def __init__(self, config: POCOConfig | None = None, sessions: Sequence[SessionSpec] = ()) -> None:
        super().__init__()
        self.config = config = config or POCOConfig()
        width = config.width
        self.token = nn.Linear(config.segment_length, width)
        self.latents = nn.Parameter(torch.randn(config.latents, width) * config.embedding_std)
        self.rotary = Rotary(config.head_width, config.t_max)
        self.encoder = CrossAttention(config)
        self.encoder_ffn = FeedForward(width, config.hidden)
        self.layers = nn.ModuleList(LatentLayer(config) for _ in range(config.layers))
        self.decoder = CrossAttention(config)
        self.decoder_ffn = FeedForward(width, config.hidden)
        self.film = Film(config)

        self.sessions: tuple[SessionSpec, ...] = ()
        self.metadata: dict[str, Any] = {}
        self.session_embeddings = nn.ModuleList()
        self.datasets = nn.ParameterList()
        self.unit_types = nn.ParameterList()
        self._dataset_names: list[str] = []
        self._unit_type_names: list[str] = []
        self.register_buffer("vocabulary", vocabulary.encode(()))
        self.register_load_state_dict_pre_hook(_before_loading)
        for spec in sessions:
            self.add_session(spec)

    # --- sessions -----------------------------------------------------------------------------------------------------

    def session_index(self, session: int | str | None) -> int:
        """Index of a session given by name or index; None: the only one.

        Raises:
            VocabularyError: if the model does not know it, or several and none was chosen.
        """
        return vocabulary.find([spec.name for spec in self.sessions], session)

    def add_session(self, spec: SessionSpec) -> int:
        """Adds a session with fresh embeddings and returns its index; nothing else changes, not even in storage.

        Raises:
            VocabularyError: if the model knows a session of this name, or the unit types that it needs are missing.
        """
        if not isinstance(spec, SessionSpec):
            raise VocabularyError(f"a session is a poco.SessionSpec(name, units), got {type(spec).__name__}")
        vocabulary.expect_new(self.sessions, spec.name)
        if self.config.unit_type_embedding and not spec.unit_types:
            raise VocabularyError(f"session '{spec.name}' needs unit types: the model embeds them")
        config, like = self.config, self.latents
        own = SessionEmbedding(len(spec.units), config.width, config.embedding_std).to(like.device, like.dtype)
        self.session_embeddings.append(own)
        if spec.dataset not in self._dataset_names:
            self._dataset_names.append(spec.dataset)
            self.datasets.append(self._fresh_embedding())
        if config.unit_type_embedding:
            for name in dict.fromkeys(spec.unit_types):
                if name not in self._unit_type_names:
                    self._unit_type_names.append(name)
                    self.unit_types.append(self._fresh_embedding())
            row = {name: place for place, name in enumerate(self._unit_type_names)}
            own.set_types([row[name] for name in spec.unit_types])
        self.sessions = (*self.sessions, spec)
        self.vocabulary = vocabulary.encode(self.sessions).to(like.device)
        return len(self.sessions) - 1

    def subset(self, sessions: Sequence[int | str]) -> POCO:
        """A model of its own that knows these sessions only, in this order, with copies of all parameters.

        Raises:
            VocabularyError: if the model does not know one of them.
        """
        indices = [self.session_index(s) for s in sessions]
        smaller = POCO(self.config, [self.sessions[i] for i in indices]).to(self.latents.device, self.latents.dtype)
        own = ("session_embeddings.", "datasets.", "unit_types.", "vocabulary")
        state = {k: v for k, v in self.state_dict().items() if not k.startswith(own)}
        smaller.load_state_dict(state, strict=False)
        with torch.no_grad():
            for to, index in zip(smaller.session_embeddings, indices, strict=True):
                to.load_state_dict(self.session_embeddings[index].state_dict())
            for to, name in zip(smaller.datasets, smaller._dataset_names, strict=True):
                to.copy_(self.datasets[self._dataset_names.index(name)])
            for to, name in zip(smaller.unit_types, smaller._unit_type_names, strict=True):
                to.copy_(self.unit_types[self._unit_type_names.index(name)])
        smaller.metadata = copy.deepcopy(self.metadata)
        return smaller.train(self.training)

    def session_parameters(self, session: int | str) -> list[nn.Parameter]:
        """The parameters of this session alone: embeddings of its units ``[N, d]`` and of itself ``[d]``."""
        return list(self._session(self.session_index(session)).parameters())

    def set_normalisation(self, session: int | str, mean: Tensor | np.ndarray, std: Tensor | np.ndarray) -> None:
        """Stores how the session's activity is normalised, ``(activity - mean) / std``, each ``[N]``.

        Raises:
            ShapeError: if there is not one finite mean and one positive finite deviation to a unit.
        """
        index = self.session_index(session)
        own, spec = self._session(index), self.sessions[index]
        mean, std = torch.as_tensor(mean).float(), torch.as_tensor(std).float()
        if mean.shape != own.mean.shape or std.shape != own.std.shape:
            raise ShapeError(f"session '{spec.name}': normalisation must be for {len(spec.units)} units")
        if not (mean.isfinite().all() and std.isfinite().all() and (std > 0).all()):
            raise ShapeError(f"session '{spec.name}': means must be finite and standard deviations positive")
        own.mean.copy_(mean)
        own.std.copy_(std)
        own.normalised.fill_(1)

    def is_normalised(self, session: int | str) -> bool:
        """Whether :meth:`set_normalisation` was called for the session."""
        return self._session(self.session_index(session)).is_normalised

    def normalisation(self, session: int | str) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation ``[N]``, float32, that the session's activity is normalised with.

        Zeros and ones, and a RuntimeWarning, where they were never set.
        """
        index = self.session_index(session)
        own = self._session(index)
        if not own.is_normalised:
            warnings.warn(vocabulary.not_normalised(self.sessions[index].name), RuntimeWarning, stacklevel=2)
        return own.mean, own.std

    # --- forecasts ----------------------------------------------------------------------------------------------------

    def forward(self, x: Tensor, session: int | str | None = None) -> Tensor:
        """Forecasts windows of one session.

        Args:
            x: ``[B, N, C]`` normalised activity: windows, units, frames (oldest first).
            session: name or index of the session; None: the only one.

        Returns:
            ``[B, N, H]`` normalised forecasts in the dtype of ``x``.

        Raises:
            VocabularyError: if the model does not know the session, or several and none was chosen.
            ShapeError: if units or frames are not what the session and the model have.
        """
        if not isinstance(x, Tensor):
            raise ShapeError(f"x must be a torch tensor, got {type(x).__name__}")
        index = self.session_index(session)
        units, context = len(self.sessions[index].units), self.config.context
        if x.ndim != 3 or x.shape[1] != units or x.shape[2] != context:
            raise ShapeError(
                f"session '{self.sessions[index].name}' takes [windows, {units} units, {context} frames], "
                f"got {list(x.shape)}"
            )
        windows = x.shape[0]
        unit_index, offsets = _all_units(windows, units, x.device)
        window_session = torch.full((windows,), index, device=x.device) if self._latents_vary else None
        rows = Rows(x.flatten(0, 1), unit_index, offsets, *self._table_and_shift([index]), window_session)
        return fused.forecast(self, rows).view(windows, units, self.config.horizon)

    def forward_rows(self, x: Tensor, unit_index: Tensor, window_offsets: Tensor, table: Tensor) -> Tensor:
        """Forecasts of packed windows of units whose embeddings are given, and are not the model's own.

        Args:
            x: ``[R, C]`` normalised activity, rows of all windows one after another.
            unit_index: ``[R]`` int32, row of the table for each row.
            window_offsets: ``[W + 1]`` int32; window ``w`` is rows ``window_offsets[w]:window_offsets[w + 1]``.
            table: ``[V, d]`` the whole embedding of each unit.

        Returns:
            ``[R, H]`` normalised forecasts in the dtype of ``x``.

        Raises:
            ShapeError: if the rows or the table do not fit the model.
        """
        return fused.forecast(self, Rows(x, unit_index, window_offsets, table))

    def forward_packed(self, batch: PackedBatch) -> Tensor:
        """Forecasts ``[R, H]`` of windows of many sessions at once; ``unit_index`` counts over all sessions in order.

        Raises:
            ShapeError: if the batch does not fit the model.
        """
        return fused.forecast(self, self._rows(batch))

    def loss_packed(self, batch: PackedBatch) -> Tensor:
        """Mean squared error of :meth:`forward_packed` against the target of the batch, for training.

        The same to rounding, and in less time than the forecast and its backward where
        :func:`poco.ops.film_loss` says so.

        Returns:
            A scalar in float32 (float64 for a float64 model); 0 for a batch without rows.

        Raises:
            ShapeError: if the batch does not fit the model or has no target.
        """
        if batch.target is None:
            raise ShapeError("a loss needs a batch with a target")
        return fused.loss(self, self._rows(batch), batch.target)

    def _rows(self, batch: PackedBatch) -> Rows:
        if batch.x.ndim != 2 or batch.x.shape[1] != self.config.context:
            raise ShapeError(f"rows must have {self.config.context} frames, got {list(batch.x.shape)}")
        window_session = self._checked(batch) if self._latents_vary else None
        table, shift = self._table_and_shift(range(len(self.sessions)))
        return Rows(batch.x, batch.unit_index, batch.window_offsets, table, shift, window_session)

    def _checked(self, batch: PackedBatch) -> Tensor:
        """The session of each window; whether the model knows it is looked at on the CPU only, as elsewhere."""
        sessions, windows = batch.window_session, batch.window_offsets.shape[0] - 1
        if sessions.shape != (windows,):
            raise ShapeError(f"window_session must be [{windows}], one for each window, got {list(sessions.shape)}")
        known = len(self.sessions)
        looks = windows and sessions.device.type == "cpu" and not torch.compiler.is_compiling()
        if looks and not 0 <= int(sessions.min()) <= int(sessions.max()) < known:
            raise ShapeError(f"window_session must be in 0..{known - 1}, got {sessions.tolist()[:10]}")
        return sessions

    def unit_table(self, sessions: Sequence[int]) -> Tensor:
        """``[V, d]``: the whole embedding of every unit of these sessions (indices), one after another.

        Raises:
            VocabularyError: if the model knows no session.
        """
        if not self.sessions:
            raise VocabularyError("the model knows no session yet: add_session adds one")
        tables: list[Tensor] = []
        for index in sessions:
            table: Tensor = self._session(index).units
            if self.config.session_embedding:
                table = table + self._unit_shift(index)
            tables.append(self._with_types(index, table))
        return tables[0] if len(tables) == 1 else torch.cat(tables)

    def _table_and_shift(self, sessions: Sequence[int]) -> tuple[Tensor, Tensor | None]:
        """The same as :meth:`unit_table`, less what all units of a single session share."""
        if len(sessions) != 1 or not self.config.session_embedding:
            return self.unit_table(sessions), None
        index = sessions[0]
        return self._with_types(index, self._session(index).units), self._unit_shift(index)

    def _unit_shift(self, index: int) -> Tensor:
        """``[d]``: what all units of a session share."""
        return self._session(index).session + self._dataset(index)

    def _with_types(self, index: int, table: Tensor) -> Tensor:
        if not self.config.unit_type_embedding:
            return table
        return table + torch.stack(list(self.unit_types))[self._session(index).types]

    @property
    def _latents_vary(self) -> bool:
        """Whether the latents start differently from session to session."""
        return self.config.latent_session_embedding

    def _session(self, index: int) -> SessionEmbedding:
        return self.session_embeddings[index]  # type: ignore[return-value]

    def _dataset(self, index: int) -> Tensor:
        return self.datasets[self._dataset_names.index(self.sessions[index].dataset)]

    def _fresh_embedding(self) -> nn.Parameter:
        return nn.Parameter(torch.randn_like(self.latents[0]) * self.config.embedding_std)

    def initial_latents(self, window_session: Tensor | None) -> Tensor:
        """``[1 or W, Q, d]`` latents that pass 1 begins with, of windows of the sessions of ``window_session [W]``."""
        if window_session is None or not self._latents_vary:
            return self.latents[None]
        of_session = torch.stack([self._unit_shift(i) for i in range(len(self.sessions))])
        return self.latents + of_session[window_session][:, None]

    def latent_queries(self, initial: Tensor) -> Tensor:
        """``[1 or W, S, Q, d]``: what latents ``[1 or W, Q, d]`` ask pass 1 for, in token space and scaled."""
        norm, encoder = self.encoder.query_norm, self.encoder
        weights = (norm.weight, norm.bias, encoder.query.weight, encoder.key.weight, self.rotary.frequencies)
        return latent_queries(initial, *weights, self.config.segments, self.config.seen, norm.eps)

    def inference_inputs(self, session: int | str) -> tuple[Any, ...]:
        """All that :func:`poco.ops.inference` takes behind the packed rows, for windows of one session.

        Raises:
            VocabularyError: if the model does not know the session.
            ConfigError: if the model has no fused form: without a FiLM layer, or with a deeper one.
        """
        config = self.config
        if not config.film_width or config.film_depth > 1:
            raise ConfigError("only a model with one FiLM layer (film_width above 0, film_depth 1) has a fused form")
        index = self.session_index(session)
        window_session = torch.tensor([index], device=self.latents.device) if self._latents_vary else None
        table, shift = self._table_and_shift([index])
        return (table, *fused.latents_for_inference(self, window_session), shift)

    # --- files --------------------------------------------------------------------------------------------------------

    def save_pretrained(self, folder: str | Path, metadata: Mapping[str, Any] | None = None) -> None:
        """Writes ``config.json`` and ``model.safetensors``; see :func:`poco.nn.files.save`.

        Raises:
            CheckpointError: if they cannot be written.
        """
        from poco.nn import files

        files.save(self, Path(folder), metadata or {})

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> POCO:
        """The model that :meth:`save_pretrained` wrote, on the CPU, evaluating; see :func:`poco.nn.files.load`.

        Raises:
            CheckpointError: if a file is missing, damaged or of another version or kind.
        """
        from poco.nn import files

        return files.load(Path(folder))

    @classmethod
    def from_published(
        cls,
        state_dict: Mapping[str, Tensor],
        *,
        units_per_session: Sequence[int],
        dataset_of_session: Sequence[int] | None = None,
        heads: int = 16,
        unit_types: Sequence[Sequence[int]] | None = None,
    ) -> POCO:
        """The model of a published checkpoint; see :func:`poco.nn.published.convert`.

        Raises:
            CheckpointError: if a tensor is missing or left over, or sizes do not fit together.
        """
        from poco.nn import published

        return published.convert(
            state_dict,
            units_per_session=units_per_session,
            dataset_of_session=dataset_of_session,
            heads=heads,
            unit_types=unit_types,
        )


def _all_units(windows: int, units: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """``unit_index`` and ``window_offsets`` of windows that have all units, in order."""
    if device.type == "cpu" and not torch.compiler.is_compiling():
        # By numpy: torch would wake its threads, which spin for a while where those of the core want to work.
        index = np.arange(units, dtype=np.int32)
        return torch.from_numpy(index if windows == 1 else np.tile(index, windows)), torch.from_numpy(
            np.arange(windows + 1, dtype=np.int32) * units
        )
    unit_index = torch.arange(units, dtype=torch.int32, device=device).expand(windows, units).flatten()
    return unit_index, torch.arange(windows + 1, dtype=torch.int32, device=device) * units


def _before_loading(module: nn.Module, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    vocabulary.check_state(cast("POCO", module).sessions, state, prefix)
