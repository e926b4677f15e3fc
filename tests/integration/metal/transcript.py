"""Run each command of ``vidcloud metal`` and write what it prints into docs/metal.md; and the AWS CLI's at its EC2 door.

``python tests/integration/metal/transcript.py``: against a real cobblerd, with hosts that boot. Needs ``aws``.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2]))  # last: tests have more than one conftest
from cobblerd import Cobblerd
from hosts import Hosts

DOCUMENT = Path(__file__).parents[3] / "docs/metal.md"
BEGIN, END = "<!-- transcript -->\n", "<!-- end of the transcript -->\n"
MACHINES = {f"node{n:02d}": (f"10.111.5.{n}", "test01" if n < 4 else "test02") for n in (1, 2, 3, 16)}
# The machines to wait for after a command: their installs are over then. What watches an install sees each of its states.
COMMANDS = (
    ("describe-distros", ()),
    ("describe-profiles --plain", ()),
    ("describe-systems", ()),
    ("describe-system-groups -f -g test01 test02", ()),
    ("reserve-systems node16 -u bob", ()),
    ("describe-system-users", ()),
    ("run-instances -n 2 -g test01 -p debian -u ann --yes --watch", ()),
    ("terminate-instances -u bob -i 10.111.5.1", ()),
    ("set-profile node01 -p other -u ann", ()),
    ("enable-netboot node01 -u ann", ()),
    ("disable-netboot -i 10.111.5.1 -u ann", ()),
    ("reboot-system node01 -u ann", ()),
    ("terminate-instances -u ann --wipe --yes", ()),
    ("release-systems node16 -u bob", ()),
    ("run-instances -i 10.111.5.16 -p debian -u bob --yes", ("node16",)),  # its installer breaks off
    ("describe-instances -u bob --watch", ()),
    ("describe-instances -u bob --release-failed", ()),
    ("describe-instances", ()),
    ("recycle --older-than 30d -g test01 --yes", ()),
    ("set-group node16 -g test01", ()),
    ("serve --tokens tokens --ec2 127.0.0.1:8773 --access-keys access-keys", ()),  # until it is ended
    ("check", ()),
    ("history node01 --plain", ()),
)
INSTALL_TIMEOUT_S = 60
DOOR_BEGIN, DOOR_END = "<!-- door -->\n", "<!-- end of the door -->\n"
DOOR_COMMANDS = (
    ("describe-images --query Images[].[ImageId,Name]", ()),
    ("describe-availability-zones --query AvailabilityZones[].[ZoneName,State]", ()),
    (
        (
            "run-instances --image-id debian --count 2 --placement AvailabilityZone=test01 --user-data hello "
            "--tag-specifications ResourceType=instance,Tags=[{Key=job,Value=cat}] "
            "--query Instances[].[InstanceId,PrivateDnsName,State.Name]"
        ),
        ("node01", "node02"),
    ),
    (
        (
            "describe-instances --filters Name=tag:job,Values=c* "
            "--query Reservations[].Instances[].[PrivateIpAddress,State.Name,Placement.AvailabilityZone]"
        ),
        (),
    ),
    ("run-instances --image-id debian --count 3 --placement AvailabilityZone=test01", ()),
    (
        "terminate-instances --instance-ids {ids} --query TerminatingInstances[].[PreviousState.Name,CurrentState.Name]",
        (),
    ),
)


def prepare(folder: Path, daemon: Cobblerd, hosts: Hosts, **settings: str) -> dict[str, str]:
    """An environment for ``vidcloud metal``: its configuration, and an ``ssh`` that finds the hosts of the tests."""
    password = folder / "password"
    _secret(password, "cobbler\n")
    values = {
        "url": daemon.url,
        "password_file": password,
        "wipe_profile": "wipe",
        "state_dir": folder / "state",
        "ssh_user": hosts.user,
        "ssh_key": hosts.key,
        **settings,
    }
    (folder / "metal.toml").write_text("".join(f'{key} = "{value}"\n' for key, value in values.items()))
    kept = {k: v for k, v in os.environ.items() if not k.startswith("VIDCLOUD_METAL_")}
    path = f"{hosts.bin}:{os.environ['PATH']}"
    return {**kept, "PATH": path, "VIDCLOUD_METAL_CONFIG": str(folder / "metal.toml")}


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        daemon = Cobblerd(Path(folder) / "cobbler")
        try:
            daemon.start()
            daemon.furnish(MACHINES)
            hosts = Hosts(daemon, {name: ip for name, (ip, _) in MACHINES.items()})
            try:
                env = prepare(Path(folder), daemon, hosts, install_timeout_s=str(INSTALL_TIMEOUT_S))
                _secret(Path(folder) / "access-keys", "ANN 0123456789abcdef ann\n")
                told, door = _session(env, Path(folder), hosts), _door_session(env, Path(folder), hosts)
            finally:
                hosts.end()
        finally:
            daemon.stop()
    _put(BEGIN, told, END)
    _put(DOOR_BEGIN, door, DOOR_END)


def _put(begin: str, told: str, end: str) -> None:
    before, _, rest = DOCUMENT.read_text().partition(begin)
    _, _, after = rest.partition(end)
    DOCUMENT.write_text(f"{before}{begin}```\n{told}```\n{end}{after}")


def _session(env: dict[str, str], folder: Path, hosts: Hosts) -> str:
    _secret(folder / "tokens", "ann 0123456789abcdefann\nbob 0123456789abcdefbob\n")
    hosts.kinds["node16"] = "fails"
    told = ""
    for words, waited_for in COMMANDS:
        code, lines = _told(words, env, folder, hosts)
        told += "\n".join([f"$ vidcloud metal {words}", *lines, ""])
        told += f"(exit code {code})\n\n" if code else "\n"
        if waited_for:
            hosts.settle(*waited_for, times=2)
    return told.rstrip() + "\n"


def _told(words: str, env: dict[str, str], folder: Path, hosts: Hosts) -> tuple[int, list[str]]:
    """A command's exit code, and the lines that it prints."""
    if words.startswith("run-instances") and words.endswith("--watch"):
        hosts.self_test.clear()
        hosts.gate.clear()
    run, lines = [sys.executable, "-m", "vidcloud", "metal", *words.split()], []
    with subprocess.Popen(
        run, env=env, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        for line in filter(str.strip, process.stdout):
            lines.append(line.rstrip())
            if " pending" in line:
                hosts.self_test.set()
            if " installing" in line:
                hosts.gate.set()
            if words.startswith("serve") and len(lines) == 2:
                process.terminate()
                process.wait()
                return 0, lines  # how it ended was our doing
    hosts.open()
    return process.returncode, lines


def _secret(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o600)


def _door_session(env: dict[str, str], folder: Path, hosts: Hosts) -> str:
    serve = [
        sys.executable,
        "-m",
        "vidcloud",
        "metal",
        "serve",
        "--ec2",
        "127.0.0.1:0",
        "--access-keys",
        str(folder / "access-keys"),
    ]
    with subprocess.Popen(serve, env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        try:
            assert server.stdout is not None
            asked = env | {
                "AWS_ENDPOINT_URL_EC2": server.stdout.readline().split()[-1],
                "AWS_ACCESS_KEY_ID": "ANN",
                "AWS_SECRET_ACCESS_KEY": "0123456789abcdef",
                "AWS_DEFAULT_REGION": "metal",
                "AWS_DEFAULT_OUTPUT": "text",
            }
            told, ids = "", "--query Reservations[].Instances[].InstanceId"
            for words, waited_for in DOOR_COMMANDS:
                if "{ids}" in words:
                    words = words.format(ids=_aws(f"describe-instances {ids}", asked).stdout.replace("\t", " ").strip())  # noqa: PLW2901
                done = _aws(words, asked)
                lines = [line.rstrip() for line in done.stdout.splitlines() if line.strip()]
                told += "\n".join([f"$ aws ec2 {words}", *lines, ""])
                told += f"(exit code {done.returncode})\n\n" if done.returncode else "\n"
                if waited_for:
                    hosts.settle(*waited_for, times=2)
        finally:
            server.terminate()
    return told.rstrip() + "\n"


def _aws(words: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    asked = ["aws", "ec2", *words.split()]
    return subprocess.run(asked, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)


if __name__ == "__main__":
    main()
