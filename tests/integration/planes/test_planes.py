"""Planes without roles: one unit after the other through prepare, process and assemble; and damaged results."""

from dataclasses import replace

import pytest
from samples import write

from vidcloud import chunkfile, packing, planes, plugins
from vidcloud import job as jobs
from vidcloud.errors import ShareError
from vidcloud.job import JobSpec
from vidcloud.media.index import FrameIndex, tried_index
from vidcloud.media.probe import probe
from vidcloud.media.settings import EncodeSettings
from vidcloud.planes.coded import peek_coded
from vidcloud.queue.directory import SystemClock
from vidcloud.queue.ledger import Ledger
from vidcloud.queue.records import Ticket


class Bench:
    """A job on a plane, with both roles' sides of it."""

    def __init__(self, folder, source, plane, pack="auto", filters=("invert",), settings=None):
        refs = tuple(plugins.resolve(f).ref.to_json() for f in filters)
        self.spec = JobSpec(
            id="j", created=0.0, input=f"file://{source}", output=f"file://{folder}/out.mkv", filters=refs,
            encode=(settings or EncodeSettings("ffv1")).to_json(), plane=plane, pack=pack,
            chunk=8, segment_chunks=1,
        )  # fmt: skip
        self.job = jobs.create(folder / "share", self.spec)
        Ledger(self.job.directory, SystemClock(), Ticket("c"), lease_s=1).open()
        self.collector = planes.open_collector(self.spec, self.job, source, probe(source))
        self.job.write_stream(self.collector.describe())
        self.processor = planes.open_processor(self.spec, self.job)
        self.units = list(self.collector.prepare(lambda _unit: True, lambda _unit: False))
        self.steps = []

    def result(self, unit):
        target = self.job.root / f"chunks/done/{unit:08d}.1"
        self.processor.process(self.job.root / f"chunks/ready/{unit:08d}", target, self.steps.append, keep=False)
        return target


@pytest.fixture(params=[("frames", "auto"), ("frames", "coded"), ("segments", "auto")], ids="-".join)
def bench(request, tmp_path, samples):
    made = Bench(tmp_path, samples("no-audio.mp4"), *request.param)
    yield made
    made.processor.close()


def test_units_cover_the_video_once(bench):
    assert [u.unit for u in bench.units] == [0, 1, 2, 3]
    assert [u.frames for u in bench.units] == [8, 8, 8, 6]


def test_a_job_unit_by_unit(bench, tmp_path):
    bench.collector.begin(tmp_path / "out.mkv")
    for unit in range(4):
        bench.collector.assemble(unit, bench.result(unit))
    made = bench.collector.finish()
    assert made.frames == 30 == len(list(bench.collector.proof_frames()))
    assert bench.steps, "a node that works shows it"
    assert max(bench.steps) == 8


def test_pixels_that_change_on_the_share_are_noticed(bench):
    """Promise 1: nothing is encoded that is not what a processor made."""
    path = bench.result(0)
    bench.collector.digest(path)
    data = bytearray(path.read_bytes())
    data[-100] ^= 1
    path.write_bytes(data)
    with pytest.raises(ShareError, match=r"changed on the share|damaged"):
        bench.collector.digest(path)
    with pytest.raises(ShareError, match=r"changed on the share|damaged"):
        bench.collector.assemble(0, path)


def test_the_result_of_another_unit_is_refused(bench):
    with pytest.raises(ShareError, match="asked for"):
        bench.collector.assemble(0, bench.result(1))


def test_results_of_the_same_unit_are_alike(bench):
    first = bench.collector.digest(bench.result(2))
    assert bench.collector.digest(bench.result(2)) == first != bench.collector.digest(bench.result(1))


def test_a_second_collector_goes_on_after_the_last_whole_part(bench, tmp_path, samples):
    results = [bench.result(unit) for unit in range(4)]
    for unit in range(3):
        bench.collector.assemble(unit, results[unit])
    source = samples("no-audio.mp4")
    second = planes.open_collector(bench.spec, bench.job, source, probe(source))
    assert second.durable_units == (3 if bench.spec.plane == "segments" else 0)
    second.begin(tmp_path / "out.mkv")
    for unit in range(second.durable_units, 4):
        second.assemble(unit, results[unit])
    assert second.finish().frames == 30


