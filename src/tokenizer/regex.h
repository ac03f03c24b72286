// The regular expressions of tokenizer.json, which are written for Oniguruma, run on PCRE2.
// Translated: nested character classes (a union in Oniguruma, a literal bracket in PCRE2) and \s, \S (Unicode
// White_Space in Oniguruma; PCRE2 adds U+180E). Class intersections (&&) and negated nested classes are
// refused.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "base/result.h"

namespace bloomery {

// Immutable and thread safe.
class Regex {
 public:
  // kUnsupported for a pattern that cannot be translated, kInvalidArgument for one that does not compile.
  static Result<Regex> Compile(std::string_view oniguruma_pattern);
  // Matches exactly this text.
  static Result<Regex> Literal(std::string_view text);

  // Calls on_match(begin, end) for every non-overlapping, non-empty match, left to right. `text` must be
  // valid UTF-8. A match that would exceed PCRE2's limits ends the search: the rest counts as unmatched.
  void ForEachMatch(std::string_view text,
                    const std::function<void(std::size_t begin, std::size_t end)>& on_match) const;

 private:
  explicit Regex(std::shared_ptr<void> code) : code_(std::move(code)) {}
  static Result<Regex> CompilePcre2(const std::string& pattern, unsigned options);

  std::shared_ptr<void> code_;  // pcre2_code
};

// Exposed for tests: the PCRE2 form of an Oniguruma pattern.
Result<std::string> TranslateOniguruma(std::string_view pattern);

}  // namespace bloomery
