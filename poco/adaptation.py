"""Adapting a trained model to a new session: embeddings alone, more, or nothing; or from scratch to compare with."""

from __future__ import annotations

import copy
import dataclasses
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

from poco._version import __version__
from poco.adaptation_steps import check_settings, fit_session, join, scores_of, settings, usual_rate
from poco.adapted import Adapted, Point
from poco.data.checks import rates_differ, same_activity
from poco.data.origin import source as source_of
from poco.data.recording import Recording, fingerprint
from poco.data.splits import Split, check_protocol, shorten, split
from poco.errors import ConfigError, DataError
from poco.fields import check_kind
from poco.nn.files import learnt_rates
from poco.nn.vocabulary import expect_new
from poco.scoring import ahead
from poco.training.callbacks import Callback, check_callbacks
from poco.training.config import TrainConfig
from poco.training.trainer import embedded_label

if TYPE_CHECKING:
    from poco.ground.grounded import Grounded
    from poco.models import Forecaster, Member
    from poco.run import Run

Mode = Literal["embeddings", "mlp", "full", "scratch", "zero-shot"]
#: Modes of a POCO; a forecaster on the ground has one alone, :data:`SOLVE`.
MODES: tuple[str, ...] = get_args(Mode)
SOLVE = "solve"
#: Options of :func:`adapt` that are plain values, and of which kind each is.
OPTIONS: Mapping[str, Any] = {
    "mode": str | None,
    "steps": int,
    "learning_rate": float | None,
    "batch_size": int | None,
    "protocol": str | None,
    "seed": int,
    "precision": str,
    "score_every": int,
    "patience": int | None,
    "frames": int | None,
    "unit_types": str | None,
}

#: Validations without a new best before adaptation stops.
PATIENCE = 5


