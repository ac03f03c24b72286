// The program: one binary, one subcommand a job.
#include <cstdio>
#include <cstdlib>

#include "base/log.h"
#include "cli/commands.h"

namespace bloomery {
namespace {

constexpr const char* kLogLevelVariable = "BLOOMERY_LOG_LEVEL";
constexpr const char* kLogFormatVariable = "BLOOMERY_LOG_FORMAT";

struct LogFlags {
  std::string level = "info";
  std::string format = "text";
};

void AddLogFlags(CLI::App& app, LogFlags& flags) {
  app.add_option("--log-level", flags.level, "trace, debug, info, warn, error or off")
      ->envname(kLogLevelVariable)
      ->capture_default_str();
  app.add_option("--log-format", flags.format, "Lines of the log: text, or json, an object each")
      ->check(CLI::IsMember({"text", "json"}))
      ->envname(kLogFormatVariable)
      ->capture_default_str();
}

// For this process and, through the environment, for those that it starts.
void StartLogging(const LogFlags& flags) {
  ExitOnError(
      InitLogging(flags.level, "bloomery", flags.format == "json" ? LogFormat::kJson : LogFormat::kText));
  ::setenv(kLogLevelVariable, flags.level.c_str(), 1);
  ::setenv(kLogFormatVariable, flags.format.c_str(), 1);
}

}  // namespace

void PrintError(std::string_view message) {
  if (CurrentLogFormat() == LogFormat::kJson) {
    spdlog::error("{}", message);
  } else {
    fmt::print(stderr, "bloomery: {}\n", message);
  }
}

void ExitOnError(const Status& status) {
  if (status) return;
  PrintError(status.error().message);
  throw CLI::RuntimeError(status.error().code == ErrorCode::kInvalidArgument ? 2 : 1);
}

}  // namespace bloomery

int main(int argc, char** argv) {
  CLI::App app{"Bloomery serves large language models (BLOOM, OPT) on the processors you have.", "bloomery"};
  app.footer(
      "Start here:\n"
      "  bloomery generate --prompt \"It was a pleasant morning\"      text from the built-in demo model\n"
      "  bloomery serve path/to/model                               HTTP on port 8080: SageMaker, OpenAI and "
      "TGI dialects\n"
      "  bloomery bench --shape opt-1.3b --load-format dummy        how fast is this machine?\n"
      "\"bloomery COMMAND --help\" explains each command.");
  app.require_subcommand(1);
  app.fallthrough();  // --log-level and --log-format may also stand after the command
  app.set_version_flag("--version", "bloomery " BLOOMERY_VERSION);
  bloomery::LogFlags log;
  bloomery::AddLogFlags(app, log);
  app.parse_complete_callback([&log] { bloomery::StartLogging(log); });
  bloomery::AddGenerate(app);
  bloomery::AddServe(app);
  bloomery::AddConfig(app);
  bloomery::AddBench(app);
  bloomery::AddShard(app);
  bloomery::AddDownload(app);
  bloomery::AddUpload(app);
  bloomery::AddInfo(app);
  bloomery::AddTokenize(app);
  bloomery::AddPerplexity(app);
  bloomery::AddWorker(app);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error);
  } catch (const std::exception& error) {
    bloomery::PrintError(error.what());
    return 1;
  }
  return 0;
}
