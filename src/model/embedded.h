// The JSON files of architectures/, compiled into the program (cmake/EmbedText.cmake writes embedded.cc).
#pragma once

#include <span>
#include <string_view>

namespace bloomery {

struct EmbeddedText {
  std::string_view name;  // "bloom", "opt", "shapes"
  std::string_view text;
};

std::span<const EmbeddedText> EmbeddedArchitectureFiles();

}  // namespace bloomery
