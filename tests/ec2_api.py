"""An API of EC2's, played by a few lines, for tests that need it to refuse or to be late."""

import datetime as dt
import itertools

from botocore.exceptions import ClientError, ConnectionClosedError

from vidcloud.clouds.ec2 import EC2Cloud
from vidcloud.clouds.settings import EC2Settings

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
