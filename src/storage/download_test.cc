#include "storage/download.h"

#include <gmock/gmock.h>

#include <charconv>
#include <fstream>
#include <random>
#include <thread>

#include "storage/download_journal.h"
#include "storage/fake_http.h"
#include "storage/folder_lock.h"

namespace bloomery {
namespace {

using testing::HasSubstr;
namespace fs = std::filesystem;

constexpr std::uint64_t kPart = 1000;

std::string RandomText(std::size_t size, unsigned seed) {
  std::mt19937 random(seed);
  std::string text(size, '\0');
  for (char& c : text) c = static_cast<char>(random());
  return text;
}

// A bucket in memory that speaks as much of S3 as downloads need, and its faults.
class FakeBucket {
 public:
  struct Object {
    std::string bytes;
    std::vector<NameValue> headers;  // checksums
    std::uint64_t uploaded_parts_of = 0;
  };

  FakeHttp::Answer Respond(const HttpRequest& request) {
    const std::string url = request.url.substr(std::string("http://s3/b").size());
    if (url.starts_with("?")) return List(request.url);
    std::string key = url.substr(1, url.find('?') - 1);
    const auto found = objects.find(key);
    if (found == objects.end()) return {{.status = 404}};
    const Object& object = found->second;
    HttpResponse head{.status = 200, .headers = object.headers};
    head.headers.emplace_back("etag", Etag(object));
    if (const std::string match = FakeHttp::HeaderOf(request, "if-match");
        !match.empty() && match != Etag(object))
      return {{.status = 412}};
    if (request.method == "HEAD") {
      const bool part = request.url.find("partNumber=1") != std::string::npos;
      head.headers.emplace_back("content-length",
                                fmt::to_string(part ? object.uploaded_parts_of : object.bytes.size()));
      return {head};
    }
    ++gets;
    const std::string range = FakeHttp::HeaderOf(request, "range");
    std::size_t begin = 0;
    std::size_t end = object.bytes.size();
    if (!range.empty()) {
      std::sscanf(range.c_str(), "bytes=%zu-%zu", &begin, &end);
      ++end;
      head.status = 206;
      head.headers.emplace_back("content-range",
                                fmt::format("bytes {}-{}/{}", begin, end - 1, object.bytes.size()));
    }
    head.body = object.bytes.substr(begin, end - begin);
    head.headers.emplace_back("content-length", fmt::to_string(head.body.size()));
    FakeHttp::Answer answer{head};
    if (on_get) on_get(gets, answer);
    return answer;
  }

  static std::string Etag(const Object& object) {
    return "\"" + ToHex(ChecksumOf(ChecksumKind::kMd5, std::as_bytes(std::span(object.bytes)))) +
           (object.uploaded_parts_of > 0 ? "-2\"" : "\"");
  }

  std::map<std::string, Object> objects;
  int gets = 0;
  std::function<void(int, FakeHttp::Answer&)> on_get;

 private:
  FakeHttp::Answer List(const std::string& url) const {
    const std::size_t at = url.find("prefix=") + 7;
    std::string prefix = url.substr(at, url.find('&', at) - at);
    for (std::size_t slash; (slash = prefix.find("%2F")) != std::string::npos;) prefix.replace(slash, 3, "/");
    std::string body = "<ListBucketResult><IsTruncated>false</IsTruncated>";
    for (const auto& [key, object] : objects) {
      if (key.starts_with(prefix))
        body += fmt::format("<Contents><Key>{}</Key><Size>{}</Size><ETag>{}</ETag></Contents>", key,
                            object.bytes.size(), Etag(object));
    }
    return {{.status = 200, .body = body + "</ListBucketResult>"}};
  }
};

class DownloadTest : public testing::Test {
 protected:
  DownloadTest()
      : http_([this](const HttpRequest& request) { return bucket_.Respond(request); }),
        credentials_(
            http_, [](const std::string&) { return ""; }, /*anonymous=*/true),
        s3_(http_, credentials_,
            {.endpoint = {"us-east-1", "http://s3", true},
             .attempts = 3,
             .first_wait = std::chrono::milliseconds(0)}) {
    folder_ = fs::temp_directory_path() / fmt::format("download_test.{}", ::getpid());
    fs::remove_all(folder_);
    fs::create_directories(folder_);
    bucket_.objects["opt/config.json"].bytes = "{}";
    bucket_.objects["opt/sub/model.bin"].bytes = RandomText(4321, 1);
    bucket_.objects["opt/empty"].bytes = "";
    bucket_.objects["opt-30b/model.bin"].bytes = RandomText(50, 2);
  }
  ~DownloadTest() override { fs::remove_all(folder_); }

