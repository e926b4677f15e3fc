"""The EC2 cloud against moto's server: the shape of calls, the tags, what is refused, and that nothing is orphaned."""

import base64
import fnmatch
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vidcloud.cli.main import main
from vidcloud.clouds.base import orphans
from vidcloud.clouds.ec2 import EC2Cloud, all_machines, connect
from vidcloud.errors import CloudError, UsageError

LINE = "processor https://b/x.tar#sha256=00 [ --job j ]"
POLICY = Path(__file__).parents[3] / "docs/iam-policy.json"


def recorded(client):
    """What is asked of the API from now on: operation and parameters."""
    calls = []
    client.meta.events.register(
        "provide-client-params.ec2", lambda params, model, **_: calls.append((model.name, params))
    )
    return calls


@pytest.fixture
def cloud(settings):
    made = settings(owner="me@here")
    return EC2Cloud("j", made, "s3://b/homes/j", connect(made))


def test_instances_are_made_tagged_and_found_again(cloud, settings):
    calls = recorded(cloud._client)
    [collector] = cloud.run_instances("collector", LINE, 1)
    two = cloud.run_instances("processor", LINE, 2)
    assert [c[0] for c in calls].count("CreateTags") == 0, "tags come with the call that makes an instance"
    elsewhere = EC2Cloud("j", settings())
    seen = elsewhere.describe_instances()
    assert [i.id for i in seen] == [collector.id, *sorted(i.id for i in two)]
    assert [i.role for i in seen] == ["collector", "processor", "processor"]
    assert all(i.address for i in seen)
    assert len({i.address for i in seen}) == 3
    assert elsewhere.home == "s3://b/homes/j"
    params = next(p for name, p in calls if name == "RunInstances")
    assert params["InstanceInitiatedShutdownBehavior"] == "terminate"
    assert params["MetadataOptions"]["HttpTokens"] == "required"
    assert params["MinCount"] == params["MaxCount"] == 1
    assert {s["ResourceType"] for s in params["TagSpecifications"]} == {"instance", "volume"}
    tokens = [p["ClientToken"] for name, p in calls if name == "RunInstances"]
    assert tokens == ["j-collector-1-0", "j-processor-1-0"]
    cloud.run_instances("processor", LINE, 1)
    assert calls[-1][1]["ClientToken"] == "j-processor-3-0" or any(
        p.get("ClientToken") == "j-processor-3-0" for _, p in calls
    )


def test_another_jobs_machines_are_not_seen(cloud, settings):
    EC2Cloud("other", settings(), "s3://b/homes/other").run_instances("collector", LINE, 1)
    assert cloud.describe_instances() == []


def test_ends(cloud):
    made = cloud.run_instances("processor", LINE, 3)
    cloud.terminate_instances([made[2].id], drain=True)
    assert [i.state for i in cloud.describe_instances()].count("shutting-down") == 1
    cloud.terminate_instances([i.id for i in made])
    cloud.terminate_instances([i.id for i in made])
    assert {i.state for i in cloud.describe_instances()} == {"terminated"}
    cloud.terminate_instances([])


@pytest.mark.parametrize(
    ("pairs", "told"),
    [
        ({"image": "ami-00000000000000000"}, "ami-00000000000000000"),
        ({"image": ""}, "needs -o image="),
        ({"price_cap": "0.01"}, "more than price_cap=0.01"),
        ({"price_cap": "5", "processor_types": "x99.large"}, "price of x99.large is not known"),
        ({"security_group": "nobody"}, "no security group nobody"),
    ],
)
def test_what_is_refused_before_anything_is_made(settings, pairs, told):
    made = settings(**pairs)
    cloud = EC2Cloud("j", made, "s3://b/homes/j")
    with pytest.raises((UsageError, CloudError), match=told):
        cloud.run_instances("processor", LINE, 2)
    assert all_machines(settings()) == []


def test_user_data_that_is_too_long(cloud):
    with pytest.raises(UsageError, match="EC2 takes 16384"):
        cloud.run_instances("processor", LINE + "x" * 17_000, 1)
    assert cloud.describe_instances() == []


@pytest.mark.parametrize(("imdsv2", "told"), [("required", "0"), ("optional", "1")])
def test_a_bare_image_gets_a_script(settings, imdsv2, told):
    """It is told whether its metadata service may have but version 1; regression: there it could read nothing, and idled."""
    made = settings(bare="yes", imdsv2=imdsv2)
    cloud = EC2Cloud("j", made, "s3://b/homes/j", connect(made))
    calls = recorded(cloud._client)
    cloud.run_instances("collector", LINE, 1)
    sent = base64.b64decode(next(p["UserData"] for name, p in calls if name == "RunInstances")).decode()
    assert sent.startswith("#!/bin/sh\n")
    assert LINE in sent
    assert f" VIDCLOUD_IMDSV1={told}\n" in sent


