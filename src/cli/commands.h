// One function a subcommand: adds it to the program. Its callback throws CLI::RuntimeError with the exit
// status on failure (CLI11's own way out), after printing the error.
#pragma once

#include <CLI/CLI.hpp>

#include <string_view>

#include "base/result.h"

namespace bloomery {

void AddGenerate(CLI::App& app);
void AddBench(CLI::App& app);
void AddConfig(CLI::App& app);
void AddInfo(CLI::App& app);
void AddTokenize(CLI::App& app);
void AddPerplexity(CLI::App& app);
void AddServe(CLI::App& app);
void AddShard(CLI::App& app);
void AddDownload(CLI::App& app);
void AddUpload(CLI::App& app);
void AddWorker(CLI::App& app);

// Prints the error and leaves with 2 for a caller's mistake, 1 for everything else.
void ExitOnError(const Status& status);

// On standard error, in the form that the log has.
void PrintError(std::string_view message);

}  // namespace bloomery