def adapt(
    model: Forecaster | Run | str | Path,
    recording: Recording,
    *,
    mode: str | None = None,
    steps: int = 200,
    learning_rate: float | None = None,
    batch_size: int | None = None,
    protocol: str | None = None,
    seed: int = 0,
    precision: str = "auto",
    score_every: int = 20,
    patience: int | None = PATIENCE,
    frames: int | None = None,
    train_config: TrainConfig | None = None,
    unit_types: str | None = None,
    source: Mapping[str, Any] | None = None,
    callbacks: Sequence[Callback] = (),
) -> Adapted:
    """Fit a trained model to a session it has not seen.

    The weights with the lowest validation error are kept; what the steps begin with is validated too, so a session that
    is too short to learn from leaves the model as good as it came. The new session joins the vocabulary; parameters of
    the other sessions stay as they are, to the bit. Scores are on the test part of the new session, against the
    forecast that repeats the last frame. A parameter of the model that requires no gradient is not fitted. A recording
    whose rate is more than a quarter off all those the model learnt from gives a warning, and so does one that the
    model learnt from under another name. Of an ensemble each member is adapted in this way, from ``seed`` and
    those after it; scores are of the mean.

    Args:
        model: a trained model, which is left as it was; or a run, or a folder of either (:func:`poco.load`).
        recording: the new session; its name must not be in the model's vocabulary.
        mode: what is fitted. A forecaster on the ground solves for the new session's own terms, ``"solve"`` (or
            ``"embeddings"``, which is taken for it); settings of steps are left aside. A POCO takes steps:
            ``"embeddings"``, its default, fits the new session's own parameters alone, ``"mlp"`` those and the network
            that forecasts each unit (the encoder of the population stays), ``"full"`` everything but the other
            sessions' parameters, ``"scratch"`` a fresh model of the same shape on this session alone, ``"zero-shot"``
            nothing: the session joins with fresh embeddings, and settings of steps are left aside.
        steps: optimiser steps.
        learning_rate: default 3e-4; for embeddings alone 0.05 of the root mean square of those that the model knows,
            so that a step is as small beside them however they were trained.
        batch_size: windows a step; default 64, and 16 for embeddings alone, which learn as much from them in a third of
            the time.
        protocol: how the session is cut and normalised, ``"leak-free"`` or ``"published"``; default that of the run,
            and leak-free for a model alone.
        seed: seed of new embeddings, dropout and the order of the windows.
        precision: what the steps compute in: ``"float32"``, ``"bf16"`` (autocast), or ``"auto"``, which is bf16 where
            the machine has instructions for it. Scores are taken in float32.
        score_every: steps from one point of the history to the next, and from one validation to the next.
        patience: stop after this many validations in a row without a new best; None: take all steps.
        frames: learn from so many frames alone, the last ones before the test part (see
            :func:`poco.data.splits.shorten`); default all there are. Where they are too few to keep some for
            validation, 20 steps are taken and the last weights kept.
        train_config: all settings of the loop, in place of those from ``steps`` to ``batch_size`` and from ``seed`` to
            ``patience``; without ``val_first`` the start is no candidate.
        unit_types: label of the units for a model that embeds unit types; default the one it was trained with, or the
            only one there is.
        source: where model and recording came from (``run``, ``recording``), kept with the result, and how the
            recording was read (``options``), kept with the model, so that it can be read that way again. What it leaves
            out is known of a run or folder, and of a recording that is as :func:`poco.read` read it.
        callbacks: what may watch.

    Returns:
        The adapted model with its scores before and after.

    Raises:
        ConfigError: for an unknown mode or a setting that cannot work.
        VocabularyError: if the session is in the model's vocabulary already.
        DataError: if the recording cannot be used as it stands.
        CheckpointError: if the folder holds no model.
    """
    from poco.ensemble import Ensemble
    from poco.models import kind_of, members, model_of, open_forecaster
    from poco.nn import POCO
    from poco.run import Run

    if not isinstance(recording, Recording):
        raise DataError(f"one recording is wanted, not {type(recording).__name__}: read it with poco.read, choose one")
    if train_config is not None and not isinstance(train_config, TrainConfig):
        raise ConfigError(f"train_config must be a poco.TrainConfig, got {type(train_config).__name__}")
    check_callbacks(callbacks)
    given = open_forecaster(model) if isinstance(model, (str, Path)) else model
    run = given if isinstance(given, Run) else None
    folder = run.folder if run is not None else model if isinstance(model, (str, Path)) else None
    source = {**_known_source(folder, recording), **(source or {})}
    protocol = protocol or (run.protocol if run is not None else "leak-free")
    model = model_of(given, "what is adapted")
    each, kind, sizes = members(model), kind_of(model), model.config
    plain = {
        "mode": mode,
        "steps": steps,
        "learning_rate": learning_rate,
        "batch_size": batch_size,
        "protocol": protocol,
        "seed": seed,
        "precision": precision,
        "score_every": score_every,
        "patience": patience,
        "frames": frames,
        "unit_types": unit_types,
    }
    check_options(kind, sizes.context + sizes.horizon, plain)
    mode = _mode(kind, mode)
    expect_new(model.sessions, recording.session)
    cut = split([recording], protocol=protocol, context=sizes.context, horizon=sizes.horizon)
    if frames is not None and frames >= cut.frames_to_learn[0]:
        frames = None
    if frames is not None:
        cut = shorten(cut, frames)
    learnt = (model.metadata.get("training") or {}).get("unit_types")
    label = embedded_label(sizes, [recording], unit_types, learnt, "unit_types=LABEL, --unit-types LABEL")
    types = () if label is None else tuple(recording.labels[label])
    _compare_rates(model, recording)
    _compare_recordings(model, recording)
    origin: dict[str, str] = {name: str(source[name]) for name in ("run", "recording") if name in source}
    found: list[Adapted] = []
    starts: list[Callable[[], Member]] = []
    configs: list[TrainConfig | None] = []
    for number, member in enumerate(each):
        own: TrainConfig | None = None
        if not isinstance(member, POCO):
            adapted, start = _solve(member, recording, cut)
        elif mode == "zero-shot":
            adapted, start = join(member, recording, cut, types, seed + number)
        else:
            own = (
                dataclasses.replace(train_config, seed=train_config.seed + number).for_sessions(1)
                if train_config
                else settings(
                    cut,
                    mode,
                    steps=steps,
                    learning_rate=learning_rate if learning_rate is not None else usual_rate(member, mode),
                    batch_size=batch_size,
                    seed=seed + number,
                    precision=precision,
                    score_every=score_every,
                    patience=patience,
                )
            )
            for callback in callbacks if isinstance(model, Ensemble) else ():
                callback.member(own.seed, number + 1, len(each))
            adapted, start = fit_session(member, recording, cut, types, mode, own, callbacks)
        configs.append(own)
        adapted = dataclasses.replace(adapted, frames=frames, origin=origin)
        adapted.model.metadata = _metadata(member, recording, adapted.mode, protocol, own, label, source)
        found.append(adapted)
        starts.append(start)
    if not isinstance(model, Ensemble):
        return found[0]
    together = _together(found, starts)
    together.model.metadata = _metadata(model, recording, together.mode, protocol, configs[0], label, source)
    return together


def _known_source(folder: str | Path | None, recording: Recording) -> dict[str, Any]:
    """What is known of where a model and a recording came from, as ``source`` of :func:`adapt`."""
    known: dict[str, Any] = {} if folder is None else {"run": Path(folder).resolve()}
    origin = source_of([recording])
    return known if origin is None else {**known, "recording": origin["path"], "options": origin["options"]}


def check_options(kind: str, window: int, options: Mapping[str, Any]) -> None:
    """Raises ConfigError for what no recording could be adapted to with.

    Args:
        kind: of the model, see :func:`poco.models.kind_of`.
        window: its context and horizon together.
        options: of :func:`adapt`, by name.
    """
    for name, value in options.items():
        if name not in OPTIONS:
            raise ConfigError(f"there is no option '{name}' here: the options are {', '.join(OPTIONS)}")
        check_kind(name, value, OPTIONS[name])
    mode, frames, protocol = _mode(kind, options.get("mode")), options.get("frames"), options.get("protocol")
    if protocol is not None:
        check_protocol(protocol)
    if frames is not None and frames < window:
        raise ConfigError(f"{frames} frames hold no window of {window} (context + horizon): give more (frames)")
    if mode not in (SOLVE, "zero-shot"):
        check_settings(options)


