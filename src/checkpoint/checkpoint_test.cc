#include "checkpoint/checkpoint.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "base/mapped_file.h"
#include "checkpoint/safetensors.h"
#include "checkpoint/torch_file.h"
#include "checkpoint/zip.h"

namespace bloomery {
namespace {

using testing::HasSubstr;
namespace fs = std::filesystem;

const fs::path kSource = BLOOMERY_SOURCE_DIR;

// A fresh directory for one test.
class CheckpointTest : public testing::Test {
 protected:
  void SetUp() override {
    directory_ = fs::path(testing::TempDir()) / testing::UnitTest::GetInstance()->current_test_info()->name();
    fs::remove_all(directory_);
    fs::create_directories(directory_);
  }
  void TearDown() override { fs::remove_all(directory_); }

  void Write(const std::string& name, const std::vector<std::string>& tensors) const {
    static const std::vector<float> values = {1, 2};
    std::vector<std::pair<std::string, TensorView>> list;
    for (const std::string& tensor : tensors)
      list.emplace_back(tensor, TensorView{DType::kF32, {2}, std::as_bytes(std::span(values))});
    ASSERT_TRUE(WriteSafetensors(directory_ / name, list));
  }
  void Text(const std::string& name, const std::string& text) const {
    std::ofstream(directory_ / name) << text;
  }

  std::string Refusal() const {
    const auto opened = Checkpoint::Open(directory_);
    return opened ? "accepted" : opened.error().message;
  }

