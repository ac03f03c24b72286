#include "checkpoint/shard_set.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>

#include "base/mapped_file.h"

namespace bloomery {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

class ShardSetTest : public testing::Test {
 protected:
  ShardSetTest() {
    std::string path = (fs::temp_directory_path() / "shard_set_test_XXXXXX").string();
    folder_ = fs::path(::mkdtemp(path.data())) / "set";
  }
  ~ShardSetTest() override { fs::remove_all(folder_.parent_path()); }

  static ShardManifest Manifest() {
    ShardManifest manifest{
        .layout = "l", .dtype = "int8", .tensor_ranks = 2, .stages = 1, .source = "s", .files = {}};
    manifest.files.push_back({"every", ShardFile::kEvery, {{"table", DType::kF32, {2, 3}}}});
    manifest.files.push_back({"r0", 0, {{"a", DType::kU8, {8192}}, {"b", DType::kU8, {4096}}}});
    manifest.files.push_back({"r1", 1, {{"a", DType::kU8, {8192}}, {"b", DType::kU8, {4096}}}});
    return manifest;
  }

  static std::vector<std::byte> Bytes(std::size_t count, int first) {
    std::vector<std::byte> bytes(count);
    for (std::size_t i = 0; i < count; ++i)
      bytes[i] = static_cast<std::byte>(static_cast<std::size_t>(first) + i * 7);
    return bytes;
  }

  static void WriteAll(ShardWriter& writer) {
    ASSERT_TRUE(writer.Write("every", "table", Bytes(24, 1)));
    ASSERT_TRUE(writer.Write("r0", "a", Bytes(5000, 2)));  // the rest is zeros
    ASSERT_TRUE(writer.Write("r0", "b", Bytes(4096, 3)));
    ASSERT_TRUE(writer.Write("r1", "a", Bytes(8192, 4)));
    ASSERT_TRUE(writer.Write("r1", "b", Bytes(1, 5)));
  }

  void MakeSet() const {
    auto writer = ShardWriter::Open(folder_, Manifest()).value();
    WriteAll(writer);
    ASSERT_TRUE(writer.Finish(nullptr));
  }

  std::string OpenError() const {
    const int ranks[] = {0, 1};
    const auto set = ShardSet::Open(folder_, ranks);
    return set ? "opened" : set.error().ToString();
  }

  void ReplaceInManifest(const std::string& from, const std::string& to) const {
    std::ifstream file(folder_ / kShardManifestName);
    std::string text(std::istreambuf_iterator<char>(file), {});
    const std::size_t at = text.find(from);
    ASSERT_NE(at, std::string::npos) << from;
    text.replace(at, from.size(), to);
    std::ofstream(folder_ / kShardManifestName, std::ios::trunc) << text;
  }

  fs::path folder_;
};

TEST_F(ShardSetTest, GivesBackWhatWasWrittenOnPages) {
  MakeSet();
  const int one[] = {1};
  const auto set = ShardSet::Open(folder_, one).value();
  EXPECT_EQ(set->manifest().dtype, "int8");
  const TensorView a = set->Find(1, "a").value();
  const std::vector<std::byte> expected = Bytes(8192, 4);
  EXPECT_TRUE(std::equal(a.bytes.begin(), a.bytes.end(), expected.begin(), expected.end()));
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(a.bytes.data()) % 4096, 0U);
  EXPECT_EQ(set->Find(ShardFile::kEvery, "table").value().bytes.size(), 24U);
  const FileRange range = set->RangeOf(1, "b");
  EXPECT_EQ(set->paths()[range.file], folder_ / "r1");
  EXPECT_EQ(range.offset % kReadAheadStep, 0U);
  const auto other = set->Find(0, "a");
  ASSERT_FALSE(other) << "rank 0's file was not asked for";
  EXPECT_EQ(other.error().code, ErrorCode::kCorrupt);
  const ShardTensorKey all[] = {{1, "a"}};
  EXPECT_TRUE(set->Populate(all, 2, nullptr));
}

// A file that is nowhere in memory until it is read, and perhaps damaged on the way.
class FarFile final : public ByteSource {
 public:
  FarFile(std::shared_ptr<const MappedFile> file, std::uint64_t damaged)
      : file_(std::move(file)), damaged_(damaged) {}

  std::string_view name() const override { return file_->name(); }
  std::uint64_t size_bytes() const override { return file_->size_bytes(); }
  Status ReadAt(std::uint64_t offset, std::span<std::byte> out) const override {
    RETURN_IF_ERROR(file_->ReadAt(offset, out));
    if (damaged_ >= offset && damaged_ - offset < out.size()) out[damaged_ - offset] ^= std::byte{1};
    return {};
  }

 private:
  const std::shared_ptr<const MappedFile> file_;
  const std::uint64_t damaged_;
};

