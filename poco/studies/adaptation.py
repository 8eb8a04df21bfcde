"""A model of all animals but one, and what becomes of it on the one left out."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from torch import nn

from poco import cells as cells_of
from poco import models
from poco.adaptation import adapt
from poco.baselines import adapted as adapted_baselines
from poco.baselines.fitted import fit_baseline
from poco.data.recording import Recording
from poco.data.splits import shorten, split
from poco.errors import ConfigError
from poco.files import read_json, write_json
from poco.intervals import mean_text
from poco.nn import POCO
from poco.training import TrainConfig
from poco.training.recipes import recipe

#: Forecasters that can be taken to an animal left out.
FORECASTERS = ("poco", *adapted_baselines.ADAPTABLE)
#: Steps from one point of a curve to the next.
EVERY = 20
#: What is done with the animal that was left out, in the order of tables and figures.
MODES = ("zero-shot", "embeddings", "mlp", "full", "scratch")
#: What the model of the others learns from, see :func:`learnt_from`, in the order of tables and figures.
SOURCES = (None, "same", "other", "both")
#: Validations without a new best before training of the model of the other animals ends.
PATIENCE = 5
#: The file beside that model that says what it was made of.
MADE_WITH = "study.json"


def modes(forecaster: str) -> tuple[str, ...]:
    """Which of :data:`MODES` a forecaster has."""
    return MODES if forecaster == "poco" else adapted_baselines.modes(forecaster)


def animals(recordings: Sequence[Recording]) -> tuple[str, ...]:
    """Names of the animals; a ConfigError if there are fewer than two."""
    found = tuple(dict.fromkeys(recording.subject for recording in recordings))
    if len(found) < 2:
        raise ConfigError(f"leaving an animal out needs recordings of two, here is {found[0] if found else 'none'}")
    return found


def learnt_from(recordings: Sequence[Recording], animal: str, source: str | None) -> list[Recording]:
    """Recordings of the other animals: of the data set of the one left out (``"same"``), of others, or all.

    Raises:
        ConfigError: if there are none.
    """
    own = {recording.dataset for recording in recordings if recording.subject == animal}
    kept = [
        recording
        for recording in recordings
        if recording.subject != animal
        and (source in (None, "both") or (recording.dataset in own) == (source == "same"))
    ]
    if not kept:
        more = "another animal of its data set" if source == "same" else "a recording of another data set"
        raise ConfigError(f"a model for '{animal}' is to learn from '{source}' data: give {more} too")
    return kept


@dataclasses.dataclass(frozen=True)
class Others:
    """How the model of all animals but one is made; a POCO is the published one.

    Attributes:
        forecaster: one of :data:`FORECASTERS`.
        recordings: what it learns from.
        seed: of weights and order of windows.
        steps: most gradient steps.
        protocol: how recordings are cut.
    """

    forecaster: str
    recordings: Sequence[Recording]
    seed: int
    steps: int
    protocol: str

    @property
    def made_with(self) -> dict[str, Any]:
        """What is kept with the model."""
        same = {"seed": self.seed, "base_steps": self.steps, "protocol": self.protocol}
        datasets = [recording.dataset for recording in self.recordings]
        return {"recordings": cells_of.recordings_of(self.recordings), "datasets": datasets, **same}

    def train(self, folder: Path) -> None:
        """Train it and save it in a folder, which is not there before it is done."""
        from poco.training import train

        part = folder.with_name(folder.name + ".part")
        if self.forecaster != "poco":
            self._baseline(part)
        else:
            sizes, settings = recipe("published")
            settings = dataclasses.replace(settings, **self._settings)
            run = train(
                self.recordings, model_config=sizes, train_config=settings, protocol=self.protocol, progress=False
            )
            run.model.save_pretrained(part)
        write_json(part / MADE_WITH, self.made_with)
        part.rename(folder)

    def load(self, folder: Path) -> nn.Module:
        """What :meth:`train` saved."""
        return cast("POCO", models.load(folder)) if self.forecaster == "poco" else self._baseline(folder)

    def check(self, folder: Path) -> None:
        """A ConfigError if the model in a folder was made otherwise, a CheckpointError if that is not known."""
        cells_of.check(folder, read_json(folder / MADE_WITH, "settings of the study"), self.made_with)

    @property
    def _settings(self) -> dict[str, Any]:
        return {"seed": self.seed, "steps": self.steps, "val_every": min(EVERY, self.steps), "patience": PATIENCE}

    def _baseline(self, folder: Path) -> nn.Module:
        """The baseline that is kept in a folder, or is trained and then kept there."""
        data = split(self.recordings, protocol=self.protocol)
        return fit_baseline(self.forecaster, data, config=TrainConfig(**self._settings), folder=folder)


def curve(
    forecaster: str,
    model: nn.Module,
    recording: Recording,
    mode: str,
    seed: int,
    steps: int,
    protocol: str,
    frames: int | None,
) -> dict[str, Any]:
    """What ``steps`` of adapting to one recording, or to the last ``frames`` before its test part, bring.

    Returns:
        ``session``; ``after``, the test score of the weights that are kept, those with the lowest validation error;
        ``history``, (step, seconds, test score) of the weights as they are at each :data:`EVERY` steps; ``parameters``,
        how many values were fitted.
    """
    every = min(EVERY, steps)
    if isinstance(model, POCO):
        adapted = adapt(
            model,
            recording,
            mode=mode,
            steps=steps,
            protocol=protocol,
            seed=seed,
            score_every=every,
            patience=None,
            frames=frames,
        )
        history, after, parameters = adapted.history, adapted.after, adapted.parameters
    else:
        cut = split([recording], protocol=protocol)
        if frames is not None and frames < cut.frames_to_learn[0]:
            cut = shorten(cut, frames)
        history, after, parameters = adapted_baselines.adapt_baseline(
            forecaster, model, cut, mode, steps=steps, seed=seed, score_every=every
        )
    return {
        "session": recording.session,
        "after": after,
        "history": [[p.step, p.seconds, p.score] for p in history],
        "parameters": parameters,
    }


def table(cells: Sequence[Mapping[str, Any]]) -> str:
    """Markdown: means over animals and half their 95% t-interval, by frames, source, forecaster and mode.

    ``kept`` is the score of the weights that validation chose, ``gain`` what it adds to zero-shot, animal by animal,
    ``last`` the score of the weights of the last step. Seeds and recordings of an animal are averaged first.
    """
    columns = ["frames", "forecaster", "mode", "kept", "gain", "last step", "seconds", "animals", "seeds"]
    learnt = sources(cells)
    columns[1:1] = ["learnt from"] if learnt != [None] else []
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    every = sorted({c["frames"] for c in cells}, key=lambda f: (f is None, f))
    for frames, source, forecaster in itertools.product(every, learnt, forecasters(cells)):
        which = {"frames": frames, "source": source, "forecaster": forecaster}
        some = [cell for cell in cells if all(cell.get(key) == value for key, value in which.items())]
        start = by_animal(some, "zero-shot", lambda c: c["after"])
        for mode in (m for m in MODES if any(cell["training"] == m for cell in some)):
            kept = by_animal(some, mode, lambda c: c["after"])
            last = by_animal(some, mode, lambda c: c["history"][-1][2])
            seconds = by_animal(some, mode, lambda c: c["history"][-1][1])
            gain = [kept[animal] - start[animal] for animal in kept if animal in start]
            row = [mean_text(list(kept.values())), mean_text(gain), mean_text(list(last.values()))]
            seeds = len({cell["seed"] for cell in some if cell["training"] == mode})
            row += [f"{sum(seconds.values()) / len(seconds):.1f}", str(len(kept)), str(seeds)]
            what = ["all" if frames is None else str(frames), *([source or "all"] if learnt != [None] else [])]
            lines.append(f"| {' | '.join([*what, forecaster, mode, *row])} |")
    return "\n".join(lines)


def forecasters(cells: Sequence[Mapping[str, Any]]) -> list[str]:
    """The forecasters, POCO first."""
    there = {cell["forecaster"] for cell in cells}
    return [name for name in FORECASTERS if name in there]


def sources(cells: Sequence[Mapping[str, Any]]) -> list[str | None]:
    """What the models learnt from, in the order of the study; [None] where it does not matter."""
    there = {cell.get("source") for cell in cells}
    return [source for source in SOURCES if source in there]


def by_animal(
    cells: Sequence[Mapping[str, Any]], mode: str, value: Callable[[Mapping[str, Any]], float]
) -> dict[str, float]:
    """Animal by animal, the mean of a value over seeds and recordings."""
    found: dict[str, list[float]] = {}
    for cell in cells:
        if cell["training"] == mode:
            found.setdefault(cell["value"], []).extend(value(curve) for curve in cell["curves"])
    return {animal: sum(values) / len(values) for animal, values in found.items()}


def points(cells: Sequence[Mapping[str, Any]], mode: str, place: int, column: int) -> list[float]:
    """The values of the animals at one place of their curves: steps (0), seconds (1) or scores (2)."""
    return list(by_animal(cells, mode, lambda curve: curve["history"][place][column]).values())
