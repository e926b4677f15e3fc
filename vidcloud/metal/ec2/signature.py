"""Who asks: AWS's Signature Version 4, checked by making the signature again with botocore's own signer.

Described in `AWS's guide <https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv.html>`_.
"""

import hashlib
import hmac
import re
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from vidcloud.errors import UsageError
from vidcloud.metal.config import check_user, secret
from vidcloud.metal.ec2.query import Refusal

_AUTHORIZATION = re.compile(
    r"AWS4-HMAC-SHA256\s+Credential=([^/,\s]+)/(\d{8})/([A-Za-z0-9-]+)/([a-z0-9]+)/aws4_request,"
    r"\s*SignedHeaders=([a-z0-9;-]+),\s*Signature=([0-9a-f]{64})"
)
_DATE = "%Y%m%dT%H%M%SZ"
_SKEW_S = 300.0


class AccessKey(NamedTuple):
    """A secret, and whose it is."""

    secret: str
    user: str


def read_access_keys(path: Path) -> dict[str, AccessKey]:
    """Keys by their id, of lines ``ACCESS_KEY SECRET USER``; ``#`` starts a comment.

    Raises:
        UsageError: the file can't be read, or by others too; a line is not like that; a secret is short, or a
            key comes twice.
    """
    found: dict[str, AccessKey] = {}
    for n, line in enumerate(secret(path).splitlines(), 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        if len(words) != 3 or len(words[1]) < 16 or words[0] in found or not words[0].isalnum():
            raise UsageError(
                f"{path}, line {n}: must be ACCESS_KEY SECRET USER: a key of its own, of letters and digits, and a "
                "secret of 16 characters or more"
            )
        found[words[0]] = AccessKey(words[1], check_user(words[2]))
    if not found:
        raise UsageError(f"{path}: no access keys")
    return found


def check_signature(
    keys: Mapping[str, AccessKey],
    method: str,
    target: str,
    headers: Mapping[str, str],
    body: bytes,
    now: float | None = None,
) -> str:
    """Whose request this is.

    Args:
        keys: by id.
        method: of HTTP.
        target: path and query, as they came.
        headers: by name in lower case.
        body: all of it.
        now: seconds since 1970.

    Raises:
        Refusal: it is not signed, not by a known key, not rightly, not for EC2, or more than 5 minutes ago (or ahead).
    """
    told = headers.get("authorization", "")
    if not (parts := _AUTHORIZATION.fullmatch(told.strip())):
        raise Refusal("AuthFailure", "sign with version 4, in the header Authorization (other ways are not taken)", 401)
    key_id, day, region, service, names, given = parts.groups()
    if service != "ec2":
        raise Refusal("SignatureDoesNotMatch", f"signed for {service}, not for ec2", 403)
    signed = names.split(";")
    if not {"host", "x-amz-date"} <= set(signed) or not set(signed) <= set(headers):
        raise Refusal("SignatureDoesNotMatch", "host and x-amz-date must be signed, and what is signed be there", 403)
    stamp = headers["x-amz-date"]
    try:
        when = datetime.strptime(stamp, _DATE).replace(tzinfo=UTC).timestamp()
    except ValueError:
        raise Refusal("AuthFailure", "x-amz-date is no date", 401) from None
    if not stamp.startswith(day) or abs((time.time() if now is None else now) - when) > _SKEW_S:
        raise Refusal("RequestExpired", f"signed at {stamp}, which is more than 5 minutes from this clock's time")
    claimed = headers.get("x-amz-content-sha256")
    if claimed is not None and claimed != hashlib.sha256(body).hexdigest():
        raise Refusal("SignatureDoesNotMatch", "the body is not the one that x-amz-content-sha256 tells", 403)
    # An unknown key takes as long as a wrong secret.
    key = keys.get(key_id)
    signer = SigV4Auth(Credentials(key_id, key.secret if key else "unknown"), service, region)
    request = AWSRequest(method, f"http://{headers['host']}{target}", {name: headers[name] for name in signed}, body)
    request.context["timestamp"] = stamp
    canonical = signer.canonical_request(request)
    ours = signer.signature(signer.string_to_sign(request, canonical), request)
    right = hmac.compare_digest(ours, given)
    if key is None:
        raise Refusal("AuthFailure", "this access key is not known here", 401)
    if not right:
        raise Refusal("SignatureDoesNotMatch", "the signature does not fit: is the secret key right?", 403)
    return key.user
