#include "server/properties.h"

#include <algorithm>
#include <charconv>
#include <optional>

#include "base/utf8.h"

namespace bloomery {
namespace {

bool IsBlank(char c) { return c == ' ' || c == '\t' || c == '\f'; }
bool IsLineEnd(char c) { return c == '\n' || c == '\r'; }

// A property as it stands in the text: lines joined, escapes not yet resolved.
struct LogicalLine {
  std::string text;
  int line = 0;
};

class LineReader {
 public:
  explicit LineReader(std::string_view text) : rest_(text) {}

  // The next line with something on it that is no comment; nullopt at the end.
  std::optional<LogicalLine> Next() {
    LogicalLine logical;
    bool continued = false;
    while (!rest_.empty()) {
      std::string_view natural = TakeNaturalLine();
      natural.remove_prefix(SkipBlanks(natural));
      // A line that continues another is no comment, whatever it begins with; unless there was only the
      // backslash before it.
      if (logical.text.empty() && (natural.empty() || natural.front() == '#' || natural.front() == '!')) {
        logical = {};
        continued = false;
        continue;
      }
      if (logical.line == 0) logical.line = line_;
      continued = EndsInsideEscape(natural);
      if (continued) natural.remove_suffix(1);
      logical.text += natural;
      if (!continued) return logical;
    }
    // A file that ends inside a continuation. Of a lone backslash Java makes a property without a name,
    // unless both characters of a line end stand after it.
    if (!continued || (logical.text.empty() && ended_by_two_)) return std::nullopt;
    return logical;
  }

 private:
  static std::size_t SkipBlanks(std::string_view text) {
    std::size_t i = 0;
    while (i < text.size() && IsBlank(text[i])) ++i;
    return i;
  }

  static bool EndsInsideEscape(std::string_view line) {
    const std::size_t last = line.find_last_not_of('\\');
    const std::size_t backslashes = line.size() - (last == std::string_view::npos ? 0 : last + 1);
    return backslashes % 2 == 1;
  }

  std::string_view TakeNaturalLine() {
    ++line_;
    const auto end =
        static_cast<std::size_t>(std::find_if(rest_.begin(), rest_.end(), IsLineEnd) - rest_.begin());
    const std::string_view natural = rest_.substr(0, end);
    rest_.remove_prefix(end);
    ended_by_two_ = rest_.starts_with("\r\n");
    if (ended_by_two_) {
      rest_.remove_prefix(2);
    } else if (!rest_.empty()) {
      rest_.remove_prefix(1);
    }
    return natural;
  }

  std::string_view rest_;
  int line_ = 0;
  bool ended_by_two_ = false;  // the last natural line, by "\r\n"
};

std::optional<std::uint32_t> HexUnit(std::string_view digits) {
  std::uint32_t unit = 0;
  if (digits.size() < 4) return std::nullopt;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + 4, unit, 16);
  if (error != std::errc() || end != digits.data() + 4) return std::nullopt;
  return unit;
}

// The character of "uXXXX", or of the pair of them that one beyond the basic plane takes; advances `text`.
std::optional<char32_t> TakeUnicodeEscape(std::string_view& text) {
  const auto first = HexUnit(text.substr(1));
  if (!first) return std::nullopt;
  text.remove_prefix(5);
  if (*first < 0xD800 || *first > 0xDFFF) return static_cast<char32_t>(*first);
  if (*first > 0xDBFF || !text.starts_with("\\u")) return std::nullopt;
  const auto second = HexUnit(text.substr(2));
  if (!second || *second < 0xDC00 || *second > 0xDFFF) return std::nullopt;
  text.remove_prefix(6);
  return static_cast<char32_t>(0x10000 + ((*first - 0xD800) << 10U) + (*second - 0xDC00));
}

Result<std::string> Unescape(std::string_view text) {
  std::string out;
  while (!text.empty()) {
    const char c = text.front();
    text.remove_prefix(1);
    if (c != '\\') {
      out += c;
      continue;
    }
    if (text.empty()) break;  // a backslash that ends the file continues nothing
    const char escaped = text.front();
    if (escaped == 'u') {
      const auto character = TakeUnicodeEscape(text);
      if (!character)
        return Fail(ErrorCode::kInvalidArgument,
                    "\\u needs four hexadecimal digits, and both halves of a pair");
      AppendUtf8(*character, out);
      continue;
    }
    text.remove_prefix(1);
    static constexpr std::string_view kLetters = "tnrf";
    static constexpr std::string_view kMeanings = "\t\n\r\f";
    const std::size_t letter = kLetters.find(escaped);
    out += letter == std::string_view::npos ? escaped : kMeanings[letter];
  }
  return out;
}

// Where the key ends: at the first separator or blank without a backslash before it.
std::size_t KeyLength(std::string_view text) {
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '\\') {
      ++i;
    } else if (text[i] == '=' || text[i] == ':' || IsBlank(text[i])) {
      return i;
    }
  }
  return text.size();
}

std::string_view ValueAfter(std::string_view text) {
  const auto skip_blanks = [&text] {
    while (!text.empty() && IsBlank(text.front())) text.remove_prefix(1);
  };
  skip_blanks();
  if (!text.empty() && (text.front() == '=' || text.front() == ':')) text.remove_prefix(1);
  skip_blanks();
  return text;
}

Result<Property> ToProperty(const LogicalLine& logical) {
  const std::size_t length = KeyLength(logical.text);
  const std::string_view text = logical.text;
  Property property;
  property.line = logical.line;
  ASSIGN_OR_RETURN(property.key, Unescape(text.substr(0, length)));
  ASSIGN_OR_RETURN(property.value, Unescape(ValueAfter(text.substr(length))));
  for (const std::string* part : {&property.key, &property.value}) {
    // Values become arguments and environment variables of processes, which end at a NUL.
    if (part->find('\0') != std::string::npos) return Fail(ErrorCode::kInvalidArgument, "a NUL character");
  }
  return property;
}

}  // namespace

Result<std::vector<Property>> ParseProperties(std::string_view text, std::string_view what) {
  if (text.size() > kMaxPropertiesBytes)
    return Fail(ErrorCode::kTooLarge, "{}: {} bytes; {} at most", what, text.size(), kMaxPropertiesBytes);
  if (!IsValidUtf8(text)) return Fail(ErrorCode::kInvalidArgument, "{}: not UTF-8", what);
  std::vector<Property> properties;
  LineReader reader(text);
  while (const auto logical = reader.Next()) {
    if (properties.size() == kMaxProperties)
      return Fail(ErrorCode::kTooLarge, "{}: more than {} keys", what, kMaxProperties);
    auto property = ToProperty(*logical);
    if (!property) return WithContext(std::move(property).error(), fmt::format("{}:{}", what, logical->line));
    properties.push_back(*std::move(property));
  }
  return properties;
}

}  // namespace bloomery
