#include "storage/s3_source.h"

#include <gmock/gmock.h>

#include "storage/fake_http.h"

namespace bloomery {
namespace {

using testing::HasSubstr;

std::string EnvOf(const std::string& name) {
  return name == "AWS_ACCESS_KEY_ID" || name == "AWS_SECRET_ACCESS_KEY" ? "x" : "";
}

class S3SourceTest : public testing::Test {
 protected:
  FakeHttp::Answer Respond(const HttpRequest& request) {
    HttpResponse head{.status = 200, .headers = {{"etag", "\"v1\""}}};
    if (request.method == "HEAD") {
      head.headers.emplace_back("content-length", std::to_string(bytes_.size()));
      return {head};
    }
    if (FakeHttp::HeaderOf(request, "if-match") != etag_) return {{.status = 412}};
    std::size_t begin = 0;
    std::size_t last = 0;
    std::sscanf(FakeHttp::HeaderOf(request, "range").c_str(), "bytes=%zu-%zu", &begin, &last);
    head.status = 206;
    head.body = bytes_.substr(begin, last - begin + 1);
    FakeHttp::Answer answer{head};
    if (cut_ > 0) answer.cut_after = cut_--;
    return answer;
  }

  std::string Read(const ByteSource& source, std::uint64_t offset, std::size_t count) {
    std::string out(count, '?');
    const Status read = source.ReadAt(offset, std::as_writable_bytes(std::span(out)));
    return read ? out : read.error().ToString();
  }

  std::string bytes_ = "0123456789";
  std::string etag_ = "\"v1\"";
  std::size_t cut_ = 0;
  FakeHttp http_{[this](const HttpRequest& request) { return Respond(request); }};
  CredentialChain credentials_{http_, EnvOf};
  S3Client s3_{
      http_,
      credentials_,
      {.endpoint = {.region = "r", .url = {}}, .attempts = 4, .first_wait = std::chrono::milliseconds(0)}};
};

TEST_F(S3SourceTest, ReadsRanges) {
  const auto source = OpenS3Object(s3_, {"b", "k"}).value();
  EXPECT_EQ(source->name(), "s3://b/k");
  EXPECT_EQ(source->size_bytes(), 10U);
  EXPECT_EQ(Read(*source, 0, 10), bytes_);
  EXPECT_EQ(Read(*source, 3, 4), "3456");
  EXPECT_EQ(Read(*source, 10, 0), "");
  EXPECT_THAT(Read(*source, 8, 3), HasSubstr("corrupt"));
}

TEST_F(S3SourceTest, ACutAnswerIsReadAgainFromItsBeginning) {
  const auto source = OpenS3Object(s3_, {"b", "k"}).value();
  cut_ = 2;
  EXPECT_EQ(Read(*source, 1, 8), "12345678");
}

TEST_F(S3SourceTest, AnObjectThatWasChangedIsNotMixed) {
  const auto source = OpenS3Object(s3_, {"b", "k"}).value();
  etag_ = "\"v2\"";
  EXPECT_THAT(Read(*source, 0, 5), HasSubstr("changed"));
}

}  // namespace
}  // namespace bloomery
