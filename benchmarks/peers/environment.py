"""The virtual environment of the peers, outside the tree: made on first use, and each engine's packages installed on their own."""

import os
import pathlib
import re
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
REQUIREMENTS = HERE / "requirements.txt"

# llama-cpp-python: for this machine's instructions, as one who compiles llama.cpp gets it; without the image models.
# And without AMX: what GCC 12 makes of llama.cpp's tile code ends in an illegal instruction at its first product.
NO_AMX = "-mno-amx-tile -mno-amx-int8 -mno-amx-bf16"
BUILD_SETTINGS = {"CMAKE_ARGS": "-DGGML_NATIVE=ON -DLLAVA_BUILD=OFF", "CFLAGS": NO_AMX, "CXXFLAGS": NO_AMX}

ASK_VERSION = "import importlib.metadata as m, sys; print(*(f'{p}=={m.version(p)}' for p in sys.argv[1:]), sep='\\n')"


class InstallFailed(Exception):
    """The text is the reason that the user reads."""


def home():
    """Where environments and models that were made once lie."""
    chosen = os.environ.get("PEERS_HOME")
    cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache"))
    return pathlib.Path(chosen) if chosen else cache / "bloomery"


def python():
    return home() / "peers-venv/bin/python"


def pins():
    lines = REQUIREMENTS.read_text(encoding="utf-8").splitlines()
    return {line.split("==")[0]: line.strip() for line in lines if re.match(r"\w", line)}


def ensure(packages, log):
    """Installs what is missing of those packages, at the versions of requirements.txt. Raises InstallFailed."""
    wanted = [pins()[package] for package in packages]
    if not python().exists():
        python().parent.parent.mkdir(parents=True, exist_ok=True)
        _run([sys.executable, "-m", "venv", python().parent.parent], log)
    if _installed(packages) == wanted:
        return
    print(f"installing {', '.join(wanted)}: minutes, and GBs for torch; log in {log.name}", flush=True)
    _run(["nice", "-n", "10", python(), "-m", "pip", "install", "--disable-pip-version-check", "--constraint", REQUIREMENTS,
          "--no-binary", "llama-cpp-python", *wanted], log)  # fmt: skip


def _installed(packages):
    answer = subprocess.run([python(), "-c", ASK_VERSION, *packages], capture_output=True, text=True)
    return answer.stdout.split() if answer.returncode == 0 else None


def _run(command, log):
    with log.open("a", encoding="utf-8") as output:
        status = subprocess.run(command, stdout=output, stderr=output, env={**BUILD_SETTINGS, **os.environ}).returncode
    if status != 0:
        lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines()]
        errors = [line for line in lines if line.lower().startswith("error")] or lines[-1:] or ["no output"]
        raise InstallFailed(f"installing failed with status {status} (log: {log.name}): {errors[-1]}")
