"""requirements.txt, from a wheel that is written here: nothing is fetched."""

import base64
import hashlib
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest
import zipfile

from djl_python import environment, frames

from .test_worker import PACKAGES, Gateway


def write_wheel(folder, name, text):
    files = {
        f"{name}.py": text,
        f"{name}-1.0.dist-info/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
        f"{name}-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nGenerator: by hand\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{name}-1.0.dist-info/entry_points.txt": f"[console_scripts]\n{name} = {name}:main\n",
    }
    record = [f"{path},sha256={base64.urlsafe_b64encode(hashlib.sha256(data.encode()).digest()).decode().rstrip('=')},{len(data)}" for path, data in files.items()]
    path = pathlib.Path(folder) / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        for file, data in files.items():
            wheel.writestr(file, data)
        wheel.writestr(f"{name}-1.0.dist-info/RECORD", "\n".join([*record, f"{name}-1.0.dist-info/RECORD,,"]) + "\n")
    return path


class EnvironmentTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        before = os.environ.get("BLOOMERY_VENVS")
        os.environ["BLOOMERY_VENVS"] = str(self.folder / "venvs")
        self.addCleanup(lambda: os.environ.pop("BLOOMERY_VENVS") if before is None else os.environ.update(BLOOMERY_VENVS=before))

    def requirements(self, text):
        path = self.folder / "requirements.txt"
        path.write_text(f"--no-index\n{text}\n")
        return path

    def test_made_once_by_whoever_comes_first(self):
        requirements = self.requirements(write_wheel(self.folder, "smelter", "def main(): print('smelted')"))
        environment.place_of(requirements).mkdir(parents=True)  # what a killed one left
        command = [sys.executable, "-c", f"from djl_python import environment; print(environment.ensure({str(requirements)!r}))"]
        makers = [subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(PACKAGES)}, stdout=subprocess.PIPE, text=True) for _ in range(3)]
        outputs = [maker.communicate(timeout=120)[0] for maker in makers]
        self.assertEqual(sum("installing" in output for output in outputs), 1, outputs)
        (place,) = {output.splitlines()[-1] for output in outputs}
        self.assertEqual(subprocess.run([f"{place}/bin/smelter"], capture_output=True, text=True).stdout, "smelted\n")
        requirements.write_text(requirements.read_text() + "# changed\n")
        self.assertNotEqual(str(environment.place_of(requirements)), place)

    def test_a_handler_that_needs_a_package(self):
        wheel = write_wheel(self.folder, "smelter", "heat = 1200")
        gateway = Gateway(
            "import smelter, sys\ndef handle(inputs):\n    return f'{smelter.heat} {sys.prefix}'", files={"requirements.txt": f"--no-index\n{wheel}\n"}
        )
        self.addCleanup(gateway.__exit__)
        self.assertEqual(gateway.load(), "ready")
        heat, prefix = gateway.ask("x")[0][0][3][0].decode().split()
        self.assertEqual(heat, "1200")
        self.assertTrue(prefix.startswith(str(self.folder / "venvs")), prefix)

    def test_failure_says_what_pip_said_and_leaves_nothing(self):
        gateway = Gateway("def handle(inputs): pass", files={"requirements.txt": "--no-index\npackage-of-nobody==1.0\n"})
        self.addCleanup(gateway.__exit__)
        kind, why = gateway.next()
        self.assertEqual(kind, frames.LOAD_FAILED)
        self.assertRegex(why.text(), "requirements.txt cannot be installed: (.|\n)*package-of-nobody")
        self.assertEqual([path.suffix for path in (self.folder / "venvs").iterdir()], [".lock"])


if __name__ == "__main__":
    unittest.main()
