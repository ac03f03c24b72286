// What a step holds, over a KV pool without a model: Compute() stands for the engine.
#include "engine/scheduler.h"

#include <gtest/gtest.h>

#include <deque>
#include <map>

namespace bloomery {
namespace {

class SchedulerTest : public testing::Test {
 protected:
  static constexpr std::int64_t kBlocks = 64;

  std::unique_ptr<Group> MakeGroup(std::uint64_t id, std::int32_t prompt_tokens, int priority = 0) {
    auto group = std::make_unique<Group>();
    group->request.id = id;
    group->request.sampling.priority = priority;
    group->prompt_tokens = static_cast<std::size_t>(prompt_tokens);
    group->max_new_tokens = 1000;
    Sequence sequence(BlockTable(pool_), std::nullopt, {});
    // No two prompts share a prefix.
    sequence.tokens.assign(group->prompt_tokens, static_cast<std::int32_t>(id));
    group->sequences.push_back(std::move(sequence));
    return group;
  }

  // Requests `first` to `last` of `prompt_tokens` tokens each.
  void Add(Scheduler& scheduler, std::uint64_t first, std::uint64_t last, std::int32_t prompt_tokens) {
    for (std::uint64_t id = first; id <= last; ++id) scheduler.Add(MakeGroup(id, prompt_tokens));
  }

  // Request 1 has its prompt computed, and decodes from now on.
  void StartDecoding(Scheduler& scheduler) {
    Add(scheduler, 1, 1, 8);
    Step(scheduler);
  }

  // The rows of the next step by request, computed: a sequence whose tokens are all in the cache gets one
  // more.
  std::map<std::uint64_t, std::int64_t> Step(Scheduler& scheduler) {
    std::map<std::uint64_t, std::int64_t> rows;
    for (const WorkItem& item : scheduler.Plan()) {
      rows[item.group->id()] += item.rows;
      item.sequence->computed += item.rows;
      if (item.sequence->pending() == 0) item.sequence->tokens.push_back(7);
    }
    return rows;
  }

  using Rows = std::map<std::uint64_t, std::int64_t>;

  // The next step's rows, under way until Finish.
  Rows Begin(Scheduler& scheduler) {
    Rows rows;
    std::vector<WorkItem>& step = under_way_.emplace_back(scheduler.Plan());
    for (const WorkItem& item : step) {
      rows[item.group->id()] += item.rows;
      item.sequence->computed += item.rows;
      if (item.sequence->pending() == 0) ++item.group->results_due;
    }
    if (step.empty()) under_way_.pop_back();
    return rows;
  }

  // The oldest step under way is computed.
  void Finish() {
    for (const WorkItem& item : under_way_.front()) {
      if (item.sequence->pending() > 0) continue;
      --item.group->results_due;
      item.sequence->tokens.push_back(7);
    }
    under_way_.pop_front();
  }

  // Requests 1 to `count`, each with its prompt computed.
  void StartDecoding(Scheduler& scheduler, std::uint64_t count) {
    Add(scheduler, 1, count, 1);
    Step(scheduler);
  }

