// Calls that all ranks make together (worker/rank_calls.h), on ranks that are threads: each gets what one
// rank alone gets, errors are everybody's, and nobody is left waiting.
#include "worker/rank_calls.h"

#include <gtest/gtest.h>

#include <condition_variable>
#include <functional>
#include <map>
#include <mutex>
#include <thread>

#include "collective/thread_group.h"
#include "golden_support.h"

namespace bloomery {
namespace {

std::vector<GenerationRequest> Requests(std::uint64_t first_id) {
  std::vector<GenerationRequest> requests(3);
  for (std::size_t i = 0; i < requests.size(); ++i) {
    requests[i].id = first_id + i;
    requests[i].prompt = std::vector<std::int32_t>{5, 6, static_cast<std::int32_t>(7 + i)};
    requests[i].sampling.max_new_tokens = 6 + 3 * static_cast<int>(i);
    requests[i].sampling.ignore_eos = true;
  }
  requests[1].sampling.num_beams = 2;
  requests[2].sampling.do_sample = true;
  requests[2].sampling.seed = 11;
  return requests;
}

// By request: its tokens; or its error.
class Tokens final : public EventSink {
 public:
  explicit Tokens(std::size_t requests) : running_(requests) {}

  void OnEvent(std::uint64_t request_id, const GenerationEvent& event) override {
    const std::scoped_lock lock(mutex_);
    if (const auto* sequence = std::get_if<SequenceEvent>(&event)) of[request_id] = sequence->token_ids;
    if (const auto* failed = std::get_if<FailedEvent>(&event)) {
      errors[request_id] = failed->error.code;
      --running_;
    }
    if (std::holds_alternative<DoneEvent>(event)) --running_;
    changed_.notify_all();
  }
  void Wait() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return running_ == 0; });
  }

  std::map<std::uint64_t, std::vector<std::int32_t>> of;
  std::map<std::uint64_t, ErrorCode> errors;

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::size_t running_;
};

// A rank's program and what it has at hand.
class Rank {
 public:
  explicit Rank(std::unique_ptr<Communicator> world) {
    auto group = MakeRankGroup(std::move(world), {2, 1}).value();
    world_ = group->world.get();
    number_ = world_->rank();
    calls_ = std::make_unique<RankCalls>(*world_);
    model_ = LoadTestModel(ModelsDir() / "bloom", DType::kF32, 1, std::move(group));
    if (number_ == 0) engine_ = std::make_unique<Engine>(std::move(model_.loaded));
  }

  int number() const { return number_; }
  RankCalls& calls() { return *calls_; }

  // As Meet; then what came of the call.
  Result<std::shared_ptr<Tokens>> Generate(std::vector<GenerationRequest> requests, bool cancels = false) {
    RETURN_IF_ERROR(calls_->Meet(RankCall::Generate(requests)));
    auto tokens = std::make_shared<Tokens>(requests.size());
    if (number_ > 0) {
      RETURN_IF_ERROR(Take(*tokens));
    } else {
      const auto sink = calls_->Share(requests.size(), tokens);
      for (const GenerationRequest& request : requests) engine_->Submit(request, sink);
      if (cancels) engine_->Cancel(requests.front().id);
    }
    tokens->Wait();
    return tokens;
  }
  Status Take(EventSink& sink) {
    ModelRunner runner(*model_.loaded.transformer, *model_.loaded.kv_cache, world_);
    return calls_->Take(runner, sink);
  }
  // What follows when the calls are over.
  void End() {
    EXPECT_TRUE(calls_->over());
    engine_.reset();
    if (number_ == 0) return;
    EXPECT_TRUE(ModelRunner(*model_.loaded.transformer, *model_.loaded.kv_cache, world_).Follow());
  }

 private:
  Communicator* world_ = nullptr;
  int number_ = 0;
  std::unique_ptr<RankCalls> calls_;
  TestModel model_;
  std::unique_ptr<Engine> engine_;
};

void OnTwoRanks(const std::function<void(Rank&)>& program) {
  auto world = MakeThreadGroup(2, {.max_delay = std::chrono::microseconds(50)});
  std::vector<std::jthread> ranks;
  for (auto& one : world) {
    ranks.emplace_back([&program, one = std::move(one)]() mutable {
      Rank rank(std::move(one));
      program(rank);
    });
  }
}

std::map<std::uint64_t, std::vector<std::int32_t>> Alone(std::uint64_t first_id) {
  TestModel model = LoadTestModel(ModelsDir() / "bloom", DType::kF32, 1);
  Engine engine(std::move(model.loaded));
  auto tokens = std::make_shared<Tokens>(3);
  for (const GenerationRequest& request : Requests(first_id)) engine.Submit(request, tokens);
  tokens->Wait();
  return tokens->of;
}

