// The dialect of text-generation-inference: /generate and /generate_stream.
#include "api/dialects.h"
#include "api/errors.h"
#include "api/parameters.h"
#include "api/token_json.h"

namespace bloomery {
namespace {

class Tgi final : public Exchange {
 public:
  static Result<std::unique_ptr<Exchange>> Make(const ApiRequest& request, TgiMode mode) {
    ASSIGN_OR_RETURN(const json::value parsed, ParseJson(request.body, "request body"));
    if (!parsed.is_object())
      return Fail(ErrorCode::kInvalidArgument, "the request body must be a JSON object");
    const json::object& body = parsed.get_object();
    auto exchange = std::make_unique<Tgi>();
    exchange->streaming_ = mode == TgiMode::kStream;
    GenerationRequest generation;
    ASSIGN_OR_RETURN(const auto inputs, GetString(body, "inputs"));
    if (!inputs) return Fail(ErrorCode::kInvalidArgument, "\"inputs\" is missing");
    if (inputs->empty()) return Fail(ErrorCode::kInvalidArgument, "\"inputs\" cannot be empty");
    generation.prompt = *inputs;
    HfParameters parameters;
    for (const auto& [name, value] : body) {
      if (name == "inputs" || value.is_null()) continue;
      if (name == "parameters") {
        if (!value.is_object()) return Fail(ErrorCode::kInvalidArgument, "\"parameters\" must be an object");
        ASSIGN_OR_RETURN(parameters, ParseHfParameters(value.get_object(), {.warpers_imply_sampling = true}));
      } else if (name == "stream" && mode == TgiMode::kByField) {
        ASSIGN_OR_RETURN(exchange->streaming_, BoolValue(name, value));
      } else {
        return Fail(ErrorCode::kInvalidArgument, "unknown field \"{}\"", std::string_view(name));
      }
    }
    if (parameters.sampling.num_return_sequences > 1) {
      return Fail(ErrorCode::kInvalidArgument,
                  "\"num_return_sequences\" above 1 has no place in this answer");
    }
    generation.sampling = std::move(parameters.sampling);
    generation.truncate_prompt_tokens = parameters.output.truncate;
    exchange->output_ = parameters.output;
    if (exchange->streaming_ && generation.sampling.best_of > 1)
      return Fail(ErrorCode::kInvalidArgument, "\"best_of\" cannot be streamed");
    if (exchange->streaming_)
      generation.sampling.logprobs =
          std::max(generation.sampling.logprobs, 0);  // each token comes with its own
    exchange->requests_.push_back(std::move(generation));
    exchange->Prepare();
    return exchange;
  }

 protected:
  HttpAnswer ErrorAnswer(const Error& error) const override {
    return bloomery::ErrorAnswer(Dialect::kTgi, error);
  }

  std::string Body() override {
    const Collected& one = collected_.front();
    const SequenceEvent& best = one.sequences.front();
    json::object body{{"generated_text", FullText(best)}};
    if (output_.details || output_.prompt_details) {
      json::object details = Details(best);
      details["prefill"] = TokensJson(one.prompt.logprobs, kTgiTokenKeys);
      details["tokens"] = TokensJson(best.logprobs, kTgiTokenKeys);
      body["details"] = std::move(details);
    }
    return json::serialize(body);
  }

  // The last token of a text carries the text and the details, so each token waits for what follows it.
  std::string StreamToken(std::size_t /*index*/, const TokenEvent& event) override {
    std::string out = held_ ? ServerSentEvent(*held_) : std::string();
    held_ = json::object{{"index", ++count_},
                         {"token", TokenJson(event.token, event.text, kTgiTokenKeys)},
                         {"generated_text", nullptr},
                         {"details", nullptr}};
    if (requests_.front().sampling.logprobs > 0)
      (*held_)["top_tokens"] = TokensJson(event.top_logprobs, kTgiTokenKeys);
    return out;
  }

  std::string StreamSequence(std::size_t /*index*/, const SequenceEvent& event) override {
    if (!held_) held_ = json::object{{"index", 0}, {"token", nullptr}};
    (*held_)["generated_text"] = FullText(event);
    (*held_)["details"] = Details(event);
    return ServerSentEvent(*std::exchange(held_, std::nullopt));
  }

 private:
  std::string FullText(const SequenceEvent& sequence) const {
    const std::string prompt =
        output_.return_full_text ? std::get<std::string>(requests_.front().prompt) : std::string();
    return ValidText(prompt + sequence.text);
  }

  json::object Details(const SequenceEvent& sequence) const {
    return {{"finish_reason", FinishReasonJson(sequence.reason)},
            {"generated_tokens", sequence.token_ids.size()},
            {"seed", requests_.front().sampling.do_sample ? json::value(collected_.front().prompt.seed)
                                                          : json::value(nullptr)},
            {"input_length", collected_.front().prompt.token_ids.size()}};
  }

  OutputOptions output_;
  std::optional<json::object> held_;
  int count_ = 0;
};

}  // namespace

Result<std::unique_ptr<Exchange>> MakeTgi(const ApiRequest& request, TgiMode mode) {
  return Tgi::Make(request, mode);
}

}  // namespace bloomery
