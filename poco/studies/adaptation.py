"""A POCO of all animals but one, and what becomes of it on the one left out."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from poco import cells as cells_of
from poco.adaptation import adapt
from poco.data.recording import Recording
from poco.errors import ConfigError
from poco.intervals import mean_text
from poco.nn.files import read_config
from poco.training.recipes import recipe

if TYPE_CHECKING:
    from poco.nn import POCO

#: Steps from one point of a curve to the next.
EVERY = 20
#: What is done with the animal that was left out, in the order of tables and figures.
MODES = ("zero-shot", "embeddings", "mlp", "full", "scratch")
#: What the model of the others learns from, see :func:`learnt_from`, in the order of tables and figures.
SOURCES = (None, "same", "other", "both")
#: Validations without a new best before training of the model of the other animals ends.
PATIENCE = 5


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
    """How the published POCO of all animals but one is made.

    Attributes:
        recordings: what it learns from.
        seed: of weights and order of windows.
        steps: most gradient steps.
        protocol: how recordings are cut.
    """

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

        sizes, settings = recipe("published")
        every = min(EVERY, self.steps)
        settings = dataclasses.replace(settings, seed=self.seed, steps=self.steps, val_every=every, patience=PATIENCE)
        run = train(self.recordings, model_config=sizes, train_config=settings, protocol=self.protocol, progress=False)
        part = folder.with_name(folder.name + ".part")
        run.model.save_pretrained(part, {"study": self.made_with})
        part.rename(folder)

    def check(self, folder: Path) -> None:
        """A ConfigError if the model in a folder was made otherwise, a CheckpointError if there is none."""
        cells_of.check(folder, read_config(folder).get("study") or {}, self.made_with)


def curve(
    model: POCO, recording: Recording, mode: str, seed: int, steps: int, protocol: str, frames: int | None
) -> dict[str, Any]:
    """What ``steps`` of adapting to one recording, or to the last ``frames`` before its test part, bring.

    Returns:
        ``session``; ``after``, the test score of the weights that are kept, those with the lowest validation error;
        ``history``, (step, seconds, test score) of the weights as they are at each :data:`EVERY` steps; ``parameters``,
        how many values were fitted.
    """
    adapted = adapt(
        model,
        recording,
        mode=mode,
        steps=steps,
        protocol=protocol,
        seed=seed,
        score_every=min(EVERY, steps),
        patience=None,
        frames=frames,
    )
    return {
        "session": recording.session,
        "after": adapted.after,
        "history": [[p.step, p.seconds, p.score] for p in adapted.history],
        "parameters": adapted.parameters,
    }


def table(cells: Sequence[Mapping[str, Any]]) -> str:
    """Markdown: a row for each number of frames, source and mode, means over animals with half the 95% t-interval.

    ``kept`` is the score of the weights that validation chose, ``gain`` what it adds to zero-shot, animal by animal,
    ``last`` the score of the weights of the last step. Seeds and recordings of an animal are averaged first.
    """
    columns = ["frames", "mode", "kept", "gain", "last step", "seconds", "animals", "seeds"]
    learnt = sources(cells)
    columns[1:1] = ["learnt from"] if learnt != [None] else []
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    every = sorted({c["frames"] for c in cells}, key=lambda f: (f is None, f))
    for frames, source in itertools.product(every, learnt):
        some = [cell for cell in cells if cell["frames"] == frames and cell.get("source") == source]
        start = by_animal(some, "zero-shot", lambda c: c["after"])
        for mode in (m for m in MODES if any(cell["training"] == m for cell in some)):
            kept = by_animal(some, mode, lambda c: c["after"])
            last = by_animal(some, mode, lambda c: c["history"][-1][2])
            seconds = by_animal(some, mode, lambda c: c["history"][-1][1])
            gain = [kept[animal] - start[animal] for animal in kept if animal in start]
            row = [mean_text(list(kept.values())), mean_text(gain), mean_text(list(last.values()))]
            seeds = len({cell["seed"] for cell in some if cell["training"] == mode})
            row += [f"{sum(seconds.values()) / len(seconds):.1f}", str(len(kept)), str(seeds)]
            what = ["all" if frames is None else str(frames), *([source or "all"] if learnt != [None] else []), mode]
            lines.append(f"| {' | '.join([*what, *row])} |")
    return "\n".join(lines)


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
