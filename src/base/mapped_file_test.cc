#include "base/mapped_file.h"

#include <gtest/gtest.h>

#include <array>
#include <fstream>

namespace bloomery {
namespace {

std::filesystem::path WriteTemp(const std::string& name, const std::string& text) {
  const auto path = std::filesystem::path(testing::TempDir()) / name;
  std::ofstream(path, std::ios::binary) << text;
  return path;
}

TEST(MappedFile, ReadsRangesAndRefusesWhatIsPastTheEnd) {
  const auto file = MappedFile::Open(WriteTemp("mapped", "0123456789"));
  ASSERT_TRUE(file) << file.error().ToString();
  std::array<std::byte, 4> out{};
  ASSERT_TRUE((*file)->ReadAt(6, out));
  EXPECT_EQ(static_cast<char>(out[3]), '9');
  EXPECT_EQ((*file)->ReadAt(7, out).error().code, ErrorCode::kCorrupt);
  EXPECT_EQ((*file)->ReadAt(~std::uint64_t{0}, out).error().code, ErrorCode::kCorrupt);
}

TEST(MappedFile, MissingEmptyAndDirectory) {
  EXPECT_EQ(MappedFile::Open("/no/such/file").error().code, ErrorCode::kNotFound);
  EXPECT_EQ(MappedFile::Open(testing::TempDir()).error().code, ErrorCode::kInvalidArgument);
  const auto empty = MappedFile::Open(WriteTemp("empty", ""));
  ASSERT_TRUE(empty);
  EXPECT_EQ((*empty)->size_bytes(), 0U);
}

TEST(ReadFileToString, HoldsToItsLimit) {
  const auto path = WriteTemp("text", "hello");
  EXPECT_EQ(ReadFileToString(path).value(), "hello");
  EXPECT_EQ(ReadFileToString(path, 4).error().code, ErrorCode::kTooLarge);
}

}  // namespace
}  // namespace bloomery
