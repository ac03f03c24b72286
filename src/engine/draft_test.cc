#include "engine/draft.h"

#include <gtest/gtest.h>

namespace bloomery {
namespace {

using Ids = std::vector<std::int32_t>;

TEST(LookUpDraft, IsWhatFollowedTheLastTimeTheTextReadSo) {
  EXPECT_EQ(LookUpDraft(Ids{1, 2, 3, 4, 5, 1, 2, 3}, 4), (Ids{4, 5, 1, 2}));
  EXPECT_EQ(LookUpDraft(Ids{1, 2, 3, 4, 5, 1, 2, 3}, 1), (Ids{4}));
  EXPECT_EQ(LookUpDraft(Ids{1, 2, 7, 1, 2, 8, 1, 2}, 1), (Ids{8})) << "the latest of equals";
  EXPECT_EQ(LookUpDraft(Ids{9, 1, 2, 7, 3, 1, 2, 8, 9, 1, 2}, 1), (Ids{7}))
      << "a longer match wins over a later";
  EXPECT_EQ(LookUpDraft(Ids{5, 5, 5, 5}, 3), (Ids{5})) << "a match may overlap the end";
}

TEST(LookUpDraft, IsEmptyWhereNothingRepeats) {
  EXPECT_EQ(LookUpDraft(Ids{}, 4), Ids{});
  EXPECT_EQ(LookUpDraft(Ids{1}, 4), Ids{});
  EXPECT_EQ(LookUpDraft(Ids{1, 2, 3, 4}, 4), Ids{});
  EXPECT_EQ(LookUpDraft(Ids{3, 1, 2, 3}, 4), Ids{}) << "one token alone is no match";
  EXPECT_EQ(LookUpDraft(Ids{1, 2, 3, 1, 2}, 0), Ids{});
}

TEST(DraftPace, GrowsWhileGuessesComeTrueAndPausesWhereTheyDoNot) {
  DraftPace pace;
  EXPECT_EQ(pace.Next(8), 2U);
  pace.Report(2, 2);
  EXPECT_EQ(pace.Next(8), 4U);
  EXPECT_EQ(pace.Next(3), 3U) << "never more than asked for";
  pace.Report(4, 1);
  EXPECT_EQ(pace.Next(8), 2U);
  int steps = 0;
  int guessing = 0;
  for (; steps < 200; ++steps) {
    if (pace.Next(8) == 0) continue;
    ++guessing;
    pace.Report(1, 0);
  }
  EXPECT_LT(guessing, 10) << "a text that never repeats is left alone";
  EXPECT_GT(guessing, 3) << "but looked at again now and then";
}

TEST(DraftPace, ARoundWithoutGuessesTellsNothing) {
  DraftPace pace;
  for (int i = 0; i < 10; ++i) pace.Report(0, 0);
  EXPECT_EQ(pace.Next(8), 2U);
}

}  // namespace
}  // namespace bloomery
