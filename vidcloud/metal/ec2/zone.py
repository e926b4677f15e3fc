"""What EC2's operations mean for machines of a Cobbler. All state is Cobbler's, and written by `Reservations` alone.

An image is a profile, an availability zone a group, an instance a machine that the key's user has reserved, however it
came to be. ``vidcloud_tags`` has an instance's tags, and ``vidcloud_line`` its user-data, both in base64.
"""

import base64
import fnmatch
import hashlib
import json
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from vidcloud.errors import CapacityError, CloudError, EndedError, UsageError
from vidcloud.metal.cobbler import Cobbler, System
from vidcloud.metal.ec2.query import Refusal
from vidcloud.metal.instances import FAILED, FREE, RUNNING, STOPPED, TERMINATING, Instance, Instances
from vidcloud.metal.reservations import Change, LockedReservations, Request

T = TypeVar("T")

_STATES = {
    RUNNING: (16, "running"),
    TERMINATING: (32, "shutting-down"),
    FAILED: (80, "stopped"),
    STOPPED: (80, "stopped"),
    FREE: (48, "terminated"),
}
_PENDING = (0, "pending")
_SHOWN_S = 3600.0
_USER_DATA = 16384
_TAG_TRIES = 10
_UNDERSTOOD = {
    "RunInstances": {
        "ImageId", "MinCount", "MaxCount", "Placement", "UserData", "TagSpecifications", "ClientToken", "DryRun",
        "InstanceType", "InstanceInitiatedShutdownBehavior",
    },
    "DescribeInstances": {"InstanceIds", "Filters", "DryRun", "MaxResults", "NextToken"},
    "TerminateInstances": {"InstanceIds", "DryRun", "Force", "SkipOsShutdown"},
    "RebootInstances": {"InstanceIds", "DryRun"},
    "DescribeImages": {"ImageIds", "Owners", "Filters", "DryRun", "MaxResults", "NextToken",
                       "IncludeDeprecated", "IncludeDisabled"},
    "DescribeAvailabilityZones": {"ZoneNames", "ZoneIds", "Filters", "DryRun", "AllAvailabilityZones"},
    "CreateTags": {"Resources", "Tags", "DryRun"},
    "DeleteTags": {"Resources", "Tags", "DryRun"},
    "DescribeTags": {"Filters", "DryRun", "MaxResults", "NextToken"},
    "DescribeInstanceAttribute": {"InstanceId", "Attribute", "DryRun"},
}  # fmt: skip
"""What of an operation means something here. Anything else is refused: nobody shall believe in a disk not there."""


@dataclass(frozen=True)
class _Ended:
    """An instance that was terminated: EC2 shows it for an hour, and so do we, as long as this process lives."""

    at: float
    system: System
    instance: Instance


