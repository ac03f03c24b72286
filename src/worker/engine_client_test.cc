#include <csignal>

#include "worker/engine_client_test_support.h"

namespace bloomery {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

// --- a process that works

TEST_F(EngineClientTest, TellsHowFarLoadingIs) {
  Script script;
  script.Send(ProgressMessage{0.5, "layer 3/6"}).Await(1).Ready();
  EngineClient& client = Start({script});
  EXPECT_EQ(client.state(), State::kLoading);
  EXPECT_FALSE(client.info());
  ASSERT_TRUE(Until([&] { return client.progress() == 0.5; }));
  EXPECT_EQ(client.status_text(), "layer 3/6");
  EXPECT_EQ(client.state(), State::kLoading);
  client.Stop();
  EXPECT_EQ(client.state(), State::kStopped);
}

TEST_F(EngineClientTest, EventsReachTheRequestTheyBelongTo) {
  Script script;
  script.Ready().Await(2);
  script.Events(2, {Prompt(), Token(7)}).Events(1, {Prompt(), Token(5), Whole({5}), DoneEvent{}});
  script.Events(2, {Whole({7}), DoneEvent{}}).Events(99, {Token(1)});
  script.Send(StatsMessage{{1, 2, 3, 4, 5, 6, 7}});
  EngineClient& client = Start({script});
  ASSERT_TRUE(UntilState(State::kReady));
  EXPECT_EQ(client.info()->name, "m");
  EXPECT_EQ(client.progress(), 1);
  Heard first;
  Heard second;
  EXPECT_EQ(Submit(Request("a"), first), 1U);
  EXPECT_EQ(Submit(Request("b"), second), 2U);
  EXPECT_EQ(client.in_flight(), 2U);
  ASSERT_TRUE(Until([&] { return client.stats().kv_tokens_total == 4; }));
  EXPECT_THAT(first.words, ElementsAre("prompt", "5", "sequence", "done"));
  EXPECT_THAT(second.words, ElementsAre("prompt", "7", "sequence", "done"));
  EXPECT_EQ(client.in_flight(), 0U);
  EXPECT_EQ(client.restarts(), 0);
  const GenerationRequest sent = Submitted(1, 1);
  EXPECT_EQ(sent.id, 2U);
  EXPECT_EQ(std::get<std::string>(sent.prompt), "b");
}

TEST_F(EngineClientTest, RequestsWaitForTheModel) {
  Script script;
  script.Ready().Await(1).Events(1, {DoneEvent{}});
  Start({script});
  Heard heard;
  Submit(Request(), heard);
  ASSERT_TRUE(Until([&] { return heard.ended(); }));
  EXPECT_THAT(heard.words, ElementsAre("done"));
}

TEST_F(EngineClientTest, TheHandlerIsGoneAfterTheLastEvent) {
  Script script;
  script.Ready().Await(1).Events(1, {Prompt(), FailedEvent{{ErrorCode::kInvalidArgument, "too long"}}});
  Start({script});
  const auto held = std::make_shared<std::vector<std::string>>();
  client_->Submit(Request(), [held](const GenerationEvent& event) { held->push_back(Word(event)); });
  ASSERT_TRUE(Until([&] { return held->size() == 2; }));
  EXPECT_EQ(held->back(), "failed: invalid_argument: too long");
  EXPECT_EQ(held.use_count(), 1);
}

TEST_F(EngineClientTest, CancelTellsTheEngineAndSilencesIt) {
  Script script;
  script.Ready().Await(1).Events(1, {Prompt(), Token(5)});
  script.Await(2).Events(1, {Token(6), FailedEvent{{ErrorCode::kCancelled, "cancelled"}}});
  script.Send(StatsMessage{{.queued_requests = 9}});
  EngineClient& client = Start({script});
  Heard heard;
  const std::uint64_t id = client.Submit(Request(), [&](const GenerationEvent& event) {
    heard.words.push_back(Word(event));
    if (heard.words.back() == "5") client.Cancel(1);  // from within the handler
  });
  ASSERT_TRUE(Until([&] { return client.stats().queued_requests == 9; }));
  EXPECT_EQ(id, 1U);
  EXPECT_THAT(heard.words, ElementsAre("prompt", "5"));
  EXPECT_EQ(client.in_flight(), 0U);
  client.Cancel(id);
  client.Cancel(77);
  ASSERT_EQ(Received(1).size(), 2U);
  EXPECT_EQ(std::get<CancelMessage>(Received(1)[1]).request_id, 1U);
}

// --- a process that never works

TEST_F(EngineClientTest, DeathsWhileStartingAreCounted) {
  const Script dies = Script().Send(ProgressMessage{0.1, "loading"}).Die();
  EngineClient& client = Start({dies, dies, dies, Script().Ready()});
  Heard waiting;
  Submit(Request(), waiting);
  ASSERT_TRUE(UntilState(State::kFailed));
  EXPECT_THAT(client.status_text(), HasSubstr("died 3 times in a row while starting"));
  EXPECT_EQ(client.restarts(), 2);
  EXPECT_THAT(waiting.words, ElementsAre(HasSubstr("failed: unavailable: the engine process died 3 times")));
  Heard late;
  Submit(Request(), late);
  EXPECT_THAT(late.words, IsEmpty()) << "never from within Submit";
  ASSERT_TRUE(Until([&] { return late.ended(); }));
  EXPECT_THAT(late.words, ElementsAre(HasSubstr("failed: unavailable: the engine process died 3 times")));
  EXPECT_EQ(client.in_flight(), 0U);
}

TEST_F(EngineClientTest, AStartThatWorksForgivesTheOnesBefore) {
  const Script dies = Script().Die();
  const Script works_once = Script().Ready().Die();
  EngineClient& client =
      Start({dies, dies, works_once, dies, dies, Script().Ready().Send(ProgressMessage{1, "here"})});
  ASSERT_TRUE(Until([&] { return client.status_text() == "here"; }));
  EXPECT_EQ(client.state(), State::kReady);
  EXPECT_EQ(client.restarts(), 5);
}

TEST_F(EngineClientTest, AModelThatCannotBeLoadedIsNotTriedAgain) {
  Script script;
  script.Send(LoadFailedMessage{{ErrorCode::kNotFound, "/models/x: no such folder"}}).Die();
  EngineClient& client = Start({script, Script().Ready()});
  Heard heard;
  Submit(Request(), heard);
  ASSERT_TRUE(UntilState(State::kFailed));
  EXPECT_EQ(client.status_text(), "/models/x: no such folder");
  EXPECT_EQ(client.restarts(), 0);
  EXPECT_THAT(heard.words, ElementsAre("failed: unavailable: /models/x: no such folder"));
}

TEST_F(EngineClientTest, AProgramThatIsNotThere) {
  EngineClient::Options options;
  options.command = {"/nowhere/bloomery"};
  EngineClient& client = Start({}, options);
  EXPECT_EQ(client.state(), State::kFailed);
  EXPECT_THAT(client.status_text(), HasSubstr("cannot start /nowhere/bloomery: No such file"));
}

TEST_F(EngineClientTest, StopEndsTheProcessAndTheRequests) {
  EngineClient& client = Start({Script().Ready().Await(1).Events(1, {Prompt()})});
  Heard heard;
  Submit(Request(), heard);
  ASSERT_TRUE(Until([&] { return !heard.words.empty(); }));
  const pid_t pid = client.pid();
  client.Stop();
  EXPECT_THAT(heard.words, ElementsAre("prompt", "failed: unavailable: the model is being shut down"));
  Heard late;
  Submit(Request(), late);
  ASSERT_TRUE(Until([&] { return late.ended(); }));
  EXPECT_THAT(late.words, ElementsAre("failed: unavailable: the model is being shut down"));
  EXPECT_EQ(client.state(), State::kStopped);
  client_.reset();
  EXPECT_NE(::kill(pid, 0), 0) << "nothing is left of the process";
}

}  // namespace
}  // namespace bloomery
