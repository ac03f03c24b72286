// One HTTP exchange without HTTP: made from a request's body, fed with the engine's events, and asked for the
// answer. Dialects (OpenAI, SageMaker/DJL, TGI) derive from it. Left out: sockets, routing by URL prefix,
// authentication.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/json.h"
#include "base/result.h"
#include "engine/request.h"

namespace bloomery {

struct HttpAnswer {
  int status = 200;
  std::string content_type = "application/json";
  std::string body;
  std::vector<std::pair<std::string, std::string>> headers;
};

// What a dialect needs of an HTTP request.
struct ApiRequest {
  std::string_view path;  // decoded, without the query
  std::string_view content_type;
  std::string_view accept;
  std::string_view body;
  std::string id;              // names the exchange: x-request-id
  std::int64_t created_s = 0;  // Unix time
};

// What one of the exchange's generation requests has yielded so far.
struct Collected {
  PromptEvent prompt;
  std::vector<SequenceEvent> sequences;  // in order of their index once done
  std::optional<DoneEvent> done;
  std::optional<Error> error;
};

class Exchange {
 public:
  virtual ~Exchange() = default;

  // To be submitted, in this order; ids are the submitter's to set.
  std::vector<GenerationRequest>& requests() { return requests_; }
  bool streaming() const { return streaming_; }
  virtual std::string_view stream_content_type() const { return "text/event-stream"; }

  // Takes the next event of requests()[index]. Returns what to send now: nothing unless streaming.
  std::string Feed(std::size_t index, const GenerationEvent& event);

  // Every request has ended, or one has failed.
  bool finished() const;
  const Error* error() const;

  // The whole answer: without streaming, or when an error came before the first streamed byte.
  HttpAnswer Answer();

  const std::vector<Collected>& collected() const { return collected_; }

 protected:
  // Called by makers once requests_ is complete.
  void Prepare() { collected_.resize(requests_.size()); }

  virtual HttpAnswer ErrorAnswer(const Error& error) const = 0;
  virtual std::string Body() = 0;
  virtual std::string_view body_content_type() const { return "application/json"; }
  // Pieces of a stream.
  virtual std::string StreamToken(std::size_t index, const TokenEvent& event);
  virtual std::string StreamSequence(std::size_t index, const SequenceEvent& event);
  virtual std::string StreamEnd() { return {}; }
  virtual std::string StreamError(const Error& error);

  std::vector<GenerationRequest> requests_;
  std::vector<Collected> collected_;
  bool streaming_ = false;
};

// "data: {…}\n\n"
std::string ServerSentEvent(const json::value& value);

}  // namespace bloomery