class Zone:
    """Operations in the name of users. May be used from several threads.

    Args:
        cobbler: to read from.
        reservations: through which all is written.
        instances: gives those in a user's name.
    """

    def __init__(
        self, cobbler: Cobbler, reservations: LockedReservations, instances: Callable[[str], Instances]
    ) -> None:
        self._cobbler, self._reservations, self._instances = cobbler, reservations, instances
        self._ended: dict[str, _Ended] = {}
        self._ended_lock = threading.Lock()
        self._operations: dict[str, Callable[[str, dict[str, Any]], Mapping[str, Any]]] = {
            "RunInstances": self._run,
            "DescribeInstances": self._describe,
            "TerminateInstances": self._terminate,
            "RebootInstances": self._reboot,
            "DescribeImages": self._images,
            "DescribeAvailabilityZones": self._zones,
            "CreateTags": self._create_tags,
            "DeleteTags": self._delete_tags,
            "DescribeTags": self._tags,
            "DescribeInstanceAttribute": self._attribute,
        }

    def do(self, user: str, action: str, asked: dict[str, Any]) -> Mapping[str, Any]:
        """An operation's result, as boto3 would give it.

        Raises:
            Refusal: it can't be done.
        """
        if action not in self._operations:
            raise Refusal(
                "UnsupportedOperation", f"a bare-metal zone has no {action}; it has {', '.join(self._operations)}"
            )
        if more := sorted(set(asked) - _UNDERSTOOD[action]):
            raise Refusal("UnsupportedOperation", f"{more[0]} means nothing in a bare-metal zone: leave it out")
        try:
            return self._operations[action](user, asked)
        except EndedError as e:
            raise Refusal("InvalidInstanceID.NotFound", str(e)) from e
        except CapacityError as e:
            raise Refusal("InsufficientInstanceCapacity", str(e)) from e
        except UsageError as e:
            raise Refusal("InvalidParameterValue", str(e)) from e
        except CloudError as e:
            raise Refusal("InternalError", str(e), 500) from e

    # -- instances -----------------------------------------------------------------------------------------------------

    def _run(self, user: str, asked: dict[str, Any]) -> Mapping[str, Any]:
        if "ImageId" not in asked:  # EC2 may have it from a launch template
            raise Refusal("MissingParameter", "RunInstances needs an ImageId")
        profile = self._profile(asked["ImageId"])
        kind, ending = asked.get("InstanceType", "metal"), asked.get("InstanceInitiatedShutdownBehavior", "terminate")
        if kind != "metal":
            raise Refusal("InvalidParameterValue", f"InstanceType can't be {kind!r}: machines are of type metal")
        if ending != "terminate":
            raise Refusal("InvalidParameterValue", "a machine that goes off ends: no other ShutdownBehavior is had")
        least, most = asked["MinCount"], asked["MaxCount"]
        if not 1 <= least <= most:
            raise Refusal(
                "InvalidParameterValue", f"MinCount {least} and MaxCount {most}: 1 or more, and the first no larger"
            )
        groups = self._placed(asked.get("Placement", {}))
        line = _user_data(asked.get("UserData", ""))
        tags: dict[str, str] = {}
        for told in asked.get("TagSpecifications", []):
            if told.get("ResourceType") != "instance":
                raise Refusal("InvalidParameterValue", f"tags of {told.get('ResourceType')}: only an instance has tags")
            tags |= _given_tags(told.get("Tags", []))
        wanted = json.dumps([profile, least, most, groups, line, tags], sort_keys=True)
        fingerprint = hashlib.sha256(wanted.encode()).hexdigest()[:16]
        token = asked.get("ClientToken") or uuid.uuid4().hex
        request = Request(
            user,
            count=most,
            at_least=least,
            groups=groups,
            id=f"r-{hashlib.sha256(f'{user} {token}'.encode()).hexdigest()[:17]}",
            meta={"launch": f"{fingerprint}-{uuid.uuid4().hex[:12]}", **({"tags": _packed(tags)} if tags else {})},
        )
        if asked.get("DryRun"):
            self._reservations.free(request)
        _dry(asked)
        with self._ended_lock:
            used = any(e.instance.reservation == request.id for e in self._ended.values())
        if used:  # a token that was used starts nothing again
            shown = [(s, i) for s, i in self._all(user) if i.reservation == request.id]
        else:
            started = self._instances(user).run(request, profile, (lambda _: line) if line else None)
            systems = {s.name: s for s in self._cobbler.systems() if s.get("reservation") == request.id}
            shown = [(systems[i.name], i) for i in started if i.name in systems]
        if any(not s.get("launch").startswith(f"{fingerprint}-") for s, _ in shown):
            raise Refusal("IdempotentParameterMismatch", "this ClientToken was used with other parameters")
        return self._reservation(request.id, user, shown)

    def _describe(self, user: str, asked: dict[str, Any]) -> Mapping[str, Any]:
        _dry(asked)
        found = self._all(user)
        if "InstanceIds" in asked:
            known = {instance_id(s) for s, _ in found}
            if missing := [i for i in asked["InstanceIds"] if i not in known]:
                raise Refusal("InvalidInstanceID.NotFound", f"no instance {', '.join(missing)}")
            found = [(s, i) for s, i in found if instance_id(s) in asked["InstanceIds"]]
        fields: dict[str, Callable[[tuple[System, Instance]], Iterable[str]]] = {
            "instance-id": lambda x: [instance_id(x[0])],
            "instance-state-name": lambda x: [_state(x[1])["Name"]],
            "instance-state-code": lambda x: [str(_state(x[1])["Code"])],
            "image-id": lambda x: [image_id(x[1].profile), x[1].profile],
            "availability-zone": lambda x: [x[1].group],
            "private-ip-address": lambda x: [x[1].ip],
            "ip-address": lambda x: [x[1].ip],
            "private-dns-name": lambda x: [x[1].name],
            "dns-name": lambda x: [x[1].name],
            "reservation-id": lambda x: [x[1].reservation],
            "instance-type": lambda _: ["metal"],
        }
        found = _filtered(found, asked, fields, lambda x: _tags_of(x[0]))
        shown, more = _page(found, asked, lambda x: (x[1].reservation, x[1].name))
        by_reservation: dict[str, list[tuple[System, Instance]]] = {}
        for system, instance in shown:
            by_reservation.setdefault(instance.reservation, []).append((system, instance))
        return {"Reservations": [self._reservation(r, user, its) for r, its in by_reservation.items()], **more}

    def _terminate(self, user: str, asked: dict[str, Any]) -> Mapping[str, Any]:
        chosen = self._own(user, asked["InstanceIds"])
        _dry(asked)
        before = {instance_id(s): (s, i) for s, i in self._all(user) if instance_id(s) in asked["InstanceIds"]}
        living = [s for s in chosen if instance_id(s) not in self._ended]
        if living:
            of = {s.name: s.get("reservation") for s in living}
            try:
                self._instances(user).terminate(list(of), of=of)
            finally:  # if some could not be switched off, the others have ended all the same
                left = {instance_id(s) for s in self._cobbler.systems()}
                with self._ended_lock:
                    for id_, (system, instance) in before.items():
                        if id_ not in left:
                            self._ended.setdefault(id_, _Ended(time.time(), system, instance))
        return {
            "TerminatingInstances": [
                {"InstanceId": i, "PreviousState": _state(instance), "CurrentState": {"Code": 48, "Name": "terminated"}}
                for i, (_, instance) in before.items()
            ]
        }

    def _reboot(self, user: str, asked: dict[str, Any]) -> Mapping[str, Any]:
        chosen = self._own(user, asked["InstanceIds"])
        _dry(asked)
        if gone := [i for i in map(instance_id, chosen) if i in self._ended]:
            raise Refusal("IncorrectInstanceState", f"{', '.join(gone)} was terminated")
        self._instances(user).reboot([s.name for s in chosen], {s.name: s.get("reservation") for s in chosen})
        return {}

    def _attribute(self, user: str, asked: dict[str, Any]) -> Mapping[str, Any]:
        [system] = self._own(user, [asked["InstanceId"]])
        _dry(asked)
        if asked["Attribute"] != "userData":
            raise Refusal("UnsupportedOperation", f"a bare-metal instance has no {asked['Attribute']}; it has userData")
        line = system.get("line")
        return {"InstanceId": instance_id(system), "UserData": {"Value": line} if line else {}}

    def _all(self, user: str) -> list[tuple[System, Instance]]:
        """One's own instances, and those that ended lately."""
        systems = [s for s in self._cobbler.systems() if s.get("user") == user]
        with self._ended_lock:
            self._ended = {i: e for i, e in self._ended.items() if e.at > time.time() - _SHOWN_S}
            gone = [e for e in self._ended.values() if e.system.get("user") == user]
        living = list(zip(systems, self._instances(user).look(systems), strict=True))
        return [*living, *((e.system, _as_ended(e.instance)) for e in gone)]

    def _own(self, user: str, ids: Sequence[str]) -> list[System]:
        """The machines of instances, if all are one's own.

        Raises:
            Refusal: there is no such instance, or one is somebody else's.
        """
        known = {instance_id(s): s for s in self._cobbler.systems() if s.get("user")}
        with self._ended_lock:
            known |= {i: e.system for i, e in self._ended.items() if i not in known}
        if missing := [i for i in ids if i not in known]:
            raise Refusal("InvalidInstanceID.NotFound", f"no instance {', '.join(missing)}")
        if foreign := [i for i in ids if known[i].get("user") != user]:
            raise Refusal("UnauthorizedOperation", f"not yours: {', '.join(foreign)}", 403)
        return [known[i] for i in dict.fromkeys(ids)]

    def _reservation(self, name: str, user: str, shown: list[tuple[System, Instance]]) -> Mapping[str, Any]:
        return {
            "ReservationId": name,
            "OwnerId": user,
            "Groups": [],
            "Instances": [_shown(s, i, n) for n, (s, i) in enumerate(shown)],
        }

    # -- images and zones ----------------------------------------------------------------------------------------------

    def _images(self, user: str, asked: dict[str, Any]) -> Mapping[str, Any]:
        _dry(asked)
        names = [p["name"] for p in self._cobbler.profiles()]
        if "Owners" in asked and not {"self", user} & set(asked["Owners"]):
            names = []  # who looks for Amazon's finds none
        if "ImageIds" in asked:
            chosen = [self._profile(i) for i in asked["ImageIds"]]
            names = [n for n in names if n in chosen]
        fields: dict[str, Callable[[str], Iterable[str]]] = {
            "image-id": lambda n: [image_id(n), n],
            "name": lambda n: [n],
            "state": lambda _: ["available"],
            "image-type": lambda _: ["machine"],
        }
        shown, more = _page(_filtered(names, asked, fields, lambda _: {}), asked, lambda n: (n,))
        about = {"OwnerId": user, "State": "available", "ImageType": "machine", "Public": True}
        return {"Images": [{"ImageId": image_id(n), "Name": n, **about} for n in shown], **more}

    def _profile(self, image: str) -> str:
        """The profile that an image id names, or a profile's own name."""
        for profile in self._cobbler.profiles():
            if image in {profile["name"], image_id(profile["name"])}:
                return profile["name"]
        raise Refusal("InvalidAMIID.NotFound", f"no image {image[:100]!r}: DescribeImages has those there are")

    def _zones(self, _user: str, asked: dict[str, Any]) -> Mapping[str, Any]:
        _dry(asked)
        groups = self._groups()
        for key in ("ZoneNames", "ZoneIds"):
            if missing := [z for z in asked.get(key, []) if z not in groups]:
                raise Refusal("InvalidParameterValue", f"no availability zone {', '.join(missing)}")
            groups = [g for g in groups if g in asked.get(key, groups)]
        fields: dict[str, Callable[[str], Iterable[str]]] = {
            "zone-name": lambda g: [g],
            "zone-id": lambda g: [g],
            "state": lambda _: ["available"],
            "zone-type": lambda _: ["availability-zone"],
        }
        return {
            "AvailabilityZones": [
                {
                    "ZoneName": g,
                    "ZoneId": g,
                    "RegionName": "metal",
                    "State": "available",
                    "ZoneType": "availability-zone",
                }
                for g in _filtered(groups, asked, fields, lambda _: {})
            ]
        }

    def _groups(self) -> list[str]:
        return sorted({s.get("group") for s in self._cobbler.systems()} - {""})

    def _placed(self, placement: Mapping[str, Any]) -> tuple[str, ...]:
        if more := sorted(set(placement) - {"AvailabilityZone"}):
            raise Refusal("UnsupportedOperation", f"Placement's {more[0]} means nothing in a bare-metal zone")
        zone = placement.get("AvailabilityZone")
        if zone and zone not in self._groups():
            raise Refusal("InvalidParameterValue", f"no availability zone {zone[:100]!r}: {', '.join(self._groups())}")
        return (zone,) if zone else ()

    # -- tags ----------------------------------------------------------------------------------------------------------

    def _create_tags(self, user: str, asked: dict[str, Any]) -> Mapping[str, Any]:
        given = _given_tags(asked["Tags"])
        return self._tagged(user, asked, lambda tags: tags | given)

    def _delete_tags(self, user: str, asked: dict[str, Any]) -> Mapping[str, Any]:
        if "Tags" not in asked:
            return self._tagged(user, asked, lambda _: {})
        # Without a value whatever it has goes; with one, only if it has that.
        gone = [(tag.get("Key", ""), tag.get("Value")) for tag in asked["Tags"]]
        return self._tagged(
            user,
            asked,
            lambda tags: {
                k: v for k, v in tags.items() if not any(k == key and value in {None, v} for key, value in gone)
            },
        )

    def _tagged(
        self, user: str, asked: dict[str, Any], change: Callable[[dict[str, str]], dict[str, str]]
    ) -> Mapping[str, Any]:
        chosen = self._own(user, asked["Resources"])
        _dry(asked)
        for system in chosen:
            self._tag(user, system, change)
        return {}

    def _tag(self, user: str, system: System, change: Callable[[dict[str, str]], dict[str, str]]) -> None:
        for attempt in range(_TAG_TRIES):
            tags = change(_tags_of(system))
            meta = {"tags": _packed(tags) if tags else None}
            try:
                self._reservations.change(
                    Change(
                        system.name, user, "tag", system.get("reservation"), meta, expects={"tags": system.get("tags")}
                    )
                )
            except EndedError:
                raise
            except UsageError:
                if attempt == _TAG_TRIES - 1:
                    raise
                system = self._cobbler.system(system.name)  # somebody else changed its tags meanwhile
            else:
                return

    def _tags(self, user: str, asked: dict[str, Any]) -> Mapping[str, Any]:
        _dry(asked)
        rows = [
            {"ResourceId": instance_id(s), "ResourceType": "instance", "Key": key, "Value": value}
            for s in self._cobbler.systems()
            if s.get("user") == user
            for key, value in _tags_of(s).items()
        ]
        fields: dict[str, Callable[[dict[str, str]], Iterable[str]]] = {
            "resource-id": lambda r: [r["ResourceId"]],
            "resource-type": lambda r: [r["ResourceType"]],
            "key": lambda r: [r["Key"]],
            "value": lambda r: [r["Value"]],
        }
        found = _filtered(rows, asked, fields, lambda r: {r["Key"]: r["Value"]})
        shown, more = _page(found, asked, lambda r: (r["ResourceId"], r["Key"]))
        return {"Tags": shown, **more}


