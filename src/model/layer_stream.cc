#include "model/layer_stream.h"

#include <chrono>

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

Result<double> LayerStream::MeasureBandwidth() {
  using Clock = std::chrono::steady_clock;
  const auto start = Clock::now();
  const auto before = reader_->bytes_read();
  for (const bool streams : streams_) {
    if (!streams) continue;
    RETURN_IF_ERROR(Acquire());
    Release();
  }
  // The slots were full when it began and are being filled again: what was read in between is what counts.
  const auto read = static_cast<double>(reader_->bytes_read() - before);
  return read / std::chrono::duration<double>(Clock::now() - start).count();
}

}  // namespace bloomery
