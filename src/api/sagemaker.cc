// The dialect of SageMaker endpoints built on DJL Serving: /invocations and /predictions/{model}.
#include <algorithm>

#include "api/dialects.h"
#include "api/errors.h"
#include "api/parameters.h"
#include "api/token_json.h"

namespace bloomery {
namespace {

bool IsJson(std::string_view sent_content_type, std::string_view body) {
  std::string content_type(sent_content_type);  // media types are case-insensitive
  std::transform(content_type.begin(), content_type.end(), content_type.begin(),
                 [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; });
  if (content_type.starts_with("application/json") || content_type.find("+json") != std::string::npos)
    return true;
  if (!content_type.empty()) return false;
  const std::size_t first = body.find_first_not_of(" \t\r\n");
  return first != std::string_view::npos && (body[first] == '{' || body[first] == '[');
}

// How the texts are wrapped.
enum class Shape : std::uint8_t { kPipelineOne, kPipelineMany, kStrings, kOutputs };

HttpAnswer SageMakerError(const Error& error) { return ErrorAnswer(Dialect::kSageMaker, error); }

// Whole texts, prompt included, for one or many prompts.
class Batch final : public Exchange {
 public:
  Batch(Shape shape, std::vector<std::string> prompts, const HfParameters& parameters) : shape_(shape) {
    for (std::string& prompt : prompts) {
      GenerationRequest request;
      request.prompt = std::move(prompt);
      request.sampling = parameters.sampling;
      request.truncate_prompt_tokens = parameters.output.truncate;
      requests_.push_back(std::move(request));
    }
    full_text_ = parameters.output.return_full_text;
    Prepare();
  }

 protected:
  HttpAnswer ErrorAnswer(const Error& error) const override { return SageMakerError(error); }

  std::string Body() override {
    json::array texts;
    json::array pipeline;
    for (std::size_t i = 0; i < collected_.size(); ++i) {
      json::array objects;
      for (const SequenceEvent& sequence : collected_[i].sequences) {
        const std::string prompt = full_text_ ? std::get<std::string>(requests_[i].prompt) : std::string();
        const std::string text = ValidText(prompt + sequence.text);
        texts.emplace_back(text);
        objects.push_back(json::object{{"generated_text", text}});
      }
      pipeline.push_back(std::move(objects));
    }
    switch (shape_) {
      case Shape::kPipelineOne:
        return json::serialize(pipeline.front());
      case Shape::kPipelineMany:
        return json::serialize(pipeline);
      case Shape::kStrings:
        return json::serialize(texts);
      case Shape::kOutputs:
        break;
    }
    return json::serialize(json::object{{"outputs", std::move(texts)}});
  }

 private:
  const Shape shape_;
  bool full_text_ = true;
};

// DJL's rolling batch: one prompt, new text only, perhaps streamed as JSON lines or server-sent events.
class Rolling final : public Exchange {
 public:
  Rolling(std::string prompt, const HfParameters& parameters, bool streaming, bool events)
      : output_(parameters.output), events_(events) {
    GenerationRequest request;
    request.prompt = std::move(prompt);
    request.sampling = parameters.sampling;
    request.truncate_prompt_tokens = parameters.output.truncate;
    if (streaming) request.sampling.logprobs = std::max(request.sampling.logprobs, 0);
    requests_.push_back(std::move(request));
    streaming_ = streaming;
    Prepare();
  }

  std::string_view stream_content_type() const override {
    return events_ ? "text/event-stream" : "application/jsonlines";
  }

 protected:
  HttpAnswer ErrorAnswer(const Error& error) const override { return SageMakerError(error); }

  std::string Body() override {
    const SequenceEvent& sequence = collected_.front().sequences.front();
    json::object body{{"generated_text", FullText(sequence)}};
    if (output_.details) {
      json::object details = Details(sequence);
      details["inputs"] = std::get<std::string>(requests_.front().prompt);
      details["tokens"] = TokensJson(sequence.logprobs, kDjlTokenKeys);
      if (output_.prompt_details)
        details["prefill"] = TokensJson(collected_.front().prompt.logprobs, kDjlTokenKeys);
      body["details"] = std::move(details);
    }
    return json::serialize(body);
  }

  // As in TGI's stream, the last line carries the text, so each waits for the next.
  std::string StreamToken(std::size_t /*index*/, const TokenEvent& event) override {
    std::string out = held_ ? Line(*held_) : std::string();
    held_ = json::object{{"token", TokenJson(event.token, event.text, kDjlTokenKeys)}};
    return out;
  }

  std::string StreamSequence(std::size_t /*index*/, const SequenceEvent& event) override {
    json::object last = std::exchange(held_, std::nullopt).value_or(json::object());
    last["generated_text"] = FullText(event);
    last["details"] = Details(event);
    return Line(last);
  }

  std::string StreamError(const Error& error) override { return Line(json::parse(ErrorAnswer(error).body)); }

 private:
  std::string Line(const json::value& value) const {
    return events_ ? ServerSentEvent(value) : json::serialize(value) + "\n";
  }

  std::string FullText(const SequenceEvent& sequence) const {
    const std::string prompt =
        output_.return_full_text ? std::get<std::string>(requests_.front().prompt) : std::string();
    return ValidText(prompt + sequence.text);
  }

