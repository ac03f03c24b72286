#include "worker/child_output.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <string>
#include <vector>

namespace bloomery {
namespace {

using ::testing::ElementsAre;

class ChildOutputTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto end = output_->Open();
    ASSERT_TRUE(end);
    child_end_ = std::move(*end);
  }
  void Print(std::string_view text) {
    ASSERT_EQ(::write(child_end_.get(), text.data(), text.size()), static_cast<ssize_t>(text.size()));
  }

  boost::asio::io_context io_;
  std::vector<std::string> lines_;
  std::shared_ptr<ChildOutput> output_ =
      std::make_shared<ChildOutput>(io_, [this](std::string line) { lines_.push_back(std::move(line)); });
  UniqueFd child_end_;
};

TEST_F(ChildOutputTest, ComesLineByLineUntilTheChildEnds) {
  Print("one\nloading 10%\rloading 20%\r\n\n\nhal");
  Print("f\n");
  child_end_.Reset();
  io_.run();
  EXPECT_THAT(lines_, ElementsAre("one", "loading 10%", "loading 20%", "half"));
}

TEST_F(ChildOutputTest, ClosingInTheVeryTurnThatWouldReadLosesNothing) {
  Print("first\nlast");
  boost::asio::post(io_, [this] { output_->Close(); });
  io_.poll();
  EXPECT_THAT(lines_, ElementsAre("first", "last"));
}

TEST_F(ChildOutputTest, CannotSteerATerminal) {
  Print("a\x1b[2J\tb\x07 \xFF caf\xC3\xA9\n");
  child_end_.Reset();
  io_.run();
  EXPECT_THAT(lines_, ElementsAre("a[2J\tb \xEF\xBF\xBD caf\xC3\xA9"));
}

TEST_F(ChildOutputTest, ALineWithoutEndComesInPieces) {
  Print(std::string(10'000, 'x'));
  output_->Close();
  EXPECT_THAT(lines_, ElementsAre(std::string(4096, 'x'), std::string(4096, 'x'), std::string(1808, 'x')));
}

TEST_F(ChildOutputTest, ClosingTakesTheLastWordsAndDoesNotWaitForMore) {
  Print("last words");
  output_->Close();  // while the child's end is open
  EXPECT_THAT(lines_, ElementsAre("last words"));
  io_.run();
  output_->Close();
  EXPECT_THAT(lines_, ElementsAre("last words"));
}

}  // namespace
}  // namespace bloomery
