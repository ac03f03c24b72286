// What a deployment made for DJL Serving, SageMaker or Hugging Face's containers asks for, in Bloomery's
// terms: its directory, its files and the environment, resolved once and looked at by `bloomery config` and
// `bloomery serve`. Left out: fetching the model (model_source.h) and taking the values (cli/).
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "server/model_source.h"
#include "server/settings.h"

namespace bloomery {

enum class Runtime : std::uint8_t { kNative, kPythonHandler };

struct EffectiveSetting {
  const Setting* setting = nullptr;
  std::string value;    // "set" or "unset" for a secret
  std::string origin;   // "default" where nobody set it
  std::string becomes;  // the flags of `serve` that say the same: "--tp 4"; empty: there is none
};

// One of several models that a server starts with.
struct ModelToLoad {
  std::string name;
  std::string version;  // empty: none
  std::string engine;   // empty: its own files say
  std::string url;      // a directory, an archive, s3://bucket/prefix/, or a hub's id
};

// What is absent was not asked for, or its flag is on the command line: `serve` then keeps its own. A flag
// that several keys may set (--dtype, --port) wins there too, whatever is here.
struct Deployment {
  std::filesystem::path directory;  // with serving.properties; empty: there is none
  bool declared = false;            // somebody set a setting other than a variable such as HF_HOME

  // Each is a deployment of its own, resolved when it is loaded; none of what follows but the server's
  // settings counts. Present and empty: the server starts without a model.
  std::optional<std::vector<ModelToLoad>> models;
  bool multi_model = false;  // SageMaker's multi-model contract: models are loaded by request
  std::optional<std::string> model_url_pattern;  // of those
  bool management = false;                       // somebody said where it is to be had

  Runtime runtime = Runtime::kNative;
  std::string entry_point;            // of the Python handler: "model.py", or a module
  std::optional<ModelSource> source;  // absent: `serve`'s own model
  std::optional<std::string> name;    // load_models', or the directory's

  std::optional<int> tensor_ranks;
  std::optional<int> stages;
  std::optional<std::string> dtype;  // as --dtype has it
  std::optional<std::string> kv_dtype;
  std::optional<int> max_batch_size;
  std::optional<std::int64_t> max_batch_tokens;
  std::optional<std::int64_t> max_context_tokens;
  std::optional<bool> prefix_cache;

  std::optional<std::string> host;
  std::optional<std::uint16_t> port;
  std::optional<int> max_requests;  // in progress and waiting
  std::optional<std::uint64_t> max_body_bytes;
  std::optional<double> request_timeout_s;
  std::optional<std::string> request_id_header;

  // Every option that is set, known or not, without "option.": what a Python handler gets.
  std::map<std::string, std::string> handler_options;

  std::vector<EffectiveSetting> settings;  // honoured and mapped ones, in the table's order
  std::vector<Remark> ignored;
  std::vector<Remark> errors;  // with one of them it cannot start
};

// What of the host counts.
struct HostResources {
  int numa_nodes = 1;  // what "max" stands for
};

// `directory`: as it was named; empty: model_store's, or /opt/ml/model where there is one. A directory that
// holds nothing but one other, as archives do, stands for that one. Fails where a file cannot be read; what
// is wrong with values is in `errors`.
Result<Deployment> ResolveDeployment(const std::filesystem::path& directory, const Environment& environment,
                                     const CommandLine& command_line, const HostResources& host);

}  // namespace bloomery
