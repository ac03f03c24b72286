// GPT-2's byte alphabet: each byte has a printable character of its own, so that any bytes can be written as
// a vocabulary entry. Bytes that are printable in Latin-1 stand for themselves; the other 68 are U+0100
// onwards, in order (openai/gpt-2, encoder.py).
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace bloomery {

// The alphabet's character for a byte, in UTF-8.
std::string AlphabetCharacter(unsigned char byte);

// "Ġhello" → " hello". nullopt when some character is not of the alphabet.
std::optional<std::string> BytesFromAlphabet(std::string_view text);

}  // namespace bloomery
