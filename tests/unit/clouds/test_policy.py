"""docs/iam-policy.json against what a job asks of S3 and IAM; an S3 in memory is asked as the real one would be."""

import contextlib
import fnmatch
import io
import json
import types
from pathlib import Path

import pytest
from botocore.exceptions import ClientError

from vidcloud import home, storage
from vidcloud import job as jobs
from vidcloud.clouds.base import Instance
from vidcloud.clouds.ec2 import EC2Cloud
from vidcloud.clouds.settings import EC2Settings
from vidcloud.job import JobSpec
from vidcloud.launcher import Launcher
from vidcloud.sites import HomeSite

POLICY = json.loads((Path(__file__).parents[3] / "docs/iam-policy.json").read_text())
URL = "s3://BUCKET/PREFIX/j"


def statements(who, service):
    """Of a policy: actions of a service, resources, conditions."""
    for s in POLICY[who]["Statement"]:
        actions, resources = (x if isinstance(x, list) else [x] for x in (s["Action"], s["Resource"]))
        if mine := [a for a in actions if a.startswith(f"{service}:")]:
            yield mine, resources, s.get("Condition", {}).get("StringLike", {})


def allowed(who, action, resource, **context):
    """Whether one of the policy's statements allows a call."""
    return any(
        action in actions
        and any(fnmatch.fnmatchcase(resource, r) for r in resources)
        and all(fnmatch.fnmatchcase(context.get(k.partition(":")[2], ""), v) for k, v in condition.items())
        for actions, resources, condition in statements(who, "s3")
    )


class MemoryS3:
    """What boto3's client does with objects; it writes down which permissions that takes."""

    exceptions = types.SimpleNamespace(ClientError=ClientError)

    def __init__(self):
        self.objects, self.asked = {}, set()

    def _ask(self, action, key, **context):
        self.asked.add((f"s3:{action}", f"arn:aws:s3:::{key}", tuple(context.items())))

    def _found(self, bucket, key):
        self._ask("GetObject", f"{bucket}/{key}")
        if key not in self.objects:
            answer = {"Error": {"Code": "404"}, "ResponseMetadata": {"HTTPStatusCode": 404}}
            raise ClientError(answer, "GetObject")
        return self.objects[key]

    def head_object(self, Bucket, Key):  # noqa: N803
        self._found(Bucket, Key)

    def get_object(self, Bucket, Key):  # noqa: N803
        return {"Body": io.BytesIO(self._found(Bucket, Key))}

    def download_file(self, bucket, key, path):
        Path(path).write_bytes(self._found(bucket, key))

    def put_object(self, Bucket, Key, Body, **_):  # noqa: N803
        self._ask("PutObject", f"{Bucket}/{Key}")
        self.objects[Key] = Body

    def upload_file(self, path, bucket, key, **_):
        self._ask("AbortMultipartUpload", f"{bucket}/{key}")  # of a large one that breaks off
        self.put_object(bucket, key, Path(path).read_bytes())

    def delete_object(self, Bucket, Key):  # noqa: N803
        self._ask("DeleteObject", f"{Bucket}/{Key}")
        self.objects.pop(Key, None)

    def generate_presigned_url(self, _operation, Params, **_):  # noqa: N803
        self._ask("GetObject", f"{Params['Bucket']}/{Params['Key']}")  # in the name of who signed
        return f"https://s3/{Params['Key']}"

    def get_paginator(self, operation):
        return types.SimpleNamespace(paginate=getattr(self, operation))

    def list_multipart_uploads(self, Bucket, **_):  # noqa: N803
        self._ask("ListBucketMultipartUploads", Bucket)
        return [{}]

    def list_objects_v2(self, Bucket, Prefix, **_):  # noqa: N803
        self._ask("ListBucket", Bucket, prefix=Prefix)
        return [{"Contents": [{"Key": k} for k in self.objects if k.startswith(Prefix)]}]


class Paper:
    """Instances on paper."""

    lifetime_s, boot_timeout_s, encrypts, environment, home = 3600, 600, False, {}, URL

    def __init__(self):
        self.instances = []

    def run_instances(self, role, _line, count):
        n = len(self.instances)
        made = [Instance(f"i-{n + k}", role, "running", f"10.0.0.{n + k}", float(n + k)) for k in range(count)]
        self.instances += made
        return made

    def describe_instances(self):
        return list(self.instances)

    def terminate_instances(self, ids, *, drain=False):
        gone = "shutting-down" if drain else "terminated"
        self.instances = [
            Instance(i.id, i.role, gone, i.address, i.launched) if i.id in ids else i for i in self.instances
        ]

    def machines(self, nodes):
        return nodes

    def console_output(self, _instance):
        return ""


