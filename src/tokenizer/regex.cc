#include "tokenizer/regex.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <array>

namespace bloomery {
namespace {

// Unicode's White_Space, as the inside of a class.
constexpr std::string_view kWhiteSpace =
    "\\x{09}-\\x{0D}\\x{20}\\x{85}\\x{A0}\\x{1680}\\x{2000}-\\x{200A}\\x{2028}\\x{2029}\\x{202F}\\x{205F}\\x{"
    "3000}";

// Backtracking steps one match may take: hundreds of times what any tokenizer's pattern needs.
constexpr std::uint32_t kMatchLimit = 10'000'000;

class Translator {
 public:
  explicit Translator(std::string_view pattern) : in_(pattern) {}

  Result<std::string> Run() {
    while (at_ < in_.size()) {
      if (in_[at_] == '\\') {
        RETURN_IF_ERROR(Escape(/*in_class=*/false));
      } else if (in_[at_] == '[') {
        RETURN_IF_ERROR(Class());
      } else {
        out_ += in_[at_++];
      }
    }
    return std::move(out_);
  }

 private:
  Status Escape(bool in_class) {
    if (at_ + 1 >= in_.size()) return Fail(ErrorCode::kInvalidArgument, "pattern ends in a backslash");
    const char letter = in_[at_ + 1];
    if (letter == 's') {
      out_ += in_class ? std::string(kWhiteSpace) : fmt::format("[{}]", kWhiteSpace);
    } else if (letter == 'S') {
      if (in_class) return Fail(ErrorCode::kUnsupported, "\\S inside a character class");
      out_ += fmt::format("[^{}]", kWhiteSpace);
    } else {
      out_ += in_.substr(at_, 2);
    }
    at_ += 2;
    return {};
  }

  // A class at `at_`, nested ones spliced into it.
  Status Class() {
    out_ += in_[at_++];
    if (at_ < in_.size() && in_[at_] == '^') out_ += in_[at_++];
    int depth = 1;
    for (bool first = true; depth > 0; first = false) {
      if (at_ >= in_.size()) return Fail(ErrorCode::kInvalidArgument, "character class without an end");
      const char c = in_[at_];
      if (c == '\\') {
        RETURN_IF_ERROR(Escape(/*in_class=*/true));
      } else if (in_.substr(at_, 2) == "&&") {
        return Fail(ErrorCode::kUnsupported, "intersection of character classes (&&)");
      } else if (in_.substr(at_, 2) == "[:") {
        const std::size_t end = in_.find(":]", at_);
        if (end == std::string_view::npos) return Fail(ErrorCode::kInvalidArgument, "[: without :]");
        out_ += in_.substr(at_, end + 2 - at_);
        at_ = end + 2;
      } else if (in_.substr(at_, 2) == "[^") {
        return Fail(ErrorCode::kUnsupported, "a negated class inside a class");
      } else if (c == '[') {
        ++depth;
        ++at_;
      } else if (c == ']' && !first) {
        if (--depth == 0) out_ += ']';
        ++at_;
      } else {
        out_ += c;
        ++at_;
      }
    }
    return {};
  }

  const std::string_view in_;
  std::size_t at_ = 0;
  std::string out_;
};

}  // namespace

Result<std::string> TranslateOniguruma(std::string_view pattern) { return Translator(pattern).Run(); }

Result<Regex> Regex::Compile(std::string_view oniguruma_pattern) {
  auto pattern = TranslateOniguruma(oniguruma_pattern);
  if (!pattern)
    return WithContext(std::move(pattern).error(),
                       fmt::format("regular expression \"{}\"", oniguruma_pattern));
  return CompilePcre2(*pattern, PCRE2_UTF | PCRE2_UCP);
}

Result<Regex> Regex::Literal(std::string_view text) {
  return CompilePcre2(std::string(text), PCRE2_UTF | PCRE2_LITERAL);
}

Result<Regex> Regex::CompilePcre2(const std::string& pattern, unsigned options) {
  int error = 0;
  PCRE2_SIZE offset = 0;
  pcre2_code* code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(), options,
                                   &error, &offset, nullptr);
  if (code == nullptr) {
    std::array<PCRE2_UCHAR, 256> message{};
    pcre2_get_error_message(error, message.data(), message.size());
    return Fail(ErrorCode::kInvalidArgument, "regular expression \"{}\": {} at {}", pattern,
                reinterpret_cast<const char*>(message.data()), offset);
  }
  pcre2_jit_compile(
      code, PCRE2_JIT_COMPLETE);  // where there is no JIT the interpreter runs: slower, the same matches
  return Regex(std::shared_ptr<void>(code, [](void* p) { pcre2_code_free(static_cast<pcre2_code*>(p)); }));
}

void Regex::ForEachMatch(std::string_view text,
                         const std::function<void(std::size_t, std::size_t)>& on_match) const {
  const auto* code = static_cast<const pcre2_code*>(code_.get());
  const std::unique_ptr<pcre2_match_data, void (*)(pcre2_match_data*)> data(
      pcre2_match_data_create(1, nullptr), pcre2_match_data_free);
  const std::unique_ptr<pcre2_match_context, void (*)(pcre2_match_context*)> context(
      pcre2_match_context_create(nullptr), pcre2_match_context_free);
  if (!data || !context) return;
  pcre2_set_match_limit(context.get(), kMatchLimit);
  const auto* subject = reinterpret_cast<PCRE2_SPTR>(text.data());
  for (std::size_t at = 0; at < text.size();) {
    int matched = pcre2_match(code, subject, text.size(), at, PCRE2_NO_UTF_CHECK, data.get(), context.get());
    if (matched == PCRE2_ERROR_JIT_STACKLIMIT) {
      matched = pcre2_match(code, subject, text.size(), at, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, data.get(),
                            context.get());
    }
    if (matched < 0) return;
    const PCRE2_SIZE* range = pcre2_get_ovector_pointer(data.get());
    if (range[1] > range[0]) {
      on_match(range[0], range[1]);
      at = range[1];
    } else {
      // An empty match: step over one character.
      at = range[1] + 1;
      while (at < text.size() && (static_cast<unsigned char>(text[at]) & 0xC0U) == 0x80) ++at;
    }
  }
}

}  // namespace bloomery