TEST(RankCallsTest, EveryRankGetsWhatOneRankAloneGets) {
  const auto first = Alone(1);
  const auto second = Alone(4);
  ASSERT_EQ(first.size(), 3U);
  OnTwoRanks([&](Rank& rank) {
    EXPECT_EQ(rank.Generate(Requests(1)).value()->of, first);
    EXPECT_EQ(rank.Generate(Requests(4)).value()->of, second);
    EXPECT_TRUE(rank.calls().Meet(RankCall::Close()));
    rank.End();
  });
}

TEST(RankCallsTest, ErrorsAreEverybodysAndTheNextCallWorks) {
  const auto expected = Alone(1);
  OnTwoRanks([&](Rank& rank) {
    // One rank's argument.
    const auto refused =
        rank.calls().Meet(rank.number() == 1 ? Result<RankCall>(Fail(ErrorCode::kUnsupported, "that"))
                                             : Result<RankCall>(RankCall::Logits({})));
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code, ErrorCode::kUnsupported);
    EXPECT_EQ(refused.error().message, rank.number() == 1 ? "that" : "rank 1: that");
    // Different calls.
    auto others = Requests(1);
    if (rank.number() == 1) others[0].sampling.max_new_tokens = 7;
    const auto different = rank.Generate(others);
    ASSERT_FALSE(different);
    EXPECT_EQ(different.error().code, ErrorCode::kInvalidArgument);
    // What the engine refuses, beside what it does not.
    auto too_long = Requests(1);
    too_long[1].sampling.max_new_tokens = 1 << 20;
    const auto some = rank.Generate(too_long).value();
    EXPECT_EQ(some->errors, (std::map<std::uint64_t, ErrorCode>{{2, ErrorCode::kInvalidArgument}}));
    EXPECT_EQ(some->of.at(1), expected.at(1));
    // Seeds are rank 0's.
    auto seeds = Requests(1);
    seeds[2].sampling.seed = 11 + static_cast<std::uint64_t>(rank.number());
    EXPECT_EQ(rank.Generate(seeds).value()->of, expected);
    EXPECT_TRUE(rank.calls().Meet(RankCall::Close()));
    rank.End();
  });
}

TEST(RankCallsTest, ACancelledCallEndsOnEveryRank) {
  OnTwoRanks([](Rank& rank) {
    auto endless = Requests(1);
    endless.resize(1);
    endless[0].sampling.max_new_tokens = 200;
    const auto cancelled = rank.Generate(endless, /*cancels=*/true).value();
    EXPECT_EQ(cancelled->errors.at(1), ErrorCode::kCancelled);
    EXPECT_EQ(rank.Generate(Requests(2)).value()->of.size(), 3U);
    EXPECT_TRUE(rank.calls().Meet(RankCall::Close()));
    rank.End();
  });
}

TEST(RankCallsTest, ARankThatClosesEndsTheCallsOfTheOthers) {
  for (const int closing : {0, 1}) {
    OnTwoRanks([closing](Rank& rank) {
      if (rank.number() == closing) {
        EXPECT_TRUE(rank.calls().Meet(RankCall::Close()));
      } else {
        const auto late = rank.Generate(Requests(1));
        ASSERT_FALSE(late);
        EXPECT_EQ(late.error().code, ErrorCode::kUnavailable);
        EXPECT_NE(late.error().message.find(std::to_string(closing)), std::string::npos);
      }
      rank.End();
    });
  }
}

TEST(RankCallsTest, AFollowerTakesPartInWhateverRankZeroCalls) {
  OnTwoRanks([](Rank& rank) {
    const std::vector<std::int32_t> tokens = {3, 1, 4};
    if (rank.number() == 0) {
      EXPECT_TRUE(rank.calls().Meet(RankCall::Logits(tokens)));
      EXPECT_EQ(rank.Generate(Requests(1)).value()->of.size(), 3U);
      EXPECT_TRUE(rank.calls().Meet(RankCall::Close()));
    } else {
      EXPECT_EQ(rank.calls().Meet(RankCall::Follow()).value().tokens(), tokens);
      EXPECT_TRUE(rank.calls().Meet(RankCall::Follow()).value().generates());
      Tokens nobody(3);
      EXPECT_TRUE(rank.Take(nobody));
      EXPECT_FALSE(rank.calls().Meet(RankCall::Follow()));
    }
    rank.End();
  });
}

}  // namespace
}  // namespace bloomery
