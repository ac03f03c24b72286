// What the tests of EngineClient share: scripts for scripted_engine, short words for events, and a fixture
// that turns the client's loop.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <optional>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "worker/engine_client.h"

namespace bloomery {

// Far above what a loaded machine needs to start a process.
inline constexpr std::chrono::seconds kPatience{30};

// What one process of the engine does between its start and its end.
class Script {
 public:
  Script& Send(const WorkerMessage& message) { return SendBytes(EncodeFrame(message)); }
  Script& SendBytes(std::string_view bytes) {
    text_ += "send ";
    for (const char c : bytes) text_ += fmt::format("{:02x}", static_cast<unsigned char>(c));
    text_ += '\n';
    return *this;
  }
  Script& Ready() {
    ModelInfo info;
    info.name = "m";
    return Send(ReadyMessage{info, 0});
  }
  // Until so many messages have come since the start.
  Script& Await(int messages) {
    text_ += fmt::format("await {}\n", messages);
    return *this;
  }
  Script& Events(std::uint64_t id, const std::vector<GenerationEvent>& events) {
    for (const GenerationEvent& event : events) Send(EventMessage{id, event});
    return *this;
  }
  Script& Hang() {
    text_ += "hang\n";
    return *this;
  }
  Script& Die() {
    text_ += "die\n";
    return *this;
  }
  const std::string& text() const { return text_; }

 private:
  std::string text_;
};

inline PromptEvent Prompt(std::uint64_t seed = 42) { return {{1, 2}, {}, {}, seed}; }
inline TokenEvent Token(std::int32_t id, int sequence = 0) {
  return {sequence, {id, "t", -0.25F * static_cast<float>(id), false}, {{id, "t", -0.5F, false}}, "t"};
}
inline std::vector<GenerationEvent> Tokens(std::vector<std::int32_t> ids) {
  std::vector<GenerationEvent> events;
  for (const std::int32_t id : ids) events.emplace_back(Token(id));
  return events;
}
inline SequenceEvent Whole(std::vector<std::int32_t> ids, int sequence = 0) {
  SequenceEvent event;
  event.sequence = sequence;
  event.token_ids = std::move(ids);
  return event;
}
inline std::vector<GenerationEvent> Join(std::vector<GenerationEvent> first,
                                         const std::vector<GenerationEvent>& rest) {
  first.insert(first.end(), rest.begin(), rest.end());
  return first;
}

inline GenerationRequest Request(const std::string& prompt = "once") {
  GenerationRequest request;
  request.prompt = prompt;
  return request;
}

// Events as short words: "prompt", "5" (a token), "sequence", "done", "failed: why".
inline std::string Word(const GenerationEvent& event) {
  if (std::holds_alternative<PromptEvent>(event)) return "prompt";
  if (const auto* token = std::get_if<TokenEvent>(&event)) return std::to_string(token->token.id);
  if (std::holds_alternative<SequenceEvent>(event)) return "sequence";
  if (std::holds_alternative<DoneEvent>(event)) return "done";
  const Error& error = std::get<FailedEvent>(event).error;
  return fmt::format("failed: {}", error.ToString());
}

// An EngineClient whose processes are scripted_engine, each with its own script.
class EngineClientTest : public testing::Test {
 protected:
  using State = EngineClient::State;

  struct Heard {
    std::vector<std::string> words;
    std::vector<GenerationEvent> events;
    bool ended() const {
      return !words.empty() && (words.back() == "done" || words.back().starts_with("failed"));
    }
  };

  EngineClientTest() {
    std::string path = (std::filesystem::temp_directory_path() / "engine_client_test_XXXXXX").string();
    folder_ = ::mkdtemp(path.data());
  }
  ~EngineClientTest() override {
    client_.reset();
    std::error_code ignored;
    std::filesystem::remove_all(folder_, ignored);
  }

  // The n-th process plays the n-th script. A process too many ends at once, as if it had crashed.
  EngineClient& Start(const std::vector<Script>& scripts, EngineClient::Options options = {}) {
    for (std::size_t i = 0; i < scripts.size(); ++i)
      std::ofstream(folder_ / fmt::format("{}.script", i + 1)) << scripts[i].text();
    if (options.command.empty())
      options.command = {std::string(BLOOMERY_BINARY_DIR) + "/scripted_engine", folder_.string()};
    options.first_backoff = std::chrono::milliseconds(1);
    client_.emplace(io_, std::move(options));
    client_->Start();
    return *client_;
  }

  std::uint64_t Submit(GenerationRequest request, Heard& heard) {
    return client_->Submit(std::move(request), [&heard](const GenerationEvent& event) {
      heard.words.push_back(Word(event));
      heard.events.push_back(event);
    });
  }

  // Turns the loop until `done`.
  template <typename Condition>
  testing::AssertionResult Until(const Condition& done) {
    const auto deadline = std::chrono::steady_clock::now() + kPatience;
    while (!done() && std::chrono::steady_clock::now() < deadline) {
      io_.restart();
      io_.run_one_for(std::chrono::milliseconds(100));
    }
    if (done()) return testing::AssertionSuccess();
    return testing::AssertionFailure() << "still waiting; the client says: " << client_->status_text();
  }
  testing::AssertionResult UntilState(State state) {
    return Until([&] { return client_->state() == state; });
  }

  // What the n-th process was sent.
  std::vector<WorkerMessage> Received(int start) const {
    std::ifstream file(folder_ / fmt::format("{}.received", start), std::ios::binary);
    std::stringstream bytes;
    bytes << file.rdbuf();
    FrameReader reader;
    reader.Append(bytes.str());
    std::vector<WorkerMessage> messages;
    for (;;) {
      auto next = reader.Next();
      EXPECT_TRUE(next);
      if (!next || !*next) return messages;
      messages.push_back(std::move(**next));
    }
  }
  GenerationRequest Submitted(int start, std::size_t index = 0) const {
    const auto messages = Received(start);
    if (index >= messages.size() || !std::holds_alternative<SubmitMessage>(messages[index])) {
      ADD_FAILURE() << "process " << start << " got no request " << index;
      return {};
    }
    return std::get<SubmitMessage>(messages[index]).request;
  }

  std::filesystem::path folder_;
  boost::asio::io_context io_;
  std::optional<EngineClient> client_;
};

}  // namespace bloomery
