#define OMPI_SKIP_MPICXX 1
#include "collective/mpi_communicator.h"
#include <mpi.h>
#include <cstdlib>
#include <cstring>
#include <thread>
namespace bloomery {
namespace {
class Mpi final : public Communicator {
 public:
  explicit Mpi(MPI_Comm c) : c_(c) { MPI_Comm_rank(c, &r_); MPI_Comm_size(c, &s_); }
  int rank() const override { return r_; }
  int size() const override { return s_; }
  Status AllReduceSum(std::span<float> d) override {
    std::vector<float> all(d.size() * static_cast<std::size_t>(s_));
    MPI_Allgather(d.data(), int(d.size()), MPI_FLOAT, all.data(), int(d.size()), MPI_FLOAT, c_);
    for (std::size_t i = 0; i < d.size(); ++i) { float x = all[i]; for (int r = 1; r < s_; ++r) x += all[std::size_t(r) * d.size() + i]; d[i] = x; }
    return {};
  }
  Status Broadcast(std::vector<std::byte>& m, int root) override {
    unsigned long n = m.size(); MPI_Request q; MPI_Ibcast(&n, 1, MPI_UNSIGNED_LONG, root, c_, &q);
    for (int f = 0, k = 0; MPI_Test(&q, &f, MPI_STATUS_IGNORE), !f; ++k) { if (k > 1000) std::this_thread::sleep_for(std::chrono::microseconds(50)); }
    m.resize(n); if (n) MPI_Bcast(m.data(), int(n), MPI_BYTE, root, c_); return {};
  }
  Status Gather(std::span<const float> m, std::span<float> a, int root) override {
    MPI_Gather(m.data(), int(m.size()), MPI_FLOAT, a.data(), int(m.size()), MPI_FLOAT, root, c_); return {};
  }
  Status Send(std::span<const float> d, int to) override {
    auto* v = new std::vector<float>(d.begin(), d.end()); MPI_Request q; MPI_Isend(v->data(), int(v->size()), MPI_FLOAT, to, 0, c_, &q); MPI_Request_free(&q); return {};
  }
  Status Receive(std::span<float> d, int from) override { MPI_Recv(d.data(), int(d.size()), MPI_FLOAT, from, 0, c_, MPI_STATUS_IGNORE); return {}; }
  Status Barrier() override { MPI_Barrier(c_); return {}; }
  Result<std::unique_ptr<Communicator>> Split(int color) override { MPI_Comm n; MPI_Comm_split(c_, color, r_, &n); return std::make_unique<Mpi>(n); }
 private:
  MPI_Comm c_; int r_ = 0, s_ = 1;
};
}  // namespace
Result<std::unique_ptr<Communicator>> MakeMpiCommunicator() {
  int provided = 0; MPI_Init_thread(nullptr, nullptr, MPI_THREAD_SERIALIZED, &provided); std::atexit([] { MPI_Finalize(); });
  return std::make_unique<Mpi>(MPI_COMM_WORLD);
}
}  // namespace bloomery
