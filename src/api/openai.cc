// The OpenAI dialect. Shapes as published in the OpenAI API reference (completions and chat completions).
#include <algorithm>
#include <cmath>
#include <limits>

#include "api/dialects.h"
#include "api/errors.h"
#include "api/parameters.h"
#include "base/utf8.h"

namespace bloomery {
namespace {

constexpr int kDefaultMaxTokens = 16;  // of /v1/completions, as published

std::string_view FinishReasonName(FinishReason reason) {
  return reason == FinishReason::kLength ? "length" : "stop";
}

json::value Logprob(float logprob) {
  return std::isfinite(logprob) ? json::value(logprob) : json::value(-9999.0);
}

// JSON holds characters, tokens hold bytes: a part of one is written as its bytes.
std::string TokenText(const TokenLogprob& token) {
  if (IsValidUtf8(token.text)) return token.text;
  std::string escaped = "bytes:";
  for (const char c : token.text) escaped += fmt::format("\\x{:02x}", static_cast<unsigned char>(c));
  return escaped;
}

// The likely tokens beside the i-th; none where the engine sent none.
const std::vector<TokenLogprob>& TopAt(const std::vector<std::vector<TokenLogprob>>& tops, std::size_t i) {
  static const std::vector<TokenLogprob> kNone;
  return i < tops.size() ? tops[i] : kNone;
}

class OpenAiExchange : public Exchange {
 public:
  OpenAiExchange(std::string id, std::int64_t created_s, std::string model)
      : id_(std::move(id)), created_s_(created_s), model_(std::move(model)) {}

 protected:
  HttpAnswer ErrorAnswer(const Error& error) const override {
    return bloomery::ErrorAnswer(Dialect::kOpenAi, error);
  }

  json::object Envelope(std::string_view object) const {
    return {{"id", id_}, {"object", object}, {"created", created_s_}, {"model", model_}};
  }

  json::object Usage() const {
    std::int64_t prompt = 0;
    std::int64_t completion = 0;
    std::int64_t cached = 0;
    for (const Collected& one : collected_) {
      if (!one.done) continue;
      prompt += one.done->prompt_tokens;
      cached += one.done->cached_tokens;
      for (const SequenceEvent& sequence : one.sequences)
        completion += static_cast<std::int64_t>(sequence.token_ids.size());
    }
    json::object usage{
        {"prompt_tokens", prompt}, {"completion_tokens", completion}, {"total_tokens", prompt + completion}};
    if (cached > 0) usage["prompt_tokens_details"] = {{"cached_tokens", cached}};
    return usage;
  }

  std::string EndOfStream(std::string_view object) const {
    std::string out;
    if (include_usage_) {
      json::object last = Envelope(object);
      last["choices"] = json::array();
      last["usage"] = Usage();
      out = ServerSentEvent(last);
    }
    return out + "data: [DONE]\n\n";
  }

  // A choice's number among those of all prompts.
  std::int64_t ChoiceIndex(std::size_t prompt, int sequence) const {
    return static_cast<std::int64_t>(prompt) * requests_.front().sampling.num_return_sequences + sequence;
  }

  std::string StreamError(const Error& error) override {
    return ServerSentEvent(json::parse(ErrorAnswer(error).body)) + "data: [DONE]\n\n";
  }

  bool include_usage_ = false;

 private:
  const std::string id_;
  const std::int64_t created_s_;
  const std::string model_;
};

// --- /v1/completions
// -----------------------------------------------------------------------------------------------------

class Completion final : public OpenAiExchange {
 public:
  using OpenAiExchange::OpenAiExchange;

  static Result<std::unique_ptr<Exchange>> Make(const json::object& body, const ApiRequest& request,
                                                const ModelInfo& model) {
    auto completion = std::make_unique<Completion>("cmpl-" + request.id, request.created_s, model.name);
    SamplingParams params;
    params.do_sample = true;  // OpenAI's default temperature is 1
    params.max_new_tokens = kDefaultMaxTokens;
    const json::value* prompt = nullptr;
    for (const auto& [name, value] : body) {
      if (name == "prompt") {
        prompt = &value;
        continue;
      }
      RETURN_IF_ERROR(completion->TakeField(name, value, params));
    }
    if (completion->echo_ && params.logprobs >= 0) params.prompt_logprobs = true;
    if (params.max_new_tokens == 0 && !completion->echo_)
      return Fail(ErrorCode::kInvalidArgument, "\"max_tokens\" 0 needs \"echo\": true");
    if (params.max_new_tokens == 0) params.prompt_logprobs = true;
    RETURN_IF_ERROR(completion->TakePrompts(prompt, params));
    completion->Prepare();
    return completion;
  }