def instance_id(system: System) -> str:
    """Of a machine in a reservation: another one when it is reserved again."""
    told = f"{system.get('reservation')} {system.name}"
    return f"i-{hashlib.sha256(told.encode()).hexdigest()[:17]}"


def image_id(profile: str) -> str:
    """Of a profile, by its name."""
    return f"ami-{hashlib.sha256(profile.encode()).hexdigest()[:17]}"


def _shown(system: System, instance: Instance, index: int) -> dict[str, Any]:
    told = {
        "InstanceId": instance_id(system),
        "ImageId": image_id(instance.profile),
        "State": _state(instance),
        "PrivateDnsName": instance.name,
        "PublicDnsName": instance.name,
        "AmiLaunchIndex": index,
        "InstanceType": "metal",
        "LaunchTime": instance.since_s,
        "Placement": {"AvailabilityZone": instance.group},
        "Architecture": "x86_64",
        "Tags": [{"Key": key, "Value": value} for key, value in _tags_of(system).items()],
    }
    if instance.ip:
        told |= {"PrivateIpAddress": instance.ip, "PublicIpAddress": instance.ip}
    if instance.reason:
        told["StateReason"] = {"Code": "Server.InternalError", "Message": instance.reason}
    return told


def _state(instance: Instance) -> dict[str, Any]:
    code, name = _STATES.get(instance.state, _PENDING)
    return {"Code": code, "Name": name}


