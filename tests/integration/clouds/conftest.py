"""An EC2 to talk to: moto's server on loopback."""

import pytest
from moto.server import ThreadedMotoServer

from vidcloud.clouds.settings import read_settings


@pytest.fixture(scope="session")
def ec2_server():
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def endpoint(ec2_server, monkeypatch):
    """The server's URL, with nothing in it yet; credentials that it takes."""
    import urllib3

    urllib3.request("POST", f"{ec2_server}/moto-api/reset")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    return ec2_server


@pytest.fixture
def image(endpoint):
    from vidcloud.clouds.ec2 import connect

    return connect(read_settings("ec2", {"endpoint_url": endpoint}, files=())).describe_images()["Images"][0]["ImageId"]


@pytest.fixture
def settings(endpoint, image, tmp_path):
    def make(**pairs):
        told = {"endpoint_url": endpoint, "image": image, "bucket": f"file://{tmp_path}/homes", **pairs}
        bucket = told.pop("bucket")
        made = read_settings("ec2", told, files=())
        object.__setattr__(made, "bucket", bucket)  # a folder stands for S3 here
        return made

    return make
