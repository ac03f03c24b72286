#include "model/layer_stream.h"

namespace bloomery {

Status LayerStream::Start(const std::vector<std::filesystem::path>& files,
                          std::vector<std::vector<FileRange>> items) {
  std::vector<std::span<std::byte>> slots;
  for (AlignedBuffer& slot : memory_) slots.emplace_back(slot.data(), slot.size_bytes());
  ASSIGN_OR_RETURN(reader_, ReadAhead::Start(files, std::move(items), std::move(slots)));
  return {};
}

Result<const LayerLinears*> LayerStream::Acquire() {
  ASSIGN_OR_RETURN(const std::size_t slot, reader_->Acquire());
  return &linears_[slot];
}

}  // namespace bloomery
