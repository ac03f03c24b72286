#include "base/result.h"

#include <gtest/gtest.h>

namespace bloomery {
namespace {

Result<int> Half(int value) {
  if (value % 2 != 0) return Fail(ErrorCode::kInvalidArgument, "{} is odd", value);
  return value / 2;
}

Result<int> Quarter(int value) {
  ASSIGN_OR_RETURN(const int half, Half(value));
  RETURN_IF_ERROR(Half(half));
  return Half(half);
}

TEST(Result, ValuesAndErrorsPassThroughTheMacros) {
  EXPECT_EQ(Quarter(12).value(), 3);
  const auto failed = Quarter(6);
  ASSERT_FALSE(failed);
  EXPECT_EQ(failed.error().code, ErrorCode::kInvalidArgument);
  EXPECT_EQ(failed.error().message, "3 is odd");
}

TEST(Result, EveryCodeHasANameThatReadsBack) {
  for (int i = 0; i <= static_cast<int>(ErrorCode::kInternal); ++i) {
    const auto code = static_cast<ErrorCode>(i);
    EXPECT_EQ(ErrorCodeFromName(ErrorCodeName(code)), code);
  }
  EXPECT_EQ(ErrorCodeFromName("no such code"), ErrorCode::kInternal);
}

TEST(Result, ContextIsPutBeforeTheMessage) {
  const std::unexpected<Error> error = WithContext({ErrorCode::kCorrupt, "truncated"}, "a.safetensors");
  EXPECT_EQ(error.error().ToString(), "corrupt: a.safetensors: truncated");
}

}  // namespace
}  // namespace bloomery