@pytest.fixture
def s3(monkeypatch):
    made = MemoryS3()
    for name in ("_s3", "_kept_s3"):
        monkeypatch.setattr(storage, name, lambda: made)
    monkeypatch.setattr("vidcloud.launcher.time.sleep", lambda _s: None)
    monkeypatch.setattr("vidcloud.launcher._END_S", 0.0)
    return made


def begun(folder):
    source = folder / "cat.avi"
    source.write_bytes(b"a cat")
    spec = JobSpec(
        id="j", created=0.0, input=f"{URL}/input/cat.avi", output=f"{URL}/output/cat.mp4", filters=(), encode={}
    )
    job = jobs.create(folder / "share", spec)
    job.write_site(
        {"cloud": "paper", "options": {}, "home": URL, "input": str(source), "output": f"file://{folder}/cat.mp4"}
    )
    return job


def judged(s3, who):
    """Calls that the policy does not allow, and actions that it allows and nobody asked for."""
    denied = {call for call in s3.asked if not allowed(who, call[0], call[1], **dict(call[2]))}
    return denied, {a for actions, *_ in statements(who, "s3") for a in actions} - {call[0] for call in s3.asked}


def test_a_launcher_may_do_what_it_does_and_no_more(s3, tmp_path):
    """A start, a look, scaling, the end with delivery; then a job that is cancelled."""
    launcher = Launcher(HomeSite(URL, Paper(), begun(tmp_path)))
    launcher.start(2)
    launcher.job.write_progress({"began": 0.0, "frames": {}})
    launcher.scale(1)
    launcher.logs(None)
    result = {"version": 1, "seconds": 1.0, "takeovers": 0, "frames": 9, "output": f"{URL}/output/cat.mp4"}

    def end(_status):
        s3.objects["PREFIX/j/output/cat.mp4"] = b"a neon cat"
        s3.objects["PREFIX/j/result.json"] = json.dumps({**result, "state": "done"}).encode()

    launcher.site.heard()
    launcher.supervise(end)
    assert (tmp_path / "cat.mp4").read_bytes() == b"a neon cat"
    launcher.site.notes()
    del s3.objects["PREFIX/j/result.json"]
    launcher.cancel()
    assert judged(s3, "launcher") == (set(), set())


def test_a_collector_may_do_what_it_does_and_no_more(s3, tmp_path):
    """It fetches the input, mirrors, stores the output and its proof; it removes nothing."""
    job = begun(tmp_path)
    job.make()
    s3.objects["PREFIX/j/input/cat.avi"] = b"a cat"
    storage.get(f"{URL}/input/cat.avi", job.scratch / "cat.avi")
    (job.logs / "i-0.log").write_text("working")
    mirror = home.Mirror(job, home.Home(URL))
    with mirror.running():
        made = job.scratch / "cat.mp4"
        made.write_bytes(b"a neon cat")
        storage.put(made, f"{URL}/output/cat.mp4", force=False)
        job.write_result({"version": 1, "state": "done", "output": f"{URL}/output/cat.mp4"})
        mirror.finish()
    assert judged(s3, "collector") == (set(), set())


def test_a_role_is_passed_to_the_collector_alone_and_to_no_service_but_ec2():
    sent = []

    class Api:
        meta = types.SimpleNamespace(endpoint_url="https://ec2.x.amazonaws.com")

        def describe_images(self, **_):
            return {"Images": [{}]}

        def get_paginator(self, _name):
            return types.SimpleNamespace(paginate=lambda **_: [])

        def run_instances(self, **params):
            sent.append("IamInstanceProfile" in params)
            raise ClientError({"Error": {"Code": "Stop"}}, "RunInstances")

    settings = EC2Settings(image="ami-1", security_group="sg-1", instance_profile="vidcloud-collector")
    for role in ("collector", "processor"):
        with contextlib.suppress(Exception):
            EC2Cloud("j", settings, URL, Api()).run_instances(role, "line", 1)
    assert sent == [True, False]
    [passing] = [s for s in POLICY["launcher"]["Statement"] if s["Action"] == "iam:PassRole"]
    assert passing["Resource"].endswith(":role/vidcloud-collector")
    assert passing["Condition"] == {"StringEquals": {"iam:PassedToService": "ec2.amazonaws.com"}}
