"""Figures of unit embeddings: planes, a map of the brain, the similarity of regions, the attention of latents."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from poco.data.windows import Packer
from poco.errors import ConfigError, MissingExtraError, optional
from poco.nn.attention import unit_attention
from poco.reporting import figures
from poco.reporting.figures import Drawn
from poco.unit_embeddings import SessionEmbeddings, similarity
from poco.wording import counted

if TYPE_CHECKING:
    from poco.data.recording import Recording
    from poco.data.splits import Split
    from poco.nn import POCO

_MOST_SESSIONS = 4  # maps of the brain
_WINDOWS = 64  # attention is averaged over
_MOST_REGIONS = 32  # tables show


def plane(vectors: np.ndarray, method: str) -> np.ndarray:
    """``[N, 2 or 3]`` coordinates of embeddings ``[N, d]``: three principal components (``"pca"``), or UMAP's plane.

    UMAP takes cosine distances.

    Raises:
        MissingExtraError: if scikit-learn or umap-learn is missing.
    """
    if method == "pca":
        with optional("scikit-learn", "embed", "principal components of embeddings"):
            from sklearn.decomposition import PCA
        return np.asarray(PCA(min(3, *vectors.shape), random_state=0).fit_transform(vectors))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of numba, and that a seed means one thread
        with optional("umap-learn", "embed", "a UMAP of embeddings"):
            from umap import UMAP
        neighbours = min(15, len(vectors) - 1)
        return np.asarray(UMAP(n_neighbors=neighbours, metric="cosine", random_state=0).fit_transform(vectors))


def relative_similarity(found: Sequence[SessionEmbeddings], label: str) -> tuple[tuple[str, ...], np.ndarray, int]:
    """Mean cosine similarity of regions, each row of each session between 0 and 1, averaged over sessions.

    As in the published figure: self-pairs left out, each row stretched from its least to its largest value.

    Returns:
        ``R`` regions that occur beside others, ``[R, R]`` means, NaN where two occur together in no session, and the
        number of sessions averaged over.
    """
    tables = []
    for entry in found:
        regions, values = similarity(entry, label)
        if len(regions) < 2:
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # a row of nothing
            low, high = np.nanmin(values, 1, keepdims=True), np.nanmax(values, 1, keepdims=True)
        with np.errstate(invalid="ignore", divide="ignore"):
            tables.append((regions, (values - low) / (high - low)))
    every = sorted({region for regions, _ in tables for region in regions})
    stacked = np.full((len(tables), len(every), len(every)), np.nan)
    for table, (regions, values) in zip(stacked, tables, strict=True):
        at = [every.index(region) for region in regions]
        table[np.ix_(at, at)] = values
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        means = np.nanmean(stacked, 0) if tables else np.zeros((0, 0))
    known = np.isfinite(means).any(1)
    return tuple(every[k] for k in np.nonzero(known)[0]), means[np.ix_(known, known)], len(tables)


def frequent(regions: Sequence[str], names: Sequence[str]) -> tuple[list[int], str]:
    """Places of the regions with most units, as many as a table shows, and what its caption says of that."""
    if len(regions) <= _MOST_REGIONS:
        return list(range(len(regions))), ""
    order = sorted(range(len(regions)), key=lambda place: -names.count(regions[place]))[:_MOST_REGIONS]
    return sorted(order), f" The {_MOST_REGIONS} of {len(regions)} regions with most units."


@torch.no_grad()
def region_attention(model: POCO, split: Split, label: str) -> tuple[tuple[str, ...], np.ndarray]:
    """How much of each latent's attention a unit of each region gets, over what it would get if all got the same.

    Returns:
        ``R`` regions and ``[Q, R]``, averaged over windows spaced evenly over the test part, and over sessions that
        have the region.
    """
    sums: dict[str, list[np.ndarray]] = {}
    packer = Packer(split)
    for index, recording in enumerate(split.recordings):
        names = np.array(recording.labels.get(label, ("",) * recording.units))
        windows = split.spaced_windows("test", index, _WINDOWS)
        shares = np.zeros((model.config.latents, recording.units))
        for _, batch in packer.batches(windows):
            x = batch.x.view(-1, recording.units, split.context).to(model.latents)
            shares += unit_attention(model, x, recording.session).double().sum(0).cpu().numpy()
        relative = shares / len(windows) * recording.units
        for region in np.unique(names[names != ""]):
            sums.setdefault(str(region), []).append(relative[:, names == region].mean(1))
    regions = tuple(sorted(sums))
    return regions, np.array([np.mean(sums[region], 0) for region in regions]).T


def draw(
    found: Sequence[SessionEmbeddings],
    recordings: Sequence[Recording],
    label: str | None,
    scores: Mapping[str, np.ndarray],
    prefix: str = "",
) -> list[Drawn]:
    """The planes of all units, the maps of the brain, and the similarity of regions.

    Args:
        found: embeddings, session by session.
        recordings: of some or all of the sessions.
        label: what says the region of a unit, or None.
        scores: score of each unit, by session; may lack some.
        prefix: of the names of the figures.

    Raises:
        ConfigError: if there are fewer than four units.
    """
    vectors = np.concatenate([entry.vectors for entry in found])
    if len(vectors) < 4:
        raise ConfigError(f"embeddings of {len(vectors)} units say nothing in a plane: it takes 4")
    tips, names = [], []
    for entry in found:
        own = scores.get(entry.session)
        regions = entry.labels.get(label or "", ("",) * len(entry.units))
        names += list(regions) if label else [entry.session] * len(entry.units)
        for row, unit in enumerate(entry.units):
            region = [f"{label} {regions[row] or 'unknown'}"] if label else []
            score = [] if own is None else [f"score {own[row]:.3f}"]
            tips.append([f"unit {unit}", entry.session, *region, *score])
    rows = figures.drawn_rows(len(vectors))
    some = [names[row] for row in rows], [tips[row] for row in rows]
    what = f"by {label}, the most frequent ones" if label else "by session"
    unread = [entry.session for entry in found if entry.session not in {r.session for r in recordings}]
    grey = (
        f" Grey too: {len(unread)} other sessions of the model, whose recordings are not read here." if unread else ""
    )
    caption = f"Units of all sessions, coloured {what}; point at one.{grey if label else ''}" + (
        "" if len(rows) == len(vectors) else f" {len(rows):,} of {len(vectors):,}, drawn at random."
    )
    components = plane(vectors, "pca")
    drawn = [figures.embedding_map(components[rows], *some, "principal component", caption, f"{prefix}embeddings-pca")]
    try:
        around = plane(vectors[rows], "umap")
    except MissingExtraError:
        around = None
    if around is not None:
        drawn.append(figures.embedding_map(around, *some, "UMAP", caption, f"{prefix}embeddings-umap"))
    low, high = np.percentile(components, (2, 98), axis=0)
    colours = np.clip((components - low) / np.maximum(high - low, 1e-12), 0, 1)
    begin, maps = 0, 0
    for entry in found:
        place = slice(begin, begin + len(entry.units))
        begin += len(entry.units)
        if entry.coordinates is None or maps == _MOST_SESSIONS or colours.shape[1] < 3:
            continue
        maps += 1
        drawn.append(figures.brain_map(entry, colours[place], tips[place], f"{prefix}brain-{maps}"))
    if label is not None:
        regions, values, sessions = relative_similarity(found, label)
        if len(regions) > 1:
            over = counted(sessions, "session")
            text = f"Mean cosine similarity of two different units, each row stretched to 0 to 1, over {over}."
            kept, more = frequent(regions, names)
            shown = [regions[row] for row in kept]
            drawn.append(figures.similarity(shown, values[np.ix_(kept, kept)], text + more, f"{prefix}similarity"))
    return drawn
