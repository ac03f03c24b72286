#include "base/read_ahead.h"

#include <gtest/gtest.h>

#include <cstring>
#include <fstream>

namespace bloomery {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kPages = 3000;  // several pieces an item

class ReadAheadTest : public testing::Test {
 protected:
  ReadAheadTest() {
    std::string path = (fs::temp_directory_path() / "read_ahead_test_XXXXXX").string();
    folder_ = ::mkdtemp(path.data());
    for (int f = 0; f < 2; ++f) {
      std::ofstream file(folder_ / std::to_string(f), std::ios::binary);
      for (std::size_t page = 0; page < kPages; ++page) {
        const std::string text(kReadAheadStep, static_cast<char>(Expected(f, page)));
        file << text;
      }
      files_.push_back(folder_ / std::to_string(f));
    }
  }
  ~ReadAheadTest() override { fs::remove_all(folder_); }

  static std::byte Expected(std::size_t file, std::size_t page) {
    return static_cast<std::byte>(page * 7 + file * 101 + page / 256);
  }

  std::vector<std::span<std::byte>> Slots(std::size_t count, std::size_t bytes) {
    memory_.reset(static_cast<std::byte*>(std::aligned_alloc(kReadAheadStep, count * bytes)));
    std::vector<std::span<std::byte>> slots;
    for (std::size_t i = 0; i < count; ++i) slots.emplace_back(memory_.get() + i * bytes, bytes);
    return slots;
  }

  struct Free {
    void operator()(std::byte* memory) const { std::free(memory); }
  };
  fs::path folder_;
  std::vector<fs::path> files_;
  std::unique_ptr<std::byte, Free> memory_;
};

TEST_F(ReadAheadTest, ItemsComeInOrderRoundAfterRound) {
  constexpr std::size_t kItemPages = 2200;
  std::vector<std::vector<FileRange>> items;
  for (std::size_t first : {0UL, 5UL, 700UL})
    items.push_back({{0, first * kReadAheadStep, 2000 * kReadAheadStep},
                     {1, first * kReadAheadStep, 200 * kReadAheadStep}});
  for (const std::size_t slot_count : {2UL, 3UL}) {
    const auto slots = Slots(slot_count, kItemPages * kReadAheadStep);
    const auto reader = ReadAhead::Start(files_, items, slots).value();
    for (std::size_t n = 0; n < 10; ++n) {
      const std::size_t slot = reader->Acquire().value();
      EXPECT_EQ(slot, n % slot_count);
      const std::size_t first = items[n % 3][0].offset / kReadAheadStep;
      std::size_t wrong = 0;
      for (std::size_t page = 0; page < kItemPages; ++page) {
        const std::size_t file = page < 2000 ? 0 : 1;
        const std::byte expected = Expected(file, first + page - (file == 0 ? 0 : 2000));
        for (const std::size_t at : {0UL, 4095UL})
          wrong += slots[slot][page * kReadAheadStep + at] != expected ? 1 : 0;
      }
      EXPECT_EQ(wrong, 0U) << "item " << n;
      reader->Release();
    }
    EXPECT_GE(reader->bytes_read(), 10 * kItemPages * kReadAheadStep);
  }
}

TEST_F(ReadAheadTest, AFileThatEndsTooSoonIsAnError) {
  fs::resize_file(files_[0], 1000 * kReadAheadStep);
  const auto reader =
      ReadAhead::Start(files_, {{{0, 0, 1001 * kReadAheadStep}}}, Slots(2, 1001 * kReadAheadStep)).value();
  const auto slot = reader->Acquire();
  ASSERT_FALSE(slot);
  EXPECT_EQ(slot.error().code, ErrorCode::kCorrupt);
  EXPECT_FALSE(reader->Acquire());
}

}  // namespace
}  // namespace bloomery
