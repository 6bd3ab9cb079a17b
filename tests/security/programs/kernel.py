"""Which rights does a program in a box have, and which parts of the kernel answer it?"""

import ctypes
import errno
import fcntl
import os
import platform
import select
import shutil
import socket
import stat
import subprocess

LIBC = ctypes.CDLL(None, use_errno=True)

# Their numbers on x86-64 and on arm64 (<asm/unistd.h>).
CALLS = {
    "perf_event_open": (298, 241),
    "bpf": (321, 280),
    "keyctl": (250, 219),
    "init_module": (175, 105),
    "io_uring_setup": (425, 425),
}
CLONE_NEWNS, CLONE_NEWUSER = 0x20000, 0x10000000  # <linux/sched.h>
MS_BIND, MNT_DETACH = 4096, 2  # <sys/mount.h>


def be_root(facts):
    """User id 0."""
    return os.geteuid() == 0, f"user {os.geteuid()}"


def capabilities(facts):
    """Any of the rights into which root's power is divided."""
    with open("/proc/self/status") as file:
        effective = next(line.split()[1] for line in file if line.startswith("CapEff:"))
    return int(effective, 16) != 0, f"capabilities {effective}"


def setuid_program(facts):
    """Become another user by a program that has the setuid bit. It is held up while it prints its help."""
    if os.geteuid() == 0:
        return True, "is root already"
    tried = 0
    for program in ("mount", "su", "passwd", "newgrp", "umount", "chsh"):
        path = shutil.which(program) or ""
        if not path or not os.stat(path).st_mode & stat.S_ISUID:
            continue
        tried += 1
        if (user := _effective_user(path)) != os.getuid():
            return True, f"user {user} by {path}"
    return False, f"{tried} such programs, none gave it"


def mount_tmpfs(facts):
    """Mount a new file system."""
    return _mount(b"none", b"tmpfs", 0)


def mount_bind(facts):
    """Show one directory at the place of another."""
    os.makedirs("bound", exist_ok=True)
    return _mount(os.path.abspath("bound").encode(), None, MS_BIND)


def user_namespace(facts):
    """Become root of a world of one's own, with all that the kernel then offers."""
    return _unshare(CLONE_NEWUSER)


def mount_namespace(facts):
    """Have mounts of one's own."""
    return _unshare(CLONE_NEWNS)


def make_device(facts):
    """Make a device file (of /dev/null's numbers, 1 and 3) and open it."""
    path = "device"
    try:
        os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 3))
        os.close(os.open(path, os.O_RDONLY))
    finally:
        if os.path.lexists(path):
            os.unlink(path)
    return True, "made and opened it"


def kernel_settings(facts):
    """What runs when a program crashes, and the keys that restart the machine: opened for writing, and left alone."""
    refusals = []
    for path in ("/proc/sys/kernel/core_pattern", "/proc/sysrq-trigger", "/sys/kernel/uevent_helper"):
        try:
            os.close(os.open(path, os.O_WRONLY))
        except OSError as exc:
            refusals.append(f"{os.path.basename(path)}: {exc.strerror}")
        else:
            return True, f"opened {path}"
    return False, "; ".join(refusals)


def load_module(facts):
    """Load code into the kernel: an empty module, which no kernel takes. Who may not is refused before that is seen."""
    number = _call("init_module", None, 0, b"")
    return number not in (errno.EPERM, errno.ENOSYS), errno.errorcode.get(number, "done")


def io_uring(facts):
    """A ring of system calls that filters do not see."""
    return _answered(_call("io_uring_setup", 1, ctypes.create_string_buffer(120)))


def bpf(facts):
    """A small table in the kernel: kind 2 (array), keys and values of 4 bytes, one entry."""
    attributes = (ctypes.c_uint32 * 32)(2, 4, 4, 1)
    return _answered(_call("bpf", 0, attributes, ctypes.sizeof(attributes)))


def perf(facts):
    """Count what a process of one's own does: kind 1 (software), event 0 (its time), not the kernel's part of it."""
    attributes = (ctypes.c_uint32 * 28)(1, 112)
    attributes[10] = 1 << 5  # exclude_kernel
    return _answered(_call("perf_event_open", attributes, 0, -1, -1, 0))


def keyring(facts):
    """The keys that the kernel keeps for a session: operation 0 tells which keyring -3, the session's, is."""
    return _answered(_call("keyctl", 0, -3, 1))


def raw_socket(facts):
    """Packets of one's own making."""
    socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP).close()
    return True, "got one"


def packet_socket(facts):
    """Everything that passes on a network card."""
    socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)).close()
    return True, "got one"


def hypervisor_socket(facts):
    """A socket to the host of the virtual machine, which no network of a box is about."""
    socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM).close()
    return True, "got one"


def _call(name, *arguments):
    """Zero, or the number of the error."""
    number = CALLS[name][platform.machine() == "aarch64"]
    answer = LIBC.syscall(ctypes.c_long(number), *arguments)
    if answer < 0:
        return ctypes.get_errno()
    if name != "keyctl":
        os.close(answer)
    return 0


def _answered(number):
    if number not in (0, errno.EPERM, errno.EACCES, errno.ENOSYS):
        raise RuntimeError(f"neither done nor refused: {os.strerror(number)}")
    return number == 0, "it answers" if number == 0 else os.strerror(number)


def _mount(source, kind, flags):
    os.makedirs("mounted", exist_ok=True)
    target = os.path.abspath("mounted").encode()
    if LIBC.mount(source, target, kind, ctypes.c_ulong(flags), None) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    if LIBC.umount2(target, MNT_DETACH) != 0:
        raise RuntimeError("mounted, and not unmounted")
    return True, "mounted"


def _unshare(what):
    """In a child, so that this program stays where it is."""
    child = os.fork()
    if child == 0:
        os._exit(0 if LIBC.unshare(what) == 0 else ctypes.get_errno())
    number = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return _answered(number if number != errno.ENOSPC else errno.EPERM)  # ENOSPC: user.max_user_namespaces is 0


def _effective_user(path):
    """As whom *path* runs. Its output is a pipe that is full, so it waits and can be looked at."""
    read, write = os.pipe()
    fcntl.fcntl(write, fcntl.F_SETFL, os.O_NONBLOCK)
    try:
        while True:
            os.write(write, b" " * 4096)
    except BlockingIOError:
        fcntl.fcntl(write, fcntl.F_SETFL, 0)
    process = subprocess.Popen([path, "--help"], stdin=subprocess.DEVNULL, stdout=write, stderr=write)
    try:
        for _ in range(50):
            select.select([], [], [], 0.01)
            with open(f"/proc/{process.pid}/status") as file:
                users = next(line.split() for line in file if line.startswith("Uid:"))
            if int(users[2]) != os.getuid():
                return int(users[2])
        return int(users[2])
    finally:
        os.close(read)  # Now it cannot write, and ends.
        os.close(write)
        process.wait(5)
