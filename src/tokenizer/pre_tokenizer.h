// Pre-tokenisation: cutting a text into the pieces within which BPE merges. Split, ByteLevel and sequences of
// them, as tokenizer.json describes them.
#pragma once

#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "base/json.h"
#include "base/result.h"
#include "tokenizer/regex.h"

namespace bloomery {

enum class SplitBehavior : std::uint8_t {
  kRemoved,
  kIsolated,
  kMergedWithPrevious,
  kMergedWithNext,
  kContiguous
};

// Immutable and thread safe.
class PreTokenizer {
 public:
  // From tokenizer.json's "pre_tokenizer" (null: no cutting). kUnsupported names the type.
  static Result<PreTokenizer> FromJson(const json::value& description);
  // GPT-2's: its regex, no prefix space.
  static Result<PreTokenizer> Gpt2();

  // Pieces of `text` (valid UTF-8), in order, as bytes. A prefix space may have been added to one.
  std::vector<std::string> Split(std::string_view text) const;

 private:
  struct SplitStep {
    Regex regex;
    SplitBehavior behavior = SplitBehavior::kIsolated;
    bool invert = false;
  };
  struct PrefixSpaceStep {};
  using Step = std::variant<SplitStep, PrefixSpaceStep>;

  Status Add(const json::object& description);
  Status AddSplit(const json::object& description);
  Status AddByteLevel(const json::object& description);

  std::vector<Step> steps_;
};

}  // namespace bloomery
