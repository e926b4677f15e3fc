"""What the queue needs of a shared directory; every kind of share runs this suite."""

import threading

import pytest

from vidcloud.queue.directory import ShareDirectory


@pytest.fixture(params=["local"])
def views(request, tmp_path):
    """Two nodes' views of one directory."""
    return ShareDirectory(tmp_path), ShareDirectory(tmp_path)


def test_a_name_is_linked_once(views):
    one, two = views
    one.replace("one", b"1")
    two.replace("two", b"2")
    assert one.link("one", "name")
    assert not two.link("two", "name")
    assert two.read("name") == b"1"


def test_of_many_links_at_once_one_wins(views, tmp_path):
    nodes = [ShareDirectory(tmp_path) for _ in range(8)]
    for n, node in enumerate(nodes):
        node.replace(f"ticket{n}", str(n).encode())
    barrier = threading.Barrier(len(nodes))
    wins: list[list[int]] = [[] for _ in range(50)]

    def race(n, node):
        for k in range(50):
            barrier.wait()
            if node.link(f"ticket{n}", f"name{k}"):
                wins[k].append(n)

    threads = [threading.Thread(target=race, args=item) for item in enumerate(nodes)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert [len(w) for w in wins] == [1] * 50
    assert all(nodes[0].read(f"name{k}") == str(w[0]).encode() for k, w in enumerate(wins))


def test_one_ticket_makes_many_links(views):
    one, _ = views
    one.replace("ticket", b"me")
    assert all(one.link("ticket", f"name{n}") for n in range(100))
    assert not any(one.link("ticket", f"name{n}") for n in range(100)), "a name of one's own is taken, too"


def test_replace_is_whole(views):
    one, two = views
    one.replace("file", b"a" * 100_000)
    stop = threading.Event()

    def write():
        for n in range(200):
            one.replace("file", bytes([97 + n % 26]) * 100_000)
        stop.set()

    thread = threading.Thread(target=write)
    thread.start()
    while not stop.is_set():
        read = two.read("file")
        assert len(read) == 100_000
        assert len(set(read)) == 1
    thread.join()


def test_missing_names(views):
    one, _ = views
    assert one.names("nowhere") == []
    with pytest.raises(FileNotFoundError):
        one.read("nothing")
    one.remove("nothing")
    with pytest.raises(FileNotFoundError):
        one.link("nothing", "name")


def test_folders_and_listing(views):
    one, two = views
    one.make("a/b")
    two.make("a/b")
    one.overwrite("a/b/file", b"x" * 9)
    two.overwrite("a/b/file", b"y" * 9)
    assert two.names("a/b") == ["file"]
    assert one.read("a/b/file") == b"y" * 9
    two.remove("a/b/file")
    assert one.names("a/b") == []
