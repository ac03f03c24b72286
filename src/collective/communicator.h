// Ranks that compute one model together, and what they say to each other: sums, messages, activations.
// Left out: who starts the ranks, who computes what.
//
// A call is collective unless it says otherwise: every rank of the group makes it, in the same order, with
// arguments of the same sizes. Used by one thread of a rank at a time. After an error the group is of no use
// any more: kUnavailable says that a rank was lost.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <vector>

#include "base/result.h"

namespace bloomery {

class Communicator {
 public:
  virtual ~Communicator() = default;

  virtual int rank() const = 0;  // [0, size)
  virtual int size() const = 0;

  // data[i] becomes the sum of every rank's data[i], added in the order of the ranks: the same bits on every
  // rank, in every call. For the middle of a step: waiting ranks spin.
  virtual Status AllReduceSum(std::span<float> data) = 0;

  // The root's message, of any size, on every rank. For the beginning of a step: ranks that wait for it long
  // use no processor. Messages that others have not received yet hold the root up only where they are more
  // than kBroadcastsAhead, or have more than broadcast_ahead_bytes() together, the new one included.
  virtual Status Broadcast(std::vector<std::byte>& message, int root) = 0;
  static constexpr int kBroadcastsAhead = 8;
  virtual std::size_t broadcast_ahead_bytes() const = 0;

  // mine of rank 0, of rank 1 … one after the other in the root's `all` [size · mine.size()]; other ranks'
  // `all` is not looked at.
  virtual Status Gather(std::span<const float> mine, std::span<float> all, int root) = 0;

  // Between two ranks, not collective. Send may wait until the other rank receives: two that send to each
  // other at the same time may wait for ever. Messages between the same two ranks arrive in order.
  virtual Status Send(std::span<const float> data, int to) = 0;
  virtual Status Receive(std::span<float> data, int from) = 0;

  virtual Status Barrier() = 0;

  // A group of those ranks that name the same colour, in the order they have here.
  virtual Result<std::unique_ptr<Communicator>> Split(int color) = 0;
};

}  // namespace bloomery
