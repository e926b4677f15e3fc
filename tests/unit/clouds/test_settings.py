"""Where a cloud's settings come from."""

import os

import pytest
from botocore.awsrequest import AWSResponse

from vidcloud.clouds.base import _settings, check_options
from vidcloud.clouds.settings import read_eucarc, read_metal, read_settings
from vidcloud.errors import UsageError

EUCARC = """\
EUCA_KEY_DIR=$(cd $(dirname ${BASH_SOURCE:-$0}); pwd -P)
export EC2_URL=http://10.0.0.1:8773/services/compute
export S3_URL='http://10.0.0.1:8773/services/objectstorage'
export EUARE_URL=http://10.0.0.1:8773/services/Euare
export EC2_JVM_ARGS=-Djavax.net.ssl.trustStore=${EUCA_KEY_DIR}/jssecacerts
export EC2_PRIVATE_KEY=${EUCA_KEY_DIR}/euca2-admin-pk.pem
export EC2_ACCESS_KEY='AKIEXAMPLE'
export AWS_ACCESS_KEY=${EC2_ACCESS_KEY}
export EC2_SECRET_KEY="a secret with $ in it"   # not to be shown
touch `echo never`
alias ec2-bundle-image="ec2-bundle-image --cert ${EC2_CERT}"
"""


@pytest.fixture
def eucarc(tmp_path):
    path = tmp_path / "eucarc"
    path.write_text(EUCARC)
    return path


def read(pairs=None, environ=None, files=()):
    return read_settings("ec2", pairs or {}, environ or {}, files)