  std::deque<std::vector<WorkItem>> under_way_;
  KvBlockPool pool_{kBlocks, [](std::int32_t /*from*/, std::int32_t /*to*/) {}};
};

TEST_F(SchedulerTest, APromptAloneIsReadInStepsOfTheLimit) {
  Scheduler scheduler({.max_batch_tokens = 100}, pool_);
  scheduler.Add(MakeGroup(1, 250));
  EXPECT_EQ(Step(scheduler), (Rows{{1, 100}}));
  EXPECT_EQ(Step(scheduler), (Rows{{1, 100}}));
  EXPECT_EQ(Step(scheduler), (Rows{{1, 50}}));
  EXPECT_EQ(Step(scheduler), (Rows{{1, 1}}));
}

TEST_F(SchedulerTest, BesideADecodingSequenceAPromptIsReadInPieces) {
  Scheduler scheduler({.max_batch_tokens = 100}, pool_);
  StartDecoding(scheduler);
  scheduler.Add(MakeGroup(2, 40));
  EXPECT_EQ(Step(scheduler), (Rows{{1, 1}, {2, 16}}));
  EXPECT_EQ(Step(scheduler), (Rows{{1, 1}, {2, 16}}));
  EXPECT_EQ(Step(scheduler), (Rows{{1, 1}, {2, 8}}));
  EXPECT_EQ(Step(scheduler), (Rows{{1, 1}, {2, 1}}));
}

TEST_F(SchedulerTest, TheLimitOfPromptRowsIsKept) {
  Scheduler scheduler({.max_batch_tokens = 100, .max_prefill_tokens = 5}, pool_);
  StartDecoding(scheduler);
  Add(scheduler, 2, 9, 4);
  EXPECT_EQ(Step(scheduler), (Rows{{1, 1}, {2, 4}, {3, 1}}));
}

TEST_F(SchedulerTest, ABurstOfShortPromptsIsReadAtOnce) {
  Scheduler scheduler({.max_batch_tokens = 100}, pool_);
  StartDecoding(scheduler);
  Add(scheduler, 2, 7, 10);
  EXPECT_EQ(Step(scheduler), (Rows{{1, 1}, {2, 10}, {3, 10}, {4, 10}, {5, 10}, {6, 10}, {7, 10}}));
}

TEST_F(SchedulerTest, FewerThanABurstWaitTheirTurn) {
  Scheduler scheduler({.max_batch_tokens = 100}, pool_);
  StartDecoding(scheduler);
  Add(scheduler, 2, 6, 10);
  EXPECT_EQ(Step(scheduler), (Rows{{1, 1}, {2, 10}, {3, 6}}));
}

TEST_F(SchedulerTest, ABurstThatDoesNotFitOneStepIsReadInPieces) {
  Scheduler scheduler({.max_batch_tokens = 50}, pool_);
  StartDecoding(scheduler);
  Add(scheduler, 2, 7, 10);
  EXPECT_EQ(Step(scheduler), (Rows{{1, 1}, {2, 10}, {3, 6}}));
}

TEST_F(SchedulerTest, TheUrgentComeFirstThenTheOldest) {
  Scheduler scheduler({.max_batch_tokens = 20}, pool_);
  scheduler.Add(MakeGroup(1, 10, 1));
  scheduler.Add(MakeGroup(2, 10, 1));
  scheduler.Add(MakeGroup(3, 15, 0));
  EXPECT_EQ(Step(scheduler), (Rows{{3, 15}, {1, 5}}));
}

TEST_F(SchedulerTest, ASeventeenthRequestIsAdmittedInTheNextStep) {
  Scheduler scheduler({.max_batch_tokens = 512}, pool_);
  Add(scheduler, 1, 16, 8);
  EXPECT_EQ(Step(scheduler).size(), 16U);
  scheduler.Add(MakeGroup(17, 16));
  const Rows rows = Step(scheduler);
  EXPECT_EQ(rows.size(), 17U);
  EXPECT_EQ(rows.at(17), 16);
}

TEST_F(SchedulerTest, NoMoreSequencesRunThanAllowed) {
  Scheduler scheduler({.max_batch_tokens = 512, .max_batch_size = 2}, pool_);
  Add(scheduler, 1, 3, 8);
  EXPECT_EQ(Step(scheduler), (Rows{{1, 8}, {2, 8}}));
  scheduler.Remove([](Group& group) { return group.id() == 1; });
  EXPECT_EQ(Step(scheduler), (Rows{{2, 1}, {3, 8}}));
}

TEST_F(SchedulerTest, StagesHaveSequencesEach) {
  Scheduler scheduler({.max_batch_tokens = 100, .stages = 2}, pool_);
  StartDecoding(scheduler, 41);
  EXPECT_EQ(Begin(scheduler).size(), 21U);
  const Rows others = Begin(scheduler);
  EXPECT_EQ(others.size(), 20U);
  EXPECT_FALSE(others.contains(1));
  EXPECT_TRUE(Begin(scheduler).empty());
  Finish();
  EXPECT_TRUE(Begin(scheduler).contains(1));
}

TEST_F(SchedulerTest, FewSequencesStayTogether) {
  Scheduler scheduler({.max_batch_tokens = 100, .stages = 2}, pool_);
  StartDecoding(scheduler, 31);
  EXPECT_EQ(Begin(scheduler).size(), 31U);
  EXPECT_TRUE(Begin(scheduler).empty());
  Finish();
  EXPECT_EQ(Begin(scheduler).size(), 31U);
}

TEST_F(SchedulerTest, AFewThatAreReadyWaitForThoseUnderWay) {
  Scheduler scheduler({.max_batch_tokens = 100, .stages = 2}, pool_);
  StartDecoding(scheduler, 3);
  EXPECT_EQ(Begin(scheduler).size(), 3U);
  Add(scheduler, 4, 4, 10);
  EXPECT_EQ(Begin(scheduler), (Rows{{4, 10}})) << "a prompt need not wait";
  Finish();
  EXPECT_TRUE(Begin(scheduler).empty()) << "its first token is being computed";
  Finish();
  EXPECT_EQ(Begin(scheduler), (Rows{{1, 1}, {2, 1}, {3, 1}, {4, 1}}));
}

TEST_F(SchedulerTest, ALongPromptIsReadInPiecesBesideWhatIsUnderWay) {
  Scheduler scheduler({.max_batch_tokens = 100, .stages = 3}, pool_);
  StartDecoding(scheduler, 1);
  Begin(scheduler);
  Add(scheduler, 2, 2, 40);
  EXPECT_EQ(Begin(scheduler), (Rows{{2, 16}}));
  EXPECT_EQ(Begin(scheduler), (Rows{{2, 16}}));
  Finish();
  EXPECT_EQ(Begin(scheduler), (Rows{{1, 1}, {2, 8}}));
}

TEST_F(SchedulerTest, BlocksOfWhatIsUnderWayAreNotTakenAway) {
  Scheduler scheduler({.max_batch_tokens = 2048, .stages = 2}, pool_);
  const auto half = static_cast<std::int32_t>(kBlocks / 2 * kKvBlockTokens);
  Add(scheduler, 1, 2, half - kKvBlockTokens);
  for (int row = 0; row < kKvBlockTokens; ++row) {
    EXPECT_EQ(Begin(scheduler).size(), 2U);
    Finish();
  }
  EXPECT_EQ(Begin(scheduler).size(), 2U) << "the last rows of all blocks";
  under_way_.push_back({under_way_.front().back()});
  under_way_.front().pop_back();
  Finish();  // request 1 alone
  EXPECT_TRUE(Begin(scheduler).empty()) << "no block is left, and request 2 is under way";
  EXPECT_EQ(scheduler.preemptions(), 0);
  Finish();
  EXPECT_EQ(Begin(scheduler), (Rows{{1, 1}}));
  EXPECT_EQ(scheduler.preemptions(), 1);
}

TEST_F(SchedulerTest, TheYoungestGivesItsBlocksToTheOldest) {
  Scheduler scheduler({.max_batch_tokens = 2048}, pool_);
  const auto half = static_cast<std::int32_t>(kBlocks / 2 * kKvBlockTokens);
  scheduler.Add(MakeGroup(1, half - kKvBlockTokens));
  scheduler.Add(MakeGroup(2, half - kKvBlockTokens));
  EXPECT_EQ(Step(scheduler).size(), 2U);
  int steps = 0;
  for (; scheduler.preemptions() == 0 && steps < 3 * kKvBlockTokens; ++steps) {
    EXPECT_EQ(Step(scheduler).at(1), 1) << "the oldest decodes in every step";
  }
  EXPECT_EQ(scheduler.preemptions(), 1);
  EXPECT_EQ(scheduler.waiting(), 1);
  // What it had computed, it computes again once there is room.
  scheduler.Remove([](Group& group) { return group.id() == 1; });
  EXPECT_GT(Step(scheduler).at(2), half - kKvBlockTokens);
}

}  // namespace
}  // namespace bloomery
