#include "collective/mpi_communicator.h"

#define OMPI_SKIP_MPICXX 1
#include <mpi.h>
#include <sched.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <thread>
#include <utility>

#include "base/system.h"
#include "collective/shared_segment.h"

namespace bloomery {
namespace {

// MPI counts in int.
constexpr std::size_t kMaxCount = 1U << 30U;
// Messages of this size go out before the other side asks for them: the smallest limit among Open MPI 4.1's
// transports is 4 KiB (btl_vader_eager_limit; btl_tcp_eager_limit is 64 KiB).
constexpr std::size_t kEagerBytes = 4096;
// A rank that waits for a broadcast gives way at first, and sleeps longer and longer after this many looks.
constexpr int kEagerLooks = 2000;
constexpr std::chrono::microseconds kLongestSleep{1000};

Status Check(int code, const char* what) {
  if (code == MPI_SUCCESS) return {};
  char text[MPI_MAX_ERROR_STRING] = {};
  int length = 0;
  MPI_Error_string(code, text, &length);
  return Fail(ErrorCode::kUnavailable, "MPI {}: {}", what, text);
}

int Count(std::size_t count) { return static_cast<int>(std::min(count, kMaxCount)); }

// Open MPI's own waiting burns the core that another rank may need.
Status Await(MPI_Request& request, const char* what, bool may_sleep) {
  std::chrono::microseconds sleep{10};
  for (int looks = 0;; ++looks) {
    int done = 0;
    RETURN_IF_ERROR(Check(MPI_Test(&request, &done, MPI_STATUS_IGNORE), what));
    if (done != 0) return {};
    if (!may_sleep || looks < kEagerLooks) {
      ::sched_yield();
    } else {
      std::this_thread::sleep_for(sleep);
      sleep = std::min(2 * sleep, kLongestSleep);
    }
  }
}

class MpiCommunicator final : public Communicator {
 public:
  explicit MpiCommunicator(MPI_Comm group) : group_(group) {
    MPI_Comm_rank(group_, &rank_);
    MPI_Comm_size(group_, &size_);
  }

  ~MpiCommunicator() override {
    shared_.reset();
    int finalized = 0;
    MPI_Finalized(&finalized);
    if (finalized != 0) return;
    if (window_ != MPI_WIN_NULL) MPI_Win_free(&window_);
    MPI_Comm_free(&group_);
  }

  // Where all ranks are on this host: gives each a segment that the others see.
  Status ShareMemory() {
    MPI_Comm host = MPI_COMM_NULL;
    RETURN_IF_ERROR(Check(MPI_Comm_split_type(group_, MPI_COMM_TYPE_SHARED, rank_, MPI_INFO_NULL, &host),
                          "split by host"));
    int host_size = 0;
    MPI_Comm_size(host, &host_size);
    MPI_Comm_free(&host);
    // The same on every rank: a host either holds all of them or not.
    if (host_size != size_ || size_ > SharedSegment::kMaxRanks || size_ == 1) return {};
    void* base = nullptr;
    RETURN_IF_ERROR(Check(MPI_Win_allocate_shared(sizeof(SharedSegment) + kAlignment, 1, MPI_INFO_NULL,
                                                  group_, &base, &window_),
                          "shared memory"));
    std::vector<SharedSegment*> segments;
    for (int rank = 0; rank < size_; ++rank) {
      MPI_Aint bytes = 0;
      int unit = 0;
      RETURN_IF_ERROR(Check(MPI_Win_shared_query(window_, rank, &bytes, &unit, &base), "shared memory"));
      segments.push_back(Aligned(base));
    }
    // New memory is zero, which is every counter's beginning; nobody may count before all are there.
    RETURN_IF_ERROR(Check(MPI_Barrier(group_), "barrier"));
    shared_ = std::make_unique<SharedGroup>(std::move(segments), rank_, RankOnHost().ranks > MachineCores());
    return {};
  }

  int rank() const override { return rank_; }
  int size() const override { return size_; }

  Status AllReduceSum(std::span<float> data) override {
    if (size_ == 1) return {};
    if (shared_) {
      shared_->AllReduceSum(data);
      return {};
    }
    // MPI_Allreduce may add in any order, and in another one for another size.
    const std::size_t chunk_floats = std::min<std::size_t>(data.size(), 1U << 20U);
    std::vector<float> all(chunk_floats * static_cast<std::size_t>(size_));
    for (; !data.empty(); data = data.subspan(std::min(chunk_floats, data.size()))) {
      const std::span<float> chunk = data.first(std::min(chunk_floats, data.size()));
      MPI_Request request = MPI_REQUEST_NULL;
      RETURN_IF_ERROR(Check(MPI_Iallgather(chunk.data(), Count(chunk.size()), MPI_FLOAT, all.data(),
                                           Count(chunk.size()), MPI_FLOAT, group_, &request),
                            "allgather"));
      RETURN_IF_ERROR(Await(request, "allgather", /*may_sleep=*/false));
      std::copy_n(all.begin(), chunk.size(), chunk.begin());
      for (std::size_t rank = 1; rank < static_cast<std::size_t>(size_); ++rank) {
        for (std::size_t i = 0; i < chunk.size(); ++i) chunk[i] += all[rank * chunk.size() + i];
      }
    }
    return {};
  }

