"""Tests of scripts/check-layers: each rule is broken in a small tree made for it, and the checker must say so."""

import json
import pathlib
import subprocess
import sys
import tempfile
import unittest

CHECKER = pathlib.Path(__file__).resolve().parent / "check-layers"


class CheckLayersTest(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        self.root = pathlib.Path(self.folder.name)
        self.built = []

    def write(self, path, text="", built=True):
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
        if built and path.endswith(".cc"):
            self.built.append({"directory": str(self.root), "file": str(file)})

    def check(self):
        database = self.root / "build" / "release" / "compile_commands.json"
        database.parent.mkdir(parents=True, exist_ok=True)
        database.write_text(json.dumps(self.built), encoding="utf-8")
        return self.run_checker()

    def run_checker(self):
        command = [sys.executable, CHECKER, "--root", self.root]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        return result.returncode, result.stdout

    def assert_clean(self):
        status, output = self.check()
        self.assertEqual(status, 0, output)

    def assert_one_problem(self, *fragments):
        status, output = self.check()
        self.assertEqual(status, 1, output)
        self.assertIn("check-layers: 1 problems", output)
        for fragment in fragments:
            self.assertIn(fragment, output)

    # --- layers ---

    def test_a_tree_that_keeps_the_rules_passes(self):
        self.write("src/base/result.h", "#include <string>\n")
        self.write("src/base/pool.cc", '#include "base/result.h"\n')
        self.write("src/tensor/view.cc", '#include "base/result.h"\n#include <fmt/core.h>\n')
        self.write("src/tensor/view_test.cc", '#include "tensor/view.h"\n')
        self.write("src/base/CMakeLists.txt", "bloomery_module(base SOURCES pool.cc LIBS fmt::fmt)\n")
        self.write("src/tensor/CMakeLists.txt", "bloomery_module(tensor SOURCES view.cc DEPS base)\n")
        self.assert_clean()

    def test_a_higher_layer_may_not_be_included(self):
        self.write("src/base/pool.cc", '#include "base/pool.h"\n#include "engine/engine.h"\n')
        self.assert_one_problem("src/base/pool.cc:2", "base/ (layer 0) may not use engine/ (layer 5)", "a higher layer")

    def test_the_same_layer_may_not_be_included(self):
        self.write("src/tokenizer/bpe.cc", '#include "kernels/linear.h"\n')
        self.assert_one_problem("src/tokenizer/bpe.cc:1", "the same layer")

    def test_tests_keep_the_layers_too(self):
        self.write("src/model/config_test.cc", '#include "server/http.h"\n')
        self.assert_one_problem("src/model/config_test.cc:1", "a higher layer")

    def test_angle_brackets_do_not_hide_an_include(self):
        self.write("src/model/config.cc", "#  include <server/http.h>\n")
        self.assert_one_problem("src/model/config.cc:1", "a higher layer")

    def test_relative_includes_are_refused(self):
        self.write("src/model/config.cc", '#include "../server/http.h"\n')
        self.assert_one_problem("src/model/config.cc:1", 'as "folder/file.h"')

    def test_a_folder_without_a_layer_is_reported(self):
        self.write("src/misc/helpers.cc")
        self.assert_one_problem("folder 'misc' has no layer")

    def test_a_file_in_no_folder_is_reported(self):
        self.write("src/main.cc")
        self.assert_one_problem("src/main.cc:1", "lies in src/ itself")

    # --- intrinsics and instruction sets ---

    def test_intrinsics_outside_kernels_are_refused(self):
        self.write("src/model/attention.cc", "#include <immintrin.h>\n")
        self.assert_one_problem("src/model/attention.cc:1", "intrinsics belong in kernels/")

    def test_intrinsics_are_allowed_where_they_belong(self):
        self.write("src/kernels/avx2/linear.cc", "#include <immintrin.h>\n#include <cstdint>\n")
        self.write("src/base/thread_pool.cc", "#include <immintrin.h>\n")
        self.assert_clean()

    def test_isa_folders_may_not_include_the_standard_library(self):
        self.write("src/kernels/avx512/linear.cc", "#include <cstddef>\n#include <vector>\n")
        self.assert_one_problem("src/kernels/avx512/linear.cc:2", "plain C headers")

    def test_isa_folders_may_include_only_marked_headers(self):
        self.write("src/kernels/plain.h", "// Panel sizes; a plain header.\n#include <cstdint>\n")
        self.write("src/kernels/rich.h", "// Dispatch.\n#include <vector>\n")
        self.write("src/kernels/vnni/linear.cc", '#include "kernels/plain.h"\n#include "kernels/rich.h"\n')
        self.assert_one_problem("src/kernels/vnni/linear.cc:2", "kernels/rich.h")

    def test_a_header_marked_plain_must_be_plain(self):
        self.write("src/kernels/plain.h", "// Panel sizes; a plain header.\n#include <algorithm>\n")
        self.assert_one_problem("src/kernels/plain.h:2", "algorithm")

    def test_isa_folders_may_not_include_lower_modules(self):
        self.write("src/base/result.h")
        self.write("src/kernels/avx2/linear.cc", '#include "base/result.h"\n')
        self.assert_one_problem("src/kernels/avx2/linear.cc:1")

    # --- CMake ---

    def test_cmake_dependencies_keep_the_layers(self):
        self.write("src/model/CMakeLists.txt", "bloomery_module(model\n  SOURCES a.cc\n  DEPS base server\n  LIBS x)\n")
        self.assert_one_problem("src/model/CMakeLists.txt:1", "DEPS server", "a higher layer")

    def test_test_dependencies_keep_the_layers(self):
        self.write("src/model/CMakeLists.txt", "bloomery_module(model SOURCES a.cc TEST_DEPS engine)\n")
        self.assert_one_problem("DEPS engine")

    def test_linking_by_hand_keeps_the_layers(self):
        self.write(
            "src/model/CMakeLists.txt",
            "bloomery_module(model SOURCES a.cc DEPS base)\ntarget_link_libraries(tool bloomery_cli)\n",
        )
        self.assert_one_problem("src/model/CMakeLists.txt:2", "DEPS cli")

    def test_an_unknown_dependency_is_reported(self):
        self.write("src/model/CMakeLists.txt", "bloomery_module(model SOURCES a.cc DEPS OpenSSL)\n")
        self.assert_one_problem("'OpenSSL', which is no folder")

    # --- forgotten files ---

    def test_a_source_in_no_target_is_reported(self):
        self.write("src/base/forgotten.cc", built=False)
        self.assert_one_problem("src/base/forgotten.cc:1", "is in no target")

    def test_a_test_that_is_never_built_is_reported(self):
        self.write("src/base/pool_test.cc", built=False)
        self.assert_one_problem("src/base/pool_test.cc:1", "never built")

    def test_cross_module_tests_must_be_built_too(self):
        self.write("tests/golden/logits_test.cc", built=False)
        self.assert_one_problem("tests/golden/logits_test.cc:1", "never built")

    def test_a_fuzzer_must_be_declared(self):
        self.write("fuzz/pickle_fuzzer.cc", built=False)
        self.assert_one_problem("fuzz/pickle_fuzzer.cc:1", "in no bloomery_fuzzer()")

    def test_a_declared_fuzzer_passes(self):
        self.write("fuzz/pickle_fuzzer.cc", built=False)
        self.write("fuzz/CMakeLists.txt", "bloomery_fuzzer(pickle_fuzzer SOURCES pickle_fuzzer.cc DEPS base)\n")
        self.assert_clean()

    def test_a_missing_build_folder_is_an_error(self):
        self.write("src/base/pool.cc")
        status, output = self.run_checker()
        self.assertEqual(status, 1)
        self.assertIn("cmake --preset release", output)


if __name__ == "__main__":
    unittest.main()