TEST_F(ShardSetTest, IsFetchedFromElsewhere) {
  MakeSet();
  std::uint64_t damaged = ~std::uint64_t{0};
  const OpenShardFile open = [&](const std::string& name) -> Result<std::shared_ptr<const ByteSource>> {
    ASSIGN_OR_RETURN(auto file, MappedFile::Open(folder_ / name));
    return std::make_shared<FarFile>(std::move(file), damaged);
  };
  const int one[] = {1};
  const auto mapped = ShardSet::Open(folder_, one).value();
  const auto fetched = ShardSet::Open(folder_, one, open).value();
  const auto same = [&](int rank, const std::string& name) {
    return std::ranges::equal(fetched->Find(rank, name).value().bytes,
                              mapped->Find(rank, name).value().bytes);
  };
  EXPECT_TRUE(same(ShardFile::kEvery, "table")) << "what is small is there at once";
  EXPECT_FALSE(same(1, "a"));
  const ShardTensorKey a[] = {{1, "a"}};
  EXPECT_TRUE(fetched->Populate(a, 2, nullptr));
  EXPECT_TRUE(same(1, "a"));
  EXPECT_FALSE(same(1, "b")) << "nobody has asked for it";
  damaged = mapped->RangeOf(1, "a").offset + 100;
  const auto wrong = ShardSet::Open(folder_, one, open).value();
  const Status found = wrong->Populate(a, 2, nullptr);
  ASSERT_FALSE(found);
  EXPECT_EQ(found.error().code, ErrorCode::kCorrupt);
  EXPECT_THAT(found.error().message, HasSubstr("r1: a is not what was written"));
}

TEST_F(ShardSetTest, IsNoSetBeforeItIsFinished) {
  auto writer = ShardWriter::Open(folder_, Manifest()).value();
  ASSERT_TRUE(writer.Write("r0", "a", Bytes(10, 0)));
  EXPECT_FALSE(ShardSet::Exists(folder_));
  const Status early = writer.Finish(nullptr);
  ASSERT_FALSE(early);
  EXPECT_THAT(early.error().message, HasSubstr("was not written"));
}

TEST_F(ShardSetTest, GoesOnWhereItWasInterrupted) {
  {
    auto first = ShardWriter::Open(folder_, Manifest()).value();
    ASSERT_TRUE(first.Write("r0", "a", Bytes(5000, 2)));
  }
  std::ofstream(folder_ / "shards.journal", std::ios::app) << "r0\tb\t0123";  // cut short by a crash
  auto second = ShardWriter::Open(folder_, Manifest()).value();
  EXPECT_TRUE(second.Has("r0", "a"));
  EXPECT_FALSE(second.Has("r0", "b"));
  EXPECT_EQ(second.written_bytes(), 8192U);
  ShardManifest other = Manifest();
  other.source = "another model";
  const auto refused = ShardWriter::Open(folder_, other);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::kInvalidArgument);
}

TEST_F(ShardSetTest, WhatTheDiskDidNotKeepIsFound) {
  auto writer = ShardWriter::Open(folder_, Manifest()).value();
  WriteAll(writer);
  {
    std::fstream file(folder_ / "r0", std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(-1, std::ios::end);
    file.put('x');
  }
  const Status finished = writer.Finish(nullptr);
  ASSERT_FALSE(finished);
  EXPECT_EQ(finished.error().code, ErrorCode::kCorrupt);
  EXPECT_THAT(finished.error().message, HasSubstr("r0: b"));
  EXPECT_FALSE(ShardSet::Exists(folder_));
}

TEST_F(ShardSetTest, AFinishedSetIsNotWrittenOver) {
  MakeSet();
  EXPECT_FALSE(ShardWriter::Open(folder_, Manifest()));
}

TEST_F(ShardSetTest, FilesOfAnotherSizeAreNamed) {
  MakeSet();
  fs::resize_file(folder_ / "r1", fs::file_size(folder_ / "r1") - 1);
  EXPECT_THAT(OpenError(), HasSubstr("r1: "));
  fs::remove(folder_ / "r1");
  EXPECT_THAT(OpenError(), HasSubstr("r1"));
}

TEST_F(ShardSetTest, ManifestsThatContradictThemselvesAreRefused) {
  for (const auto& [from, to] : std::vector<std::pair<std::string, std::string>>{
           {"\"r0\"", "\"../r0\""},
           {"\"tensor_rank\":1", "\"tensor_rank\":2"},
           {"\"tensor_rank\":1", "\"tensor_rank\":-2"},
           {"\"tensor_ranks\":2", "\"tensor_ranks\":0"},
           {"\"tensor_ranks\":2", "\"tensor_ranks\":100000"},
           {"\"version\":1", "\"version\":2"},
           {"\"format\":\"bloomery-shards\"", "\"format\":\"x\""},
           {"\"layout\":\"l\"", "\"layout\":5"},
           {"\"files\":[", "\"files\":[7,"},
           {"{\"format\"", "[\"format\""}}) {
    fs::remove_all(folder_);
    MakeSet();
    ReplaceInManifest(from, to);
    EXPECT_THAT(OpenError(), HasSubstr(std::string(kShardManifestName))) << from << " -> " << to;
  }
}

}  // namespace
}  // namespace bloomery