 protected:
  std::string Body() override {
    json::object body = Envelope("text_completion");
    json::array& choices = body["choices"].emplace_array();
    for (std::size_t i = 0; i < collected_.size(); ++i) {
      for (const SequenceEvent& sequence : collected_[i].sequences) {
        choices.push_back(
            {{"index", ChoiceIndex(i, sequence.sequence)},
             {"text", (echo_ ? PromptText(i) : std::string()) + ReplaceInvalidUtf8(sequence.text)},
             {"logprobs", ChoiceLogprobs(i, sequence)},
             {"finish_reason", FinishReasonName(sequence.reason)}});
      }
    }
    body["usage"] = Usage();
    return json::serialize(body);
  }

  std::string StreamToken(std::size_t index, const TokenEvent& event) override {
    StreamState& state = StateOf(index, event.sequence);
    const bool echo = echo_ && !state.started;
    state.started = true;
    const std::string text = (echo ? PromptText(index) : std::string()) + event.text;
    if (requests_[index].sampling.logprobs < 0)
      return text.empty() ? std::string() : Chunk(index, event.sequence, text, nullptr, nullptr);
    Lists lists;
    lists.offset = state.offset;
    if (echo) AddPromptLogprobs(index, lists);
    lists.Add(event.token, event.top_logprobs, true);
    state.offset = lists.offset;
    return Chunk(index, event.sequence, text, std::move(lists).Finish(), nullptr);
  }

  std::string StreamSequence(std::size_t index, const SequenceEvent& event) override {
    // Without any token before it, as under beam search, the sequence brings everything.
    const bool whole = !std::exchange(StateOf(index, event.sequence).started, true);
    const std::string text = (whole && echo_ ? PromptText(index) : std::string()) + event.text_tail;
    return Chunk(index, event.sequence, text, whole ? ChoiceLogprobs(index, event) : json::value(nullptr),
                 json::value(FinishReasonName(event.reason)));
  }

  std::string StreamEnd() override { return EndOfStream("text_completion"); }

 private:
  Status TakeField(std::string_view name, const json::value& value, SamplingParams& params) {
    if (name == "model" || name == "user" || value.is_null()) return {};
    if (name == "echo") {
      ASSIGN_OR_RETURN(echo_, BoolValue(name, value));
    } else if (name == "stream") {
      ASSIGN_OR_RETURN(streaming_, BoolValue(name, value));
    } else if (name == "stream_options") {
      if (!value.is_object())
        return Fail(ErrorCode::kInvalidArgument, "\"stream_options\" must be an object");
      ASSIGN_OR_RETURN(const auto include, GetBool(value.get_object(), "include_usage"));
      include_usage_ = include.value_or(false);
    } else if (name == "logprobs") {
      ASSIGN_OR_RETURN(params.logprobs, IntInRange(name, value, 0, kMaxTopLogprobs));
    } else if (name == "logit_bias" && value.is_object() && value.get_object().empty()) {
      return {};
    } else if (name == "suffix" && value.is_string() && value.get_string().empty()) {
      return {};
    } else {
      ASSIGN_OR_RETURN(const bool known, ParseOpenAiField(name, value, params));
      if (!known) return Fail(ErrorCode::kInvalidArgument, "unknown or unsupported parameter \"{}\"", name);
    }
    return {};
  }

  // A text, texts, token ids, or lists of token ids.
  Status TakePrompts(const json::value* prompt, const SamplingParams& params) {
    if (prompt == nullptr || prompt->is_null())
      return Fail(ErrorCode::kInvalidArgument, "\"prompt\" is missing");
    if (!prompt->is_array() || (!prompt->get_array().empty() && prompt->get_array().front().is_number()))
      return AddPrompt(*prompt, params);
    if (prompt->get_array().empty() || prompt->get_array().size() > kMaxPrompts) {
      return Fail(ErrorCode::kInvalidArgument, "\"prompt\" must hold between 1 and {} prompts", kMaxPrompts);
    }
    for (const json::value& one : prompt->get_array()) RETURN_IF_ERROR(AddPrompt(one, params));
    return {};
  }

