"""Fetches published data sets: what is there and right stays, and no file is ever there in part."""

from __future__ import annotations

import itertools
import os
import shutil
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from poco.errors import ConfigError, DataError, optional
from poco.published.sources import SOURCES, File, Source

#: Beside the files: SHA-256 of those whose publisher states no checksum, as ``sha256sum --check`` takes them.
CHECKSUMS = "checksums.txt"
#: Of an article, which itself names no more than ten of its files.
_FIGSHARE = "https://api.figshare.com/v2/articles/{}/files"
_A_PAGE = 100
#: WormWideWeb refuses programs that do not say this.
_HEADERS = {"User-Agent": "Mozilla/5.0 (poco-forecast)"}
_SECONDS = 60


def download(name: str, to: str | Path | None = None, *, report: Callable[[str], None] = lambda line: None) -> Path:
    """Fetch a published data set into a folder that ``poco.read(folder, published=name)`` reads.

    A file is moved to its place when all of it is there and its checksum is right. Where the publisher states none,
    what came at first is taken on trust, and its SHA-256 is kept in :data:`CHECKSUMS` for later calls. Files that are
    there and right are not fetched again: a call that was interrupted goes on with the file that it was at.

    Args:
        name: one of :data:`poco.published.sources.SOURCES`.
        to: the folder; default one of the data set's name, here.
        report: called with licence, size and source before anything is fetched, and then of progress.

    Returns:
        The folder.

    Raises:
        ConfigError: if there is no such data set.
        DataError: if it cannot be fetched, or what came has another checksum; the message says what to do by hand.
        MissingExtraError: if pooch is missing.
    """
    if name not in SOURCES:
        raise ConfigError(f"there is no published data set '{name}': there are {', '.join(SOURCES)}")
    source, folder = SOURCES[name], Path(name if to is None else to)
    report(f"{name}: {source.what}\nsource   {source.page}\nlicence  {source.licence}\nsize     {source.size}")
    if not source.automatic:
        raise DataError(f"{name} cannot be fetched; by hand: {source.by_hand} ({source.page}), into {folder}")
    with optional("pooch", "download", "fetching published data sets"):
        import pooch
    with _polite("the list of files", source, folder):
        files = source.files or _listed(source)
    unchecked = sum(file.checksum is None for file in files)
    if unchecked:
        report(f"{unchecked} of {len(files)} files have no published checksum: that of what comes is kept")
    pooch.get_logger().setLevel("WARNING")  # it names every file
    known = _checksums(folder)
    for number, file in enumerate(files, start=1):
        place = folder / file.name
        if not (file.unpack and place.with_suffix("").exists()):
            checksum = file.checksum or known.get(file.name)
            with _polite(file.url, source, folder):
                pooch.retrieve(
                    file.url,
                    checksum,
                    fname=place.name,
                    path=place.parent,
                    downloader=pooch.HTTPDownloader(chunk_size=2**20, headers=_HEADERS, timeout=_SECONDS),
                )
            if checksum is None:
                with (folder / CHECKSUMS).open("a") as kept:
                    kept.write(f"{pooch.file_hash(str(place))}  {file.name}\n")
            if file.unpack:
                _unpack(place)
        if number % max(1, len(files) // 40) == 0 or number == len(files):
            report(f"{number} of {len(files)} files are there: {file.name}")
    return folder


def _listed(source: Source) -> tuple[File, ...]:
    """The wanted archives of a figshare article, listed page by page, with the checksums that figshare states."""
    import requests

    url, there = _FIGSHARE.format(source.figshare), dict[str, Any]()
    try:
        for page in itertools.count(1):
            answer = requests.get(url, {"page": page, "page_size": _A_PAGE}, headers=_HEADERS, timeout=_SECONDS)
            answer.raise_for_status()
            before = len(there)
            there |= {entry["name"]: entry for entry in answer.json()}
            missing = [name for name in source.archives if name not in there]
            if not missing or len(there) == before:
                break
        if missing:
            raise DataError(f"{source.page} has no {missing[0]}: it has {', '.join(there) or 'nothing'}")
        return tuple(
            File(name, there[name]["download_url"], f"md5:{there[name]['computed_md5']}", unpack=True)
            for name in source.archives
        )
    except (KeyError, TypeError) as error:
        raise DataError(
            f"{url} is no list of files with checksums; by hand: {source.by_hand} ({source.page})"
        ) from error


@contextmanager
def _polite(what: str, source: Source, folder: Path) -> Iterator[None]:
    """Says of a failure why, and what to do by hand."""
    import requests

    by_hand = f"by hand: {source.by_hand} ({source.page}), into {folder}"
    try:
        yield
    except requests.RequestException as error:
        if error.response is not None:
            reason = f"the server says {error.response.status_code}"
        elif isinstance(error, requests.ConnectionError | requests.Timeout):
            reason = "no answer: is there a network?"
        else:
            reason = str(error).splitlines()[0]
        raise DataError(
            f"{what} cannot be fetched ({reason}); what came before is kept: try again, or {by_hand}"
        ) from error
    except ValueError as error:  # pooch's, of a checksum
        raise DataError(
            f"{what} has another checksum than it should, and is not kept: try again, or {by_hand}"
        ) from error


def _checksums(folder: Path) -> dict[str, str]:
    """SHA-256 by name of file, of the files that came before."""
    file = folder / CHECKSUMS
    if not file.exists():
        return {}
    pairs = [line.split(maxsplit=1) for line in file.read_text().splitlines()]
    return {pair[1]: pair[0] for pair in pairs if len(pair) == 2 and len(pair[0]) == 64}


def _unpack(archive: Path) -> None:
    """An archive becomes a folder of its name."""
    folder = archive.with_suffix("")
    part = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    try:
        shutil.unpack_archive(archive, part)
        part.rename(folder)
    except (OSError, ValueError, EOFError, NotImplementedError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(
            f"{archive} cannot be unpacked ({error}), though it came as it was published: unpack it into {folder} "
            "by hand, with another program, and run this again"
        ) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    archive.unlink()
