"""Unmodified boto3 at the EC2-style door to a real cobblerd."""

import base64
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import elsewhere
import pytest
from botocore.exceptions import ClientError
from conftest import KEYS, POOL

from vidcloud.metal.ec2.zone import image_id


def refused(code, call, **asked):
    with pytest.raises(ClientError) as e:
        call(**asked)
    assert e.value.response["Error"]["Code"] == code, e.value
    return e.value.response["Error"]["Message"]


def run(ec2, **more):
    return ec2.run_instances(**{"ImageId": "debian", "MinCount": 1, "MaxCount": 1, **more})["Instances"]


def ids(found):
    return [i["InstanceId"] for i in found]


def described(ec2, **more):
    return [i for r in ec2.describe_instances(**more)["Reservations"] for i in r["Instances"]]


def filters(**more):
    return [{"Name": k.replace("__", ":").replace("_", "-"), "Values": [v]} for k, v in more.items()]


def test_a_machine_s_life(ec2, cobbler, hosts):
    data = "#!/bin/sh\necho it's $HOME\n"
    [made] = run(
        ec2,
        UserData=data,
        Placement={"AvailabilityZone": "test02"},
        TagSpecifications=[{"ResourceType": "instance", "Tags": [{"Key": "Name", "Value": "ü & <b>"}]}],
    )
    machine = made["PrivateDnsName"]
    assert machine in {"node1", "node16"}
    assert made["State"] == {"Code": 0, "Name": "pending"}
    assert made["PrivateIpAddress"] == cobbler.system(machine).ip
    assert made["Placement"]["AvailabilityZone"] == "test02"
    assert made["ImageId"] == image_id("debian")
    assert made["Tags"] == [{"Key": "Name", "Value": "ü & <b>"}]
    assert abs((datetime.now(UTC) - made["LaunchTime"]).total_seconds()) < 600
    assert base64.b64decode(cobbler.system(machine).get("line")).decode() == data
    told = ec2.describe_instance_attribute(InstanceId=made["InstanceId"], Attribute="userData")
    assert base64.b64decode(told["UserData"]["Value"]).decode() == data
    hosts.settle(machine)
    ec2.get_waiter("instance_running").wait(
        InstanceIds=[made["InstanceId"]], WaiterConfig={"Delay": 0.05, "MaxAttempts": 100}
    )
    ec2.reboot_instances(InstanceIds=[made["InstanceId"]])
    [ended] = ec2.terminate_instances(InstanceIds=[made["InstanceId"]])["TerminatingInstances"]
    assert ended["PreviousState"]["Name"] == "running"
    ec2.get_waiter("instance_terminated").wait(
        InstanceIds=[made["InstanceId"]], WaiterConfig={"Delay": 0.05, "MaxAttempts": 1}
    )
    left = cobbler.system(machine)
    assert (left.get("user"), left.get("line"), left.get("tags"), left.profile) == ("", "", "", "other")
    assert not cobbler.is_on(machine)
    refused("IncorrectInstanceState", ec2.reboot_instances, InstanceIds=[made["InstanceId"]])
    [again] = run(ec2, Placement={"AvailabilityZone": "test02"})
    assert again["InstanceId"] != made["InstanceId"], "another reservation, another id"


