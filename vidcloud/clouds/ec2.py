"""EC2's instances, on AWS or Eucalyptus, by boto3. All that is known of a job's machines stands in their tags.

A launch is safe at each step: tags come with the very call that makes an instance, the call carries a token that names
the next nodes of a job's role, and an instance ends itself (`--lifetime`, and shutdown means terminate).
"""

import contextlib
import logging
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from vidcloud import boot, log
from vidcloud.clouds.base import Instance, Machine, Role, ordinals, whole_starts
from vidcloud.clouds.prices import PRICED, dollars_an_hour
from vidcloud.clouds.settings import EC2Settings
from vidcloud.errors import CloudError, UsageError

if TYPE_CHECKING:
    from vidcloud.remote import Target

_TAG = "vidcloud:"
_STATES = {
    "pending": "pending",
    "running": "running",
    "shutting-down": "shutting-down",
    "stopping": "shutting-down",
    "stopped": "shutting-down",
    "terminated": "terminated",
}
_NO_ROOM = (
    "InsufficientInstanceCapacity",
    "InsufficientHostCapacity",
    "InsufficientFreeAddressesInSubnet",
    "InsufficientCapacity",
    "SpotMaxPriceTooLow",
    "MaxSpotInstanceCountExceeded",
    "InstanceLimitExceeded",
    "VcpuLimitExceeded",
    "Unsupported",
)
"""Reasons to try another type, another subnet, or to pay the whole price."""
_OPTIONAL = {
    "ClientToken": "has no tokens: nodes that are there already are known by their tags alone",
    "MetadataOptions": "has no metadata service of version 2 to insist on",
    "InstanceMarketOptions": "has no spot capacity: processors run on demand",
    "TagSpecifications": "tags machines only after their start: `vidcloud instances` may miss one that is new",
}
"""What older clouds refuse, and what that means."""
_DENIED = ("UnauthorizedOperation", "AccessDenied", "AuthFailure", "SignatureDoesNotMatch", "InvalidClientTokenId")
_BUSY = ("RequestLimitExceeded", "Throttling", "ThrottlingException", "RequestThrottled")
_REFUSED = ("UnknownParameter", "InvalidParameter", "InvalidParameterValue", "UnsupportedOperation", "InvalidRequest")
_SEEN_LATE_S = 120.0
"""An instance may be missing from descriptions for some time after its start."""
_GONE_S = 180.0
_SPENT_MOST = 1000
_SENT_MOST = 3
"""How often a start whose answer is lost is asked for, where no token has it happen once."""
_KEYS = re.compile(r"-----BEGIN SSH HOST KEY FINGERPRINTS-----(.*?)-----END SSH HOST KEY FINGERPRINTS-----", re.DOTALL)
_POLL_S = 2.0
_NFS, _TUNNEL = 2049, 20049
"""Ports of a collector; the second is `tunnel_port` of ``userdata/host.sh``."""

_event = log.events("ec2")


