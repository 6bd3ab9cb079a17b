"""What does a program in a box see of other processes, and what can it do to them?"""

import ctypes
import os
import signal
import sys
import time

PTRACE_SEIZE, PTRACE_INTERRUPT = 0x4206, 0x4207  # <linux/ptrace.h>


def engine_environment(facts):
    """The environment of the engine's process, in which its own secrets are."""
    return _search_environments(facts["engine_secret"])


def see_host_processes(facts):
    """A process of the machine, by its arguments."""
    found = _pids_with(facts["victim_token"])
    return bool(found), f"seen as {found[0]}" if found else f"{len(_pids())} processes, it is not among them"


def signal_host_process(facts):
    """The engine looks whether the process is still there."""
    pid = facts["victim_pid"]
    if pid in _ancestors():
        return False, "the number is one of this box"
    try:
        os.kill(pid, signal.SIGTERM)
    except ProcessLookupError:
        return False, "no such process here"
    return True, "sent"


def trace_host_process(facts):
    """Take a process of the machine over, as a debugger does."""
    found = _pids_with(facts["victim_token"])
    return _trace(found[0]) if found else (False, "no such process here")


def other_box_environment(facts):
    """The environment of a process of another box."""
    return _search_environments(facts["other_secret"])


def other_box_processes(facts):
    """A process of another box, by its arguments."""
    found = _pids_with(facts["other_token"])
    return bool(found), f"seen as {found[0]}" if found else "not seen"


def exec_environment(facts):
    """The environment of another exec of this very box."""
    return _search_environments(facts["exec_secret"])


def trace_own_process(facts):
    """Take another process of this very box over. It is no child of the one that traces."""
    pipe = os.pipe()
    victim = os.fork()
    if victim == 0:
        time.sleep(20)
        os._exit(0)
    tracer = os.fork()
    if tracer == 0:
        try:
            told = _trace(victim)
        except OSError as exc:
            told = (False, exc.strerror)
        os.write(pipe[1], repr(told).encode())
        os._exit(0)
    told = os.read(pipe[0], 1000).decode()
    os.waitpid(tracer, 0)
    os.kill(victim, signal.SIGKILL)
    os.waitpid(victim, 0)
    return told.startswith("(True"), told


def first_environment(facts):
    """The environment of PID 1, whatever is in it."""
    with open("/proc/1/environ", "rb") as file:
        size = len(file.read())
    return size > 0, f"{size} bytes"


def kill_first(facts):
    """End PID 1, and the box with it. The machine's own PID 1 is only asked whether it could be."""
    if os.readlink("/proc/self/ns/pid") == facts["host_pid_namespace"]:
        os.kill(1, 0)
        return True, "may signal it"
    os.kill(1, signal.SIGTERM)
    os.kill(1, signal.SIGKILL)
    time.sleep(0.3)
    # Still here: the kernel keeps SIGKILL from inside its namespace, and SIGTERM without a handler, from a PID 1.
    return False, "sent, without effect"


def leave_daemon(facts):
    """A process with no environment, a session of its own and no parent of this box."""
    read, write = os.pipe()
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.chdir("/")
            null = os.open("/dev/null", os.O_RDWR)
            for number in (0, 1, 2):
                os.dup2(null, number)
            # The pipe closes as the program starts. It ends by itself.
            program = "import time; time.sleep(25)"
            os.execve(sys.executable, ["python3", "-I", "-c", program, facts["daemon_token"]], {})
        os._exit(0)
    os.wait()
    os.close(write)
    os.read(read, 1)
    print("daemon started", flush=True)
    time.sleep(facts["daemon_waits_s"])
    return False, "started"


def see_daemon(facts):
    """Whether it runs still."""
    found = _pids_with(facts["daemon_token"])
    return bool(found), f"it is {found[0]}" if found else "it is gone"


def _trace(pid):
    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    # What is traced goes on by itself when its tracer ends.
    if libc.ptrace(PTRACE_SEIZE, pid, None, None) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return True, f"attached to {pid}"


def _search_environments(secret):
    readable = 0
    for pid in _pids():
        try:
            with open(f"/proc/{pid}/environ", "rb") as file:
                environment = file.read()
        except OSError:
            continue
        readable += 1
        if secret.encode() in environment:
            return True, f"read it from process {pid}"
    return False, f"not in the {readable} environments that can be read"


def _pids_with(token):
    """Processes that have *token* among their arguments; not this one, which has it among its facts."""
    found = []
    for pid in _pids():
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                if token.encode() in file.read().split(b"\0"):
                    found.append(pid)
        except OSError:
            continue
    return found


def _pids():
    return sorted(int(name) for name in os.listdir("/proc") if name.isdecimal())


def _ancestors():
    pid, found = os.getpid(), []
    while pid > 0:
        found.append(pid)
        with open(f"/proc/{pid}/stat") as file:
            pid = int(file.read().rpartition(")")[2].split()[1])
    return found
