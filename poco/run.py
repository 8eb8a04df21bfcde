"""A training run on disk: settings, metrics, the best model, the state to resume from, scores and a figure.

A run folder holds

- ``config.json``: settings of model and training, protocol, recipe, seed, versions, where the recordings came from, and
  each session's size, rate and fingerprint;
- ``metrics.jsonl``: one line per logged loss and per validation;
- ``model/``: the best model so far (``poco.load`` reads it);
- ``resume.safetensors``: the state that training continues from;
- ``members/SEED/``, where there are several seeds: each one's model and the state that its training continues from;
- ``log.txt``: what happened when;
- ``baselines/``: fitted baselines, ``evaluation.json``: scores, ``figure.png``: the figure, once evaluated.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from poco.data.checks import as_recordings
from poco.data.recording import Recording, fingerprint
from poco.data.splits import Split, split
from poco.errors import CheckpointError, DataError, MissingExtraError
from poco.files import CONFIG, EVALUATION, FIGURE, METRICS, MODEL, write_json
from poco.training.config import TrainConfig
from poco.training.folder import expect_recordings, log, read_config, read_metrics
from poco.wording import counted, enumerated

if TYPE_CHECKING:
    from poco.models import Forecaster
    from poco.plots import TrainingCurve
    from poco.scores import Evaluation


@dataclass(eq=False)
class Run:
    """A trained model and how it came about.

    Attributes:
        folder: the run folder, or None for a run that was kept in memory.
        config: settings, as in ``config.json``.
        model: the best model, with its sessions' normalisation.
        history: logged losses and validations, in order of steps; of several seeds, one after another.
        recordings: the sessions it was trained on where they are at hand, else None.
    """

    folder: Path | None
    config: Mapping[str, Any]
    model: Forecaster
    history: Sequence[Mapping[str, Any]]
    recordings: tuple[Recording, ...] | None = field(default=None, repr=False)

    def __repr__(self) -> str:
        place = "in memory" if self.folder is None else f"in {self.folder}"
        sessions, seeds = self.config["sessions"], self.config.get("seeds", 1)
        units = counted(sum(entry["units"] for entry in sessions), "unit")
        of = f"{counted(len(sessions), 'session')} with {units}"
        return f"<Run {place}: {self.config['recipe']}, {self.protocol}, {of}, {counted(seeds, 'seed')}>"

    @classmethod
    def load(cls, folder: str | Path) -> Run:
        """The run in a folder, with the best model so far.

        Raises:
            CheckpointError: if the folder is no run, or holds no model yet, or a file in it is damaged.
        """
        from poco import models

        folder = Path(folder)
        config = read_config(folder)
        if not (folder / MODEL / CONFIG).exists():  # written last
            raise CheckpointError(
                f"the run in {folder} has no model yet: it stopped before its first validation; resume it (--resume)"
            )
        return cls(folder, config, models.read_model(folder / MODEL), read_metrics(folder / METRICS))

    @property
    def finished(self) -> bool:
        """Whether training came to its end; a run that was stopped has the best model so far, and can be resumed."""
        training, seeds = self.model.metadata.get("training") or {}, self.config.get("seeds", 1)
        steps = self.config["training"].get("steps")
        whole = training.get("finished", True) and training.get("steps", steps) == steps  # it may be given more steps
        return bool(whole) and (seeds == 1 or len(training.get("seeds", ())) == seeds)

    @property
    def protocol(self) -> str:
        """How the recordings were cut and normalised."""
        return str(self.config["protocol"])

    @property
    def train_config(self) -> TrainConfig:
        """Settings of the training loop."""
        return TrainConfig.from_json(self.config["training"])

    def session(self, name: str) -> Mapping[str, Any]:
        """What ``config.json`` says of a session the run was trained on; empty for one that joined later."""
        return next((s for s in self.config["sessions"] if s["session"] == name), {})

    def split(self, recordings: Recording | Sequence[Recording] | None = None) -> Split:
        """The recordings cut and normalised as for training.

        Args:
            recordings: sessions that the run was trained on, some or all. Default: all of them, read again from where
                they came from.

        Raises:
            DataError: if the recordings are not those that the run was trained on, or said to be of another rate, or it
                is not known where they are.
        """
        from poco.forecasting import check_fits

        if recordings is None:
            recordings = self.recordings if self.recordings is not None else self.read()
        recordings = as_recordings(recordings)
        known = {entry["session"]: entry["fingerprint"] for entry in self.config["sessions"]}
        for recording in recordings:
            if recording.session not in known:
                raise DataError(
                    f"the run was not trained on session '{recording.session}': its sessions are {', '.join(known)}"
                )
            if fingerprint(recording) != known[recording.session]:
                raise DataError(
                    f"session '{recording.session}' is not the recording the run was trained on (its frames, units or "
                    "values differ): read it with the same options, or train a new run"
                )
            check_fits(self.model, recording.session, recording)
        sizes = self.model.config
        return split(recordings, protocol=self.protocol, context=sizes.context, horizon=sizes.horizon)

    @property
    def baselines(self) -> tuple[str, ...]:
        """Names of what the run is to be compared with: the baselines that training was told, else all."""
        from poco.baselines import NAMES

        return tuple(self.config.get("baselines", NAMES))

    @property
    def best_step(self) -> int | None:
        """Last step that kept weights are from; None for several seeds, or where there were no steps."""
        best = [record["step"] for record in self.history if record.get("best")]
        return int(best[-1]) if best and self.config.get("seeds", 1) == 1 else None

    @property
    def training_curve(self) -> TrainingCurve:
        """Errors during training, seed by seed; without those of training where its loss is no squared error."""
        from poco.plots import TrainingCurve

        squared = self.train_config.loss == "mse"
        train = curve(self.history, "loss") if squared else []
        return TrainingCurve(train, curve(self.history, "val_mse"), self.best_step)

    def evaluate(self, recordings: Recording | Sequence[Recording] | None = None, **options: Any) -> Evaluation:
        """Score the run and its baselines.

        Those of every window of the test part of all sessions, in float32, are kept as ``evaluation.json`` and, with
        matplotlib, ``figure.png``: they are what reports show.

        Args:
            recordings: see :meth:`split`.
            **options: see :func:`poco.evaluation.evaluate`.
        """
        from poco.evaluation import evaluate

        cut = self.split(recordings)
        evaluation = evaluate(self, cut, **options)
        whole = (evaluation.part, evaluation.stride, evaluation.precision) == ("test", 1, "float32")
        if self.folder is not None and whole and len(cut.recordings) == len(self.config["sessions"]):
            try:
                self._keep(self.folder, evaluation, cut)
            except CheckpointError as error:  # the scores are worth having all the same
                warnings.warn(f"the scores, or their figure, could not be kept: {error}", RuntimeWarning, stacklevel=2)
        return evaluation

    def _keep(self, folder: Path, evaluation: Evaluation, cut: Split) -> None:
        write_json(folder / EVALUATION, evaluation.to_json())
        text = ", ".join(f"{name} {scores.score:.4f}" for name, scores in evaluation.baselines.items())
        log(folder, f"evaluated on {evaluation.part}: score {evaluation.score:.4f} ({text})")
        try:
            self.draw(evaluation, cut)
        except MissingExtraError as error:
            log(folder, f"no figure: {error}")

    @property
    def evaluation(self) -> Evaluation | None:
        """The scores kept by the last :meth:`evaluate`, or None."""
        from poco.scores import Evaluation

        return None if self.folder is None else Evaluation.kept(self.folder / EVALUATION)

    def draw(self, evaluation: Evaluation, cut: Split) -> Path:
        """Draw ``figure.png`` into the run folder.

        Raises:
            MissingExtraError: if matplotlib is missing.
            CheckpointError: if the run has no folder, or the figure cannot be written.
        """
        if self.folder is None:
            raise CheckpointError("a run kept in memory has no folder to draw its figure into: train with out=")
        from poco.plots import run_figure, save
        from poco.plots.examples import choose_examples

        every = evaluation.forecasters
        scores = {name: (one.score, [s.score for s in one.sessions]) for name, one in every.items()}
        steps = {n: np.array(one.score_per_step) for n, one in every.items() if n not in ("copy", "mean")}
        seeds, first = int(self.config.get("seeds", 1)), int(self.config["seed"])
        figure = run_figure(
            choose_examples(self.model, cut, evaluation.part, count=6),
            scores,
            steps,
            self.training_curve,
            title=f"{counted(len(cut.recordings), 'session')}, score {evaluation.score:.3f}",
            subtitle=f"{evaluation.protocol} protocol, {evaluation.part} part, context {evaluation.context}, "
            f"horizon {evaluation.horizon}, recipe {self.config['recipe']}, "
            + (f"seed {first}" if seeds == 1 else f"seeds {first} to {first + seeds - 1}"),
        )
        return save(figure, self.folder / FIGURE)

    @property
    def source(self) -> tuple[Any, dict[str, Any]]:
        """Path or paths of the recordings and the options they were read with; (None, {}) if that is not known."""
        source = self.config.get("source") or {}
        return source.get("path"), dict(source.get("options", {}))

    def read(self, path: str | Path | None = None, **options: Any) -> tuple[Recording, ...]:
        """The recordings that the run was trained on, read again.

        Args:
            path: where they are now; default where they were.
            **options: of :func:`poco.read`, in place of those that they were read with.

        Raises:
            DataError: if it is not known where they are, or one is not there.
        """
        from poco.data.choice import Choice
        from poco.data.read import read_chosen

        place, before = self.source
        if path is None and place is not None:
            expect_recordings(place, "it (--data PATH)")
        place = path if path is not None else place
        if place is None:
            raise DataError(
                f"the run in {self.folder} does not say where its recordings are, which were not as poco.read read "
                "them: give them (recordings=..., or on the command line --data PATH)"
            )
        names = [entry["session"] for entry in self.config["sessions"]]
        choice = Choice(names)
        found = {one.session: one for one in read_chosen(place, choice, **{**before, **options})}
        missing = [name for name in names if name not in found]
        if missing:
            raise DataError(
                f"there is no session '{missing[0]}', which the run was trained on, in {place}: it has "
                f"{enumerated(choice.names)}; give the recordings (recordings=..., or on the command line --data PATH)"
            )
        return tuple(found[name] for name in names)


def curve(records: Sequence[Mapping[str, Any]], value: str) -> list[tuple[int, float]]:
    """(step, value) pairs, seed by seed; a NaN between two seeds, so that no line is drawn from one to the other."""
    found: list[tuple[int, float]] = []
    by_seed = sorted((record for record in records if value in record), key=lambda record: record.get("seed", 0))
    for before, record in zip([None, *by_seed], by_seed, strict=False):
        if before is not None and before.get("seed") != record.get("seed"):
            found.append((record["step"], float("nan")))
        found.append((record["step"], record[value]))
    return found
