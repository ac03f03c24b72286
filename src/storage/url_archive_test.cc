#include "storage/url_archive.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "base/mapped_file.h"
#include "storage/fake_http.h"

namespace bloomery {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;
using testing::Not;

constexpr const char* kUrl = "https://host/a/model.tar.gz?signature=secret";

class UrlArchiveTest : public testing::Test {
 protected:
  UrlArchiveTest()
      : folder_(fs::temp_directory_path() / fmt::format("url_archive_test.{}", ::getpid())),
        archive_(ReadFileToString(BLOOMERY_SOURCE_DIR "/testdata/archives/wrapped.tar.gz").value()) {
    fs::remove_all(folder_);
  }
  ~UrlArchiveTest() override { fs::remove_all(folder_); }

  HttpResponse Whole() const {
    return {200, {{"etag", etag_}, {"content-length", std::to_string(archive_.size())}}, archive_};
  }

  Result<fs::path> Fetch(FakeHttp& http, const ArchiveLimits& limits = {}) {
    return FetchUrlArchive(http, kUrl, folder_, nullptr, limits);
  }

  // Of what was refused nothing is left but the lock's folder.
  void ExpectNothing() { EXPECT_TRUE(fs::is_empty(folder_)); }

  const fs::path folder_;
  const std::string archive_;
  std::string etag_ = "\"1\"";
};

TEST_F(UrlArchiveTest, UnpackedOnceForEachVersion) {
  FakeHttp http([&](const HttpRequest&) { return FakeHttp::Answer{Whole()}; });
  const auto first = Fetch(http);
  ASSERT_TRUE(first) << first.error().message;
  EXPECT_TRUE(fs::exists(*first / "config.json"));
  const auto written = fs::last_write_time(*first / "config.json");
  EXPECT_EQ(Fetch(http).value(), *first);
  EXPECT_EQ(fs::last_write_time(*first / "config.json"), written);
  etag_ = "\"2\"";
  EXPECT_NE(Fetch(http).value(), *first);
  EXPECT_EQ(std::distance(fs::directory_iterator(folder_), {}), 2) << "two versions, and no packed file";
}

TEST_F(UrlArchiveTest, WithoutAVersionItIsFetchedAgain) {
  FakeHttp http([&](const HttpRequest&) { return FakeHttp::Answer{{200, {}, archive_}}; });
  const auto first = Fetch(http);
  ASSERT_TRUE(first);
  std::ofstream(*first / "stale") << "of before";
  EXPECT_EQ(Fetch(http).value(), *first);
  EXPECT_FALSE(fs::exists(*first / "stale"));
}

TEST_F(UrlArchiveTest, ACutConnectionGoesOn) {
  const std::size_t half = archive_.size() / 2;
  FakeHttp http([&](const HttpRequest& request) {
    const std::string range = FakeHttp::HeaderOf(request, "range");
    if (range.empty()) return FakeHttp::Answer{Whole(), half};
    EXPECT_EQ(range, fmt::format("bytes={}-", half));
    EXPECT_EQ(FakeHttp::HeaderOf(request, "if-range"), etag_);
    HttpResponse rest{206, {{"etag", etag_}}, archive_.substr(half)};
    rest.headers.emplace_back("content-range",
                              fmt::format("bytes {}-{}/{}", half, archive_.size() - 1, archive_.size()));
    return FakeHttp::Answer{rest};
  });
  EXPECT_TRUE(Fetch(http));
  EXPECT_EQ(http.seen().size(), 2U);
}

TEST_F(UrlArchiveTest, WhatHasChangedMeanwhileBeginsAnew) {
  bool first = true;
  FakeHttp http([&](const HttpRequest&) {
    FakeHttp::Answer answer{Whole()};
    if (std::exchange(first, false)) {
      answer.cut_after = 10;
      etag_ = "\"2\"";
    }
    return answer;
  });
  const auto directory = Fetch(http);
  ASSERT_TRUE(directory) << directory.error().message;
  EXPECT_TRUE(fs::exists(*directory / "config.json"));
}

TEST_F(UrlArchiveTest, RedirectsAreFollowedWhereTheyAreSafe) {
  std::string to = "https://store/blob";
  FakeHttp http([&](const HttpRequest& request) {
    return FakeHttp::Answer{request.url == "https://store/blob" ? Whole()
                                                                : HttpResponse{302, {{"location", to}}}};
  });
  EXPECT_TRUE(Fetch(http));
  for (const char* bad : {"http://store/blob", "file:///etc/passwd", "ftp://x/y"}) {
    to = bad;
    EXPECT_EQ(Fetch(http).error().code, ErrorCode::kPermissionDenied) << bad;
  }
  to = "/round";
  EXPECT_THAT(Fetch(http).error().message, HasSubstr("too many redirects"));
}

TEST_F(UrlArchiveTest, RefusalsSayWhyAndLeaveNothing) {
  const std::pair<int, ErrorCode> statuses[] = {{404, ErrorCode::kNotFound},
                                                {403, ErrorCode::kPermissionDenied},
                                                {400, ErrorCode::kInvalidArgument},
                                                {503, ErrorCode::kUnavailable}};
  for (const auto& [status, code] : statuses) {
    FakeHttp http([status = status](const HttpRequest&) { return FakeHttp::Answer{{status, {}, "no"}}; });
    const auto refused = Fetch(http);
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code, code);
    EXPECT_THAT(refused.error().message, Not(HasSubstr("secret")));
    ExpectNothing();
  }
}

TEST_F(UrlArchiveTest, WhatIsTooLargeOrNoArchiveIsRefused) {
  FakeHttp large([&](const HttpRequest&) { return FakeHttp::Answer{Whole()}; });
  EXPECT_EQ(Fetch(large, {.max_bytes = 10}).error().code, ErrorCode::kTooLarge);
  FakeHttp endless([&](const HttpRequest&) { return FakeHttp::Answer{{200, {}, archive_}}; });
  EXPECT_EQ(Fetch(endless, {.max_bytes = 10}).error().code, ErrorCode::kTooLarge) << "without a length";
  FakeHttp page(
      [&](const HttpRequest&) { return FakeHttp::Answer{{200, {}, "<html>please log in</html>"}}; });
  EXPECT_EQ(Fetch(page).error().code, ErrorCode::kCorrupt);
  ExpectNothing();
}

}  // namespace
}  // namespace bloomery
