"""Records by URL: whole, missing, and from a server that stumbles."""

import pytest

from vidcloud import storage
from vidcloud.errors import StorageError


class Stumbling:
    """S3's client as botocore is when a server answers 500 to a GET, so many times."""

    class exceptions:  # noqa: N801
        ClientError = KeyError

    def __init__(self, times):
        self.times = times

    def get_object(self, **_):
        if self.times:
            self.times -= 1
            raise AttributeError("'StreamingChecksumBody' object has no attribute 'strip'")
        import io

        return {"Body": io.BytesIO(b"whole")}


@pytest.mark.parametrize(("times", "whole"), [(2, True), (1000, False)])
def test_a_server_that_stumbles_is_asked_again(monkeypatch, times, whole):
    """Regression: botocore's AttributeError ended the thread that keeps a job and its home alike."""
    monkeypatch.setattr(storage, "_kept_s3", lambda: Stumbling(times))
    monkeypatch.setattr(storage, "_READ_AGAIN_S", 0)
    if whole:
        assert storage.read("s3://b/x") == b"whole"
    else:
        with pytest.raises(StorageError, match="again and again"):
            storage.read("s3://b/x")


def test_records_in_a_folder(tmp_path):
    url = f"file://{tmp_path}/a/b.json"
    with pytest.raises(FileNotFoundError):
        storage.read(url)
    storage.write(url, b"one")
    storage.write(url, b"two")
    assert storage.read(url) == b"two"
    assert storage.names(f"file://{tmp_path}/a") == ["b.json"]
    storage.remove(url)
    storage.remove(url)
    assert storage.names(f"file://{tmp_path}/a") == []
    assert storage.names(f"file://{tmp_path}/none") == []