def test_the_aws_cli(door, cobbler, hosts, tmp_path):
    """A tool that others made, with its own idea of the protocol."""
    try:
        python = elsewhere.environment("awscli-1", ["awscli>=1.40,<2"])
    except subprocess.CalledProcessError as e:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"can't install the AWS CLI: {e}")
    env = {
        "HOME": str(tmp_path),
        "AWS_ENDPOINT_URL_EC2": door.url,
        "AWS_ACCESS_KEY_ID": "BOB",
        "AWS_SECRET_ACCESS_KEY": KEYS["BOB"].secret,
        "AWS_DEFAULT_REGION": "metal",
        "AWS_DEFAULT_OUTPUT": "text",
    }

    def aws(words, code=0):
        done = subprocess.run(
            [python, "-m", "awscli", "ec2", *words.split()],
            env=env, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == code, done.stderr
        return done.stderr.strip() if code else done.stdout.split()

    made = aws(
        "run-instances --image-id debian --count 1:2 --placement AvailabilityZone=test02 --user-data hello "
        "--tag-specifications ResourceType=instance,Tags=[{Key=job,Value=cat}] --query Instances[].InstanceId"
    )
    assert len(made) == 2
    machines = aws(
        "describe-instances --filters Name=tag:job,Values=c* --query Reservations[].Instances[].PrivateDnsName"
    )
    assert machines == ["node1", "node16"]
    hosts.settle(*machines)
    assert base64.b64decode(cobbler.system("node1").get("line")) == b"hello"
    assert "InsufficientInstanceCapacity" in aws("run-instances --image-id debian --count 9", code=255)
    aws(f"wait instance-running --instance-ids {' '.join(made)}")
    aws(f"terminate-instances --instance-ids {' '.join(made)}")
    assert not [s for s in cobbler.systems() if s.get("user")]


def test_terminating_again_ends_nothing_else(ec2, cobbler):
    one, two = ids(run(ec2, MinCount=2, MaxCount=2))
    for _ in range(2):
        [told] = ec2.terminate_instances(InstanceIds=[one])["TerminatingInstances"]
        assert told["CurrentState"]["Name"] == "terminated"
    assert ids(described(ec2, Filters=filters(instance_state_name="*ing"))) == [two]
    assert len([s for s in cobbler.systems() if s.get("user")]) == 1


def test_images_and_zones(ec2):
    images = {i["Name"]: i["ImageId"] for i in ec2.describe_images(Owners=["self"])["Images"]}
    assert {"debian", "other", "wipe"} <= set(images)
    [one] = ec2.describe_images(ImageIds=[images["debian"]])["Images"]
    assert one["Name"] == "debian"
    assert [i["Name"] for i in ec2.describe_images(Filters=filters(name="deb*"))["Images"]] == ["debian"]
    zones = ec2.describe_availability_zones()["AvailabilityZones"]
    assert [(z["ZoneName"], z["State"]) for z in zones] == [("test01", "available"), ("test02", "available")]
    refused("InvalidAMIID.NotFound", ec2.describe_images, ImageIds=["ami-1"])
    refused("InvalidParameterValue", ec2.describe_availability_zones, ZoneNames=["nowhere"])


def test_tags_and_filters(ec2):
    one, two = ids(run(ec2, MinCount=2, MaxCount=2))
    ec2.create_tags(Resources=[one, two], Tags=[{"Key": "job", "Value": "cat"}, {"Key": "role", "Value": "x"}])
    ec2.create_tags(Resources=[two], Tags=[{"Key": "role", "Value": "collector"}])
    assert ids(described(ec2, Filters=filters(tag__job="c?t", tag__role="coll*"))) == [two]
    assert sorted(ids(described(ec2, Filters=filters(tag_key="job", image_id="debian")))) == sorted([one, two])
    assert described(ec2, Filters=filters(instance_state_name="stopped")) == []
    ec2.delete_tags(Resources=[one, two], Tags=[{"Key": "role", "Value": "x"}])
    told = ec2.describe_tags(Filters=filters(key="role"))["Tags"]
    assert [(t["ResourceId"], t["Value"]) for t in told] == [(two, "collector")]
    ec2.delete_tags(Resources=[one])
    assert {t["ResourceId"] for t in ec2.describe_tags()["Tags"]} == {two}
    refused("InvalidParameterValue", ec2.describe_instances, Filters=filters(hypervisor="xen"))
    refused("InvalidInstanceID.NotFound", ec2.create_tags, Resources=["i-1"], Tags=[{"Key": "a", "Value": "b"}])
    refused("InvalidParameterValue", ec2.create_tags, Resources=[one], Tags=[{"Key": "", "Value": "b"}])
    refused(
        "TagLimitExceeded", ec2.create_tags, Resources=[one], Tags=[{"Key": str(n), "Value": ""} for n in range(51)]
    )


def test_tags_that_two_make_at_once_are_all_there(client, ec2):
    [one] = ids(run(ec2))
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda n: client().create_tags(Resources=[one], Tags=[{"Key": f"k{n}", "Value": ""}]), range(4)))
    assert {t["Key"] for t in ec2.describe_tags()["Tags"]} == {"k0", "k1", "k2", "k3"}


def test_whose_they_are(client, ec2, cobbler):
    [one] = ids(run(ec2))
    bob = client("BOB")
    assert described(bob) == []
    refused("InvalidInstanceID.NotFound", bob.describe_instances, InstanceIds=[one])
    for call in (bob.terminate_instances, bob.reboot_instances):
        refused("UnauthorizedOperation", call, InstanceIds=[one])
    refused("UnauthorizedOperation", bob.create_tags, Resources=[one], Tags=[{"Key": "a", "Value": "b"}])
    refused("UnauthorizedOperation", bob.describe_instance_attribute, InstanceId=one, Attribute="userData")
    assert [s.get("user") for s in cobbler.systems() if s.get("user")] == ["ann"]


