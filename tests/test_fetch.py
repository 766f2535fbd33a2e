"""Downloads from a server on this machine that misbehaves in every way that real ones do."""

import hashlib
import io
import json
import os
import re
import shutil
import stat
import subprocess
import threading
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, replace
from html import escape
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import chain, repeat
from types import SimpleNamespace
from unittest.mock import Mock
from urllib.parse import parse_qsl, unquote, urlsplit

import pytest
from conftest import mistake
from tiny import begin, wait_for
from typer.testing import CliRunner

from ecgnb import cli
from ecgnb.data import download, fetch, homes
from ecgnb.data.catalog import CATALOG, card
from ecgnb.data.download import Entry, HomeError, is_whole, read_sums, safe_path
from ecgnb.errors import UserError

PAGE = 7  # files on one page of a list


def md5(content):
    return hashlib.md5(content).hexdigest()


def sums_of(files, folder=""):
    lines = (f"{hashlib.sha256(c).hexdigest()} {folder}{name}\n" for name, c in files.items())
    return "".join(lines).encode()


def noise(size, seed=0):
    return hashlib.shake_256(bytes([seed])).digest(size)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 20
    disable_nagle_algorithm = True  # else each small file waits for an acknowledgement

    def log_message(self, *_):
        pass

    def do_GET(self):
        server = self.server
        address = urlsplit(self.path)
        path, query = unquote(address.path), dict(parse_qsl(address.query))
        with server.lock:
            server.asked.append((self.command, self.path, self.headers.get("Range", "")))
            status, content, headers = self._answer(path, query)
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        drops = server.drops.get(path)
        end = min(drops.pop(0), len(content)) if drops else len(content)
        for start in range(0, end, server.piece):
            piece = content[start : min(start + server.piece, end)]
            try:
                self.wfile.write(piece)
            except OSError:  # whoever asked is gone
                break
            with server.lock:
                server.served += len(piece)
            time.sleep(server.pause)
        if end < len(content):
            self.close_connection = True
            server.files[path] = server.changing.get(path, server.files[path])

    do_HEAD = do_GET  # noqa: N815 (as the library calls it)

    def _answer(self, path, query):
        """Return status, content and headers."""
        server = self.server
        if server.faults.get(path):
            status, headers = server.faults[path].pop(0)
            return status, b"no", headers
        if "list-type" in query:
            return 200, self._list(query["prefix"], int(query.get("continuation-token", 0))), {}
        if path not in server.files:
            return 404, b"none", {}
        content = server.files[path]
        tag, _ = server.facts(path)
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if not (asked and server.ranges and self.headers.get("If-Range", tag) == tag):
            return 200, content, {"ETag": tag}
        start = int(asked[1])
        if start >= len(content):
            return 416, b"", {}
        part = f"bytes {start}-{len(content) - 1}/{len(content)}"
        return 206, content[start:], {"ETag": tag, "Content-Range": part}

    def _list(self, prefix, start):
        server = self.server
        keys = sorted(path for path in server.files if path.startswith(f"/{prefix}"))
        text = '<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
        for key in keys[start : start + PAGE]:
            tag, size = server.facts(key)
            facts = f"<Key>{key[1:]}</Key><ETag>{escape(tag)}</ETag><Size>{size}</Size>"
            text += f"<Contents>{facts}</Contents>"
        if start + PAGE < len(keys):
            text += f"<NextContinuationToken>{start + PAGE}</NextContinuationToken>"
        return f"{text}</ListBucketResult>".encode()


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.lock = threading.Lock()
        self.files = {}  # by their paths: what is served
        self.listed = {}  # tags and sizes that are said, where they are not those of the files
        self.faults = {}  # answers that come before the right one
        self.drops = {}  # after how many bytes the connection breaks
        self.changing = {}  # what a file becomes after a break
        self.asked = []
        self.served = self.connected = self.most = 0
        self.ranges = True
        self.piece, self.pause = 1 << 16, 0.0
        self.url = f"http://127.0.0.1:{self.server_port}"

    def process_request(self, *connection):
        with self.lock:
            self.connected += 1
            self.most = max(self.most, self.connected)
        super().process_request(*connection)

    def shutdown_request(self, request):
        super().shutdown_request(request)
        with self.lock:
            self.connected -= 1

    def handle_error(self, *_):  # a connection that the other side has cut
        pass

    def bucket(self, prefix="made/1/"):
        return f"{self.url}/?list-type=2&prefix={prefix}"

    def facts(self, path):
        content = self.files[path]
        return self.listed.get(path, (f'"{md5(content)}"', len(content)))

    def got(self, path):
        return [bytes_ for method, asked, bytes_ in self.asked if method == "GET" and asked == path]


