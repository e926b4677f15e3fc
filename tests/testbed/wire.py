"""Counts what goes over the lan between hosts, until its standard input ends; then prints it, as JSON. In the bed's network."""

import collections
import ipaddress
import json
import select
import socket
import sys

ALL, IPV4, TCP, RECEIVE_BUFFER_FORCE = 0x0003, 0x0800, 6, 33
NFS_CALL = bytes.fromhex("0000000000000002000186a300000003")
"""In each call of NFS 3 in the clear: a call, of RPC 2, to program 100003, version 3."""
SERVICES = {ipaddress.ip_address(a) for a in ("10.255.255.1", "169.254.169.254")}


def main() -> None:
    ears = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ALL))
    ears.setsockopt(socket.SOL_SOCKET, RECEIVE_BUFFER_FORCE, 1 << 26)  # a busy machine hears late
    print("listening", flush=True)
    packets: collections.Counter[int] = collections.Counter()
    calls = 0
    while True:
        ready, _, _ = select.select([ears, sys.stdin], [], [])
        if ears not in ready:  # all that came before the end is counted
            break
        packet, (_, protocol, *_) = ears.recvfrom(1 << 17)
        if protocol != IPV4 or packet[9] != TCP:
            continue
        if {ipaddress.ip_address(packet[12:16]), ipaddress.ip_address(packet[16:20])} & SERVICES:
            continue
        head = (packet[0] & 15) * 4
        ports = int.from_bytes(packet[head : head + 2]), int.from_bytes(packet[head + 2 : head + 4])
        packets[min(ports)] += 1
        calls += packet.count(NFS_CALL)
    print(json.dumps({"packets": packets, "calls": calls}), flush=True)


if __name__ == "__main__":
    main()