def _as_ended(instance: Instance) -> Instance:
    return Instance(**{**vars(instance), "state": FREE, "reason": ""})


def _filtered(
    found: Iterable[T],
    asked: Mapping[str, Any],
    fields: Mapping[str, Callable[[T], Iterable[str]]],
    tags: Callable[[T], Mapping[str, str]],
) -> list[T]:
    """Those that fit all filters; of a filter's values any. ``*`` and ``?`` stand for others, as in EC2."""
    kept = list(found)
    for told in asked.get("Filters", []):
        name, values = told.get("Name", ""), told.get("Values", [])
        if name.startswith("tag:"):
            kept = [x for x in kept if _fits([v for k, v in tags(x).items() if k == name[4:]], values)]
        elif name == "tag-key":
            kept = [x for x in kept if _fits(tags(x), values)]
        elif name == "tag-value":
            kept = [x for x in kept if _fits(tags(x).values(), values)]
        elif name in fields:
            kept = [x for x in kept if _fits(fields[name](x), values)]
        else:
            raise Refusal(
                "InvalidParameterValue", f"no filter {name[:100]!r}: {', '.join(fields)}, tag:…, tag-key, tag-value"
            )
    return kept


def _page(
    found: Iterable[T], asked: Mapping[str, Any], key: Callable[[T], tuple[str, ...]]
) -> tuple[list[T], dict[str, str]]:
    """The page asked for, by order of keys, and what to ask for the next one with, if there is one.

    A page begins after the last key of the one before, so that none is left out or told twice, whatever came or went.

    Raises:
        Refusal: no such page.
    """
    left, most = sorted(found, key=key), asked.get("MaxResults")
    if most is not None and most < 1:
        raise Refusal("InvalidParameterValue", f"MaxResults can't be {most}: 1 or more")
    if "NextToken" in asked:
        try:
            last = json.loads(base64.b64decode(asked["NextToken"], validate=True))
        except ValueError:
            last = None
        if not isinstance(last, list) or not all(isinstance(part, str) for part in last):
            raise Refusal("InvalidNextToken", "NextToken is not one that was given here")
        left = [x for x in left if key(x) > tuple(last)]
    if most is None or most >= len(left):
        return left, {}
    return left[:most], {"NextToken": base64.b64encode(json.dumps(key(left[most - 1])).encode()).decode()}


