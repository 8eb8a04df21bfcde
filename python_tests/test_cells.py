"""poco.cells: files that tell cells apart."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest

from poco import cells
from poco.errors import CheckpointError, ConfigError
from poco.files import write_json


def test_files_tell_cells_apart(tmp_path: Path) -> None:
    texts = ("a", "-", "--", "a-", "-a", "a--a", "a/a", "%2F", "a-a", "..", "a:b", "\\", "é, b")
    files = {cells.file_of(tmp_path, *parts): parts for parts in product(texts, repeat=2)}
    assert len(files) == len(texts) ** 2
    assert {file.parent for file in files} == {tmp_path}
    for file, parts in files.items():
        write_json(file, {"parts": parts})
    write_json(cells.file_of(tmp_path, "a", "b", "c"), {"parts": "of another kind"})
    assert {file: tuple(cell["parts"]) for file, cell in cells.read(tmp_path, 2).items()} == files


@pytest.mark.parametrize("text", ["width 128, layers 1", "0.05", "1e-05", "leak-free", "zero-shot 72 same", "é"])
def test_usual_names_stay_as_they_are(text: str) -> None:
    assert cells.safe(text) == text


def test_what_differs_is_named(tmp_path: Path) -> None:
    cells.check(tmp_path / "x.json", {"steps": 3, "more": 1}, {"steps": 3})
    for before, how in (
        ({"steps": 4}, "with steps 4, now 3"),
        ({"steps": None}, "with steps None, now 3"),
        ({}, "with steps None, now 3"),
    ):
        with pytest.raises(ConfigError, match=rf"x\.json was made {how}: take another folder"):
            cells.check(tmp_path / "x.json", before, {"steps": 3})
    with pytest.raises(ConfigError, match="was made of recordings that were grouped into other data sets: take"):
        cells.check(tmp_path / "x.json", {"datasets": ["a"]}, {"datasets": ["b"]})


def test_a_damaged_file_is_named_with_what_to_do(tmp_path: Path) -> None:
    file = cells.file_of(tmp_path, "a", "b")
    file.write_text('{"score": 0.1')
    message = r"cannot read the results in .*a--b\.json: .*: delete this file, and the same command makes it again"
    with pytest.raises(CheckpointError, match=message):
        cells.read(tmp_path, 2)
