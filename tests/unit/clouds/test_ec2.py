"""What the EC2 cloud asks for and tells, where a cloud refuses, knows less, or shows who can log in."""

import contextlib

import pytest
from botocore.awsrequest import AWSResponse
from botocore.exceptions import ClientError
from ec2_api import LINE, Api, cloud

from vidcloud.clouds import ec2
from vidcloud.clouds.prices import dollars_an_hour
from vidcloud.clouds.settings import EC2Settings
from vidcloud.errors import CloudError, UsageError

A = {"AvailabilityZone": "a"}


def test_the_next_type_and_subnet_are_tried_and_spot_falls_back_to_on_demand():
    api = Api(
        lambda p: (
            ("InsufficientInstanceCapacity", "none")
            if p["InstanceType"] != "big" or "InstanceMarketOptions" in p
            else None
        )
    )
    made = cloud(api, spot=True, processor_types=("small", "big"), subnets=("a", "b"), security_group="sg-1")
    made.run_instances("processor", LINE, 2)
    tried = [(p["InstanceType"], p["SubnetId"], "InstanceMarketOptions" in p) for p in api.started]
    assert tried == [
        ("small", "a", True), ("small", "b", True), ("big", "a", True), ("big", "b", True),
        ("small", "a", False), ("small", "b", False), ("big", "a", False),
    ]  # fmt: skip
    assert len({p["ClientToken"] for p in api.started}) == 7
    assert len(made.describe_instances()) == 2


def test_zones_are_tried_where_no_subnets_are_given():
    api = Api(lambda p: ("InsufficientInstanceCapacity", "none") if p.get("Placement") == A else None)
    cloud(api, zones=("a", "b")).run_instances("processor", LINE, 1)
    cloud(api, zones=("a",), subnets=("s",)).run_instances("processor", LINE, 1)
    cloud(api).run_instances("processor", LINE, 1)
    tried = [(p.get("Placement", {}).get("AvailabilityZone"), p.get("SubnetId")) for p in api.started]
    assert tried == [("a", None), ("b", None), (None, "s"), (None, None)]


@pytest.mark.parametrize(
    ("signature", "version"), [("v4", "AWS4-HMAC-SHA256"), ("v2", "SignatureVersion=2&SignatureMethod=HmacSHA256")]
)
def test_how_requests_are_signed(signature, version):
    """Old Eucalyptus knows version 2 alone."""
    sent = []

    def answer(request, **_):
        sent.append(f"{request.headers} {request.body} {request.url}")
        return AWSResponse(request.url, 200, {}, None)

    client = ec2.connect(
        EC2Settings(endpoint_url="http://euca.example/", access_key="a", secret_key="b", ec2_signature=signature)
    )
    client.meta.events.register("before-send.ec2", answer)
    with contextlib.suppress(Exception):  # it is no answer
        client.describe_images()
    assert version in sent[0]


def test_a_type_that_would_break_the_price_cap_is_no_way_out():
    """Regression: only the first type's price was looked at, and the job went on with the dear one."""
    api = Api(lambda p: ("InsufficientInstanceCapacity", "none") if p["InstanceType"] == "c6i.large" else None)
    made = cloud(api, price_cap=1.0, processor_types=("c6i.large", "c6i.24xlarge", "c5.large"))
    made.run_instances("processor", LINE, 2)
    assert [p["InstanceType"] for p in api.started] == ["c6i.large", "c5.large"]
    with pytest.raises(UsageError, match=r"about \$4\.25 an hour, more than price_cap=1"):
        made.run_instances("processor", LINE, 48)
    with pytest.raises(UsageError, match=r"price of x1\.large is not known"):
        cloud(api, price_cap=9.0, processor_types=("c6i.large", "x1.large")).run_instances("processor", LINE, 1)
    assert len(api.started) == 2


@pytest.mark.parametrize(
    ("region", "settings", "told"),
    [
        ("us-east-1", {}, "cost: about $0.26 an hour, on demand"),
        ("eu-1", {}, "cost: about $0.26 an hour, on demand in us-east-1: eu-1 has its own prices"),
        ("us-east-1", {"processor_types": ("c6i.large", "c6i.24xlarge")}, "cost: about $0.26 to $4.25 an hour, on demand"),
        ("us-east-1", {"processor_types": ("c6i.large", "c6i.24xlarge"), "price_cap": 1.0},
         "cost: about $0.26 an hour, on demand"),
        ("us-east-1", {"processor_types": ("c6i.large", "own.large")}, "cost: unknown for these types"),
    ],
)  # fmt: skip
def test_what_it_would_cost(region, settings, told):
    api = Api()
    api.region_name = region
    assert cloud(api, **settings).preview(1)[-1] == told


def test_a_preview_tells_what_is_known_to_lack():
    api = Api()
    api.region_name = "us-east-1"
    lines = cloud(api, client_token="no", imdsv2="optional").preview(1)
    assert [line for line in lines if line.startswith("note: ")] == [
        "note: this cloud has no tokens: nodes that are there already are known by their tags alone",
        "note: nodes take version 1 of the metadata service, too",
    ]