  Status AddPrompt(const json::value& prompt, const SamplingParams& params) {
    GenerationRequest request;
    request.sampling = params;
    if (prompt.is_string()) {
      request.prompt = std::string(prompt.get_string());
    } else if (prompt.is_array()) {
      std::vector<std::int32_t> ids;
      for (const json::value& id : prompt.get_array()) {
        ASSIGN_OR_RETURN(const int token,
                         IntInRange("prompt", id, 0, std::numeric_limits<std::int32_t>::max()));
        ids.push_back(token);
      }
      request.prompt = std::move(ids);
      // What ids spell comes with their logprobs.
      if (echo_) request.sampling.prompt_logprobs = true;
    } else {
      return Fail(ErrorCode::kInvalidArgument,
                  "\"prompt\" must be a text, texts, token ids or lists of token ids");
    }
    requests_.push_back(std::move(request));
    return {};
  }

  // What the prompt says as text: as sent, or its tokens' bytes.
  std::string PromptText(std::size_t index) const {
    if (const auto* text = std::get_if<std::string>(&requests_[index].prompt))
      return ReplaceInvalidUtf8(*text);
    std::string bytes;
    for (const TokenLogprob& token : collected_[index].prompt.logprobs)
      bytes += token.special ? std::string() : token.text;
    return ReplaceInvalidUtf8(bytes);
  }

  // Of one choice.
  struct StreamState {
    bool started = false;     // something has been sent, with echo the prompt too
    std::int64_t offset = 0;  // of the next token's text, in characters
  };

  StreamState& StateOf(std::size_t index, int sequence) {
    const auto choice = static_cast<std::size_t>(ChoiceIndex(index, sequence));
    if (states_.size() <= choice) states_.resize(choice + 1);
    return states_[choice];
  }

  std::string Chunk(std::size_t index, int sequence, const std::string& text, json::value logprobs,
                    json::value reason) const {
    json::object chunk = Envelope("text_completion");
    chunk["choices"] = {json::object{{"index", ChoiceIndex(index, sequence)},
                                     {"text", ReplaceInvalidUtf8(text)},
                                     {"logprobs", std::move(logprobs)},
                                     {"finish_reason", std::move(reason)}}};
    return ServerSentEvent(chunk);
  }

  // The four parallel lists of a completion's logprobs.
  struct Lists {
    json::array tokens;
    json::array logprobs;
    json::array tops;
    json::array offsets;
    std::int64_t offset = 0;  // characters

    void Add(const TokenLogprob& token, const std::vector<TokenLogprob>& top, bool known) {
      tokens.emplace_back(TokenText(token));
      offsets.emplace_back(offset);
      // Offsets count characters of the text, of which specials are no part.
      for (const char c : token.special ? std::string() : token.text)
        offset += (static_cast<unsigned char>(c) & 0xC0U) != 0x80 ? 1 : 0;
      logprobs.push_back(known ? Logprob(token.logprob) : json::value(nullptr));
      if (!known) {
        tops.emplace_back(nullptr);
        return;
      }
      json::object best;
      for (const TokenLogprob& candidate : top) best[TokenText(candidate)] = Logprob(candidate.logprob);
      if (!best.contains(TokenText(token))) best[TokenText(token)] = Logprob(token.logprob);
      tops.emplace_back(std::move(best));
    }

    json::value Finish() && {
      return {{"tokens", std::move(tokens)},
              {"token_logprobs", std::move(logprobs)},
              {"top_logprobs", std::move(tops)},
              {"text_offset", std::move(offsets)}};
    }
  };

  json::value ChoiceLogprobs(std::size_t index, const SequenceEvent& sequence) const {
    if (requests_[index].sampling.logprobs < 0) return nullptr;
    Lists lists;
    if (echo_) AddPromptLogprobs(index, lists);
    for (std::size_t i = 0; i < sequence.logprobs.size(); ++i)
      lists.Add(sequence.logprobs[i], TopAt(sequence.top_logprobs, i), true);
    return std::move(lists).Finish();
  }

  void AddPromptLogprobs(std::size_t index, Lists& lists) const {
    const PromptEvent& prompt = collected_[index].prompt;
    for (std::size_t i = 0; i < prompt.logprobs.size(); ++i)
      lists.Add(prompt.logprobs[i], TopAt(prompt.top_logprobs, i), /*known=*/i > 0);
  }

