"""moto's and rclone's S3 on loopback, with a bucket in each."""

import pytest
from servers import KEYS, signed_s3


@pytest.fixture(scope="module")
def s3():
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(s3, monkeypatch):
    import boto3

    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", s3)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "id")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    client = boto3.client("s3")
    client.create_bucket(Bucket="films")
    return client


@pytest.fixture
def signed(tmp_path, monkeypatch):
    """The folder of the bucket ``films`` on a server that checks signatures; this process has its keys."""
    from vidcloud import storage

    storage._kept_s3.cache_clear()
    with signed_s3(tmp_path / "s3", "films") as url:
        for name, value in {**KEYS, "AWS_ENDPOINT_URL_S3": url, "AWS_DEFAULT_REGION": "us-east-1"}.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("VIDCLOUD_S3_PATH_STYLE", "1")
        yield tmp_path / "s3" / "films"
    storage._kept_s3.cache_clear()
