"""The page of a report: what is on it, in the file and in a browser."""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from poco.adaptation import adapt
from poco.data.recording import Recording
from poco.data.simulate import simulate
from poco.errors import CheckpointError, ConfigError
from poco.ground.grounded import Grounded
from poco.nn import POCOConfig
from poco.run import Run
from poco.training import TrainConfig, train

pytest.importorskip("jinja2", reason="needs the extra 'report'")
pytest.importorskip("umap", reason="needs the extra 'embed'")
pytest.importorskip("matplotlib", reason="needs the extra 'plots'")

from poco.reporting import figures, report
from poco.reporting.content import _not_counted
from poco.reporting.page import _check_place

SIZES = POCOConfig(
    context=12, horizon=4, segment_length=4, latents=3, width=8, heads=2, head_width=8, film_width=16, embedding_std=0.3
)
UNITS = 12


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A small POCO of two animals whose units have regions and positions."""
    rng, recordings = np.random.default_rng(0), []
    for recording in simulate(2, UNITS, 300, seed=0):
        regions = tuple(rng.choice(["<left>", "right"], UNITS))
        places = rng.random((UNITS, 2), np.float32)
        recordings.append(dataclasses.replace(recording, labels={"region": regions}, coordinates=places))
    settings = TrainConfig(steps=20, batch_size=8, val_every=10, device="cpu")
    folder = tmp_path_factory.mktemp("runs") / "first"
    return train(recordings, model_config=SIZES, train_config=settings, out=folder, progress=False)


@pytest.fixture(scope="module")
def page(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return report(run, tmp_path_factory.mktemp("report"))


def test_everything_is_on_the_page_and_nothing_is_fetched(page: Path, run: Run) -> None:
    text = page.read_text()
    assert run.evaluation is not None
    for heading in ("Data", "Scores", "Units", "Forecasts", "Learning", "Embeddings of units", "Cost", "Again"):
        assert f"<h3>{heading}</h3>" in text
    figures = (
        *("activity", "split", "scores", "horizon", "units", "map-1", "map-2", "autocorrelation", "training"),
        *("example-best", "example-median", "example-worst", "embeddings-pca", "embeddings-umap"),
        *("brain-1", "brain-2", "similarity", "attention"),
    )
    for name in figures:
        assert f'id="{name}-figure_1"' in text
        for kind in ("svg", "png"):
            assert (page.parent / "figures" / f"{name}.{kind}").stat().st_size > 1000
    assert len(list((page.parent / "figures").iterdir())) == 2 * len(figures)
    for name, scores in run.evaluation.baselines.items():
        assert f"{scores.score:.3f}" in text, name
    assert f"<b>{run.evaluation.score:.3f}</b>" in text
    assert "&lt;left&gt;" in text
    assert "<left>" not in text
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    fetched = re.findall(r'(?:src|href)="(?!#|data:)([^"]*)"', text)
    assert fetched == []
    assert "validation: over all windows of the part, without dropout; training: over the windows of the last" in text
    assert "poco train" in text
    assert "--steps 20" in text


def test_same_run_same_figures(page: Path, run: Run, tmp_path: Path) -> None:
    again = report(run, tmp_path)
    for file in sorted((page.parent / "figures").glob("*.svg")):
        assert file.read_bytes() == (again.parent / "figures" / file.name).read_bytes(), file.name


def test_a_run_and_an_adapted_model_on_one_page(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    new = simulate(3, UNITS, 300, seed=0)[2]
    np.save(tmp_path / "new.npy", new.activity)
    (tmp_path / "new.toml").write_text('[activity]\norientation = "units x frames"\nrate_hz = 20.0\n')
    from poco import read

    recording = read(tmp_path / "new.npy", description=tmp_path / "new.toml")[0]
    source = {"recording": tmp_path / "new.npy", "options": {"description": str(tmp_path / "new.toml")}}
    adapted = adapt(run.model, recording, steps=10, batch_size=8, score_every=5, source=source)
    adapted.save(tmp_path / "adapted")
    text = report([run, tmp_path / "adapted"], tmp_path / "both").read_text()
    monkeypatch.setattr("poco.reporting.content.evaluate", lambda *_, **__: pytest.fail("it is scored again"))
    assert f"<b>{adapted.after:.3f}</b>" in report(tmp_path / "adapted", tmp_path / "again").read_text()
    assert "<h2>All runs</h2>" in text
    assert f"Adaptation to {recording.session}" in text
    assert f"<b>{adapted.after:.3f}</b>" in text
    assert "2-adaptation.svg" in {file.name for file in (tmp_path / "both" / "figures").iterdir()}


def test_the_cost_says_what_of_training_it_counts(run: Run) -> None:
    assert _not_counted(run.model) == ""
    assert "not counted: the solve for the ground before them" in _not_counted(Grounded())


def test_a_name_of_any_characters_leaves_a_figure_whole() -> None:
    recording = Recording(np.random.default_rng(0).standard_normal((3, 60)), 'a "b" <c> & d')
    svg = ElementTree.fromstring(figures.raster(recording, "raster").svg)
    assert svg.attrib["aria-label"] == 'Activity of a "b" <c> & d'


def test_bad_input(run: Run, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="one run or several different"):
        report([])
    assert run.folder is not None
    with pytest.raises(ConfigError, match="one run or several different"):
        report([run, run.folder])
    with pytest.raises(CheckpointError, match="neither a run"):
        report(tmp_path)
    with pytest.raises(ConfigError, match="say where"):
        report(dataclasses.replace(run, folder=None))


def test_a_page_does_not_come_among_other_things(run: Run, tmp_path: Path) -> None:
    (tmp_path / "fish.npy").touch()
    with pytest.raises(ConfigError, match=r"neither empty nor the folder of a report or a run \(it has fish\.npy\)"):
        report(run, tmp_path)
    with pytest.raises(ConfigError, match=r"fish\.npy is a file: choose a folder"):
        report(run, tmp_path / "fish.npy")
    assert [path.name for path in tmp_path.iterdir()] == ["fish.npy"]
    _check_place(tmp_path / "new")
    (tmp_path / "cut short" / "figures").mkdir(parents=True)
    _check_place(tmp_path / "cut short")  # by a process that was killed
    for name in ("report.html", "config.json", "adaptation.json"):
        (tmp_path / name).touch()
        _check_place(tmp_path)
        (tmp_path / name).unlink()


# --- in a browser -----------------------------------------------------------------------------------------------------

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
PHONE, DESKTOP = 390, 1280


@pytest.fixture(scope="module")
def browser(page: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium")
    if CHROMIUM is None or DRIVER is None:
        assert not os.environ.get("POCO_TEST_BROWSER"), "POCO_TEST_BROWSER is set, but there is no chromium here"
        pytest.skip("needs chromium and chromedriver")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    driver.get(page.as_uri())
    yield driver
    driver.quit()


def resize(browser: Any, width: int, dark: bool = False) -> None:
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})


def test_nothing_is_requested_and_the_console_is_silent(browser: Any, page: Path) -> None:
    browser.get(page.as_uri())
    requested = set()
    for entry in browser.get_log("performance"):
        found = re.search(r'"Network.requestWillBeSent".*?"request":\{.*?"url":"([^"]*)"', entry["message"])
        if found and not found[1].startswith(("data:", "chrome:")):  # chrome: the browser's own start page
            requested.add(found[1])
    assert requested == {page.as_uri()}
    assert browser.get_log("browser") == []


@pytest.mark.parametrize("width", [PHONE, DESKTOP])
def test_it_fits_the_width(browser: Any, width: int) -> None:
    resize(browser, width)
    assert browser.execute_script("return document.documentElement.scrollWidth") == width
    for box in browser.execute_script(
        "return [...document.querySelectorAll('figure svg')].map(s => [s.getBoundingClientRect().left, "
        "s.getBoundingClientRect().right, s.getBoundingClientRect().height])"
    ):
        assert 0 <= box[0] < box[1] <= width
        assert box[2] > 100


def test_it_is_dark_where_that_is_wanted(browser: Any) -> None:
    colours = []
    for dark in (False, True):
        resize(browser, DESKTOP, dark)
        colours.append(
            browser.execute_script(
                "return [getComputedStyle(document.body).backgroundColor, "
                "getComputedStyle(document.querySelector('figure svg text')).fill]"
            )
        )
    light, dark_ones = ([[int(n) for n in re.findall(r"\d+", c)] for c in some] for some in colours)
    assert min(light[0]) - max(light[1]) > 150
    assert min(dark_ones[1]) - max(dark_ones[0]) > 150


def test_tables_sort(browser: Any) -> None:
    resize(browser, DESKTOP)

    def column(index: int) -> list[str]:
        return browser.execute_script(
            "return [...document.querySelectorAll('table.sortable')[1].tBodies[0].rows]"
            f".map(r => r.cells[{index}].textContent)"
        )

    buttons = browser.find_elements("css selector", "table.sortable")[1].find_elements("css selector", "th button")
    buttons[1].click()
    scores = [float(value) for value in column(1)]
    assert scores == sorted(scores, reverse=True)
    buttons[1].click()
    assert [float(value) for value in column(1)] == sorted(scores)
    buttons[0].click()
    names = column(0)
    assert names == sorted(names, key=str.lower, reverse=True)


@pytest.mark.parametrize("name", ["map-1", "embeddings-pca", "embeddings-umap", "brain-2"])
def test_pointing_at_a_unit_names_it(browser: Any, name: str) -> None:
    from selenium.webdriver import ActionChains

    resize(browser, DESKTOP)
    points = browser.find_elements("css selector", f'[id="{name}-points"] use')
    assert len(points) == (2 * UNITS if name.startswith("embeddings") else UNITS)
    tip = browser.find_element("id", "tip")
    seen = set()
    for point in (points[0], points[-1]):
        browser.execute_async_script(  # and wait until what scrolling does is done
            "arguments[0].scrollIntoView({block: 'center'});"
            "requestAnimationFrame(() => requestAnimationFrame(arguments[1]))",
            point,
        )
        ActionChains(browser).move_to_element(point).perform()
        assert tip.is_displayed()
        assert tip.text.startswith("unit ")
        assert "score" in tip.text
        seen.add(tip.text)
    assert len(seen) == 2
    ActionChains(browser).move_to_element(browser.find_element("tag name", "h1")).perform()
    assert not tip.is_displayed()


@pytest.mark.parametrize("units", [1, 3])
def test_few_units_are_reported_without_a_plane(units: int, tmp_path: Path) -> None:
    settings = TrainConfig(steps=4, batch_size=8, val_every=2, device="cpu")
    one = train(simulate(1, units, 300, seed=0), model_config=SIZES, train_config=settings, progress=False)
    text = report(one, tmp_path, baselines=False).read_text()
    assert f"embeddings of {units} units say nothing in a plane" in text
