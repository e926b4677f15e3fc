"""EC2's Query protocol from the server's side, as botocore's own description of EC2 says it: shapes, names, types.

The inverse of ``botocore.serialize.EC2Serializer`` and ``botocore.parsers.EC2QueryParser``; the protocol is described
in AWS's `Query API reference <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/Query-Requests.html>`_.
"""

import base64
import binascii
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any
from xml.etree import ElementTree as ET

import botocore.session
from botocore.model import OperationModel, OperationNotFoundError, Shape
from botocore.utils import parse_timestamp
from botocore.validate import ParamValidator

_MAX_PARAMETERS = 2000
_VERSION = re.compile(r"\d{4}-\d{2}-\d{2}")


class Refusal(Exception):  # noqa: N818 - an answer of the protocol, not a fault of this program
    """What EC2 would answer instead of a result.

    Args:
        code: one of `EC2's codes <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/errors-overview.html>`_.
        message: for people.
        status: of HTTP.
    """

    def __init__(self, code: str, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.code, self.status = code, status


class Query:
    """Reads requests and writes answers."""

    def __init__(self) -> None:
        self._service = botocore.session.get_session().get_service_model("ec2")
        self._validator = ParamValidator()

    def read(self, fields: Iterable[tuple[str, str]]) -> tuple[str, dict[str, Any]]:
        """What is asked for: the operation's name, and its parameters as boto3 would take them.

        Args:
            fields: of the form, in any order.

        Raises:
            Refusal: no such operation, a parameter that it does not have, is missing, or is of another type.
        """
        given: dict[str, str] = {}
        for name, value in fields:
            if name in given or len(given) >= _MAX_PARAMETERS:
                raise Refusal("InvalidQueryParameter", f"too many parameters, or {name[:100]} given twice")
            given[name] = value
        action = given.pop("Action", "")
        for name in ("Version", "AWSAccessKeyId", "SignatureVersion", "SignatureMethod", "Timestamp", "Signature"):
            given.pop(name, None)
        try:
            operation = self._operation(action)
        except OperationNotFoundError:
            raise Refusal("InvalidAction", f"the action {action[:100]!r} is not one of EC2's") from None
        left = set(given)
        asked = {} if operation.input_shape is None else _structure(operation.input_shape, given, "", left)
        if left:
            raise Refusal("UnknownParameter", f"{action} has no parameter {min(left)[:100]}")
        if operation.input_shape is not None:
            report = self._validator.validate(asked, operation.input_shape)
            if report.has_errors():
                told = " ".join(report.generate_report().split())
                raise Refusal("MissingParameter" if "Missing required" in told else "InvalidParameterValue", told)
        return action, asked

    def write(self, action: str, told: Mapping[str, Any], request_id: str, version: str) -> bytes:
        """An answer as XML.

        Args:
            action: the operation's name.
            told: the result as boto3 would give it; members that the operation does not have raise `KeyError`.
            request_id: of this request.
            version: of the API, as the client asked for it; it goes into the name space.
        """
        operation = self._operation(action)
        root = ET.Element(f"{action}Response", xmlns=self._namespace(version))
        ET.SubElement(root, "requestId").text = request_id
        if operation.output_shape is None:
            ET.SubElement(root, "return").text = "true"
        else:
            _members(root, operation.output_shape, told)
        return _document(root)

    @staticmethod
    def write_refusal(refusal: Refusal, request_id: str) -> bytes:
        """A refusal as XML."""
        root = ET.Element("Response")
        error = ET.SubElement(ET.SubElement(root, "Errors"), "Error")
        ET.SubElement(error, "Code").text = refusal.code
        ET.SubElement(error, "Message").text = _clean(str(refusal))
        ET.SubElement(root, "RequestID").text = request_id
        return _document(root)

    def _operation(self, action: str) -> OperationModel:
        return self._service.operation_model(action)

    def _namespace(self, version: str) -> str:
        known = version if _VERSION.fullmatch(version) else self._service.api_version
        return f"http://ec2.amazonaws.com/doc/{known}/"


def _structure(shape: Any, given: Mapping[str, str], prefix: str, left: set[str]) -> dict[str, Any]:
    found = {}
    for name, member in shape.members.items():
        key = prefix + _wire_name(name, member)
        value = _value(member, given, key, left)
        if value is not None:
            found[name] = value
    return found


def _wire_name(name: str, member: Shape) -> str:
    """What a member is called in a request, by EC2's own rule."""
    if "queryName" in member.serialization:
        return str(member.serialization["queryName"])
    if "name" in member.serialization:
        wire = str(member.serialization["name"])
        return wire[0].upper() + wire[1:]
    return name


def _value(shape: Any, given: Mapping[str, str], key: str, left: set[str]) -> Any:
    if shape.type_name in {"structure", "list", "map"}:
        if not any(name.startswith(f"{key}.") for name in left):
            return None
        if shape.type_name == "structure":
            return _structure(shape, given, f"{key}.", left)
        places = {name[len(key) + 1 :].partition(".")[0] for name in left if name.startswith(f"{key}.")}
        if not all(place.isdecimal() for place in places):
            raise Refusal("InvalidParameterValue", f"{key[:100]} is a list: {key[:100]}.1, {key[:100]}.2, …")
        return [_value(shape.member, given, f"{key}.{place}", left) for place in sorted(places, key=int)]
    if key not in given:
        return None
    left.discard(key)
    return _scalar(shape.type_name, given[key], key)


def _scalar(kind: str, text: str, key: str) -> Any:
    try:
        match kind:
            case "integer" | "long":
                return int(text)
            case "float" | "double":
                return float(text)
            case "boolean":
                return {"true": True, "1": True, "false": False, "0": False}[text.lower()]
            case "timestamp":
                return parse_timestamp(text)
            case "blob":
                return base64.b64decode(text, validate=True)
            case _:
                return text
    except (ValueError, KeyError, binascii.Error, OverflowError):
        raise Refusal("InvalidParameterValue", f"{key[:100]} can't be {text[:100]!r}: it is a {kind}") from None


def _members(parent: ET.Element, shape: Any, told: Mapping[str, Any]) -> None:
    for name, value in told.items():
        member = shape.members[name]
        _add(parent, member.serialization.get("name", name), member, value)


def _add(parent: ET.Element, tag: str, shape: Any, value: Any) -> None:
    element = ET.SubElement(parent, tag)
    match shape.type_name:
        case "structure":
            _members(element, shape, value)
        case "list":
            for item in value:
                _add(element, shape.member.serialization.get("name", "item"), shape.member, item)
        case "boolean":
            element.text = "true" if value else "false"
        case "timestamp":
            element.text = datetime.fromtimestamp(value, UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")
        case _:
            element.text = _clean(str(value))


def _clean(text: str) -> str:
    """Without the characters that XML cannot hold."""
    return "".join(c for c in text if c.isprintable() or c in "\n\t")


def _document(root: ET.Element) -> bytes:
    return bytes(ET.tostring(root, encoding="utf-8", xml_declaration=True))
