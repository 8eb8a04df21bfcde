from __future__ import annotations

import hashlib
import os
import shutil
import sysconfig
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import poco.errors
from poco import core
from poco._version import __version__
from poco.errors import ConfigError, DataError

COMPILED = core._core_module

compiled = pytest.mark.skipif(
    COMPILED is None and os.environ.get("POCO_TEST_CORE") != "1", reason="the compiled core is not built here"
)


@pytest.fixture(params=["compiled", "numpy"])
def implementation(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Runs a test with the compiled core and again with numpy."""
    if request.param == "numpy":
        monkeypatch.setattr(core, "_core_module", None)
    elif COMPILED is None:
        pytest.skip("the compiled core is not built here")
    return request.param


def philox_word(seed: int, row: int, column: int) -> int:
    """The definition, one word at a time, in whole numbers of Python."""
    mask = 0xFFFFFFFF
    counter = [column // 4, row & mask, row >> 32, 0]
    key = [seed & mask, seed >> 32]
    for _ in range(10):
        first = 0xD2511F53 * counter[0]
        second = 0xCD9E8D57 * counter[2]
        counter = [
            (second >> 32) ^ counter[1] ^ key[0],
            second & mask,
            (first >> 32) ^ counter[3] ^ key[1],
            first & mask,
        ]
        key = [(key[0] + 0x9E3779B9) & mask, (key[1] + 0xBB67AE85) & mask]
    return counter[column % 4]


def sessions(rng: np.random.Generator, shapes: list[tuple[int, int]]) -> tuple[list[np.ndarray], ...]:
    activity = [rng.normal(3, 20, shape).astype(np.float32) for shape in shapes]
    mean = [rng.normal(3, 1, units).astype(np.float32) for units, _ in shapes]
    inverse_std = [rng.uniform(0.01, 5, units).astype(np.float32) for units, _ in shapes]
    return activity, mean, inverse_std


# ---------------------------------------------------------------------------------------------------------- loading


@compiled
def test_the_compiled_core_is_in_use() -> None:
    if os.environ.get("POCO_CORE") == "off":
        pytest.skip("switched off")
    here, words = core.available()
    assert here, words
    assert words.startswith(f"{__version__}, built with ")
    assert core.build_info()["version"] == __version__


def test_switched_off_without_a_warning(run_python) -> None:
    code = (
        "import warnings; warnings.simplefilter('error')\n"
        "from poco import core\n"
        "print(core.available()); print(core.build_info()); print(core.philox_uint32(0, 1, 4)[0, 0])"
    )
    done = run_python(code, env={"POCO_CORE": "off"})
    assert done.stdout.splitlines() == ["(False, 'switched off by POCO_CORE=off')", "{}", str(0x6627E8D5)]


def test_a_missing_library_gives_one_warning_and_the_same_numbers(run_python) -> None:
    code = """
import sys, warnings
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name == "poco._core":
            raise ImportError("libgone.so.1: cannot open shared object file")
sys.meta_path.insert(0, Missing())
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    from poco import core
    core.philox_uint32(1, 2, 3)
    core.dropout_keep(1, 2, 3, 0.5)
found = [w for w in caught if issubclass(w.category, RuntimeWarning)]
print(len(found)); print(found[0].message); print(core.available()[0]); print(core.philox_uint32(0, 1, 4)[0, 0])
"""
    count, message, here, word = run_python(code).stdout.splitlines()
    assert (count, here, word) == ("1", "False", str(0x6627E8D5))
    assert "libgone.so.1" in message
    assert "pip install" in message
    assert "POCO_CORE=off" in message


@pytest.mark.parametrize("damage", ["no library", "truncated"])
def test_a_damaged_library_gives_a_warning(run_python, tmp_path: Path, damage: str) -> None:
    package = tmp_path / "damaged" / "poco"
    shutil.copytree(Path(poco.errors.__file__).parent, package, ignore=shutil.ignore_patterns("_core*", "__pycache__"))
    content = b"not a library"
    if damage == "truncated":  # the loader maps more than there is, and the process would die of SIGBUS
        if core._core_module is None:
            pytest.skip("needs the compiled core")
        content = Path(str(core._core_module.__file__)).read_bytes()[:3000]
    (package / f"_core{sysconfig.get_config_var('EXT_SUFFIX')}").write_bytes(content)
    code = (
        "import sys; sys.meta_path[:] = [f for f in sys.meta_path if 'ScikitBuild' not in type(f).__name__]\n"
        "import poco; from poco import core; print(core.__file__); print(core.available()[0])"
    )
    done = run_python(code, path=(package.parent,))
    file, here = done.stdout.splitlines()
    assert Path(file).is_relative_to(package)
    assert here == "False"
    assert done.stderr.count("RuntimeWarning: poco: the compiled core cannot be used") == 1


def test_a_library_of_another_version_is_not_used(run_python) -> None:
    code = """
import sys, types
stale = types.ModuleType("poco._core"); stale.version = "0.0.1"
sys.modules["poco._core"] = stale
from poco import core
print(core.available()[1])
"""
    assert "built as 0.0.1, but poco is" in run_python(code).stdout


def test_an_unknown_switch_is_named(run_python) -> None:
    done = run_python("import poco.core", env={"POCO_CORE": "maybe"})
    assert "POCO_CORE='maybe' is not known" in done.stderr


@compiled
def test_an_unknown_instruction_set_is_named(run_python) -> None:
    done = run_python("import poco.core", env={"POCO_CPU": "mmx"})
    assert "POCO_CPU=mmx is not known" in done.stderr
    assert "or unset it); numpy does its work" in done.stderr
    assert "Or set POCO_CORE=off to silence this." in done.stderr
    assert "Reinstall" not in done.stderr


@compiled
@pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512"])
def test_every_instruction_set_gives_the_same_words(run_python, isa: str) -> None:
    code = (
        "import hashlib; from poco import core\n"
        "print(core.available()[1]); w = core.philox_uint32(2**63 + 5, 9, 1001)\n"
        "print(hashlib.sha256(w.tobytes()).hexdigest())"
    )
    done = run_python(code, env={"POCO_CPU": isa})
    if "cannot run on this processor" in done.stderr:
        pytest.skip(f"this processor cannot run {isa}")
    words, digest = done.stdout.splitlines()
    assert words.endswith(f"running {isa}")
    assert digest == hashlib.sha256(core._philox_numpy(2**63 + 5, 9, 1001).tobytes()).hexdigest()


# ----------------------------------------------------------------------------------------------------------- Philox


def test_philox_known_answers(implementation: str) -> None:
    # The generator's published test vector for a counter and key of zeros; the core's own tests check the others.
    assert [f"{word:08x}" for word in core.philox_uint32(0, 1, 4)[0]] == [
        "6627e8d5",
        "e169c58d",
        "bc57ac4c",
        "9b00dbd8",
    ]


@pytest.mark.parametrize("shape", [(0, 0), (0, 5), (3, 0), (1, 1), (2, 3), (5, 7), (2, 256), (2, 257), (3, 515)])
@pytest.mark.parametrize("seed", [0, 1, 2**32 - 1, 2**32, 2**64 - 1, 0x0123456789ABCDEF])
def test_philox_equals_the_definition(implementation: str, shape: tuple[int, int], seed: int) -> None:
    words = core.philox_uint32(seed, *shape)
    assert words.dtype == np.uint32
    assert words.shape == shape
    assert words.flags.c_contiguous
    expected = [[philox_word(seed, r, c) for c in range(shape[1])] for r in range(shape[0])]
    np.testing.assert_array_equal(words, np.array(expected, dtype=np.uint32).reshape(shape))


def test_a_negative_seed_is_its_twos_complement(implementation: str) -> None:
    np.testing.assert_array_equal(core.philox_uint32(-1, 2, 5), core.philox_uint32(2**64 - 1, 2, 5))


def test_part_of_a_larger_array_is_the_same(implementation: str) -> None:
    np.testing.assert_array_equal(core.philox_uint32(9, 40, 300)[:7, :13], core.philox_uint32(9, 7, 13))


@pytest.mark.parametrize("p", [0.0, 2**-33, 2**-32, 0.1, 0.2, 0.4, 0.5, 1 / 3, 1 - 2**-32, float(np.nextafter(1, 0))])
def test_dropout_follows_the_words(implementation: str, p: float) -> None:
    keep = core.dropout_keep(11, 33, 67, p)
    assert keep.dtype == np.bool_
    expected = core.philox_uint32(11, 33, 67).astype(np.uint64) >= round(p * 2**32)
    np.testing.assert_array_equal(keep, expected)
    if p == 0:
        assert keep.all()


def test_dropout_drops_as_often_as_asked(implementation: str) -> None:
    assert core.dropout_keep(5, 400, 1000, 0.3).mean() == pytest.approx(0.7, abs=0.005)


@pytest.mark.parametrize("p", [-0.1, 1.0, 2.0, float("nan")])
def test_dropout_refuses_a_probability_outside_its_range(implementation: str, p: float) -> None:
    with pytest.raises(ConfigError, match="at least 0 and below 1"):
        core.dropout_keep(0, 1, 1, p)


@pytest.mark.parametrize("shape", [(-1, 4), (4, -1), (1, 2**34 + 1)])
def test_random_numbers_refuse_a_shape_that_cannot_be(implementation: str, shape: tuple[int, int]) -> None:
    with pytest.raises(ConfigError, match="rows and columns"):
        core.philox_uint32(0, *shape)


# ----------------------------------------------------------------------------------------------------------- gather


def gather_by_definition(activity, mean, inverse_std, window_session, window_start, context, horizon):
    x, target, index, offsets = [], [], [], [0]
    first = np.cumsum([0] + [a.shape[0] for a in activity])
    for s, start in zip(window_session, window_start, strict=True):
        for unit in range(activity[s].shape[0]):
            row = [
                (v - mean[s][unit]) * inverse_std[s][unit] for v in activity[s][unit, start : start + context + horizon]
            ]
            x.append(row[:context])
            target.append(row[context:])
            index.append(first[s] + unit)
        offsets.append(len(index))
    rows = len(index)
    return (
        np.array(x, dtype=np.float32).reshape(rows, context),
        np.array(target, dtype=np.float32).reshape(rows, horizon),
        np.array(index, dtype=np.int32),
        np.array(offsets, dtype=np.int32),
    )


def assert_same_bits(found, expected) -> None:
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == b.dtype
        assert a.shape == b.shape
        assert a.flags.c_contiguous
        assert a.tobytes() == b.tobytes()


@pytest.mark.parametrize(
    ("shapes", "window_session", "window_start", "context", "horizon"),
    [
        ([(3, 20)], [0], [0], 16, 4),
        ([(3, 20)], [0, 0, 0], [0, 7, 1], 8, 3),
        ([(1, 5), (7, 9), (0, 6), (2, 30)], [3, 0, 2, 1, 1, 3], [20, 0, 1, 4, 0, 13], 3, 2),
        ([(1, 5), (7, 9)], [1, 0], [2, 0], 5, 0),
        ([(4, 1)], [0], [0], 1, 0),
        ([(4, 6)], [], [], 2, 1),
        ([], [], [], 2, 1),
        ([(0, 6)], [0, 0], [0, 3], 2, 1),
        ([(129, 70)], [0, 0], [3, 5], 48, 16),
    ],
)
def test_gather_on_ragged_and_odd_shapes(
    implementation: str, shapes, window_session, window_start, context, horizon
) -> None:
    data = sessions(np.random.default_rng(1), shapes)
    windows = np.array(window_session, dtype=np.int64), np.array(window_start, dtype=np.int64)
    found = core.gather_windows(*data, *windows, context, horizon)
    assert_same_bits(found, gather_by_definition(*data, window_session, window_start, context, horizon))


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_compiled_and_numpy_agree_bit_for_bit(data: st.DataObject) -> None:
    if COMPILED is None:
        pytest.skip("the compiled core is not built here")
    context = data.draw(st.integers(1, 9))
    horizon = data.draw(st.integers(0, 5))
    shapes = data.draw(
        st.lists(st.tuples(st.integers(0, 9), st.integers(context + horizon, 40)), min_size=1, max_size=5)
    )
    window_session = data.draw(st.lists(st.integers(0, len(shapes) - 1), max_size=12))
    window_start = [data.draw(st.integers(0, shapes[s][1] - context - horizon)) for s in window_session]
    values = sessions(np.random.default_rng(data.draw(st.integers(0, 2**32))), shapes)
    for activity in values[0]:
        activity[activity > 40] = np.nan
        activity[activity < -40] = np.inf
    windows = np.array(window_session, dtype=np.int64), np.array(window_start, dtype=np.int64)
    found = core.gather_windows(*values, *windows, context, horizon)
    assert_same_bits(found, core._gather_windows_numpy(*values, *windows, context, horizon))


def test_gather_reads_memory_mapped_and_read_only_arrays(implementation: str, tmp_path: Path) -> None:
    activity, mean, inverse_std = sessions(np.random.default_rng(2), [(4, 30)])
    np.save(tmp_path / "activity.npy", activity[0])
    mapped = np.load(tmp_path / "activity.npy", mmap_mode="r")
    windows = np.array([0]), np.array([5])
    found = core.gather_windows([mapped], mean, inverse_std, *windows, 8, 2)
    assert_same_bits(found, core.gather_windows(activity, mean, inverse_std, *windows, 8, 2))


@pytest.mark.parametrize(
    ("window_session", "window_start", "context", "horizon", "message"),
    [
        ([0], [5], 4, 2, "window 0: 6 frames from frame 5 do not lie within the 10 frames of session 0"),
        ([0, 0], [0, -1], 4, 2, "window 1: 6 frames from frame -1 do not lie within"),
        ([0], [2**62], 4, 2, "do not lie within"),
        ([0], [0], 9, 2, "window 0: 11 frames from frame 0 do not lie within the 10 frames"),
        ([1], [0], 4, 2, "window 0: session 1 is not one of the 1 sessions given"),
        ([-1], [0], 4, 2, "window 0: session -1 is not one of the 1"),
        ([0], [0], 0, 2, "context must be 1 or more"),
        ([0], [0], 4, -1, "horizon 0 or more"),
    ],
)
def test_gather_refuses_windows_outside(
    implementation: str, window_session, window_start, context, horizon, message
) -> None:
    data = sessions(np.random.default_rng(3), [(2, 10)])
    with pytest.raises(DataError, match=message):
        core.gather_windows(*data, np.array(window_session), np.array(window_start), context, horizon)


def test_gather_refuses_arrays_it_would_have_to_copy(implementation: str) -> None:
    activity, mean, inverse_std = sessions(np.random.default_rng(4), [(4, 12)])
    one = np.array([0])

    def gather(a=activity, m=mean, i=inverse_std, session=one, start=one):
        return core.gather_windows(a, m, i, session, start, 4, 2)

    with pytest.raises(DataError, match=r"session 0: activity must be a float32 array \[units, frames\], got float64"):
        gather(a=[activity[0].astype(np.float64)])
    with pytest.raises(DataError, match="C-contiguous"):
        gather(a=[np.asfortranarray(activity[0])])
    with pytest.raises(DataError, match="got list"):
        gather(a=[activity[0].tolist()])
    with pytest.raises(DataError, match=r"mean must be a float32 array \[units\]"):
        gather(m=[mean[0][:, None]])
    with pytest.raises(DataError, match=r"one value per unit \(4\)"):
        gather(i=[inverse_std[0][:3].copy()])
    with pytest.raises(DataError, match="same number of sessions"):
        gather(m=[])
    with pytest.raises(DataError, match="same length"):
        gather(start=np.array([0, 1]))
    with pytest.raises(DataError, match="whole numbers"):
        gather(start=np.array([0.5]))


@compiled
def test_gather_and_random_numbers_from_many_threads() -> None:
    data = sessions(np.random.default_rng(5), [(40, 200), (13, 90)])
    windows = np.array([0, 1, 0, 1] * 8), np.arange(32)
    expected = core.gather_windows(*data, *windows, 20, 5)
    words = core.philox_uint32(3, 100, 333)
    failures = []

    def work() -> None:
        try:
            for _ in range(20):
                assert_same_bits(core.gather_windows(*data, *windows, 20, 5), expected)
                assert np.array_equal(core.philox_uint32(3, 100, 333), words)
        except AssertionError as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
