#include <csignal>

#include "worker/engine_client_test_support.h"

namespace bloomery {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

TEST_F(EngineClientTest, AContinuationRepeatsNothing) {
  Script first;
  first.Ready().Await(1).Events(1, Join({Prompt(77)}, Tokens({5, 6, 7}))).Die();
  Script second;
  second.Ready()
      .Await(1)
      .Events(1, Join({Prompt(77)}, Tokens({7, 8})))
      .Events(1, {Whole({5, 6, 7, 8}), DoneEvent{}});
  EngineClient& client = Start({first, second});
  Heard heard;
  Submit(Request("once"), heard);
  ASSERT_TRUE(Until([&] { return heard.ended(); }));
  EXPECT_THAT(heard.words, ElementsAre("prompt", "5", "6", "7", "8", "sequence", "done"));
  EXPECT_EQ(client.restarts(), 1);
  EXPECT_EQ(client.state(), State::kReady);
  EXPECT_THAT(Submitted(1).resume_tokens, IsEmpty());
  EXPECT_FALSE(Submitted(1).sampling.seed);
  const GenerationRequest again = Submitted(2);
  EXPECT_THAT(again.resume_tokens, ElementsAre(5, 6)) << "all but the last";
  EXPECT_EQ(again.sampling.seed, 77U) << "the seed that the first process drew";
  EXPECT_EQ(again.id, 1U);
  EXPECT_EQ(std::get<std::string>(again.prompt), "once");
}

class EngineLostOnceTest : public EngineClientTest {
 protected:
  // The first engine sends a token and ends as `first` does; a second one finishes the request.
  void ExpectOneRestart(const Script& first, EngineClient::Options options) {
    Script second;
    second.Ready().Await(1).Events(1, {Prompt(), Token(5), Whole({5}), DoneEvent{}});
    EngineClient& client = Start({first, second}, std::move(options));
    Heard heard;
    Submit(Request(), heard);
    ASSERT_TRUE(Until([&] { return heard.ended(); }));
    EXPECT_THAT(heard.words, ElementsAre("prompt", "5", "sequence", "done"));
    EXPECT_EQ(client.restarts(), 1);
  }

