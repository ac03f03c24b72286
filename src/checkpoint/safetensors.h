// The safetensors format: read one file into views on its mapping, and write one.
// Format: docs/formats/safetensors.md, after the format's own README (github.com/huggingface/safetensors).
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <utility>

#include "base/byte_source.h"
#include "checkpoint/tensor_map.h"

namespace bloomery {

// Views stay valid as long as `source`, which must be in memory (mapped). Everything the header claims is
// checked against the file: kCorrupt names file, tensor and reason.
Result<TensorMap> ParseSafetensors(const ByteSource& source);

// The beginning of a file that holds these tensors in the order given, their bytes not looked at. Data begins
// at a multiple of `alignment`.
std::string SafetensorsHeader(std::span<const std::pair<std::string, TensorView>> tensors,
                              std::uint64_t alignment,
                              const std::map<std::string, std::string>& metadata = {});

// Writes the tensors in the order given, each aligned to 8 bytes as the reference writer does, through a
// temporary file and a rename.
Status WriteSafetensors(const std::filesystem::path& path,
                        std::span<const std::pair<std::string, TensorView>> tensors,
                        const std::map<std::string, std::string>& metadata = {});

}  // namespace bloomery
