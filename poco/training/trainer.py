"""Training one model of a split: the part of a run that each seed goes through."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from poco.data.recording import Recording
from poco.data.splits import Split
from poco.errors import ConfigError, DataError
from poco.training.callbacks import Callback
from poco.training.config import TrainConfig
from poco.training.loop import History, fit
from poco.training.seeds import drawing

if TYPE_CHECKING:
    from poco.ground.estimator import Fitted
    from poco.ground.grounded import Grounded
    from poco.models import Member, Sizes
    from poco.nn import POCO, POCOConfig

_OPTION = "unit_types=LABEL"  # how to ask for the label of the units


class Trainer:
    """Trains models that differ in nothing but their seed.

    Args:
        cut: recordings, parts and statistics.
        sizes: sizes and options of the model.
        callbacks: what may watch.
        unit_types: label of the units to embed.
        config: settings of the run, which the metadata of the models then tell of.
    """

    def __init__(
        self,
        cut: Split,
        sizes: Sizes,
        callbacks: Sequence[Callback] = (),
        *,
        unit_types: str | None = None,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        self._cut, self._sizes, self._config, self._unit_types = cut, sizes, config, unit_types
        self._callbacks = callbacks
        self._prepared: tuple[Grounded, Fitted] | None = None  # of the first seed: the ground is the same for all

    def train(
        self, settings: TrainConfig, keep: Callable[[Member, int], None] | None = None, **options: Any
    ) -> tuple[Member, History]:
        """Train from the seed of the settings.

        Args:
            settings: of the loop.
            keep: is given each best model so far, and its step.
            **options: see :func:`poco.training.fit`.

        Returns:
            The model with its best weights, and what happened.
        """
        from poco.ground.grounded import Grounded, GroundedConfig
        from poco.ground.job import finish, prepare

        model: Member
        if isinstance(self._sizes, GroundedConfig):
            prepared = prepare(self._cut, self._sizes, settings, self._callbacks, like=self._prepared)
            self._prepared = self._prepared or prepared
            model, fitted = prepared
        else:
            model = build_poco(self._cut, self._sizes, settings.seed, self._unit_types)
        if self._config is not None:
            model.metadata |= _metadata(self._config, settings.seed, self._unit_types)
        watching = self._callbacks if keep is None else [*self._callbacks, _Keeper(model, keep)]
        history = fit(model, self._cut, settings, callbacks=watching, **options)
        if isinstance(model, Grounded):
            finish(model, fitted, self._cut, settings, history.best_steps, self._callbacks)
        return model, history


class _Keeper(Callback):
    """Keeps the best model so far."""

    def __init__(self, model: Member, keep: Callable[[Member, int], None]) -> None:
        self._model, self._keep = model, keep

    def validated(self, record: Mapping[str, Any]) -> None:
        if record["best"]:
            self._keep(self._model, int(record["step"]))


def _metadata(config: Mapping[str, Any], seed: int, unit_types: str | None) -> dict[str, Any]:
    """What a model's own folder says of its training: enough to forecast and adapt without the run."""
    kept = {key: config[key] for key in ("recipe", "protocol", "seed", "versions")}
    return {
        "training": {**kept, "seed": seed, "unit_types": unit_types, "steps": config["training"]["steps"]},
        "rate_hz": {entry["session"]: entry["rate_hz"] for entry in config["sessions"]},
        "fingerprints": {entry["session"]: entry["fingerprint"] for entry in config["sessions"]},
        "reading": (config["source"] or {}).get("options", {}),
    }


def build_poco(cut: Split, sizes: POCOConfig, seed: int, unit_types: str | None = None) -> POCO:
    """A POCO with fresh weights that knows the sessions of a split and their normalisation."""
    from poco.nn import POCO, SessionSpec

    label = unit_types if sizes.unit_type_embedding else None
    specs = [SessionSpec.of(one, () if label is None else one.labels[label]) for one in cut.recordings]
    with drawing(seed, "weights"):
        model = POCO(sizes, specs)
    for index, recording in enumerate(cut.recordings):
        mean, std = (torch.from_numpy(values.copy()) for values in (cut.mean[index], cut.std[index]))
        model.set_normalisation(recording.session, mean, std)
    return model


def embedded_label(
    sizes: Any, recordings: Sequence[Recording], label: str | None, otherwise: str | None = None, option: str = _OPTION
) -> str | None:
    """The label of the units that a model of these sizes embeds, None if it embeds none.

    Args:
        sizes: configuration of the model.
        recordings: what the label has to be there in.
        label: the one asked for, or None.
        otherwise: the one to take where none was asked for; None is the only one there is.
        option: how to ask for one, for an error.

    Raises:
        ConfigError: if one was asked for in vain, or it is not clear which is meant.
        DataError: if a recording has no such label.
    """
    if getattr(sizes, "unit_type_embedding", False):
        return choose_label(recordings, label or otherwise, option)
    if label is not None:
        raise ConfigError(f"the model embeds no types of units: leave out unit_types ('{label}')")
    return None


def choose_label(recordings: Sequence[Recording], label: str | None, option: str = _OPTION) -> str:
    """The label of the units that ``unit_type_embedding`` embeds: the one asked for, or the only one.

    Args:
        recordings: what it has to be there in.
        label: the one asked for, or None.
        option: how to ask for one, for an error.

    Raises:
        ConfigError: if none was asked for and there is not exactly one.
        DataError: if a recording has no such label.
    """
    for recording in recordings:
        where, labels = f"session '{recording.session}'", ", ".join(recording.labels) or "none"
        if label is None:
            if len(recording.labels) != 1:
                raise ConfigError(
                    f"unit_type_embedding needs to know which label to embed; {where} has: {labels} ({option})"
                )
            label = next(iter(recording.labels))
        if label not in recording.labels:
            raise DataError(f"{where} has no label '{label}' of its units; it has: {labels}")
    assert label is not None
    return label
