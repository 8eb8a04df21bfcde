"""poco.reporting.embeddings: the numbers behind the figures."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from poco.data.recording import Recording
from poco.data.splits import split
from poco.nn import POCO, POCOConfig, SessionSpec
from poco.reporting.embeddings import draw, frequent, plane, region_attention, relative_similarity
from poco.unit_embeddings import SessionEmbeddings, embeddings

pytest.importorskip("sklearn", reason="needs the extra 'embed'")


def entry(session: str, vectors: list[list[float]], regions: list[str]) -> SessionEmbeddings:
    names = tuple(map(str, range(len(vectors))))
    return SessionEmbeddings(session, session, names, np.array(vectors, np.float32), {"region": tuple(regions)})


def test_rows_are_stretched_and_averaged_over_sessions() -> None:
    # in s, units of A are alike (1), A and B at right angles (0), B and C opposite (-1); B and C have one unit each
    s = entry("s", [[1, 0], [1, 0], [0, 1], [0, -1]], ["A", "A", "B", "C"])
    regions, values, sessions = relative_similarity([s], "region")
    assert (regions, sessions) == (("A", "B", "C"), 1)
    np.testing.assert_allclose(values, [[1, 0, 0], [1, np.nan, 0], [1, 0, np.nan]], atol=1e-6)
    t = entry("t", [[1, 0], [0, 1], [0, 1]], ["A", "D", "D"])
    regions, values, sessions = relative_similarity([s, t], "region")
    assert (regions, sessions) == (("A", "B", "C", "D"), 2)
    again = relative_similarity([s, replace(s, labels={}), t], "region")
    np.testing.assert_array_equal(again[1], values)
    assert values[3, 3] == 1
    assert values[3, 0] == 0
    assert np.isnan(values[3, 1])


def test_planes() -> None:
    pytest.importorskip("umap", reason="needs the extra 'embed'")
    vectors = np.random.default_rng(0).standard_normal((40, 6))
    vectors[:20] += 8
    for method in ("pca", "umap"):
        points = plane(vectors, method)
        np.testing.assert_array_equal(points, plane(vectors, method))
        assert np.isfinite(points).all()
        a, b = points[:20, :2], points[20:, :2]
        assert np.linalg.norm(a.mean(0) - b.mean(0)) > 2 * max(a.std(0).max(), b.std(0).max())
    assert plane(vectors, "pca").shape == (40, 3)


def test_a_recording_with_more_units_than_the_model_knows_is_drawn() -> None:
    pytest.importorskip("matplotlib", reason="figures need the extra 'plots'")
    places = np.arange(18, dtype=np.float32).reshape(6, 3)
    recording = Recording(np.random.default_rng(0).standard_normal((6, 50)), "a", coordinates=places)
    model = POCO(POCOConfig(width=8, heads=2, head_width=8), [SessionSpec("a", ("5", "1", "0", "3"))])
    found = embeddings(model, [recording])
    drawn = {one.name: one for one in draw(found, [recording], None, {})}
    assert [tips[0] for tips in drawn["brain-1"].tips] == ["unit 5", "unit 1", "unit 0", "unit 3"]
    np.testing.assert_array_equal(found[0].coordinates, places[[5, 1, 0, 3]])


def test_even_attention_is_one() -> None:
    torch.manual_seed(0)
    sizes = {"context": 12, "horizon": 4, "segment_length": 4, "latents": 3, "width": 8, "heads": 2, "head_width": 8}
    activity = np.repeat(np.random.default_rng(0).standard_normal((1, 200)), 4, 0)
    recording = Recording(activity, "a", labels={"region": ("X", "X", "Y", "")})
    model = POCO(POCOConfig(**sizes, embedding_std=0.5), [SessionSpec("a", recording.unit_ids)])
    cut = split([recording], context=12, horizon=4)
    with torch.no_grad():
        model.session_parameters("a")[0].zero_()
    regions, values = region_attention(model, cut, "region")
    assert regions == ("X", "Y")
    np.testing.assert_allclose(values, np.ones((3, 2)), rtol=1e-4)


def test_tables_show_the_regions_with_most_units() -> None:
    regions = [f"r{k}" for k in range(40)]
    names = [r for k, r in enumerate(regions) for _ in range(1 + (k % 5 == 0))]
    rows, text = frequent(regions, names)
    assert len(rows) == 32
    assert set(range(0, 40, 5)) <= set(rows)
    assert "32 of 40" in text
    assert frequent(regions[:3], names) == ([0, 1, 2], "")