@pytest.fixture
def server():
    one = Server()
    thread = threading.Thread(target=one.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield one
    one.shutdown()
    one.server_close()
    thread.join(5)


@pytest.fixture
def full(server):
    """A server that has `RECORDS`, as single files and in an archive."""
    put(server, RECORDS)
    server.files["/x.zip"] = a_zip(RECORDS)
    return server


@pytest.fixture
def root(root, monkeypatch):
    monkeypatch.setenv("TQDM_DISABLE", "1")
    monkeypatch.setattr(download, "FIRST_WAIT_S", 0.01)
    return root


def a_card(*homes, **changes):
    facts = replace(card("georgia"), name="made", title="Made", folders=("made/1", "made"))
    return replace(facts, homes=homes, **changes)


def get(facts, **options):
    said = []
    try:
        folder = fetch.fetch(facts, progress=False, say=said.append, **options)
    except UserError as error:
        return None, [*said, str(error)]
    return folder, said


def the(server, home="list"):
    """The card of what a server has as single files or in an archive."""
    homes = {"list": [server.bucket()], "zip": [f"{server.url}/x.zip"]}
    return a_card(*homes[home])


def refuses(facts, message):
    folder, said = get(facts)
    assert folder is None
    assert re.search(message, said[-1])
    return said


def brings(facts, files, **options):
    folder, said = get(facts, **options)
    assert contents(folder) == files
    return folder, said


def lay(folder, files):
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def contents(folder):
    files = [path for path in folder.rglob("[!.]*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def nothing_but_work(root):
    """Whether nothing is taken for a dataset, and nothing lies outside the data root."""
    left = [[path.name for path in folder.iterdir()] for folder in (root, root.parent)]
    return left == [[".ecgnb-fetch"], ["data"]]


def a_zip(members, top="the-project-1.0/", change=None):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as opened:
        for name, content in members.items():
            info = zipfile.ZipInfo(top + name)
            info.compress_type = zipfile.ZIP_DEFLATED
            if change:
                change(info)
            opened.writestr(info, content)
    return packed.getvalue()


RECORDS = {f"g{i % 3}/R{i:04d}.hea": noise(2000 + i, i) for i in range(10)}
RECORDS |= {f"g{i % 3}/R{i:04d}.mat": noise(9000 + i, i) for i in range(10)}


def put(server, files, prefix="made/1/"):
    server.files |= {f"/{prefix}{name}": content for name, content in files.items()}


def test_files_of_a_bucket_but_hidden_ones(full, root):
    put(full, {".git/config": b"[core]", ".ecgnb-whole.json": b"{}"})
    folder, said = brings(the(full), RECORDS)
    assert folder == root / "made" / "1"
    assert "licence: CC BY 4.0" in said[1]
    assert "reyna2021" in said[2]
    assert "20 of 20 files" in said[-1]
    full.asked.clear()
    assert get(the(full)) == (folder, [f"Made is here, whole: {folder}"])
    assert not full.asked


@pytest.mark.parametrize("ranges", [True, False])
def test_a_break_is_resumed_or_begins_again(server, root, monkeypatch, capsys, ranges):
    put(server, {"a.hea": noise(400_000)})
    server.ranges = ranges
    server.drops["/made/1/a.hea"] = [150_000, 100_000]
    monkeypatch.delenv("TQDM_DISABLE")
    assert contents(fetch.fetch(the(server))) == {"a.hea": noise(400_000)}
    assert all(re.fullmatch(r"bytes=\d+-", one) for one in server.got("/made/1/a.hea")[1:])
    assert (server.served < 500_000) == ranges
    assert re.search(r"made: fetching: 100%.* 400k/400k \[.*B/s\]", capsys.readouterr().err)


@pytest.mark.parametrize(
    ("real", "message"),
    [
        (noise(9000, 99), "a.hea is not what was announced: its checksum"),
        (noise(5000), "a.hea (ended too early|does not have the rest)"),
        (noise(9500), "a.hea is longer"),
        (None, "a.hea answers 404"),
    ],
)
def test_file_that_is_not_as_listed_is_refused(full, root, real, message):
    put(full, {"a.hea": real or b""})
    full.listed["/made/1/a.hea"] = f'"{md5(noise(9000))}"', 9000
    full.faults["/made/1/a.hea"] = [] if real else [(404, {})]
    said = refuses(the(full), message)
    assert "run it again later" in said[-1]
    assert nothing_but_work(root)


def test_missing_home_falls_back_with_one_sentence(full, root):
    _, said = brings(a_card(f"{full.url}/none.zip", full.bucket()), RECORDS)
    (sentence,) = [one for one in said if "going on with" in one]
    assert "none.zip answers 404" in sentence
    assert [one[0] for one in full.asked if one[1] == "/none.zip"] == ["HEAD"]


def test_a_server_that_recovers_is_asked_again_and_patience_ends(full, root):
    path = "/made/1/g1/R0001.hea"
    full.faults[path] = [(503, {"Retry-After": "1"}), (429, {}), (500, {})]
    start = time.monotonic()
    brings(the(full), RECORDS)
    assert len(full.got(path)) == 4
    assert time.monotonic() - start >= 1
    shutil.rmtree(root / "made")
    full.faults["/"], full.asked = [(503, {})] * 99, []
    refuses(the(full), "answers 503")
    assert len(full.asked) == download.TRIES
    full.faults["/"] = [(429, {"Retry-After": "7200"})]
    refuses(the(full), "asks to wait 7200 s")


def test_checksum_of_an_object_sent_in_pieces(server, root):
    """Its tag in the list is no MD5; the checksum is in PhysioNet's own list."""
    big = {"a.hea": noise(90_000)}
    put(server, {**big, "SHA256SUMS.txt": sums_of({"a.hea": b"other"})})
    server.listed["/made/1/a.hea"] = f'"{md5(big["a.hea"])}-2"', 90_000
    refuses(the(server), "its checksum or its size is wrong")
    put(server, whole := {**big, "SHA256SUMS.txt": sums_of(big)})
    brings(the(server), whole)


def test_file_that_changes_while_it_is_fetched(server, root):
    old, new = a_zip({"a.hea": noise(300_000, 1)}), a_zip({"a.hea": noise(300_000, 2)})
    server.files["/x.zip"] = old
    server.drops["/x.zip"] = [100_000]
    server.changing["/x.zip"] = new
    refuses(the(server, "zip"), "x.zip has changed since it was looked up")
    assert nothing_but_work(root)
    brings(the(server, "zip"), {"a.hea": noise(300_000, 2)})
    assert server.got("/x.zip")[-1] == ""  # nothing of the old one was continued


def test_archive_that_is_unpacked_in_part(server, root):
    tree = root / ".ecgnb-fetch" / "made%2F1" / "tree" / "1"
    half, whole = (RECORDS[f"g0/{name}.mat"] for name in ("R0000", "R0003"))
    lay(tree, {"g0/R0000.mat": half[:500], "g0/R0003.mat": whole, "g0/R9999.mat": b"of another"})
    listed = {**RECORDS, "SHA256SUMS.txt": sums_of(RECORDS)}
    members = {**listed, "big/x.hea": noise(5000, 5)}
    server.files["/x.zip"] = a_zip(members)
    facts = a_card(f"{server.url}/x.zip?download=1", unread=("big/",))
    folder, said = brings(facts, listed)
    assert "21 files" in said[-1]
    assert [p.name for p in (root / ".ecgnb-fetch").iterdir() if p.is_dir()] == []
    assert get(facts)[1] == [f"Made is here, whole: {folder}"]
    folder, _ = brings(facts, members, everything=True)
    assert get(facts)[1] == [f"Made is here, whole: {folder}"]  # more than is asked for


def _as_link(info):
    info.external_attr = (stat.S_IFLNK | 0o777) << 16


TWO = a_zip({"a": b"1", "b": b"2"})
UNLIKE = {"a.hea": b"1", "SHA256SUMS.txt": sums_of({"a.hea": b"2"})}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (a_zip({"a.hea": b"1", "../../../out.hea": b"2"}), "does not stay below"),
        (a_zip({"a.hea": b"1", "x/../../../../out": b"2"}), "does not stay below"),
        (a_zip({"/etc/out": b"2"}, top=""), "does not stay below"),
        (a_zip({"C:/out": b"2"}, top=""), "does not stay below"),
        (a_zip({"..\\out": b"2"}, top=""), "does not stay below"),
        (a_zip({".ecgnb-whole.json": b"{}"}), "holds no file of the dataset"),
        (a_zip({"a.hea": b"/etc/passwd"}, change=_as_link), "is a link or a device"),
        (a_zip({"a.hea": bytes(3_000_000)}), "would unpack to 3 MB"),
        (a_zip({"a": b"1", "a/b": b"2"}), "two files of one name"),
        (TWO[:-12] + b"\3\0" + TWO[-10:], "its directory has lost files"),
        (a_zip({"b": b"", "SHA256SUMS.txt": sums_of({"c": b""})}), "lacks 1 of .* 'c'"),
        (a_zip(UNLIKE), "a.hea in it does not have its published checksum"),
        (a_zip({"a.hea": noise(9000)})[:-30], "no whole zip archive"),
        (a_zip({"a.hea": noise(9000)}).replace(noise(9000)[99:200], bytes(101)), "zip archive"),
        (b"<html>a page of some portal</html>", "no whole zip archive"),
    ],
)
def test_bad_archives_are_refused(server, root, content, message):
    server.files["/x.zip"] = content
    refuses(the(server, "zip"), f"x.zip is refused: .*{message}")
    assert nothing_but_work(root)
    assert list(root.rglob("*.zip")) == []  # nor is it tried again


def test_a_list_of_checksums(server, root):
    put(server, RECORDS, "files/1/training/made/")
    sums = sums_of({**RECORDS, "../other/x.hea": b""}, "training/made/")
    server.files["/files/1/SHA256SUMS.txt"] = sums.replace(b"made/../", b"")
    home = f"{server.url}/files/1/SHA256SUMS.txt#training/made/"
    folder, _ = brings(a_card(home), RECORDS)
    shutil.rmtree(folder)
    server.files["/files/1/training/made/g0/R0000.hea"] = b"something else"
    refuses(a_card(home), "its checksum or its size is wrong")


def test_an_archive_of_many_files_announces_them_elsewhere(tmp_path, monkeypatch):
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 1)
    packed = a_zip(RECORDS)  # with a second record at its end, as the first has no room
    (tmp_path / "x.zip").write_bytes(packed[:-14] + b"\xff" * 4 + packed[-10:])
    assert len(homes.list_members(tmp_path / "x.zip")) == len(RECORDS)


