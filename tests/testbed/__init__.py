"""Hosts on one machine: a small hypervisor beside moto's EC2 server, with real NFS, S3 and instance metadata.

`bed.Bed` starts one process (`server`) in network, mount and process namespaces of its own, and talks to it. A host is a
process tree in namespaces below those. When the bed's process ends, however it ends, the kernel ends all else: no namespace,
mount, process or bridge can be left behind.
"""
