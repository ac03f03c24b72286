#include "worker/handler_protocol.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>
#include <string>

namespace bloomery {
namespace {

using testing::HasSubstr;

std::string Bytes(std::string_view hex) {
  std::string bytes;
  std::string digits;
  for (const char c : hex) {
    if (c == ' ') continue;
    digits += c;
    if (digits.size() < 2) continue;
    bytes += static_cast<char>(std::strtol(digits.c_str(), nullptr, 16));
    digits.clear();
  }
  return bytes;
}

// Frames as docs/formats/handler-protocol.md has them, written by hand.
TEST(HandlerProtocol, FramesToAHandler) {
  EXPECT_EQ(EncodeLoad({{"a", "bc"}}), Bytes("0f000000 4248 01 01 01000000 01000000 61 02000000 6263"));
  EXPECT_EQ(EncodeCancel(0x0102), Bytes("08000000 4248 01 03 0201000000000000"));
  HandlerRequest request;
  request.content = {{"", "x"}};
  EXPECT_EQ(EncodePredict({{7, &request}}),
            Bytes("1d000000 4248 01 02 01000000 0700000000000000 00000000 01000000 00000000 01000000 78"));
  EXPECT_GE(request.bytes() + 4, EncodePredict({{7, &request}}).size() - 8);
}

TEST(HandlerProtocol, FramesFromAHandler) {
  HandlerFrameReader reader;
  const std::string head =
      Bytes("1f000000 4248 01 0e 0500000000000000 a8010000 01000000 01000000 01000000 6b 02000000 7676");
  const std::string all = Bytes("08000000 4248 01 0b 01000000 39050000") + Bytes("00000000 4248 01 0c") +
                          head + Bytes("0d000000 4248 01 0f 0500000000000000 01000000 ff") +
                          Bytes("0c000000 4248 01 10 0500000000000000 00000000") +
                          Bytes("04000000 4248 01 11 02000000");
  std::vector<HandlerMessage> messages;
  for (const char c : all) {  // however it is cut
    reader.Append({&c, 1});
    auto next = reader.Next();
    ASSERT_TRUE(next) << next.error().message;
    if (*next) messages.push_back(**std::move(next));
  }
  ASSERT_EQ(messages.size(), 6U);
  EXPECT_EQ(std::get<HandlerHello>(messages[0]).rank, 1);
  EXPECT_EQ(std::get<HandlerHello>(messages[0]).pid, 1337);
  EXPECT_TRUE(std::holds_alternative<HandlerReady>(messages[1]));
  const auto& piece = std::get<HandlerPiece>(messages[2]);
  EXPECT_EQ(piece.request_id, 5U);
  EXPECT_EQ(std::get<HandlerHead>(piece.piece).status, 424);
  EXPECT_TRUE(std::get<HandlerHead>(piece.piece).streamed);
  EXPECT_EQ(std::get<HandlerHead>(piece.piece).properties, (HandlerProperties{{"k", "vv"}}));
  EXPECT_EQ(std::get<HandlerData>(std::get<HandlerPiece>(messages[3]).piece).bytes, "\xff");
  EXPECT_EQ(std::get<HandlerDone>(std::get<HandlerPiece>(messages[4]).piece).error, "");
  EXPECT_EQ(std::get<HandlerCalled>(messages[5]).outcome, CallOutcome::kOneForMany);
}

TEST(HandlerProtocol, WhatIsNotOfTheProtocol) {
  for (const char* bytes : {"47455420 2f20 48 54",           // GET / HT…
                            "00000000 4248 02 0c",           // another version
                            "00000000 4248 01 63",           // another kind
                            "00000000 4248 01 01",           // what only we send
                            "ffffff7f 4248 01 0f",           // too long
                            "01000000 4248 01 0c 00",        // a field too many
                            "03000000 4248 01 11 000000",    // a field cut short
                            "04000000 4248 01 11 03000000",  // no such outcome
                            "04000000 4248 01 0d ffffffff",  // a text longer than its frame
                            "14000000 4248 01 0e 0500000000000000 a8010000 01000000 ffffffff"}) {
    HandlerFrameReader reader;
    reader.Append(Bytes(bytes));
    const auto next = reader.Next();
    ASSERT_FALSE(next) << bytes;
    EXPECT_THAT(next.error().message, HasSubstr("not of the handler protocol")) << bytes;
  }
}

}  // namespace
}  // namespace bloomery