def test_an_archive_that_was_damaged_here_is_asked_for_again(full, root):
    packed = full.files["/x.zip"]
    facts = the(full, "zip")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fetch, "unpack", Mock(side_effect=OSError(28, "full")))
        refuses(facts, r"cannot read or write in .* \(full\): free some space")
    (archive,) = root.rglob("*.zip")
    at = packed.rindex(b"PK\x05\x06") + 16  # where the directory is said to begin
    archive.write_bytes(packed[:at] + b"\xff" * 4 + packed[at + 4 :])
    brings(facts, RECORDS)
    assert len(full.got("/x.zip")) == 2


@pytest.mark.parametrize(
    ("home", "message"),
    [
        ("/up/SHA256SUMS.txt", "does not stay below"),
        ("/long/SHA256SUMS.txt", "is longer than any list"),
        ("/?list-type=2&prefix=long/", "is longer than any list"),
        ("/?list-type=2&prefix=many/", "is a list without end"),
        ("/?list-type=2&prefix=none/", "lists no file"),
        ("/?list-type=2&prefix=odd/", "is no list of files"),
        ("/api/records/7#x.zip", "is no list of files"),
    ],
)
def test_lists_without_end_or_sense(server, root, monkeypatch, home, message):
    monkeypatch.setattr(homes, "MOST_FILES", 10)
    monkeypatch.setattr(download, "MOST_LISTED", 2000)
    lists = {"up/": f"{'0' * 64} ../out.hea\n".encode(), "long/": bytes(2001)}
    put(server, {f"{folder}SHA256SUMS.txt": text for folder, text in lists.items()}, "")
    put(server, {"api/records/7": b"<html>", f"long/{'a' * 2000}": b"", "odd/\1": b""}, "")
    put(server, dict.fromkeys(map(str, range(20)), b""), "many/")
    refuses(a_card(server.url + home), message)


