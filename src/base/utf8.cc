#include "base/utf8.h"

#include <algorithm>

namespace bloomery {
namespace {

// What a lead byte promises, with the narrower range its second byte must lie in (RFC 3629, section 4).
struct Lead {
  std::size_t length_bytes = 0;  // 0: not a lead byte
  unsigned char second_min = 0x80;
  unsigned char second_max = 0xBF;
  unsigned char payload_mask = 0;
};

Lead Classify(unsigned char byte) {
  if (byte < 0x80) return {1, 0, 0, 0x7F};
  if (byte < 0xC2) return {};
  if (byte < 0xE0) return {2, 0x80, 0xBF, 0x1F};
  if (byte < 0xF0) {
    return {3, static_cast<unsigned char>(byte == 0xE0 ? 0xA0 : 0x80),
            static_cast<unsigned char>(byte == 0xED ? 0x9F : 0xBF), 0x0F};
  }
  if (byte < 0xF5) {
    return {4, static_cast<unsigned char>(byte == 0xF0 ? 0x90 : 0x80),
            static_cast<unsigned char>(byte == 0xF4 ? 0x8F : 0xBF), 0x07};
  }
  return {};
}

// Number of leading bytes of `text` that form a valid start of the character its lead byte promises.
std::size_t ValidPart(std::string_view text, const Lead& lead) {
  std::size_t length = 1;
  for (; length < lead.length_bytes && length < text.size(); ++length) {
    const auto byte = static_cast<unsigned char>(text[length]);
    const unsigned char low = length == 1 ? lead.second_min : 0x80;
    const unsigned char high = length == 1 ? lead.second_max : 0xBF;
    if (byte < low || byte > high) break;
  }
  return length;
}

}  // namespace

DecodedCodePoint DecodeUtf8(std::string_view text) {
  const auto first = static_cast<unsigned char>(text.front());
  const Lead lead = Classify(first);
  if (lead.length_bytes == 0) return {kReplacementCharacter, 1, false};
  const std::size_t length = ValidPart(text, lead);
  if (length < lead.length_bytes) return {kReplacementCharacter, length, false};
  char32_t code_point = first & lead.payload_mask;
  for (std::size_t i = 1; i < length; ++i)
    code_point = (code_point << 6U) | (static_cast<unsigned char>(text[i]) & 0x3FU);
  return {code_point, length, true};
}

void AppendUtf8(char32_t code_point, std::string& out) {
  const auto put = [&out](char32_t byte) {
    out.push_back(static_cast<char>(static_cast<unsigned char>(byte)));
  };
  if (code_point < 0x80) {
    put(code_point);
  } else if (code_point < 0x800) {
    put(0xC0U | (code_point >> 6U));
    put(0x80U | (code_point & 0x3FU));
  } else if (code_point < 0x10000) {
    put(0xE0U | (code_point >> 12U));
    put(0x80U | ((code_point >> 6U) & 0x3FU));
    put(0x80U | (code_point & 0x3FU));
  } else {
    put(0xF0U | (code_point >> 18U));
    put(0x80U | ((code_point >> 12U) & 0x3FU));
    put(0x80U | ((code_point >> 6U) & 0x3FU));
    put(0x80U | (code_point & 0x3FU));
  }
}

bool IsValidUtf8(std::string_view text) {
  while (!text.empty()) {
    const DecodedCodePoint decoded = DecodeUtf8(text);
    if (!decoded.valid) return false;
    text.remove_prefix(decoded.length_bytes);
  }
  return true;
}

std::string ReplaceInvalidUtf8(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  while (!text.empty()) {
    const DecodedCodePoint decoded = DecodeUtf8(text);
    if (decoded.valid) {
      out.append(text.substr(0, decoded.length_bytes));
    } else {
      AppendUtf8(kReplacementCharacter, out);
    }
    text.remove_prefix(decoded.length_bytes);
  }
  return out;
}

std::size_t CompleteUtf8Prefix(std::string_view text) {
  // Only the last three bytes can start a character that is still incomplete.
  const std::size_t window = std::min<std::size_t>(3, text.size());
  for (std::size_t back = 1; back <= window; ++back) {
    const std::string_view tail = text.substr(text.size() - back);
    const Lead lead = Classify(static_cast<unsigned char>(tail.front()));
    if (lead.length_bytes > back && ValidPart(tail, lead) == back) return text.size() - back;
  }
  return text.size();
}

}  // namespace bloomery
