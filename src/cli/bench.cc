// bloomery bench: latency and throughput of one model on this machine, beside the limit that its memory sets.
#include <sys/utsname.h>

#include <chrono>
#include <fstream>
#include <random>

#include "base/system.h"
#include "cli/commands.h"
#include "cli/ranks.h"
#include "cli/remote_model.h"
#include "cli/session.h"
#include "loadgen/report.h"
#include "model/layer_stream.h"

namespace bloomery {
namespace {

using Clock = std::chrono::steady_clock;

// Before and after every iteration: several passes over the weights of a small model, one of a large.
constexpr int kBandwidthBudgetMs = 200;

// Decoding is never taken as shorter than the clock can tell: a text of one token has no decoding at all.
constexpr double kClockMs = 1e-3;

struct BenchFlags {
  ModelFlags model;
  int batch_size = 4;
  int prompt_tokens = 32;
  int max_new_tokens = 256;
  int iterations = 10;
  int warmup = 1;
  std::string format = "table";
  std::string instance;
};

struct Iteration {
  double total_ms = 0;
  double ttft_ms = 0;
  double bandwidth = 0;  // of reading the weights, bytes/s: the mean of just before and just after
};

double MillisecondsSince(Clock::time_point start) {
  return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
}

// "AMD EPYC 9R14, 2 threads"
std::string InstanceName(int threads) {
  std::ifstream file("/proc/cpuinfo");
  std::string name = "unknown CPU";
  for (std::string line; std::getline(file, line);) {
    if (line.rfind("model name", 0) != 0) continue;
    name = line.substr(line.find(':') + 2);
    break;
  }
  return fmt::format("{}, {} threads", name, threads);
}

std::vector<std::int32_t> RandomPrompt(int tokens, std::int64_t vocab, std::uint32_t seed) {
  std::mt19937 generator(seed);
  // The first ids are special tokens in every family.
  std::uniform_int_distribution<std::int32_t> id(
      std::min<std::int32_t>(4, static_cast<std::int32_t>(vocab) - 1), static_cast<std::int32_t>(vocab) - 1);
  std::vector<std::int32_t> prompt(static_cast<std::size_t>(tokens));
  for (std::int32_t& token : prompt) token = id(generator);
  return prompt;
}

// One batch: every request submitted together, timed to the last token of the last.
Result<Iteration> RunBatch(Engine& engine, const BenchFlags& flags) {
  const auto queue = std::make_shared<EventQueue>();
  const auto start = Clock::now();
  for (int i = 0; i < flags.batch_size; ++i) {
    GenerationRequest request;
    request.id = static_cast<std::uint64_t>(i) + 1;
    request.prompt =
        RandomPrompt(flags.prompt_tokens, engine.info().vocab_size, static_cast<std::uint32_t>(i));
    request.sampling.max_new_tokens = flags.max_new_tokens;
    request.sampling.ignore_eos = true;
    engine.Submit(std::move(request), queue);
  }
  Iteration iteration;
  std::vector<bool> started(static_cast<std::size_t>(flags.batch_size) + 1, false);
  for (int done = 0; done < flags.batch_size;) {
    if (InterruptGuard::interrupted()) return Fail(ErrorCode::kCancelled, "interrupted");
    auto item = queue->Next(std::chrono::milliseconds(20));
    if (!item) continue;
    if (std::holds_alternative<TokenEvent>(item->second) && !started[item->first]) {
      started[item->first] = true;
      iteration.ttft_ms = MillisecondsSince(start);
    }
    if (auto* failed = std::get_if<FailedEvent>(&item->second))
      return std::unexpected(std::move(failed->error));
    done += std::holds_alternative<DoneEvent>(item->second) ? 1 : 0;
  }
  iteration.total_ms = MillisecondsSince(start);
  return iteration;
}

// Bandwidth is measured where one rank reads everything: of several, rank 0's share would say too little.
Result<std::vector<Iteration>> RunIterations(const Session& session, const BenchFlags& flags) {
  const std::vector<const LinearWeights*> weights = session.engine->transformer().weights().StepLinears();
  // The engine is idle between batches: the device is free.
  const auto bandwidth = [&] {
    return flags.model.grid().size() > 1 ? 0
                                         : session.device->MeasureReadBandwidth(weights, kBandwidthBudgetMs);
  };
  std::vector<Iteration> iterations;
  double before = 0;
  for (int i = -flags.warmup; i < flags.iterations; ++i) {
    if (i == 0) before = bandwidth();
    ASSIGN_OR_RETURN(Iteration iteration, RunBatch(*session.engine, flags));
    fmt::print(stderr, "{} {}: {:.0f} ms, first tokens after {:.0f} ms\n", i < 0 ? "warm-up" : "iteration",
               i < 0 ? i + flags.warmup + 1 : i + 1, iteration.total_ms, iteration.ttft_ms);
    if (i < 0) continue;
    const double after = bandwidth();
    iteration.bandwidth = (before + after) / 2;
    before = after;
    iterations.push_back(iteration);
  }
  return iterations;
}

BenchReport Summarise(const BenchFlags& flags, const std::vector<Iteration>& iterations,
                      const Session& session) {
  std::vector<double> totals;
  std::vector<double> ttfts;
  std::vector<double> steps_per_s;
  std::vector<double> bandwidths;
  std::vector<double> shares;
  const std::uint64_t step_bytes = session.engine->transformer().weights().BytesPerStep();
  for (const Iteration& iteration : iterations) {
    totals.push_back(iteration.total_ms);
    ttfts.push_back(iteration.ttft_ms);
    steps_per_s.push_back(1000.0 * (flags.max_new_tokens - 1) /
                          std::max(iteration.total_ms - iteration.ttft_ms, kClockMs));
    bandwidths.push_back(iteration.bandwidth);
    shares.push_back(iteration.bandwidth > 0
                         ? steps_per_s.back() * static_cast<double>(step_bytes) / iteration.bandwidth
                         : 0);
  }
  const ModelInfo& info = session.engine->info();
  BenchReport report;
  report.model = info.name;
  report.library = "bloomery " BLOOMERY_VERSION;
  report.precision = info.dtype;
  report.batch = flags.batch_size;
  report.parallel_degree = flags.model.grid().size();
  report.instance = flags.instance.empty() ? InstanceName(session.device->threads()) : flags.instance;
  report.load_s = session.load_s;
  report.p50_ms = Percentile(totals, 0.5);
  report.p90_ms = Percentile(totals, 0.9);
  report.p99_ms = Percentile(totals, 0.99);
  report.tokens_per_s = 1000.0 * flags.batch_size * flags.max_new_tokens / report.p50_ms;
  report.ttft_ms = Percentile(ttfts, 0.5);
  report.prefill_tokens_per_s = 1000.0 * flags.batch_size * flags.prompt_tokens / report.ttft_ms;
  report.decode_tokens_per_s = Percentile(steps_per_s, 0.5) * flags.batch_size;
  report.peak_rss_bytes = PeakRssBytes();
  report.weight_bytes_per_step = step_bytes;
  report.memory_bandwidth_bytes_per_s = Percentile(bandwidths, 0.5);
  report.bandwidth_share = Percentile(shares, 0.5);
  report.threads = session.device->threads();
  report.prompt_tokens = flags.prompt_tokens;
  report.new_tokens = flags.max_new_tokens;
  report.iterations = flags.iterations;
  report.isa = session.device->Describe();
  return report;
}

// Layers from disk: what the disk gives, just after.
Status MeasureDisk(const Session& session, const BenchFlags& flags, BenchReport& report) {
  LayerStream* stream = session.engine->transformer().weights().stream.get();
  if (stream == nullptr || flags.model.grid().size() > 1) return {};
  report.disk_bytes_per_step = stream->bytes_per_pass();
  ASSIGN_OR_RETURN(report.disk_bandwidth_bytes_per_s, stream->MeasureBandwidth());
  report.disk_share = report.decode_tokens_per_s / flags.batch_size *
                      static_cast<double>(report.disk_bytes_per_step) / report.disk_bandwidth_bytes_per_s;
  // Memory is not what such a step waits for.
  report.memory_bandwidth_bytes_per_s = 0;
  report.bandwidth_share = 0;
  return {};
}

Status Bench(BenchFlags flags) {
  RETURN_IF_ERROR(StartRanks(flags.model));
  ASSIGN_OR_RETURN(const ReportFormat format, ReportFormatFromName(flags.format));
  flags.model.max_batch_size = std::max(flags.model.max_batch_size, flags.batch_size);
  flags.model.no_prefix_cache = true;  // every iteration does the whole job
  const InterruptGuard guard;
  ASSIGN_OR_RETURN(const Session session, OpenSession(flags.model));
  ASSIGN_OR_RETURN(const std::vector<Iteration> iterations, RunIterations(session, flags));
  BenchReport report = Summarise(flags, iterations, session);
  RETURN_IF_ERROR(MeasureDisk(session, flags, report));
  fmt::print("{}", FormatReports({&report, 1}, format));
  return {};
}

}  // namespace

void AddBench(CLI::App& app) {
  auto flags = std::make_shared<BenchFlags>();
  CLI::App* command =
      app.add_subcommand("bench", "Measure latency, tokens/s and the share of memory bandwidth reached");
  flags->model.speculative_tokens =
      0;  // one step a token, unless asked for otherwise: random weights repeat themselves
  AddModelFlags(*command, flags->model, /*with_shapes=*/true);
  AddRankFlags(*command, flags->model);
  command->add_option("--batch-size", flags->batch_size, "Sequences generated together")
      ->check(CLI::Range(1, 4096))
      ->capture_default_str();
  command->add_option("--prompt-tokens", flags->prompt_tokens, "Length of each prompt (random tokens)")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command->add_option("--max-new-tokens", flags->max_new_tokens, "Tokens generated by each")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command->add_option("--iterations", flags->iterations, "Measured batches")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command->add_option("--warmup", flags->warmup, "Batches before that, not measured")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  command->add_option("--format", flags->format, "table, markdown, csv or json")
      ->check(CLI::IsMember({"table", "markdown", "csv", "json"}))
      ->capture_default_str();
  command->add_option("--instance", flags->instance, "What to call this machine; default: its processor");
  command->callback([flags] {
    ExitOnError(FetchModel(flags->model));
    ExitOnError(Bench(*flags));
  });
}

}  // namespace bloomery
