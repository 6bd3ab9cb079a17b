"""What can a program in a box reach of files that are not its own, and which traps can it set for the engine?"""

import ctypes
import glob
import os
import stat
import sys
import time


def read_outside(facts):
    """A file that the engine's user can read."""
    return _read(facts["marker"], facts["marker_secret"])


def read_private(facts):
    """Where passwords and private keys are kept."""
    looked = 0
    for path in ("/etc/shadow", "/etc/gshadow", "/etc/sudoers", "/etc/ssl/private", "/etc/pki/tls/private"):
        if os.path.lexists(path):
            looked += 1
            if os.access(path, os.R_OK):
                return True, f"may read {path}"
    return False, f"{looked} such places, none may be read"


def write_outside(facts):
    """A directory that the engine's user can write to. The engine looks whether the file is there."""
    for path in _ways_to(facts["writable"]):
        try:
            with open(f"{path}/written-by-the-box", "w") as file:
                file.write("was here")
            return True, f"wrote to {path}"
        except OSError as exc:
            refusal = exc.strerror
    return False, refusal


def read_other_box(facts):
    """A file of another box of the same sandbox: where the engine sees it, and where that box sees it."""
    for path in (facts["other_file"], *glob.glob("/proc/[0-9]*/root" + facts["other_file_inside"])):
        if _read(path, facts["other_secret"])[0]:
            return True, "read it"
    name = os.path.basename(facts["other_file"])
    until = time.monotonic() + 5
    for directory, names, files in os.walk("/"):
        if directory == "/":
            names[:] = [one for one in names if one not in ("proc", "sys")]
        if name in files and _read(f"{directory}/{name}", facts["other_secret"])[0]:
            return True, "found it"
        if time.monotonic() > until:
            break
    return False, "not found"


def write_passwd(facts):
    """Opened for writing, and left alone."""
    os.close(os.open("/etc/passwd", os.O_WRONLY | os.O_APPEND))
    return True, "opened for writing"


def write_programs(facts):
    """A new program where every shell looks for programs; gone at once."""
    told = []
    for directory in ("/usr/local/bin", "/usr/bin", "/bin"):
        path = f"{directory}/boxflow-was-here"
        try:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        except OSError as exc:
            told.append(exc.strerror)
        else:
            os.unlink(path)
            return True, f"made {path}"
    return False, "; ".join(dict.fromkeys(told))


# --- traps: set here, sprung by the engine -------------------------------------------------------------------------


def plant_for_reading(facts):
    """Links that lead to a file of the engine's user, absolute and climbing."""
    os.symlink(facts["marker"], "notes.txt")
    os.symlink(os.path.dirname(facts["marker"]), "folder")
    os.symlink("../" * 20 + facts["marker"].lstrip("/"), "climbing.txt")
    return False, "planted"


def plant_for_writing(facts):
    """Links in place of what the engine is about to write, to a file and to directories of its user."""
    os.symlink(facts["marker"], "report.txt")
    os.symlink(facts["writable"], "results")
    os.symlink("../" * 20 + facts["writable"].lstrip("/"), "climbing")
    return False, "planted"


def plant_for_download(facts):
    """A folder full of links, pipes and odd names; a link to a device; a program with the setuid bit."""
    os.makedirs("tree/inner")
    for name, target in (
        ("absolute", facts["marker"]),
        ("climbing", "../" * 20 + facts["marker"].lstrip("/")),
        ("folder", facts["writable"]),
        ("inner/up", "../.."),
        ("inner/in-two-steps", "../inner/up/.."),
        ("null", "/dev/null"),
    ):
        os.symlink(target, f"tree/{name}")
    for name in ("-rf", "a\nb", " ", "ok.txt", "\\..\\up"):
        with open(f"tree/{name}", "w") as file:
            file.write("fine")
    os.mkfifo("tree/pipe")
    with open("tree/setuid", "w") as file:
        file.write("#!/bin/sh\n")
    os.chmod("tree/setuid", 0o4777)
    return False, "planted"


LYING_TAR = r"""#!PYTHON
import io, os, sys, tarfile
open(LOG, "a").write(" ".join(sys.argv) + "\n")
out = tarfile.open(fileobj=sys.stdout.buffer, mode="w|", format=tarfile.GNU_FORMAT)
def add(name, kind=tarfile.REGTYPE, link="", data=b"out"):
    member = tarfile.TarInfo(name)
    member.type, member.linkname, member.mode = kind, link, 0o4777
    member.size = len(data) if kind == tarfile.REGTYPE else 0
    out.addfile(member, io.BytesIO(data))
add("ok.txt")
add("door", tarfile.SYMTYPE, OUTSIDE)
add("door/through-the-link")
add("sub", tarfile.DIRTYPE)
add("sub/up", tarfile.SYMTYPE, "../..")
add("sub/up/by-climbing")
add("hard.txt", tarfile.LNKTYPE, MARKER)
add("dev", tarfile.CHRTYPE)
add("../by-dots")
add("sub/../../by-inner-dots")
add(OUTSIDE + "/by-absolute-name")
out.close()
"""


def plant_lying_tar(facts):
    """A program `tar`, found first, that answers with an archive of its own making."""
    os.makedirs("tree")
    os.makedirs("lies", exist_ok=True)
    with open("tree/ok.txt", "w") as file:
        file.write("fine")
    text = LYING_TAR.replace("PYTHON", sys.executable)
    for name, value in (
        ("LOG", os.path.abspath("lies/log")),
        ("OUTSIDE", facts["writable"]),
        ("MARKER", facts["marker"]),
    ):
        text = text.replace(name, repr(value))
    with open("lies/tar", "w") as file:
        file.write(text)
    os.chmod("lies/tar", 0o755)
    return False, "planted"


def swap(facts):
    """A directory and a link to one outside, exchanged in one step as fast as it goes, for two seconds."""
    os.mkdir("place")
    os.symlink(facts["writable"], "other")
    libc = ctypes.CDLL(None, use_errno=True)
    until, swaps = time.monotonic() + 2, 0
    print("swapping", flush=True)
    while time.monotonic() < until:
        # AT_FDCWD is -100, RENAME_EXCHANGE is 2 (renameat2(2)).
        if libc.renameat2(-100, b"place", -100, b"other", 2) != 0:
            raise OSError(ctypes.get_errno(), "renameat2")
        swaps += 1
    return False, f"{swaps} swaps"


def _read(path, secret):
    refusal = "not there"
    for way in _ways_to(path):
        try:
            if stat.S_ISREG(os.stat(way).st_mode):
                with open(way) as file:
                    if secret in file.read(4096):
                        return True, f"read {way}"
        except OSError as exc:
            refusal = exc.strerror
    return False, refusal


def _ways_to(path):
    yield path
    yield "../" * 20 + path.lstrip("/")
    yield "/proc/1/root" + path
    yield "/proc/self/root" + path
