"""A processor's three threads: it decodes ahead, shows that it is on its way, and stops when nobody waits any more."""

import threading

import numpy as np
import pytest
from samples import write

from vidcloud import job as jobs
from vidcloud import planes, plugins
from vidcloud.errors import LeaseLostError
from vidcloud.job import JobSpec
from vidcloud.media.encode import Encoder, EncodeSettings, _limit_threads
from vidcloud.media.index import build_index
from vidcloud.media.probe import probe
from vidcloud.planes import segments
from vidcloud.planes.coded import CodedRun, own_threads
from vidcloud.planes.runs import runs

PATIENCE_S = 60


@pytest.fixture
def source(tmp_path):
    """One keyframe, at the start."""
    return write(tmp_path / "in.mp4", frames=120, options={"g": "1000", "sc_threshold": "0"})


@pytest.fixture
def processor(tmp_path, source, request):
    spec = JobSpec(
        id="j", created=0.0, input=f"file://{source}", output=f"file://{tmp_path}/out.mkv",
        filters=(plugins.resolve("invert").ref.to_json(),), encode=EncodeSettings("ffv1").to_json(),
        plane=getattr(request, "param", "segments"), pack="coded", chunk=8, segment_chunks=1,
    )  # fmt: skip
    job = jobs.create(tmp_path / "share", spec)
    (job.root / "chunks").mkdir()
    collector = planes.open_collector(spec, job, source, probe(source))
    job.write_stream(collector.describe())
    made = planes.open_processor(spec, job)
    made.folder = job.root / "chunks"
    yield made
    made.close()


def process(processor, source, start, stop, step):
    run = CodedRun.of(build_index(source, probe(source)), start, stop, (0, 0))
    (processor.folder / "unit").write_bytes(run.to_bytes())
    processor.process(processor.folder / "unit", processor.folder / "made", step, keep=False)


def test_the_next_batch_is_decoded_while_one_is_filtered(processor, source, monkeypatch):
    """Regression: only four frames of it were, and the filter waited for the others."""
    decoded, real = threading.Semaphore(0), segments.runs

    def told(*args, **more):
        for run in real(*args, **more):
            decoded.release()
            yield run

    monkeypatch.setattr(segments, "runs", told)
    apply, seen = processor._chain.run, []

    def run(*args, **more):
        seen.append(args[3])
        # Of five batches, the first two are there when the first one is filtered, and then one more each time.
        for _ in range({1: 2, 5: 0}.get(len(seen), 1)):
            assert decoded.acquire(timeout=PATIENCE_S), "the next batch does not come while this one is filtered"
        apply(*args, **more)

    monkeypatch.setattr(processor._chain, "run", run)
    process(processor, source, 0, 40, lambda _steps: None)
    assert seen == [0, 8, 16, 24, 32]


def test_a_long_way_to_the_first_frame_shows_progress(processor, source, monkeypatch):
    """Promise 4: regression: who decodes for ten minutes before its first frame was taken for stuck."""
    go_on, steps = threading.Event(), []
    real = segments._Way.__call__

    def slow(way):
        real(way)
        if way.frames == 3:
            assert go_on.wait(PATIENCE_S)

    def step(frames):
        steps.append(frames)
        if frames == -3:
            go_on.set()

    monkeypatch.setattr(segments._Way, "__call__", slow)
    monkeypatch.setattr(segments, "_SHOW_S", 0.001)
    process(processor, source, 100, 110, step)
    assert -3 in steps
    assert max(steps) == 10


@pytest.mark.parametrize("processor", ["frames"], indirect=True)
def test_so_does_one_to_a_chunk_that_stayed_coded(processor, source):
    """Who has lost the chunk goes no further."""
    steps = []
    process(processor, source, 104, 112, steps.append)
    assert steps[:104] == [-n for n in range(1, 105)]
    assert steps[-1] == 8

    def lost(frames):
        raise LeaseLostError(f"another has it, {frames}")

    with pytest.raises(LeaseLostError, match=r"-1$"):
        process(processor, source, 40, 48, lost)


def test_nobody_decodes_on_for_a_segment_that_is_lost(processor, source, monkeypatch):
    """Regression: a node that was asked to leave did so only when it had decoded all before its segment."""
    passed = []
    real = segments._Way.__call__

    def slow(way):
        passed.append(way.frames)
        while len(passed) == 3 and not way.given_up:
            threading.Event().wait(0.001)
        real(way)

    def step(frames):
        if frames < 0:
            raise LeaseLostError("another has it")

    monkeypatch.setattr(segments._Way, "__call__", slow)
    monkeypatch.setattr(segments, "_SHOW_S", 0.001)
    with pytest.raises(LeaseLostError):
        process(processor, source, 100, 110, step)
    assert len(passed) <= 3  # the third waits until it is given up
    assert not (processor.folder / "made").exists()
    monkeypatch.undo()
    process(processor, source, 104, 110, lambda _steps: None)
    assert segments._result(processor.folder / "made").frames == 6


@pytest.mark.parametrize("halo", [(0, 0), (2, 1), (9, 9)])
@pytest.mark.parametrize("buffers", [1, 2, 3])
def test_runs_take_turns_in_their_buffers(source, halo, buffers):
    """With several, the run before stays as it was while the next one is made."""
    from vidcloud.media.decode import decode
    from vidcloud.pixels import pixel_format

    info = probe(source)
    fmt = pixel_format(info.storage)
    samples = fmt.samples(info.width, info.height)
    whole = [f.flat.copy() for f in decode(source, info)]
    before = None
    for run in runs(iter(decode(source, info)), 8, halo, fmt, samples, buffers=buffers):
        for one in (run, before) if before and buffers > 1 else (run,):
            for i, flat in enumerate(one.frames):
                assert np.array_equal(flat, whole[one.first + i])
        before = run
    assert before.stop == len(whole)


def test_processors_of_one_machine_share_its_cores(tmp_path, processor, monkeypatch):
    """Regression: twenty machines of eight cores each used one."""
    monkeypatch.setattr("os.sched_getaffinity", lambda _pid: set(range(8)))
    job = processor._job
    for nodes, machines, threads in ((1, 1, 8), (4, 1, 2), (20, 1, 1), (20, 21, 8), (6, 4, 4), (1, 2, 8)):
        job.write_nodes(nodes, machines)
        assert own_threads(job) == threads, (nodes, machines)


@pytest.mark.parametrize("codec", ["libx264", "libx265", "libsvtav1", "libvpx-vp9", "ffv1"])
def test_parts_of_unlike_machines_join(source, codec):
    """Regression: libx265 writes its number of threads into its headers, so that parts seemed not to fit together."""
    info = probe(source)
    assert len({Encoder(EncodeSettings(codec), info, threads=n).parameters for n in (1, 2, 4)}) == 1


def test_an_encoder_with_a_pool_of_its_own_keeps_to_its_threads():
    for codec, name, told in (("libx265", "x265-params", "pools=2"), ("libsvtav1", "svtav1-params", "lp=2")):
        options = {}
        _limit_threads(options, codec, 2)
        assert options == {name: told}
        options = {name: f"{told[:-1]}3:x=1"}
        _limit_threads(options, codec, 2)
        assert options == {name: f"{told[:-1]}3:x=1"}, "the user's word counts"
        options = {name: "x=1"}
        _limit_threads(options, codec, 0)
        assert options == {name: "x=1"}
