"""The plane is chosen on a real video: measured, told, and kept by a collector that follows."""

from array import array

import pytest
from samples import write

from vidcloud import job as jobs
from vidcloud import plugins
from vidcloud.job import JobSpec
from vidcloud.media.index import FrameIndex, build_index
from vidcloud.media.probe import probe
from vidcloud.media.settings import EncodeSettings
from vidcloud.planes.choice import choose
from vidcloud.planes.costs import Costs, measure


@pytest.fixture(scope="module")
def long(tmp_path_factory):
    return write(tmp_path_factory.mktemp("long") / "long.mp4", size=(64, 48), frames=320, options={"g": "40"})


def make_job(folder, source, *, plane="auto", codec="ffv1", **more):
    spec = JobSpec(
        id="j", created=0.0, input=f"file://{source}", output=f"file://{folder}/out.mkv",
        filters=(plugins.resolve("invert").ref.to_json(),), encode=EncodeSettings(codec).to_json(), plane=plane, **more,
    )  # fmt: skip
    job = jobs.create(folder / "share", spec)
    job.write_nodes(2)
    return spec, job


def chosen(folder, source, **more):
    spec, job = make_job(folder, source, **more)
    return choose(spec, job, source, probe(source)), spec, job


def test_a_long_video_is_measured_and_the_line_tells_what_was_seen(tmp_path, long):
    choice, _, job = chosen(tmp_path, long)
    assert choice.plane in ("frames", "segments")
    for part in ("fps expected against", "ms to decode", "to filter", "to encode", "2 nodes on"):
        assert part in choice.why
    assert 0 < choice.preroll < 1
    assert len(choice.index.pts) == 320
    assert list(job.scratch.iterdir()) == []


def test_a_later_collector_keeps_the_choice(tmp_path, long):
    _, spec, job = chosen(tmp_path, long)
    job.write_stream({"plane": "segments", "why": "as before", "preroll": 0.125})
    again = choose(spec, job, long, probe(long))
    assert (again.plane, again.why, again.preroll) == ("segments", "as before", 0.125)


def test_a_short_video_is_not_measured(tmp_path, samples):
    choice, *_ = chosen(tmp_path, samples("no-audio.mp4"))
    assert choice.plane == "frames"
    assert "short" in choice.why


def test_what_was_asked_for_is_taken(tmp_path, long):
    choice, *_ = chosen(tmp_path, long, plane="segments")
    assert (choice.plane, choice.why) == ("segments", "asked for")


def test_packets_that_lie_stay_on_the_frames_plane(tmp_path, long, monkeypatch):
    true = build_index(long, probe(long))
    late = array("q", (p + 1 for p in true.pts))
    monkeypatch.setattr(
        "vidcloud.media.index.build_index", lambda *_: FrameIndex(late, array("q", [late[0]]), array("q", [0]))
    )
    choice, *_ = chosen(tmp_path, long)
    assert (choice.plane, choice.why) == ("frames", "the input's packets don't tell when each frame is shown")


def test_nodes_with_machines_of_their_own_encode_themselves(tmp_path, long, monkeypatch):
    """Regression: far nodes were taken to share the collector's cores, so that segments seemed to gain nothing."""
    monkeypatch.setattr("os.sched_getaffinity", lambda _pid: {0, 1})
    costs = Costs(0.025, 0.001, 0.070, 0.002, read=1e5, coded=1e5, pixels=6_220_800, frames=48, seconds=1.0)
    monkeypatch.setattr("vidcloud.planes.choice.measure", lambda *_: costs)
    hours = array("q", range(90_000))
    index = FrameIndex(hours, hours[::250], hours[::250])
    monkeypatch.setattr("vidcloud.planes.choice.tried_index", lambda *_: index)
    spec, job = make_job(tmp_path, long)
    for nodes, machines, plane, where in ((20, 1, "frames", "2 cores"), (20, 21, "segments", "2 cores each")):
        job.write_nodes(nodes, machines)
        choice = choose(spec, job, long, probe(long))
        assert choice.plane == plane, choice.why
        assert choice.why.endswith(f"20 nodes on {where}")


def test_a_filter_that_raises_does_not_stop_the_measurement(tmp_path, long, monkeypatch):
    stage = plugins.resolve("invert").stage
    monkeypatch.setattr(stage.filter, "apply", lambda *_: 1 / 0)
    costs = measure(long, probe(long), EncodeSettings("ffv1"), [stage], tmp_path)
    assert costs.frames == 48
    assert costs.encode > 0


def test_of_large_pictures_fewer_are_held(tmp_path, long, monkeypatch):
    monkeypatch.setattr("vidcloud.planes.costs._BYTES", 5.5 * 64 * 48 * 3 // 2)
    assert measure(long, probe(long), EncodeSettings("ffv1"), [], tmp_path).frames == 5


def test_every_stage_costs_something_and_nothing_is_left(tmp_path, long):
    costs = measure(long, probe(long), EncodeSettings("libx264", 20.0, "veryfast"), [], tmp_path)
    assert min(costs.decode, costs.filter, costs.encode, costs.move, costs.read, costs.coded) > 0
    assert costs.pixels == 2 * 64 * 48 * 3 // 2
    assert list(tmp_path.iterdir()) == []
