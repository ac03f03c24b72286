#include "cli/handlers.h"

#include <cstdlib>

#include "cli/options.h"

namespace bloomery {
namespace {

std::chrono::milliseconds Milliseconds(double seconds) {
  return std::chrono::milliseconds(static_cast<std::int64_t>(seconds * 1000));
}

// The folder that djl_python lies in: $BLOOMERY_PYTHON_PATH, or python beside or above the program.
Result<std::filesystem::path> PythonPath() {
  if (const char* chosen = std::getenv("BLOOMERY_PYTHON_PATH"); chosen != nullptr)
    return std::filesystem::path(chosen);
  if (auto found = FolderOfProgram({"python", "share/bloomery/python"}, "djl_python/worker.py"))
    return *std::move(found);
  return Fail(ErrorCode::kNotFound,
              "the Python package djl_python (python/djl_python) is not beside the program; set "
              "BLOOMERY_PYTHON_PATH");
}

}  // namespace

void AddHandlerFlags(CLI::App& command, HandlerFlags& flags) {
  const auto group = command.add_option_group("Handlers", "Of a directory with a model.py");
  group->add_option("--batch-size", flags.batch_size, "Requests that the handler gets in one call, at most")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  group
      ->add_option("--max-batch-delay-ms", flags.max_batch_delay_ms,
                   "Milliseconds that a batch which is not full waits for company")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  group->add_option("--min-workers", flags.min_workers, "Processes that load the model")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  group->add_option("--max-workers", flags.max_workers, "Processes under load; 0: --min-workers")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  group
      ->add_option("--max-idle-time", flags.max_idle_time_s,
                   "Seconds after which a process above --min-workers that has nothing to do is ended")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  group
      ->add_option("--predict-timeout", flags.predict_timeout_s,
                   "Seconds a handler may give no sign, and a request wait for its turn")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  group
      ->add_option("--model-loading-timeout", flags.model_loading_timeout_s,
                   "Seconds that importing and the first call may take")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  group->add_option("--job-queue-size", flags.job_queue_size, "Requests that may wait; more get 503")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
}

Result<HandlerOptions> ToHandlerOptions(const HandlerFlags& flags, const std::string& name, int ranks) {
  HandlerOptions options;
  std::error_code error;
  options.launch.directory = std::filesystem::canonical(flags.directory, error);
  if (error) return Fail(ErrorCode::kNotFound, "{}: {}", flags.directory.string(), error.message());
  options.launch.name = name.empty() ? options.launch.directory.filename().string() : name;
  ASSIGN_OR_RETURN(options.launch.python_path, PythonPath());
  options.launch.ranks = ranks;
  options.launch.entry_point = flags.entry_point;
  options.launch.handler = flags.function;
  options.launch.python = flags.python;
  options.batch_size = flags.batch_size;
  options.max_batch_delay = std::chrono::milliseconds(flags.max_batch_delay_ms);
  options.min_workers = flags.min_workers;
  options.max_workers = flags.max_workers == 0 ? flags.min_workers : flags.max_workers;
  if (options.max_workers < options.min_workers)
    return Fail(ErrorCode::kInvalidArgument, "--max-workers {} is less than --min-workers {}",
                options.max_workers, options.min_workers);
  options.job_queue_size = flags.job_queue_size;
  options.max_idle_time = Milliseconds(flags.max_idle_time_s);
  options.predict_timeout = Milliseconds(flags.predict_timeout_s);
  options.model_loading_timeout = Milliseconds(flags.model_loading_timeout_s);
  options.properties = {{"batch_size", std::to_string(flags.batch_size)},
                        {"max_batch_delay", std::to_string(flags.max_batch_delay_ms)},
                        {"predict_timeout", fmt::format("{}", flags.predict_timeout_s)},
                        {"model_loading_timeout", fmt::format("{}", flags.model_loading_timeout_s)}};
  for (const auto& [name_of, value] : flags.properties) {
    std::erase_if(options.properties, [&](const auto& property) { return property.first == name_of; });
    options.properties.emplace_back(name_of, value);
  }
  return options;
}

}  // namespace bloomery
