"""Each node is started once, whatever launchers, late descriptions and lost answers do."""

import pytest
from botocore.exceptions import ClientError
from ec2_api import LINE, Api, Ignorant, cloud

from vidcloud.clouds import ec2
from vidcloud.clouds.ec2 import EC2Cloud
from vidcloud.clouds.settings import EC2Settings
from vidcloud.errors import CloudError


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
