#include "storage/part_file.h"

#include <gmock/gmock.h>

#include <fstream>
#include <random>
#include <thread>
#include <vector>

namespace bloomery {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

// Beside the program and not in the temporary folder, which may be memory: direct writing needs a disk.
class PartFileTest : public testing::TestWithParam<bool> {
 protected:
  PartFileTest() { fs::remove_all(folder_); }
  ~PartFileTest() override { fs::remove_all(folder_); }

  static std::vector<std::byte> RandomBytes(std::size_t size) {
    std::mt19937 random(5);
    std::vector<std::byte> bytes(size);
    for (std::byte& byte : bytes) byte = static_cast<std::byte>(random());
    return bytes;
  }

  fs::path folder_ = fs::current_path() / fmt::format("part_file_test.{}", ::getpid());
  fs::path path_ = folder_ / "sub/file";
};

// Parts of several pieces, and of some bytes more and less than blocks, from as many threads.
TEST_P(PartFileTest, PartsOfAnyLengthInAnyOrder) {
  constexpr std::size_t kPart = 2 * PartWriter::kPieceBytes + 3 * kDirectBlockBytes;
  for (const std::size_t size : {std::size_t{1}, kDirectBlockBytes, 3 * kPart, 3 * kPart + 4097}) {
    const std::vector<std::byte> bytes = RandomBytes(size);
    PartFile file;
    ASSERT_TRUE(file.Open(path_, size, GetParam()));
    EXPECT_EQ(fs::file_size(path_), size);
    {
      std::vector<std::jthread> threads;
      for (std::size_t begin = 0; begin < size; begin += kPart) {
        threads.emplace_back([&file, begin,
                              part = std::span(bytes).subspan(begin).first(std::min(kPart, size - begin))] {
          PartWriter writer(file, begin);
          // As a network cuts them.
          for (std::size_t at = 0; at < part.size(); at += 16'001)
            EXPECT_TRUE(writer.Add(part.subspan(at).first(std::min<std::size_t>(16'001, part.size() - at))));
          EXPECT_TRUE(writer.Flush());
        });
      }
    }
    std::vector<std::byte> back(size);
    EXPECT_TRUE(file.ReadAt(0, back));
    EXPECT_EQ(back, bytes) << size;
    file.Close();
    std::ifstream stream(path_, std::ios::binary);
    const std::string text(std::istreambuf_iterator<char>(stream), {});
    EXPECT_EQ(text, std::string(reinterpret_cast<const char*>(bytes.data()), size)) << size;
  }
}

TEST_P(PartFileTest, UnalignedPlacesAndWhatIsThere) {
  const std::vector<std::byte> bytes = RandomBytes(3 * kDirectBlockBytes);
  PartFile file;
  ASSERT_TRUE(file.Open(path_, bytes.size(), GetParam()));
  EXPECT_TRUE(file.WriteAt(0, std::span(bytes).first(100)));
  EXPECT_TRUE(file.WriteAt(100, std::span(bytes).subspan(100)));
  file.Close();
  EXPECT_FALSE(file.is_open());
  ASSERT_TRUE(file.Open(path_, bytes.size(), GetParam()));
  std::vector<std::byte> back(bytes.size());
  EXPECT_TRUE(file.ReadAt(0, back));
  EXPECT_EQ(back, bytes);
  EXPECT_FALSE(file.ReadAt(1, back)) << "one byte past the end";
}

TEST_P(PartFileTest, ErrorsNameTheFile) {
  PartFile file;
  fs::create_directories(path_);
  const Status folder = file.Open(path_, 1, GetParam());
  EXPECT_EQ(folder.error().code, ErrorCode::kIo);
  EXPECT_THAT(folder.error().message, HasSubstr(path_.string()));
  EXPECT_FALSE(file.is_open());
  // A device that is always full.
  ASSERT_TRUE(fs::exists("/dev/full"));
  const Status full = file.Open("/dev/full", 0, GetParam());
  if (!full) GTEST_SKIP() << "/dev/full cannot be opened here";
  const auto bytes = RandomBytes(10);
  EXPECT_THAT(file.WriteAt(0, bytes).error().message, HasSubstr("/dev/full: cannot write: No space left"));
}

INSTANTIATE_TEST_SUITE_P(Cached, PartFileTest, testing::Values(false));
INSTANTIATE_TEST_SUITE_P(Direct, PartFileTest, testing::Values(true));

}  // namespace
}  // namespace bloomery
