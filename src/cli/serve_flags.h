// The flags of `bloomery serve`, and how a deployment fills those that were not given.
#pragma once

#include <optional>
#include <string>

#include "cli/handlers.h"
#include "cli/options.h"
#include "server/deployment.h"
#include "server/options.h"

namespace bloomery {

struct ServeFlags {
  ModelFlags model;
  std::optional<ModelSource>
      source;  // in place of model.model: fetched by the engine, while /ping tells how far
  HandlerFlags handlers;
  ServerOptions server;
  std::string name;
  std::string api_key_file;
  std::string max_body = "64MiB";
  std::string batch_shape = "pipeline";
  double request_timeout_s = 0;
  double drain_timeout_s = 28;  // hosts kill after 30: before that, what is unfinished gets its error
  double step_timeout_s = 300;
  std::string management = "auto";
  std::string models_memory;  // "12GiB"; empty: what is free

  // Of a deployment of several models, or none: in place of `model`.
  std::optional<std::vector<ModelToLoad>> models;
  bool multi_model = false;
  std::string model_url_pattern;
  std::string shown_url;  // what MODEL was
};

// Of the flags that a deployment can set, those on the command line.
CommandLine GivenFlags(const CLI::App& command);

// Where MODEL is a deployment made for DJL Serving's, SageMaker's or Hugging Face's containers, or the
// environment is such a one's: flags that are not in `given` take its values, and the log says which, from
// where, and what has no effect. Fails where the deployment cannot be honoured.
Status TakeDeployment(ServeFlags& flags, const CommandLine& given, const Environment& environment);

}  // namespace bloomery
