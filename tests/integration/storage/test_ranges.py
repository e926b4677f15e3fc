"""Files read by range requests, from a real HTTP server on loopback and from moto's S3."""

import io
from random import Random

import pytest
from samples import write
from servers import KEYS, serving

from vidcloud import job as jobs
from vidcloud import storage
from vidcloud.errors import StorageError
from vidcloud.home import Home, Mirror
from vidcloud.job import JobSpec
from vidcloud.media.index import RunReader, build_index
from vidcloud.media.probe import probe
from vidcloud.planes.coded import open_source, source_version
from vidcloud.ranges import RangeFile, Version, check_ranges

BODY = Random(1).randbytes(5 * (1 << 20) + 12345)


@pytest.fixture
def web():
    with serving() as handler:
        handler.files["/a.bin"] = BODY
        yield handler


def test_any_place_reads_as_a_file_does(web):
    file, true, rng = RangeFile(f"{web.url}/a.bin"), io.BytesIO(BODY), Random(2)
    assert file.version == Version(len(BODY), '"one"')
    for _ in range(200):
        at, size = rng.randrange(len(BODY) + 10), rng.choice([1, 100, 70_000, 3_000_000])
        file.seek(at)
        true.seek(at)
        got = b""
        while len(got) < size and (piece := file.read(size - len(got))):
            got += piece
        assert got == true.read(size)
    assert file.seek(-5, io.SEEK_END) == len(BODY) - 5
    assert file.read() == BODY[-5:]
    assert file.read(1) == b""


def test_who_reads_on_asks_seldom(web):
    file = RangeFile(f"{web.url}/a.bin")
    assert file.readall() == BODY
    assert len(web.asked) == 3  # one block to begin with, then four, then what is left
    assert file.fetched == len(BODY)


def test_a_run_far_inside_reads_a_part_of_the_video(web, tmp_path):
    source = write(tmp_path / "v.mp4", size=(640, 360), frames=600, options={"g": "10", "crf": "1"})
    data = source.read_bytes()
    assert len(data) > 8 << 20
    web.files["/v.mp4"] = data
    info, index = probe(source), build_index(source, probe(source))
    file = RangeFile(f"{web.url}/v.mp4")
    run = (150, index.pts[150:160], index.entries(index.pts[150]))
    far = [f.flat.tobytes() for f in RunReader(file, info).run(*run)]
    assert far == [f.flat.tobytes() for f in RunReader(source, info).run(*run)]
    assert file.fetched < len(data) / 2


def test_a_connection_that_breaks_is_tried_again(web):
    web.breaks = 2
    assert RangeFile(f"{web.url}/a.bin").read(10) == BODY[:10]


def test_a_busy_server_is_asked_again(web):
    web.busy = 2
    assert RangeFile(f"{web.url}/a.bin").read(10) == BODY[:10]


def test_a_connection_that_always_breaks_is_told(web):
    web.breaks = 1000
    with pytest.raises(StorageError, match="the connection broke, again and again"):
        RangeFile(f"{web.url}/a.bin")


def test_a_server_that_gives_less_than_asked_for_is_told(web):
    web.keeps_back = 7
    with pytest.raises(StorageError, match="1048569 bytes are another number than asked for"):
        RangeFile(f"{web.url}/a.bin")


def test_a_server_without_ranges_is_told(web):
    web.ranges = False
    with pytest.raises(StorageError, match=r"gives whole files only: leave --source at share"):
        check_ranges(f"{web.url}/a.bin")


def test_a_file_that_changes_is_told(web):
    file = RangeFile(f"{web.url}/a.bin")
    web.tag = '"two"'
    file.seek(4 << 20)
    with pytest.raises(StorageError, match="has changed since the job began"):
        file.read(10)
    with pytest.raises(StorageError, match="has changed"):
        RangeFile(f"{web.url}/a.bin", Version(len(BODY), '"one"'))


def test_no_such_file_and_no_server(web):
    with pytest.raises(StorageError, match="404"):
        RangeFile(f"{web.url}/nope")
    with pytest.raises(StorageError, match="can't reach"):
        RangeFile("http://127.0.0.1:1/x")


def test_what_pyav_is_told_is_what_the_storage_said(web, tmp_path):
    """An error while FFmpeg reads is the storage's own line, not FFmpeg's."""
    source = write(tmp_path / "v.mp4", size=(640, 360), frames=300, options={"g": "10", "crf": "1"})
    web.files["/v.mp4"] = source.read_bytes()
    info, index = probe(source), build_index(source, probe(source))
    file = RangeFile(f"{web.url}/v.mp4")
    web.tag = '"two"'
    with pytest.raises(StorageError, match="has changed"):
        list(RunReader(file, info).run(150, index.pts[150:160], index.entries(index.pts[150])))


def test_s3(bucket):
    storage._kept_s3.cache_clear()
    bucket.put_object(Bucket="films", Key="a.bin", Body=BODY)
    file = RangeFile("s3://films/a.bin")
    assert file.version.size == len(BODY)
    file.seek(3 << 20)
    assert file.read(9) == BODY[3 << 20 :][:9]
    bucket.put_object(Bucket="films", Key="a.bin", Body=BODY[::-1])
    file.seek(1 << 20)
    with pytest.raises(StorageError, match="has changed"):
        file.read(9)
    with pytest.raises(StorageError, match=r"NoSuchKey|Not Found"):
        RangeFile("s3://films/nope.bin")
    storage._kept_s3.cache_clear()


def test_who_has_no_keys_reads_by_what_a_collector_signs(signed, tmp_path, monkeypatch):
    """Regression: processors on EC2 have no instance profile, and could not read an s3:// input by ranges."""
    (signed / "cat.avi").write_bytes(BODY)
    spec = JobSpec("j", 0.0, "s3://films/cat.avi", "s3://films/o", (), {}, plane="segments", source="ranges")
    job = jobs.create(tmp_path / "share", spec)
    version = source_version(spec, job).to_json()
    mirror = Mirror(job, Home("s3://films/homes/j"))
    mirror.step()
    told = (job.root / "input.signed").read_text()
    mirror.step()
    assert (job.root / "input.signed").read_text() == told, "not signed each second"
    for name in KEYS:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/none")
    storage._kept_s3.cache_clear()
    file = open_source(spec, job, {"source": version})
    assert file.read(1 << 20) == BODY[: 1 << 20]
    (job.root / "input.signed").write_text(told.replace("Signature=", "Signature=0"))
    with pytest.raises(StorageError, match=r"can't fetch s3://films/cat\.avi: the server says 403") as refused:
        file.readall()
    assert "Signature" not in str(refused.value)
    (job.root / "input.signed").write_text(told)
    assert file.readall() == BODY[1 << 20 :], "the newest URL is taken"


def test_an_input_is_signed_anew_in_time(signed, tmp_path, monkeypatch):
    spec = JobSpec("j", 0.0, "s3://films/cat.avi", "s3://films/o", (), {}, plane="segments", source="ranges")
    job = jobs.create(tmp_path / "share", spec)
    mirror, now, made = Mirror(job, Home("s3://films/homes/j")), [1000.0], []
    monkeypatch.setattr("vidcloud.home.time.monotonic", lambda: now[0])
    monkeypatch.setattr(storage, "presign", lambda url, seconds: made.append((now[0], seconds)) or f"{url}?{now[0]}")
    for now[0] in range(1000, 5000, 60):
        mirror.step()
        assert now[0] - made[-1][0] < made[-1][1] / 2
    assert len(made) == 14
