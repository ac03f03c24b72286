#include "tokenizer/pre_tokenizer.h"

#include <array>

namespace bloomery {
namespace {

// GPT-2's pattern (openai/gpt-2, encoder.py).
constexpr std::string_view kGpt2Pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

struct Range {
  std::size_t begin = 0;
  std::size_t end = 0;
  bool match = false;
};

// The whole text as alternating matches and gaps.
std::vector<Range> Ranges(const Regex& regex, std::string_view text, bool invert) {
  std::vector<Range> ranges;
  std::size_t at = 0;
  regex.ForEachMatch(text, [&](std::size_t begin, std::size_t end) {
    if (begin > at) ranges.push_back({at, begin, invert});
    ranges.push_back({begin, end, !invert});
    at = end;
  });
  if (at < text.size()) ranges.push_back({at, text.size(), invert});
  return ranges;
}

// Joins neighbours as `behavior` asks.
std::vector<Range> Arrange(const std::vector<Range>& ranges, SplitBehavior behavior) {
  std::vector<Range> out;
  for (std::size_t i = 0; i < ranges.size(); ++i) {
    const Range& range = ranges[i];
    if (behavior == SplitBehavior::kRemoved && range.match) continue;
    const bool after_gap = i > 0 && !ranges[i - 1].match;
    const bool after_match = i > 0 && ranges[i - 1].match;
    const bool joins =
        (behavior == SplitBehavior::kMergedWithPrevious && range.match && after_gap) ||
        (behavior == SplitBehavior::kMergedWithNext && !range.match && after_match) ||
        (behavior == SplitBehavior::kContiguous && i > 0 && ranges[i - 1].match == range.match);
    if (joins && !out.empty()) {
      out.back().end = range.end;
    } else {
      out.push_back(range);
    }
  }
  return out;
}

Result<SplitBehavior> BehaviorOf(const json::object& description) {
  static constexpr std::array<std::pair<std::string_view, SplitBehavior>, 5> kNames = {
      {{"Removed", SplitBehavior::kRemoved},
       {"Isolated", SplitBehavior::kIsolated},
       {"MergedWithPrevious", SplitBehavior::kMergedWithPrevious},
       {"MergedWithNext", SplitBehavior::kMergedWithNext},
       {"Contiguous", SplitBehavior::kContiguous}}};
  ASSIGN_OR_RETURN(const auto name, GetString(description, "behavior"));
  for (const auto& [known, behavior] : kNames) {
    if (name == known) return behavior;
  }
  return Fail(ErrorCode::kUnsupported, "split behavior \"{}\"", name.value_or(""));
}

}  // namespace

Result<PreTokenizer> PreTokenizer::FromJson(const json::value& description) {
  PreTokenizer pre_tokenizer;
  if (description.is_null()) return pre_tokenizer;
  if (!description.is_object()) return Fail(ErrorCode::kInvalidArgument, "pre_tokenizer must be an object");
  RETURN_IF_ERROR(pre_tokenizer.Add(description.get_object()));
  return pre_tokenizer;
}

Result<PreTokenizer> PreTokenizer::Gpt2() {
  PreTokenizer pre_tokenizer;
  ASSIGN_OR_RETURN(Regex regex, Regex::Compile(kGpt2Pattern));
  pre_tokenizer.steps_.emplace_back(SplitStep{std::move(regex), SplitBehavior::kIsolated, false});
  return pre_tokenizer;
}

Status PreTokenizer::Add(const json::object& description) {
  ASSIGN_OR_RETURN(const auto type, GetString(description, "type"));
  if (type == "Split") return AddSplit(description);
  if (type == "ByteLevel") return AddByteLevel(description);
  if (type == "Sequence") {
    const json::value* steps = description.if_contains("pretokenizers");
    if (steps == nullptr || !steps->is_array())
      return Fail(ErrorCode::kInvalidArgument, "pre_tokenizer Sequence without pretokenizers");
    for (const json::value& step : steps->get_array()) {
      // One level is all that exists in practice, and it bounds the recursion.
      if (!step.is_object() || step.get_object().contains("pretokenizers")) {
        return Fail(ErrorCode::kUnsupported, "pre_tokenizer Sequence inside a Sequence");
      }
      RETURN_IF_ERROR(Add(step.get_object()));
    }
    return {};
  }
  return Fail(ErrorCode::kUnsupported, "pre_tokenizer \"{}\"; supported are Split, ByteLevel and Sequence",
              type.value_or(""));
}

Status PreTokenizer::AddSplit(const json::object& description) {
  const json::value* pattern = description.if_contains("pattern");
  if (pattern == nullptr || !pattern->is_object())
    return Fail(ErrorCode::kInvalidArgument, "Split without a pattern");
  ASSIGN_OR_RETURN(const auto regex_text, GetString(pattern->get_object(), "Regex"));
  ASSIGN_OR_RETURN(const auto literal, GetString(pattern->get_object(), "String"));
  if (!regex_text && !literal)
    return Fail(ErrorCode::kUnsupported, "Split pattern that is neither Regex nor String");
  ASSIGN_OR_RETURN(Regex regex, regex_text ? Regex::Compile(*regex_text) : Regex::Literal(*literal));
  ASSIGN_OR_RETURN(const SplitBehavior behavior, BehaviorOf(description));
  ASSIGN_OR_RETURN(const auto invert, GetBool(description, "invert"));
  steps_.emplace_back(SplitStep{std::move(regex), behavior, invert.value_or(false)});
  return {};
}

Status PreTokenizer::AddByteLevel(const json::object& description) {
  ASSIGN_OR_RETURN(const auto prefix_space, GetBool(description, "add_prefix_space"));
  ASSIGN_OR_RETURN(const auto use_regex, GetBool(description, "use_regex"));
  if (prefix_space.value_or(true)) steps_.emplace_back(PrefixSpaceStep{});
  if (use_regex.value_or(true)) {
    ASSIGN_OR_RETURN(Regex regex, Regex::Compile(kGpt2Pattern));
    steps_.emplace_back(SplitStep{std::move(regex), SplitBehavior::kIsolated, false});
  }
  return {};
}

std::vector<std::string> PreTokenizer::Split(std::string_view text) const {
  std::vector<std::string> pieces;
  if (!text.empty()) pieces.emplace_back(text);
  for (const Step& step : steps_) {
    std::vector<std::string> next;
    for (std::string& piece : pieces) {
      if (const auto* split = std::get_if<SplitStep>(&step)) {
        for (const Range& range : Arrange(Ranges(split->regex, piece, split->invert), split->behavior)) {
          next.push_back(piece.substr(range.begin, range.end - range.begin));
        }
      } else {
        next.push_back(piece.starts_with(' ') ? std::move(piece) : " " + piece);
      }
    }
    pieces = std::move(next);
  }
  return pieces;
}

}  // namespace bloomery
