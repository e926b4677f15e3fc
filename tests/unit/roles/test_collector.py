"""What the collector makes of results, without a video: a plane of the test's own."""

import pytest

from vidcloud import job as jobs
from vidcloud.collector import Collector
from vidcloud.job import JobSpec
from vidcloud.queue.ledger import Result


class Plane:
    """Results are text files; their digest is the text."""

    durable_units = encoded = decoded = estimate = 0
    unit_frames = 20

    def digest(self, path):
        return path.read_text()


@pytest.fixture
def collector(tmp_path):
    spec = JobSpec(id="j", created=0.0, input="file:///in", output=f"file://{tmp_path}/out.mp4", filters=(), encode={})
    return Collector(jobs.create(tmp_path / "share", spec), "collector-1")


def result(tmp_path, unit, epoch, text, accepted):
    path = tmp_path / f"{unit}.{epoch}"
    path.write_text(text)
    return Result(unit, epoch, path, accepted)


@pytest.mark.parametrize("late_first", [True, False])
@pytest.mark.parametrize(("late", "told"), [("same", 0), ("other", 1)])
def test_two_results_of_a_unit_must_be_alike(tmp_path, collector, late_first, late, told):
    """A difference is a report: the filter is not deterministic, or a node is bad."""
    old = result(tmp_path, 0, 1, late, accepted=False)
    new = result(tmp_path, 0, 2, "same", accepted=True)
    for r in [old, new] if late_first else [new, old]:
        collector._take_result(Plane(), r)
    assert len(collector._differ) == told
    assert all("two nodes made different pixels" in line for line in collector._differ)
    assert new.path.exists()
    assert not old.path.exists(), "what does not count is removed"


def test_a_late_result_is_compared_after_the_one_that_counts_was_retired(tmp_path, collector):
    """A second run may end when the first one's result has long been in a part."""
    plane, ledger = Plane(), collector._ledger
    collector._doubled.add(0)
    collector._take_result(plane, result(tmp_path, 0, 2, "same", accepted=True))
    ledger._offered, ledger._accepted, collector._assembled, plane.durable_units = 2, {0: 2}, 1, 1
    collector._retire(plane)
    collector._take_result(plane, result(tmp_path, 0, 1, "other", accepted=False))
    assert len(collector._differ) == 1


def test_results_go_to_the_encoder_in_order(tmp_path, collector):
    for unit in (2, 0, 3, 1):
        collector._take_result(Plane(), result(tmp_path, unit, 1, "x", accepted=True))
    assert [collector._results.get_nowait()[0] for _ in range(4)] == [0, 1, 2, 3]


def test_a_window_grows_with_the_nodes(collector):
    assert collector._window() == 8
    collector._ledger.nodes = {str(n): type("N", (), {"alive": True})() for n in range(5)}
    assert collector._window() == 20


def test_a_window_is_wide_enough_for_nodes_that_are_still_to_come(collector):
    """Regression: a thousand nodes that joined at once found eight units."""
    collector._job.write_nodes(1000)
    assert collector._window() == 4000


def test_what_its_threads_make_wakes_the_collector(tmp_path, collector):
    """However long its pause is: each unit prepared, the end of them, each result assembled, a failure."""
    woken = []

    def heard():
        woken.append(collector._news.is_set())
        collector._news.clear()

    class Busy(Plane):
        def prepare(self, gate, have):
            yield "one"
            heard()

        def assemble(self, unit, path):
            if unit:
                heard()

    def fails(plane):
        raise OSError("no space")

    collector._prepare(Busy())
    heard()
    for item in [(0, tmp_path), (1, tmp_path), None]:
        collector._results.put(item)
    collector._assemble(Busy())
    heard()
    collector._guard(fails, Busy())
    heard()
    assert woken == [True] * 5
    with pytest.raises(OSError, match="no space"):
        collector._raise_failure()