def test_checksums_are_read_however_they_are_written(tmp_path):
    for between in (" ", "  ", " *", " ./", "  ./"):
        sums = read_sums(f"{'AB' * 32}{between}a b/c.txt\r\n")
        assert sums == {"a b/c.txt": f"sha256:{'ab' * 32}"}
    (tmp_path / "a").write_bytes(b"123456789")
    assert is_whole(Entry("a", 9, "crc32:cbf43926"), tmp_path / "a")  # its check value
    assert not is_whole(Entry("a/b", 1), tmp_path / "a" / "b")
    assert not is_whole(Entry("a"), tmp_path)
    with pytest.raises(HomeError):
        safe_path("a//b")


def test_a_record_of_zenodo(server, root):
    packed = a_zip({"a.hdf5": noise(9000), "annotations/b.csv": b"1"}, top="data/")
    server.files["/files/data.zip"] = packed
    one = {"key": "data.zip", "size": len(packed), "checksum": f"md5:{'0' * 32}"}
    one["links"] = {"self": f"{server.url}/files/data.zip"}
    other = {"key": "README", "size": 1, "checksum": "md5:", "links": {"self": ""}}
    facts = a_card(f"{server.url}/api/records/7#data.zip")
    server.files["/api/records/7"] = json.dumps({"files": [other, one]}).encode()
    refuses(facts, "its checksum or its size is wrong")
    one["checksum"] = f"md5:{md5(packed)}"
    server.files["/api/records/7"] = json.dumps({"files": [other, one]}).encode()
    brings(facts, {"a.hdf5": noise(9000), "annotations/b.csv": b"1"})


