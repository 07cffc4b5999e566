"""How does a program come under the eyes of chaos/process/intercept.py?

`python filtered.py SOCKET NUMBER,NUMBER... PROGRAM ARGUMENT...`: asks the kernel to hand these system calls of this process and all
its threads and children to somebody else, sends the descriptor on which they arrive through the abstract socket, and becomes the
program. The filter stays through exec. Nothing but the standard library, and little of it: each run of a sweep starts here.
"""

import ctypes
import os
import socket
import struct
import sys

PR_SET_NO_NEW_PRIVS = 38
SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER = 1, 8
SECCOMP_NUMBER = {"x86_64": 317, "aarch64": 277}
LOAD_NUMBER, IF_EQUAL, RETURN = 0x20, 0x15, 0x06  # of classic BPF; the call's number is the word at 0
NOTIFY, ALLOW = 0x7FC00000, 0x7FFF0000


def listener(numbers: list[int]) -> int:
    """Put the filter on this process; the descriptor of its notifications. Raises OSError."""
    program = [(LOAD_NUMBER, 0, 0, 0)]
    for number in numbers:
        program += [(IF_EQUAL, 0, 1, number), (RETURN, 0, 0, NOTIFY)]
    program.append((RETURN, 0, 0, ALLOW))
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in program))
    described = ctypes.create_string_buffer(struct.pack("H6xQ", len(program), ctypes.addressof(code)))
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)  # without it only root may
    number = SECCOMP_NUMBER.get(os.uname().machine, -1)
    fd = libc.syscall(number, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, described)
    if fd < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return fd


if __name__ == "__main__":
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect("\0" + sys.argv[1])
        fd = listener([int(number) for number in sys.argv[2].split(",")])
        socket.send_fds(connection, [b"L"], [fd])
        os.close(fd)
    os.execvp(sys.argv[3], sys.argv[3:])
