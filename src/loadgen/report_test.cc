#include "loadgen/report.h"

#include <gtest/gtest.h>

namespace bloomery {
namespace {

BenchReport Sample() {
  BenchReport report;
  report.model = "opt, \"tiny\"";
  report.library = "bloomery";
  report.precision = "int8";
  report.batch = 4;
  report.p50_ms = 1000;
  report.tokens_per_s = 1024;
  report.bandwidth_share = 0.5;
  return report;
}

// Values from numpy.percentile with its default method.
TEST(Percentile, InterpolatesLinearly) {
  EXPECT_DOUBLE_EQ(Percentile({4, 1, 3, 2}, 0.5), 2.5);
  EXPECT_DOUBLE_EQ(Percentile({10, 20, 30, 40, 50, 60, 70, 80, 90, 100}, 0.9), 91);
  EXPECT_DOUBLE_EQ(Percentile({7}, 0.99), 7);
}

TEST(Report, MarkdownOpensWithTheHeadlineColumnsInTheirOrder) {
  const BenchReport report = Sample();
  const std::string text = FormatReports({&report, 1}, ReportFormat::kMarkdown);
  EXPECT_TRUE(
      text.starts_with("| model | library | precision | batch | parallel degree | instance | load s | P50 ms "
                       "| P90 ms | P99 ms | tokens/s |"))
      << text;
}

TEST(Report, CsvQuotesWhatNeedsIt) {
  const BenchReport report = Sample();
  const std::string text = FormatReports({&report, 1}, ReportFormat::kCsv);
  EXPECT_NE(text.find("\"opt, \"\"tiny\"\"\",bloomery,int8,4,"), std::string::npos) << text;
}

TEST(Report, JsonHasThePromisedKeys) {
  const BenchReport report = Sample();
  const json::value parsed = ParseJson(FormatReports({&report, 1}, ReportFormat::kJson), "report").value();
  for (const char* key : {"load_s", "p50_ms", "p90_ms", "p99_ms", "tokens_per_s", "ttft_ms",
                          "prefill_tokens_per_s", "decode_tokens_per_s", "peak_rss_bytes",
                          "weight_bytes_per_step", "memory_bandwidth_bytes_per_s", "bandwidth_share"}) {
    EXPECT_TRUE(parsed.as_object().contains(key)) << key;
  }
}

TEST(Report, TableAlignsAndHasNoTrailingSpaces) {
  const BenchReport report = Sample();
  const std::string text = FormatReports({&report, 1}, ReportFormat::kTable);
  EXPECT_EQ(text.find(" \n"), std::string::npos);
  EXPECT_FALSE(ReportFormatFromName("xml"));
}

}  // namespace
}  // namespace bloomery
