"""Gives a run a network namespace, so that other users of the machine cannot reach its ports (Linux)."""

import ctypes
import fcntl
import os
import socket
import struct
import sys
from collections.abc import Callable
from pathlib import Path

_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1


def leave_network() -> None:
    """For `preexec_fn`: give this process and its children a network with nothing but a loopback, if the kernel allows.

    Root takes a network namespace only, because in a user namespace it would lose its rights to others' files. Others
    need a user namespace, which some machines forbid; the process then keeps the machine's network.
    """
    if sys.platform != "linux" or not _succeeds(_leave):
        return
    _leave()


def _succeeds(step: Callable[[], None]) -> bool:
    """Try a step in a child: halfway through it, a process could not go back (Ubuntu forbids the mapping of users)."""
    if not (child := os.fork()):
        try:
            step()
        except BaseException:
            os._exit(1)
        os._exit(0)
    return os.waitpid(child, 0)[1] == 0


def _leave() -> None:
    uid, gid = os.geteuid(), os.getegid()
    if ctypes.CDLL(None).unshare(_CLONE_NEWNET | (_CLONE_NEWUSER if uid else 0)):
        raise OSError("the kernel refuses a network namespace")
    if uid:
        for file, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
            Path("/proc/self", file).write_text(text, encoding="ascii")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        request = struct.pack("16sH14x", b"lo", 0)
        flags = struct.unpack("16sH14x", fcntl.ioctl(any_socket, _SIOCGIFFLAGS, request))[1]
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", flags | _IFF_UP))
