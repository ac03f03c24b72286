// Every seed of every fuzzer, through the same code the fuzzer runs.
#include <gtest/gtest.h>

#include <filesystem>

#include "base/mapped_file.h"
#include "targets.h"

namespace bloomery {
namespace {

void Replay(const std::string& fuzzer, void (*target)(std::string_view)) {
  int seeds = 0;
  for (const auto& entry : std::filesystem::directory_iterator(std::filesystem::path(BLOOMERY_SOURCE_DIR) /
                                                               "fuzz/corpus" / fuzzer)) {
    target(ReadFileToString(entry.path()).value());
    ++seeds;
  }
  EXPECT_GT(seeds, 0);
}

TEST(FuzzSeeds, Safetensors) { Replay("safetensors_fuzzer", FuzzSafetensors); }
TEST(FuzzSeeds, Torch) { Replay("torch_fuzzer", FuzzTorchFile); }
TEST(FuzzSeeds, Tokenizer) { Replay("tokenizer_fuzzer", FuzzTokenizer); }
TEST(FuzzSeeds, Http) { Replay("http_fuzzer", FuzzHttpBody); }
TEST(FuzzSeeds, Properties) { Replay("properties_fuzzer", FuzzProperties); }
TEST(FuzzSeeds, Archive) { Replay("archive_fuzzer", FuzzArchive); }
TEST(FuzzSeeds, S3Answer) { Replay("s3_fuzzer", FuzzS3Answer); }

}  // namespace
}  // namespace bloomery
