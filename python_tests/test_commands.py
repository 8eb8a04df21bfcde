"""What is typed to make a run again."""

from __future__ import annotations

import dataclasses
import shlex

import pytest

import poco
from poco import commands, wording
from poco.data.simulate import simulate
from poco.errors import ConfigError
from poco.training import recipe


@pytest.mark.parametrize("name", ["grounded", "published"])
def test_only_what_differs_from_the_recipe_is_typed(name: str) -> None:
    settings = recipe(name)[1]
    run = poco.train(simulate(1, 5, 400, seed=0), recipe=name, train_config=dataclasses.replace(settings, steps=20))
    typed = shlex.split(commands.train(run, run.split(), "again"))
    chosen = {"--sessions", "--recipe", "--protocol", "--seed", "--steps", "--out"}
    assert {word for word in typed if word.startswith("--")} == chosen
    assert typed[typed.index("--steps") + 1] == "20"
    changed = dataclasses.replace(settings, steps=20, batch_size=8, clip=None)
    run = poco.train(simulate(1, 5, 400, seed=0), recipe=name, train_config=changed)
    typed = shlex.split(commands.train(run, run.split(), "again"))
    assert typed[typed.index("--batch-size") + 1] == "8"
    assert ("--clip" in typed) == (settings.clip is not None)


def test_the_command_line_has_the_options_of_reading_that_are_typed() -> None:
    options = pytest.importorskip("poco.cli.options", reason="needs the extra 'cli'")
    assert tuple(options._READS) == commands.READING


def test_the_label_that_an_adapted_model_embeds_is_typed() -> None:
    one, two = simulate(2, 6, 400, regions=2)
    one, two = (dataclasses.replace(r, labels={**r.labels, "cell": ("a", "b") * 3}) for r in (one, two))
    model = poco.train(
        one,
        recipe="published",
        model_config=poco.POCOConfig(unit_type_embedding=True, layers=1),
        train_config=poco.TrainConfig(steps=1),
        unit_types="region",
    ).model
    for label, options in (("region", {}), ("cell", {"unit_types": "cell"})):
        typed = shlex.split(commands.adapt(poco.adapt(model, two, mode="zero-shot", **options), "again"))
        assert typed[typed.index("--unit-types") + 1] == label


def test_names_with_commas_and_quotes_are_typed_as_they_are_read() -> None:
    names = ["fish 1", "left, dorsal", 'the "best"', '"', "a'b", "two\nlines", "a\rb"]
    assert wording.listed(wording.as_list(names)) == names
    assert wording.listed(" a , b,,") == ["a", "b"]
    assert wording.listed("") == []
    assert wording.listed("a\nb,c\r\n") == ["a", "b", "c"]  # as a file has them
    with pytest.raises(ConfigError, match=r"the list beginning 'xxx.*' cannot be read: field larger"):
        wording.listed("x" * 200_000)


def test_a_session_with_a_comma_is_typed_as_one() -> None:
    recordings = [dataclasses.replace(r, session=f"fish, {i}") for i, r in enumerate(simulate(2, 5, 400, seed=0))]
    run = poco.train(recordings, train_config=dataclasses.replace(recipe("grounded")[1], steps=20))
    typed = shlex.split(commands.train(run, run.split(), "again"))
    assert wording.listed(typed[typed.index("--sessions") + 1]) == ["fish, 0", "fish, 1"]
