"""Planes without roles: one unit after the other through prepare, process and assemble; and damaged results."""

import pytest

from vidcloud import job as jobs
from vidcloud import planes, plugins
from vidcloud.errors import ShareError
from vidcloud.job import JobSpec
from vidcloud.media.probe import probe
from vidcloud.media.settings import EncodeSettings
from vidcloud.queue.directory import SystemClock
from vidcloud.queue.ledger import Ledger
from vidcloud.queue.records import Ticket


class Bench:
    """A job on a plane, with both roles' sides of it."""

    def __init__(self, folder, source, plane, filters=("invert",)):
        refs = tuple(plugins.resolve(f).ref.to_json() for f in filters)
        self.spec = JobSpec(
            id="j", created=0.0, input=f"file://{source}", output=f"file://{folder}/out.mkv", filters=refs,
            encode=EncodeSettings("ffv1").to_json(), plane=plane, chunk=8, segment_chunks=1,
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


@pytest.fixture(params=["frames", "segments"])
def bench(request, tmp_path, samples):
    return Bench(tmp_path, samples("no-audio.mp4"), request.param)


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