@pytest.mark.parametrize("home", ["list", "zip"])
def test_not_enough_room(full, root, monkeypatch, home):
    monkeypatch.setattr(fetch.shutil, "disk_usage", lambda _: SimpleNamespace(free=1e6))
    refuses(the(full, home), rf"Made needs 50\.\d MB and {root} has 1\.0 MB free: free some")
    assert not [one for one in full.asked if one[0] == "GET" and "list-type" not in one[1]]
    assert nothing_but_work(root)


def test_what_is_there_is_completed(full, root):
    folder = root / "made"  # not the folder that fetch would choose
    broken, gone = "g0/R0003.mat", "g0/R0006.hea"
    there = {name: RECORDS[name] for name in RECORDS if name.startswith("g0/") and name != gone}
    there |= {broken: RECORDS[broken][:-1] + b"?", "notes.txt": b"mine"}
    lay(folder, there)
    found, said = brings(a_card(f"{full.url}/x.zip", full.bucket()), {**RECORDS, **there})
    assert found == folder
    assert "13 of 20 files" in said[-1]
    kept = f"not as published but kept: {broken} (remove a file to fetch it)"
    assert kept in said[-1]
    assert not any(full.got(f"/made/1/{name}") for name in there)
    assert full.got("/x.zip") == []
    facts = the(full)
    assert get(facts)[1] == [f"Made is here, whole: {folder}; {kept}"]
    (folder / broken).unlink()
    assert "1 of 20 files" in get(facts)[1][-1]
    assert get(facts)[1] == [f"Made is here, whole: {folder}"]


