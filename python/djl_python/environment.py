"""A model's requirements.txt as a virtual environment, made once a host and kept.

It lies under $BLOOMERY_VENVS, or bloomery/venvs in the user's cache folder, in a folder named after the file's bytes and the interpreter. Whoever comes
first makes it, under a lock; the others wait. What was cut off in the middle has no mark of completeness and is made anew.
"""

import collections
import fcntl
import hashlib
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

LAST_LINES = 15
_COMPLETE = "bloomery-complete"


class RequirementsFailed(Exception):
    """pip, or venv, did not manage; the last lines of what it said."""


def home():
    chosen = os.environ.get("BLOOMERY_VENVS")
    if chosen:
        return pathlib.Path(chosen)
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    folder = pathlib.Path(cache) / "bloomery" / "venvs"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            return folder
    except OSError:
        pass  # a container whose user has no home
    return pathlib.Path(tempfile.gettempdir()) / f"bloomery-venvs-{os.getuid()}"


def place_of(requirements):
    """Where the environment of that file lies, whether it is made or not."""
    key = hashlib.sha256()
    for part in (pathlib.Path(requirements).read_bytes(), sys.version.encode(), os.path.realpath(sys.base_prefix).encode()):
        key.update(str(len(part)).encode() + b":" + part)
    return home() / key.hexdigest()[:32]


def ensure(requirements):
    """The environment's folder, made if need be. The packages of the interpreter itself can be seen from within it."""
    place = place_of(requirements)
    place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if place.parent.stat().st_uid != os.getuid():
        raise RequirementsFailed(f"{place.parent} belongs to another user; set BLOOMERY_VENVS")
    with open(f"{place}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (place / _COMPLETE).exists():
            # In its last place: scripts that packages bring have the interpreter's path in their first line.
            shutil.rmtree(place, ignore_errors=True)
            try:
                print(f"installing {requirements} into {place}", flush=True)
                _run([sys.executable, "-m", "venv", "--system-site-packages", str(place)])
                _run([str(place / "bin/python"), "-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check", "--requirement", str(requirements)])
            except RequirementsFailed:
                shutil.rmtree(place, ignore_errors=True)
                raise
            (place / _COMPLETE).touch()
    return place


def _run(command):
    """Says what the command says, line by line."""
    last = collections.deque(maxlen=LAST_LINES)
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace") as process:
        for line in process.stdout:
            print(line, end="", flush=True)
            last.append(line.rstrip())
    if process.returncode != 0:
        raise RequirementsFailed("\n".join(last) or f"{command[1:4]} ended with {process.returncode}")