@pytest.mark.parametrize("call", ["reboot_instances", "create_tags"])
def test_an_instance_that_ends_meanwhile_is_not_found(ec2, cobbler, reservations, monkeypatch, call):
    """Its machine may be another instance's by then, which is left alone."""
    [one] = run(ec2)
    machine, usual = one["PrivateDnsName"], reservations.change

    def overtaken(change):
        monkeypatch.setattr(reservations, "change", usual)
        reservations.release([machine], "ann")
        return usual(change)

    monkeypatch.setattr(reservations, "change", overtaken)
    more = {"InstanceIds": [one["InstanceId"]]}
    if call == "create_tags":
        more = {"Resources": [one["InstanceId"]], "Tags": [{"Key": "a", "Value": "b"}]}
    refused("InvalidInstanceID.NotFound", getattr(ec2, call), **more)
    assert not cobbler.system(machine).get("tags")


def test_how_many(ec2, cobbler):
    refused("InsufficientInstanceCapacity", ec2.run_instances, ImageId="debian", MinCount=99, MaxCount=99)
    assert not [s for s in cobbler.systems() if s.get("user")]
    some = run(ec2, MinCount=2, MaxCount=99, Placement={"AvailabilityZone": "test01"})
    assert sorted(i["PrivateDnsName"] for i in some) == ["node01", "node02", "node03"]
    told = refused(
        "InsufficientInstanceCapacity",
        ec2.run_instances,
        ImageId="debian",
        MinCount=1,
        MaxCount=2,
        Placement={"AvailabilityZone": "test01"},
    )
    assert told == "1 machines wanted, 0 free in test01"


def test_a_token_starts_once(ec2, cobbler):
    asked = {"ClientToken": "t", "MinCount": 2, "MaxCount": 2}
    first = ids(run(ec2, **asked))
    assert ids(run(ec2, **asked)) == first
    assert len([s for s in cobbler.systems() if s.get("user")]) == 2
    refused("IdempotentParameterMismatch", run, ec2=ec2, **{**asked, "UserData": "else"})
    ec2.terminate_instances(InstanceIds=first)
    again = run(ec2, **asked)
    assert [(i["InstanceId"], i["State"]["Name"]) for i in again] == [(i, "terminated") for i in first]
    assert not [s for s in cobbler.systems() if s.get("user")]


def test_what_ended_is_shown_though_another_could_not_be_switched_off(ec2, cobbler, daemon):
    """Its token starts nothing again, either."""
    asked = {"ClientToken": "t", "MinCount": 3, "MaxCount": 3, "Placement": {"AvailabilityZone": "test01"}}
    made = run(ec2, **asked)
    [deaf] = [i["InstanceId"] for i in made if i["PrivateDnsName"] == "node02"]
    (daemon.root / "machines/node02/deaf").write_text("3")
    told = refused("InternalError", ec2.terminate_instances, InstanceIds=ids(made))
    assert "still reserved: node02" in told
    states = {i: "stopped" if i == deaf else "terminated" for i in ids(made)}
    assert {i["InstanceId"]: i["State"]["Name"] for i in described(ec2)} == states
    assert {i["InstanceId"]: i["State"]["Name"] for i in run(ec2, **asked)} == states
    refused("IdempotentParameterMismatch", run, ec2=ec2, **{**asked, "UserData": "else"})
    assert [s.name for s in cobbler.systems() if s.get("user")] == ["node02"]
    ec2.terminate_instances(InstanceIds=ids(made))
    assert {i["State"]["Name"] for i in described(ec2)} == {"terminated"}
    assert not [s for s in cobbler.systems() if s.get("user")]


def test_pages(ec2, client):
    """What boto3's paginators put together is what there is, whatever ends between two pages."""
    made = [*ids(run(ec2, MinCount=3, MaxCount=3)), *ids(run(ec2))]
    ec2.create_tags(Resources=made, Tags=[{"Key": k, "Value": ""} for k in "ab"])
    ids(run(client("BOB")))

    def pages(operation, size):
        return list(ec2.get_paginator(operation).paginate(PaginationConfig={"PageSize": size}))

    shown = [
        [i["InstanceId"] for r in page["Reservations"] for i in r["Instances"]]
        for page in pages("describe_instances", 3)
    ]
    assert [len(page) for page in shown] == [3, 1]
    assert sorted(i for page in shown for i in page) == sorted(made)
    first = ec2.describe_instances(MaxResults=3)
    [gone] = first["Reservations"][0]["Instances"][:1]
    ec2.terminate_instances(InstanceIds=[gone["InstanceId"]])
    assert ids(described(ec2, NextToken=first["NextToken"])) == [i for page in shown[1:] for i in page]
    tags = [[(t["ResourceId"], t["Key"]) for t in page["Tags"]] for page in pages("describe_tags", 4)]
    assert [len(page) for page in tags] == [4, 2]
    assert len({tag for page in tags for tag in page}) == 6
    assert [[i["Name"] for i in page["Images"]] for page in pages("describe_images", 2)] == [
        ["debian", "other"],
        ["wipe"],
    ]
    assert "NextToken" not in ec2.describe_images(MaxResults=3)
    for token in ("x", "e30=", "MQ==", "\u00e4"):
        refused("InvalidNextToken", ec2.describe_tags, NextToken=token)
    refused("InvalidParameterValue", ec2.describe_tags, MaxResults=0)


