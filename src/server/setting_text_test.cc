#include "server/setting_text.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace bloomery {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

TEST(SettingText, AddressesAreHttpHostAndPort) {
  const auto parsed = [](std::string_view text) {
    const auto address = ParseAddress(text);
    return address ? fmt::format("{} {}", address->host, address->port) : "none";
  };
  EXPECT_EQ(parsed("http://127.0.0.1:8080"), "127.0.0.1 8080");
  EXPECT_EQ(parsed("http://0.0.0.0:8080/"), "0.0.0.0 8080");
  EXPECT_EQ(parsed("http://localhost"), "localhost 80");
  EXPECT_EQ(parsed("http://[::1]:8443"), "::1 8443");
  EXPECT_EQ(parsed("http://[::1]"), "::1 80");
  for (const char* wrong :
       {"", "http://", "https://0.0.0.0:8443", "unix:/tmp/socket", "127.0.0.1:8080", "http://:80",
        "http://a:65536", "http://a:-1", "http://a:b", "http://a:", "http://[::1:80", "http://[::1]80",
        "http://[]:80", "http://a/b:80", "http://user@a:80"}) {
    EXPECT_EQ(parsed(wrong), "none") << wrong;
  }
}

TEST(SettingText, NearestNameIsNearOrNone) {
  const std::vector<std::string_view> names = {"option.dtype", "option.model_id",
                                               "option.tensor_parallel_degree"};
  EXPECT_EQ(NearestName("option.dtyp", names), "option.dtype");
  EXPECT_EQ(NearestName("option.model-id", names), "option.model_id");
  EXPECT_EQ(NearestName("OPTION.Tensor_Paralel_Degre", names), "option.tensor_parallel_degree");
  EXPECT_THAT(NearestName("completely.else", names), IsEmpty());
  EXPECT_THAT(NearestName(std::string(100'000, 'o'), names), IsEmpty());
}

TEST(SettingText, WhatOthersWroteIsShownOnOneLineAndCut) {
  EXPECT_EQ(Displayed("a\x1B[31m\nb\x7F"), "a\\x1B[31m\\x0Ab\\x7F");
  EXPECT_EQ(Displayed("caf\xC3\xA9"), "caf\xC3\xA9");
  EXPECT_EQ(Displayed("\xC3"), "\xEF\xBF\xBD");
  // Not cut inside a character.
  EXPECT_EQ(Displayed(std::string(199, 'a') + "\xC3\xA9"), std::string(199, 'a') + "…");
  EXPECT_EQ(Displayed(std::string(200, 'a')), std::string(200, 'a'));
}

TEST(SettingText, WordsNumbersAndBooleans) {
  EXPECT_THAT(Words("  a  bc d "), ElementsAre("a", "bc", "d"));
  EXPECT_THAT(Words(" "), IsEmpty());
  EXPECT_EQ(Trimmed("\t a b\r\n"), "a b");
  EXPECT_EQ(ToBool("True"), true);
  EXPECT_EQ(ToBool("FALSE"), false);
  for (const char* wrong : {"", "1", "yes", "tru", "true "}) EXPECT_EQ(ToBool(wrong), std::nullopt) << wrong;
  EXPECT_EQ(ToInteger("-7"), -7);
  for (const char* wrong : {"", "1.0", "1 ", "+1", "0x1", "99999999999999999999"})
    EXPECT_EQ(ToInteger(wrong), std::nullopt) << wrong;
  EXPECT_EQ(UpperCase("entryPoint"), "ENTRYPOINT");
  EXPECT_TRUE(EqualIgnoringCase("DeepSpeed", "deepspeed"));
  EXPECT_FALSE(EqualIgnoringCase("DeepSpeed", "deepspee"));
}

}  // namespace
}  // namespace bloomery
