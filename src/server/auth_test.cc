#include "server/auth.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <unistd.h>

#include <filesystem>
#include <fstream>

namespace bloomery {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

class KeysFile : public testing::Test {
 protected:
  KeysFile() : path_(std::filesystem::path(testing::TempDir()) / fmt::format("keys_{}", ::getpid())) {}
  ~KeysFile() override { std::filesystem::remove(path_); }

  Result<std::vector<std::string>> Read(std::string_view text) {
    std::ofstream(path_, std::ios::binary) << text;
    return ReadApiKeys(path_);
  }

  const std::filesystem::path path_;
};

TEST_F(KeysFile, OneKeyALine) {
  EXPECT_THAT(Read("first\nsecond\n").value(), ElementsAre("first", "second"));
  EXPECT_THAT(Read("first\nsecond").value(), ElementsAre("first", "second")) << "no newline at the end";
  EXPECT_THAT(Read("first\r\nsecond\r\n").value(), ElementsAre("first", "second"));
  EXPECT_THAT(Read("a key with spaces\n").value(), ElementsAre("a key with spaces"));
}

TEST_F(KeysFile, CommentsBlanksAndIndentationAreNoKeys) {
  EXPECT_THAT(Read("# of the team\n\n  \t\nkey#1 \t\n#key2\n").value(), ElementsAre("key#1"));
  EXPECT_THAT(Read("  indented\n\t# a comment\n").value(), ElementsAre("indented"))
      << "HTTP takes the space before a header's value away, so no client could send it";
}

TEST_F(KeysFile, NoKeyIsAnErrorAndNotAnOpenServer) {
  for (const char* text : {"", "\n\n", "# only\n", " \r\n"}) {
    const auto keys = Read(text);
    ASSERT_FALSE(keys) << '"' << text << '"';
    EXPECT_EQ(keys.error().code, ErrorCode::kInvalidArgument);
    EXPECT_THAT(keys.error().message, HasSubstr(path_.filename().string()));
  }
  EXPECT_EQ(ReadApiKeys(path_.string() + ".none").error().code, ErrorCode::kNotFound);
}

TEST_F(KeysFile, ErrorsHoldNoKeys) {
  const auto keys = Read(std::string(2U << 20U, 'k'));
  ASSERT_FALSE(keys);
  EXPECT_THAT(keys.error().message, testing::Not(HasSubstr("kkk")));
}

TEST(ApiKeys, WithoutKeysEverybodyMayEnter) {
  const ApiKeys open({});
  EXPECT_FALSE(open.required());
  EXPECT_TRUE(open.Allows("", ""));
  EXPECT_TRUE(open.Allows("Bearer whatever", "whatever"));
}

TEST(ApiKeys, EitherHeaderWillDo) {
  const ApiKeys keys({"first", "second"});
  EXPECT_TRUE(keys.required());
  for (const char* key : {"first", "second"}) {
    EXPECT_TRUE(keys.Allows(std::string("Bearer ") + key, "")) << key;
    EXPECT_TRUE(keys.Allows("", key)) << key;
    EXPECT_TRUE(keys.Allows("Basic dTpw", key)) << "a proxy's own credentials beside it";
    EXPECT_TRUE(keys.Allows("Bearer wrong", key)) << key;
    EXPECT_TRUE(keys.Allows(std::string("bearer ") + key, "")) << "schemes are case-insensitive (RFC 9110)";
  }
}

TEST(ApiKeys, EachKeyHasItsOwnSaltInEitherHeader) {
  const ApiKeys keys({"sk-one", "sk-two"});
  const std::uint64_t one = keys.SaltOf("Bearer sk-one", "");
  EXPECT_NE(one, 0U);
  EXPECT_EQ(keys.SaltOf("", "sk-one"), one);
  EXPECT_NE(keys.SaltOf("", "sk-two"), one);
  EXPECT_EQ(keys.SaltOf("Bearer sk-three", ""), 0U);
  EXPECT_EQ(ApiKeys({}).SaltOf("Bearer sk-one", ""), 0U) << "without keys all share";
}

TEST(ApiKeys, NothingButTheWholeKeyIsOne) {
  const ApiKeys keys({"secret", "other"});
  for (const std::string wrong : {"", "s", "secre", "secrets", "xsecret", "ecret", "SECRET", "secret ",
                                  " secret", "secretother", "secret\nother", "wrong!", "Bearer secret"}) {
    EXPECT_FALSE(keys.Allows("Bearer " + wrong, "")) << wrong;
    EXPECT_FALSE(keys.Allows("", wrong)) << wrong;
  }
  const std::string with_nul("secret\0", 7);
  EXPECT_FALSE(keys.Allows("Bearer " + with_nul, with_nul));
  EXPECT_FALSE(keys.Allows("", "")) << "no credentials at all";
  EXPECT_FALSE(keys.Allows("secret", "")) << "no scheme";
  EXPECT_FALSE(keys.Allows("Basic secret", ""));
  EXPECT_FALSE(keys.Allows("Bearer", ""));
  EXPECT_FALSE(keys.Allows("Bearersecret", ""));
}

}  // namespace
}  // namespace bloomery