def test_no_credentials_and_no_server(settings, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/none")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/none")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(CloudError, match="no credentials for EC2: run `aws configure`"):
        EC2Cloud("j", settings(image="ami-1")).describe_instances()
    with pytest.raises(CloudError, match="check -o endpoint_url and the network"):
        made = settings(endpoint_url="http://127.0.0.1:9", access_key="a", secret_key="b")
        EC2Cloud("j", made).describe_instances()


def test_a_security_group_is_made_once_for_nfs_and_ssh_among_members(settings):
    made = settings(ssh_from="192.0.2.0/24")
    cloud = EC2Cloud("j", made, "s3://b/homes/j")
    cloud.run_instances("collector", LINE, 1)
    cloud.run_instances("processor", LINE, 1)
    client = connect(made)
    groups = client.describe_security_groups(Filters=[{"Name": "group-name", "Values": ["vidcloud"]}])["SecurityGroups"]
    assert len(groups) == 1
    own = groups[0]["GroupId"]
    rules = {
        (
            r["FromPort"],
            r["ToPort"],
            tuple(g["GroupId"] for g in r["UserIdGroupPairs"]),
            tuple(x["CidrIp"] for x in r["IpRanges"]),
        )
        for r in groups[0]["IpPermissions"]
    }
    # moto joins rules of a port.
    assert {(f, t) for f, t, *_ in rules} == {(22, 22), (2049, 2049)}
    assert all(own in g for _, _, g, _ in rules)
    assert [c for f, _, _, c in rules if f == 2049] == [()], "nobody outside reaches the share"


def rules(client, name="vidcloud"):
    """Ports, and who may reach them, of the groups of a name."""
    found = client.describe_security_groups(Filters=[{"Name": "group-name", "Values": [name]}])["SecurityGroups"]
    return {
        g["GroupId"]: {
            (p["FromPort"], who)
            for p in g["IpPermissions"]
            for who in [*(x["GroupId"] for x in p["UserIdGroupPairs"]), *(x["CidrIp"] for x in p["IpRanges"])]
        }
        for g in found
    }


def test_a_group_that_lacks_rules_gets_them(settings):
    """A launcher that was killed after it made the group; later, another way in is asked for."""
    made = settings()
    client = connect(made)
    own = client.create_security_group(GroupName="vidcloud", Description="x")["GroupId"]
    assert rules(client) == {own: set()}
    EC2Cloud("j", made, "s3://b/homes/j", client).run_instances("collector", LINE, 1)
    assert rules(client) == {own: {(22, own), (2049, own)}}
    calls = recorded(client)
    asked = settings(ssh_from="192.0.2.0/24")
    for _ in range(2):
        EC2Cloud("j", asked, "s3://b/homes/j", client).run_instances("processor", LINE, 1)
        assert rules(client) == {own: {(22, own), (2049, own), (22, "192.0.2.0/24")}}
    assert [n for n, _ in calls].count("AuthorizeSecurityGroupIngress") == 1, "only what is missing"


def test_a_group_of_another_network_is_not_taken(settings):
    made = settings()
    client = connect(made)
    other = client.create_vpc(CidrBlock="10.9.0.0/16")["Vpc"]["VpcId"]
    foreign = client.create_security_group(GroupName="vidcloud", Description="x", VpcId=other)["GroupId"]
    calls = recorded(client)
    EC2Cloud("j", made, "s3://b/homes/j", client).run_instances("collector", LINE, 1)
    [used] = next(p for n, p in calls if n == "RunInstances")["SecurityGroupIds"]
    assert used != foreign
    assert rules(client)[foreign] == set()


def test_two_first_launches_at_once_make_one_group(settings):
    """Another makes the group between this one's look and its own making."""
    made = settings()
    client, another = connect(made), connect(made)

    def faster(**_):
        if not rules(another):
            another.create_security_group(GroupName="vidcloud", Description="x")

    client.meta.events.register("before-call.ec2.CreateSecurityGroup", faster)
    EC2Cloud("j", made, "s3://b/homes/j", client).run_instances("collector", LINE, 1)
    [(own, let_in)] = rules(client).items()
    assert let_in == {(22, own), (2049, own)}