def test_no_room_anywhere_is_told():
    with pytest.raises(CloudError, match="no room for 2 processors anywhere that was named: quota"):
        cloud(Api(lambda p: ("VcpuLimitExceeded", "quota"))).run_instances("processor", LINE, 2)


@pytest.mark.parametrize(
    ("feature", "text"),
    [
        ("ClientToken", "The parameter ClientToken is not recognized"),
        ("MetadataOptions", "Unexpected: MetadataOptions"),
        ("InstanceMarketOptions", "InstanceMarketOptions is not supported"),
    ],
)
def test_what_an_older_cloud_does_not_know_is_left_out_and_told(feature, text):
    api = Api(lambda p: ("UnknownParameter", text) if feature in p else None)
    made = cloud(api, spot=True)
    made.run_instances("processor", LINE, 1)
    made.run_instances("processor", LINE, 1)
    assert len(api.started) == 3, "found out once"
    assert len(made.notes) == 1
    assert made.notes[0].startswith("this cloud ")


def test_a_cloud_that_can_not_tag_at_the_start_gets_tags_at_once():
    api = Api(lambda p: ("UnknownParameter", "TagSpecifications?") if "TagSpecifications" in p else None)
    made = cloud(api)
    assert [i.role for i in made.run_instances("collector", LINE, 1)] == ["collector"]
    assert api.tagged[0]["Resources"] == ["i-0"]
    api.create_tags = lambda **_: (_ for _ in ()).throw(ClientError({"Error": {"Code": "Down"}}, "CreateTags"))
    with pytest.raises(CloudError):
        made.run_instances("processor", LINE, 1)
    assert api.ended == ["i-1"], "nobody would find it"


def test_what_is_told_has_no_traceback_and_says_what_to_do():
    denied = ClientError({"Error": {"Code": "UnauthorizedOperation", "Message": "no"}}, "RunInstances")
    assert "docs/iam-policy.json" in ec2._told("start instances", denied)


@pytest.mark.parametrize(
    ("kind", "dollars"), [("c6i.large", 0.085), ("c6i.4xlarge", 0.68), ("m9.large", None), ("c6i", None)]
)
def test_prices(kind, dollars):
    assert dollars_an_hour(kind) == (pytest.approx(dollars) if dollars else None)


BLOCK = "ec2: -----BEGIN SSH HOST KEY FINGERPRINTS-----\r\n{}ec2: -----END SSH HOST KEY FINGERPRINTS-----\r\n"
ONE, TWO, OTHER = (f"SHA256:{c * 43}" for c in "aBc")
TRUE = BLOCK.format(f"ec2: 256 {ONE} root@x (ECDSA)\r\nec2: 256 {TWO} root@x (ED25519)\r\n")
FALSE = BLOCK.format(f"256 {OTHER} root@x (ED25519)\n")


@pytest.mark.parametrize(
    ("boot", "lately", "told"),
    [
        (f"{OTHER}\n{TRUE}", "", {ONE, TWO}),
        ("", TRUE, {ONE, TWO}),
        (TRUE + TRUE, TRUE, {ONE, TWO}),  # it was rebooted
        (TRUE, "frame 1 of 9\n" * 9, {ONE, TWO}),
        (TRUE, None, {ONE, TWO}),
        (TRUE, FALSE, "host keys that differ"),
        (TRUE + FALSE, "", "host keys that differ"),
        ("", FALSE + TRUE, "host keys that differ"),
        ("", TRUE[: TRUE.index("-----END")], "does not show its host keys"),
        ("", None, "does not show its host keys"),
    ],
)
def test_whose_keys_count(boot, lately, told):
    """Regression: a machine that says much could not be logged in to, and what anybody printed there might have counted."""
    api = Api()

    def console(InstanceId, Latest=False):  # noqa: N803
        if Latest and lately is None:
            raise ClientError({"Error": {"Code": "UnsupportedOperation"}}, "GetConsoleOutput")
        return {"Output": lately if Latest else boot}

    api.get_console_output = console
    made = cloud(api)
    made.run_instances("collector", LINE, 1)
    api.instances[0]["State"] = {"Name": "running"}
    assert made.console_output("i-0") == (lately or boot)
    if isinstance(told, str):
        with pytest.raises(CloudError, match=told):
            made.login("i-0")
    else:
        assert set(made.login("i-0").fingerprints) == told


def test_a_machine_without_a_way_in_is_told():
    api = Api()
    made = cloud(api)
    made.run_instances("collector", LINE, 1)
    with pytest.raises(UsageError, match="i-0 is pending: nobody can log in"):
        made.login("i-0")
    with pytest.raises(UsageError, match="job j has no node i-9"):
        made.login("i-9")
    api.instances[0]["State"] = {"Name": "running"}
    with pytest.raises(UsageError, match="without a public address"):
        cloud(api, ssh_address="public").login("i-0")


def test_the_key_file_is_found_by_the_key_pairs_name(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert EC2Settings(key="mine").private_key() is None
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh/mine").touch()
    assert EC2Settings(key="mine").private_key() == tmp_path / ".ssh/mine"
    assert EC2Settings(key="mine", key_file="~/x.pem").private_key() == tmp_path / "x.pem"
