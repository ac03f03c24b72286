#include "tokenizer/byte_alphabet.h"

#include <array>

#include "base/utf8.h"

namespace bloomery {
namespace {

bool StandsForItself(unsigned byte) {
  return (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
}

constexpr char32_t kFirstSubstitute = 0x100;
constexpr std::size_t kCodePoints = 0x100 + 68;

struct Tables {
  std::array<char32_t, 256> to_character{};
  std::array<int, kCodePoints> to_byte{};

  Tables() {
    to_byte.fill(-1);
    char32_t next = kFirstSubstitute;
    for (unsigned byte = 0; byte < 256; ++byte) {
      to_character[byte] = StandsForItself(byte) ? byte : next++;
      to_byte[to_character[byte]] = static_cast<int>(byte);
    }
  }
};

const Tables& Alphabet() {
  static const Tables tables;
  return tables;
}

}  // namespace

std::string AlphabetCharacter(unsigned char byte) {
  std::string out;
  AppendUtf8(Alphabet().to_character[byte], out);
  return out;
}

std::optional<std::string> BytesFromAlphabet(std::string_view text) {
  std::string bytes;
  while (!text.empty()) {
    const DecodedCodePoint decoded = DecodeUtf8(text);
    if (!decoded.valid || decoded.code_point >= kCodePoints) return std::nullopt;
    const int byte = Alphabet().to_byte[decoded.code_point];
    if (byte < 0) return std::nullopt;
    bytes.push_back(static_cast<char>(byte));
    text.remove_prefix(decoded.length_bytes);
  }
  return bytes;
}

}  // namespace bloomery
