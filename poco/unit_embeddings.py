"""Embeddings of units: what a trained POCO holds of each, and how far they tell the regions of a brain apart."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from poco.ensemble import Ensemble
from poco.errors import ConfigError, DataError, VocabularyError, optional
from poco.files import write_atomically, write_npz
from poco.models import model_of
from poco.nn import POCO
from poco.wording import counted

if TYPE_CHECKING:
    from poco.data.recording import Recording
    from poco.models import Forecaster
    from poco.run import Run

Floats = npt.NDArray[np.float64]

#: To compare regions with shuffled ones the distances of all pairs are kept: of more labelled units, as many are drawn.
MOST_UNITS = 2000
_PAIRS_AT_ONCE = 2**22  # the bound on memory where none need be kept


@dataclass(frozen=True)
class Measure:
    """A number beside what it is when labels are shuffled among the units of each session.

    Attributes:
        value: mean over sessions; NaN if no session has what it takes.
        chance: mean over shuffles.
        p: share of shuffles that are as high or higher, the labels as they are counted among them.
        sessions: sessions that it was taken over.
        why: where there are none: what they lack.
    """

    value: float
    chance: float
    p: float
    sessions: int
    why: str = ""


@dataclass(frozen=True, eq=False)
class SessionEmbeddings:
    """Embeddings of the units of one session.

    Attributes:
        session: its name.
        subject: the animal; sessions of one animal are never compared as if they were two.
        units: names of the ``N`` units.
        vectors: ``[N, d]`` float32, of the units alone: without what a session, a data set or a type adds.
        labels: ``N`` labels by name, "" where unknown.
        coordinates: ``[N, 2 or 3]`` or None.
    """

    session: str
    subject: str
    units: tuple[str, ...]
    vectors: npt.NDArray[np.float32]
    labels: Mapping[str, tuple[str, ...]]
    coordinates: np.ndarray | None = None

    def __repr__(self) -> str:
        units, width = self.vectors.shape
        labels = f", labels {', '.join(self.labels)}" if self.labels else ""
        return f"<SessionEmbeddings of '{self.session}': {counted(units, 'unit')}, width {width}{labels}>"


def embeddings(
    model: Forecaster | Run | str | Path, recordings: Sequence[Recording] = ()
) -> tuple[SessionEmbeddings, ...]:
    """The embeddings of all units of a model, session by session, with what the recordings know of the units.

    Those of an ensemble are its members' side by side, each of length 1, so that their cosine is the mean over seeds.

    Args:
        model: a POCO, an ensemble of them, a run, or a folder of one of these (:func:`poco.load`).
        recordings: bring labels and positions; sessions of the model that are not among them have none.

    Returns:
        One entry per session of the model, in its order.

    Raises:
        ConfigError: if the model does not learn embeddings of units.
        CheckpointError: if the folder holds no model.
        DataError: if a recording lacks a unit that the model knows.
        VocabularyError: if the model knows no session.
    """
    model = model_of(model, "what has embeddings of units")
    if isinstance(model, Ensemble):
        return _side_by_side([embeddings(member, recordings) for member in model])
    if not isinstance(model, POCO):
        raise ConfigError(
            f"a model of kind {type(model).__name__} learns no embeddings of units: train one with --recipe published"
        )
    if not model.sessions:
        raise VocabularyError("the model knows no session yet, so it has no units: add_session adds one")
    known = {recording.session: recording for recording in recordings}
    found = []
    for index, spec in enumerate(model.sessions):
        vectors = model.session_parameters(index)[0].detach().cpu().float().numpy().copy()
        recording = known.get(spec.name)
        if recording is None:
            found.append(SessionEmbeddings(spec.name, spec.name, spec.units, vectors, {}))
            continue
        at = {unit: place for place, unit in enumerate(recording.unit_ids)}
        lost = next((unit for unit in spec.units if unit not in at), None)
        if lost is not None:
            raise DataError(
                f"session '{spec.name}': the model knows a unit '{lost}', which the recording does not have"
            )
        rows = [at[unit] for unit in spec.units]
        labels = {name: tuple(values[row] for row in rows) for name, values in recording.labels.items()}
        places = None if recording.coordinates is None else recording.coordinates[rows]
        found.append(SessionEmbeddings(spec.name, recording.subject, spec.units, vectors, labels, places))
    return tuple(found)


def _side_by_side(members: Sequence[Sequence[SessionEmbeddings]]) -> tuple[SessionEmbeddings, ...]:
    found = []
    for entries in zip(*members, strict=True):
        unit = [e.vectors / np.linalg.norm(e.vectors, axis=1, keepdims=True).clip(1e-12) for e in entries]
        found.append(replace(entries[0], vectors=np.concatenate(unit, 1)))
    return tuple(found)


def untrained(found: Sequence[SessionEmbeddings], seed: int = 0) -> tuple[SessionEmbeddings, ...]:
    """The same units with embeddings as a model begins with: independent normal numbers.

    Args:
        found: sessions.
        seed: of the numbers.

    Returns:
        The sessions, in their order, with other vectors.
    """
    random = np.random.default_rng(seed)
    return tuple(replace(e, vectors=random.standard_normal(e.vectors.shape).astype(np.float32)) for e in found)


def choose(recordings: Sequence[Recording], label: str | None) -> str | None:
    """The label asked for, or the only one that units of the recordings have; None if they have none.

    Raises:
        ConfigError: if there are several and none was asked for.
        DataError: if no recording has the one asked for, or there are no recordings.
    """
    if label is not None and not recordings:
        raise DataError(f"a model alone does not say what units have a label '{label}': give recordings (--data)")
    names = sorted({name for recording in recordings for name, values in recording.labels.items() if any(values)})
    if label is not None and label not in names:
        raise DataError(f"no recording has a label '{label}' of its units; there is: {', '.join(names) or 'none'}")
    if label is None and len(names) > 1:
        raise ConfigError(f"units have several labels: choose one of {', '.join(names)} (--label)")
    return label or next(iter(names), None)


def similarity(
    entry: SessionEmbeddings, label: str, metric: str = "cosine"
) -> tuple[tuple[str, ...], npt.NDArray[np.float64]]:
    """How alike the units of two regions are, on average over pairs, no unit with itself.

    Args:
        entry: a session.
        label: which label says the region; units without it are left out.
        metric: ``"cosine"`` (similarity) or ``"euclidean"`` (distance).

    Returns:
        ``R`` regions in order of the alphabet and ``[R, R]`` means; NaN on the diagonal of a region of one unit. No
        region where no unit has the label.

    Raises:
        ConfigError: if the metric is another.
    """
    if metric not in ("cosine", "euclidean"):
        raise ConfigError(f"metric must be cosine or euclidean, got {metric!r}")
    vectors, names = _labelled(entry, label)
    if not len(names):
        return (), np.zeros((0, 0))
    regions, codes = np.unique(names, return_inverse=True)
    member = np.eye(len(regions))[codes]
    total = np.zeros((len(regions), len(regions)))
    rows = max(1, _PAIRS_AT_ONCE // len(vectors))
    for first in range(0, len(vectors), rows):
        some = slice(first, first + rows)
        distances = _distances(vectors[some], metric, vectors)
        pairs = 1 - distances if metric == "cosine" else distances
        np.fill_diagonal(pairs[:, first:], 0.0)
        total += member[some].T @ (pairs @ member)
    sizes = member.sum(0)
    counts = np.outer(sizes, sizes) - np.diag(sizes)
    means = np.divide(total, counts, out=np.full(counts.shape, np.nan), where=counts > 0)
    return tuple(map(str, regions)), means


def measures(
    found: Sequence[SessionEmbeddings], label: str, *, neighbours: int = 5, shuffles: int = 999, seed: int = 0
) -> dict[str, Measure]:
    """How far embeddings tell regions apart, beside shuffled labels. Distances are of cosine.

    Args:
        found: sessions.
        label: which label says the region; units without it are left out, and within a session those of a region
            that they have for themselves.
        neighbours: nearest units that vote on a unit's region; the nearest decides a tie.
        shuffles: of labels.
        seed: of shuffles, and of the units drawn where a session has more than :data:`MOST_UNITS`.

    Returns:
        ``"silhouette"``: mean silhouette of the regions, -1 to 1. ``"within"``: share of units whose region the
        nearest other units of the session tell. ``"pairs"``, where there are regions of exactly two units of
        a session, such as a cell of a worm and its partner on the other side: how near the other one is, 1 if the
        nearest of all units, 0 if the farthest. ``"across"``: the nearest units of other animals, of those whose region
        occurs there.

    Raises:
        ConfigError: if a number is out of range.
        MissingExtraError: if scikit-learn is missing.
    """
    if neighbours < 1 or shuffles < 1:
        raise ConfigError(f"neighbours and shuffles must be at least 1, got {neighbours} and {shuffles}")
    random = np.random.default_rng(seed)
    labelled = {entry.session: _draw(*_labelled(entry, label), random) for entry in found}
    subjects = {entry.session: entry.subject for entry in found}
    rows: dict[str, list[Floats]] = {"silhouette": [], "within": [], "pairs": [], "across": []}
    why = dict.fromkeys(rows, f"no session has two regions ({label}) of two units or more")
    why["across"] = f"no two animals have units of the same two regions ({label})"
    for session, (vectors, names) in labelled.items():
        regions, codes, sizes = np.unique(names, return_inverse=True, return_counts=True)
        keep = sizes[codes] > 1
        if len(regions[sizes > 1]) >= 2:
            distances = _distances(vectors[keep], "cosine")
            orders = _orders(np.unique(names[keep], return_inverse=True)[1], shuffles, random)
            rows["silhouette"].append(_silhouettes(distances, orders))
            alone = distances + np.diag(np.full(len(distances), np.inf))
            if neighbours < len(alone):
                nearest = np.argsort(alone, axis=1, kind="stable")[:, :neighbours]
                rows["within"].append(np.array([np.mean(_votes(order[nearest]) == order) for order in orders]))
            else:
                units = f"session '{session}' has {len(alone)} units of regions of two or more"
                why["within"] = f"{units}, and a vote of {neighbours} neighbours takes {neighbours + 1}"
            if (sizes == 2).any() and len(distances) > 2:
                ranks = alone.argsort(1, kind="stable").argsort(1, kind="stable") / (len(distances) - 2)
                rows["pairs"].append(np.array([_nearness(ranks, order) for order in orders]))
        others = [labelled[s] for s in labelled if subjects[s] != subjects[session]]
        if not others:
            continue
        their_vectors, their_names = (np.concatenate(parts) for parts in zip(*others, strict=True))
        shared = np.isin(names, their_names)
        if shared.sum() < 2 or len(np.unique(names[shared])) < 2:
            continue
        if len(their_names) < neighbours:
            units = f"{len(their_names)} labelled units of other animals than that of session '{session}'"
            why["across"] = f"there are {units}, and a vote takes {neighbours} neighbours"
            continue
        _, both = np.unique(np.concatenate([names[shared], their_names]), return_inverse=True)
        own, theirs = both[: shared.sum()], both[shared.sum() :]
        nearest = np.argsort(_distances(vectors[shared], "cosine", their_vectors), axis=1, kind="stable")
        told = _votes(theirs[nearest[:, :neighbours]])
        rows["across"].append(np.array([np.mean(told == order) for order in _orders(own, shuffles, random)]))
    return {name: _measure(values, why[name]) for name, values in rows.items() if values or name != "pairs"}


def write(found: Sequence[SessionEmbeddings], path: str | Path) -> Path:
    """Write embeddings as a table (``.csv``) or as arrays (``.npz``): session, unit, labels, positions, vector.

    Args:
        found: sessions, whose vectors are of one length.
        path: where to; a file that is there is replaced.

    Returns:
        The path.

    Raises:
        ConfigError: if the name ends otherwise.
        CheckpointError: if the file cannot be written.
    """
    path = Path(path)
    if path.suffix not in (".csv", ".npz"):
        raise ConfigError(f"embeddings are written as .csv or .npz, not as '{path.name}'")
    path.parent.mkdir(parents=True, exist_ok=True)
    names = sorted({name for entry in found for name in entry.labels})
    axes = max((e.coordinates.shape[1] for e in found if e.coordinates is not None), default=0)
    sessions = [e.session for e in found for _ in e.units]
    units = [unit for e in found for unit in e.units]
    labels = [[v for e in found for v in e.labels.get(name, ("",) * len(e.units))] for name in names]
    vectors = np.concatenate([e.vectors for e in found])
    places = np.concatenate([_places(e, axes) for e in found])
    if path.suffix == ".npz":
        columns = {f"label_{name}": np.array(own) for name, own in zip(names, labels, strict=True)}
        arrays = {"session": np.array(sessions), "unit": np.array(units), "vectors": vectors, **columns}
        write_npz(path, arrays | ({"coordinates": places} if axes else {}), compressed=True)
        return path
    text = io.StringIO()
    table = csv.writer(text)
    table.writerow(["session", "unit", *names, *"xyz"[:axes], *(f"e{k}" for k in range(vectors.shape[1]))])
    for *known, place, vector in zip(sessions, units, *labels, places, vectors, strict=True):
        where = ["" if np.isnan(value) else repr(float(value)) for value in place]
        table.writerow([*known, *where, *map(str, vector)])
    write_atomically(path, text.getvalue().encode())
    return path


def _places(entry: SessionEmbeddings, axes: int) -> np.ndarray:
    """``[N, axes]`` positions, NaN where there are none."""
    places = np.full((len(entry.units), axes), np.nan, np.float32)
    if entry.coordinates is not None:
        places[:, : entry.coordinates.shape[1]] = entry.coordinates
    return places


def _labelled(entry: SessionEmbeddings, label: str) -> tuple[Floats, np.ndarray]:
    names = np.array(entry.labels.get(label, ("",) * len(entry.units)))
    known = names != ""
    return entry.vectors[known].astype(np.float64), names[known]


def _draw(vectors: Floats, names: np.ndarray, random: np.random.Generator) -> tuple[Floats, np.ndarray]:
    if len(names) <= MOST_UNITS:
        return vectors, names
    rows = np.sort(random.choice(len(names), MOST_UNITS, replace=False))
    return vectors[rows], names[rows]


def _distances(vectors: Floats, metric: str, others: Floats | None = None) -> Floats:
    with optional("scikit-learn", "embed", "measuring embeddings"):
        from sklearn.metrics import pairwise_distances
    return np.asarray(pairwise_distances(vectors, others, metric=metric))


def _orders(codes: np.ndarray, shuffles: int, random: np.random.Generator) -> list[np.ndarray]:
    """The labels as they are, then shuffled."""
    return [codes, *(random.permutation(codes) for _ in range(shuffles))]


def _votes(codes: np.ndarray) -> np.ndarray:
    """``[N]`` the label that most of ``[N, k]`` labels have, nearest first; the nearest of those decides a tie."""
    counts = (codes[:, :, None] == codes[:, None, :]).sum(2)
    return codes[np.arange(len(codes)), counts.argmax(1)]  # argmax takes the first: the nearest


def _nearness(ranks: Floats, codes: np.ndarray) -> float:
    """How near the units of pairs are: 1 less the rank, from 0 to 1, of the other one among all units."""
    order = np.argsort(codes, kind="stable")
    _, first, sizes = np.unique(codes[order], return_index=True, return_counts=True)
    one, other = order[first[sizes == 2]], order[first[sizes == 2] + 1]
    return float(1 - np.mean([ranks[one, other], ranks[other, one]]))


def _silhouettes(distances: Floats, orders: list[np.ndarray]) -> Floats:
    from sklearn.metrics import silhouette_score

    return np.array([silhouette_score(distances, order, metric="precomputed") for order in orders])


def _measure(rows: list[Floats], why: str) -> Measure:
    if not rows:
        return Measure(float("nan"), float("nan"), float("nan"), 0, why)
    means = np.mean(rows, axis=0)
    p = float(np.mean(means >= means[0] - 1e-12))
    return Measure(float(means[0]), float(means[1:].mean()), p, len(rows))
