// A linear layer in several packed pieces, as a set of shards that was cut finer than it is loaded gives it.
#pragma once

#include <cassert>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "tensor/device.h"

namespace bloomery {

// Immutable. The pieces are the device's own.
class JoinedLinear final : public LinearWeights {
 public:
  JoinedLinear(std::vector<std::unique_ptr<LinearWeights>> pieces, JoinedBy by)
      : pieces_(std::move(pieces)), by_(by) {}

  std::int64_t out_features() const override {
    return by_ == JoinedBy::kOutputs ? Sum(&LinearWeights::out_features) : pieces_.front()->out_features();
  }
  std::int64_t in_features() const override {
    return by_ == JoinedBy::kInputs ? Sum(&LinearWeights::in_features) : pieces_.front()->in_features();
  }
  DType dtype() const override { return pieces_.front()->dtype(); }
  std::uint64_t size_bytes() const override {
    std::uint64_t bytes = 0;
    for (const auto& piece : pieces_) bytes += piece->size_bytes();
    return bytes;
  }
  std::span<const std::unique_ptr<LinearWeights>> pieces() const override { return pieces_; }
  JoinedBy by() const { return by_; }

 private:
  std::int64_t Sum(std::int64_t (LinearWeights::*features)() const) const {
    std::int64_t sum = 0;
    for (const auto& piece : pieces_) sum += (piece.get()->*features)();
    return sum;
  }

  std::vector<std::unique_ptr<LinearWeights>> pieces_;
  JoinedBy by_;
};

}  // namespace bloomery
