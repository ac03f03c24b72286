// Layers that do not fit into memory: their linear layers are read from the shards' files, ahead of the layer
// that is being computed, into a few slots that they take in turns.
#pragma once

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "base/read_ahead.h"
#include "base/result.h"
#include "model/weights.h"

namespace bloomery {

// Used by one thread at a time, in the order of the layers, round after round.
class LayerStream {
 public:
  // `slots`: memory, and the layer's linears that lie in it, by slot; `streams`: by layer of the part.
  LayerStream(std::vector<AlignedBuffer> memory, std::vector<LayerLinears> linears, std::vector<bool> streams,
              std::uint64_t bytes_per_pass)
      : memory_(std::move(memory)),
        linears_(std::move(linears)),
        streams_(std::move(streams)),
        bytes_per_pass_(bytes_per_pass) {}

  // Starts reading: to be called once.
  Status Start(const std::vector<std::filesystem::path>& files, std::vector<std::vector<FileRange>> items);

  bool Streams(std::size_t layer) const { return streams_[layer]; }
  // The next streamed layer's linears, once they are there; valid until Release. Errors as ReadAhead's.
  Result<const LayerLinears*> Acquire();
  void Release() { reader_->Release(); }

  std::uint64_t bytes_per_pass() const { return bytes_per_pass_; }  // read from disk for one forward pass

  // Bytes per second that the disk gives when nothing is done with them: takes one pass, between two others.
  Result<double> MeasureBandwidth();

 private:
  std::vector<AlignedBuffer> memory_;
  std::vector<LayerLinears> linears_;
  std::vector<bool> streams_;
  std::uint64_t bytes_per_pass_;
  std::unique_ptr<ReadAhead> reader_;  // last: ends before its memory goes
};

}  // namespace bloomery