def test_reap_ends_ones_own_machines_alone(settings, monkeypatch, capsys, tmp_path):
    """Regression: whoever called it ended what others had in the account."""
    for owner in ("me@here", "you@there"):
        made = settings(owner=owner, max_lifetime_s="0")
        EC2Cloud(f"of-{owner[:2]}", made, "s3://b/homes/x").run_instances("processor", LINE, 1)
    monkeypatch.chdir(tmp_path)

    def reap(*more):
        options = ("-o", f"endpoint_url={made.endpoint_url}", "-o", "owner=me@here")
        with pytest.raises(SystemExit) as e:
            main(["reap", *options, "--yes", *more])
        assert e.value.code == 0
        told = capsys.readouterr()
        return told.out, told.err, [m.owner for m in all_machines(made) if m.instance.alive]

    out, err, left = reap()
    assert left == ["you@there"]
    assert "me@here" in out
    assert out.endswith("ended 1\n")
    assert err == "vidcloud: 1 of you@there stay, you are me@here: --all-users ends them, too\n"
    out, err, left = reap("--all-users")
    assert (left, err) == ([], "")
    assert "you@there" in out


def test_a_dry_run_of_the_command(settings, monkeypatch, capsys, tmp_path, samples):
    """Nothing is made, whatever it would cost is told."""
    made = settings()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VIDCLOUD_SHARE", str(tmp_path / "share"))
    monkeypatch.setattr("vidcloud.cli.run.signal.signal", lambda *_: None)
    for name in ("AWS_ENDPOINT_URL_S3", "VIDCLOUD_S3_PATH_STYLE", "AWS_DEFAULT_REGION"):
        monkeypatch.setenv(name, "")  # what the command sets is gone after the test
    options = [
        f"endpoint_url={made.endpoint_url}",
        f"s3_endpoint_url={made.endpoint_url}",
        f"image={made.image}",
        "bucket=s3://b/x",
        "instance_profile=none",
    ]
    told = [word for o in options for word in ("-o", o)]
    with pytest.raises(SystemExit) as e:
        main(
            [
                "run",
                str(samples("long-gop.mkv")),
                "--filter",
                "invert",
                "--nodes",
                "5",
                "--cloud",
                "ec2",
                "--dry-run",
                *told,
            ]
        )
    out, err = capsys.readouterr()
    assert (e.value.code, err) == (0, "")
    assert "5 processors, c6i.large" in out
    assert "home s3://b/x/" in out
    assert all_machines(made) == []
    assert rules(connect(made)) == {}
    assert not list((tmp_path / "share").glob("jobs/*"))


def test_no_token_where_the_cloud_has_none(settings):
    """Regression: botocore puts one in by itself, and such a cloud refused it again."""
    made = settings(client_token="no")
    cloud = EC2Cloud("j", made, "s3://b/homes/j", connect(made))
    sent = []
    cloud._client.meta.events.register_last(
        "before-call.ec2.RunInstances", lambda params, **_: sent.append(params["body"])
    )
    cloud.run_instances("collector", LINE, 1)
    assert [("ClientToken" in body) for body in sent] == [False]


def test_a_preview_changes_nothing(settings):
    made = settings(spot="yes", price_cap="1")
    cloud = EC2Cloud("j", made, "s3://b/homes/j", connect(made))
    calls = recorded(cloud._client)
    lines = cloud.preview(5)
    assert {name for name, _ in calls} == {"DescribeImages"}
    assert any("5 processors, c6i.large, spot" in line for line in lines)
    assert lines[-1] == "cost: about $0.59 an hour, on demand"
    assert all_machines(made) == []


def test_reap_finds_what_nobody_needs(cloud, settings):
    cloud.run_instances("collector", LINE, 1)
    cloud.run_instances("processor", LINE, 2)
    EC2Cloud("lost", settings(), "s3://b/homes/lost").run_instances("processor", LINE, 1)
    EC2Cloud("old", settings(max_lifetime_s="0"), "s3://b/homes/old").run_instances("collector", LINE, 1)
    machines, now = all_machines(settings()), time.time() + 30
    assert {(m.job, why) for m, why in orphans(machines, now, None, grace_s=10)} == {
        ("lost", "its job has no collector"), ("old", "its time is over"),
    }  # fmt: skip
    assert {m.job for m, _ in orphans(machines, now, None, grace_s=60)} == {"old"}
    assert len(orphans(machines, now, 1, grace_s=60)) == 5


