"""A POCO of all animals but one, and what becomes of it on the one left out."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from poco import models
from poco.adaptation import adapt
from poco.data.recording import Recording
from poco.errors import ConfigError
from poco.training.recipes import recipe

if TYPE_CHECKING:
    from poco.nn import POCO

#: Steps from one point of a curve to the next.
EVERY = 20
#: Validations without a new best before training of the model of the other animals ends.
PATIENCE = 5


def animals(recordings: Sequence[Recording]) -> tuple[str, ...]:
    """Names of the animals; a ConfigError if there are fewer than two."""
    found = tuple(dict.fromkeys(recording.subject for recording in recordings))
    if len(found) < 2:
        raise ConfigError(f"leaving an animal out needs recordings of two, here is {found[0] if found else 'none'}")
    return found


def others(recordings: Sequence[Recording], animal: str, seed: int, steps: int, protocol: str, folder: Path) -> POCO:
    """The published POCO of all animals but one, from ``folder`` if it is there, else trained and saved there."""
    from poco.training import train

    if not folder.exists():
        sizes, settings = recipe("published")
        settings = dataclasses.replace(settings, seed=seed, steps=steps, val_every=min(EVERY, steps), patience=PATIENCE)
        some = [recording for recording in recordings if recording.subject != animal]
        run = train(some, model_config=sizes, train_config=settings, protocol=protocol, progress=False)
        part = folder.with_name(folder.name + ".part")
        run.model.save_pretrained(part)
        part.rename(folder)
    return models.load(folder)  # type: ignore[return-value]


def curve(model: POCO, recording: Recording, mode: str, seed: int, steps: int, protocol: str) -> dict[str, Any]:
    """What ``steps`` of adapting to one recording bring.

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
    )
    return {
        "session": recording.session,
        "after": adapted.after,
        "history": [[p.step, p.seconds, p.score] for p in adapted.history],
        "parameters": adapted.parameters,
    }