  Status Broadcast(std::vector<std::byte>& message, int root) override {
    if (size_ == 1) return {};
    if (shared_) {
      shared_->Broadcast(message, root);
      return {};
    }
    std::uint64_t bytes = message.size();
    MPI_Request request = MPI_REQUEST_NULL;
    RETURN_IF_ERROR(Check(MPI_Ibcast(&bytes, 1, MPI_UINT64_T, root, group_, &request), "broadcast"));
    RETURN_IF_ERROR(Await(request, "broadcast", /*may_sleep=*/true));
    message.resize(bytes);
    for (std::size_t done = 0; done < bytes; done += kMaxCount) {
      RETURN_IF_ERROR(
          Check(MPI_Ibcast(message.data() + done, Count(bytes - done), MPI_BYTE, root, group_, &request),
                "broadcast"));
      RETURN_IF_ERROR(Await(request, "broadcast", /*may_sleep=*/false));
    }
    return {};
  }

  std::size_t broadcast_ahead_bytes() const override {
    return shared_ ? SharedGroup::kBroadcastAheadBytes : kEagerBytes;
  }

  Status Gather(std::span<const float> mine, std::span<float> all, int root) override {
    if (shared_) {
      shared_->Gather(mine, all, root);
      return {};
    }
    MPI_Request request = MPI_REQUEST_NULL;
    RETURN_IF_ERROR(Check(MPI_Igather(mine.data(), Count(mine.size()), MPI_FLOAT, all.data(),
                                      Count(mine.size()), MPI_FLOAT, root, group_, &request),
                          "gather"));
    return Await(request, "gather", /*may_sleep=*/false);
  }

  Status Send(std::span<const float> data, int to) override {
    if (shared_) {
      shared_->Send(std::as_bytes(data), to);
      return {};
    }
    MPI_Request request = MPI_REQUEST_NULL;
    RETURN_IF_ERROR(
        Check(MPI_Isend(data.data(), Count(data.size()), MPI_FLOAT, to, 0, group_, &request), "send"));
    return Await(request, "send", /*may_sleep=*/false);
  }

  Status Receive(std::span<float> data, int from) override {
    if (shared_) {
      shared_->Receive(std::as_writable_bytes(data), from);
      return {};
    }
    MPI_Request request = MPI_REQUEST_NULL;
    RETURN_IF_ERROR(
        Check(MPI_Irecv(data.data(), Count(data.size()), MPI_FLOAT, from, 0, group_, &request), "receive"));
    return Await(request, "receive", /*may_sleep=*/false);
  }

  Status Barrier() override {
    if (shared_) {
      shared_->Barrier();
      return {};
    }
    MPI_Request request = MPI_REQUEST_NULL;
    RETURN_IF_ERROR(Check(MPI_Ibarrier(group_, &request), "barrier"));
    return Await(request, "barrier", /*may_sleep=*/false);
  }

  Result<std::unique_ptr<Communicator>> Split(int color) override {
    MPI_Comm part = MPI_COMM_NULL;
    RETURN_IF_ERROR(Check(MPI_Comm_split(group_, color, rank_, &part), "split"));
    auto communicator = std::make_unique<MpiCommunicator>(part);
    RETURN_IF_ERROR(communicator->ShareMemory());
    return communicator;
  }

 private:
  static constexpr std::size_t kAlignment = alignof(SharedSegment);

  static SharedSegment* Aligned(void* base) {
    const auto address = reinterpret_cast<std::uintptr_t>(base);
    return reinterpret_cast<SharedSegment*>((address + kAlignment - 1) / kAlignment * kAlignment);
  }

  MPI_Comm group_;
  int rank_ = 0;
  int size_ = 1;
  MPI_Win window_ = MPI_WIN_NULL;
  std::unique_ptr<SharedGroup> shared_;  // null: not all on one host
};

// In a Python process an earlier model, or mpi4py, may have done it; who starts it ends it.
Status StartMpi() {
  int started = 0;
  int ended = 0;
  MPI_Initialized(&started);
  MPI_Finalized(&ended);
  if (ended != 0) return Fail(ErrorCode::kUnavailable, "MPI has been ended in this process already");
  int provided = 0;
  if (started != 0) {
    MPI_Query_thread(&provided);
  } else {
    RETURN_IF_ERROR(Check(MPI_Init_thread(nullptr, nullptr, MPI_THREAD_SERIALIZED, &provided), "start"));
    std::atexit([] { MPI_Finalize(); });
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
  }
  if (provided < MPI_THREAD_SERIALIZED)
    return Fail(ErrorCode::kUnavailable, "this MPI cannot be used by a thread other than the first");
  return {};
}

}  // namespace

Result<std::unique_ptr<Communicator>> MakeMpiCommunicator() {
  RETURN_IF_ERROR(StartMpi());
  // A group of our own: what others in this process send over MPI's is not mistaken for ours.
  MPI_Comm group = MPI_COMM_NULL;
  RETURN_IF_ERROR(Check(MPI_Comm_dup(MPI_COMM_WORLD, &group), "start"));
  MPI_Comm_set_errhandler(group, MPI_ERRORS_RETURN);
  auto world = std::make_unique<MpiCommunicator>(group);
  RETURN_IF_ERROR(world->ShareMemory());
  return world;
}

HostRank RankOnHost() {
  const char* rank = std::getenv("OMPI_COMM_WORLD_LOCAL_RANK");
  const char* ranks = std::getenv("OMPI_COMM_WORLD_LOCAL_SIZE");
  if (rank == nullptr || ranks == nullptr) return {};
  return {std::atoi(rank), std::atoi(ranks)};
}

Status AllReduceByMpi(std::span<float> data) {
  return Check(
      MPI_Allreduce(MPI_IN_PLACE, data.data(), Count(data.size()), MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD),
      "allreduce");
}

}  // namespace bloomery
