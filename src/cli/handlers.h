// Serving a directory with a model.py: flags, and what they resolve to.
#pragma once

#include <CLI/CLI.hpp>

#include <filesystem>
#include <map>
#include <optional>
#include <string>

#include "base/result.h"
#include "server/model_source.h"
#include "worker/handler_pool.h"

namespace bloomery {

struct HandlerFlags {
  int batch_size = HandlerOptions().batch_size;
  int max_batch_delay_ms = static_cast<int>(HandlerOptions().max_batch_delay.count());
  int min_workers = HandlerOptions().min_workers;
  int max_workers = 0;  // 0: min_workers
  int job_queue_size = HandlerOptions().job_queue_size;
  double max_idle_time_s = 60;
  double predict_timeout_s = 120;
  double model_loading_timeout_s = 240;

  // Of a deployment (serve_flags.h).
  std::filesystem::path directory;  // that the handler is in; empty: there is none
  std::string entry_point = HandlerLaunch().entry_point;
  std::string function = HandlerLaunch().handler;
  std::string python = HandlerLaunch().python;
  std::map<std::string, std::string> properties;  // what the first call carries
  std::uint64_t required_memory_bytes = 0;        // required_memory_mb
  // To be fetched; "model_id" of `properties` is then the directory.
  std::optional<ModelSource> source;
};

void AddHandlerFlags(CLI::App& command, HandlerFlags& flags);

// `ranks`: processes that share one model, as --tp asks for.
Result<HandlerOptions> ToHandlerOptions(const HandlerFlags& flags, const std::string& name, int ranks);

}  // namespace bloomery
