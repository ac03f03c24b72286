// The program: one binary, one subcommand a job.
#include <cstdio>

#include "base/log.h"
#include "cli/commands.h"

namespace bloomery {

void ExitOnError(const Status& status) {
  if (status) return;
  fmt::print(stderr, "bloomery: {}\n", status.error().message);
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
  app.set_version_flag("--version", "bloomery " BLOOMERY_VERSION);
  std::string log_level = "info";
  app.add_option("--log-level", log_level, "trace, debug, info, warn, error or off")->capture_default_str();
  app.parse_complete_callback(
      [&log_level] { bloomery::ExitOnError(bloomery::InitLogging(log_level, "bloomery")); });
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
    fmt::print(stderr, "bloomery: {}\n", error.what());
    return 1;
  }
  return 0;
}