  fs::path directory_;
};

TEST_F(CheckpointTest, SaysWhatItLookedForAndWhatThereIs) {
  Text("config.json", "{}");
  EXPECT_THAT(Refusal(), HasSubstr("no weights; expected model.safetensors or pytorch_model.bin, whole or in "
                                   "shards, found config.json"));
  EXPECT_EQ(Checkpoint::Open(directory_ / "nothing").error().code, ErrorCode::kNotFound);
}

TEST_F(CheckpointTest, ReadsShardsByIndexAndWithout) {
  Write("model-00001-of-00002.safetensors", {"a", "b"});
  Write("model-00002-of-00002.safetensors", {"c"});
  const auto without = Checkpoint::Open(directory_);
  ASSERT_TRUE(without) << without.error().ToString();
  EXPECT_EQ((*without)->names(), (std::vector<std::string>{"a", "b", "c"}));
  EXPECT_THAT(std::string((*without)->FileOf("c")), HasSubstr("model-00002-of-00002.safetensors"));
  EXPECT_EQ((*without)->total_bytes(), 24U);
  Text("model.safetensors.index.json",
       R"({"weight_map":{"a":"model-00001-of-00002.safetensors","c":"model-00002-of-00002.safetensors"}})");
  EXPECT_EQ(Refusal(), "accepted");
  const auto missing = (*without)->Get("h.0.c");
  ASSERT_FALSE(missing);
  EXPECT_THAT(missing.error().message,
              HasSubstr("tensor \"h.0.c\" is missing (3 tensors in 2 files; nearest: \"c\")"));
}

TEST_F(CheckpointTest, RefusesSetsThatAreNotWhole) {
  Write("model-00001-of-00003.safetensors", {"a"});
  Write("model-00003-of-00003.safetensors", {"b"});
  EXPECT_THAT(Refusal(), HasSubstr("shard 2 of 3"));
  Write("model-00002-of-00004.safetensors", {"c"});
  EXPECT_THAT(Refusal(), HasSubstr("shards of two sets"));
}

TEST_F(CheckpointTest, RefusesTheSameTensorTwice) {
  Write("model-00001-of-00002.safetensors", {"a"});
  Write("model-00002-of-00002.safetensors", {"a"});
  EXPECT_THAT(Refusal(), HasSubstr("tensor \"a\" is in"));
}

TEST_F(CheckpointTest, RefusesIndexesThatPointElsewhere) {
  Write("model-00001-of-00001.safetensors", {"a"});
  for (const char* file : {"../secret.safetensors", "/etc/passwd", "a/b.safetensors", "..", "", "x\\\\y"}) {
    Text("model.safetensors.index.json", fmt::format(R"({{"weight_map":{{"a":"{}"}}}})", file));
    EXPECT_THAT(Refusal(), HasSubstr("no file beside the index")) << file;
  }
  Text("model.safetensors.index.json", R"({"weight_map":{"a":7}})");
  EXPECT_THAT(Refusal(), HasSubstr("no file beside the index"));
  Text("model.safetensors.index.json", R"({"weight_map":{"a":"gone.safetensors"}})");
  EXPECT_THAT(Refusal(),
              HasSubstr("gone.safetensors is missing, and model.safetensors.index.json promises it"));
  Text("model.safetensors.index.json", R"({"weight_map":{"z":"model-00001-of-00001.safetensors"}})");
  EXPECT_THAT(Refusal(), HasSubstr("tensor \"z\" is not in it"));
  Text("model.safetensors.index.json", "{}");
  EXPECT_THAT(Refusal(), HasSubstr("no \"weight_map\""));
}

// Files that torch wrote (scripts/goldens/fuzz_seeds_goldens.py).
Result<TensorMap> ReadSeed(const std::string& name, std::shared_ptr<const MappedFile>& file) {
  file = MappedFile::Open(kSource / "fuzz/corpus/torch_fuzzer" / name).value();
  return ParseTorchFile(*file);
}

TEST(TorchFile, ReadsWhatTorchSaved) {
  std::shared_ptr<const MappedFile> file;
  for (const char* name : {"plain", "nested"}) {
    const auto tensors = ReadSeed(name, file);
    ASSERT_TRUE(tensors) << tensors.error().ToString();
    EXPECT_EQ(tensors->size(), 3U);
    EXPECT_EQ(tensors->at("a.weight").shape, (Shape{2, 3}));
    std::vector<float> values(6);
    ToF32(tensors->at("a.weight"), 0, 6, values.data());
    EXPECT_EQ(values, (std::vector<float>{0, 1, 2, 3, 4, 5}));
    EXPECT_EQ(tensors->at("b").dtype, DType::kF16);
    EXPECT_EQ(tensors->at("c").dtype, DType::kBF16);
  }
  const auto views = ReadSeed("views", file);
  ASSERT_TRUE(views) << views.error().ToString();
  std::vector<float> values(4);
  ToF32(views->at("y"), 0, 4, values.data());
  EXPECT_EQ(values, (std::vector<float>{4, 5, 6, 7})) << "a view into a shared storage, at an offset";
  EXPECT_TRUE(ReadSeed("parameter", file));
}

TEST(TorchFile, RefusesWhatCannotBeMappedAndSaysWhatToDo) {
  std::shared_ptr<const MappedFile> file;
  EXPECT_THAT(ReadSeed("legacy", file).error().message, HasSubstr("legacy (non-zip) form; re-save it"));
  EXPECT_THAT(ReadSeed("transposed", file).error().message,
              HasSubstr("tensor \"t\": strides [1, 3] of shape [3, 2] are not row-major"));
  std::string tar(512, '\0');
  tar.replace(257, 5, "ustar");
  EXPECT_THAT(ParseTorchFile(MemorySource("x.bin", tar)).error().message, HasSubstr("old tar form"));
  EXPECT_THAT(ParseTorchFile(MemorySource("x.bin", std::string(100, 'x'))).error().message,
              HasSubstr("x.bin: no end-of-archive record"));
}

TEST(TorchFile, EveryTruncationAndEveryFlippedByteIsSurvived) {
  const auto file = MappedFile::Open(kSource / "fuzz/corpus/torch_fuzzer/views").value();
  const std::string whole(file->text());
  for (std::size_t length = 0; length < whole.size(); length += 3)
    EXPECT_FALSE(ParseTorchFile(MemorySource("x", whole.substr(0, length))));
  int refused = 0;
  for (std::size_t i = 0; i < whole.size(); ++i) {
    std::string flipped = whole;
    flipped[i] = static_cast<char>(flipped[i] ^ 0x55);
    refused += ParseTorchFile(MemorySource("x", flipped)) ? 0 : 1;
  }
  EXPECT_GT(refused, 100);
}

TEST(Zip, RefusesCompressedAndEncryptedEntries) {
  const auto file = MappedFile::Open(kSource / "fuzz/corpus/torch_fuzzer/plain").value();
  const std::string whole(file->text());
  const std::size_t central = whole.find("PK\x01\x02");
  ASSERT_NE(central, std::string::npos);
  const auto refusal = [&](std::size_t offset, char value) {
    std::string changed = whole;
    changed[central + offset] = value;
    return ReadZipDirectory(std::as_bytes(std::span(changed))).error().message;
  };
  EXPECT_THAT(refusal(10, 8), HasSubstr("is compressed"));
  EXPECT_THAT(refusal(8, 1), HasSubstr("is encrypted"));
}

}  // namespace
}  // namespace bloomery
