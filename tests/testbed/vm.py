"""Hosts that are virtual machines of a real image: its boot loader, kernel, systemd, NFS and boot hook. Emulated, so slow."""

import os
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

from testbed.hosts import BRIDGE, GATEWAY, Host, run

_dhcp = threading.Lock()


class Vm(Host):
    """A machine that boots a copy of the disk ``BED_DISK``, until it goes off or is ended.

    Args:
        name: its instance id.
        address: its own, on the lan; it asks for it by DHCP.
        folder: what it keeps: console, what it wrote on its disk.
        gone: called when it went off.
    """

    def __init__(self, name: str, address: str, folder: Path, gone: Callable[[], None]) -> None:
        super().__init__(name, address, folder, gone)
        self._mac = "52:54:" + ":".join(f"{int(byte):02x}" for byte in address.split("."))

    def boot(self) -> None:
        """Power on; returns before it has its network."""
        _serve_addresses(self.folder.parent / "dhcp", self._mac, self.address)
        disk = self.folder / "disk.qcow2"
        if not disk.exists():
            run("qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", os.environ["BED_DISK"], str(disk), "8G")
        if not Path(f"/sys/class/net/{self._link}").exists():
            run("ip", "tuntap", "add", "dev", self._link, "mode", "tap")
        run("ip", "link", "set", self._link, "master", BRIDGE, "up")
        # TCG: a hypervisor below may show /dev/kvm and still not run a kernel. Nehalem is what the wheels need at least.
        self._process = subprocess.Popen(
            [
                "qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "Nehalem", "-m", "1536", "-display", "none",
                "-no-reboot", "-chardev", f"file,id=console,path={self.console},append=on", "-serial", "chardev:console",
                "-drive", f"file={disk},if=virtio,cache=unsafe", "-device", f"virtio-net-pci,netdev=lan,mac={self._mac}",
                "-netdev", f"tap,id=lan,ifname={self._link},script=no,downscript=no",
            ],
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
        self.state = "running"
        threading.Thread(target=self._watch, args=(self._process,), daemon=True).start()


def _serve_addresses(folder: Path, mac: str, address: str) -> None:
    """One DHCP server for the lan; it sees new files by itself."""
    with _dhcp:
        first = not folder.exists()
        folder.mkdir(parents=True, exist_ok=True)
        (folder / mac.replace(":", "")).write_text(f"{mac},{address}\n")
        if first:
            subprocess.Popen(
                [
                    "dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--port=0", f"--interface={BRIDGE}",
                    "--bind-interfaces", "--dhcp-authoritative", "--dhcp-range=10.0.0.0,static,255.0.0.0",
                    f"--dhcp-hostsdir={folder}", f"--dhcp-option=option:router,{GATEWAY}", "--user=root",
                    f"--dhcp-leasefile={folder.parent / 'leases'}", "--pid-file=",
                ],
                stdin=subprocess.DEVNULL,
            )  # fmt: skip
