// Sets that DeepSpeed-Inference saved, described by their ds_inference_config.json: which files there are,
// and how the ranks' pieces of a layer make Hugging Face's tensors again. Nothing is copied: a joined tensor
// is made of views on the ranks' files (TensorPiece). Format: docs/formats/deepspeed.md. Left out: opening
// the files (checkpoint.h).
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "checkpoint/tensor_map.h"
#include "checkpoint/torch_file.h"

namespace bloomery {

inline constexpr std::string_view kDeepSpeedConfigName = "ds_inference_config.json";

enum class DeepSpeedFamily : std::uint8_t { kBloom, kOpt };

struct DeepSpeedSet {
  std::vector<std::filesystem::path> whole;  // tensors under their own names
  // [parts][ranks]: a part's files hold the same names, one file for each rank.
  std::vector<std::vector<std::filesystem::path>> parts;
  DeepSpeedFamily family = DeepSpeedFamily::kBloom;  // whose names to give; where there are parts
};

// Reads the configuration in `directory` and makes sure that its files are there. `base_dir` says where the
// set was when it was saved and is ignored: files are looked for beside the configuration, and one that would
// lie elsewhere is kCorrupt. kUnsupported for types and families that are not known.
Result<DeepSpeedSet> ReadDeepSpeedConfig(const std::filesystem::path& directory);

struct RankFile {
  std::string_view name;  // for errors
  ScaledTensorMap tensors;
};

// One part's tensors under Hugging Face's names, valid as long as the files. Errors name file and tensor.
Result<TensorMap> JoinRanks(DeepSpeedFamily family, std::span<const RankFile> ranks);

}  // namespace bloomery
