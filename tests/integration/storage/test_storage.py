"""Get and put by URL, with real servers on loopback: an HTTP server of ours, and moto's S3."""

import http.server
import subprocess
import sys
import threading

import pytest

from vidcloud import storage
from vidcloud.errors import StorageError, UsageError


@pytest.fixture
def staged(tmp_path):
    path = tmp_path / "staged.mp4"
    path.write_bytes(b"picture" * 1000)
    return path


def test_paths_and_urls():
    assert storage.normalise("/a/b c.mp4") == "file:///a/b c.mp4"
    assert storage.name_of("s3://bucket/a/cat%20one.avi?x=1") == "cat one.avi"
    assert storage.local_path("http://x/y") is None
    for bad in ("ftp://x/y", "s3://bucket", "s3:///key"):
        with pytest.raises(UsageError):
            storage.normalise(bad)


def test_a_local_output_is_whole_or_absent_and_replaces_nothing(tmp_path, staged):
    url = storage.normalise(str(tmp_path / "out.mp4"))
    assert storage.staging(url, tmp_path, "j").parent == tmp_path
    storage.put(staged, url, force=False)
    assert (tmp_path / "out.mp4").read_bytes() == b"picture" * 1000
    assert not staged.exists()
    staged.write_bytes(b"other")
    with pytest.raises(StorageError, match="appeared meanwhile"):
        storage.put(staged, url, force=False)
    assert (tmp_path / "out.mp4").read_bytes() == b"picture" * 1000
    storage.put(staged, url, force=True)
    assert (tmp_path / "out.mp4").read_bytes() == b"other"


def test_a_disk_without_hard_links(tmp_path, staged, monkeypatch):
    def no_links(*_args):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("os.link", no_links)
    url = storage.normalise(str(tmp_path / "out.mp4"))
    storage.put(staged, url, force=False)
    staged.write_bytes(b"other")
    with pytest.raises(StorageError, match="appeared meanwhile"):
        storage.put(staged, url, force=False)
    assert (tmp_path / "out.mp4").read_bytes() == b"picture" * 1000


class _Files(http.server.BaseHTTPRequestHandler):
    files: dict[str, bytes] = {}
    short = False

    def do_HEAD(self):
        self.send_response(200 if self.path in self.files else 404)
        self.end_headers()

    def do_GET(self):
        body = self.files.get(self.path)
        self.send_response(200 if body is not None else 404)
        self.send_header("content-length", str(len(body or b"")))
        self.end_headers()
        self.wfile.write((body or b"")[: 10 if self.short else None])

    def do_PUT(self):
        self.files[self.path] = self.rfile.read(int(self.headers["content-length"]))
        self.send_response(201)
        self.end_headers()

    def log_message(self, *args):
        pass


@pytest.fixture
def web():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Files)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    _Files.files, _Files.short = {"/cat.avi": b"cat" * 99}, False
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_http(tmp_path, web, staged):
    assert storage.exists(f"{web}/cat.avi")
    assert not storage.exists(f"{web}/dog.avi")
    assert storage.get(f"{web}/cat.avi", tmp_path / "cat.avi").read_bytes() == b"cat" * 99
    with pytest.raises(StorageError, match="404"):
        storage.get(f"{web}/dog.avi", tmp_path / "dog.avi")
    storage.put(staged, f"{web}/out.mp4", force=False)
    assert _Files.files["/out.mp4"] == b"picture" * 1000


def test_an_http_answer_that_breaks_off_is_not_taken_for_the_file(tmp_path, web):
    _Files.short = True
    with pytest.raises(StorageError):
        storage.get(f"{web}/cat.avi", tmp_path / "cat.avi")
    assert not (tmp_path / "cat.avi").exists()


def test_no_server(tmp_path):
    with pytest.raises(StorageError, match="can't reach"):
        storage.exists("http://127.0.0.1:9/x")


def test_s3(tmp_path, bucket, staged):
    bucket.put_object(Bucket="films", Key="in/cat.avi", Body=b"cat")
    assert storage.exists("s3://films/in/cat.avi")
    assert not storage.exists("s3://films/in/dog.avi")
    assert storage.get("s3://films/in/cat.avi", tmp_path / "cat.avi").read_bytes() == b"cat"
    with pytest.raises(StorageError, match="Not Found"):
        storage.get("s3://films/in/dog.avi", tmp_path / "dog.avi")
    storage.put(staged, "s3://films/out.mp4", force=False)
    assert bucket.get_object(Bucket="films", Key="out.mp4")["Body"].read() == b"picture" * 1000
    staged.write_bytes(b"other")
    with pytest.raises(StorageError, match="appeared meanwhile"):
        storage.put(staged, "s3://films/out.mp4", force=False)