class EC2Cloud:
    """Instances of one job.

    Args:
        job_id: the job.
        settings: of the cloud.
        home: URL of the job's home; "": as its instances are tagged.
        client: boto3's, for EC2; by default made of the settings.
    """

    def __init__(self, job_id: str, settings: EC2Settings, home: str = "", client: Any = None) -> None:
        self._job, self._settings, self._home = job_id, settings, home
        self._kept_client = self._kept_starter = client
        self._new: dict[str, tuple[float, Machine]] = {}
        self._without: set[str] = set()
        self._seen: list[Machine] | None = None
        self._parts: set[tuple[str, str]] = set()
        self._checked = False
        self._volumes: dict[str, int] = {}
        self.notes: list[str] = []
        """What this cloud can't do, in sentences."""

    # -- what launchers ask --------------------------------------------------------------------------------------------

    @property
    def home(self) -> str:
        """URL of the job's home; "" if no instance of the job is known."""
        if not self._home:
            self._home = next((m.home for m in self._machines() if m.home), "")
        return self._home

    @property
    def owner(self) -> str:
        """Who starts machines here, as their tags tell."""
        return self._settings.owner

    @property
    def lifetime_s(self) -> int:
        """Seconds after which a node ends itself."""
        return self._settings.max_lifetime_s

    @property
    def boot_timeout_s(self) -> float:
        """Seconds after its start in which a node must have been heard of, or is replaced."""
        return self._settings.boot_timeout_s

    @property
    def environment(self) -> Mapping[str, str]:
        """What nodes must know to reach the home; no secrets."""
        return self._settings.environment()

    @property
    def encrypts(self) -> bool:
        """Whether nodes talk to each other through TLS."""
        return self._settings.encrypt

    def run_instances(self, role: Role, user_data: str, count: int) -> list[Instance]:
        """Start instances: all or none.

        Raises:
            UsageError: user-data that is too long, no image, or a job dearer than asked.
            CloudError: they could not be started; none is left.
        """
        self._check()
        # As whoever asks saw it: another launcher that sees the same names the same nodes, and they are started once.
        before = self._seen if self._seen is not None else self._machines()
        kinds = self._affordable(role, count, [m.kind for m in before if m.instance.alive])
        first = max((ordinals(m.ordinals).stop for m in before if m.instance.role == role), default=0) or 1
        for _ in range(_SPENT_MOST):
            try:
                answer = self._start_somewhere(role, user_data, first, count, kinds)
                break
            except _SpentTokenError:  # by machines so long gone that the cloud has forgotten them, but not their token
                first += 1
        else:
            raise CloudError(f"this cloud refuses each token of {role}s of job {self._job} as used before", ())
        made = [self._machine(i) for i in answer["Instances"]]
        self._seen = [*before, *made]
        for m in made:
            self._new[m.instance.id] = (time.monotonic(), m)
        return [m.instance for m in made]

    def describe_instances(self) -> list[Instance]:
        """All instances of the job, by their tags; those that ended as long as the cloud remembers them."""
        self._seen = whole_starts(
            self._machines, lambda m: (m.instance.role, m.ordinals, m.instance.state == "pending"), self._parts
        )
        return [m.instance for m in self._seen]

    def terminate_instances(self, ids: Sequence[str], *, drain: bool = False) -> None:
        """End instances, and wait until their end has begun; it can't be stopped.

        With ``drain`` they are only marked: the job's home is where nodes hear that they are asked to leave.

        Raises:
            CloudError: they could not be ended.
        """
        if not ids:
            return
        with _errors("end instances"):
            if drain:
                now = datetime.now(UTC).isoformat(timespec="seconds")
                self._client.create_tags(Resources=list(ids), Tags=[{"Key": f"{_TAG}drain", "Value": now}])
                return
        self._end(ids)
        for i in ids:
            self._new.pop(i, None)
        deadline = time.monotonic() + _GONE_S
        while left := [i.id for i in self.describe_instances() if i.id in ids and i.alive]:
            if time.monotonic() > deadline:
                raise CloudError(
                    f"{', '.join(left)} still run: see `vidcloud instances`, then `vidcloud reap`", tuple(left)
                )
            time.sleep(_POLL_S / 4)

    def _end(self, ids: Sequence[str]) -> None:
        """TerminateInstances. For a while, the API may not know those that it has just made: all are refused then."""
        from botocore.exceptions import ClientError  # noqa: PLC0415

        deadline = time.monotonic() + _SEEN_LATE_S
        while True:
            try:
                with _errors("end instances", let=ClientError):
                    self._client.terminate_instances(InstanceIds=list(ids))
            except ClientError as e:
                late = e.response["Error"].get("Code") == "InvalidInstanceID.NotFound"
                if not late or time.monotonic() > deadline:
                    raise CloudError(_told(f"end {', '.join(ids)}", e), tuple(ids)) from e
                time.sleep(_POLL_S)
            else:
                return

    def reboot_instances(self, ids: Sequence[str]) -> None:
        """Boot instances anew, with the same user-data.

        Raises:
            CloudError: the cloud refused.
        """
        with _errors("reboot instances"):
            self._client.reboot_instances(InstanceIds=list(ids))

    def machines(self, nodes: int) -> int:
        """Each has its own."""
        return nodes + 1

    def console_output(self, instance_id: str) -> str:
        """What an instance's console showed last, as far as the cloud tells; that may be minutes late."""
        return self._console(instance_id, latest=True) or self._console(instance_id, latest=False)

    def _console(self, instance_id: str, *, latest: bool) -> str:
        from botocore.exceptions import ClientError  # noqa: PLC0415

        with _errors("read a console", let=ClientError):
            try:
                more = {"Latest": True} if latest else {}
                return str(self._client.get_console_output(InstanceId=instance_id, **more).get("Output", ""))
            except ClientError as e:
                if latest:  # older machines and clouds have no newest part
                    return ""
                raise CloudError(_told("read a console", e), ()) from e

    def login(self, instance_id: str) -> "Target":
        """Where to log in for an instance; its host's keys are those that its console showed at its boot.

        Raises:
            UsageError: the job has no such instance, or it does not run.
            CloudError: its console does not show its keys, or keys that differ, or can't be read.
        """
        from vidcloud.remote import Target  # noqa: PLC0415 - only who logs in needs it

        s = self._settings
        found = self._describe([{"Name": f"tag:{_TAG}job", "Values": [self._job]}])
        raw = next((i for i in found if i["InstanceId"] == instance_id), None)
        if raw is None:
            raise UsageError(f"job {self._job} has no node {instance_id}: see `vidcloud status`")
        public, private = raw.get("PublicIpAddress") or "", raw.get("PrivateIpAddress") or ""
        address = {"public": public, "private": private}.get(s.ssh_address, public or private)
        if raw["State"]["Name"] != "running" or not address:
            what = raw["State"]["Name"] if address else f"without a {s.ssh_address} address"
            raise UsageError(f"{instance_id} is {what}: nobody can log in")
        fingerprints = self._fingerprints(instance_id)
        return Target(address, user=s.ssh_user, key=s.private_key(), fingerprints=fingerprints)

    def _fingerprints(self, instance_id: str) -> tuple[str, ...]:
        """A machine's, as its console showed them: soon after its boot, or lately.

        What was shown lately is the console's end alone, out of which a machine that says much has pushed its boot.
        """
        told = {keys for late in (False, True) for keys in host_fingerprints(self._console(instance_id, latest=late))}
        if len(told) > 1:
            raise CloudError(
                f"the console of {instance_id} shows host keys that differ: one may be of somebody who runs there; "
                "log in by another way, or reboot"
            )
        if not told:
            raise CloudError(
                f"the console of {instance_id} does not show its host keys: without them it might be another machine; "
                "consoles are some minutes late, so try again, or see whether its image prints them"
            )
        return tuple(sorted(told.pop()))

    def preview(self, nodes: int) -> list[str]:
        """What a job would start, and about cost. Asks nothing that changes anything.

        Raises:
            UsageError: no image, or a job dearer than asked.
            CloudError: the image is not there, or the cloud can't be reached.
        """
        s = self._settings
        self._check()
        kinds = self._affordable("processor", nodes, [s.collector_type])
        where = s.endpoint_url or f"AWS, {self._client.meta.region_name}"
        return [
            f"on {where}, image {s.image}, for at most {s.max_lifetime_s / 3600:g} hours",
            f"1 collector, {s.collector_type}",
            f"{nodes} processors, {' or '.join(kinds)}{', spot if there is room' if s.spot else ''}",
            f"security group {s.security_group or f'{self._own_group}, made if it is not there'}",
            *s.encryption("volumes and objects at rest"),
            *([f"note: this cloud {_OPTIONAL['ClientToken']}"] if s.client_token == "no" else []),  # noqa: S105
            *(["note: nodes take version 1 of the metadata service, too"] if s.imdsv2 == "optional" else []),
            f"home {self._home}",
            self._preview_cost(kinds, nodes),
        ]

    def _preview_cost(self, kinds: Sequence[str], nodes: int) -> str:
        prices = [self._dollars([self._settings.collector_type, *[k] * nodes]) for k in kinds]
        known = sorted(f"{p:.2f}" for p in prices if p is not None)
        if len(known) < len(prices):
            return "cost: unknown for these types"
        region = self._client.meta.region_name
        least, most = min(known, key=float), max(known, key=float)
        told = f"about ${least}" if least == most else f"about ${least} to ${most}"
        return (
            f"cost: {told} an hour, on demand{'' if region == PRICED else f' in {PRICED}: {region} has its own prices'}"
        )

    # -- starting ------------------------------------------------------------------------------------------------------

    def _start_somewhere(
        self, role: Role, user_data: str, first: int, count: int, kinds: Sequence[str]
    ) -> dict[str, Any]:
        s = self._settings
        markets = (True, False) if s.spot and role == "processor" else (False,)
        places: list[dict[str, Any]] = [{"SubnetId": subnet} for subnet in s.subnets]
        places = places or [{"Placement": {"AvailabilityZone": zone}} for zone in s.zones] or [{}]
        ways = [(kind, place, spot) for spot in markets for kind in kinds for place in places]
        group = self._security_group()
        for n, (kind, place, spot) in enumerate(ways):
            params = self._params(role, user_data, first, count)
            params |= {"InstanceType": kind, "ClientToken": f"{self._job}-{role}-{first}-{n}"[-64:]}
            params |= place
            if group:
                params["SecurityGroupIds"] = [group]
            if spot:
                params["InstanceMarketOptions"] = {"MarketType": "spot"}
            try:
                return self._run(params, first)
            except _NoRoomError as e:
                if n == len(ways) - 1:
                    raise CloudError(f"no room for {count} {role}s anywhere that was named: {e}", ()) from e
        raise AssertionError("a way is always there")

    def _params(self, role: Role, user_data: str, first: int, count: int) -> dict[str, Any]:
        s = self._settings
        told = boot.as_shell_script(user_data, imdsv1=s.imdsv2 == "optional") if s.bare else user_data
        if len(told.encode()) > boot.USER_DATA_LIMIT:
            raise UsageError(f"user-data of {len(told.encode())} bytes: EC2 takes {boot.USER_DATA_LIMIT}")
        expires = datetime.fromtimestamp(time.time() + s.max_lifetime_s, UTC).isoformat(timespec="seconds")
        tags = [
            {"Key": key, "Value": value}
            for key, value in {
                "Name": f"vidcloud {self._job} {role}",
                f"{_TAG}job": self._job,
                f"{_TAG}role": role,
                f"{_TAG}owner": s.owner,
                f"{_TAG}expires": expires,
                f"{_TAG}home": self._home,
                f"{_TAG}ordinals": f"{first}+{count}",
            }.items()
        ]
        params: dict[str, Any] = {
            "ImageId": s.image,
            "MinCount": count,
            "MaxCount": count,
            "UserData": told,
            "InstanceInitiatedShutdownBehavior": "terminate",
            "TagSpecifications": [{"ResourceType": kind, "Tags": tags} for kind in ("instance", "volume")],
        }
        if s.imdsv2 == "required":
            params["MetadataOptions"] = {"HttpTokens": "required", "HttpEndpoint": "enabled"}
        if s.key:
            params["KeyName"] = s.key
        if s.instance_profile not in ("", "none") and role == "collector":
            by = "Arn" if s.instance_profile.startswith("arn:") else "Name"
            params["IamInstanceProfile"] = {by: s.instance_profile}
        if s.volume_gb or s.encrypted:
            root = {self._root_device: s.volume_gb or self._volumes.get(self._root_device, 0)}
            params["BlockDeviceMappings"] = []
            for name, size in ({**self._volumes, **root} if s.encrypted else root).items():
                disk: dict[str, Any] = {"DeleteOnTermination": True}
                if size:
                    disk["VolumeSize"] = size
                if s.encrypted:
                    disk["Encrypted"] = True
                params["BlockDeviceMappings"].append({"DeviceName": name, "Ebs": disk})
        return params

    def _run(self, params: dict[str, Any], first: int) -> dict[str, Any]:
        """RunInstances, once.

        With a token the cloud sees to that, however often it is asked. Where none is known to count, we look what there
        is before we ask, and after an answer that was lost.
        """
        if self._settings.client_token == "no":  # noqa: S105
            self._leave_out("ClientToken")
        for sent in range(_SENT_MOST):
            if not self._token_counts and (twin := self._by_ordinal(params, first)):
                return {"Instances": twin}
            try:
                answer = self._send(params, first)
            except _LostError as e:
                _event("answer_lost", level=logging.WARNING, why=str(e))
                if sent == _SENT_MOST - 1:
                    raise CloudError(f"{e}; if a machine came of it, `vidcloud reap` finds it", ()) from e
                time.sleep(_POLL_S)
            else:
                # What was asked for before may have come, too.
                return {"Instances": self._by_ordinal(params, first) or answer["Instances"]} if sent else answer
        raise AssertionError("it was sent")

    @property
    def _token_counts(self) -> bool:
        """Whether the cloud starts machines once for a token. AWS does; others may take it and not look at it."""
        told = self._settings.client_token
        aws = "amazonaws.com" in self._client.meta.endpoint_url
        return "ClientToken" not in self._without and (told == "yes" or (told == "auto" and aws))

    def _send(self, params: dict[str, Any], first: int) -> dict[str, Any]:
        """RunInstances, without what this cloud has been found not to know."""
        from botocore.exceptions import ClientError, ConnectionError, HTTPClientError  # noqa: A004, PLC0415

        while True:
            sent = {k: v for k, v in params.items() if k not in self._without}
            try:
                with _errors("start instances", let=(ClientError, ConnectionError, HTTPClientError)):
                    answer: dict[str, Any] = self._starter.run_instances(**sent)
            except (ConnectionError, HTTPClientError) as e:
                raise (CloudError if self._token_counts else _LostError)(_told("start instances", e)) from e
            except ClientError as e:
                code, text = e.response["Error"].get("Code", ""), e.response["Error"].get("Message", "")
                if code == "IdempotentParameterMismatch":
                    if twin := self._by_ordinal(params, first):
                        return {"Instances": twin}  # another launcher was faster to start the same nodes
                    raise _SpentTokenError(text) from e
                unknown = next((k for k in _OPTIONAL if k in sent and k.lower() in text.lower().replace(" ", "")), None)
                if code.startswith(_REFUSED) and unknown:
                    self._leave_out(unknown)
                    self.notes.append(f"this cloud {_OPTIONAL[unknown]}")
                    _event("cloud_lacks", what=unknown, why=_OPTIONAL[unknown])
                    continue
                if code.startswith(_NO_ROOM):
                    raise _NoRoomError(text or code) from e
                failed = e.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0) >= 500 or code in _BUSY
                if failed and not self._token_counts:
                    raise _LostError(_told("start instances", e)) from e
                raise CloudError(_told("start instances", e), ()) from e
            if "TagSpecifications" in self._without:
                self._tag_now(answer, params)
            return answer

    @property
    def _starter(self) -> Any:
        """The client for RunInstances: without a token that counts, botocore must not ask again by itself."""
        if self._token_counts:
            return self._client
        if self._kept_starter is None:
            self._kept_starter = connect(self._settings, attempts=1)
        return self._kept_starter

    def _leave_out(self, feature: str) -> None:
        self._without.add(feature)
        if feature == "ClientToken":
            # botocore puts one in by itself where there is none.
            self._starter.meta.events.register(
                "before-call.ec2.RunInstances",
                lambda params, **_: params["body"].pop("ClientToken", None) and None,
                unique_id="vidcloud-no-token",
            )

    def _tag_now(self, answer: dict[str, Any], params: dict[str, Any]) -> None:
        ids = [i["InstanceId"] for i in answer["Instances"]]
        tags = params["TagSpecifications"][0]["Tags"]
        try:
            with _errors("tag instances"):
                self._client.create_tags(Resources=ids, Tags=tags)
        except BaseException:
            self._end(ids)  # nobody would find them
            raise
        for i in answer["Instances"]:
            i["Tags"] = tags

    def _by_ordinal(self, params: dict[str, Any], first: int) -> list[dict[str, Any]]:
        """Machines that were started as the same nodes; those that were started a second time are ended."""
        role = next(t["Value"] for t in params["TagSpecifications"][0]["Tags"] if t["Key"] == f"{_TAG}role")
        found, most = [], 0
        for raw in self._describe([{"Name": f"tag:{_TAG}job", "Values": [self._job]}]):
            tags = _tags(raw)
            started = ordinals(tags.get(f"{_TAG}ordinals", ""))
            if tags.get(f"{_TAG}role") == role and started and started.start == first:
                found.append(raw)
                most = max(most, len(started))
        alive = sorted(
            (raw for raw in found if raw["State"]["Name"] in ("pending", "running")),
            key=lambda raw: (raw["LaunchTime"], raw["InstanceId"]),
        )
        if twice := [raw["InstanceId"] for raw in alive[most:]]:
            _event("started_twice", level=logging.WARNING, nodes=", ".join(twice))
            self._end(twice)
        return [raw for raw in found if raw["InstanceId"] not in twice]

    def _check(self) -> None:
        """The image is there. Once, before anything is made."""
        s = self._settings
        if not s.image:
            raise UsageError("--cloud ec2 needs -o image=ami-… (images/README.md tells how to make one)")
        if not self._checked:
            with _errors(f"find the image {s.image}"):
                images = self._client.describe_images(ImageIds=[s.image])["Images"]
            if not images:
                raise UsageError(f"no image {s.image} in this cloud and region")
            self._root_device = images[0].get("RootDeviceName") or "/dev/sda1"
            self._volumes = {
                m["DeviceName"]: m["Ebs"].get("VolumeSize", 0)
                for m in images[0].get("BlockDeviceMappings", ())
                if "Ebs" in m
            }
            self._checked = True

    def _affordable(self, role: Role, count: int, running: Sequence[str]) -> tuple[str, ...]:
        """Types that so many more nodes of a role may be of, in order: with each the job stays under its price cap.

        Raises:
            UsageError: there is none, or a price is not known.
        """
        s = self._settings
        kinds = s.processor_types if role == "processor" else (s.collector_type,)
        if not s.price_cap:
            return kinds
        if unknown := sorted({k for k in (*running, *kinds) if dollars_an_hour(k) is None}):
            raise UsageError(f"-o price_cap: the price of {', '.join(unknown)} is not known")
        prices = {k: self._dollars([*running, *[k] * count]) or 0.0 for k in kinds}
        if fitting := tuple(k for k in kinds if prices[k] <= s.price_cap):
            return fitting
        least = min(prices.values())
        raise UsageError(f"the job would cost about ${least:.2f} an hour, more than price_cap={s.price_cap:g}")

    def _dollars(self, kinds: Sequence[str]) -> float | None:
        prices = [dollars_an_hour(k) for k in kinds]
        return None if None in prices else sum(p for p in prices if p is not None)

    @property
    def _own_group(self) -> str:
        """A group's rules are for all jobs in it: those that encrypt have another."""
        return "vidcloud-encrypted" if self._settings.encrypt else "vidcloud"

    def _security_group(self) -> str:
        """The group's id; one of our own is made if it is not there: NFS, or its tunnel, and SSH among its members."""
        s = self._settings
        if s.security_group.startswith("sg-"):
            return s.security_group
        name = s.security_group or self._own_group
        vpc = self._vpc()
        with _errors("find the security group"):
            found = self._groups(name, vpc)
        if s.security_group:
            if not found:
                raise UsageError(f"no security group {s.security_group}: leave the setting out, and one is made")
            return str(found[0]["GroupId"])
        with _errors("make the security group"):
            group = found[0] if found else self._make_group(name, vpc)
            # Also of one that is there: who made it may have been killed before it had rules, or let in less.
            self._let_in(group)
        return str(group["GroupId"])

    def _vpc(self) -> str:
        """Id of the network where machines will be; "": the cloud has but one."""
        from botocore.exceptions import ClientError  # noqa: PLC0415

        with _errors("find the network"):
            if self._settings.subnets:
                return str(self._client.describe_subnets(SubnetIds=[self._settings.subnets[0]])["Subnets"][0]["VpcId"])
        with _errors("find the network", let=ClientError):
            try:
                found = self._client.describe_vpcs(Filters=[{"Name": "isDefault", "Values": ["true"]}])["Vpcs"]
            except ClientError as e:
                if e.response["Error"].get("Code") in _DENIED:
                    raise CloudError(_told("find the network", e), ()) from e
                return ""  # an older cloud, without such networks
        return str(found[0]["VpcId"]) if found else ""

    def _groups(self, name: str, vpc: str) -> list[dict[str, Any]]:
        filters = [{"Name": "group-name", "Values": [name]}]
        if vpc:
            filters.append({"Name": "vpc-id", "Values": [vpc]})
        return list(self._client.describe_security_groups(Filters=filters)["SecurityGroups"])

    def _make_group(self, name: str, vpc: str) -> dict[str, Any]:
        from botocore.exceptions import ClientError  # noqa: PLC0415

        what = "NFS in TLS" if self._settings.encrypt else "NFS"
        about = {"GroupName": name, "Description": f"vidcloud: {what} and SSH among nodes"}
        try:
            return dict(self._client.create_security_group(**about, **({"VpcId": vpc} if vpc else {})))
        except ClientError as e:
            if e.response["Error"].get("Code") != "InvalidGroup.Duplicate" or not (found := self._groups(name, vpc)):
                raise
            return found[0]  # another launch was faster

    def _let_in(self, group: dict[str, Any]) -> None:
        """Authorise what a group of our own lacks."""
        from botocore.exceptions import ClientError  # noqa: PLC0415

        s, own = self._settings, group["GroupId"]
        rules = [_rule(port, UserIdGroupPairs=[{"GroupId": own}]) for port in (22, _TUNNEL if s.encrypt else _NFS)]
        if s.ssh_from:
            rules.append(_rule(22, IpRanges=[{"CidrIp": s.ssh_from, "Description": "vidcloud ssh"}]))
        there = {who for p in group.get("IpPermissions", ()) for who in _admitted(p)}
        for rule in rules:
            if not _admitted(rule) <= there:
                try:
                    self._client.authorize_security_group_ingress(GroupId=own, IpPermissions=[rule])
                except ClientError as e:
                    if e.response["Error"].get("Code") != "InvalidPermission.Duplicate":  # another launch was faster
                        raise

    # -- describing ----------------------------------------------------------------------------------------------------

    @property
    def _client(self) -> Any:
        if self._kept_client is None:
            self._kept_client = connect(self._settings)
        return self._kept_client

    def _machines(self) -> list[Machine]:
        found = {
            m.instance.id: m
            for m in map(self._machine, self._describe([{"Name": f"tag:{_TAG}job", "Values": [self._job]}]))
        }
        now = time.monotonic()
        self._new = {k: v for k, v in self._new.items() if k not in found and now - v[0] < _SEEN_LATE_S}
        found |= {k: m for k, (_, m) in self._new.items()}
        return sorted(found.values(), key=_age)

    def _describe(self, filters: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        with _errors("list instances"):
            for page in self._client.get_paginator("describe_instances").paginate(Filters=filters):
                for reservation in page["Reservations"]:
                    yield from reservation["Instances"]

    @staticmethod
    def _machine(raw: dict[str, Any]) -> Machine:
        tags = _tags(raw)
        state = _STATES.get(raw["State"]["Name"], "pending")
        if state in ("pending", "running") and f"{_TAG}drain" in tags:
            state = "shutting-down"
        instance = Instance(
            raw["InstanceId"],
            "collector" if tags.get(f"{_TAG}role") == "collector" else "processor",
            state,  # type: ignore[arg-type]
            raw.get("PrivateIpAddress") or "",
            raw["LaunchTime"].timestamp(),
        )
        expires = tags.get(f"{_TAG}expires", "")
        with contextlib.suppress(ValueError):
            return Machine(
                instance,
                tags.get(f"{_TAG}job", ""),
                tags.get(f"{_TAG}owner", ""),
                datetime.fromisoformat(expires).timestamp() if expires else 0.0,
                tags.get(f"{_TAG}home", ""),
                raw.get("InstanceType", ""),
                tags.get(f"{_TAG}ordinals", ""),
            )
        return Machine(instance, tags.get(f"{_TAG}job", ""), "", 0.0, "", raw.get("InstanceType", ""))


def host_fingerprints(console: str) -> list[frozenset[str]]:
    """Fingerprints of a host's keys, ``SHA256:…``, of each block that cloud-init and our image print at boot."""
    found = (frozenset(re.findall(r"\bSHA256:[A-Za-z0-9+/]{43}", block[1])) for block in _KEYS.finditer(console))
    return [keys for keys in found if keys]


def all_machines(settings: EC2Settings, client: Any = None) -> list[Machine]:
    """All vidcloud instances of the account that are not gone, of all jobs, oldest first.

    Raises:
        CloudError: they can't be listed.
    """
    cloud = EC2Cloud("", settings, client=client)
    states = {"Name": "instance-state-name", "Values": ["pending", "running", "stopping", "stopped", "shutting-down"]}
    found = map(cloud._machine, cloud._describe([{"Name": "tag-key", "Values": [f"{_TAG}job"]}, states]))  # noqa: SLF001
    return sorted(found, key=_age)


def connect(settings: EC2Settings, attempts: int = 5) -> Any:
    """boto3's client of EC2, which asks so often before it gives up.

    Raises:
        CloudError: no region, or no credentials.
    """
    import boto3  # noqa: PLC0415 - a quarter of a second, only for those who use it
    from botocore.config import Config  # noqa: PLC0415

    keys: dict[str, Any] = {}
    if settings.access_key:
        keys = {"aws_access_key_id": settings.access_key, "aws_secret_access_key": settings.secret_key}
    region = settings.region or ("eucalyptus" if settings.endpoint_url else None)
    config = Config(
        retries={"mode": "standard", "total_max_attempts": attempts},
        connect_timeout=15,
        read_timeout=60,
        signature_version={"v4": None, "v2": "v2"}[settings.ec2_signature],
    )
    with _errors("reach EC2"):
        session = boto3.session.Session(region_name=region, **keys)
        return session.client("ec2", endpoint_url=settings.endpoint_url or None, config=config)


def _age(machine: Machine) -> tuple[float, str, int, str]:
    """Oldest first; the API tells whole seconds."""
    i = machine.instance
    return i.launched, i.role, ordinals(machine.ordinals).stop, i.id


class _SpentTokenError(Exception):
    """A token that was used for other machines, which are no more."""


class _LostError(Exception):
    """Nobody knows whether machines were started: there was no answer, or one that does not tell."""


class _NoRoomError(Exception):
    """No capacity of one kind in one place."""


def _rule(port: int, **who: Any) -> dict[str, Any]:
    return {"IpProtocol": "tcp", "FromPort": port, "ToPort": port, **who}


def _admitted(permission: dict[str, Any]) -> set[tuple[str, int | None, str]]:
    """Who may reach which port by a rule of a security group."""
    groups = [g.get("GroupId", "") for g in permission.get("UserIdGroupPairs", ())]
    ranges = [r["CidrIp"] for r in permission.get("IpRanges", ())]
    ports = {permission.get("FromPort"), permission.get("ToPort")}
    port = ports.pop() if len(ports) == 1 else None
    return {(permission.get("IpProtocol", ""), port, who) for who in (*groups, *ranges)}


def _tags(raw: dict[str, Any]) -> dict[str, str]:
    return {t["Key"]: t["Value"] for t in raw.get("Tags", ())}


@contextlib.contextmanager
def _errors(doing: str, let: type[Exception] | tuple[type[Exception], ...] = ()) -> Iterator[None]:
    from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415
    from botocore.parsers import ResponseParserError  # noqa: PLC0415

    try:
        yield
    except let:
        raise
    except ResponseParserError as e:
        raise CloudError(f"can't {doing}: what answers is no EC2; check -o endpoint_url", ()) from e
    except (BotoCoreError, ClientError) as e:
        raise CloudError(_told(doing, e), ()) from e


def _told(doing: str, error: Exception) -> str:
    """One line that says what and what to do."""
    name = type(error).__name__
    response = getattr(error, "response", None) or {}
    code, text = response.get("Error", {}).get("Code", ""), response.get("Error", {}).get("Message", "")
    if name in ("NoCredentialsError", "PartialCredentialsError"):
        return (
            "no credentials for EC2: run `aws configure`, set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
            "or give -o eucarc=FILE"
        )
    if name == "NoRegionError":
        return "no region for EC2: give -o region=… or set AWS_REGION"
    if name in ("EndpointConnectionError", "ConnectTimeoutError", "ConnectionClosedError", "ReadTimeoutError"):
        return f"can't {doing}: {error}; check -o endpoint_url and the network"
    if code in _DENIED:
        return f"can't {doing}: {code}: {text or 'not allowed'}; docs/iam-policy.json has what vidcloud needs"
    if code.startswith("InvalidAMI") or (code == "InvalidParameterValue" and "ami" in text.lower()):
        return f"can't {doing}: {text or code}; images are a region's own"
    return f"can't {doing}: {code + ': ' if code else ''}{text or error}"
