"""Run each command of ``vidcloud metal`` and write what it prints into docs/metal.md.

``python tests/integration/metal/transcript.py``: against a real cobblerd, with hosts that boot.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
from cobblerd import Cobblerd
from hosts import Hosts

DOCUMENT = Path(__file__).parents[3] / "docs/metal.md"
BEGIN, END = "<!-- transcript -->\n", "<!-- end of the transcript -->\n"
MACHINES = {f"node{n:02d}": (f"10.111.5.{n}", "test01" if n < 4 else "test02") for n in (1, 2, 3, 16)}
# The machines to wait for after a command: their installs are over then.
COMMANDS = (
    ("describe-distros", ()),
    ("describe-profiles --plain", ()),
    ("describe-systems", ()),
    ("describe-system-groups -f -g test01 test02", ()),
    ("reserve-systems node16 -u bob", ()),
    ("describe-system-users", ()),
    ("run-instances -n 2 -g test01 -p debian -u ann --yes", ("node01", "node02")),
    ("describe-instances -u ann --watch", ()),
    ("terminate-instances -u bob -i 10.111.5.1", ()),
    ("set-profile node01 -p other -u ann", ()),
    ("enable-netboot node01 -u ann", ()),
    ("disable-netboot -i 10.111.5.1 -u ann", ()),
    ("reboot-system node01 -u ann", ()),
    ("terminate-instances -u ann --wipe --yes", ()),
    ("release-systems node16 -u bob", ()),
    ("set-group node16 -g test01", ()),
    ("check", ()),
    ("history node01 --plain", ()),
)


def prepare(folder: Path, daemon: Cobblerd, hosts: Hosts, **settings: str) -> dict[str, str]:
    """An environment for ``vidcloud metal``: its configuration, and an ``ssh`` that asks the hosts of the tests."""
    ssh = folder / "bin/ssh"
    ssh.parent.mkdir()
    # The address is the word before the last.
    ssh.write_text(f'#!/bin/sh\nwhile [ $# -gt 2 ]; do shift; done\nexec cat "{hosts.boots}/$1"\n')
    ssh.chmod(0o755)
    password = folder / "password"
    password.write_text("cobbler\n")
    password.chmod(0o600)
    values = {
        "url": daemon.url,
        "password_file": password,
        "wipe_profile": "wipe",
        "state_dir": folder / "state",
        **settings,
    }
    (folder / "metal.toml").write_text("".join(f'{key} = "{value}"\n' for key, value in values.items()))
    kept = {k: v for k, v in os.environ.items() if not k.startswith("VIDCLOUD_METAL_")}
    path = f"{ssh.parent}:{os.environ['PATH']}"
    return {**kept, "PATH": path, "VIDCLOUD_METAL_CONFIG": str(folder / "metal.toml")}


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        daemon = Cobblerd(Path(folder) / "cobbler")
        try:
            daemon.start()
            daemon.furnish(MACHINES)
            hosts = Hosts(daemon, {name: ip for name, (ip, _) in MACHINES.items()})
            try:
                told = _session(prepare(Path(folder), daemon, hosts), hosts)
            finally:
                hosts.end()
        finally:
            daemon.stop()
    text = DOCUMENT.read_text()
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    DOCUMENT.write_text(f"{before}{BEGIN}```\n{told}```\n{END}{after}")


def _session(env: dict[str, str], hosts: Hosts) -> str:
    told = ""
    for words, waited_for in COMMANDS:
        run = [sys.executable, "-m", "vidcloud", "metal", *words.split()]
        done = subprocess.run(run, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        lines = [line.rstrip() for line in done.stdout.splitlines() if line.strip()]
        told += "\n".join([f"$ vidcloud metal {words}", *lines, ""])
        told += f"(exit code {done.returncode})\n\n" if done.returncode else "\n"
        if waited_for:
            hosts.settle(*waited_for, times=2)
    return told.rstrip() + "\n"


if __name__ == "__main__":
    main()
