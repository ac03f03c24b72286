#include "loadgen/report.h"

#include <algorithm>
#include <array>
#include <cassert>
#include <cmath>
#include <utility>

namespace bloomery {
namespace {

struct Column {
  std::string_view name;
  std::string (*cell)(const BenchReport&);
};

constexpr double kMB = 1e6;
constexpr double kGB = 1e9;

// What was not measured is not zero.
std::string OrNone(double value, std::string text) { return value > 0 ? std::move(text) : "-"; }

constexpr std::array<Column, 20> kColumns = {{
    {"model", [](const BenchReport& r) { return r.model; }},
    {"library", [](const BenchReport& r) { return r.library; }},
    {"precision", [](const BenchReport& r) { return r.precision; }},
    {"batch", [](const BenchReport& r) { return std::to_string(r.batch); }},
    {"parallel degree", [](const BenchReport& r) { return std::to_string(r.parallel_degree); }},
    {"instance", [](const BenchReport& r) { return r.instance; }},
    {"load s", [](const BenchReport& r) { return fmt::format("{:.1f}", r.load_s); }},
    {"P50 ms", [](const BenchReport& r) { return fmt::format("{:.0f}", r.p50_ms); }},
    {"P90 ms", [](const BenchReport& r) { return fmt::format("{:.0f}", r.p90_ms); }},
    {"P99 ms", [](const BenchReport& r) { return fmt::format("{:.0f}", r.p99_ms); }},
    {"tokens/s", [](const BenchReport& r) { return fmt::format("{:.1f}", r.tokens_per_s); }},
    {"ttft ms", [](const BenchReport& r) { return fmt::format("{:.0f}", r.ttft_ms); }},
    {"prefill tok/s", [](const BenchReport& r) { return fmt::format("{:.1f}", r.prefill_tokens_per_s); }},
    {"decode tok/s", [](const BenchReport& r) { return fmt::format("{:.1f}", r.decode_tokens_per_s); }},
    {"peak RSS MB",
     [](const BenchReport& r) { return fmt::format("{:.0f}", static_cast<double>(r.peak_rss_bytes) / kMB); }},
    {"MB/step",
     [](const BenchReport& r) {
       return fmt::format("{:.0f}", static_cast<double>(r.weight_bytes_per_step) / kMB);
     }},
    {"memory GB/s",
     [](const BenchReport& r) {
       return OrNone(r.memory_bandwidth_bytes_per_s,
                     fmt::format("{:.1f}", r.memory_bandwidth_bytes_per_s / kGB));
     }},
    {"share",
     [](const BenchReport& r) {
       return OrNone(r.bandwidth_share, fmt::format("{:.0f}%", 100 * r.bandwidth_share));
     }},
    {"disk GB/s",
     [](const BenchReport& r) {
       return OrNone(r.disk_bandwidth_bytes_per_s, fmt::format("{:.2f}", r.disk_bandwidth_bytes_per_s / kGB));
     }},
    {"disk share",
     [](const BenchReport& r) { return OrNone(r.disk_share, fmt::format("{:.0f}%", 100 * r.disk_share)); }},
}};

using Row = std::array<std::string, kColumns.size()>;

Row CellsOf(const BenchReport& report) {
  Row row;
  for (std::size_t i = 0; i < kColumns.size(); ++i) row[i] = kColumns[i].cell(report);
  return row;
}

Row Header() {
  Row row;
  for (std::size_t i = 0; i < kColumns.size(); ++i) row[i] = kColumns[i].name;
  return row;
}

std::string Join(const Row& row, std::string_view before, std::string_view between, std::string_view after) {
  std::string line(before);
  for (std::size_t i = 0; i < row.size(); ++i) {
    if (i > 0) line += between;
    line += row[i];
  }
  return line += after;
}

std::string CsvCell(const std::string& cell) {
  if (cell.find_first_of(",\"\n") == std::string::npos) return cell;
  std::string quoted = "\"";
  for (const char c : cell) quoted += c == '"' ? std::string("\"\"") : std::string(1, c);
  return quoted + "\"";
}

std::string Markdown(std::span<const BenchReport> reports) {
  std::string out = Join(Header(), "| ", " | ", " |\n");
  Row rule;
  rule.fill("---");
  out += Join(rule, "|", "|", "|\n");
  for (const BenchReport& report : reports) out += Join(CellsOf(report), "| ", " | ", " |\n");
  return out;
}

std::string Csv(std::span<const BenchReport> reports) {
  const auto line = [](Row row) {
    for (std::string& cell : row) cell = CsvCell(cell);
    return Join(row, "", ",", "\n");
  };
  std::string out = line(Header());
  for (const BenchReport& report : reports) out += line(CellsOf(report));
  return out;
}

// Two tables, one below the other, so that a line fits a terminal: the headline, then the details.
std::string Table(std::span<const BenchReport> reports) {
  constexpr std::size_t kHeadlineColumns = 11;
  std::vector<Row> rows = {Header()};
  for (const BenchReport& report : reports) rows.push_back(CellsOf(report));
  std::string out;
  for (const auto& [first, last] :
       {std::pair<std::size_t, std::size_t>{0, kHeadlineColumns}, {kHeadlineColumns, kColumns.size()}}) {
    if (first > 0) out += '\n';
    for (const Row& row : rows) {
      std::string line;
      for (std::size_t i = first; i < last; ++i) {
        std::size_t width = 0;
        for (const Row& other : rows) width = std::max(width, other[i].size());
        line += fmt::format("{:<{}}  ", row[i], width);
      }
      line.erase(line.find_last_not_of(' ') + 1);
      out += line + '\n';
    }
  }
  return out;
}

}  // namespace

double Percentile(std::vector<double> values, double share) {
  assert(!values.empty());
  std::sort(values.begin(), values.end());
  const double rank = share * static_cast<double>(values.size() - 1);
  const auto below = static_cast<std::size_t>(std::floor(rank));
  const std::size_t above = std::min(below + 1, values.size() - 1);
  return values[below] + (rank - std::floor(rank)) * (values[above] - values[below]);
}

Result<ReportFormat> ReportFormatFromName(std::string_view name) {
  if (name == "table") return ReportFormat::kTable;
  if (name == "markdown") return ReportFormat::kMarkdown;
  if (name == "csv") return ReportFormat::kCsv;
  if (name == "json") return ReportFormat::kJson;
  return Fail(ErrorCode::kInvalidArgument, "format \"{}\": expected table, markdown, csv or json", name);
}

json::object ToJson(const BenchReport& r) {
  return {{"model", r.model},
          {"library", r.library},
          {"precision", r.precision},
          {"batch", r.batch},
          {"parallel_degree", r.parallel_degree},
          {"instance", r.instance},
          {"load_s", r.load_s},
          {"p50_ms", r.p50_ms},
          {"p90_ms", r.p90_ms},
          {"p99_ms", r.p99_ms},
          {"tokens_per_s", r.tokens_per_s},
          {"ttft_ms", r.ttft_ms},
          {"prefill_tokens_per_s", r.prefill_tokens_per_s},
          {"decode_tokens_per_s", r.decode_tokens_per_s},
          {"peak_rss_bytes", r.peak_rss_bytes},
          {"weight_bytes_per_step", r.weight_bytes_per_step},
          {"memory_bandwidth_bytes_per_s", r.memory_bandwidth_bytes_per_s},
          {"bandwidth_share", r.bandwidth_share},
          {"disk_bytes_per_step", r.disk_bytes_per_step},
          {"disk_bandwidth_bytes_per_s", r.disk_bandwidth_bytes_per_s},
          {"disk_share", r.disk_share},
          {"threads", r.threads},
          {"prompt_tokens", r.prompt_tokens},
          {"new_tokens", r.new_tokens},
          {"iterations", r.iterations},
          {"isa", r.isa}};
}

std::string FormatReports(std::span<const BenchReport> reports, ReportFormat format) {
  switch (format) {
    case ReportFormat::kMarkdown:
      return Markdown(reports);
    case ReportFormat::kCsv:
      return Csv(reports);
    case ReportFormat::kJson: {
      if (reports.size() == 1) return json::serialize(ToJson(reports.front())) + "\n";
      json::array list;
      for (const BenchReport& report : reports) list.push_back(ToJson(report));
      return json::serialize(list) + "\n";
    }
    case ReportFormat::kTable:
      break;
  }
  return Table(reports);
}

}  // namespace bloomery
