"""The queue under many nodes, by the simulation of the benches, which runs its real code."""

import importlib.util
import sys
from pathlib import Path

import pytest

_PATH = Path(__file__).parents[3] / "bench" / "simulation.py"


@pytest.fixture(scope="module")
def simulation():
    spec = importlib.util.spec_from_file_location("bench_simulation", _PATH)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def test_many_nodes_share_a_job(simulation):
    out = simulation.Simulation(20, 200 * 240, seed=7).run()
    assert set(out.accepted) == set(range(out.units)), "every unit is done"
    assert set(out.accepted.values()) == {1}, "and counts once"
    assert out.takeovers == out.late == 0, "nobody who lives is taken for dead"
    assert out.worker_ops <= 6
    assert out.tenth(9) <= 6, "a claim costs no more at the end"
    assert out.ops["idle"] <= 8 * out.units