def _mode(kind: str, mode: str | None) -> str:
    """The mode that is meant; a ConfigError if a model of this kind has no such."""
    if kind == "grounded":
        if mode not in (None, SOLVE, "embeddings"):
            raise ConfigError(f"a forecaster on the ground takes a session by a solve (mode '{SOLVE}'), not '{mode}'")
        return SOLVE
    if mode is not None and mode not in MODES:
        more = " (a POCO is not solved for)" if mode == SOLVE else ""
        raise ConfigError(f"mode must be one of {', '.join(MODES)}, got '{mode}'{more}")
    return mode or "embeddings"


def _solve(model: Grounded, recording: Recording, cut: Split) -> tuple[Adapted, Callable[[], Member]]:
    """A forecaster on the ground with a session added, one solve for each of its units; and what makes it without."""
    from poco.ground import add_session

    def bare() -> Grounded:
        """The session's units have no terms of their own."""
        without = copy.deepcopy(adapted)
        for form in range(len(adapted.ground.forms)):
            without.ground.terms(index).form(form).coefficients.zero_()
        return without

    adapted = copy.deepcopy(model).eval()
    began = time.monotonic()
    index = add_session(adapted.ground, cut, adapted.penalties)
    seconds = time.monotonic() - began
    before, after = scores_of(bare(), cut), scores_of(adapted, cut, warn=True)
    terms = [adapted.ground.terms(index).form(form) for form in range(len(adapted.ground.forms))]
    result = Adapted(
        model=adapted,
        session=recording.session,
        mode=SOLVE,
        history=(Point(0, 0.0, before.score), Point(1, round(seconds, 3), after.score)),
        before=before.score,
        after=after.score,
        gain=ahead(after, before, cut),
        seconds=seconds,
        parameters=sum(term.coefficients.numel() for term in terms),
        split=cut,
    )
    return result, bare


def _together(found: Sequence[Adapted], starts: Sequence[Callable[[], Member]]) -> Adapted:
    """The ensemble of adapted members, scored as such; ``starts`` make the members as they were before."""
    from poco.ensemble import Ensemble

    first, seconds = found[0], sum(one.seconds for one in found)
    model = Ensemble([cast("Member", one.model) for one in found]).eval()
    before, after = scores_of(Ensemble([start() for start in starts]), first.split), scores_of(model, first.split)
    steps = max(one.history[-1].step for one in found)
    return dataclasses.replace(
        first,
        model=model,
        history=(Point(0, 0.0, before.score), Point(steps, round(seconds, 3), after.score)),
        before=before.score,
        after=after.score,
        gain=None if first.gain is None else ahead(after, before, first.split),
        seconds=seconds,
        parameters=sum(one.parameters for one in found),
        kept_step=None,
    )


def _compare_rates(model: Forecaster, recording: Recording) -> None:
    learnt = [rate for rate in learnt_rates(model).values() if rate is not None]
    rate = recording.rate_hz
    if learnt and all(rates_differ(rate, other) for other in learnt):
        warnings.warn(
            f"session '{recording.session}' has {rate:.4g} frames a second, the model learnt from "
            f"{', '.join(f'{r:.4g}' for r in dict.fromkeys(learnt))}: resample the recording, or expect lower scores",
            RuntimeWarning,
            stacklevel=3,
        )


def _compare_recordings(model: Forecaster, recording: Recording) -> None:
    known: Mapping[str, str] = model.metadata.get("fingerprints") or {}
    own = fingerprint(recording) if known else ""
    for session, learnt in known.items():
        if learnt == own:
            warnings.warn(
                f"{same_activity(recording.session, session)}, and the model learnt from it: scores say nothing of a "
                "new session",
                RuntimeWarning,
                stacklevel=3,
            )


def _metadata(
    model: Forecaster,
    recording: Recording,
    mode: str,
    protocol: str,
    config: TrainConfig | None,
    unit_types: str | None,
    source: Mapping[str, Any],
) -> dict[str, Any]:
    """What the adapted model's folder says of it, on top of what is known of the model."""
    known = model.metadata if mode != "scratch" else {}
    this = {
        "session": recording.session,
        "mode": mode,
        "protocol": protocol,
        "settings": {} if config is None else config.to_json(),
        "unit_types": unit_types,
        "poco": __version__,
    }
    return {
        **known,
        "rate_hz": {**(known.get("rate_hz") or {}), recording.session: recording.rate_hz},
        "fingerprints": {**(known.get("fingerprints") or {}), recording.session: fingerprint(recording)},
        "reading": source.get("options", {}),
        "adaptations": [*known.get("adaptations", ()), this],
    }