def test_an_eucarc_is_read_and_not_run(eucarc, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    told = read({"eucarc": str(eucarc)})
    assert told.endpoint_url == "http://10.0.0.1:8773/services/compute"
    assert told.s3_endpoint_url == "http://10.0.0.1:8773/services/objectstorage"
    assert (told.access_key, told.secret_key) == ("AKIEXAMPLE", "a secret with $ in it")
    assert told.path_style, "a bucket is no host's name there"
    assert read_eucarc(eucarc, {})["EC2_PRIVATE_KEY"] == f"{tmp_path}/euca2-admin-pk.pem"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["eucarc"]


def test_secrets_are_shown_nowhere(eucarc):
    told = read({"eucarc": str(eucarc)})
    assert "secret" not in repr(told).replace("secret_key", "")
    assert "AKIEXAMPLE" not in repr(told)
    assert not any("secret" in v or "AKIEXAMPLE" in v for v in [*told.environment().values(), *told.pairs().values()])
    assert told.environment() == {
        "AWS_ENDPOINT_URL_S3": "http://10.0.0.1:8773/services/objectstorage",
        "VIDCLOUD_S3_PATH_STYLE": "1",
    }


def test_the_later_counts(eucarc, tmp_path):
    file = tmp_path / "vidcloud.toml"
    file.write_text(
        '[ec2]\nimage = "ami-1"\nregion = "eu-1"\nspot = true\nendpoint_url = "http://file"\nprocessor_types = ["a", "b"]\n'
    )
    environ = {"EC2_URL": "http://environment", "AWS_REGION": "eu-2"}
    assert read({}, {}, (file,)).endpoint_url == "http://file"
    told = read({"image": "ami-2"}, environ, (tmp_path / "none.toml", file))
    assert (told.image, told.region, told.spot) == ("ami-2", "eu-1", True)
    assert told.endpoint_url == "http://environment"
    assert told.processor_types == ("a", "b")
    assert read({"endpoint_url": "http://pair", "eucarc": str(eucarc)}, environ, (file,)).endpoint_url == "http://pair"
    assert read({}, environ).region == "eu-2"


def test_who_encrypts_between_nodes_encrypts_at_rest_unless_told_otherwise():
    told = read({"encrypt": "true"})
    assert (told.encrypt, told.encrypted) == (True, True)
    assert told.environment()["VIDCLOUD_S3_ENCRYPTION"] == "AES256"
    bare = read({"encrypt": "true", "encrypted": "no"})
    assert (bare.encrypt, bare.encrypted) == (True, False)
    assert read(bare.pairs()) == bare
    assert not read({}).encrypted


def test_what_counts_can_be_written_down_and_read_again(eucarc):
    told = read({"eucarc": str(eucarc), "image": "ami-1", "encrypted": "yes", "subnets": "a, b", "price_cap": "2.5"})
    again = read({**told.pairs(), "eucarc": str(eucarc)})
    assert again == told


@pytest.mark.parametrize(
    ("cloud", "written", "given"),
    [
        ("ec2", "spot = true", "spot=no"),
        ("ec2", "bare = true", "bare=no"),
        ("ec2", 'imdsv2 = "optional"', "imdsv2=required"),
        ("ec2", "price_cap = 3.5", "price_cap=0"),
        ("ec2", "encrypt = true", "encrypt=no"),
        ("ec2", 'collector_type = "m5.large"', "collector_type=c6i.xlarge"),
        ("ec2", 'subnets = ["subnet-1"]', "subnets="),
        ("ec2", 'endpoint_url = "http://elsewhere"', "endpoint_url="),
        ("metal", "wipe = true", "wipe=no"),
        ("metal", 'groups = ["a"]', "groups="),
    ],
)
def test_the_launch_does_what_the_command_said_not_the_file(tmp_path, monkeypatch, cloud, written, given):
    """Regression: an option that was as by default was not written down, and the file, read again, undid it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("os.environ", {"HOME": str(tmp_path)})
    (tmp_path / "vidcloud.toml").write_text(f"[{cloud}]\nbucket = 's3://b/x'\n{written}\n")
    name, _, value = given.partition("=")
    checked = _settings(cloud, {name: value})
    again = _settings(cloud, check_options(cloud, {name: value}))
    assert again == checked
    assert getattr(again, name) != getattr(_settings(cloud, {}), name), "the file tells otherwise"


@pytest.mark.parametrize(
    ("pairs", "told"),
    [
        ({"imgae": "x"}, "did you mean image?"),
        ({"spot": "perhaps"}, "must be yes or no"),
        ({"volume_gb": "much"}, "must be a number"),
        ({"imdsv2": "never"}, "must be one of required, optional"),
        ({"bucket": "/tmp"}, "must be s3://BUCKET"),
        ({"eucarc": "/no/where"}, "can't read the eucarc"),
    ],
)
def test_what_is_refused(pairs, told):
    with pytest.raises(UsageError, match=told):
        read(pairs)


def test_files_that_are_no_toml(tmp_path):
    file = tmp_path / "vidcloud.toml"
    file.write_text("[ec2\n")
    with pytest.raises(UsageError, match="can't read"):
        read({}, {}, (file,))
    file.write_text("ec2 = 3\n")
    with pytest.raises(UsageError, match="must be a table"):
        read({}, {}, (file,))


def test_this_process_reaches_what_nodes_reach(eucarc, monkeypatch):
    for name in ("AWS_ENDPOINT_URL_S3", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "VIDCLOUD_S3_PATH_STYLE"):
        monkeypatch.setenv(name, "before")
    read({"eucarc": str(eucarc)}).adopt()
    assert os.environ["AWS_ACCESS_KEY_ID"] == "AKIEXAMPLE"
    assert os.environ["AWS_ENDPOINT_URL_S3"].startswith("http://10.0.0.1")


@pytest.mark.parametrize(
    ("pairs", "told"),
    [
        ({"file_server": "https://files.lab"}, "go together"),
        ({"file_folder": "/srv/files"}, "go together"),
        ({"file_server": "ftp://files.lab", "file_folder": "/srv/files"}, "must be https://HOST/FOLDER"),
        ({"file_server": "http://files.lab", "file_folder": "/f", "encrypt": "yes"}, "must be https://"),
    ],
)
def test_file_servers_that_are_refused(pairs, told):
    for read in (lambda p: read_settings("ec2", p, files=()), lambda p: read_metal(p, files=())):
        with pytest.raises(UsageError, match=told):
            read(pairs)


def test_an_old_s3_is_spoken_to_as_it_knows(tmp_path, monkeypatch):
    """Regression: uploads carried a trailing CRC32 that old Walrus takes for the object's own bytes."""
    from vidcloud import storage

    sent = []

    def answer(request, **_):
        sent.append((request.method, {k.lower(): v for k, v in request.headers.items()}))
        return AWSResponse(request.url, 200, {"etag": '"0"'}, type("Raw", (), {"stream": lambda *_: iter([b""])})())

    path = tmp_path / "x"
    path.write_bytes(b"x")
    for wanted, signature in (("when_supported", "s3v4"), ("when_required", "s3")):
        monkeypatch.setattr(
            "os.environ", {"HOME": str(tmp_path), "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
        )
        read(
            {"s3_endpoint_url": "http://walrus", "s3_checksums": wanted, "s3_signature": signature, "region": "x"}
        ).adopt()
        client = storage._s3()
        client.meta.events.register("before-send.s3", answer)
        monkeypatch.setattr(storage, "_s3", lambda client=client: client)
        storage.upload(path, "s3://b/x")
        monkeypatch.undo()
    (_, new), (_, old) = sent
    assert any("crc32" in k for k in new)
    assert not any("checksum" in k or "trailer" in k or "crc" in k for k in old)
    assert "AWS4" in str(new["authorization"])
    assert "AWS a:" in str(old["authorization"])
