"""The demo: simulated animals, a small POCO trained on some and adapted to another, scores and a figure.

The animals are chaotic networks whose connectivity is partly shared (see :mod:`poco.data.simulate`). A unit's future
depends on the whole population there, so forecasters that see one unit at a time have a limit that POCO has not. Scores
come from the same code as those of any run: leak-free protocol, test frames never trained on, nothing tuned on them.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from poco.adaptation import adapt
from poco.adapted import Adapted
from poco.baselines import NAMES, OF_SESSIONS
from poco.baselines.fitted import fit_baseline
from poco.data.read import read
from poco.data.recording import Recording
from poco.data.simulate import simulate
from poco.errors import ConfigError, MissingExtraError
from poco.files import BASELINES, FIGURE, write_atomically, write_json, write_npz
from poco.nn import POCOConfig
from poco.run import Run
from poco.scores import Evaluation, Scores
from poco.scoring import score_forecasters
from poco.training import Progress, TrainConfig, train

if TYPE_CHECKING:
    from poco.data.splits import Split

_MARK = "demo.json"  # the file by which a folder is known to hold a demo

REFITTED = ", refitted"
_REFIT = ("ridge",)  # what takes no time to fit to the unseen animal too

# A template whose animals all stay active throughout: in others some units saturate and hardly move for minutes.
_TEMPLATE_SEED = 4


@dataclass(frozen=True)
class Size:
    """How large a demo is.

    Attributes:
        animals: animals to train on; one more is adapted to.
        units: units of each.
        frames: frames of each recording, at 20 Hz.
        steps: training steps.
        adapt_steps: adaptation steps.
        baselines: forecasters to compare with.
        model: fields of ``POCOConfig``.
    """

    animals: int
    units: int
    frames: int
    steps: int
    adapt_steps: int
    baselines: tuple[str, ...]
    model: Mapping[str, Any]


_SMALL = {"heads": 2, "head_width": 32, "ffn_dropout": 0.0, "latent_dropout": 0.0, "embedding_std": 0.3}
_ANY_SESSION = tuple(name for name in NAMES if name not in OF_SESSIONS)  # these forecast an unseen animal too
FULL = Size(4, 80, 2048, 1000, 200, _ANY_SESSION, {**_SMALL, "width": 64, "film_width": 512})
QUICK = Size(2, 16, 600, 30, 20, ("copy", "mean", "ridge"), {**_SMALL, "width": 16, "film_width": 32, "latents": 4})


@dataclass(frozen=True, eq=False)
class Demo:
    """What the demo found.

    Attributes:
        run: the trained run.
        evaluation: scores on the test part of the training animals.
        adapted: the model adapted to the unseen animal.
        unseen: scores of the baselines, fitted to the training animals, on the test part of the unseen one; those
            whose names end in ``", refitted"`` are fitted to the unseen animal itself.
        figure: path of the figure, or None without matplotlib.
        seconds: time the demo took.
    """

    run: Run
    evaluation: Evaluation
    adapted: Adapted
    unseen: Mapping[str, Scores]
    figure: Path | None
    seconds: float

    def rows(self) -> list[tuple[str, float | None, float]]:
        """(forecaster, score on the training animals, score on the unseen animal), POCO first, then by score."""
        from poco.plots.style import label

        others = sorted(self.evaluation.baselines.items(), key=lambda item: item[1].score, reverse=True)
        return [
            ("POCO, adapted", self.evaluation.score, self.adapted.after),
            ("POCO, not adapted", None, self.adapted.before),
            *((label(name) + REFITTED, None, self.unseen[name + REFITTED].score) for name in _REFIT),
            *((label(name), scores.score, self.unseen[name].score) for name, scores in others),
        ]

    def to_json(self) -> dict[str, Any]:
        """Scores, times and paths as plain values."""
        return {
            "run": str(self.run.folder),
            "figure": None if self.figure is None else str(self.figure),
            "seconds": round(self.seconds, 1),
            "evaluation": self.evaluation.to_json(),
            "adaptation": self.adapted.to_json(),
            "unseen_baselines": {name: scores.score for name, scores in self.unseen.items()},
        }


def run_demo(out: str | Path = "poco-demo", *, quick: bool = False, seed: int = 0) -> Demo:
    """Simulate, train, compare, adapt, draw. Progress goes to standard error.

    Args:
        out: folder for recordings, run, adapted model, ``demo.json`` and ``figure.png``. An earlier demo in it is
            replaced; a folder that holds anything else is refused.
        quick: a tiny version, to see that everything works.
        seed: seed of the models and the order of windows; the animals are always the same.

    Returns:
        What was found.

    Raises:
        ConfigError: if ``out`` holds something that is not a demo.
    """
    began = time.monotonic()
    out, size = Path(out), QUICK if quick else FULL
    _prepare(out)
    known, new = _recordings(out, size)
    run = train(
        known,
        model_config=POCOConfig(**size.model),
        train_config=TrainConfig(
            steps=size.steps,
            batch_size=16,
            learning_rate=2e-3,
            warmup=20,
            schedule="cosine",
            val_every=max(10, size.steps // 20),
            seed=seed,
        ),
        out=out / "run",
    )
    evaluation = run.evaluate(known, baselines=size.baselines, callbacks=[Progress("baseline")])
    adapted = adapt(
        run,
        new,
        steps=size.adapt_steps,
        batch_size=16,
        seed=seed,
        callbacks=[Progress("adapting")],
    )
    adapted.save(out / "adapted")
    cut = run.split(known)
    baselines = {name: fit_baseline(name, cut, seed=seed, folder=out / "run" / BASELINES) for name in size.baselines}
    baselines |= {name + REFITTED: fit_baseline(name, adapted.split) for name in _REFIT}
    unseen = score_forecasters(baselines, adapted.split)
    try:
        figure: Path | None = _draw(out / FIGURE, run, evaluation, adapted, unseen, cut)
    except MissingExtraError:
        figure = None
    demo = Demo(run, evaluation, adapted, unseen, figure, time.monotonic() - began)
    write_json(out / _MARK, demo.to_json())
    return demo


def _prepare(out: Path) -> None:
    """Make the folder, without what an earlier demo left."""
    if out.exists():
        if not out.is_dir() or (any(out.iterdir()) and not (out / _MARK).exists()):
            raise ConfigError(f"{out} exists and holds no demo: choose another folder with --out")
        for name in ("recordings", "unseen", "run", "adapted"):
            shutil.rmtree(out / name, ignore_errors=True)
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / _MARK, {"finished": False})


def _recordings(out: Path, size: Size) -> tuple[list[Recording], Recording]:
    """Simulated animals, written as a person's own recordings would lie there and read back."""
    simulated = simulate(size.animals + 1, size.units, size.frames, seed=_TEMPLATE_SEED, individuality=0.1)
    for number, recording in enumerate(simulated):
        folder = out / ("recordings" if number < size.animals else "unseen")
        folder.mkdir(exist_ok=True)
        write_npz(folder / f"{recording.session}.npz", {"activity": recording.activity})
        description = (
            'name = "simulated"\n\n[activity]\nkey = "activity"\norientation = "units x frames"\n'
            f"rate_hz = {recording.rate_hz}\n"
        )
        write_atomically(folder / "dataset.toml", description.encode())
    return read(out / "recordings"), read(out / "unseen")[0]


