"""What is predicted of jobs from the costs of a frame: what bounds them, and which plane is better."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidcloud.planes.choice import better
from vidcloud.planes.costs import Costs
from vidcloud.planes.cuts import Cutter
from vidcloud.planes.prediction import Machine, Prediction, predict

FULL_HD = 1920 * 1080 * 3 // 2


def costs(decode=0.025, filtering=0.001, encode=0.070, move=0.002):
    return Costs(decode, filtering, encode, move, read=1e5, coded=1e5, pixels=2 * FULL_HD, frames=48, seconds=1.0)


def predicted(plane, nodes, *, frames=90_000, cores=2, shared=False, share=None, cost=None, keys=250):
    cost = cost or costs()
    cutter = Cutter(frames, range(0, frames, keys), chunk=20, chunks=12, preroll=cost.decode / cost.whole)
    return predict(plane, cost, cutter, frames, nodes, Machine(cores, shared, share))


def test_segments_scale_with_machines_until_the_collector_is_full():
    one, sixty_four = predicted("segments", 1), predicted("segments", 64)
    assert 55 < one.seconds / sixty_four.seconds <= 64
    assert sixty_four.bottleneck == "nodes"
    assert predicted("segments", 1000, frames=900_000).bottleneck == "the collector"


def test_on_the_frames_plane_one_collector_decodes_and_encodes_for_all():
    many = predicted("frames", 100)
    assert many.bottleneck == "the collector"
    assert many.seconds == pytest.approx(predicted("frames", 1000).seconds, rel=0.01)


def test_a_heavy_filter_scales_on_the_frames_plane_too():
    heavy = costs(filtering=2.0)
    assert predicted("frames", 1, cost=heavy).seconds / predicted("frames", 20, cost=heavy).seconds > 18


def test_one_machine_does_not_get_faster_with_more_nodes_than_cores():
    assert predicted("segments", 8, shared=True).bottleneck == "this machine's 2 cores"
    two, eight = (predicted("segments", n, shared=True, keys=1).seconds for n in (2, 8))  # no frame is decoded twice
    assert eight >= two


def test_a_slow_share_bounds_pixels_not_segments():
    assert predicted("frames", 5, share=100e6).bottleneck == "the share"
    assert predicted("segments", 5, share=100e6).bottleneck == "nodes"


def test_a_single_keyframe_makes_segments_worse():
    once = predicted("segments", 2, keys=90_000)
    assert once.seconds > 5 * predicted("segments", 2).seconds
    assert better(predicted("frames", 2), once).plane == "frames"


def test_two_passes_do_all_twice():
    one = predict("frames", costs(), None, 9000, 100, Machine(2, shared=False))
    two = predict("frames", costs(), None, 9000, 100, Machine(2, shared=False), passes=2)
    assert two.traffic == 2 * one.traffic
    assert two.seconds == pytest.approx(2 * one.seconds, rel=0.02)
    assert two.fps == pytest.approx(9000 / two.seconds)


def test_a_tie_goes_to_one_encoder():
    def made(plane, seconds):
        return Prediction(plane, 2, seconds, 1.0, "nodes", 0.0)

    assert better(made("frames", 100.0), made("segments", 99.0)).plane == "frames"
    assert better(made("frames", 100.0), made("segments", 80.0)).plane == "segments"


@given(
    nodes=st.integers(1, 40), frames=st.integers(1, 5000), cores=st.integers(1, 16), shared=st.booleans(),
    plane=st.sampled_from(["frames", "segments"]),
)  # fmt: skip
def test_every_prediction_is_a_time_and_no_job_beats_its_cores(nodes, frames, cores, shared, plane):
    made = predicted(plane, nodes, frames=frames, cores=cores, shared=shared)
    cores_in_all = cores if shared else cores * (nodes + 1)
    assert made.seconds > frames * costs().whole / cores_in_all
    assert made.fps == pytest.approx(frames / made.seconds)
