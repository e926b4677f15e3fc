"""What the EC2 cloud does where a cloud refuses or is late; the API is played by a few lines."""

import contextlib
import datetime as dt
import itertools

import pytest
from botocore.awsrequest import AWSResponse
from botocore.exceptions import ClientError, ConnectionClosedError

from vidcloud.clouds import ec2
from vidcloud.clouds.ec2 import EC2Cloud
from vidcloud.clouds.prices import dollars_an_hour
from vidcloud.clouds.settings import EC2Settings
from vidcloud.errors import CloudError, UsageError

A = {"AvailabilityZone": "a"}
LINE = "processor https://b/x.tar#sha256=00 [ --job j ]"


class Api:
    """A cloud that refuses what it is told to refuse."""

    def __init__(self, refuses=None):
        self.refuses = refuses or (lambda params: None)
        self.instances, self.started, self.ended, self.tagged = [], [], [], []
        self.shows, self.ids = True, itertools.count()
        self.meta = self.events = self
        self.endpoint_url = "https://ec2.us-east-1.amazonaws.com"

    def register(self, *_, **__):
        """botocore's hooks are of no use here."""

    def describe_images(self, **_):
        return {"Images": [{"RootDeviceName": "/dev/xvda"}]}

    def describe_vpcs(self, **_):
        return {"Vpcs": []}

    def describe_subnets(self, **_):
        return {"Subnets": [{"VpcId": "vpc-1"}]}

    def describe_security_groups(self, **_):
        return {"SecurityGroups": [{"GroupId": "sg-1"}]}

    def authorize_security_group_ingress(self, **params):
        self.authorised = [*getattr(self, "authorised", []), params]

    def run_instances(self, **params):
        self.started.append(params)
        if refused := self.refuses(params):
            code, text = refused
            raise ClientError({"Error": {"Code": code, "Message": text}}, "RunInstances")
        made = [
            {
                "InstanceId": f"i-{next(self.ids)}",
                "State": {"Name": "pending"},
                "PrivateIpAddress": "10.0.0.1",
                "LaunchTime": dt.datetime(2026, 11, 1, tzinfo=dt.UTC),
                "InstanceType": params["InstanceType"],
                "Tags": params.get("TagSpecifications", [{"Tags": []}])[0]["Tags"],
            }
            for _ in range(params["MinCount"])
        ]
        self.instances += made
        return {"Instances": made}

    def create_tags(self, **params):
        self.tagged.append(params)

    def terminate_instances(self, InstanceIds):  # noqa: N803
        self.ended += InstanceIds
        for i in self.instances:
            if i["InstanceId"] in InstanceIds:
                i["State"] = {"Name": "shutting-down"}

    def get_paginator(self, _name):
        return self

    def paginate(self, **_):
        return [{"Reservations": [{"Instances": self.instances if self.shows else []}]}]


def cloud(api, **settings):
    return EC2Cloud("j", EC2Settings(image="ami-1", **settings), "s3://b/j", api)


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


def test_instances_that_descriptions_do_not_show_yet_are_not_started_again():
    api = Api()
    api.shows = False
    made = cloud(api)
    made.run_instances("processor", LINE, 2)
    assert [i.id for i in made.describe_instances()] == ["i-0", "i-1"]
    made.run_instances("processor", LINE, 1)
    assert [p["ClientToken"] for p in api.started] == ["j-processor-1-0", "j-processor-3-0"]


def test_two_launchers_that_start_the_same_nodes_start_them_once():
    """The lines differ by their signatures, so the token alone would be refused."""
    seen = {}

    def refuses(params):
        if seen.setdefault(params["ClientToken"], params["UserData"]) != params["UserData"]:
            return "IdempotentParameterMismatch", "other parameters"
        return None

    api = Api(refuses)
    one, other = cloud(api), cloud(api)
    first = one.run_instances("processor", LINE, 2)
    shown, api.shows = api.instances, True
    other._machines = list  # it looked before
    assert [i.id for i in other.run_instances("processor", LINE + " ", 2)] == [i.id for i in first]
    assert len(shown) == 2


def test_two_launchers_that_saw_the_same_nodes_missing_start_them_once():
    """The second looks before the first starts, and starts after it: nodes are counted as of the look."""
    api = Api()
    one, other = cloud(api), cloud(api)
    for launcher in (one, other):
        assert launcher.describe_instances() == []
    one.run_instances("processor", LINE, 1)
    other.run_instances("processor", LINE, 1)
    one.run_instances("processor", LINE, 1)
    assert [p["ClientToken"] for p in api.started] == ["j-processor-1-0", "j-processor-1-0", "j-processor-2-0"]


def test_a_launcher_that_sees_half_of_anothers_start_looks_again():
    """Else it took the other half for missing, and started it once more."""
    api, looks = Api(), []
    one, other = cloud(api), cloud(api)
    first = one.run_instances("processor", LINE, 2)

    def paginate(**_):
        looks.append(len(looks))
        return [{"Reservations": [{"Instances": api.instances[: 1 if len(looks) < 3 else 2]}]}]

    api.paginate = paginate
    assert [i.id for i in other.describe_instances()] == [i.id for i in first]
    assert len(looks) == 3


