"""Tests of scripts/check-isa-symbols on object files compiled here."""

import pathlib
import subprocess
import sys
import tempfile
import unittest

CHECKER = pathlib.Path(__file__).resolve().parent / "check-isa-symbols"

# noinline, so that a weak copy is certain.
INLINE = "__attribute__((noinline)) inline float Twice(float x) { return x + x; }\n"
HIDDEN = "namespace { __attribute__((noinline)) float Twice(float x) { return x + x; } }\n"


class CheckIsaSymbolsTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.build = pathlib.Path(folder.name)

    def compile(self, place, text):
        target = self.build / place
        target.parent.mkdir(parents=True, exist_ok=True)
        command = ["g++", "-O2", "-x", "c++", "-c", "-", "-o", str(target)]
        subprocess.run(command, input=text, text=True, check=True)

    def check(self):
        command = [sys.executable, CHECKER, "--build", self.build]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        return result.returncode, result.stdout + result.stderr

    def test_a_function_shared_with_the_baseline_is_found(self):
        self.compile("src/kernels/CMakeFiles/bloomery_kernels.dir/avx512/a.o", INLINE + "float A(float x) { return Twice(x); }")
        self.compile("src/model/CMakeFiles/bloomery_model.dir/b.o", INLINE + "float B(float x) { return Twice(x); }")
        status, output = self.check()
        self.assertEqual(status, 1, output)
        self.assertIn("Twice(float)", output)
        self.assertIn("avx512 and of the baseline", output)

    def test_a_function_shared_by_two_sets_is_found(self):
        self.compile("src/kernels/CMakeFiles/bloomery_kernels.dir/avx512/a.o", INLINE + "float A(float x) { return Twice(x); }")
        self.compile("src/kernels/CMakeFiles/bloomery_kernels.dir/vnni/b.o", INLINE + "float B(float x) { return Twice(x); }")
        status, output = self.check()
        self.assertEqual(status, 1, output)
        self.assertIn("avx512 and of vnni", output)

    def test_an_unnamed_namespace_is_the_remedy(self):
        self.compile("src/kernels/CMakeFiles/bloomery_kernels.dir/avx512/a.o", HIDDEN + "float A(float x) { return Twice(x); }")
        self.compile("src/model/CMakeFiles/bloomery_model.dir/b.o", INLINE + "float B(float x) { return Twice(x); }")
        status, output = self.check()
        self.assertEqual(status, 0, output)
        self.assertIn("1 object files", output)

    def test_nothing_built_is_an_error(self):
        status, output = self.check()
        self.assertEqual(status, 1)
        self.assertIn("build it first", output)


if __name__ == "__main__":
    unittest.main()