@pytest.mark.parametrize("pack", ["auto", "coded"])
def test_a_second_collector_makes_the_pass_that_was_broken_off_and_no_other(tmp_path, samples, pack):
    """Of two passes; with units that nobody had, and each frame once in the output."""
    source = samples("no-audio.mp4")
    bench = Bench(tmp_path, source, "frames", pack, settings=EncodeSettings(options={"b": "80k"}, passes=2))
    assert [(u.unit, u.frames) for u in bench.units] == list(enumerate([8, 8, 8, 6] * 2))
    assert bench.collector.passes == 2
    for unit in range(5):
        bench.collector.assemble(unit, bench.result(unit))
        assert bench.collector.durable_units == unit + 1, "nothing stays on the share"
    assert bench.collector.encoded == 38
    second = planes.open_collector(bench.spec, bench.job, source, probe(source))
    assert (second.passes, second.encoded, second.first_unit(lambda: 100)) == (1, 0, 100)
    units = list(second.prepare(lambda _unit: True, lambda unit: unit < 100))
    assert [u.unit for u in units] == [100, 101, 102, 103]
    second.begin(tmp_path / "out.mkv")
    for unit in range(100, 104):
        second.assemble(unit, bench.result(unit))
    made = second.finish()
    assert (made.frames, made.report) == (30, [])
    assert len(list(second.proof_frames())) == 30
    bench.processor.close()


class SlowShare:
    """Pixels take long on it, whatever a clock says."""

    def __init__(self, monkeypatch, after):
        self.chunks = []
        real = chunkfile.write_chunk

        def write(path, *args):
            self.chunks.append(path)
            cost = real(path, *args)
            return replace(cost, write_s=cost.stored_bytes / 1e6 if len(self.chunks) > after else 0.0)

        monkeypatch.setattr(packing, "write_chunk", write)
        monkeypatch.setattr(packing, "_SMALL", 1)


def coded(bench):
    units = sorted((bench.job.root / "chunks/ready").iterdir())
    return [int(p.name) for p in units if peek_coded(p) is not None]


@pytest.fixture
def long(tmp_path):
    return write(tmp_path / "long.mp4", frames=200, options={"g": "30"})


def test_inputs_stay_coded_from_where_the_share_turns_out_slow(tmp_path, long, monkeypatch):
    """All that lies on the share until then are pixels; what comes out is what one way alone makes."""
    hashes = {}
    for pack in ("auto", "coded", "raw"):
        with monkeypatch.context() as patch:
            share = SlowShare(patch, after=3)
            bench = Bench(tmp_path / pack, long, "frames", pack, filters=("temporal-denoise",))
            inputs = [p for p in share.chunks if p.name.endswith(".input")]
        assert coded(bench) == list(range(len(inputs), 25))
        assert len(inputs) == {"auto": 8, "coded": 0, "raw": 25}[pack], "asked after four, and after four more"
        assert bench.collector.decoded >= bench.collector.estimate == 200
        bench.collector.begin(tmp_path / f"{pack}.mkv")
        for unit in range(25):
            bench.collector.assemble(unit, bench.result(unit))
        assert bench.collector.finish().frames == 200
        hashes[pack] = list(bench.collector.proof_frames())
        bench.processor.close()
    assert hashes["auto"] == hashes["raw"] == hashes["coded"]


def test_a_fast_share_gets_pixels(tmp_path, long, monkeypatch):
    SlowShare(monkeypatch, after=1000)
    assert coded(Bench(tmp_path, long, "frames")) == []


def test_what_packets_tell_of_other_frames_stays_pixels(tmp_path, long, monkeypatch):
    """An index that the decoder does not follow is for nobody."""
    index = tried_index(long, probe(long))
    wrong = FrameIndex(index.pts[1:], index.keys, index.key_frames)
    monkeypatch.setattr("vidcloud.planes.frames.tried_index", lambda *_: wrong)
    SlowShare(monkeypatch, after=0)
    assert coded(Bench(tmp_path, long, "frames")) == []


def test_what_a_first_collector_began_a_second_goes_on_with(tmp_path, long):
    """Also if its own share seems fast."""
    bench = Bench(tmp_path, long, "frames", "coded")
    spec = replace(bench.spec, pack="auto")
    second = planes.open_collector(spec, bench.job, long, probe(long))
    (bench.job.root / "chunks/ready/00000003").unlink()
    list(second.prepare(lambda _unit: True, lambda unit: unit != 3))
    assert coded(bench) == list(range(25))