def _fits(have: Iterable[Any], values: Sequence[str]) -> bool:
    patterns = [value.replace("[", "[[]") for value in values]
    return any(fnmatch.fnmatchcase(text, pattern) for text in have for pattern in patterns)


def _dry(asked: Mapping[str, Any]) -> None:
    """All was looked at; a dry run ends here, by EC2's way of saying yes."""
    if asked.get("DryRun"):
        raise Refusal("DryRunOperation", "Request would have succeeded, but DryRun flag is set.", 412)


def _user_data(text: str) -> str:
    """User-data as it came, in base64.

    Raises:
        Refusal: it is no base64, or longer than EC2 takes.
    """
    try:
        size = len(base64.b64decode(text, validate=True))
    except ValueError:
        raise Refusal("InvalidParameterValue", "UserData must be base64") from None
    if size > _USER_DATA:
        raise Refusal("InvalidParameterValue", f"User data is limited to {_USER_DATA} bytes")
    return text


def _given_tags(told: Iterable[Mapping[str, str]]) -> dict[str, str]:
    tags = {tag.get("Key", ""): tag.get("Value", "") for tag in told}
    for key, value in tags.items():
        if not 1 <= len(key) <= 127 or len(value) > 255:
            raise Refusal("InvalidParameterValue", "a tag's key has 1 to 127 characters, its value up to 255")
    if len(tags) > 50:
        raise Refusal("TagLimitExceeded", "50 tags at most")
    return tags


def _packed(tags: Mapping[str, str]) -> str:
    if len(tags) > 50:
        raise Refusal("TagLimitExceeded", "50 tags at most")
    return base64.b64encode(json.dumps(tags, sort_keys=True).encode()).decode()


def _tags_of(system: System) -> dict[str, str]:
    try:
        found = json.loads(base64.b64decode(system.get("tags") or "e30="))
        return {str(key): str(value) for key, value in found.items()}
    except (ValueError, AttributeError):  # somebody wrote there
        return {}