@pytest.mark.parametrize("home", ["list", "zip"])
def test_what_was_corrected_by_hand_is_kept_and_what_broke_is_not(full, root, home):
    facts = the(full, home)
    folder, _ = get(facts)
    decayed, corrected, emptied, link = (f"g0/R000{i}.hea" for i in (0, 3, 6, 9))
    (folder / decayed).write_bytes(b"of a bad disk")
    time.sleep(0.02)
    os.utime(folder / ".ecgnb-whole.json")  # as if it had not been written to since
    time.sleep(0.02)
    lay(folder, {corrected: b"corrected", emptied: b""})
    (folder / link).unlink()
    (folder / link).symlink_to(root / "none")
    expected = {**RECORDS, corrected: b"corrected"}
    del expected[link]
    for _ in range(2):
        _, said = brings(facts, expected)
        assert f"kept: {corrected}, {link} (remove" in said[-1]


def test_a_whole_folder_from_elsewhere_is_recognised_and_another_layout_left_alone(full, root):
    lay(root / "made", RECORDS)
    folder, said = get(the(full))
    assert folder == root / "made"
    assert "0 of 20 files" in said[-1]
    assert all("list-type" in one[1] for one in full.asked)
    shutil.rmtree(folder)
    lay(folder, {"R0000.hea": b"flat"})
    assert "nothing: Made lies there in another layout" in fetch.describe(the(full))
    assert "another layout" in brings(the(full), {"R0000.hea": b"flat"})[1][-1]


def test_two_datasets_of_one_download(full, root, monkeypatch):
    first = a_card(full.bucket(), record_range=("R0000", "R0004"))
    first = replace(first, folders=("made/1", "first"))
    second = replace(first, name="second", title="Second", folders=("made/1", "second"))
    second = replace(second, record_range=("R0005", "R0009"))
    monkeypatch.setattr(fetch, "CATALOG", {"made": first, "second": second})
    folder, _ = get(first)
    full.asked.clear()
    assert get(second) == (folder, [f"Second is here, whole: {folder}"])
    assert not full.asked
    # In a folder of its own, a dataset gets no records of the other.
    shutil.rmtree(folder.parent)
    lay(root / "first", {"g0/R0000.hea": RECORDS["g0/R0000.hea"]})
    brings(first, {name: RECORDS[name] for name in RECORDS if name[3:8] <= "R0004"})


def test_two_at_once_bring_each_file_once_with_at_most_eight_connections(full, root):
    full.piece, full.pause = 1000, 0.01
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(get, [the(full)] * 2))
    assert [folder for folder, _ in results] == [root / "made" / "1"] * 2
    assert contents(root / "made" / "1") == RECORDS
    assert any("another process: waiting" in one for _, said in results for one in said)
    assert all(len(full.got(f"/made/1/{name}")) == 1 for name in RECORDS)
    assert 2 <= full.most <= 8


def card_file(path, facts):
    lines = [f"[{facts.name}]"]
    lines += [f"{k} = {json.dumps(v)}" for k, v in asdict(facts).items() if k != "name"]
    path.write_text("\n".join(lines))


