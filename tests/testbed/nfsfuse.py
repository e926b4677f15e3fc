"""An NFSv3 client in user space, for kernels without one: FUSE on libnfs. ``nfsfuse.py SERVER EXPORT FOLDER CACHE [PORT]``.

It writes through at close, asks as the user who asks, and waits for a server that is away: a hard mount. For CACHE seconds it
believes what it has seen, as a kernel's client does: attributes, names, pages of files whose time and size have not changed, and
(unlike ours, which are mounted with lookupcache=positive) that a name was missing. With 0 it remembers nothing.
"""

import ctypes as c
import errno
import os
import sys
from functools import wraps

import mfusepy as fuse

libnfs = c.CDLL("libnfs.so.13")
pointer, u64, i32, text = c.c_void_p, c.c_uint64, c.c_int, c.c_char_p


class Stat(c.Structure):
    _fields_ = [
        (n, u64)
        for n in [
            "dev",
            "ino",
            "mode",
            "nlink",
            "uid",
            "gid",
            "rdev",
            "size",
            "blksize",
            "blocks",
            "atime",
            "mtime",
            "ctime",
            "atime_ns",
            "mtime_ns",
            "ctime_ns",
            "used",
        ]
    ]


class Entry(c.Structure):
    pass


Entry._fields_ = [("next", c.POINTER(Entry)), ("name", text), ("inode", u64)]


class TimeVal(c.Structure):
    _fields_ = [("seconds", c.c_long), ("micros", c.c_long)]


libnfs.nfs_init_context.restype = pointer
libnfs.nfs_parse_url_dir.restype = pointer
libnfs.nfs_get_error.restype = text
libnfs.nfs_readdir.restype = c.POINTER(Entry)
libnfs.nfs_get_readmax.restype = libnfs.nfs_get_writemax.restype = u64
for name, arguments in {
    "nfs_parse_url_dir": [pointer, text],
    "nfs_mount": [pointer, text, text],
    "nfs_set_version": [pointer, i32],
    "nfs_set_uid": [pointer, i32],
    "nfs_set_gid": [pointer, i32],
    "nfs_set_dircache": [pointer, i32],
    "nfs_set_pagecache": [pointer, c.c_uint32],
    "nfs_set_autoreconnect": [pointer, i32],
    "nfs_umask": [pointer, c.c_uint16],
    "nfs_get_error": [pointer],
    "nfs_get_readmax": [pointer],
    "nfs_get_writemax": [pointer],
    "nfs_lstat64": [pointer, text, c.POINTER(Stat)],
    "nfs_open": [pointer, text, i32, c.POINTER(pointer)],
    "nfs_open2": [pointer, text, i32, i32, c.POINTER(pointer)],
    "nfs_create": [pointer, text, i32, i32, c.POINTER(pointer)],
    "nfs_close": [pointer, pointer],
    "nfs_pread": [pointer, pointer, u64, u64, pointer],
    "nfs_pwrite": [pointer, pointer, u64, u64, text],
    "nfs_fsync": [pointer, pointer],
    "nfs_mkdir2": [pointer, text, i32],
    "nfs_rmdir": [pointer, text],
    "nfs_unlink": [pointer, text],
    "nfs_rename": [pointer, text, text],
    "nfs_link": [pointer, text, text],
    "nfs_symlink": [pointer, text, text],
    "nfs_readlink": [pointer, text, text, i32],
    "nfs_truncate": [pointer, text, u64],
    "nfs_chmod": [pointer, text, i32],
    "nfs_chown": [pointer, text, i32, i32],
    "nfs_lutimes": [pointer, text, c.POINTER(TimeVal)],
    "nfs_opendir": [pointer, text, c.POINTER(pointer)],
    "nfs_readdir": [pointer, pointer],
    "nfs_closedir": [pointer, pointer],
}.items():
    getattr(libnfs, name).argtypes = arguments


def as_caller(operation):
    """Ask the server as the process that asks here: root is squashed there, as a kernel's client would have it."""

    @wraps(operation)
    def asked(self, *args):
        uid, gid, _ = fuse.fuse_get_context()
        if (uid, gid) != self.who:
            libnfs.nfs_set_uid(self.context, uid)
            libnfs.nfs_set_gid(self.context, gid)
            self.who = (uid, gid)
        return operation(self, *args)

    return asked


