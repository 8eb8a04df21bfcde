"""An adapted model and what adapting it took, as a value and as a folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from poco.data.splits import Split, shorten, split
from poco.errors import CheckpointError, ConfigError, DataError
from poco.files import ADAPTATION, CONFIG, MODEL, read_json, write_json
from poco.intervals import Ahead
from poco.nn.files import reading_options
from poco.wording import counted

if TYPE_CHECKING:
    from poco.models import Forecaster


@dataclass(frozen=True)
class Point:
    """Test score during adaptation.

    Attributes:
        step: steps done.
        seconds: time spent adapting, scoring not counted.
        score: 1 - MSE / MSE of copy on the test part.
    """

    step: int
    seconds: float
    score: float


@dataclass(frozen=True, eq=False)
class Adapted:
    """A model that knows a new session, and what it took.

    Attributes:
        model: the adapted model; the one given is as it was. Its vocabulary ends with the new session
            (``mode="scratch"``: holds nothing else).
        session: name of the new session.
        mode: what was fitted, see :func:`poco.adapt`; ``"solve"`` for a forecaster on the ground.
        history: test score from before the first step to the last one, each of some 128 windows spaced evenly over the
            test part; of an ensemble, before and after alone, of all.
        before: test score with fresh embeddings (``mode="scratch"``: of the untrained model).
        after: test score of the weights that were kept (``mode="zero-shot"``: as before).
        seconds: time spent adapting, scoring not counted.
        parameters: number of values that were fitted.
        split: the new session, cut into parts.
        gain: how far it is ahead of the start, with a 95% interval; None for ``mode="zero-shot"``.
        frames: the frames that it learnt from, where it was not all there are.
        kept_step: the step whose weights were kept, those with the lowest validation error; 0 is the start. None where
            there were no steps, or several members.
        origin: where model and recording came from (``run``, ``recording``), where that is known.
    """

    model: Forecaster
    session: str
    mode: str
    history: tuple[Point, ...]
    before: float
    after: float
    seconds: float
    parameters: int
    split: Split
    gain: Ahead | None = None
    frames: int | None = None
    kept_step: int | None = None
    origin: Mapping[str, str] = field(default_factory=dict)

    def __repr__(self) -> str:
        scores = f"score {self.before:.4f} before, {self.after:.4f} after"
        return f"<Adapted to '{self.session}': {self.mode}, {counted(self.parameters, 'value')} fitted, {scores}>"

    @property
    def settings(self) -> Mapping[str, Any]:
        """Settings of the steps, as plain values; of an ensemble, of its first member. Empty where there were none."""
        return dict(self._how.get("settings", {}))

    @property
    def unit_types(self) -> str | None:
        """The label of the units that the model embeds; None if it embeds none."""
        return self._how.get("unit_types")

    @property
    def _how(self) -> Mapping[str, Any]:
        """What the model says of its last adaptation."""
        return (self.model.metadata.get("adaptations") or [{}])[-1]

    def to_json(self) -> dict[str, Any]:
        """Scores, times, settings and the curve as plain values."""
        return {
            **self.origin,
            "session": self.session,
            "mode": self.mode,
            "protocol": self.split.protocol,
            "before": self.before,
            "after": self.after,
            "gain": None if self.gain is None else self.gain.to_json(),
            "seconds": round(self.seconds, 3),
            "parameters": self.parameters,
            "frames": self.frames,
            "kept_step": self.kept_step,
            "settings": self.settings,
            "history": [vars(point) for point in self.history],
        }

    @property
    def notes(self) -> tuple[str, ...]:
        """What a person should know of it, one line each."""
        found = []
        stepped = self.mode not in ("solve", "zero-shot")
        if self.frames is not None and self.split.protocol == "leak-free":
            found.append("normalised by the frames it learnt from: scores with other numbers of frames do not compare")
        if stepped and not self.split.validates:
            found.append("too few frames to keep some for validation: the last weights are kept")
        if self.gain is not None and self.gain.interval is not None and self.gain.interval[1] < 0:
            hint = ": compare with --mode zero-shot" if stepped else ""
            found.append(f"the test part does not confirm what was learnt{hint}")
        return tuple(found)

    def save(self, folder: str | Path) -> Path:
        """Write the model (a folder ``model``) and ``adaptation.json`` into a folder; returns that of the model.

        An adapted model that is there is replaced.

        Raises:
            ConfigError: if the folder holds a run or a model alone, which is never replaced.
            CheckpointError: if they cannot be written.
        """
        if (Path(folder) / CONFIG).exists():
            raise ConfigError(f"{folder} holds a run or a model: choose another folder for the adapted model")
        place = Path(folder) / MODEL
        self.model.save_pretrained(place)
        write_json(Path(folder) / ADAPTATION, self.to_json())
        return place

    @classmethod
    def load(cls, folder: str | Path, data: str | Path | None = None) -> Adapted:
        """What :meth:`save` or ``poco adapt`` wrote, with the recording it was adapted to.

        Args:
            folder: the folder.
            data: where the recording is now; default where it was.

        Raises:
            CheckpointError: if the folder does not hold an adapted model, or a damaged one.
            DataError: if the recording is not there.
        """
        from poco import models
        from poco.data.choice import Choice
        from poco.data.read import read_chosen

        folder = Path(folder)
        known = read_json(folder / ADAPTATION, "results of an adaptation")
        model = models.read_model(folder / MODEL)
        origin: dict[str, str] = {name: known[name] for name in ("run", "recording") if name in known}
        place = data if data is not None else origin.get("recording")
        if place is None:
            raise DataError(
                f"{folder} does not say where the recording is that it was adapted to: give it (--data PATH)"
            )
        try:
            names = ("session", "mode", "before", "after", "seconds", "parameters", "frames", "kept_step")
            values = {name: known[name] for name in names}
            gain = None if known["gain"] is None else Ahead.from_json(known["gain"])
            history = tuple(Point(**point) for point in known["history"])
            protocol = known["protocol"]
        except (KeyError, TypeError) as error:
            raise CheckpointError(f"{folder / ADAPTATION} is damaged or of another version: {error}") from error
        own = read_chosen(place, Choice(values["session"]), **reading_options(model))
        if not own:
            raise DataError(f"{place} has no session '{values['session']}', which the model was adapted to")
        cut = split(own, protocol=protocol, context=model.config.context, horizon=model.config.horizon)
        if values["frames"] is not None:
            cut = shorten(cut, values["frames"])
        return cls(model, history=history, gain=gain, split=cut, origin=origin, **values)