def test_whose_images(ec2):
    assert {i["OwnerId"] for i in ec2.describe_images(Owners=["amazon", "self"])["Images"]} == {"ann"}
    assert len(ec2.describe_images(Owners=["ann"])["Images"]) == 3
    assert ec2.describe_images(Owners=["amazon"])["Images"] == []
    refused("UnsupportedOperation", ec2.describe_images, ExecutableUsers=["self"])


def test_what_nobody_thought_of_is_answered_and_logged(ec2, door, monkeypatch, caplog):
    """A client that got no answer would ask again and again."""
    caplog.set_level("INFO", "vidcloud")
    monkeypatch.setattr(door.zone, "do", lambda *_: {}["nothing"])
    told = refused("InternalError", ec2.describe_instances)
    assert "its log says what" in told
    assert any("failed request=" in r.message and "KeyError('nothing')" in r.message for r in caplog.records)
    monkeypatch.undo()
    assert described(ec2) == []


def test_eight_at_once_get_machines_of_their_own(client, cobbler):
    def one(n):
        try:
            return ids(run(client("ANN" if n % 2 else "BOB")))
        except ClientError as e:
            assert e.response["Error"]["Code"] == "InsufficientInstanceCapacity"  # noqa: PT017
            return []

    with ThreadPoolExecutor(8) as pool:
        made = [i for found in pool.map(one, range(8)) for i in found]
    assert len(made) == len(set(made)) == len(POOL) == 5


def test_a_dry_run_changes_nothing(ec2, cobbler):
    before = cobbler.systems()
    refused("DryRunOperation", ec2.run_instances, ImageId="debian", MinCount=1, MaxCount=1, DryRun=True)
    refused("InsufficientInstanceCapacity", ec2.run_instances, ImageId="debian", MinCount=9, MaxCount=9, DryRun=True)
    assert cobbler.systems() == before
    [one] = ids(run(ec2))
    refused("DryRunOperation", ec2.terminate_instances, InstanceIds=[one], DryRun=True)
    assert ids(described(ec2)) == [one]


@pytest.mark.parametrize(
    ("code", "asked"),
    [
        ("InvalidAMIID.NotFound", {"ImageId": "ami-00000000000000000"}),
        ("InvalidParameterValue", {"MinCount": 2}),
        ("InvalidParameterValue", {"MinCount": 0}),
        ("InvalidParameterValue", {"Placement": {"AvailabilityZone": "test0"}}),
        ("InvalidParameterValue", {"UserData": "x" * 17_000}),
        ("InvalidParameterValue", {"InstanceType": "m5.large"}),
        ("InvalidParameterValue", {"TagSpecifications": [{"ResourceType": "volume", "Tags": []}]}),
        ("UnsupportedOperation", {"KeyName": "mine"}),
        ("UnsupportedOperation", {"Placement": {"Tenancy": "host"}}),
    ],
)
def test_what_cannot_be_run(ec2, cobbler, code, asked):
    refused(code, run, ec2=ec2, **asked)
    assert not [s for s in cobbler.systems() if s.get("user")]


def test_a_machine_without_power_puts_all_back(ec2, cobbler, daemon):
    (daemon.root / "machines/node01/deaf").write_text("5")
    told = refused("InternalError", run, ec2=ec2, Placement={"AvailabilityZone": "test01"}, MinCount=3, MaxCount=3)
    assert "node01" in told
    assert not [s for s in cobbler.systems() if s.get("user")]


def test_what_is_no_operation_here(ec2):
    refused("UnsupportedOperation", ec2.describe_vpcs)


@pytest.mark.parametrize(
    ("key", "secret", "code"), [("ANN", "wrong", "SignatureDoesNotMatch"), ("EVE", "x", "AuthFailure")]
)
def test_who_is_not_let_in(client, key, secret, code):
    refused(code, client(key, secret).describe_instances)
