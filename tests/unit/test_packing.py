"""Which way a writer stores its chunks, on a share of a bandwidth that the test makes up."""

import numpy as np
import pytest

from vidcloud.chunkfile import ChunkHeader, Written, read_chunk, read_header
from vidcloud.packing import Packing

MB = 10**6
CHUNK = 60 * MB


class Share:
    """Takes chunks at a bandwidth; packing takes 1.2 s a GB and leaves 0.75 of it."""

    def __init__(self, mb_s, ratio=0.75, pack_s_gb=1.2):
        self.mb_s, self.ratio, self.pack_s_gb = mb_s, ratio, pack_s_gb

    def take(self, packing, chunks, size=CHUNK):
        ways = []
        for _ in range(chunks):
            way = packing.choose(size)
            stored = int(size * self.ratio) if way == "blosc2" else size
            pack_s = size / 1e9 * self.pack_s_gb if way == "blosc2" else 0.0
            packing.learn(Written(size, stored, pack_s, stored / (self.mb_s * MB)))
            ways.append(way)
        return ways


@pytest.mark.parametrize("mb_s", [12, 50, 100])
def test_a_slow_share_gets_packed_chunks(mb_s):
    assert Share(mb_s).take(Packing(), 100) == ["raw"] + ["blosc2"] * 99


@pytest.mark.parametrize("mb_s", [501, 1000, 5000])
def test_packing_is_not_even_tried_on_a_local_disk(mb_s):
    assert set(Share(mb_s).take(Packing(), 100)) == {"raw"}


def test_what_does_not_pay_is_tried_now_and_then():
    ways = Share(300).take(Packing(), 100)
    assert [n for n, way in enumerate(ways) if way == "blosc2"] == [1, 32, 64, 96]


def test_noise_is_not_packed_however_slow_the_share():
    assert Share(12, ratio=1.0).take(Packing(), 100).count("blosc2") == 4


def test_pictures_that_pack_well_are_packed_on_a_faster_share():
    assert Share(300, ratio=0.3).take(Packing(), 100).count("blosc2") == 99


def test_it_changes_over_when_the_bandwidth_does():
    packing = Packing()
    assert Share(2000).take(packing, 20)[-1] == "raw"
    assert Share(50).take(packing, 6)[-2:] == ["blosc2", "blosc2"]
    assert Share(400).take(packing, 6)[-1] == "raw"
    assert Share(50).take(packing, 6)[-1] == "blosc2"
    assert Share(2000).take(packing, 6)[-1] == "raw"


def test_one_slow_write_decides_nothing():
    packing = Packing()
    Share(1000).take(packing, 10)
    Share(5).take(packing, 1)
    assert set(Share(1000).take(packing, 10)) == {"raw"}


def test_near_the_break_even_point_it_stays():
    """2 x 0.25 a byte saved against 2.7 x 1.2: even at 154 MB/s."""
    packing = Packing()
    Share(50).take(packing, 10)
    assert set(Share(151).take(packing, 20) + Share(157).take(packing, 10)) == {"blosc2"}


@pytest.mark.parametrize("way", ["raw", "blosc2"])
def test_what_is_asked_for_is_done(way):
    for mb_s in (12, 5000):
        assert set(Share(mb_s).take(Packing(way), 40)) == {way}


def test_small_chunks_tell_of_latency_and_stay_raw():
    packing = Packing()
    assert set(Share(1).take(packing, 40, size=100_000)) == {"raw"}
    assert set(Share(1000).take(packing, 40)) == {"raw"}


@pytest.mark.parametrize(("own", "there"), [(3000, 40), (40, 3000)])
def test_a_slow_share_on_the_other_side_counts_too(own, there):
    """Regression: a collector that has the share in its own machine sent raw pixels to nodes behind a slow network."""
    packing = Packing()
    packing.hear(1 / (there * MB))
    assert Share(own).take(packing, 50)[-1] == "blosc2"
    packing.hear(1 / (3000 * MB))
    assert Share(3000).take(packing, 50)[-1] == "raw"


def test_what_pixels_cost_is_known_once_both_ways_were_tried():
    packing = Packing()
    assert packing.cost(CHUNK) == 0
    Share(50).take(packing, 1)
    assert packing.cost(CHUNK) == 0, "nobody knows what packing would save"
    Share(50).take(packing, 5)
    assert packing.cost(CHUNK) == pytest.approx(2 * 0.75 * 60 / 50 + 1.9 * 1.2 * 0.06)
    packing.hear(1 / (12 * MB))
    assert packing.cost(CHUNK) == pytest.approx(0.75 * (60 / 50 + 60 / 12) + 1.9 * 1.2 * 0.06)
    assert packing.cost(100_000) == 0
    assert packing.read_s(6 * MB) == pytest.approx(0.5), "there, not here"
    Share(2000).take(packing, 5)
    packing.hear(1 / (2000 * MB))
    assert packing.cost(CHUNK) == 0, "memory or a local disk"


def test_what_a_writer_knows_of_its_share_is_in_the_header(tmp_path):
    frames = np.zeros((5, 1280 * 720), np.uint8)
    header = ChunkHeader("gray", 1280, 720, 0, 0, 5, tuple(range(5)), (1,) * 5)
    packing = Packing()
    for n in range(2):
        packing.write(tmp_path / str(n), header, frames)
    assert read_header(tmp_path / "0").pace == 0
    assert 0 < read_header(tmp_path / "1").pace < 1e-6


@pytest.mark.parametrize("way", ["raw", "blosc2", "auto"])
def test_what_it_writes_is_read(tmp_path, way):
    frames = np.zeros((5, 640 * 480), np.uint8)
    frames[:, ::7] = 9
    header = ChunkHeader("gray", 640, 480, 0, 0, 5, tuple(range(5)), (1,) * 5)
    packing = Packing(way)
    for n in range(3):
        packing.write(tmp_path / str(n), header, frames)
        assert np.array_equal(read_chunk(tmp_path / str(n))[1], frames)
        assert way in ("auto", read_header(tmp_path / str(n)).stored)