def test_a_start_whose_rest_does_not_come_is_waited_for_once(monkeypatch):
    monkeypatch.setattr("vidcloud.clouds.base._SHOWN_S", 0.0)
    api, looks = Api(), []
    cloud(api).run_instances("processor", LINE, 2)
    lost, other, usual = api.instances.pop(), cloud(api), api.paginate
    api.paginate = lambda **_: looks.append(0) or usual()
    for least, most in ((2, 3), (1, 1)):
        looks.clear()
        assert [i.id for i in other.describe_instances()] == ["i-0"]
        assert least <= len(looks) <= most
    # A part of which one runs is no start in the making, and one whose machines are all there neither.
    api.instances[0]["State"] = {"Name": "running"}
    for instances in (api.instances, [*api.instances, lost]):
        api.instances = instances
        looks.clear()
        assert len(cloud(api).describe_instances()) == len(instances)
        assert len(looks) == 1


def test_a_token_of_machines_that_are_long_forgotten_is_not_tried_again():
    spent = {"j-processor-1-0", "j-processor-2-0"}
    api = Api(lambda p: ("IdempotentParameterMismatch", "used") if p["ClientToken"] in spent else None)
    assert [i.id for i in cloud(api).run_instances("processor", LINE, 1)] == ["i-0"]
    assert api.started[-1]["ClientToken"] == "j-processor-3-0"


class Ignorant(Api):
    """A cloud that takes a token and does not look at it, on a network that loses answers."""

    def __init__(self, lost=()):
        super().__init__()
        self.endpoint_url = "http://euca.example/services/compute"
        self.lost = set(lost)

    def run_instances(self, **params):
        answer = super().run_instances(**params)
        if len(self.started) in self.lost:
            raise ConnectionClosedError(endpoint_url=self.endpoint_url)
        return answer

    @property
    def alive(self):
        return [i["InstanceId"] for i in self.instances if i["State"]["Name"] == "pending"]


@pytest.fixture
def waits(monkeypatch):
    """What happens while something waits."""
    do = []
    monkeypatch.setattr(ec2.time, "sleep", lambda _s: [f() for f in do])
    return do


@pytest.mark.parametrize("token", ["auto", "no"])
def test_an_answer_that_is_lost_leaves_no_machine_besides(waits, token):
    api = Ignorant(lost=[1])
    made = cloud(api, client_token=token)
    assert [i.id for i in made.run_instances("processor", LINE, 2)] == api.alive == ["i-0", "i-1"]
    assert len(api.started) == 1, "what is there is not asked for again"


def test_a_machine_that_shows_after_it_was_asked_for_again_is_ended(waits):
    api = Ignorant(lost=[1])
    api.shows = False
    waits.append(lambda: setattr(api, "shows", len(api.started) > 1))
    plain, api.run_instances = (
        api.run_instances,
        lambda **p: (plain(**p), setattr(api, "shows", len(api.started) > 1))[0],
    )
    made = cloud(api)
    assert [i.id for i in made.run_instances("collector", LINE, 1)] == api.alive
    assert (len(api.started), len(api.alive), len(api.ended)) == (2, 1, 1)


def test_two_launchers_on_a_cloud_without_tokens_start_the_same_nodes_once(waits):
    api = Ignorant()
    one, other = cloud(api), cloud(api)
    for launcher in (one, other):
        assert launcher.describe_instances() == []
    first = one.run_instances("processor", LINE, 2)
    assert other.run_instances("processor", LINE, 2) == first
    assert len(api.alive) == 2


def test_a_network_that_stays_away_is_told(waits):
    api = Ignorant(lost=range(10))
    api.shows = False
    with pytest.raises(CloudError, match=r"can't start instances.*`vidcloud reap` finds it"):
        cloud(api).run_instances("collector", LINE, 1)
    assert len(api.started) == 3


def test_a_cloud_with_tokens_is_asked_by_its_own_client():
    """botocore may repeat what has a token."""
    api = Api()
    made = EC2Cloud("j", EC2Settings(image="ami-1"), "s3://b/j", api)
    made._kept_starter = None
    made.run_instances("collector", LINE, 1)
    assert made._kept_starter is None


def test_machines_that_are_too_new_to_be_ended_are_ended_a_little_later(waits, monkeypatch):
    """Regression: a launch that failed half-way left them running."""
    api = Api()
    made = cloud(api)
    [new] = made.run_instances("collector", LINE, 1)
    known, plain = [], api.terminate_instances

    def terminate(InstanceIds):  # noqa: N803
        if not set(InstanceIds) <= set(known):
            raise ClientError({"Error": {"Code": "InvalidInstanceID.NotFound", "Message": "no"}}, "TerminateInstances")
        plain(InstanceIds)

    api.terminate_instances = terminate
    monkeypatch.setattr(ec2, "_SEEN_LATE_S", -1.0)
    with pytest.raises(CloudError, match=r"can't end i-0: InvalidInstanceID.NotFound") as e:
        made.terminate_instances([new.id])
    assert e.value.left_running == ("i-0",)
    monkeypatch.setattr(ec2, "_SEEN_LATE_S", 3600.0)
    waits.append(lambda: known.append(new.id))
    made.terminate_instances([new.id])
    assert api.ended == [new.id]


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
