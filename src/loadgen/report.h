// What a benchmark says: percentiles, and one row a run as a table, Markdown, CSV or JSON.
// The first columns are those of the published results people compare with, in their order (model …
// tokens/s).
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "base/result.h"

namespace bloomery {

// Linear interpolation between the closest ranks (numpy's and PostgreSQL's percentile_cont): share in [0, 1],
// values not empty.
double Percentile(std::vector<double> values, double share);

struct BenchReport {
  std::string model;
  std::string library;
  std::string precision;
  int batch = 0;
  int parallel_degree = 1;
  std::string instance;
  double load_s = 0;
  double p50_ms = 0;  // latency of a whole batch: submission to its last token
  double p90_ms = 0;
  double p99_ms = 0;
  double tokens_per_s = 0;          // batch · new tokens / P50
  double ttft_ms = 0;               // median time until every sequence of the batch had its first token
  double prefill_tokens_per_s = 0;  // batch · prompt tokens / ttft
  double decode_tokens_per_s = 0;   // tokens after the first, per second
  std::uint64_t peak_rss_bytes = 0;
  std::uint64_t weight_bytes_per_step = 0;
  double memory_bandwidth_bytes_per_s = 0;  // measured in the same run
  double bandwidth_share =
      0;  // weight_bytes_per_step · decode steps per second / memory bandwidth; 0: not measured
  std::uint64_t disk_bytes_per_step = 0;  // of layers that are not in memory
  double disk_bandwidth_bytes_per_s = 0;  // measured in the same run
  double disk_share = 0;                  // disk_bytes_per_step · decode steps per second / disk bandwidth
  int threads = 0;
  int prompt_tokens = 0;
  int new_tokens = 0;
  int iterations = 0;
  std::string isa;
};

enum class ReportFormat : std::uint8_t { kTable, kMarkdown, kCsv, kJson };
Result<ReportFormat> ReportFormatFromName(std::string_view name);

json::object ToJson(const BenchReport& report);

// Ends with a newline. JSON: one object for one report, a list for several.
std::string FormatReports(std::span<const BenchReport> reports, ReportFormat format);

}  // namespace bloomery