def test_killed_and_resumed(server, root, capsys):
    big = a_zip({"a.hea": noise(2_000_000)})
    server.files["/x.zip"] = big
    server.piece, server.pause = 20_000, 0.05
    card_file(root / "made.toml", the(server, "zip"))
    parts = root / ".ecgnb-fetch" / "made%2F1" / "parts"
    with begin("-m", "ecgnb", "fetch", "made", stdout=subprocess.DEVNULL) as process:
        try:
            wait_for(lambda: parts.is_dir() and sum(p.stat().st_size for p in parts.iterdir()))
        finally:
            process.kill()
    assert not (root / "made").exists()
    (part,) = parts.iterdir()
    have = part.stat().st_size
    assert 0 < have < len(big)
    wait_for(lambda: server.connected == 0)
    server.served, server.pause = 0, 0.0
    folder = fetch.fetch("made")
    out, err = capsys.readouterr()
    assert "whole, 1 files" in out
    assert err == ""  # no bar, as TQDM_DISABLE is set
    assert server.got("/x.zip") == ["", f"bytes={have}-"]
    assert server.served == len(big) - have
    assert contents(folder) == {"a.hea": noise(2_000_000)}


class Stopped(BaseException):
    """As a kill: nothing in the code expects it."""


@pytest.mark.parametrize("way", ["list", "zip", "completed"])
def test_stopped_at_any_step_nothing_half_is_whole(server, root, way):
    few = dict(list(RECORDS.items())[::4])
    put(server, few)
    server.files["/x.zip"] = a_zip(few)
    facts = the(server, "zip" if way == "zip" else "list")
    for steps in range(99):
        shutil.rmtree(root / "made", ignore_errors=True)
        if way == "completed":
            lay(root / "made", {"g0/R0000.hea": few["g0/R0000.hea"]})
        with pytest.MonkeyPatch.context() as patch, suppress(Stopped):
            moves = chain([os.replace] * steps, repeat(Mock(side_effect=Stopped)))
            patch.setattr(os, "replace", lambda old, new, moves=moves: next(moves)(old, new))
            brings(facts, few)
            break
        assert way == "completed" or not (root / "made").exists()
        assert not list(root.rglob("made/**/.ecgnb-whole.json"))
        brings(facts, few)
    assert steps > (1 if way == "zip" else len(few) / 2)


def test_dry_run_downloads_nothing(full, root):
    packed = full.files["/x.zip"]
    text = fetch.describe(a_card(f"{full.url}/x.zip", unread=("g0/",)))
    assert f"from: {full.url}/x.zip" in text
    assert f"one archive, {len(packed) / 1e6:.1f} MB" in text
    assert "all but g0/" in text
    assert "licence: CC BY 4.0" in text
    assert f"to: {root / 'made' / '1'}" in text
    text = fetch.describe(a_card(f"{full.url}/none.zip", full.bucket()))
    assert "20 files, 0.1 MB" in text
    assert all("list-type" in asked for method, asked, _ in full.asked if method == "GET")
    assert list(root.iterdir()) == []
    mistake("be fetched: .*none.zip answers 404", fetch.describe, a_card(f"{full.url}/none.zip"))


def test_command_line_and_every_card_says_where_it_is_or_why_not(root, monkeypatch):
    def run(*arguments):
        return CliRunner().invoke(cli.app, ["fetch", *arguments])

    assert run("--study", "demo").output.count("is simulated by ecgnb: nothing has to be") == 2
    fetched = []
    monkeypatch.setattr(cli, "fetch", lambda one, **_: fetched.append(one.name))
    result = run("--study", "jang2021")  # which has brugada-huca
    assert result.exit_code == 0
    assert fetched.count("ptb-xl") == 1
    assert result.output.count("has no public home known to ecgnb") == 1
    assert "name a dataset" in str(run().exception)
    assert "no dataset 'ptb_xl'" in str(run("ptb_xl").exception)
    assert "joined of ptb-xl and ptb-xl-filtered" in fetch.no_home(card("ptb-xl-extended"))
    assert all(bool(facts.homes) != bool(fetch.no_home(facts)) for facts in CATALOG.values())
    assert card("chapman-shaoxing").homes == card("ningbo").homes
    mistake("has no public home known to ecgnb", fetch.fetch, "ptb-xl-filtered")
    monkeypatch.delenv("ECGNB_DATA")
    mistake("ECGNB_DATA is not set", fetch.fetch, "ptb-xl")


