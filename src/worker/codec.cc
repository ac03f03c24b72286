#include "worker/codec.h"

#include <cmath>
#include <limits>
#include <type_traits>

#include "base/utf8.h"

namespace bloomery {
namespace {

// Each struct lists its fields once, in a Fields function that a writer and a reader both walk.

json::value ToValue(const std::string& text) {
  if (IsValidUtf8(text)) return json::value(text);
  std::string hex;
  for (const char c : text) hex += fmt::format("{:02x}", static_cast<unsigned char>(c));
  return json::object{{"hex", hex}};
}

template <typename Number>
  requires std::is_arithmetic_v<Number>
json::value ToValue(Number number) {
  if constexpr (std::is_floating_point_v<Number>) {
    if (!std::isfinite(number)) return nullptr;
    return json::value(static_cast<double>(number));
  } else {
    return json::value(number);
  }
}

template <typename Enum>
  requires std::is_enum_v<Enum>
json::value ToValue(Enum value) {
  return json::value(static_cast<std::int64_t>(value));
}

json::value ToValue(const TokenLogprob& token);
template <typename T>
json::value ToValue(const std::vector<T>& list);
template <typename T>
json::value ToValue(const std::optional<T>& value) {
  return value ? ToValue(*value) : json::value(nullptr);
}

struct Writer {
  json::object object;
  template <typename T>
  void operator()(const char* name, const T& value) {
    object[name] = ToValue(value);
  }
};

Status FromValue(const json::value& value, std::string& out) {
  if (const auto* text = value.if_string()) {
    out = *text;
    return {};
  }
  const json::value* hex = value.is_object() ? value.get_object().if_contains("hex") : nullptr;
  if (hex == nullptr || !hex->is_string() || hex->get_string().size() % 2 != 0)
    return Fail(ErrorCode::kCorrupt, "expected a text");
  out.clear();
  for (std::size_t i = 0; i + 1 < hex->get_string().size(); i += 2) {
    out.push_back(
        static_cast<char>(std::strtoul(std::string(hex->get_string().subview(i, 2)).c_str(), nullptr, 16)));
  }
  return {};
}

template <typename Number>
  requires std::is_arithmetic_v<Number>
Status FromValue(const json::value& value, Number& out) {
  if constexpr (std::is_same_v<Number, bool>) {
    if (!value.is_bool()) return Fail(ErrorCode::kCorrupt, "expected true or false");
    out = value.get_bool();
  } else if constexpr (std::is_floating_point_v<Number>) {
    if (value.is_null()) {
      out = -std::numeric_limits<Number>::infinity();
      return {};
    }
    if (!value.is_number()) return Fail(ErrorCode::kCorrupt, "expected a number");
    out = static_cast<Number>(value.to_number<double>());
  } else {
    boost::system::error_code error;
    out = value.to_number<Number>(error);
    if (error) return Fail(ErrorCode::kCorrupt, "expected an integer in range");
  }
  return {};
}

template <typename Enum>
  requires std::is_enum_v<Enum>
Status FromValue(const json::value& value, Enum& out) {
  std::uint8_t number = 0;
  RETURN_IF_ERROR(FromValue(value, number));
  if (number > 2) return Fail(ErrorCode::kCorrupt, "enumerator out of range");  // every enum sent has three
  out = static_cast<Enum>(number);
  return {};
}

Status FromValue(const json::value& value, TokenLogprob& out);
template <typename T>
Status FromValue(const json::value& value, std::vector<T>& out);
template <typename T>
Status FromValue(const json::value& value, std::optional<T>& out) {
  if (value.is_null()) {
    out.reset();
    return {};
  }
  return FromValue(value, out.emplace());
}

struct Reader {
  const json::object& object;
  Status status;
  template <typename T>
  void operator()(const char* name, T& value) {
    const json::value* found = object.if_contains(name);
    if (!status || found == nullptr) return;  // an absent field keeps its default
    status = FromValue(*found, value);
    if (!status) status = WithContext(std::move(status).error(), name);
  }
};

template <typename T, typename Struct>
concept Same = std::is_same_v<std::remove_const_t<T>, Struct>;

template <typename V, Same<TokenLogprob> T>
void Fields(V& visit, T& t) {
  visit("id", t.id);
  visit("text", t.text);
  visit("logprob", t.logprob);
  visit("special", t.special);
}

template <typename V, Same<SamplingParams> T>
void Fields(V& visit, T& p) {
  visit("do_sample", p.do_sample);
  visit("temperature", p.temperature);
  visit("top_k", p.top_k);
  visit("top_p", p.top_p);
  visit("typical_p", p.typical_p);
  visit("repetition_penalty", p.repetition_penalty);
  visit("frequency_penalty", p.frequency_penalty);
  visit("presence_penalty", p.presence_penalty);
  visit("no_repeat_ngram_size", p.no_repeat_ngram_size);
  visit("seed", p.seed);
  visit("min_length", p.min_length);
  visit("min_new_tokens", p.min_new_tokens);
  visit("max_length", p.max_length);
  visit("max_new_tokens", p.max_new_tokens);
  visit("eos_token_ids", p.eos_token_ids);
  visit("stop", p.stop);
  visit("stop_token_ids", p.stop_token_ids);
  visit("ignore_eos", p.ignore_eos);
  visit("num_beams", p.num_beams);
  visit("length_penalty", p.length_penalty);
  visit("early_stopping", p.early_stopping);
  visit("num_return_sequences", p.num_return_sequences);
  visit("best_of", p.best_of);
  visit("priority", p.priority);
  visit("logprobs", p.logprobs);
  visit("prompt_logprobs", p.prompt_logprobs);
}

template <typename V, Same<PromptEvent> T>
void Fields(V& visit, T& e) {
  visit("token_ids", e.token_ids);
  visit("logprobs", e.logprobs);
  visit("top_logprobs", e.top_logprobs);
  visit("seed", e.seed);
}

template <typename V, Same<TokenEvent> T>
void Fields(V& visit, T& e) {
  visit("sequence", e.sequence);
  visit("token", e.token);
  visit("top_logprobs", e.top_logprobs);
  visit("text", e.text);
}

template <typename V, Same<SequenceEvent> T>
void Fields(V& visit, T& e) {
  visit("sequence", e.sequence);
  visit("reason", e.reason);
  visit("text", e.text);
  visit("text_tail", e.text_tail);
  visit("token_ids", e.token_ids);
  visit("logprobs", e.logprobs);
  visit("top_logprobs", e.top_logprobs);
  visit("score", e.score);
}

template <typename V, Same<DoneEvent> T>
void Fields(V& visit, T& e) {
  visit("prompt_tokens", e.prompt_tokens);
  visit("generated_tokens", e.generated_tokens);
  visit("cached_tokens", e.cached_tokens);
  visit("queue_ms", e.queue_ms);
  visit("first_token_ms", e.first_token_ms);
  visit("total_ms", e.total_ms);
}

template <typename V, Same<ModelInfo> T>
void Fields(V& visit, T& i) {
  visit("name", i.name);
  visit("model_type", i.model_type);
  visit("dtype", i.dtype);
  visit("parameters", i.parameters);
  visit("vocab_size", i.vocab_size);
  visit("max_context_tokens", i.max_context_tokens);
  visit("kv_cache_tokens", i.kv_cache_tokens);
  visit("max_batch_size", i.max_batch_size);
  visit("default_max_new_tokens", i.default_max_new_tokens);
  visit("chat_template", i.chat_template);
  visit("bos_token", i.bos_token);
  visit("eos_token", i.eos_token);
}

template <typename V, Same<EngineStats> T>
void Fields(V& visit, T& s) {
  visit("queued_requests", s.queued_requests);
  visit("running_sequences", s.running_sequences);
  visit("kv_tokens_used", s.kv_tokens_used);
  visit("kv_tokens_total", s.kv_tokens_total);
  visit("prompt_tokens_total", s.prompt_tokens_total);
  visit("generated_tokens_total", s.generated_tokens_total);
  visit("preemptions_total", s.preemptions_total);
  visit("cached_tokens_total", s.cached_tokens_total);
  visit("drafted_tokens_total", s.drafted_tokens_total);
  visit("accepted_tokens_total", s.accepted_tokens_total);
  visit("steps_total", s.steps_total);
}

template <typename T>
json::object Write(const T& value) {
  Writer writer;
  Fields(writer, value);
  return std::move(writer.object);
}

template <typename T>
Result<T> Read(const json::object& object) {
  T value;
  Reader reader{object, {}};
  Fields(reader, value);
  if (!reader.status) return std::unexpected(std::move(reader.status).error());
  return value;
}

json::value ToValue(const TokenLogprob& token) { return Write(token); }

Status FromValue(const json::value& value, TokenLogprob& out) {
  if (!value.is_object()) return Fail(ErrorCode::kCorrupt, "expected a token");
  ASSIGN_OR_RETURN(out, Read<TokenLogprob>(value.get_object()));
  return {};
}

template <typename T>
json::value ToValue(const std::vector<T>& list) {
  json::array array;
  array.reserve(list.size());
  for (const T& item : list) array.push_back(ToValue(item));
  return array;
}

template <typename T>
Status FromValue(const json::value& value, std::vector<T>& out) {
  if (!value.is_array()) return Fail(ErrorCode::kCorrupt, "expected a list");
  out.clear();
  out.reserve(value.get_array().size());
  for (const json::value& item : value.get_array()) RETURN_IF_ERROR(FromValue(item, out.emplace_back()));
  return {};
}

template <typename T>
Result<GenerationEvent> ReadEvent(const json::object& object) {
  ASSIGN_OR_RETURN(T event, Read<T>(object));
  return GenerationEvent(std::move(event));
}

}  // namespace

json::object EncodeRequest(const GenerationRequest& request) {
  Writer writer;
  writer("id", request.id);
  std::visit([&](const auto& prompt) { writer("prompt", prompt); }, request.prompt);
  writer("add_special_tokens", request.add_special_tokens);
  writer("truncate_prompt_tokens", request.truncate_prompt_tokens);
  writer("deadline_ms", request.deadline_ms);
  writer("cache_salt", request.cache_salt);
  writer("resume_tokens", request.resume_tokens);
  writer.object["sampling"] = Write(request.sampling);
  return std::move(writer.object);
}

Result<GenerationRequest> DecodeRequest(const json::object& object) {
  GenerationRequest request;
  Reader reader{object, {}};
  reader("id", request.id);
  const json::value* prompt = object.if_contains("prompt");
  if (prompt != nullptr && prompt->is_array()) {
    reader("prompt", request.prompt.emplace<std::vector<std::int32_t>>());
  } else {
    reader("prompt", request.prompt.emplace<std::string>());
  }
  reader("add_special_tokens", request.add_special_tokens);
  reader("truncate_prompt_tokens", request.truncate_prompt_tokens);
  reader("deadline_ms", request.deadline_ms);
  reader("cache_salt", request.cache_salt);
  reader("resume_tokens", request.resume_tokens);
  if (!reader.status) return std::unexpected(std::move(reader.status).error());
  const json::value* sampling = object.if_contains("sampling");
  if (sampling == nullptr || !sampling->is_object())
    return Fail(ErrorCode::kCorrupt, "a request without sampling");
  ASSIGN_OR_RETURN(request.sampling, Read<SamplingParams>(sampling->get_object()));
  return request;
}

json::object EncodeEvent(const GenerationEvent& event) {
  struct Encoder {
    json::object operator()(const PromptEvent& e) const { return {{"prompt", Write(e)}}; }
    json::object operator()(const TokenEvent& e) const { return {{"token", Write(e)}}; }
    json::object operator()(const SequenceEvent& e) const { return {{"sequence", Write(e)}}; }
    json::object operator()(const DoneEvent& e) const { return {{"done", Write(e)}}; }
    json::object operator()(const FailedEvent& e) const {
      return {{"failed", {{"code", ErrorCodeName(e.error.code)}, {"message", ToValue(e.error.message)}}}};
    }
  };
  return std::visit(Encoder{}, event);
}

Result<GenerationEvent> DecodeEvent(const json::object& object) {
  if (object.size() != 1 || !object.begin()->value().is_object())
    return Fail(ErrorCode::kCorrupt, "an event must hold one object");
  const std::string_view kind = object.begin()->key();
  const json::object& body = object.begin()->value().get_object();
  if (kind == "prompt") return ReadEvent<PromptEvent>(body);
  if (kind == "token") return ReadEvent<TokenEvent>(body);
  if (kind == "sequence") return ReadEvent<SequenceEvent>(body);
  if (kind == "done") return ReadEvent<DoneEvent>(body);
  if (kind != "failed") return Fail(ErrorCode::kCorrupt, "event \"{}\"", kind);
  FailedEvent failed;
  std::string code;
  Reader reader{body, {}};
  reader("code", code);
  reader("message", failed.error.message);
  if (!reader.status) return std::unexpected(std::move(reader.status).error());
  failed.error.code = ErrorCodeFromName(code);
  return GenerationEvent(std::move(failed));
}

json::object EncodeInfo(const ModelInfo& info) { return Write(info); }
Result<ModelInfo> DecodeInfo(const json::object& object) { return Read<ModelInfo>(object); }
json::object EncodeStats(const EngineStats& stats) { return Write(stats); }
Result<EngineStats> DecodeStats(const json::object& object) { return Read<EngineStats>(object); }

}  // namespace bloomery
