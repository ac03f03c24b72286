// bloomery tokenize: text to token ids and back, as the model sees it.
#include <iostream>
#include <iterator>

#include "base/json.h"
#include "base/utf8.h"
#include "cli/commands.h"
#include "cli/options.h"
#include "cli/remote_model.h"
#include "tokenizer/tokenizer.h"

namespace bloomery {
namespace {

struct TokenizeFlags {
  ModelFlags model;
  std::string text = "-";
  std::vector<std::int32_t> decode;
  bool no_special_tokens = false;
  bool json = false;
};

Status Tokenize(const TokenizeFlags& flags) {
  std::filesystem::path directory = flags.model.model;
  if (directory.empty()) {
    ASSIGN_OR_RETURN(directory, DemoModel());
  }
  ASSIGN_OR_RETURN(const auto tokenizer, Tokenizer::Load(directory));
  if (!flags.decode.empty()) {
    fmt::print("{}\n", tokenizer->Decode(flags.decode));
    return {};
  }
  const std::string text =
      flags.text == "-" ? std::string(std::istreambuf_iterator<char>(std::cin), {}) : flags.text;
  const std::vector<std::int32_t> ids = tokenizer->Encode(text, !flags.no_special_tokens);
  if (flags.json) {
    json::array tokens;
    for (const std::int32_t id : ids) tokens.emplace_back(ReplaceInvalidUtf8(tokenizer->TokenBytes(id)));
    fmt::print("{}\n", json::serialize(json::object{{"ids", json::array(ids.begin(), ids.end())},
                                                    {"tokens", std::move(tokens)}}));
    return {};
  }
  for (const std::int32_t id : ids)
    fmt::print("{:>7}  {}\n", id,
               json::serialize(json::value(ReplaceInvalidUtf8(tokenizer->TokenBytes(id)))));
  fmt::print(stderr, "[{} tokens]\n", ids.size());
  return {};
}

}  // namespace

void AddTokenize(CLI::App& app) {
  auto flags = std::make_shared<TokenizeFlags>();
  CLI::App* command = app.add_subcommand("tokenize", "Show the tokens of a text, or the text of token ids");
  AddModelArgument(*command, flags->model);
  command->add_option("--text", flags->text, "The text; - reads standard input")->capture_default_str();
  command->add_option("--decode", flags->decode, "Token ids to turn into text")->expected(1, -1);
  command->add_flag("--no-special-tokens", flags->no_special_tokens,
                    "Leave out the tokens the model expects around a text (bos)");
  command->add_flag("--json", flags->json, "Print one JSON object");
  command->callback([flags] {
    ExitOnError(FetchModel(flags->model));
    ExitOnError(Tokenize(*flags));
  });
}

}  // namespace bloomery
