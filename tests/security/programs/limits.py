"""What does a box do to a program that takes all it can get? Each attack takes a bounded amount, and gives it back."""

import errno
import os
import resource
import shutil
import signal
import tempfile
import time

MB = 1_000_000


def fork_bomb(facts):
    """Many processes at once. They wait, start no others, and end when this one lets go of the pipe."""
    read, write = os.pipe()
    children = []
    refusal = ""
    try:
        while len(children) < facts["processes"]:
            try:
                child = os.fork()
            except OSError as exc:
                refusal = f", then: {exc.strerror}"
                break
            if child == 0:
                os.close(write)
                os.read(read, 1)
                os._exit(0)
            children.append(child)
    finally:
        os.close(write)
        for child in children:
            os.waitpid(child, 0)
    return len(children) >= facts["processes"], f"{len(children)} processes at once{refusal}"


def memory_bomb(facts):
    """Half as much again as the bound, spread over three processes: a bound on each of them alone does not help."""
    read, write = os.pipe()
    children = []
    for _ in range(3):
        child = os.fork()
        if child == 0:
            # Ones: pages of zeros may exist on paper only.
            held = b"\1" * (facts["memory_bytes"] // 2)
            os.write(write, b"!" if held else b"?")
            time.sleep(30)
            os._exit(0)
        children.append(child)
    os.close(write)
    filled, ended = 0, []
    until = time.monotonic() + 15
    os.set_blocking(read, False)
    while filled + len(ended) < 3 and time.monotonic() < until:
        try:
            filled += len(os.read(read, 3))
        except BlockingIOError:
            pass
        ended += [child for child in children if child not in ended and os.waitpid(child, os.WNOHANG)[0]]
        time.sleep(0.02)
    # One that had filled its share may have been killed for another's.
    time.sleep(0.3)
    alive = 0
    for child in [child for child in children if child not in ended]:
        if os.waitpid(child, os.WNOHANG)[0] == 0:
            alive += 1
            os.kill(child, signal.SIGKILL)
    return filled == alive == 3, f"{alive} of 3 processes held {facts['memory_bytes'] // 2 // MB} MB each"


def processor_hog(facts):
    """Processes that do nothing but compute."""
    began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    for _ in range(4):
        if os.fork() == 0:
            until = time.monotonic() + 1.5
            while time.monotonic() < until:
                pass
            os._exit(0)
    for _ in range(4):
        os.wait()
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime
    processors = seconds / (time.monotonic() - began)
    return processors > facts["processors"] * 2, f"{processors:.2f} processors"


def fill_work(facts):
    """The working directory."""
    return _fill([os.getcwd()], facts["fill_bytes"])


def fill_tmp(facts):
    """The directory for temporary files that every program knows."""
    return _fill(["/tmp"], facts["fill_bytes"])


def fill_elsewhere(facts):
    """Every other place that can be written to."""
    places = [os.environ["HOME"], os.environ["BOXFLOW_JOBS"], os.environ.get("TMPDIR", "/tmp")]
    places += ["/dev/shm", "/var/tmp", "/run", "/"]
    return _fill([place for place in places if os.access(place, os.W_OK)], facts["fill_bytes"])


def fill_inodes(facts):
    """Many files with nothing in them."""
    place = tempfile.mkdtemp(dir=".")
    made = 0
    try:
        while made < facts["files"]:
            os.close(os.open(f"{place}/{made}", os.O_CREAT | os.O_WRONLY))
            made += 1
        return True, f"{made} files"
    except OSError as exc:
        return _full(exc, f"{made} files")
    finally:
        shutil.rmtree(place)


def _fill(places, size):
    told = []
    for place in places:
        written, chunk = 0, b"\1" * (4 * MB)
        file = os.open(f"{place}/boxflow-fill", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        # Without a name it goes with this process, however that ends.
        os.unlink(f"{place}/boxflow-fill")
        try:
            while written < size:
                written += os.write(file, chunk)
            return True, f"{written // MB} MB in {place}"
        except OSError as exc:
            told.append(_full(exc, f"{written // MB} MB in {place}")[1])
        finally:
            os.close(file)
    return False, "; ".join(told)


def _full(exc, what):
    if exc.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        raise exc
    return False, f"{what}, then: {exc.strerror}"