CHILD = """
import os, sys
from pathlib import Path
from vidcloud import job as jobs
from vidcloud.clouds.ec2 import EC2Cloud, connect
from vidcloud.clouds.settings import read_settings
from vidcloud.job import JobSpec
from vidcloud.launcher import Launcher
from vidcloud.sites import HomeSite

endpoint, image, folder, at = sys.argv[1:]
settings = read_settings("ec2", {"endpoint_url": endpoint, "image": image}, files=())
client, count = connect(settings), 0

def after(**_):
    global count
    count += 1
    if count == int(at):
        os._exit(9)

client.meta.events.register("after-call.ec2", after)
home = f"file://{folder}/homes/j"
spec = JobSpec(id="j", created=0.0, input="s3://b/i", output="s3://b/o", filters=(), encode={})
job = jobs.create(Path(folder) / "share", spec)
job.write_site({"cloud": "ec2", "options": {}, "home": home})
Launcher(HomeSite(home, EC2Cloud("j", settings, home, client), job)).start(2)
print(count)
"""


def launched(settings, folder, at):
    return subprocess.run(
        [sys.executable, "-c", CHILD, settings.endpoint_url, settings.image, str(folder), str(at)],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip


def test_no_orphan_when_the_launcher_is_killed_at_any_call(settings, tmp_path):
    """kill -9 after each API call, which is before the next: what lives is tagged, so that any command finds it."""
    made = settings()
    client = connect(made)
    at, code = 0, 9
    while code == 9:
        at += 1
        _as_at_first(client, made)
        code = launched(made, tmp_path / str(at), at).returncode
        alive = {
            i["InstanceId"]
            for page in client.get_paginator("describe_instances").paginate()
            for r in page["Reservations"] for i in r["Instances"] if i["State"]["Name"] in ("pending", "running")
        }  # fmt: skip
        machines = [m for m in all_machines(made) if m.instance.alive]
        assert {m.instance.id for m in machines} == alive, at
        assert all(m.job == "j" and m.expires and m.home for m in machines)
        led = any(m.instance.role == "collector" for m in machines)
        found = orphans(machines, time.time() + 3600, None, grace_s=60)
        assert len(found) == (0 if led else len(alive)), "a job that is led goes on; else nobody is overlooked"
    assert code == 0
    assert len(alive) == 3
    assert at >= 8, "as many calls as a launch makes"


def _as_at_first(client, settings):
    if left := [m.instance.id for m in all_machines(settings)]:
        client.terminate_instances(InstanceIds=left)
    for g in client.describe_security_groups(Filters=[{"Name": "group-name", "Values": ["vidcloud"]}])[
        "SecurityGroups"
    ]:
        client.delete_security_group(GroupId=g["GroupId"])


def test_the_policy_allows_what_is_called_and_nothing_else(settings):
    """docs/iam-policy.json against the calls of a launch, of scaling, looking, reaping."""
    made = settings(ssh_from="192.0.2.1/32")
    client = connect(made)
    calls = recorded(client)
    EC2Cloud("k", made, "s3://b/homes/k", client).run_instances("collector", LINE, 1)  # where the cloud chooses
    subnet = client.describe_subnets()["Subnets"][0]["SubnetId"]
    object.__setattr__(made, "subnets", (subnet,))
    cloud = EC2Cloud("j", made, "s3://b/homes/j", client)
    cloud.preview(2)
    ids = [i.id for i in cloud.run_instances("collector", LINE, 1) + cloud.run_instances("processor", LINE, 2)]
    cloud.describe_instances()
    cloud.console_output(ids[0])
    cloud.reboot_instances(ids[:1])
    cloud.terminate_instances(ids[2:], drain=True)
    cloud.terminate_instances(ids)
    all_machines(made, client)
    called = {f"ec2:{name}" for name, _ in calls}
    allowed = {
        action
        for statement in json.loads(POLICY.read_text())["launcher"]["Statement"]
        for action in ([statement["Action"]] if isinstance(statement["Action"], str) else statement["Action"])
        if action.startswith("ec2:")
    }
    assert not [a for a in allowed if "*" in a], "least privilege names actions"
    assert {c for c in called if not any(fnmatch.fnmatch(c, a) for a in allowed)} == set()
    assert allowed - called == set()


def test_nodes_that_encrypt_have_a_group_and_volumes_of_their_own(settings):
    made = settings(encrypt="yes")
    cloud = EC2Cloud("j", made, "s3://b/homes/j")
    assert cloud.encrypts
    assert "encrypted: NFS between nodes through TLS, volumes and objects at rest" in cloud.preview(1)
    cloud.run_instances("collector", LINE, 1)
    client = connect(made)
    groups = client.describe_security_groups(Filters=[{"Name": "group-name", "Values": ["vidcloud-encrypted"]}])
    rules = {(r["FromPort"], r["ToPort"]) for r in groups["SecurityGroups"][0]["IpPermissions"]}
    assert rules == {(22, 22), (20049, 20049)}, "NFS in the clear is not let in"
    volumes = client.describe_volumes()["Volumes"]
    assert volumes
    assert all(v["Encrypted"] for v in volumes if v["Attachments"])