NO_NAMES = ("..", ".", "", "../data", "made/..", "/etc/made", "~/.ssh", "a//b", "nul", "a/Com1.x")
OTHERS = ("ptb-xl", "PTB-XL", "ptb-xl/1.0.3/new", "challenge-2021", "mine", "mine/new")


@pytest.mark.parametrize(
    ("folder", "message"),
    [
        *((folder, "is not a plain name under the data root") for folder in NO_NAMES),
        *((folder, "is that of ") for folder in OTHERS),
        *((folder, "leads elsewhere by a link") for folder in ("way/made", "here/made")),
        ("a" * 300, "is too long"),
    ],
)
def test_nothing_is_written_or_removed_elsewhere(server, root, folder, message, monkeypatch):
    """A card made in another way than by reading a file is held to the same rule."""
    monkeypatch.setenv("HOME", str(root.parent / "home"))
    card_file(root / "own.toml", replace(a_card(), name="own", folders=("mine",)))
    lay(root, {"precious.txt": b"mine", "mine/x": b"1", "../above.txt": b"2", "../else/x": b"3"})
    for way, end in {"way": root.parent / "else", "here": "mine"}.items():
        (root / way).symlink_to(end)
    put(server, {**RECORDS, "authorized_keys": b"key"})
    before = contents(root.parent)
    for folders in ((folder,), ("made", folder)):
        refuses(a_card(server.bucket(), folders=folders), message)
        assert contents(root.parent) == before
        assert not (root / ".ecgnb-fetch").exists()


def test_no_link_leads_what_is_written_or_removed_elsewhere(full, root):
    lay(root.parent / "elsewhere", {"tree/made/precious.txt": b"mine", "precious.txt": b"mine"})
    before = contents(root.parent / "elsewhere")
    lay(root / "made", {"g0/R0000.hea": RECORDS["g0/R0000.hea"]})
    for link in (root / "made" / "g1", root / ".ecgnb-fetch"):
        shutil.rmtree(root / ".ecgnb-fetch", ignore_errors=True)
        link.symlink_to(root.parent / "elsewhere")
        refuses(the(full), f"{link} (leads elsewhere by|is) a link")
        assert contents(root.parent / "elsewhere") == before


@pytest.mark.parametrize(
    "mark", ["", "[" * 9999, '{"kept": 3}', '{"kept": [], "left_out": [], "files": ""}']
)
def test_what_fetch_has_not_brought_is_never_replaced(server, root, mark):
    """Nor later, when there is a mark and the home has one more file of its name."""
    lay(root / "made", {"R1.hea": b"mine", "R2.hea": b"mine", fetch._MARK: mark.encode()})
    for name in ("R1.hea", "R2.hea"):
        put(server, {name: b"theirs"})
        (root / "made" / f"note on {name}").touch()  # so that it asks its home again
        _, said = get(the(server))
        assert f"{name} (remove" in said[-1]
        assert (root / "made" / name).read_bytes() == b"mine"


def test_two_cards_have_no_work_in_common(server, root):
    works = {
        fetch.place_of(a_card("x", folders=(folder,)), root, everything=False).work
        for folder in ("a/b", "a-b", "a%2Fb", "a")
    }
    assert len(works) == 4
    assert not any(one in other.parents for one in works for other in works)


def test_certificates_that_are_not_there(server, root, monkeypatch):
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(root / "none.pem"))
    home = server.bucket().replace("http:", "https:")
    refuses(a_card(home), "none.pem: correct or unset REQUESTS_CA_BUNDLE")
