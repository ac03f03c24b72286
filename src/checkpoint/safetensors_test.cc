#include "checkpoint/safetensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>
#include <fstream>

#include "base/mapped_file.h"

namespace bloomery {
namespace {

using testing::HasSubstr;

std::string File(const std::string& header, const std::string& data) {
  const std::uint64_t length = header.size();
  std::string file(reinterpret_cast<const char*>(&length), sizeof(length));
  return file + header + data;
}

// The error of parsing a hostile file; "accepted" when there is none.
std::string Refusal(const std::string& bytes) {
  const auto parsed = ParseSafetensors(MemorySource("x.safetensors", bytes));
  return parsed ? "accepted" : parsed.error().message;
}

TEST(Safetensors, ViewsAreThoseOfTheFile) {
  const MemorySource source(
      "x.safetensors",
      File(
          R"({"__metadata__":{"format":"pt"},"a":{"dtype":"F16","shape":[2,1],"data_offsets":[0,4]},"b":{"dtype":"I64","shape":[],"data_offsets":[4,12]}})",
          "abcdefghijkl"));
  const auto tensors = ParseSafetensors(source);
  ASSERT_TRUE(tensors) << tensors.error().ToString();
  EXPECT_EQ(tensors->size(), 2U);
  EXPECT_EQ(tensors->at("a").shape, (Shape{2, 1}));
  EXPECT_EQ(tensors->at("a").dtype, DType::kF16);
  EXPECT_EQ(static_cast<char>(tensors->at("b").bytes[0]), 'e');
}

TEST(Safetensors, RefusesWhatContradictsItself) {
  EXPECT_THAT(Refusal("abc"), HasSubstr("x.safetensors: 3 bytes are too few"));
  EXPECT_THAT(Refusal(std::string(8, '\xFF')), HasSubstr("the limit is 100000000"));
  EXPECT_THAT(Refusal(File("{", "")), HasSubstr("header: not valid JSON"));
  EXPECT_THAT(Refusal(File("[]", "")), HasSubstr("not a JSON object"));
  EXPECT_THAT(Refusal(File("{}", "").substr(0, 9)), HasSubstr("truncated download?"));
  const auto one = [](const char* entry, const char* data) {
    return Refusal(File(std::string(R"({"t":)") + entry + "}", data));
  };
  EXPECT_THAT(one(R"({"dtype":"F32","shape":[2],"data_offsets":[0,8]})", "1234"),
              HasSubstr("tensor \"t\": data ends at 8, past the 4 bytes"));
  EXPECT_THAT(one(R"({"dtype":"F32","shape":[32],"data_offsets":[0,4]})", "1234"),
              HasSubstr("tensor \"t\": 4 bytes for [32] f32, expected 128"));
  EXPECT_THAT(one(R"({"dtype":"F31","shape":[1],"data_offsets":[0,4]})", "1234"),
              HasSubstr("dtype \"F31\" is not known"));
  EXPECT_THAT(one(R"({"dtype":"F32","shape":[-1],"data_offsets":[0,4]})", "1234"),
              HasSubstr("negative dimension"));
  EXPECT_THAT(one(R"({"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,4]})", "1234"),
              HasSubstr("overflows"));
  EXPECT_THAT(one(R"({"dtype":"F32","shape":[1],"data_offsets":[4,0]})", "1234"), HasSubstr("run backwards"));
  EXPECT_THAT(one(R"({"dtype":"F32","shape":[1],"data_offsets":[-4,0]})", "1234"), HasSubstr("non-negative"));
  EXPECT_THAT(one(R"({"dtype":"F32","shape":[1],"data_offsets":[0,4]})", "12345"),
              HasSubstr("1 bytes after the last tensor"));
  EXPECT_THAT(one(R"({"dtype":"U8","shape":[1],"data_offsets":[1,2]})", "12"), HasSubstr("a gap of 1 bytes"));
  EXPECT_THAT(one("7", ""), HasSubstr("not an object"));
  EXPECT_THAT(
      Refusal(File(
          R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}})",
          "123")),
      HasSubstr("overlaps another"));
}

TEST(Safetensors, WhatIsWrittenReadsBack) {
  const auto path = std::filesystem::path(testing::TempDir()) / "written.safetensors";
  const std::vector<float> values = {1, 2, 3, 4, 5, 6};
  const TensorView matrix{DType::kF32, {2, 3}, std::as_bytes(std::span(values))};
  const TensorView empty{DType::kF32, {0}, {}};
  const std::vector<std::pair<std::string, TensorView>> tensors = {{"m", matrix}, {"none", empty}};
  ASSERT_TRUE(WriteSafetensors(path, tensors, {{"format", "pt"}}));
  const auto file = MappedFile::Open(path).value();
  const auto read = ParseSafetensors(*file);
  ASSERT_TRUE(read) << read.error().ToString();
  ASSERT_EQ(read->at("m").shape, matrix.shape);
  EXPECT_EQ(std::memcmp(read->at("m").bytes.data(), values.data(), 24), 0);
  EXPECT_FALSE(std::filesystem::exists(path.string() + ".partial"));
}

// A shard of a big model: offsets past 2^32, mapped and not read.
TEST(Safetensors, FilesOverFourGigabytes) {
  const auto path = std::filesystem::path(testing::TempDir()) / "sparse.safetensors";
  constexpr std::uint64_t kLarge = (std::uint64_t{4} << 30U) + 64;
  const std::string header = fmt::format(
      R"({{"large":{{"dtype":"U8","shape":[{}],"data_offsets":[0,{}]}},"last":{{"dtype":"F32","shape":[1],"data_offsets":[{},{}]}}}})",
      kLarge, kLarge, kLarge, kLarge + 4);
  std::ofstream(path, std::ios::binary) << File(header, "");
  if (::truncate(path.c_str(), static_cast<off_t>(8 + header.size() + kLarge)) != 0)
    GTEST_SKIP() << "the file system has no sparse files";
  const float value = 42;
  std::ofstream(path, std::ios::binary | std::ios::app)
      .write(reinterpret_cast<const char*>(&value), sizeof(value));
  const auto file = MappedFile::Open(path).value();
  const auto tensors = ParseSafetensors(*file);
  ASSERT_TRUE(tensors) << tensors.error().ToString();
  float last = 0;
  ToF32(tensors->at("last"), 0, 1, &last);
  EXPECT_EQ(last, 42);
  std::filesystem::remove(path);
}

}  // namespace
}  // namespace bloomery