  static Script OneToken() { return Script().Ready().Await(1).Events(1, {Prompt(), Token(5)}); }
};

// The launcher inherits a descriptor, rank 0 connects; whichever dies, both are started again.
TEST_F(EngineLostOnceTest, RanksAreStartedAgainAndLeaveNothingBehind) {
  EngineClient::Options options;
  options.starts_ranks = true;
  ExpectOneRestart(OneToken().Die(), options);
  client_.reset();
  const std::string mine = fmt::format("bloomery-{}-", ::getpid());
  for (const auto& entry : std::filesystem::directory_iterator("/dev/shm"))
    EXPECT_FALSE(entry.path().filename().string().starts_with(mine)) << entry.path();
}

TEST_F(EngineLostOnceTest, AnEngineThatHangsIsStartedAgain) {
  EngineClient::Options options;
  options.step_timeout = std::chrono::milliseconds(200);
  ExpectOneRestart(OneToken().Hang(), options);
}

TEST_F(EngineClientTest, ItMayDieAgainBeforeOrAfterNewTokens) {
  Script first;
  first.Ready().Await(1).Events(1, {Prompt(), Token(5)}).Die();
  Script second;  // replays the only token, and dies
  second.Ready().Await(1).Events(1, {Prompt(), Token(5)}).Die();
  Script third;
  third.Ready().Await(1).Events(1, {Prompt(), Token(5), Token(6), Token(7)}).Die();
  Script fourth;
  fourth.Ready().Await(1).Events(1, {Prompt(), Token(7), Whole({5, 6, 7}), DoneEvent{}});
  EngineClient::Options options;
  options.max_attempts = 4;
  Start({first, second, third, fourth}, options);
  Heard heard;
  Submit(Request(), heard);
  ASSERT_TRUE(Until([&] { return heard.ended(); }));
  EXPECT_THAT(heard.words, ElementsAre("prompt", "5", "6", "7", "sequence", "done"));
  EXPECT_THAT(Submitted(2).resume_tokens, IsEmpty()) << "the only token is drawn again";
  EXPECT_THAT(Submitted(3).resume_tokens, IsEmpty());
  EXPECT_THAT(Submitted(4).resume_tokens, ElementsAre(5, 6));
}

// The continuing process does not know how likely the earlier tokens were; the gateway does.
TEST_F(EngineClientTest, AContinuationHasTheLogprobsOfEveryToken) {
  Script first;
  first.Ready().Await(1).Events(1, {Prompt(), Token(4), Token(8)}).Die();
  SequenceEvent sequence = Whole({4, 8, 12});
  sequence.logprobs = {Token(8).token, Token(12).token};
  sequence.top_logprobs = {Token(8).top_logprobs, Token(12).top_logprobs};
  Script second;
  second.Ready().Await(1).Events(1, {Prompt(), Token(8), Token(12), sequence, DoneEvent{}});
  Start({first, second});
  GenerationRequest request = Request();
  request.sampling.logprobs = 1;
  Heard heard;
  Submit(request, heard);
  ASSERT_TRUE(Until([&] { return heard.ended(); }));
  const auto& whole = std::get<SequenceEvent>(heard.events.at(4));
  ASSERT_EQ(whole.logprobs.size(), 3U);
  ASSERT_EQ(whole.top_logprobs.size(), 3U);
  EXPECT_EQ(whole.logprobs[0].logprob, -1);
  EXPECT_EQ(whole.logprobs[1].logprob, -2);
  EXPECT_EQ(whole.logprobs[2].logprob, -3);
  EXPECT_EQ(whole.top_logprobs[0].at(0).id, 4);
}

// Under beam search, and for several sequences of which none has begun, the second process starts anew and
// knows every logprob itself.
TEST_F(EngineClientTest, WhatStartsAnewKeepsItsOwnLogprobs) {
  Script first;
  first.Ready().Await(2).Events(1, {Prompt()}).Die();
  SequenceEvent sequence = Whole({4});
  sequence.logprobs = {Token(4).token};
  sequence.top_logprobs = {Token(4).top_logprobs};
  SequenceEvent other = sequence;
  other.sequence = 1;
  Script second;
  second.Ready().Await(2).Events(1, {Prompt(), sequence, DoneEvent{}});
  second.Events(2, {Prompt(), Token(4, 0), Token(4, 1), sequence, other, DoneEvent{}});
  Start({first, second});
  GenerationRequest beams = Request();
  beams.sampling.num_beams = 2;
  beams.sampling.logprobs = 0;
  GenerationRequest several = Request();
  several.sampling.num_return_sequences = 2;
  several.sampling.logprobs = 0;
  Heard from_beams;
  Heard from_several;
  Submit(beams, from_beams);
  Submit(several, from_several);
  ASSERT_TRUE(Until([&] { return from_beams.ended() && from_several.ended(); }));
  EXPECT_THAT(from_beams.words, ElementsAre("prompt", "sequence", "done"));
  EXPECT_EQ(std::get<SequenceEvent>(from_beams.events[1]).logprobs.size(), 1U);
  EXPECT_THAT(from_several.words, ElementsAre("prompt", "4", "4", "sequence", "sequence", "done"));
  EXPECT_EQ(std::get<SequenceEvent>(from_several.events[4]).logprobs.size(), 1U);
  EXPECT_THAT(Submitted(2, 1).resume_tokens, IsEmpty());
}

TEST_F(EngineClientTest, ASequenceIsCompleteOnlyOnce) {
  Script first;  // dies between a request's last sequence and its end
  first.Ready().Await(1).Events(1, {Prompt(), Token(5), Whole({5})}).Die();
  Script second;
  second.Ready().Await(1).Events(1, {Prompt(), Token(5), Whole({5}), DoneEvent{}});
  Start({first, second});
  Heard heard;
  Submit(Request(), heard);
  ASSERT_TRUE(Until([&] { return heard.ended(); }));
  EXPECT_THAT(heard.words, ElementsAre("prompt", "5", "sequence", "done"));
}

TEST_F(EngineClientTest, SeveralSequencesThatHaveBegunCannotGoOn) {
  Script first;
  first.Ready().Await(2).Events(1, {Prompt(), Token(5, 1)}).Die();
  Script second;
  second.Ready().Await(1).Events(2, {Prompt(), DoneEvent{}});
  Start({first, second});
  GenerationRequest several = Request();
  several.sampling.num_return_sequences = 2;
  Heard heard;
  Heard other;
  Submit(several, heard);
  Submit(Request("other"), other);
  ASSERT_TRUE(Until([&] { return heard.ended() && other.ended(); }));
  ASSERT_EQ(heard.words.size(), 3U);
  EXPECT_THAT(heard.words[2], HasSubstr("failed: unavailable: the engine was restarted"));
  EXPECT_THAT(other.words, ElementsAre("prompt", "done")) << "its neighbour is not to blame";
  EXPECT_EQ(Received(2).size(), 1U);
}

TEST_F(EngineClientTest, ARequestThatKillsEveryProcessIsGivenUp) {
  Script deadly;
  deadly.Ready().Await(1).Die();
  Script survivor;
  survivor.Ready().Await(1).Events(2, {DoneEvent{}});
  EngineClient& client = Start({deadly, deadly, deadly, survivor});
  Heard heard;
  Submit(Request(), heard);
  ASSERT_TRUE(Until([&] { return heard.ended(); }));
  EXPECT_EQ(client.restarts(), 3) << "sent three times";
  EXPECT_THAT(heard.words,
              ElementsAre(HasSubstr("failed: unavailable: the engine was restarted while it worked")));
  Heard next;
  Submit(Request("next"), next);
  ASSERT_TRUE(Until([&] { return next.ended(); }));
  EXPECT_THAT(next.words, ElementsAre("done")) << "the others are served again";
}

TEST_F(EngineClientTest, WhatIsCancelledWhileTheEngineIsGoneIsNotSentAgain) {
  Script first;
  first.Ready().Await(2).Events(2, {Prompt()}).Die();
  Script second;
  second.Ready().Await(1).Events(2, {DoneEvent{}});
  EngineClient& client = Start({first, second});
  Heard cancelled;
  Heard kept;
  const std::uint64_t id = Submit(Request("cancelled"), cancelled);
  Submit(Request("kept"), kept);
  ASSERT_TRUE(UntilState(State::kRestarting));
  client.Cancel(id);
  ASSERT_TRUE(Until([&] { return kept.ended(); }));
  EXPECT_THAT(cancelled.words, IsEmpty());
  ASSERT_EQ(Received(2).size(), 1U);
  EXPECT_EQ(std::get<std::string>(Submitted(2).prompt), "kept");
}

// Deadlines count from the submission, not from the last time a process got the request.
TEST_F(EngineClientTest, ADeadlineGoesOnAcrossProcesses) {
  Script first;
  first.Ready().Await(1).Events(1, {Prompt()}).Die();
  Script second;
  second.Ready().Await(1).Events(1, {DoneEvent{}});
  Start({first, second});
  GenerationRequest request = Request();
  request.deadline_ms = 60'000;
  Heard heard;
  Submit(request, heard);
  ASSERT_TRUE(Until([&] { return heard.ended(); }));
  EXPECT_THAT(heard.words, ElementsAre("prompt", "done"));
  EXPECT_LE(Submitted(1).deadline_ms, 60'000);
  EXPECT_LT(Submitted(2).deadline_ms, Submitted(1).deadline_ms);
  EXPECT_GT(Submitted(2).deadline_ms, 0);
}

TEST_F(EngineClientTest, ADeadlinePassesWhileTheEngineIsGone) {
  Script loads_for_ever;
  loads_for_ever.Await(1);
  Start({loads_for_ever});
  GenerationRequest request = Request();
  request.deadline_ms = 20;
  Heard heard;
  Submit(request, heard);
  ASSERT_TRUE(Until([&] { return heard.ended(); }));
  EXPECT_THAT(heard.words,
              ElementsAre("failed: deadline_exceeded: not finished within its deadline of 20 ms"));
  EXPECT_EQ(client_->in_flight(), 0U);
}

TEST_F(EngineClientTest, FiguresOfADeadProcessAreForgotten) {
  Script first;
  first.Ready().Send(StatsMessage{{.running_sequences = 5}});
  EngineClient& client = Start({first, Script().Ready()});
  ASSERT_TRUE(Until([&] { return client.stats().running_sequences == 5; }));
  const pid_t pid = client.pid();
  ::kill(pid, SIGKILL);
  ASSERT_TRUE(Until([&] { return client.restarts() == 1; }));
  EXPECT_EQ(client.stats().running_sequences, 0);
  ASSERT_TRUE(UntilState(State::kReady));
  EXPECT_NE(client.pid(), pid);
}

TEST_F(EngineClientTest, AFrameThatIsNotOursIsACrash) {
  Script garbage;
  garbage.Ready()
      .Await(1)
      .Events(1, {Prompt(), Token(5)})
      .SendBytes("GET / HTTP/1.1\r\n\r\n")
      .Events(1, {Token(6)});
  Script second;
  second.Ready().Await(1).Events(1, {Prompt(), Token(5), Whole({5}), DoneEvent{}});
  EngineClient& client = Start({garbage, second});
  Heard heard;
  Submit(Request(), heard);
  ASSERT_TRUE(Until([&] { return heard.ended(); }));
  EXPECT_THAT(heard.words, ElementsAre("prompt", "5", "sequence", "done"));
  EXPECT_EQ(client.restarts(), 1);
}

}  // namespace
}  // namespace bloomery
