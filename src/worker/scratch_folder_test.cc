#include "worker/scratch_folder.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>

namespace bloomery {
namespace {

namespace fs = std::filesystem;

TEST(ScratchFolderTest, LivesAsLongAsItsOwner) {
  fs::path path;
  {
    ScratchFolder folder = ScratchFolder::Make().value();
    path = folder.path();
    EXPECT_EQ(fs::status(path).permissions(), fs::perms::owner_all);
    std::ofstream(path / "file") << "x";
    const ScratchFolder moved = std::move(folder);
    EXPECT_EQ(moved.path(), path);
    EXPECT_TRUE(fs::exists(path / "file"));
  }
  EXPECT_FALSE(fs::exists(path));
}

TEST(ScratchFolderTest, WhatAKilledOwnerLeftIsRemoved) {
  const ScratchFolder mine = ScratchFolder::Make().value();
  const pid_t child = ::fork();
  if (child == 0) {
    const auto left = ScratchFolder::Make();
    std::ofstream(mine.path() / "left") << left->path().string();
    ::_exit(0);  // runs no destructor
  }
  ::waitpid(child, nullptr, 0);
  std::string left;
  std::ifstream(mine.path() / "left") >> left;
  ASSERT_TRUE(fs::exists(left));
  const ScratchFolder next = ScratchFolder::Make().value();
  EXPECT_FALSE(fs::exists(left));
  EXPECT_TRUE(fs::exists(mine.path())) << "its owner lives";
}

}  // namespace
}  // namespace bloomery
