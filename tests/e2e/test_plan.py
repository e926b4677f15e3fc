"""``vidcloud plan``, and ``--plane auto``, as a user sees them."""

import json

import cv2
import numpy as np
import pytest
from samples import write


@pytest.fixture(scope="module")
def long(tmp_path_factory):
    return write(
        tmp_path_factory.mktemp("long") / "long.mp4",
        size=(64, 48),
        frames=320,
        options={"g": "40", "sc_threshold": "0"},
    )


def test_a_plan_as_text(user, long):
    made = user("plan", long, "--filter", "invert", "--nodes", "1,4", "--cloud", "machines", "--price", "0.1")
    assert made.code == 0, made.err
    head, costs, where, columns, one, four = made.out.splitlines()
    assert head == "64x48 h264, 320 frames, 25 fps, 8 keyframes"
    assert "ms to decode" in costs
    assert where.startswith("nodes of ")
    assert columns.split() == [
        *("nodes", "plane", "fps", "time", "speed-up", "share", "traffic", "bottleneck", "cost")
    ]  # fmt: skip
    assert one.split()[0] == "1"
    assert four.split()[0] == "4"
    assert user.processes() == []
    assert not any(user.share.iterdir())


def test_a_plan_as_json_and_its_limits(user, long):
    made = user("plan", long, "--filter", "invert", "--nodes", "2", "--share-speed", "0.001", "--json")
    assert made.code == 0, made.err
    told = json.loads(made.out)
    assert told["frames"] == 320
    assert [(r["nodes"], r["bottleneck"]) for r in told["rows"]] == [(2, "the share")]
    assert {r["plane"] for r in told["rows"] + told["others"]} == {"frames", "segments"}


def test_a_plan_is_drawn(user, long):
    made = user("plan", long, "--filter", "invert", "--nodes", "1,5,20", "--cloud", "machines", "--plot", "plan.png")
    assert made.code == 0, made.err
    drawn = cv2.imread(str(user.folder / "plan.png"))
    assert drawn.shape[0] > 300
    assert len(np.unique(drawn)) > 20
    assert user("plan", long, "--filter", "invert", "--nodes", "1", "--plot", "no/where.png").code == 2


def test_a_plan_says_what_rules_segments_out(user, long):
    made = user("plan", long, "--filter", "invert", "--nodes", "2", "-e", "b=100k")
    assert "plane frames: -e b=100k spreads bits over the whole video" in made.out


def test_a_plan_counts_both_passes(user, long):
    args = ("plan", long, "--filter", "invert", "--nodes", "2", "-e", "b=100k", "--share-speed", "1", "--json")
    one, two = user(*args).json, user(*args, "--passes", 2).json
    assert two["why"] == "two passes: one encoder must see the whole video twice"
    assert two["rows"][0]["traffic"] == 2 * one["rows"][0]["traffic"]
    assert two["others"] == []


NOBODY = {
    "AWS_ACCESS_KEY_ID": "",
    "AWS_SECRET_ACCESS_KEY": "",
    "AWS_EC2_METADATA_DISABLED": "true",
    "EC2_URL": "http://127.0.0.1:1",
}


def test_a_plan_for_ec2_knows_cores_and_prices_and_asks_nobody(user, long):
    (user.folder / "vidcloud.toml").write_text('[ec2]\nprocessor_types = ["c6i.4xlarge"]\nimage = "ami-1"\n')
    args = ("plan", long, "--filter", "invert", "--nodes", "1,10", "--cloud", "ec2")
    made = user(*args, env=NOBODY)
    assert made.code == 0, made.err
    assert "nodes c6i.4xlarge, 16 cores each, collector c6i.xlarge:" in made.out
    assert made.out.splitlines()[3].split()[-1] == "cost"
    told = user(*args, "-o", "collector_type=c6i.large", "--json", env=NOBODY).json
    assert told["machine"] == {"cores": 16, "shared": False, "share": None}
    for row in told["rows"]:
        hourly = 0.085 + row["nodes"] * 0.68
        assert row["cost"] == pytest.approx(hourly * row["seconds"] / 3600)
    unknown = user(*args, "-o", "processor_types=x9.huge", "--cores", 3, env=NOBODY)
    assert "nodes x9.huge, 3 cores each, collector c6i.xlarge:" in unknown.out
    assert unknown.out.splitlines()[3].split()[-1] == "bottleneck", "nobody knows the price"


def test_a_plan_for_hosts_and_for_bare_metal(user, long):
    args = ("plan", long, "--filter", "invert", "--cores", 8)
    made = user(*args, "--cloud", "ssh", "-o", "hosts=a,b", "-o", "slots=2", "--nodes", "1,4")
    assert made.code == 0, made.err
    assert "nodes 2 hosts, 2 nodes each, 4 cores a node:" in made.out
    metal = user(*args, "--cloud", "metal", "-o", "profile=node", "--nodes", "1,4", "--price", 1)
    assert metal.code == 0, metal.err
    assert "nodes of 8 cores each:" in metal.out


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["nope.mp4", "--filter", "invert"], "no such file"),
        (["LONG", "--filter", "nope"], "no filter"),
        (["LONG", "--filter", "invert", "--nodes", "0"], "--nodes 0: must be numbers from 1 on"),
        (["LONG", "--filter", "invert", "--nodes", "a"], "--nodes a: must be numbers from 1 on"),
        (["LONG", "--filter", "invert", "--cores", "0"], "--cores"),
        (["LONG", "--filter", "invert", "--codec", "nope"], "no encoder is called nope"),
        (["LONG", "--filter", "invert", "-o", "hosts=a"], "-o hosts: --cloud local has no options"),
        (["LONG", "--filter", "invert", "--cloud", "ec2", "-o", "colour=red"], "no setting 'colour'"),
        (["LONG", "--filter", "invert", "--cloud", "ssh"], "needs hosts"),
        (
            ["LONG", "--filter", "invert", "--cloud", "ssh", "-o", "hosts=a,b", "--nodes", "2,3"],
            "--nodes 3: 2 hosts, 1 nodes each",
        ),
        (["LONG", "--filter", "invert", "-e", "flags=+pass1"], "use --passes 2"),
        (["LONG", "--filter", "invert", "--passes", "2"], "--passes 2 needs a rate"),
        (["http://127.0.0.1:1/x.mp4", "--filter", "invert"], "fetch it first"),
    ],
)
def test_bad_plans(user, long, args, told):
    made = user("plan", *[long if a == "LONG" else a for a in args])
    assert made.code == 2
    assert told in made.err
    assert "Traceback" not in made.err
    assert made.out == ""


def test_auto_tells_what_it_chose_and_why(user, long):
    made = user("run", long, "--filter", "invert", "-o", "out.mp4", "--nodes", 2, "--job-id", "j")
    assert made.code == 0, made.err
    lines = [line for line in made.err.splitlines() if line.startswith("j plane ")]
    assert len(lines) == 1
    assert "fps expected against" in lines[0]
    plane = user.status("j")["plane"]
    assert lines[0].startswith(f"j plane {plane}: ")
    assert json.loads((user.folder / "out.mp4.proof.json").read_text())["job"]["plane"] == plane
    assert user("verify", "out.mp4").code == 0
