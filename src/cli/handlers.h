// Serving a directory with a model.py: flags, and what they resolve to.
#pragma once

#include <CLI/CLI.hpp>

#include <filesystem>
#include <string>

#include "base/result.h"
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
};

void AddHandlerFlags(CLI::App& command, HandlerFlags& flags);

// Whether a directory is served by a model.py of its own.
bool HasHandler(const std::filesystem::path& directory);

// `ranks`: processes that share one model, as --tp asks for.
Result<HandlerOptions> ToHandlerOptions(const HandlerFlags& flags, const std::filesystem::path& directory,
                                        const std::string& name, int ranks);

}  // namespace bloomery
