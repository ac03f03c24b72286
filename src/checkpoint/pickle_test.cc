#include "checkpoint/pickle.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>

namespace bloomery {
namespace {

using testing::HasSubstr;

std::string Refusal(std::string_view bytes) {
  const auto read = ReadPickle(std::as_bytes(std::span(bytes)));
  return read ? "accepted" : read.error().message;
}

// Real exploits: each would run `touch <marker>` in Python, by another road. Bytes as pickletools
// disassembles them.
TEST(Pickle, RunsNothing) {
  const std::string marker = (std::filesystem::path(testing::TempDir()) / "pickle-ran").string();
  const std::string command = "touch " + marker;
  const std::string text =
      std::string("X") + static_cast<char>(command.size()) + std::string(3, '\0') + command;
  const std::string module("\x8c\x05posix", 7);
  const std::string name("\x8c\x06system", 8);
  EXPECT_THAT(Refusal("\x80\x02"
                      "cposix\nsystem\n" +
                      text + "\x85R."),
              HasSubstr("\"posix.system\", and this reader runs no code"));
  EXPECT_THAT(Refusal("\x80\x04" + module + name + "\x93" + text + "\x85R."), HasSubstr("\"posix.system\""));
  EXPECT_THAT(Refusal("(S'" + command + "'\niposix\nsystem\n."), HasSubstr("not allowed"))
      << "INST and protocol 0 strings";
  EXPECT_THAT(Refusal("(cposix\nsystem\n" + text + "o."), HasSubstr("\"posix.system\"")) << "OBJ";
  EXPECT_THAT(Refusal("\x80\x02"
                      "cbuiltins\neval\n" +
                      text + "\x85\x81."),
              HasSubstr("\"builtins.eval\""))
      << "NEWOBJ";
  EXPECT_THAT(Refusal(std::string("\x80\x02\x82\x01.", 5)), HasSubstr("opcode 0x82")) << "EXT1";
  EXPECT_THAT(Refusal("\x80\x02"
                      "ccollections\nOrderedDict\n" +
                      text + "\x85R."),
              HasSubstr("OrderedDict with arguments"));
  EXPECT_THAT(Refusal("\x80\x02"
                      "ctorch\nFloatStorage\n" +
                      text + "\x85R."),
              HasSubstr("a call of \"torch.FloatStorage\""));
  EXPECT_THAT(Refusal("\x80\x02"
                      "]}b."),
              HasSubstr("state for an object"))
      << "BUILD on a list";
  EXPECT_THAT(Refusal("\x80\x02"
                      "cos\nsystem\n."),
              HasSubstr("\"os.system\""))
      << "even a global that is never called";
  EXPECT_FALSE(std::filesystem::exists(marker));
}

TEST(Pickle, RefusesBrokenStreams) {
  EXPECT_THAT(Refusal(""), HasSubstr("ends at byte 0"));
  EXPECT_THAT(Refusal("."), HasSubstr("stack is empty"));
  EXPECT_THAT(Refusal("\x80\x09."), HasSubstr("protocol 9"));
  EXPECT_THAT(Refusal("a."), HasSubstr("stack is empty"));
  EXPECT_THAT(Refusal("t."), HasSubstr("no mark"));
  EXPECT_THAT(Refusal("(0."), HasSubstr("stack is empty")) << "a pop must not go below a mark";
  EXPECT_THAT(Refusal("h\x07."), HasSubstr("nothing remembered as 7"));
  EXPECT_THAT(Refusal("NNs."), HasSubstr("no dictionary"));
  EXPECT_THAT(Refusal("N(NNu."), HasSubstr("no dictionary"));
  EXPECT_THAT(Refusal(std::string("X\xff\xff\xff\xff", 5)), HasSubstr("a text of 4294967295 bytes"));
  EXPECT_THAT(Refusal(std::string("\x8d\xff\xff\xff\xff\xff\xff\xff\xff", 9)), HasSubstr("a text of"));
  EXPECT_THAT(Refusal("NQ."), HasSubstr("persistent id"));
}

TEST(Pickle, BoundsNestingAndSize) {
  EXPECT_THAT(Refusal(std::string(2'000'000, 'N')), HasSubstr("more than 1000000 values"));
  EXPECT_THAT(Refusal(std::string(2'000'000, '(')), HasSubstr("too many marks"));
  // A list in a list in a list …: read without recursion, freed without recursion.
  std::string deep(400'000, ']');
  deep += std::string(399'999, 'a') + ".";
  EXPECT_EQ(Refusal(deep), "accepted");
}

TEST(Pickle, NumbersAndTextsReadAsPythonWroteThem) {
  // pickle.dumps((1, 256, 70000, -5, 2**40, 1.5, True, None, "é"), protocol=2)
  static constexpr char kBytes[] =
      "\x80\x02(K\x01M\x00\x01Jp\x11\x01\x00J\xfb\xff\xff\xff\x8a\x06\x00\x00\x00\x00\x00\x01G?"
      "\xf8\x00\x00\x00\x00\x00\x00\x88NX\x02\x00\x00\x00\xc3\xa9tq\x00.";
  const std::string bytes(kBytes, sizeof(kBytes) - 1);
  const auto read = ReadPickle(std::as_bytes(std::span(bytes)));
  ASSERT_TRUE(read) << read.error().ToString();
  const auto& items = std::get<PickleNode::Sequence>(read->at(read->root).value).items;
  ASSERT_EQ(items.size(), 9U);
  const std::int64_t integers[] = {1, 256, 70000, -5, std::int64_t{1} << 40U};
  for (std::size_t i = 0; i < 5; ++i)
    EXPECT_EQ(std::get<std::int64_t>(read->at(items[i]).value), integers[i]);
  EXPECT_EQ(std::get<double>(read->at(items[5]).value), 1.5);
  EXPECT_TRUE(std::get<bool>(read->at(items[6]).value));
  EXPECT_EQ(std::get<std::string>(read->at(items[8]).value), "é");
}

}  // namespace
}  // namespace bloomery