  Result<DownloadReport> Run(std::string_view uri = "s3://b/opt", int connections = 1) {
    bucket_.gets = 0;
    return DownloadDirectory(s3_, *ParseS3Uri(uri), folder_ / "model",
                             {.connections = connections, .part_bytes = kPart, .progress = progress_});
  }

  std::string Read(const std::string& name) {
    std::ifstream file(folder_ / "model" / name);
    return {std::istreambuf_iterator<char>(file), {}};
  }

  void ExpectWhole() {
    EXPECT_EQ(Read("config.json"), bucket_.objects["opt/config.json"].bytes);
    EXPECT_EQ(Read("sub/model.bin"), bucket_.objects["opt/sub/model.bin"].bytes);
    EXPECT_TRUE(fs::exists(folder_ / "model/empty"));
    EXPECT_FALSE(fs::exists(folder_ / "model.partial"));
    EXPECT_FALSE(fs::exists(folder_ / "model.lock"));
    EXPECT_FALSE(fs::exists(folder_ / "model" / DownloadJournal::kName));
  }

  void ExpectNothingShown() { EXPECT_FALSE(fs::exists(folder_ / "model")); }

  fs::path folder_;
  FakeBucket bucket_;
  FakeHttp http_;
  CredentialChain credentials_;
  S3Client s3_;
  std::function<bool(const TransferProgress&)> progress_;
};

TEST_F(DownloadTest, AFolderAndNotItsSibling) {
  const auto report = Run("s3://b/opt", 4);
  ASSERT_TRUE(report) << report.error().message;
  ExpectWhole();
  EXPECT_EQ(report->files, 3U);
  EXPECT_EQ(report->total_bytes, 4323U);
  EXPECT_EQ(report->moved_bytes, 4323U);
  EXPECT_EQ(report->unverified, 0U);
  EXPECT_EQ(bucket_.gets, 2 + 5);
}

TEST_F(DownloadTest, OneObject) {
  const auto report = Run("s3://b/opt/sub/model.bin");
  ASSERT_TRUE(report) << report.error().message;
  EXPECT_EQ(Read("model.bin"), bucket_.objects["opt/sub/model.bin"].bytes);
  EXPECT_EQ(report->files, 1U);
}

TEST_F(DownloadTest, NothingThereSaysWhatIs) {
  const auto report = Run("s3://b/op");
  EXPECT_EQ(report.error().code, ErrorCode::kNotFound);
  EXPECT_THAT(report.error().message, HasSubstr("s3://b/opt-30b/model.bin"));
  EXPECT_EQ(Run("s3://b/opt/config.json/").error().code, ErrorCode::kNotFound);
  ExpectNothingShown();
}

TEST_F(DownloadTest, ASecondTimeFetchesNothingAndAChangeEverything) {
  ASSERT_TRUE(Run());
  const auto again = Run();
  ASSERT_TRUE(again) << again.error().message;
  EXPECT_TRUE(again->was_there);
  EXPECT_EQ(bucket_.gets, 0);

  std::ifstream held(folder_ / "model/sub/model.bin");
  bucket_.objects["opt/sub/model.bin"].bytes[7] ^= 1;
  const auto changed = Run();
  ASSERT_TRUE(changed) << changed.error().message;
  EXPECT_FALSE(changed->was_there);
  ExpectWhole();
  fs::remove(folder_ / "model/config.json");
  EXPECT_FALSE(Run()->was_there);
  ExpectWhole();
}

TEST_F(DownloadTest, OtherPeoplesDirectoriesStay) {
  fs::create_directories(folder_ / "model");
  EXPECT_TRUE(Run()) << "an empty directory is replaced";
  EXPECT_EQ(Run("s3://b/opt-30b").error().code, ErrorCode::kInvalidArgument);
  fs::remove_all(folder_ / "model");
  fs::create_directories(folder_ / "model/mine");
  EXPECT_THAT(Run().error().message, HasSubstr("was not made by"));
  EXPECT_TRUE(fs::exists(folder_ / "model/mine"));
  fs::remove_all(folder_ / "model");
  fs::create_directories(folder_ / "model.partial/mine");
  EXPECT_THAT(Run().error().message, HasSubstr("in the way"));
  EXPECT_TRUE(fs::exists(folder_ / "model.partial/mine"));
}

TEST_F(DownloadTest, TruncatedAnswersAndResets) {
  bucket_.on_get = [](int get, FakeHttp::Answer& answer) {
    if (get % 3 == 1) answer.cut_after = answer.response.body.size() / 2;
    if (get % 3 == 2 && answer.response.status == 206) answer.response.body.resize(10);
  };
  const auto report = Run();
  ASSERT_TRUE(report) << report.error().message;
  ExpectWhole();
  EXPECT_EQ(report->moved_bytes, 4323U) << "what was thrown away does not count";
}

TEST_F(DownloadTest, CorruptedBytesAreFetchedAgain) {
  bucket_.on_get = [](int get, FakeHttp::Answer& answer) {
    if (get == 4) answer.response.body[5] ^= 0x10;
  };
  ASSERT_TRUE(Run());
  ExpectWhole();
  EXPECT_EQ(bucket_.gets, 2 + 5 + 5);

  fs::remove_all(folder_ / "model");
  bucket_.on_get = [](int, FakeHttp::Answer& answer) {
    if (!answer.response.body.empty()) answer.response.body[0] ^= 0x10;
  };
  const auto report = Run();
  EXPECT_EQ(report.error().code, ErrorCode::kCorrupt);
  EXPECT_THAT(report.error().message, HasSubstr("md5"));
  ExpectNothingShown();
}

// Checksums of every form, each with a byte changed on the way once: it must be noticed.
TEST_F(DownloadTest, EveryFormOfChecksum) {
  auto& object = bucket_.objects["opt/sub/model.bin"];
  const auto bytes = std::as_bytes(std::span(object.bytes));
  const auto nested = [&](ChecksumKind kind, std::uint64_t part) {
    std::string all;
    int parts = 0;
    for (std::uint64_t at = 0; at < bytes.size(); at += part, ++parts)
      all += ChecksumOf(kind, bytes.subspan(at, std::min<std::uint64_t>(part, bytes.size() - at)));
    return fmt::format("{}-{}", ToBase64(ChecksumOf(kind, std::as_bytes(std::span(all)))), parts);
  };
  for (const ChecksumKind kind : kChecksumKinds) {
    if (kind == ChecksumKind::kMd5) continue;  // the ETag of the other tests
    const std::string name = fmt::format("x-amz-checksum-{}", ChecksumName(kind));
    for (const std::uint64_t part : {0UL, 700UL, 2200UL}) {
      object.uploaded_parts_of = part;
      object.headers = {{name, part == 0 ? ToBase64(ChecksumOf(kind, bytes)) : nested(kind, part)},
                        {"x-amz-server-side-encryption", "aws:kms"}};
      bucket_.on_get = [](int get, FakeHttp::Answer& answer) {
        if (get == 4) answer.response.body[99] ^= 1;
      };
      fs::remove_all(folder_ / "model");
      const auto report = Run();
      ASSERT_TRUE(report) << report.error().message;
      EXPECT_EQ(report->unverified, 0U);
      ExpectWhole();
      const int parts =
          static_cast<int>((bytes.size() + (part == 0 ? kPart : part) - 1) / (part == 0 ? kPart : part));
      EXPECT_EQ(bucket_.gets, 2 + 2 * parts) << name << " " << part;
    }
  }
  object.headers = {{"x-amz-server-side-encryption", "aws:kms"}};
  object.uploaded_parts_of = 0;
  fs::remove_all(folder_ / "model");
  bucket_.on_get = nullptr;
  EXPECT_EQ(Run()->unverified, 1U);
}

TEST_F(DownloadTest, GoesOnAfterAnEnd) {
  // The network goes away for good at the fifth request: config.json, empty and two parts are there.
  bucket_.on_get = [](int get, FakeHttp::Answer& answer) {
    if (get >= 5) answer.cut_after = 0;
  };
  EXPECT_EQ(Run().error().code, ErrorCode::kUnavailable);
  ExpectNothingShown();
  bucket_.on_get = nullptr;
  const auto report = Run();
  ASSERT_TRUE(report) << report.error().message;
  ExpectWhole();
  EXPECT_EQ(report->kept_bytes, 2002U);
  EXPECT_EQ(report->moved_bytes, 2321U);
  EXPECT_EQ(bucket_.gets, 1 + 3) << "the empty file, and three parts";
}

TEST_F(DownloadTest, BelievesTheDiskNotTheJournal) {
  bucket_.on_get = [](int get, FakeHttp::Answer& answer) {
    if (get >= 6) answer.cut_after = 0;
  };
  ASSERT_FALSE(Run());
  bucket_.on_get = nullptr;
  {
    std::fstream file(folder_ / "model.partial/sub/model.bin", std::ios::in | std::ios::out);
    file.seekp(1500);
    file.put('x');
    file.put('y');
  }
  // A line cut short, as a crash leaves it.
  std::ofstream(folder_ / "model.partial" / DownloadJournal::kName, std::ios::app) << "sub%2Fmodel.bin half";
  const auto report = Run();
  ASSERT_TRUE(report) << report.error().message;
  ExpectWhole();
  EXPECT_EQ(report->kept_bytes, 2002U);
}

TEST_F(DownloadTest, AChangedObjectIsNotMixedWithWhatThereWas) {
  bucket_.on_get = [this](int get, FakeHttp::Answer& answer) {
    if (get == 5) bucket_.objects["opt/sub/model.bin"].bytes = RandomText(4321, 9);
    if (get >= 5) answer.cut_after = 0;
  };
  const auto report = Run();
  EXPECT_EQ(report.error().code, ErrorCode::kCorrupt);
  EXPECT_THAT(report.error().message, HasSubstr("changed"));
  ExpectNothingShown();
  bucket_.on_get = nullptr;
  const auto again = Run();
  ASSERT_TRUE(again) << again.error().message;
  EXPECT_EQ(again->kept_bytes, 2U) << "parts of the old version do not count";
  ExpectWhole();
}

TEST_F(DownloadTest, KeysThatNoFileCanHave) {
  for (const char* key : {"opt/../../evil", "opt//double", "opt/./dot", "opt/sub", "opt/config.json/below"}) {
    const auto objects = bucket_.objects;
    bucket_.objects[key].bytes = "evil";
    const auto report = Run();
    ASSERT_FALSE(report) << key;
    EXPECT_EQ(report.error().code, ErrorCode::kUnsupported) << report.error().message;
    ExpectNothingShown();
    bucket_.objects = objects;
  }
  bucket_.objects["opt/marker/"].bytes = "";
  EXPECT_TRUE(Run());
}

TEST_F(DownloadTest, StopsWhenTold) {
  progress_ = [](const TransferProgress& progress) { return progress.waiting; };
  bucket_.on_get = [](int, FakeHttp::Answer&) { std::this_thread::sleep_for(std::chrono::milliseconds(60)); };
  const auto report = Run();
  EXPECT_EQ(report.error().code, ErrorCode::kCancelled);
  EXPECT_THAT(report.error().message, HasSubstr("goes on from here"));
  ExpectNothingShown();
}

TEST_F(DownloadTest, OneProcessAtATime) {
  auto lock = FolderLock::Take(folder_ / "model", [] { return true; });
  ASSERT_TRUE(lock);
  int waited = 0;
  progress_ = [&](const TransferProgress& progress) { return !progress.waiting || ++waited < 3; };
  EXPECT_EQ(Run().error().code, ErrorCode::kCancelled);
  EXPECT_EQ(waited, 3);

  progress_ = nullptr;
  Result<DownloadReport> second = Fail(ErrorCode::kInternal, "not run");
  std::thread thread([&] { second = Run(); });
  std::this_thread::sleep_for(std::chrono::milliseconds(100));
  EXPECT_EQ(bucket_.gets, 0);
  {
    const FolderLock freed = *std::move(lock);
  }
  thread.join();
  ASSERT_TRUE(second) << second.error().message;
  ExpectWhole();
}

}  // namespace
}  // namespace bloomery
