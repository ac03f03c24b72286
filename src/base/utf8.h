// UTF-8 by the book (RFC 3629): decoding one code point, validation, and where a cut text may safely end.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace bloomery {

inline constexpr char32_t kReplacementCharacter = 0xFFFD;

struct DecodedCodePoint {
  char32_t code_point = 0;       // kReplacementCharacter when !valid
  std::size_t length_bytes = 1;  // for invalid input: the maximal subpart to skip (Unicode 3.9, at least 1)
  bool valid = false;
};

// Decodes the code point at the start of `text`, which must not be empty. Overlong forms, surrogates and
// values past U+10FFFF are invalid.
DecodedCodePoint DecodeUtf8(std::string_view text);

void AppendUtf8(char32_t code_point, std::string& out);

bool IsValidUtf8(std::string_view text);

// Every invalid part replaced by U+FFFD, one for each maximal subpart, as Python's errors="replace" and
// Rust's from_utf8_lossy do.
std::string ReplaceInvalidUtf8(std::string_view text);

// Length of the longest prefix that does not end inside a character which more bytes could complete. Bytes
// that can never become valid count as complete, so a stream is never held back for ever.
std::size_t CompleteUtf8Prefix(std::string_view text);

}  // namespace bloomery
