// bloomery perplexity: how well a model predicts a text, and what a smaller dtype costs.
//
// The text is cut into windows of 511 tokens, each put behind the end-of-sequence token; the perplexity is
// exp of the mean negative log-likelihood of those 511. A rest shorter than a window is dropped.
#include <cmath>

#include "base/mapped_file.h"
#include "cli/commands.h"
#include "cli/remote_model.h"
#include "cli/session.h"

namespace bloomery {
namespace {

struct PerplexityFlags {
  ModelFlags model;
  std::string text;
  std::vector<std::string> dtypes = {"f32", "bf16", "f16", "int8", "int4"};
  int window = 512;
  bool json = false;
};

struct Score {
  double mean_nll = 0;
  std::int64_t tokens = 0;
  std::vector<std::int32_t> likeliest;  // the model's first choice at each position

  // Share of positions at which both choose the same.
  double AgreementWith(const Score& other) const {
    std::size_t same = 0;
    for (std::size_t i = 0; i < likeliest.size(); ++i) same += likeliest[i] == other.likeliest[i] ? 1 : 0;
    return static_cast<double>(same) / static_cast<double>(likeliest.size());
  }
};

// A .json file is a list of texts, windows never cross from one into the next; anything else is one text.
Result<std::vector<std::string>> ReadTexts(const std::filesystem::path& path) {
  ASSIGN_OR_RETURN(std::string content, ReadFileToString(path));
  if (path.extension() != ".json") return std::vector<std::string>{std::move(content)};
  ASSIGN_OR_RETURN(const json::value parsed, ParseJson(content, path.string()));
  std::vector<std::string> texts;
  if (!parsed.is_array())
    return Fail(ErrorCode::kInvalidArgument, "{}: expected a list of texts", path.string());
  for (const json::value& text : parsed.get_array()) {
    if (!text.is_string())
      return Fail(ErrorCode::kInvalidArgument, "{}: expected a list of texts", path.string());
    texts.emplace_back(text.get_string());
  }
  return texts;
}

std::vector<std::vector<std::int32_t>> Windows(const Tokenizer& tokenizer,
                                               const std::vector<std::string>& texts, int window,
                                               std::int32_t start) {
  std::vector<std::vector<std::int32_t>> windows;
  const auto step = static_cast<std::size_t>(window) - 1;
  for (const std::string& text : texts) {
    const std::vector<std::int32_t> ids = tokenizer.Encode(text, /*add_special_tokens=*/false);
    for (std::size_t at = 0; at + step <= ids.size(); at += step) {
      std::vector<std::int32_t>& next = windows.emplace_back(1, start);
      next.insert(next.end(), ids.begin() + static_cast<std::ptrdiff_t>(at),
                  ids.begin() + static_cast<std::ptrdiff_t>(at + step));
    }
  }
  return windows;
}

Result<Score> ScoreTexts(Engine& engine, const std::vector<std::string>& texts, int window) {
  const auto& eos = engine.transformer().spec().eos_token_ids;
  const auto windows = Windows(*engine.tokenizer(), texts, window, eos.empty() ? 0 : eos.front());
  if (windows.empty())
    return Fail(ErrorCode::kInvalidArgument, "the text is shorter than one window of {} tokens", window);
  Score score;
  for (std::size_t i = 0; i < windows.size(); ++i) {
    GenerationRequest request;
    request.id = i + 1;
    request.prompt = windows[i];
    request.sampling.max_new_tokens = 0;
    request.sampling.prompt_logprobs = true;
    request.sampling.logprobs = 1;
    ASSIGN_OR_RETURN(const Completed completed, RunRequest(engine, std::move(request)));
    for (std::size_t t = 1; t < completed.prompt.logprobs.size(); ++t) {
      score.mean_nll -= static_cast<double>(completed.prompt.logprobs[t].logprob);
      score.likeliest.push_back(completed.prompt.top_logprobs[t].front().id);
    }
    score.tokens += window - 1;
  }
  score.mean_nll /= static_cast<double>(score.tokens);
  return score;
}

Status Perplexity(PerplexityFlags flags) {
  if (flags.text.empty()) {
    if (!flags.model.model.empty())
      return Fail(ErrorCode::kInvalidArgument, "--text FILE is needed for a model other than the demo model");
    ASSIGN_OR_RETURN(const auto demo, DemoModel());
    flags.text = demo.parent_path() / "heldout.json";
  }
  ASSIGN_OR_RETURN(const std::vector<std::string> texts, ReadTexts(flags.text));
  const InterruptGuard guard;
  json::array rows;
  std::optional<Score> baseline;
  for (const std::string& dtype : flags.dtypes) {
    flags.model.dtype = dtype;
    ASSIGN_OR_RETURN(const Session session, OpenSession(flags.model));
    ASSIGN_OR_RETURN(const Score score, ScoreTexts(*session.engine, texts, flags.window));
    if (!baseline) baseline = score;
    const double perplexity = std::exp(score.mean_nll);
    const double loss = std::exp(score.mean_nll - baseline->mean_nll) - 1;
    const double agreement = score.AgreementWith(*baseline);
    if (!flags.json) {
      fmt::print(
          "{:<5} perplexity {:.4f}  ({:+.3f}% against {}; same first choice at {:.2f}% of {} tokens)\n",
          dtype, perplexity, 100 * loss, flags.dtypes.front(), 100 * agreement, score.tokens);
    }
    rows.push_back({{"dtype", dtype},
                    {"perplexity", perplexity},
                    {"mean_nll", score.mean_nll},
                    {"tokens", score.tokens},
                    {"loss", loss},
                    {"agreement", agreement}});
  }
  if (flags.json) fmt::print("{}\n", json::serialize(rows));
  return {};
}

}  // namespace

void AddPerplexity(CLI::App& app) {
  auto flags = std::make_shared<PerplexityFlags>();
  CLI::App* command = app.add_subcommand(
      "perplexity", "Measure how well a model predicts a text, in one dtype after the other");
  AddModelArgument(*command, flags->model);
  command->add_option("--text", flags->text,
                      "A text file, or a .json list of texts; default: the demo model's held-out text");
  command->add_option("--dtype", flags->dtypes, "Dtypes to compare, the first is the baseline")
      ->delimiter(',')
      ->capture_default_str();
  command->add_option("--window", flags->window, "Tokens of a window, its start token included")
      ->check(CLI::Range(2, 65536))
      ->capture_default_str();
  command
      ->add_option("--threads", flags->model.threads, "Compute threads; 0: every core this process may use")
      ->check(CLI::Range(0, 1024));
  command->add_flag("--json", flags->json, "Print a JSON list");
  command->callback([flags] {
    ExitOnError(FetchModel(flags->model));
    ExitOnError(Perplexity(*flags));
  });
}

}  // namespace bloomery