  bool echo_ = false;
  std::vector<StreamState> states_;  // by choice
};

// --- /v1/chat/completions
// ------------------------------------------------------------------------------------------------

// For models without a template of their own: plain text that any language model continues sensibly.
//
//   <system text>\n\n    User: …\n    Assistant: …\n    Assistant:
Result<std::string> PlainTemplate(const json::value* messages) {
  if (messages == nullptr || !messages->is_array() || messages->get_array().empty()) {
    return Fail(ErrorCode::kInvalidArgument, "\"messages\" must be a list with at least one message");
  }
  std::string text;
  for (const json::value& message : messages->get_array()) {
    if (!message.is_object()) return Fail(ErrorCode::kInvalidArgument, "\"messages\" must hold objects");
    ASSIGN_OR_RETURN(const auto role, GetString(message.get_object(), "role"));
    const json::value* content = message.get_object().if_contains("content");
    std::string said;
    if (content != nullptr && content->is_string()) {
      said = content->get_string();
    } else if (content != nullptr && content->is_array()) {
      for (const json::value& part : content->get_array()) {
        const json::value* part_text = part.is_object() ? part.get_object().if_contains("text") : nullptr;
        if (part_text == nullptr || !part_text->is_string())
          return Fail(ErrorCode::kUnsupported, "only text parts of a message are supported");
        said += part_text->get_string();
      }
    } else {
      return Fail(ErrorCode::kInvalidArgument,
                  "a message's \"content\" must be a text or a list of text parts");
    }
    if (role == "system" || role == "developer") {
      text += said + "\n\n";
    } else if (role == "user") {
      text += "User: " + said + "\n";
    } else if (role == "assistant") {
      text += "Assistant: " + said + "\n";
    } else {
      return Fail(ErrorCode::kInvalidArgument, "message role \"{}\": expected system, user or assistant",
                  role.value_or(""));
    }
  }
  return text + "Assistant:";
}

class ChatCompletion final : public OpenAiExchange {
 public:
  using OpenAiExchange::OpenAiExchange;

  static Result<std::unique_ptr<Exchange>> Make(const json::object& body, const ApiRequest& request,
                                                const ModelInfo& model) {
    auto chat = std::make_unique<ChatCompletion>("chatcmpl-" + request.id, request.created_s, model.name);
    GenerationRequest generation;
    generation.sampling.do_sample = true;
    bool logprobs = false;
    int top_logprobs = 0;
    for (const auto& [name, value] : body) {
      if (name == "messages" || name == "model" || name == "user" || value.is_null()) continue;
      if (name == "stream") {
        ASSIGN_OR_RETURN(chat->streaming_, BoolValue(name, value));
      } else if (name == "stream_options") {
        if (!value.is_object())
          return Fail(ErrorCode::kInvalidArgument, "\"stream_options\" must be an object");
        ASSIGN_OR_RETURN(const auto include, GetBool(value.get_object(), "include_usage"));
        chat->include_usage_ = include.value_or(false);
      } else if (name == "logprobs") {
        ASSIGN_OR_RETURN(logprobs, BoolValue(name, value));
      } else if (name == "top_logprobs") {
        ASSIGN_OR_RETURN(top_logprobs, IntInRange(name, value, 0, kMaxTopLogprobs));
      } else {
        ASSIGN_OR_RETURN(const bool known, ParseOpenAiField(name, value, generation.sampling));
        if (!known)
          return Fail(ErrorCode::kInvalidArgument, "unknown or unsupported parameter \"{}\"",
                      std::string_view(name));
      }
    }
    if (logprobs) generation.sampling.logprobs = top_logprobs;
    ASSIGN_OR_RETURN(generation.prompt, PlainTemplate(body.if_contains("messages")));
    // The template has no end of turn, so the next speaker's name is one.
    generation.sampling.stop.emplace_back("\nUser:");
    chat->requests_.push_back(std::move(generation));
    chat->Prepare();
    return chat;
  }

 protected:
  std::string Body() override {
    json::object body = Envelope("chat.completion");
    json::array& choices = body["choices"].emplace_array();
    for (const SequenceEvent& sequence : collected_.front().sequences) {
      json::object choice{
          {"index", sequence.sequence},
          {"message", {{"role", "assistant"}, {"content", Trimmed(ReplaceInvalidUtf8(sequence.text))}}},
          {"logprobs", nullptr},
          {"finish_reason", FinishReasonName(sequence.reason)}};
      if (requests_.front().sampling.logprobs >= 0) {
        json::array content;
        for (std::size_t i = 0; i < sequence.logprobs.size(); ++i)
          content.push_back(Entry(sequence.logprobs[i], TopAt(sequence.top_logprobs, i)));
        choice["logprobs"] = {{"content", std::move(content)}};
      }
      choices.push_back(std::move(choice));
    }
    body["usage"] = Usage();
    return json::serialize(body);
  }