  static json::object Details(const SequenceEvent& sequence) {
    return {{"finish_reason", FinishReasonJson(sequence.reason)},
            {"generated_tokens", sequence.token_ids.size()}};
  }

  const OutputOptions output_;
  const bool events_;
  std::optional<json::object> held_;
};

// One text or a list of them.
Result<std::vector<std::string>> Prompts(std::string_view name, const json::value& value) {
  if (value.is_string()) return std::vector<std::string>{std::string(value.get_string())};
  if (!value.is_array() || value.get_array().empty() || value.get_array().size() > kMaxPrompts) {
    return Fail(ErrorCode::kInvalidArgument, "\"{}\" must be a text or a list of 1 to {} texts", name,
                kMaxPrompts);
  }
  std::vector<std::string> prompts;
  for (const json::value& prompt : value.get_array()) {
    if (!prompt.is_string()) return Fail(ErrorCode::kInvalidArgument, "\"{}\" must hold texts", name);
    prompts.emplace_back(prompt.get_string());
  }
  return prompts;
}

Result<HfParameters> Parameters(const json::object& body, std::string_view name,
                                const OutputOptions& defaults) {
  const json::value* parameters = body.if_contains(name);
  if (parameters == nullptr || parameters->is_null()) return ParseHfParameters({}, defaults);
  if (!parameters->is_object()) return Fail(ErrorCode::kInvalidArgument, "\"{}\" must be an object", name);
  return ParseHfParameters(parameters->get_object(), defaults);
}

Status OnlyFields(const json::object& body, std::initializer_list<std::string_view> known) {
  for (const auto& [name, value] : body) {
    if (std::find(known.begin(), known.end(), name) == known.end()) {
      return Fail(ErrorCode::kInvalidArgument, "unknown field \"{}\"", std::string_view(name));
    }
  }
  return {};
}

constexpr OutputOptions kFullText{.return_full_text = true};

// {"input": …, "gen_kwargs": …, "padding": …}
Result<std::unique_ptr<Exchange>> MakeNotebook2022(const json::object& body) {
  RETURN_IF_ERROR(OnlyFields(body, {"input", "gen_kwargs", "padding"}));  // padding: batches need none here
  ASSIGN_OR_RETURN(std::vector<std::string> prompts, Prompts("input", body.at("input")));
  ASSIGN_OR_RETURN(const HfParameters parameters, Parameters(body, "gen_kwargs", kFullText));
  return std::make_unique<Batch>(Shape::kStrings, std::move(prompts), parameters);
}

// {"inputs": …, "parameters": …, "stream": …}
Result<std::unique_ptr<Exchange>> MakeInputs(const json::object& body, const ApiRequest& request,
                                             BatchShape shape) {
  RETURN_IF_ERROR(OnlyFields(body, {"inputs", "parameters", "stream"}));
  const json::value& inputs = body.at("inputs");
  ASSIGN_OR_RETURN(std::vector<std::string> prompts, Prompts("inputs", inputs));
  ASSIGN_OR_RETURN(const auto stream, GetBool(body, "stream"));
  if (inputs.is_array()) {
    if (stream.value_or(false))
      return Fail(ErrorCode::kInvalidArgument, "\"stream\" needs \"inputs\" to be one text");
    ASSIGN_OR_RETURN(const HfParameters parameters, Parameters(body, "parameters", kFullText));
    return std::make_unique<Batch>(shape == BatchShape::kOutputs ? Shape::kOutputs : Shape::kPipelineMany,
                                   std::move(prompts), parameters);
  }
  ASSIGN_OR_RETURN(const HfParameters parameters, Parameters(body, "parameters", {}));
  if (parameters.sampling.num_return_sequences > 1) {
    return Fail(ErrorCode::kInvalidArgument,
                "\"num_return_sequences\" above 1 needs \"inputs\" to be a list");
  }
  const bool events = request.accept.find("text/event-stream") != std::string_view::npos;
  return std::make_unique<Rolling>(std::move(prompts.front()), parameters, stream.value_or(false), events);
}

}  // namespace

Result<std::unique_ptr<Exchange>> MakeInvocation(const ApiRequest& request, const ModelInfo& model,
                                                 BatchShape shape) {
  if (request.body.empty()) return Fail(ErrorCode::kInvalidArgument, "the request body is empty");
  if (!IsJson(request.content_type, request.body)) {
    ASSIGN_OR_RETURN(const HfParameters parameters, ParseHfParameters({}, kFullText));
    return std::make_unique<Batch>(Shape::kPipelineOne, std::vector{std::string(request.body)}, parameters);
  }
  ASSIGN_OR_RETURN(const json::value parsed, ParseJson(request.body, "request body"));
  if (!parsed.is_object()) return Fail(ErrorCode::kInvalidArgument, "the request body must be a JSON object");
  const json::object& body = parsed.get_object();
  if (body.contains("input")) return MakeNotebook2022(body);
  if (body.contains("inputs")) return MakeInputs(body, request, shape);
  if (body.contains("prompt")) return MakeCompletion(request, model);
  if (body.contains("messages")) return MakeChatCompletion(request, model);
  return Fail(ErrorCode::kInvalidArgument,
              "the request body has neither \"inputs\", \"input\", \"prompt\" nor \"messages\"");
}

}  // namespace bloomery
