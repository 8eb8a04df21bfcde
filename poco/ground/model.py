"""The ground as a module: closed-form forecasts, linear in units, for the sessions it was fitted to."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from poco.data.packed import PackedBatch
from poco.errors import ShapeError, VocabularyError
from poco.ground.config import GroundConfig
from poco.ground.form import Form, SessionTerms
from poco.nn import vocabulary
from poco.nn.exact import ExactBuffers
from poco.nn.vocabulary import SessionSpec

#: Forms in the order of ``Ground.forms``.
FORMS = ("level", "centred")


@dataclass(frozen=True)
class Parts:
    """A forecast of the ground in parts, each ``[..., H]``; their sum is the forecast.

    A row or window may also hold all three side by side, ``[..., 3 H]``: :meth:`joined`, :meth:`of_joined`.

    Attributes:
        base: what all units share.
        own: what a unit's own features add.
        population: what the population's features add.
    """

    base: Tensor
    own: Tensor
    population: Tensor

    @property
    def forecast(self) -> Tensor:
        """The sum of the parts."""
        return self.base + self.own + self.population

    @property
    def condition(self) -> Tensor:
        """What is said of the unit and of the population, ``[..., 2 H]``."""
        return torch.cat([self.own, self.population], -1)

    def joined(self) -> Tensor:
        """All parts side by side."""
        return torch.cat([self.base, self.own, self.population], -1)

    @classmethod
    def of_joined(cls, joined: Tensor) -> Parts:
        """The parts that :meth:`joined` put side by side."""
        return cls(*joined.chunk(3, -1))


class Ground(ExactBuffers):
    """``forecast = last value + W context + features C_n``, in two forms that are mixed.

    ``W`` is shared by all units, ``C_n`` are strongly shrunk coefficients of each unit on a few features of its own
    past and of the population's latents. One form works on the level of the normalised activity, the other takes the
    mean of each window off first and cannot be misled by drift. How the two are mixed, and how much of the units' terms
    is used, is chosen on stretches of time that follow what was fitted (see :mod:`poco.ground.selection`).

    Nothing in it is trained by gradient steps: :func:`poco.ground.fit` solves for all of it. The sessions stand in the
    state dict; a ground that knows none takes those of the state dict that it loads.

    Args:
        config: sizes.
        sessions: the sessions; more come with :meth:`add_session`.
    """

    vocabulary: Tensor
    shares: Tensor
    gains: Tensor

    def __init__(self, config: GroundConfig | None = None, sessions: Sequence[SessionSpec] = ()) -> None:
        super().__init__()
        self.config = config or GroundConfig()
        self.forms = nn.ModuleList(Form(self.config, centred=name == "centred") for name in FORMS)
        self.register_buffer("shares", torch.full((len(FORMS),), 1.0 / len(FORMS)))
        self.register_buffer("gains", torch.ones(len(FORMS)))
        self.sessions: tuple[SessionSpec, ...] = ()
        self.session_terms = nn.ModuleList()
        self.register_buffer("vocabulary", vocabulary.encode(()))
        self.register_load_state_dict_pre_hook(_take_sessions)
        for spec in sessions:
            self.add_session(spec)

    def add_session(self, spec: SessionSpec) -> int:
        """Adds a session whose units have no terms of their own yet; returns its index.

        Raises:
            VocabularyError: if there is a session of this name.
        """
        vocabulary.expect_new(self.sessions, spec.name)
        forms = [self.form(index) for index in range(len(FORMS))]
        self.session_terms.append(SessionTerms(self.config, forms, len(spec.units)).to(self.shares.device))
        self.sessions = (*self.sessions, spec)
        self.vocabulary = vocabulary.encode(self.sessions).to(self.shares.device)
        return len(self.sessions) - 1

    def remove_session(self, session: int | str) -> None:
        """Takes a session and its terms away; a VocabularyError if it is not known."""
        index = self.session_index(session)
        del self.session_terms[index]
        self.sessions = (*self.sessions[:index], *self.sessions[index + 1 :])
        self.vocabulary = vocabulary.encode(self.sessions).to(self.shares.device)

    def session_index(self, session: int | str | None) -> int:
        """Index of a session given by name or index, or of the only one; a VocabularyError if it is not known."""
        return vocabulary.find([spec.name for spec in self.sessions], session)

    def normalisation(self, session: int | str) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation ``[N]``, float32, that the session's activity is normalised with."""
        own = self.terms(self.session_index(session))
        return own.mean, own.std

    def correlations(self) -> Tensor:
        """How units go with the latents of their session: loading times the latent's root mean square.

        Returns:
            ``[V, K]`` of the units of all sessions, one after another; 0 where a session has fewer latents.
        """
        means = len(self.config.lengths(self.config.population_means, centred=False))
        found = []
        for session in range(len(self.sessions)):
            own = self.terms(session)
            latents = own.loadings.shape[1]
            size = own.form(FORMS.index("level")).scale[::means] if means else torch.ones_like(own.loadings[0])
            found.append(nn.functional.pad(own.loadings * size, (0, self.config.most_latents - latents)))
        return torch.cat(found)

    def form(self, index: int) -> Form:
        """What all units share of one form, by its index in :data:`FORMS`."""
        return self.forms[index]  # type: ignore[return-value]

    def terms(self, session: int) -> SessionTerms:
        """What belongs to one session, by its index."""
        return self.session_terms[session]  # type: ignore[return-value]

    def forward(self, x: Tensor, session: int | str | None = None) -> Tensor:
        """Forecasts windows of one session, ``[B, N, C]`` -> ``[B, N, H]``, normalised activity.

        Raises:
            VocabularyError: if the session is not known, or there are several and none was chosen.
            ShapeError: if units or frames are not what the session has.
        """
        return self.mixed(x, self.session_index(session)).forecast

    def forward_packed(self, batch: PackedBatch) -> Tensor:
        """Forecasts ``[R, H]`` of packed windows; a window holds all units of its session, in order.

        Raises:
            ShapeError: if the batch does not fit the model.
        """
        return forecast_by_session(batch, self.sessions, self.config.horizon, lambda x, s, _: self.mixed(x, s).forecast)

    def mixed(self, x: Tensor, session: int, coefficients: Sequence[Tensor] | None = None) -> Parts:
        """The forecast of windows ``[B, N, C]`` of one session, both forms mixed.

        Args:
            x: the windows.
            session: index of the session.
            coefficients: for each form ``[N, F, H]`` in place of the session's own.
        """
        parts = [self.parts(x, session, form, None if coefficients is None else coefficients[form]) for form in (0, 1)]
        shares, gains = self.shares.to(x.dtype), (self.shares * self.gains).to(x.dtype)
        return Parts(
            sum(p.base * s for p, s in zip(parts, shares, strict=True)),  # type: ignore[arg-type]
            sum(p.own * g for p, g in zip(parts, gains, strict=True)),  # type: ignore[arg-type]
            sum(p.population * g for p, g in zip(parts, gains, strict=True)),  # type: ignore[arg-type]
        )

    def parts(self, x: Tensor, session: int, form: int, coefficients: Tensor | None = None) -> Parts:
        """The forecast of windows ``[B, N, C]`` of one session in one form, its units' terms in full.

        Args:
            x: the windows.
            session: index of the session.
            form: index in :data:`FORMS`.
            coefficients: ``[N, F, H]`` in place of the session's own.
        """
        of_form, own = self.form(form), self.terms(session)
        units, context = own.loadings.shape[0], self.config.context
        if not isinstance(x, Tensor) or x.ndim != 3 or x.shape[1:] != (units, context):
            got = list(x.shape) if isinstance(x, Tensor) else type(x).__name__
            raise ShapeError(
                f"session '{self.sessions[session].name}' takes a tensor [windows, {units} units, {context} frames], "
                f"got {got}"
            )
        terms = own.form(form)
        given = (terms.coefficients if coefficients is None else coefficients).to(x.dtype)
        offset = of_form.offset(x)
        inside = x - offset
        latents = torch.einsum("bnc,nk->bkc", x, own.loadings.to(x.dtype))
        split = of_form.own_count
        return Parts(
            of_form.base(inside) + offset,
            torch.einsum("bnf,nfh->bnh", of_form.own_features(inside), given[:, :split]),
            torch.einsum("bf,nfh->bnh", of_form.population_features(latents, terms.scale), given[:, split:]),
        )


