// A model directory's weights: all tensors of all its files by Hugging Face's names, mapped and not copied.
// Left out: what the tensors mean (model/), configuration, tokenizers.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/byte_source.h"
#include "checkpoint/tensor_map.h"

namespace bloomery {

// Immutable and thread safe. Views stay valid as long as the checkpoint.
class Checkpoint {
 public:
  // Looks, in this order, for ds_inference_config.json (deepspeed.h), model.safetensors.index.json,
  // model.safetensors, pytorch_model.bin.index.json, pytorch_model.bin, and numbered shards without an index
  // (pytorch_model-00001-of-00007.bin, pytorch_model_00001-of-00072.bin, model-00001-of-00002.safetensors).
  // Errors name file, tensor and reason.
  static Result<std::shared_ptr<const Checkpoint>> Open(const std::filesystem::path& directory);

  // nullptr when there is no such tensor.
  const TensorView* Find(std::string_view name) const;
  // kNotFound names the directory and similar tensors that do exist.
  Result<TensorView> Get(std::string_view name) const;

  std::vector<std::string> names() const;
  std::uint64_t total_bytes() const;
  // Gives back the memory of what was read so far; views stay valid, and are read again where they are used.
  void Forget() const;
  // The file a tensor is in; empty for unknown names.
  std::string_view FileOf(std::string_view name) const;

 private:
  struct Entry {
    TensorView view;
    std::size_t file = 0;  // index into files_
  };

  Checkpoint() = default;
  Status AddFile(const std::filesystem::path& path);
  Status AddTensors(TensorMap tensors, std::size_t file);
  Status AddDeepSpeed(const std::filesystem::path& directory);
  Status AddIndexed(const std::filesystem::path& directory, const std::string& index_name);

  std::string directory_;
  std::vector<std::shared_ptr<const ByteSource>> files_;
  std::map<std::string, Entry, std::less<>> tensors_;
};

}  // namespace bloomery