class Nfs(fuse.Operations):
    """One thread: requests go out one after the other, each as its caller."""

    use_ns = True

    def __init__(self, server: str, export: str, port: str = "") -> None:
        self.context, self.who = libnfs.nfs_init_context(), (0, 0)
        if port:  # of both protocols; there is no portmapper then
            libnfs.nfs_parse_url_dir(self.context, f"nfs://{server}{export}?nfsport={port}&mountport={port}".encode())
        libnfs.nfs_set_version(self.context, 3)
        libnfs.nfs_set_dircache(self.context, 0)
        libnfs.nfs_set_pagecache(self.context, 0)
        libnfs.nfs_set_autoreconnect(self.context, -1)
        libnfs.nfs_umask(self.context, 0)
        if libnfs.nfs_mount(self.context, server.encode(), export.encode()) < 0:
            sys.exit(f"mount.nfs: {libnfs.nfs_get_error(self.context).decode()}")
        self.read_max = libnfs.nfs_get_readmax(self.context) or 65536
        self.write_max = libnfs.nfs_get_writemax(self.context) or 65536
        print("mounted", flush=True)

    @staticmethod
    def check(answer: int) -> int:
        if answer < 0:
            raise fuse.FuseOSError(errno.ESTALE if answer == -errno.EFAULT else -answer)
        return answer

    @as_caller
    def getattr(self, path, fh=None):
        s = Stat()
        self.check(libnfs.nfs_lstat64(self.context, path.encode(), c.byref(s)))
        same = {
            f"st_{n}": getattr(s, n) for n in ["dev", "ino", "mode", "nlink", "uid", "gid", "size", "blocks", "blksize"]
        }
        return same | {f"st_{n}": getattr(s, n) * 10**9 + getattr(s, f"{n}_ns") for n in ("atime", "mtime", "ctime")}

    @as_caller
    def readdir(self, path, fh, *_):
        folder, found = pointer(), []
        self.check(libnfs.nfs_opendir(self.context, path.encode(), c.byref(folder)))
        while entry := libnfs.nfs_readdir(self.context, folder):
            found.append((entry.contents.name.decode(), {"st_mode": 0, "st_ino": entry.contents.inode or 1}, 0))
        libnfs.nfs_closedir(self.context, folder)
        return found

    @as_caller
    def create(self, path, mode, fi):
        handle, flags = pointer(), os.O_RDWR | os.O_CREAT
        if fi.flags & os.O_EXCL:
            made = libnfs.nfs_create(self.context, path.encode(), flags | os.O_EXCL, mode & 0o7777, c.byref(handle))
        else:
            flags |= fi.flags & os.O_TRUNC
            made = libnfs.nfs_open2(self.context, path.encode(), flags, mode & 0o7777, c.byref(handle))
        self.check(made)
        fi.fh = handle.value
        return 0

    @as_caller
    def open(self, path, fi):
        handle = pointer()
        flags = fi.flags & (os.O_ACCMODE | os.O_TRUNC)
        self.check(libnfs.nfs_open(self.context, path.encode(), flags, c.byref(handle)))
        fi.fh = handle.value
        return 0

    def release(self, path, fi):
        return libnfs.nfs_close(self.context, fi.fh)

    def read(self, path, size, offset, fi):
        buffer, got = c.create_string_buffer(size), 0
        while got < size:
            most = min(size - got, self.read_max)
            n = self.check(libnfs.nfs_pread(self.context, fi.fh, offset + got, most, c.addressof(buffer) + got))
            if n == 0:
                break
            got += n
        return buffer.raw[:got]

    def write(self, path, data, offset, fi):
        done = 0
        while done < len(data):
            piece = data[done : done + self.write_max]
            done += self.check(libnfs.nfs_pwrite(self.context, fi.fh, offset + done, len(piece), piece))
        return done

    def fsync(self, path, datasync, fi):
        return self.check(libnfs.nfs_fsync(self.context, fi.fh))

    def flush(self, path, fi):
        if (fi.flags & os.O_ACCMODE) != os.O_RDONLY:
            return self.check(libnfs.nfs_fsync(self.context, fi.fh))
        return 0

    @as_caller
    def mkdir(self, path, mode):
        return self.check(libnfs.nfs_mkdir2(self.context, path.encode(), mode & 0o7777))

    @as_caller
    def rmdir(self, path):
        return self.check(libnfs.nfs_rmdir(self.context, path.encode()))

    @as_caller
    def unlink(self, path):
        return self.check(libnfs.nfs_unlink(self.context, path.encode()))

    @as_caller
    def rename(self, old, new, *_):
        return self.check(libnfs.nfs_rename(self.context, old.encode(), new.encode()))

    @as_caller
    def link(self, target, source):
        return self.check(libnfs.nfs_link(self.context, source.encode(), target.encode()))

    @as_caller
    def symlink(self, target, source):
        return self.check(libnfs.nfs_symlink(self.context, source.encode(), target.encode()))

    @as_caller
    def readlink(self, path):
        buffer = c.create_string_buffer(4096)
        self.check(libnfs.nfs_readlink(self.context, path.encode(), buffer, 4096))
        return buffer.value.decode()

    @as_caller
    def truncate(self, path, length, fh=None):
        return self.check(libnfs.nfs_truncate(self.context, path.encode(), length))

    @as_caller
    def chmod(self, path, mode):
        return self.check(libnfs.nfs_chmod(self.context, path.encode(), mode & 0o7777))

    @as_caller
    def chown(self, path, uid, gid):
        return self.check(libnfs.nfs_chown(self.context, path.encode(), uid, gid))

    @as_caller
    def utimens(self, path, times=None):
        both = (TimeVal * 2)(*[TimeVal(int(t) // 10**9, int(t) % 10**9 // 1000) for t in times or (0, 0)])
        return self.check(libnfs.nfs_lutimes(self.context, path.encode(), both))

    def statfs(self, path):
        return {
            "f_bsize": 4096,
            "f_frsize": 4096,
            "f_blocks": 1 << 28,
            "f_bfree": 1 << 27,
            "f_bavail": 1 << 27,
            "f_namemax": 255,
        }


if __name__ == "__main__":
    server, export, folder, cache, *port = sys.argv[1:]
    cached = float(cache)
    fuse.FUSE(
        Nfs(server, export, *port), folder, foreground=True, nothreads=True, raw_fi=True, fsname=f"{server}:{export}", subtype="nfs",
        attr_timeout=cached, entry_timeout=cached, negative_timeout=cached, ac_attr_timeout=cached, auto_cache=bool(cached),
        allow_other=True, use_ino=True,
    )  # fmt: skip