def forecast_by_session(batch: PackedBatch, sessions: Sequence[SessionSpec], horizon: int, forecast: Any) -> Tensor:
    """Forecasts of packed windows, session by session.

    Args:
        batch: the windows; each holds all units of its session, in order.
        sessions: the vocabulary that the batch is counted in.
        horizon: ``H``.
        forecast: takes windows ``[B, N, C]``, the index of their session and their places in the batch ``[B]``, returns
            ``[B, N, H]``.

    Raises:
        ShapeError: if a window has not all units of its session.
        VocabularyError: if a session is not in the vocabulary.
    """
    if len(batch.window_session) and int(batch.window_session.max()) >= len(sessions):
        raise VocabularyError(f"the batch has session {int(batch.window_session.max())} of {len(sessions)} known ones")
    counts = batch.window_offsets[1:].long() - batch.window_offsets[:-1].long()
    units = torch.tensor([len(spec.units) for spec in sessions], device=batch.x.device)
    if not torch.equal(counts, units[batch.window_session]):
        raise ShapeError("each window must hold all units of its session")
    if len(counts) == 0:
        return batch.x.new_empty(0, horizon)
    if len(batch.window_session.unique()) == 1:  # most batches: rows as they lie
        x = batch.x.view(len(counts), -1, batch.x.shape[1])
        out: Tensor = forecast(x, int(batch.window_session[0]), torch.arange(len(counts), device=x.device))
        return out.reshape(-1, horizon)
    rows, found = [], []
    for session, places, own in batch.by_session():
        rows.append(own.flatten())
        found.append(forecast(batch.x[own], session, places).reshape(-1, horizon))
    joined = torch.cat(found)
    return torch.empty_like(joined).index_copy(0, torch.cat(rows), joined)


def _take_sessions(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Lets a ground without sessions take those of a state dict; refuses one for other sessions."""
    stored = state.get(f"{prefix}vocabulary")
    if stored is None:
        return
    assert isinstance(module, Ground)
    theirs = vocabulary.decode(stored)
    if not module.sessions:
        if module.config.latents is None:  # as many as the session with most units has
            latents = [state[f"{prefix}session_terms.{index}.loadings"].shape[1] for index in range(len(theirs))]
            module.config = dataclasses.replace(module.config, latents=max(latents, default=0))
        for spec in theirs:
            module.add_session(spec)
    elif theirs != module.sessions:
        raise VocabularyError(
            f"the state dict is for sessions {[s.name for s in theirs]} and the ground for "
            f"{[s.name for s in module.sessions]}, or their units differ"
        )