def test_a_large_object_goes_up_in_parts(bucket, staged):
    staged.write_bytes(bytes(range(256)) * 4 * 10240)  # 10 MiB: more than one part
    storage.put(staged, "s3://films/large.mp4", force=True)
    head = bucket.head_object(Bucket="films", Key="large.mp4")
    assert head["ContentLength"] == 10 * 1024 * 1024
    assert "-" in head["ETag"], "multipart"


@pytest.mark.parametrize("size", [7, 10 << 20])
def test_objects_are_encrypted_at_rest_and_checked_on_the_way(bucket, staged, monkeypatch, size):
    """An output, in one piece and in parts, and a record: each asks for both."""
    sent, make = [], storage._s3

    def recording():
        client = make()
        client.meta.events.register("before-send.s3", lambda request, **_: sent.append(request))
        return client

    monkeypatch.setattr(storage, "_s3", recording)
    storage._kept_s3.cache_clear()
    monkeypatch.setenv("VIDCLOUD_S3_ENCRYPTION", "AES256")
    staged.write_bytes(bytes(size))
    storage.put(staged, "s3://films/safe.mp4", force=True)
    storage.write("s3://films/safe.json", b"{}")
    storage.create(f"s3://films/new{size}.json", b"{}")
    storage._kept_s3.cache_clear()
    for key in ("safe.mp4", "safe.json", f"new{size}.json"):
        assert bucket.head_object(Bucket="films", Key=key)["ServerSideEncryption"] == "AES256"
    bodies = [{k.lower(): v for k, v in r.headers.items()} for r in sent if r.method == "PUT"]
    assert len(bodies) == (3 if size == 7 else 4)
    assert all("x-amz-checksum-crc32" in h or h.get("x-amz-trailer") == b"x-amz-checksum-crc32" for h in bodies), bodies


KILLED = """
import os, sys
from pathlib import Path
from vidcloud import storage

gone = 0
def tell(more):
    global gone
    gone += more
    if gone > 16 << 20:  # of 24: some parts are whole on the server
        os._exit(9)

path, url = sys.argv[1:]
storage.upload(Path(path), url, tell)
"""


def test_who_is_killed_while_an_object_goes_up_leaves_none_of_it_to_be_seen(bucket, staged):
    """And what is paid for but not to be seen is taken away, and only that."""
    with staged.open("wb") as f:
        f.truncate(24 << 20)
    other = bucket.create_multipart_upload(Bucket="films", Key="out/cat.mp4.other")["UploadId"]
    code = subprocess.run([sys.executable, "-c", KILLED, staged, "s3://films/out/cat.mp4"], check=False).returncode
    assert code == 9
    assert not storage.exists("s3://films/out/cat.mp4")
    assert storage.names("s3://films/out") == []
    begun = bucket.list_multipart_uploads(Bucket="films")["Uploads"]
    assert sorted(u["Key"] for u in begun) == ["out/cat.mp4", "out/cat.mp4.other"]
    storage.abort_uploads("s3://films/out/cat.mp4")
    assert [u["UploadId"] for u in bucket.list_multipart_uploads(Bucket="films")["Uploads"]] == [other]
    bucket.abort_multipart_upload(Bucket="films", Key="out/cat.mp4.other", UploadId=other)


def test_no_credentials(monkeypatch, tmp_path):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(StorageError, match="no credentials"):
        storage.exists("s3://films/x")


def test_of_two_who_create_a_name_one_does(bucket, tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "exists", lambda _url: False)  # both saw it free
    storage._kept_s3.cache_clear()
    for url in ("s3://films/two/homes/j/spec.json", f"file://{tmp_path}/two/homes/j/spec.json"):
        storage.create(url, b"one")
        with pytest.raises(FileExistsError):
            storage.create(url, b"two")
        assert storage.read(url) == b"one"
        assert storage.tree(url.rpartition("/homes")[0]) == ["homes/j/spec.json"]
        assert storage.folders(url.rpartition("/j/")[0]) == ["j"]
        assert storage.folders(url.rpartition("/homes")[0] + "/none") == storage.tree(f"{url}/none") == []
    assert "two" in storage.folders("s3://films")
    assert "two/homes/j/spec.json" in storage.tree("s3://films")
    storage._kept_s3.cache_clear()
