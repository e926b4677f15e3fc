"""A job whose home is a folder, and a cloud that only writes down what it is asked."""

from vidcloud import job as jobs
from vidcloud.clouds.base import Instance
from vidcloud.job import JobSpec
from vidcloud.sites import HomeSite


class PaperCloud:
    """Instances on paper; the collector's has an address."""

    lifetime_s = 3600
    boot_timeout_s = 600
    encrypts = False
    environment = {"AWS_REGION": "mars-1"}

    def __init__(self, home_url):
        self.home = home_url
        self.instances = []
        self.lines = []
        self.drained = []

    def run_instances(self, role, user_data, count):
        self.lines.append(user_data)
        first = len(self.instances)
        made = [
            Instance(f"i-{first + n}", role, "running", f"10.0.0.{first + n}", float(first + n)) for n in range(count)
        ]
        self.instances += made
        return made

    def describe_instances(self):
        return list(self.instances)

    def terminate_instances(self, ids, *, drain=False):
        if drain:
            self.drained += ids
        self.instances = [
            Instance(i.id, i.role, "shutting-down" if drain else "terminated", i.address, i.launched)
            if i.id in ids
            else i
            for i in self.instances
        ]

    def machines(self, nodes):
        return nodes + 1

    def console_output(self, instance_id):
        return f"console of {instance_id}"


def site(tmp_path, job_id="j", share="share"):
    source = tmp_path / "cat.avi"
    source.write_bytes(b"a cat")
    url = f"file://{tmp_path}/homes/{job_id}"
    spec = JobSpec(
        id=job_id,
        created=float(share != "share"),
        input=f"{url}/input/cat.avi",
        output=f"{url}/output/cat.mp4",
        filters=(),
        encode={},
    )
    job = jobs.create(tmp_path / share, spec)
    wanted = f"file://{tmp_path}/cat.mp4"
    job.write_site({"cloud": "paper", "options": {}, "home": url, "input": str(source), "output": wanted})
    (job.plugins / "0123.py").write_text("# mine")
    return HomeSite(url, PaperCloud(url), job)
