// bloomery generate: text from a prompt, streamed to the terminal.
#include <unistd.h>

#include <cstdio>
#include <iostream>
#include <iterator>

#include "base/mapped_file.h"
#include "base/utf8.h"
#include "cli/commands.h"
#include "cli/ranks.h"
#include "cli/remote_model.h"
#include "cli/session.h"

namespace bloomery {
namespace {

struct GenerateFlags {
  ModelFlags model;
  std::string prompt;
  std::string prompt_file;
  bool echo = false;
  bool json = false;
  bool do_sample = false;
  int max_new_tokens = 128;
  int max_length = 0;
  std::int64_t seed = -1;
  std::string early_stopping = "false";
  SamplingParams sampling;
};

void AddSamplingFlags(CLI::App& command, GenerateFlags& flags) {
  SamplingParams& s = flags.sampling;
  command.add_option("--max-new-tokens", flags.max_new_tokens, "Tokens to generate at most")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command
      .add_option("--max-length", flags.max_length,
                  "Prompt and answer together at most; used where --max-new-tokens is not given")
      ->check(CLI::PositiveNumber);
  command.add_option("--min-new-tokens", s.min_new_tokens, "Tokens to generate at least")
      ->check(CLI::NonNegativeNumber);
  command.add_option("--min-length", s.min_length, "Prompt and answer together at least")
      ->check(CLI::NonNegativeNumber);
  command.add_flag(
      "--do-sample", flags.do_sample,
      "Draw tokens at random; implied by --temperature, --top-k, --top-p, --typical-p and --seed");
  command.add_option("--temperature", s.temperature, "Below 1: safer; above 1: wilder; 0: greedy")
      ->check(CLI::NonNegativeNumber);
  command.add_option("--top-k", s.top_k, "Draw from the k most likely tokens; 0: all")
      ->check(CLI::NonNegativeNumber);
  command.add_option("--top-p", s.top_p, "Draw from the most likely tokens that add up to this probability")
      ->check(CLI::Range(0.0, 1.0));
  command.add_option("--typical-p", s.typical_p, "Locally typical sampling: the probability mass kept")
      ->check(CLI::Range(0.0, 1.0));
  command.add_option("--seed", flags.seed, "The same seed gives the same text")
      ->check(CLI::NonNegativeNumber);
  command
      .add_option("--repetition-penalty", s.repetition_penalty,
                  "Above 1: tokens already there become less likely")
      ->check(CLI::PositiveNumber);
  command.add_option("--frequency-penalty", s.frequency_penalty,
                     "Taken from a token's logit for each time it was generated");
  command.add_option("--presence-penalty", s.presence_penalty,
                     "Taken from a token's logit once it was generated");
  command
      .add_option("--no-repeat-ngram-size", s.no_repeat_ngram_size, "No n-gram of this length twice; 0: off")
      ->check(CLI::NonNegativeNumber);
  command.add_option("--num-beams", s.num_beams, "Beam search with so many beams; 1: off")
      ->check(CLI::Range(1, 32));
  command.add_option("--length-penalty", s.length_penalty, "Beam scores are divided by length to this power");
  command.add_option("--early-stopping", flags.early_stopping, "Beam search: true, false or never")
      ->check(CLI::IsMember({"true", "false", "never"}));
  command.add_option("--num-return-sequences", s.num_return_sequences, "Texts to return")
      ->check(CLI::Range(1, 128));
  command.add_option("--stop", s.stop, "Text that ends the answer; may be given several times")
      ->allow_extra_args(false);
  command.add_option("--logprobs", s.logprobs, "With --json: also the k most likely tokens at each place")
      ->check(CLI::Range(0, 20));
  command.add_flag("--ignore-eos", s.ignore_eos, "Go on past the end-of-sequence token");
}

SamplingParams ToSampling(const CLI::App& command, const GenerateFlags& flags) {
  SamplingParams sampling = flags.sampling;
  const auto given = [&command](const char* name) { return command.count(name) > 0; };
  const bool implied = given("--temperature") || given("--top-k") || given("--top-p") ||
                       given("--typical-p") || given("--seed");
  sampling.do_sample = (flags.do_sample || implied) && sampling.num_beams == 1 && sampling.temperature > 0;
  if (!sampling.do_sample) sampling.temperature = 1;
  if (flags.seed >= 0) sampling.seed = static_cast<std::uint64_t>(flags.seed);
  if (flags.max_length > 0) sampling.max_length = flags.max_length;
  if (flags.max_length == 0 || given("--max-new-tokens")) sampling.max_new_tokens = flags.max_new_tokens;
  if (flags.early_stopping == "true") sampling.early_stopping = EarlyStopping::kWhenEnoughBeams;
  if (flags.early_stopping == "never") sampling.early_stopping = EarlyStopping::kNever;
  return sampling;
}

Result<std::string> ReadPrompt(const GenerateFlags& flags) {
  if (!flags.prompt.empty() && flags.prompt != "-") return flags.prompt;
  if (!flags.prompt_file.empty() && flags.prompt_file != "-") return ReadFileToString(flags.prompt_file);
  const bool from_stdin = flags.prompt == "-" || flags.prompt_file == "-" || ::isatty(STDIN_FILENO) == 0;
  if (!from_stdin)
    return Fail(ErrorCode::kInvalidArgument,
                "no prompt: use --prompt TEXT, --prompt-file FILE, or - for standard input");
  return std::string(std::istreambuf_iterator<char>(std::cin), {});
}

std::string_view FinishName(FinishReason reason) {
  switch (reason) {
    case FinishReason::kLength:
      return "length";
    case FinishReason::kEosToken:
      return "eos_token";
    case FinishReason::kStopSequence:
      break;
  }
  return "stop_sequence";
}

double TokensPerSecond(const DoneEvent& done) {
  return done.total_ms > done.queue_ms
             ? 1000.0 * static_cast<double>(done.generated_tokens) / (done.total_ms - done.queue_ms)
             : 0;
}

json::array LogprobsJson(const std::vector<TokenLogprob>& tokens) {
  json::array list;
  for (const TokenLogprob& token : tokens) {
    list.push_back({{"id", token.id}, {"text", ReplaceInvalidUtf8(token.text)}, {"logprob", token.logprob}});
  }
  return list;
}

json::object ToJson(const std::string& prompt, const Completed& completed, const Session& session) {
  json::array sequences;
  for (const SequenceEvent& sequence : completed.sequences) {
    json::object object{{"text", ReplaceInvalidUtf8(sequence.text)},
                        {"token_ids", json::array(sequence.token_ids.begin(), sequence.token_ids.end())},
                        {"finish_reason", FinishName(sequence.reason)},
                        {"score", sequence.score}};
    if (!sequence.logprobs.empty()) object["logprobs"] = LogprobsJson(sequence.logprobs);
    if (!sequence.top_logprobs.empty()) {
      json::array tops;
      for (const auto& top : sequence.top_logprobs) tops.push_back(LogprobsJson(top));
      object["top_logprobs"] = std::move(tops);
    }
    sequences.push_back(std::move(object));
  }
  const DoneEvent& done = completed.done;
  return {
      {"model", session.engine->info().name},
      {"dtype", session.engine->info().dtype},
      {"prompt", ReplaceInvalidUtf8(prompt)},
      {"prompt_token_ids", json::array(completed.prompt.token_ids.begin(), completed.prompt.token_ids.end())},
      {"sequences", std::move(sequences)},
      {"seed", completed.prompt.seed},
      {"prompt_tokens", done.prompt_tokens},
      {"generated_tokens", done.generated_tokens},
      {"load_s", session.load_s},
      {"ttft_ms", done.first_token_ms},
      {"total_ms", done.total_ms},
      {"tokens_per_s", TokensPerSecond(done)}};
}

void PrintTexts(const Completed& completed, bool streamed) {
  if (streamed) {
    fmt::print("{}\n", completed.sequences.front().text_tail);
    return;
  }
  for (const SequenceEvent& sequence : completed.sequences) {
    if (completed.sequences.size() > 1)
      fmt::print("--- {} (score {:.4f})\n", sequence.sequence + 1, sequence.score);
    fmt::print("{}\n", sequence.text);
  }
}

Status Generate(const CLI::App& command, const GenerateFlags& flags) {
  RETURN_IF_ERROR(StartRanks(flags.model));
  ASSIGN_OR_RETURN(const std::string prompt, ReadPrompt(flags));
  ASSIGN_OR_RETURN(const Session session, OpenSession(flags.model));
  GenerationRequest request;
  request.id = 1;
  request.prompt = prompt;
  request.sampling = ToSampling(command, flags);
  // Several texts at once cannot share a terminal, and beams are only certain at the end.
  const bool stream =
      !flags.json && request.sampling.num_return_sequences == 1 && request.sampling.num_beams == 1;
  if (flags.echo && !flags.json) fmt::print("{}", prompt);
  const InterruptGuard guard;
  auto completed = RunRequest(*session.engine, std::move(request), [stream](const TokenEvent& token) {
    if (!stream) return;
    std::fwrite(token.text.data(), 1, token.text.size(), stdout);
    std::fflush(stdout);
  });
  if (InterruptGuard::interrupted()) {
    fmt::print("\n");
    throw CLI::RuntimeError(kInterruptedStatus);
  }
  if (!completed) return std::unexpected(std::move(completed).error());
  if (flags.json) {
    fmt::print("{}\n", json::serialize(ToJson(prompt, *completed, session)));
    return {};
  }
  PrintTexts(*completed, stream);
  const DoneEvent& done = completed->done;
  fmt::print(
      stderr,
      "[{} prompt tokens, {} new tokens, {:.1f} tokens/s, first after {:.0f} ms, loaded in {:.2f} s, {}]\n",
      done.prompt_tokens, done.generated_tokens, TokensPerSecond(done), done.first_token_ms, session.load_s,
      session.device->Describe());
  return {};
}

}  // namespace

void AddGenerate(CLI::App& app) {
  auto flags = std::make_shared<GenerateFlags>();
  CLI::App* command = app.add_subcommand("generate", "Continue a prompt, streaming to the terminal");
  AddModelFlags(*command, flags->model, /*with_shapes=*/false);
  AddRankFlags(*command, flags->model);
  command->add_option("--prompt", flags->prompt, "The text to continue; - reads standard input");
  command->add_option("--prompt-file", flags->prompt_file,
                      "A file with the text to continue; - reads standard input");
  command->add_flag("--echo", flags->echo, "Print the prompt before its continuation");
  command->add_flag("--json", flags->json,
                    "Print one JSON object with texts, token ids and timings instead of streaming");
  AddSamplingFlags(*command, *flags);
  command->callback([command, flags] {
    ExitOnError(FetchModel(flags->model));
    ExitOnError(Generate(*command, *flags));
  });
}

}  // namespace bloomery
