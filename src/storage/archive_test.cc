// Archives made by Python (scripts/goldens/archive_goldens.py).
#include "storage/archive.h"

#include <gmock/gmock.h>

#include <fstream>
#include <set>

namespace bloomery {
namespace {

using testing::HasSubstr;
namespace fs = std::filesystem;

class ArchiveTest : public testing::Test {
 protected:
  ArchiveTest() {
    folder_ = fs::temp_directory_path() / fmt::format("archive_test.{}", ::getpid());
    fs::remove_all(folder_);
    fs::create_directories(folder_);
  }
  ~ArchiveTest() override { fs::remove_all(folder_); }

  static fs::path Data(const std::string& name) {
    return fs::path(BLOOMERY_SOURCE_DIR "/testdata/archives") / name;
  }

  Status Unpack(const std::string& name, const ArchiveLimits& limits = {}) {
    fs::remove_all(folder_ / "out");
    return UnpackArchive(Data(name), folder_ / "out", limits);
  }

  std::set<std::string> Tree() {
    std::set<std::string> names;
    for (const auto& entry : fs::recursive_directory_iterator(folder_ / "out")) {
      if (entry.is_regular_file()) names.insert(entry.path().lexically_relative(folder_ / "out"));
    }
    return names;
  }

  // Neither the directory, nor what was unpacked of it so far, nor anything beside it.
  void ExpectNothing() { EXPECT_TRUE(fs::is_empty(folder_)); }

  fs::path folder_;
};

TEST_F(ArchiveTest, FlatOrInOneFolder) {
  for (const char* name : {"flat.tar.gz", "dotted.tar.gz", "wrapped.tar.gz", "flat.zip", "wrapped.zip"}) {
    const Status unpacked = Unpack(name);
    ASSERT_TRUE(unpacked) << unpacked.error().message;
    EXPECT_EQ(Tree(), (std::set<std::string>{"config.json", "code/model.py", "run.sh"})) << name;
    std::ifstream file(folder_ / "out/code/model.py");
    EXPECT_EQ(std::string(std::istreambuf_iterator<char>(file), {}), "print(1)\n");
  }
  EXPECT_EQ(UnpackArchive(Data("flat.zip"), folder_ / "out").error().code, ErrorCode::kInvalidArgument);
}

TEST_F(ArchiveTest, NamesOfAnyScriptAndLength) {
  for (const char* name : {"gnu.tar.gz", "pax.tar.gz"}) {
    const Status unpacked = Unpack(name);
    ASSERT_TRUE(unpacked) << unpacked.error().message;
    EXPECT_TRUE(Tree().contains("ünï/模型.txt")) << name;
    EXPECT_EQ(Tree().size(), 2U);
  }
}

TEST_F(ArchiveTest, HostileEntriesAreRefused) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"parent.tar.gz", "leads out"},
      {"parent-inside.tar.gz", "leads out"},
      {"absolute.tar.gz", "from the root"},
      {"backslash.tar.gz", "backslash"},
      {"drive.tar.gz", "drive"},
      {"symlink.tar.gz", "symbolic link"},
      {"hardlink.tar.gz", "hard link"},
      {"char-device.tar.gz", "neither a file"},
      {"block-device.tar.gz", "neither a file"},
      {"fifo.tar.gz", "neither a file"},
      {"twice.tar.gz", "twice"},
      {"file-as-folder.tar.gz", "a file has this name"},
      {"folder-over-file.tar.gz", "a file has this name"},
      {"through-link.tar.gz", "symbolic link"},
      {"parent.zip", "leads out"},
      {"absolute.zip", "from the root"},
      {"backslash.zip", "backslash"},
      {"symlink.zip", "symbolic link"},
  };
  for (const auto& [name, why] : cases) {
    const Status unpacked = Unpack("hostile-" + name);
    ASSERT_FALSE(unpacked) << name;
    EXPECT_EQ(unpacked.error().code, ErrorCode::kUnsupported) << name << ": " << unpacked.error().message;
    EXPECT_THAT(unpacked.error().message, HasSubstr(why)) << name;
    ExpectNothing();
  }
}

TEST_F(ArchiveTest, BombsAreRefused) {
  for (const char* name : {"zeros.tar.gz", "zeros.zip"}) {
    EXPECT_TRUE(Unpack(name)) << "a megabyte of zeros is no bomb";
    const Status ratio = Unpack(name, {.free_bytes = 1000});
    EXPECT_EQ(ratio.error().code, ErrorCode::kTooLarge);
    EXPECT_THAT(ratio.error().message, HasSubstr("100 times"));
    const Status size = Unpack(name, {.max_bytes = 1'000'000});
    EXPECT_EQ(size.error().code, ErrorCode::kTooLarge);
    ExpectNothing();
  }
  EXPECT_EQ(Unpack("flat.tar.gz", {.max_entries = 2}).error().code, ErrorCode::kTooLarge);
  ExpectNothing();
}

TEST_F(ArchiveTest, WhatIsNoArchive) {
  EXPECT_EQ(Unpack("cut.tar.gz").error().code, ErrorCode::kCorrupt);
  EXPECT_EQ(Unpack("absent.tar.gz").error().code, ErrorCode::kNotFound);
  std::ofstream(folder_ / "text") << "not an archive at all, though it has some length";
  const Status text = UnpackArchive(folder_ / "text", folder_ / "out");
  EXPECT_EQ(text.error().code, ErrorCode::kCorrupt);
  EXPECT_THAT(text.error().message, HasSubstr("cannot be read as"));
  EXPECT_FALSE(fs::exists(folder_ / "out"));
}

}  // namespace
}  // namespace bloomery
