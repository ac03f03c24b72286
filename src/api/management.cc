#include "api/management.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <ctime>
#include <map>

#include "api/query.h"
#include "base/utf8.h"

namespace bloomery {
namespace {

constexpr std::size_t kMaxNameBytes = 255;
constexpr std::size_t kMaxUrlBytes = 2048;

using Parameters = std::map<std::string, std::string, std::less<>>;

std::string* Find(Parameters& parameters, std::string_view name) {
  const auto found = parameters.find(name);
  return found == parameters.end() ? nullptr : &found->second;
}

Parameters QueryParameters(std::string_view query) {
  Parameters parameters;
  for (auto& [name, value] : ParseQuery(query)) parameters[name] = std::move(value);
  return parameters;
}

Result<Parameters> BodyParameters(std::string_view body) {
  Parameters parameters;
  if (body.find_first_not_of(" \t\r\n") == std::string_view::npos) return parameters;
  ASSIGN_OR_RETURN(const json::value parsed, ParseJson(body, "the body"));
  if (!parsed.is_object())
    return Fail(
        ErrorCode::kInvalidArgument,
        "the body must be a JSON object such as {{\"model_name\": \"NAME\", \"url\": \"DIRECTORY\"}}");
  for (const auto& [name, value] : parsed.get_object()) {
    if (const auto* text = value.if_string()) {
      parameters[name] = std::string_view(*text);
    } else if (value.is_bool() || value.is_number()) {
      parameters[name] = json::serialize(value);
    } else if (!value.is_null()) {
      return Fail(ErrorCode::kInvalidArgument, "{}: must be a string, a number or true or false",
                  std::string_view(name));
    }
  }
  return parameters;
}

Result<std::optional<int>> Number(Parameters& parameters, std::string_view name, int least) {
  const std::string* text = Find(parameters, name);
  if (text == nullptr) return std::nullopt;
  int value = 0;
  const auto [end, error] = std::from_chars(text->data(), text->data() + text->size(), value);
  if (error != std::errc() || end != text->data() + text->size() || value < -1)
    return Fail(ErrorCode::kInvalidArgument, "{}: must be a whole number", name);
  // -1 is DJL's word for "as it is".
  if (value == -1) return std::nullopt;
  if (value < least) return Fail(ErrorCode::kInvalidArgument, "{}: must be at least {}", name, least);
  return value;
}

Result<ModelTuning> TuningOf(Parameters& parameters) {
  struct Row {
    std::string_view name;
    std::optional<int> ModelTuning::* member;
    int least;
  };
  static constexpr std::array<Row, 6> kRows = {{{"job_queue_size", &ModelTuning::job_queue_size, 1},
                                                {"batch_size", &ModelTuning::batch_size, 1},
                                                {"max_batch_delay", &ModelTuning::max_batch_delay_ms, 0},
                                                {"max_idle_time", &ModelTuning::max_idle_time_s, 0},
                                                {"min_worker", &ModelTuning::min_workers, 1},
                                                {"max_worker", &ModelTuning::max_workers, 1}}};
  ModelTuning tuning;
  for (const Row& row : kRows) {
    ASSIGN_OR_RETURN(tuning.*row.member, Number(parameters, row.name, row.least));
  }
  if (tuning.min_workers && tuning.max_workers && *tuning.max_workers < *tuning.min_workers)
    return Fail(ErrorCode::kInvalidArgument, "max_worker {} is less than min_worker {}", *tuning.max_workers,
                *tuning.min_workers);
  return tuning;
}

// It stands in paths, logs and file names.
bool IsName(std::string_view text) {
  return !text.empty() && text.size() <= kMaxNameBytes && text.find_first_not_of('.') != std::string::npos &&
         std::all_of(text.begin(), text.end(), [](unsigned char c) {
           return std::isalnum(c) != 0 || c == '-' || c == '_' || c == '.';
         });
}

std::string_view ListStatus(ModelState state) {
  switch (state) {
    case ModelState::kPending:
      return "PENDING";
    case ModelState::kFailed:
      return "FAILED";
    default:
      return "READY";
  }
}

std::string_view DescribedStatus(ModelState state) {
  if (state == ModelState::kReady) return "Healthy";
  return state == ModelState::kUnhealthy ? "Unhealthy" : ListStatus(state);
}

std::string Rfc3339(std::int64_t unix_s) {
  const std::time_t time = unix_s;
  std::tm utc{};
  ::gmtime_r(&time, &utc);
  std::array<char, 32> text{};
  return {text.data(), std::strftime(text.data(), text.size(), "%Y-%m-%dT%H:%M:%SZ", &utc)};
}

json::object ToJson(const ModelReport& model) {
  json::array workers;
  for (const ModelReport::Worker& worker : model.workers) {
    workers.push_back({{"id", worker.id},
                       {"startTime", Rfc3339(model.started_s)},
                       {"status", worker.ready ? "READY" : "PENDING"}});
  }
  return {{"modelName", model.name},
          {"modelUrl", ReplaceInvalidUtf8(model.url)},
          {"batchSize", model.batch_size},
          {"maxBatchDelayMillis", model.max_batch_delay_ms},
          {"maxIdleSeconds", model.max_idle_time_s},
          {"queueSize", model.queue_size},
          {"requestInQueue", model.queued},
          {"status", DescribedStatus(model.state)},
          {"detail", ReplaceInvalidUtf8(model.detail)},
          {"memoryBytes", model.memory_bytes},
          {"loadedAtStartup", model.loaded_at_startup},
          {"workerGroups", json::array{json::object{{"device", {{"deviceType", "cpu"}, {"deviceId", -1}}},
                                                    {"minWorkers", model.min_workers},
                                                    {"maxWorkers", model.max_workers},
                                                    {"workers", std::move(workers)}}}}};
}

}  // namespace

Result<ModelRegistration> ParseRegistration(std::string_view query, std::string_view body) {
  Parameters parameters = QueryParameters(query);
  ASSIGN_OR_RETURN(Parameters in_body, BodyParameters(body));
  parameters.merge(in_body);  // what the query has stays
  const auto take = [&](std::string_view name) {
    std::string* text = Find(parameters, name);
    return text != nullptr ? std::move(*text) : std::string();
  };
  ModelRegistration registration;
  ASSIGN_OR_RETURN(registration.tuning, TuningOf(parameters));
  registration.url = take("url");
  if (registration.url.empty()) return Fail(ErrorCode::kInvalidArgument, "url: is required");
  if (registration.url.size() > kMaxUrlBytes || registration.url.find('\0') != std::string::npos)
    return Fail(ErrorCode::kInvalidArgument, "url: must be at most {} bytes, none of them zero",
                kMaxUrlBytes);
  registration.name = take("model_name");
  if (registration.name.empty()) registration.name = ModelNameOf(registration.url);
  if (!IsName(registration.name))
    return Fail(
        ErrorCode::kInvalidArgument,
        "model_name: must be 1 to {} letters, digits, '-', '_' and '.'; name the model where its url does "
        "not end with such a name",
        kMaxNameBytes);
  registration.version = take("model_version");
  if (!registration.version.empty() && !IsName(registration.version))
    return Fail(ErrorCode::kInvalidArgument, "model_version: must be letters, digits, '-', '_' and '.'");
  registration.engine = take("engine");
  const std::string synchronous = take("synchronous");
  if (!synchronous.empty() && synchronous != "true" && synchronous != "false")
    return Fail(ErrorCode::kInvalidArgument, "synchronous: must be true or false");
  registration.synchronous = synchronous != "false";
  return registration;
}

Result<ModelTuning> ParseTuning(std::string_view query) {
  Parameters parameters = QueryParameters(query);
  return TuningOf(parameters);
}

std::string ModelNameOf(std::string_view url) {
  if (url.find("://") != std::string_view::npos) url = url.substr(0, url.find_first_of("?#"));
  while (url.ends_with('/')) url.remove_suffix(1);
  url.remove_prefix(url.find_last_of('/') + 1);  // npos + 1 is 0
  for (const std::string_view suffix : {".tar.gz", ".tgz", ".tar", ".zip"}) {
    if (url.ends_with(suffix)) return std::string(url.substr(0, url.size() - suffix.size()));
  }
  return std::string(url);
}

Result<ModelPage> ParsePage(std::string_view query) {
  Parameters parameters = QueryParameters(query);
  ModelPage page;
  ASSIGN_OR_RETURN(const auto limit, Number(parameters, "limit", 1));
  ASSIGN_OR_RETURN(const auto first, Number(parameters, "next_page_token", 0));
  if (limit) page.limit = static_cast<std::size_t>(*limit);
  if (first) page.first = static_cast<std::size_t>(*first);
  return page;
}

HttpAnswer ListModelReports(std::span<const ModelReport> models, ModelPage page) {
  json::array listed;
  const std::size_t first = std::min(page.first, models.size());
  const std::size_t last = first + std::min(page.limit, models.size() - first);
  for (const ModelReport& model : models.subspan(first, last - first)) {
    json::object entry{{"modelName", model.name},
                       {"modelUrl", ReplaceInvalidUtf8(model.url)},
                       {"status", ListStatus(model.state)}};
    if (!model.version.empty()) entry["version"] = model.version;
    listed.push_back(std::move(entry));
  }
  json::object body{{"models", std::move(listed)}};
  if (last < models.size()) body["nextPageToken"] = std::to_string(last);
  HttpAnswer answer;
  answer.body = json::serialize(body);
  return answer;
}

HttpAnswer DescribeModel(std::span<const ModelReport> versions) {
  json::array workflows;
  for (const ModelReport& model : versions) {
    json::object workflow{{"workflowName", model.name}, {"models", json::array{ToJson(model)}}};
    if (!model.version.empty()) workflow["version"] = model.version;
    workflows.push_back(std::move(workflow));
  }
  HttpAnswer answer;
  answer.body = json::serialize(workflows);
  return answer;
}

HttpAnswer DescribeModelForSageMaker(const ModelReport& model) {
  HttpAnswer answer;
  answer.body =
      json::serialize(json::object{{"modelName", model.name}, {"modelUrl", ReplaceInvalidUtf8(model.url)}});
  return answer;
}

HttpAnswer StatusAnswer(std::string_view text, int status) {
  HttpAnswer answer;
  answer.status = status;
  answer.body = json::serialize(json::object{{"status", text}});
  return answer;
}

}  // namespace bloomery