def _draw(
    path: Path, run: Run, evaluation: Evaluation, adapted: Adapted, unseen: Mapping[str, Scores], cut: Split
) -> Path:
    from poco.plots import AdaptationCurve, demo_figure, save
    from poco.plots.examples import choose_examples

    first = cut.recordings[0]
    begin = cut.segments["test"][0][0][0]
    every = evaluation.forecasters
    figure = demo_figure(
        first.activity[:, begin : begin + 400],
        first.rate_hz,
        choose_examples(run.model, cut, count=4),
        {name: (one.score, [s.score for s in one.sessions]) for name, one in every.items()},
        {n: np.array(one.score_per_step) for n, one in every.items() if n not in ("copy", "mean")},
        run.training_curve,
        AdaptationCurve(
            points=[(point.step, point.seconds, point.score) for point in adapted.history],
            references={name: scores.score for name, scores in unseen.items() if name not in ("copy", "mean")},
            session=adapted.session,
            after=adapted.after,
            kept_step=adapted.kept_step,
        ),
        title="POCO forecasts a simulated population, and adapts to an animal it has not seen",
        subtitle=f"{len(cut.recordings)} animals x {first.units} units x {first.frames} frames at {first.rate_hz:g} Hz"
        f", {evaluation.protocol} protocol, context {cut.context} and horizon {cut.horizon} frames, test part",
    )
    return save(figure, path)
