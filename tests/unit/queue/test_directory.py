"""The share as the queue uses it, and its errors."""

import os

import pytest

from vidcloud.errors import ShareError
from vidcloud.queue.directory import ShareDirectory
from vidcloud.queue.worker import check_share


def test_link_knows_its_own_link_after_a_lost_reply(share):
    """NFS retransmits a request whose reply was lost, and then says that the name exists."""
    share.replace("ticket", b"me")
    os.link(share.path("ticket"), share.path("name"))  # the server did it; the reply was lost
    assert share.link("ticket", "name")
    share.replace("other", b"you")
    assert not share.link("other", "name")


def test_a_share_that_is_not_writable_is_told(tmp_path, clock):
    class ReadOnly(ShareDirectory):
        def make(self, folder):
            raise PermissionError(13, "Permission denied")

    with pytest.raises(ShareError, match="can't write"):
        check_share(ReadOnly(tmp_path, clock))


def test_a_share_without_hard_links_is_told(tmp_path, clock, monkeypatch):
    def no_links(*_args):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    with pytest.raises(ShareError, match="hard links"):
        check_share(ShareDirectory(tmp_path, clock))


def test_passing_errors_of_a_network_share_are_retried(tmp_path, clock):
    share, answers = ShareDirectory(tmp_path, clock), iter([OSError(116, "Stale file handle"), OSError(5, "EIO"), b"x"])

    def call():
        answer = next(answers)
        if isinstance(answer, OSError):
            raise answer
        return answer

    assert share._retry(call, "name") == b"x"


def test_a_full_share_is_told(tmp_path, clock):
    def call():
        raise OSError(28, "No space left on device")

    with pytest.raises(ShareError, match="is full"):
        ShareDirectory(tmp_path, clock)._retry(call, "name")


def test_a_file_that_is_replaced_all_the_time_is_read_in_the_end(tmp_path, clock):
    """Regression: waits grew to 2 s, and 18 tries all lost to a collector that replaced the frontier 50 times a second."""
    share, left = ShareDirectory(tmp_path, clock), 100

    def call():
        nonlocal left
        left -= 1
        if left:
            raise OSError(116, "Stale file handle")
        return b"x"

    assert share._retry(call, "name") == b"x"
