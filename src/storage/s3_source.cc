#include "storage/s3_source.h"

#include <cstring>

namespace bloomery {
namespace {

// Fills memory with the answer to one request; an answer that is begun anew fills it anew.
class MemorySink final : public BodySink {
 public:
  explicit MemorySink(std::span<std::byte> out) : out_(out) {}

  bool full() const { return filled_ == out_.size(); }

  Status Begin(const HttpResponse& /*head*/) override {
    filled_ = 0;
    return {};
  }
  Status Write(std::span<const std::byte> bytes) override {
    if (bytes.size() > out_.size() - filled_)
      return Fail(ErrorCode::kCorrupt, "more was sent than was asked for");
    std::memcpy(out_.data() + filled_, bytes.data(), bytes.size());
    filled_ += bytes.size();
    return {};
  }

 private:
  const std::span<std::byte> out_;
  std::size_t filled_ = 0;
};

class S3Source final : public ByteSource {
 public:
  S3Source(S3Client& s3, S3Uri object, S3Head head)
      : s3_(s3), object_(std::move(object)), name_(object_.ToString()), head_(std::move(head)) {}

  std::string_view name() const override { return name_; }
  std::uint64_t size_bytes() const override { return head_.size_bytes; }

  Status ReadAt(std::uint64_t offset, std::span<std::byte> out) const override {
    if (offset > head_.size_bytes || out.size() > head_.size_bytes - offset)
      return Fail(ErrorCode::kCorrupt, "{}: ends before byte {}", name_, offset + out.size());
    if (out.empty()) return {};
    for (int tried = 1;; ++tried) {
      MemorySink sink(out);
      RETURN_IF_ERROR(s3_.Get(object_, S3Range{offset, out.size()}, head_.etag, sink));
      if (sink.full()) return {};
      if (tried == kTries) return Fail(ErrorCode::kUnavailable, "{}: answers end too early", name_);
    }
  }

 private:
  static constexpr int kTries = 5;  // answers that end early and yet without an error

  S3Client& s3_;
  const S3Uri object_;
  const std::string name_;
  const S3Head head_;
};

}  // namespace

Result<std::shared_ptr<const ByteSource>> OpenS3Object(S3Client& s3, const S3Uri& object) {
  ASSIGN_OR_RETURN(S3Head head, s3.Head(object));
  return std::make_shared<S3Source>(s3, object, std::move(head));
}

}  // namespace bloomery
