"""poco.published.download: from a server in this process, which may lose connections and change its files."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import threading
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from poco.errors import ConfigError, DataError, MissingExtraError
from poco.published import NAMES, download, fetch
from poco.published.sources import SOURCES, File, Source

pytest.importorskip("pooch", reason="needs the extra 'download'")


@dataclasses.dataclass
class Site:
    """What a server has, by path; which paths it breaks off in the middle; what it was asked for."""

    address: str
    files: dict[str, bytes]
    broken: set[str] = dataclasses.field(default_factory=set)
    asked: list[str] = dataclasses.field(default_factory=list)

    def file(self, name: str, content: bytes, **options: object) -> File:
        self.files[f"/{name}"] = content
        return File(name, f"{self.address}/{name}", **options)  # type: ignore[arg-type]


@pytest.fixture
def site() -> Iterator[Site]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.path = self.path.partition("&page_size")[0]
            found.asked.append(self.path)
            content = found.files.get(self.path)
            self.send_response(404 if content is None else 200)
            self.send_header("Content-Length", str(len(content or b"")))
            self.end_headers()
            self.wfile.write((content or b"")[: 3 if self.path in found.broken else None])
            self.close_connection = True

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found = Site(f"http://127.0.0.1:{server.server_port}", {})
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield found
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def publish(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def put(*files: File, **options: object) -> None:
        source = Source("what", "https://page", "CC0", "little", "take it", files=files, **options)  # type: ignore[arg-type]
        monkeypatch.setitem(SOURCES, "kato2015", source)

    return put


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_what_comes_is_kept_and_not_fetched_again(site: Site, publish: Callable, tmp_path: Path) -> None:
    known = hashlib.sha256(b"first").hexdigest()
    publish(site.file("a.bin", b"first", checksum=f"sha256:{known}"), site.file("in/b.bin", b"second"))
    lines: list[str] = []
    assert download("kato2015", tmp_path / "d", report=lines.append) == tmp_path / "d"
    assert (tmp_path / "d" / "in" / "b.bin").read_bytes() == b"second"
    for said in ("licence  CC0", "source   https://page", "size     little"):
        assert said in lines[0]
    assert lines[1].startswith("1 of 2 files have no published checksum")
    # sha256sum takes the file of checksums
    assert (tmp_path / "d" / "checksums.txt").read_text() == f"{hashlib.sha256(b'second').hexdigest()}  in/b.bin\n"
    download("kato2015", tmp_path / "d")
    assert site.asked == ["/a.bin", "/in/b.bin"]
    assert names(tmp_path / "d") == ["a.bin", "checksums.txt", "in/b.bin"]


def test_another_checksum_is_not_kept(site: Site, publish: Callable, tmp_path: Path) -> None:
    publish(site.file("a.bin", b"wrong", checksum="md5:" + "0" * 32))
    with pytest.raises(DataError, match=r"a\.bin has another checksum than it should, and is not kept.*https://page"):
        download("kato2015", tmp_path)
    assert names(tmp_path) == []


def test_what_came_once_is_what_comes_later(site: Site, publish: Callable, tmp_path: Path) -> None:
    publish(site.file("a.bin", b"first"))
    download("kato2015", tmp_path)
    (tmp_path / "a.bin").write_bytes(b"damaged")
    download("kato2015", tmp_path)
    assert (tmp_path / "a.bin").read_bytes() == b"first"
    (tmp_path / "a.bin").unlink()
    publish(site.file("a.bin", b"published anew"))
    with pytest.raises(DataError, match="another checksum"):
        download("kato2015", tmp_path)
    assert names(tmp_path) == ["checksums.txt"]


def test_a_lost_connection(site: Site, publish: Callable, tmp_path: Path) -> None:
    publish(site.file("a.bin", b"first"), site.file("b.bin", b"second"))
    site.broken.add("/b.bin")
    with pytest.raises(DataError, match=r"b\.bin cannot be fetched .*what came before is kept: try again"):
        download("kato2015", tmp_path)
    assert names(tmp_path) == ["a.bin", "checksums.txt"]
    site.broken.clear()
    download("kato2015", tmp_path)
    assert site.asked == ["/a.bin", "/b.bin", "/b.bin"]
    assert (tmp_path / "b.bin").read_bytes() == b"second"


def test_interrupted_by_a_person(
    site: Site, publish: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import requests

    publish(site.file("a.bin", b"first"))

    def stop(*_: object, **__: object) -> Iterator[bytes]:
        yield b"fir"
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(requests.Response, "iter_content", stop)
        with pytest.raises(KeyboardInterrupt):
            download("kato2015", tmp_path)
    assert names(tmp_path) == []
    download("kato2015", tmp_path)
    assert names(tmp_path) == ["a.bin", "checksums.txt"]


def test_no_network_and_no_such_file(site: Site, publish: Callable, tmp_path: Path) -> None:
    publish(File("a.bin", "http://127.0.0.1:9/a.bin"))
    with pytest.raises(DataError, match=r"is there a network\?.*by hand: take it \(https://page\), into .*d") as found:
        download("kato2015", tmp_path / "d")
    assert "\n" not in str(found.value)
    publish(File("a.bin", f"{site.address}/gone"))
    with pytest.raises(DataError, match="the server says 404"):
        download("kato2015", tmp_path / "d")


def test_archives_that_figshare_lists(
    site: Site, publish: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("one/inside.txt", "text")
    entries = []
    for name, content in (("one.zip", packed.getvalue()), ("two.zip", b"no archive"), ("unwanted.zip", b"")):
        file = site.file(name, content)
        entries.append({"name": name, "download_url": file.url, "computed_md5": hashlib.md5(content).hexdigest()})
    site.files["/list/7?page=1"] = json.dumps(entries[:2]).encode()
    site.files["/list/7?page=2"] = json.dumps(entries[2:]).encode()
    site.files["/list/7?page=3"] = b"[]"
    monkeypatch.setattr(fetch, "_FIGSHARE", site.address + "/list/{}")
    publish(figshare=7, archives=("one.zip",))
    download("kato2015", tmp_path)
    assert names(tmp_path) == ["one/one/inside.txt"]
    download("kato2015", tmp_path)
    assert site.asked == ["/list/7?page=1", "/one.zip", "/list/7?page=1"]
    publish(figshare=7, archives=("two.zip",))
    with pytest.raises(DataError, match=r"two\.zip cannot be unpacked .* by hand"):
        download("kato2015", tmp_path)
    assert names(tmp_path) == ["one/one/inside.txt", "two.zip"]
    publish(figshare=7, archives=("three.zip",))
    with pytest.raises(DataError, match=r"has no three\.zip: it has one\.zip"):
        download("kato2015", tmp_path)
    publish(figshare=7, archives=("unwanted.zip",))  # on the second page
    with pytest.raises(DataError, match=r"unwanted\.zip cannot be unpacked"):
        download("kato2015", tmp_path)
    for listed in ({"message": "no"}, [{"name": "one.zip"}], [None]):
        site.files["/list/7?page=1"] = json.dumps(listed).encode()
        publish(figshare=7, archives=("one.zip",))
        with pytest.raises(DataError, match=r"list/7/?\S* is no list of files with checksums; by hand: take it"):
            download("kato2015", tmp_path)


def test_the_table() -> None:
    assert tuple(SOURCES) == NAMES
    for source in SOURCES.values():
        assert source.licence
        assert source.by_hand
        assert source.page.startswith("https://")
        assert all(file.url.startswith("https://") for file in source.files)
        assert len({file.name for file in source.files}) == len(source.files)
    # an array opens only when all of its chunks are there
    assert SOURCES["zapbench"].files[-1].name == "240930_traces/zarr.json"
    assert len(SOURCES["zapbench"].files) == 16 * 141 + 1  # 7,879 x 71,721 in chunks of 512 x 512
    assert len(SOURCES["atanas2023"].files) == 40
    assert len(SOURCES["chen2018"].archives) == 15


def test_by_hand_unknown_and_without_pooch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    with pytest.raises(DataError, match=r"harvey cannot be fetched; by hand: .*ask the laboratory.*into harvey"):
        download("harvey", report=lines.append)
    assert "licence" in lines[0]
    with pytest.raises(ConfigError, match="no published data set 'x': there are andalman2019"):
        download("x")
    monkeypatch.setitem(__import__("sys").modules, "pooch", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'poco-forecast\[download\]'"):
        download("zapbench", tmp_path)


def test_the_command(site: Site, publish: Callable, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("typer", reason="the command line needs the extra 'cli'")
    from poco.__main__ import run

    assert run(["download"]) == 0
    listed = capfd.readouterr().out.splitlines()
    assert [line.split()[0] for line in listed] == list(NAMES)
    assert next(line for line in listed if line.startswith("harvey")).split()[1:3] == ["by", "hand"]
    publish(site.file("a.bin", b"first"))
    assert run(["download", "kato2015", "--to", str(tmp_path / "d")]) == 0
    shown = capfd.readouterr()
    assert "--published kato2015" in shown.out
    assert "licence  CC0" in shown.err
    assert run(["download", "andalman2019"]) == 2
    assert "poco: error: andalman2019 cannot be fetched" in capfd.readouterr().err
