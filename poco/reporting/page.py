"""One HTML page that needs nothing but itself, and the figures of it as files for papers."""

from __future__ import annotations

import datetime
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from poco import commands
from poco._version import __version__
from poco.errors import ConfigError, optional
from poco.files import ADAPTATION, CONFIG, is_leftover, write_atomically
from poco.plots.style import label as shown_name
from poco.reporting.content import Content, content, open_subject, score
from poco.run import Run
from poco.scores import Scores
from poco.training.callbacks import Callback
from poco.unit_embeddings import choose

PAGE, FIGURES = "report.html", "figures"
_TEMPLATE = Path(__file__).parent / "template"


def report(
    runs: str | Path | Run | Sequence[str | Path | Run],
    out: str | Path | None = None,
    *,
    data: str | Path | None = None,
    label: str | None = None,
    baselines: bool = True,
    callbacks: Sequence[Callback] = (),
) -> Path:
    """Write a page of all that runs found, and its figures as PNG and SVG beside it.

    The page loads nothing from anywhere: it can be mailed, kept with a paper, and read without a network. A run without
    scores is scored first.

    Args:
        runs: folders that ``poco train`` or ``poco adapt`` wrote, or runs; one or several.
        out: folder of the page; default ``report`` in the folder of the first run, which a run kept in memory lacks.
        data: where the recordings are now; default where they were.
        label: which label of the units says their region; default the only one there is.
        baselines: whether what has no scores yet is compared with baselines that have to be trained too.
        callbacks: what may watch: told of each run, and of the training of baselines where there are no scores yet.

    Returns:
        The path of the page.

    Raises:
        CheckpointError: if a folder holds neither a run nor an adapted model.
        DataError: if recordings are not where they were, or none has units with that label.
        ConfigError: if no run is given, or one twice, or something else, or there is no place for the page: ``out`` is
            a file, or a folder that is neither empty nor that of a report, a run or an adapted model.
        MissingExtraError: if Jinja or matplotlib is missing.
    """
    with optional("jinja2", "report", "writing a report"):
        import jinja2
    given = [_run_or_folder(run) for run in _several(runs)]
    folders = [run.folder if isinstance(run, Run) else run for run in given]
    known = [folder.resolve() for folder in folders if folder is not None]
    if not given or len(set(known)) < len(known):
        raise ConfigError("give a report one run or several different ones")
    if out is None and folders[0] is None:
        raise ConfigError("a run kept in memory has no folder to write a report into: say where (out=)")
    target = Path(out) if out is not None else Path(folders[0] or "") / "report"
    _check_place(target)
    place = Path(data) if data is not None else None
    subjects = []
    for run, folder in zip(given, folders, strict=True):
        for callback in callbacks:
            callback.message(f"reading {folder or 'the run'} and its recordings")
        subjects.append(open_subject(run, place))
    if label is not None:
        choose([recording for subject in subjects for recording in subject.split.recordings], label)
    found = []
    for number, subject in enumerate(subjects, 1):
        evaluation = score(subject, callbacks, trained=baselines)
        for callback in callbacks:
            callback.message(f"looking at every unit of {subject.name}, drawing")
        found.append(content(subject, evaluation, f"{number}-" if len(given) > 1 else "", label))
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATE), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    environment.filters |= {"number": _number, "interval": _interval, "name": shown_name}
    page = environment.get_template("report.html").render(
        runs=found,
        forecasters=_forecasters,
        tips={d.name: d.tips for one in found for own in one.figures.values() for d in own if d.tips},
        css=(_TEMPLATE / "report.css").read_text(encoding="utf-8"),
        script=(_TEMPLATE / "report.js").read_text(encoding="utf-8"),
        again=commands.report(folders, label, str(target)),
        version=__version__,
        date=datetime.date.today().isoformat(),
    )
    target.mkdir(parents=True, exist_ok=True)
    for one in found:
        for drawn in (d for own in one.figures.values() for d in own):
            drawn.save(target / FIGURES)
    write_atomically(target / PAGE, page.encode())
    return target / PAGE


def _check_place(folder: Path) -> None:
    """A ConfigError where a page would come among other things, such as recordings."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise ConfigError(f"{folder} is a file: choose a folder for the report (out, --out)")
    known = any((folder / name).exists() for name in (PAGE, CONFIG, ADAPTATION))
    other = sorted(path.name for path in folder.iterdir() if path.name != FIGURES and not is_leftover(path))
    if other and not known:
        raise ConfigError(
            f"{folder} is neither empty nor the folder of a report or a run (it has {other[0]}): choose another one "
            "for the report (out, --out)"
        )


def _several(given: Any) -> Sequence[Any]:
    return given if isinstance(given, Sequence) and not isinstance(given, str) else [given]


def _run_or_folder(given: Any) -> Run | Path:
    if isinstance(given, Run):
        return given
    if not isinstance(given, str | Path):
        raise ConfigError(
            f"a report also shows what a model was trained on: give runs, or folders that 'poco train' or 'poco adapt' "
            f"wrote, not a {type(given).__name__}"
        )
    return Path(given)


def _forecasters(one: Content) -> list[tuple[str, Scores]]:
    """Every forecaster, best first."""
    return sorted(one.evaluation.forecasters.items(), key=lambda item: item[1].score, reverse=True)


def _number(value: float | None) -> str:
    return "–" if value is None or not math.isfinite(value) else f"{value:.3f}"


def _interval(value: Any, sign: str = "") -> str:
    return "–" if value is None else " to ".join(f"{end:{sign}.3f}" for end in value)