  std::string StreamToken(std::size_t /*index*/, const TokenEvent& event) override {
    std::string out = Opening(event.sequence);
    const bool logprobs = requests_.front().sampling.logprobs >= 0;
    const std::string text = WithoutLeadingSpace(event.sequence, event.text);
    if (text.empty() && !logprobs) return out;
    json::value entry = nullptr;
    if (logprobs) entry = {{"content", json::array{Entry(event.token, event.top_logprobs)}}};
    return out + Chunk(event.sequence, {{"content", ReplaceInvalidUtf8(text)}}, std::move(entry), nullptr);
  }

  std::string StreamSequence(std::size_t /*index*/, const SequenceEvent& event) override {
    std::string out = Opening(event.sequence);
    const std::string tail = WithoutLeadingSpace(event.sequence, event.text_tail);
    if (!tail.empty())
      out += Chunk(event.sequence, {{"content", ReplaceInvalidUtf8(tail)}}, nullptr, nullptr);
    return out + Chunk(event.sequence, json::object(), nullptr, json::value(FinishReasonName(event.reason)));
  }

  std::string StreamEnd() override { return EndOfStream("chat.completion.chunk"); }

 private:
  struct StreamState {
    bool opened = false;   // the role has been sent
    bool started = false;  // some text has been sent
  };

  // The template ends before the space that separates speaker and text.
  static std::string Trimmed(std::string text) {
    if (text.starts_with(' ')) text.erase(0, 1);
    return text;
  }

  StreamState& StateOf(int sequence) {
    const auto index = static_cast<std::size_t>(sequence);
    if (states_.size() <= index) states_.resize(index + 1);
    return states_[index];
  }

  std::string Opening(int sequence) {
    if (std::exchange(StateOf(sequence).opened, true)) return {};
    return Chunk(sequence, {{"role", "assistant"}, {"content", ""}}, nullptr, nullptr);
  }

  std::string WithoutLeadingSpace(int sequence, const std::string& text) {
    if (text.empty() || std::exchange(StateOf(sequence).started, true)) return text;
    return Trimmed(text);
  }

  std::string Chunk(int sequence, json::object delta, json::value logprobs, json::value reason) const {
    json::object chunk = Envelope("chat.completion.chunk");
    chunk["choices"] = {json::object{{"index", sequence},
                                     {"delta", std::move(delta)},
                                     {"logprobs", std::move(logprobs)},
                                     {"finish_reason", std::move(reason)}}};
    return ServerSentEvent(chunk);
  }

  static json::object Item(const TokenLogprob& token) {
    json::array bytes;
    for (const char c : token.text) bytes.emplace_back(static_cast<int>(static_cast<unsigned char>(c)));
    return {{"token", TokenText(token)}, {"logprob", Logprob(token.logprob)}, {"bytes", std::move(bytes)}};
  }

  static json::object Entry(const TokenLogprob& token, const std::vector<TokenLogprob>& top) {
    json::object entry = Item(token);
    json::array& candidates = entry["top_logprobs"].emplace_array();
    for (const TokenLogprob& candidate : top) candidates.push_back(Item(candidate));
    return entry;
  }

  std::vector<StreamState> states_;
};

Result<json::object> ParseBody(const ApiRequest& request, const ModelInfo& model) {
  ASSIGN_OR_RETURN(json::value parsed, ParseJson(request.body, "request body"));
  if (!parsed.is_object()) return Fail(ErrorCode::kInvalidArgument, "the request body must be a JSON object");
  ASSIGN_OR_RETURN(const auto name, GetString(parsed.get_object(), "model"));
  if (name && *name != model.name) {
    return Fail(ErrorCode::kNotFound, "the model \"{}\" does not exist here; this server has \"{}\"", *name,
                model.name);
  }
  return std::move(parsed.get_object());
}

}  // namespace

Result<std::unique_ptr<Exchange>> MakeCompletion(const ApiRequest& request, const ModelInfo& model) {
  ASSIGN_OR_RETURN(const json::object body, ParseBody(request, model));
  return Completion::Make(body, request, model);
}

Result<std::unique_ptr<Exchange>> MakeChatCompletion(const ApiRequest& request, const ModelInfo& model) {
  ASSIGN_OR_RETURN(const json::object body, ParseBody(request, model));
  return ChatCompletion::Make(body, request, model);
}

HttpAnswer ListModels(std::span<const ModelInfo> models, std::int64_t created_s) {
  json::array data;
  for (const ModelInfo& model : models) {
    data.push_back({{"id", model.name},
                    {"object", "model"},
                    {"created", created_s},
                    {"owned_by", "bloomery"},
                    {"max_model_len", model.max_context_tokens}});
  }
  HttpAnswer answer;
  answer.body = json::serialize(json::object{{"object", "list"}, {"data", std::move(data)}});
  return answer;
}

}  // namespace bloomery
