#include "storage/s3_client.h"

#include <gmock/gmock.h>

#include "storage/fake_http.h"

namespace bloomery {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;

constexpr const char* kSecret = "TheSecretItself";

std::string EnvOf(const std::string& name) {
  if (name == "AWS_ACCESS_KEY_ID") return "AKID";
  if (name == "AWS_SECRET_ACCESS_KEY") return kSecret;
  return "";
}

HttpResponse ErrorAnswer(int status, std::string_view code, std::string_view more = "") {
  return {.status = status,
          .body = fmt::format("<?xml version=\"1.0\"?><Error><Code>{}</Code><Message>m</Message>{}</Error>",
                              code, more)};
}

struct Collect final : BodySink {
  Status Begin(const HttpResponse&) override {
    ++begun;
    text.clear();
    return {};
  }
  Status Write(std::span<const std::byte> bytes) override {
    text.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    return {};
  }
  int begun = 0;
  std::string text;
};

// A client whose requests `respond` answers, without waiting between attempts.
struct Fixture {
  explicit Fixture(FakeHttp::Respond respond, AwsEndpoint endpoint = {.region = "eu-west-1", .url = {}})
      : http(std::move(respond)),
        credentials(http, EnvOf),
        s3(http, credentials,
           {.endpoint = std::move(endpoint), .attempts = 4, .first_wait = std::chrono::milliseconds(0)}) {}
  FakeHttp http;
  CredentialChain credentials;
  S3Client s3;
};

TEST(S3Uris, AreParsed) {
  EXPECT_EQ(ParseS3Uri("s3://b/a/k")->key, "a/k");
  EXPECT_EQ(ParseS3Uri("s3://b/a/k")->bucket, "b");
  EXPECT_EQ(ParseS3Uri("s3://b")->key, "");
  EXPECT_EQ(ParseS3Uri("s3://b/")->key, "");
  EXPECT_EQ(ParseS3Uri("s3://my.bucket-1/x%20 +=ü/")->key, "x%20 +=ü/");
  for (const char* wrong :
       {"s3:/b", "s3://", "s3:///k", "http://b/k", "s3://a@evil/k", "s3://a?b/k", "s3://b#/k"})
    EXPECT_EQ(ParseS3Uri(wrong).error().code, ErrorCode::kInvalidArgument) << wrong;
}

std::string UrlOf(AwsEndpoint endpoint, const S3Uri& object) {
  Fixture f([](const HttpRequest&) -> FakeHttp::Answer { return {{.status = 200}}; }, std::move(endpoint));
  Collect sink;
  EXPECT_TRUE(f.s3.Get(object, std::nullopt, "", sink));
  return f.http.seen().front().url;
}

TEST(S3ClientTest, WhereRequestsGo) {
  const AwsEndpoint aws{.region = "eu-west-1", .url = {}};
  EXPECT_EQ(UrlOf(aws, {"b", "a b/c=d+e"}), "https://b.s3.eu-west-1.amazonaws.com/a%20b/c%3Dd%2Be");
  EXPECT_EQ(UrlOf(aws, {"b.c", "k"}), "https://s3.eu-west-1.amazonaws.com/b.c/k");
  EXPECT_EQ(UrlOf({.region = "cn-north-1", .url = {}}, {"b", "k"}),
            "https://b.s3.cn-north-1.amazonaws.com.cn/k");
  EXPECT_EQ(UrlOf({"us-east-1", "http://127.0.0.1:9000", true}, {"b", "k"}), "http://127.0.0.1:9000/b/k");
  EXPECT_EQ(UrlOf({"us-east-1", "http://host:9000", false}, {"b", "k"}), "http://b.host:9000/k");
  EXPECT_EQ(UrlOf({"us-east-1", "https://host/s3", true}, {"b", "k"}), "https://host/s3/b/k");
}

TEST(S3ClientTest, ListingsHavePages) {
  Fixture f([](const HttpRequest& request) -> FakeHttp::Answer {
    EXPECT_THAT(request.url, HasSubstr("prefix=opt%2F"));
    const bool second = request.url.find("continuation-token=t%2B1") != std::string::npos;
    return {
        {.status = 200,
         .body =
             second ? "<ListBucketResult><EncodingType>url</EncodingType><IsTruncated>false</IsTruncated>"
                      "<Contents><Key>opt/z+y%2Bx%3D%C3%BC</Key><Size>2</Size><ETag>\"e\"</ETag></Contents>"
                      "</ListBucketResult>"
                    : "<ListBucketResult><EncodingType>url</EncodingType><IsTruncated>true</IsTruncated>"
                      "<Contents><Key>opt/a</Key><Size>9000000000</Size><ETag>&quot;x&quot;</ETag></Contents>"
                      "<NextContinuationToken>t+1</NextContinuationToken></ListBucketResult>"}};
  });
  const auto objects = f.s3.List("b", "opt/");
  ASSERT_TRUE(objects) << objects.error().message;
  ASSERT_EQ(objects->size(), 2U);
  EXPECT_EQ((*objects)[0].key, "opt/a");
  EXPECT_EQ((*objects)[0].size_bytes, 9'000'000'000U);
  EXPECT_EQ((*objects)[0].etag, "\"x\"");
  EXPECT_EQ((*objects)[1].key, "opt/z y+x=ü");

  Fixture not_s3([](const HttpRequest&) -> FakeHttp::Answer { return {{.status = 200, .body = "<html>"}}; });
  EXPECT_EQ(not_s3.s3.List("b", "").error().code, ErrorCode::kCorrupt);
}

TEST(S3ClientTest, ListingsThatAreNoneAreRefused) {
  const auto listing = [](std::string_view token) {
    return Fixture([token](const HttpRequest&) -> FakeHttp::Answer {
             return {{.status = 200,
                      .body = fmt::format(
                          "<ListBucketResult><IsTruncated>true</IsTruncated><Contents><Key>a</Key>"
                          "<Size>1</Size></Contents>{}</ListBucketResult>",
                          token)}};
           })
        .s3.List("b", "");
  };
  EXPECT_EQ(listing("").error().code, ErrorCode::kCorrupt) << "half of one is not taken for all";
  EXPECT_EQ(listing("<NextContinuationToken>t</NextContinuationToken>").error().code, ErrorCode::kTooLarge);
}

TEST(S3ClientTest, BusyServicesAndResetsAreTriedAgain) {
  for (const HttpResponse& fault :
       {ErrorAnswer(503, "SlowDown"), ErrorAnswer(500, "InternalError"), ErrorAnswer(429, ""),
        ErrorAnswer(400, "RequestTimeout"), HttpResponse{}}) {
    int calls = 0;
    Fixture f([&](const HttpRequest&) -> FakeHttp::Answer {
      const HttpResponse whole{.status = 200, .body = std::string(5000, 'x')};
      if (++calls == 4) return {whole};
      if (fault.status == 0) return {whole, /*cut_after=*/2500};
      return {fault};
    });
    Collect sink;
    const Status got = f.s3.Get({"b", "k"}, std::nullopt, "", sink);
    EXPECT_TRUE(got) << got.error().message;
    EXPECT_EQ(sink.text, std::string(5000, 'x'));
    EXPECT_EQ(f.s3.retries(), 3U);
  }
  Fixture f([](const HttpRequest&) -> FakeHttp::Answer { return {ErrorAnswer(503, "SlowDown")}; });
  const auto failed = f.s3.Head({"b", "k"});
  EXPECT_EQ(failed.error().code, ErrorCode::kUnavailable);
  EXPECT_EQ(f.http.seen().size(), 4U);
}

TEST(S3ClientTest, FindsTheBucketsRegion) {
  for (const bool header : {false, true}) {
    Fixture f([header](const HttpRequest& request) -> FakeHttp::Answer {
      if (request.url.starts_with("https://b.s3.ap-south-1.")) {
        EXPECT_THAT(FakeHttp::HeaderOf(request, "authorization"), HasSubstr("/ap-south-1/s3/"));
        return {{.status = 200, .headers = {{"content-length", "7"}}}};
      }
      if (header) return {{.status = 301, .headers = {{"x-amz-bucket-region", "ap-south-1"}}}};
      return {ErrorAnswer(400, "AuthorizationHeaderMalformed", "<Region>ap-south-1</Region>")};
    });
    EXPECT_EQ(f.s3.Head({"b", "k"})->size_bytes, 7U);
    EXPECT_EQ(f.s3.Head({"b", "k"})->size_bytes, 7U);
    EXPECT_EQ(f.http.seen().size(), 3U) << "the region is remembered";
  }
  // A region is a part of a host's name: nothing else is taken for one.
  Fixture evil([](const HttpRequest&) -> FakeHttp::Answer {
    return {{.status = 301, .headers = {{"x-amz-bucket-region", "evil.com/"}}}};
  });
  EXPECT_EQ(evil.s3.Head({"b", "k"}).error().code, ErrorCode::kUnavailable);
  EXPECT_EQ(evil.http.seen().size(), 1U);
}

TEST(S3ClientTest, ExpiredCredentialsAreFetchedAgain) {
  int given = 0;
  int refused = 0;
  FakeHttp http([&](const HttpRequest& request) -> FakeHttp::Answer {
    if (request.url == "http://localhost/creds") {
      return {{.status = 200,
               .body = fmt::format(R"({{"AccessKeyId":"K{}","SecretAccessKey":"s","Token":"t",)"
                                   R"("Expiration":"2100-01-01T00:00:00Z"}})",
                                   ++given)}};
    }
    if (FakeHttp::HeaderOf(request, "authorization").find("=K1/") == std::string::npos)
      return {{.status = 200}};
    ++refused;
    return {ErrorAnswer(400, "ExpiredToken")};
  });
  CredentialChain credentials(http, [](const std::string& name) -> std::string {
    return name == "AWS_CONTAINER_CREDENTIALS_FULL_URI" ? "http://localhost/creds" : "";
  });
  S3Client s3(http, credentials, {.endpoint = {.region = "r", .url = {}}});
  Collect sink;
  EXPECT_TRUE(s3.Get({"b", "k"}, std::nullopt, "", sink));
  EXPECT_EQ(refused, 1);
  EXPECT_EQ(given, 2);
}

TEST(S3ClientTest, RefusalsSayWhatToCheck) {
  const auto message = [](HttpResponse answer, ErrorCode code, const S3Uri& object = {"b", "k"}) {
    Fixture f([&](const HttpRequest&) -> FakeHttp::Answer { return {answer}; });
    Collect sink;
    const Status got = f.s3.Get(object, S3Range{0, 1}, "\"e\"", sink);
    EXPECT_EQ(f.http.seen().size(), 1U) << "a refusal is final";
    EXPECT_EQ(got.error().code, code);
    EXPECT_THAT(got.error().message, Not(HasSubstr(kSecret)));
    return got.error().message;
  };
  EXPECT_THAT(message(ErrorAnswer(404, "NoSuchBucket"), ErrorCode::kNotFound), HasSubstr("no such bucket"));
  EXPECT_THAT(message(ErrorAnswer(404, "NoSuchKey"), ErrorCode::kNotFound), HasSubstr("s3://b/k"));
  EXPECT_THAT(message(ErrorAnswer(403, "AccessDenied"), ErrorCode::kPermissionDenied),
              HasSubstr("allow s3:GetObject on arn:aws:s3:::b/k"));
  EXPECT_THAT(message(ErrorAnswer(403, "SignatureDoesNotMatch"), ErrorCode::kPermissionDenied),
              HasSubstr("the secret access key from the environment"));
  EXPECT_THAT(message(ErrorAnswer(403, "RequestTimeTooSkewed"), ErrorCode::kPermissionDenied),
              HasSubstr("clock"));
  EXPECT_THAT(message({.status = 412}, ErrorCode::kCorrupt), HasSubstr("changed"));
}

TEST(S3ClientTest, HeadsKnowTheirChecksums) {
  const auto head = [](std::vector<NameValue> headers) {
    headers.emplace_back("content-length", "10");
    return ParseS3Head({.status = 200, .headers = std::move(headers)});
  };
  const std::string md5 = "\"d41d8cd98f00b204e9800998ecf8427e";
  EXPECT_EQ(head({{"etag", md5 + "\""}}).checksum->kind, ChecksumKind::kMd5);
  EXPECT_EQ(head({{"etag", md5 + "\""}}).checksum->parts, 0);
  EXPECT_EQ(head({{"etag", md5 + "-12\""}}).checksum->parts, 12);
  EXPECT_FALSE(head({{"etag", md5 + "\""}, {"x-amz-server-side-encryption", "aws:kms"}}).checksum);
  EXPECT_TRUE(head({{"etag", md5 + "\""}, {"x-amz-server-side-encryption", "AES256"}}).checksum);
  EXPECT_FALSE(head({{"etag", "\"0x8D\""}}).checksum);
  const S3Head crc = head({{"etag", md5 + "\""}, {"x-amz-checksum-crc64nvme", "rosUhgp5mIg="}});
  EXPECT_EQ(crc.checksum->kind, ChecksumKind::kCrc64Nvme);
  EXPECT_EQ(ToHex(crc.checksum->digest), "ae8b14860a799888");
  const S3Head parts = head({{"etag", md5 + "-3\""}, {"x-amz-checksum-crc32c", "4waSgw==-3"}});
  EXPECT_EQ(parts.checksum->kind, ChecksumKind::kCrc32c);
  EXPECT_EQ(parts.checksum->parts, 3);
  EXPECT_EQ(head({{"etag", md5 + "-3\""}, {"x-amz-checksum-crc32c", "4waSgw=="}}).checksum->parts, 3);
  EXPECT_EQ(head({{"etag", md5 + "-3\""},
                  {"x-amz-checksum-crc32c", "4waSgw=="},
                  {"x-amz-checksum-type", "FULL_OBJECT"}})
                .checksum->parts,
            0);
}

TEST(S3ClientTest, UploadsInParts) {
  std::string finished;
  Fixture f([&](const HttpRequest& request) -> FakeHttp::Answer {
    if (request.url.ends_with("?uploads="))
      return {
          {.status = 200,
           .body =
               "<InitiateMultipartUploadResult><UploadId>u/1</UploadId></InitiateMultipartUploadResult>"}};
    if (request.method == "PUT") {
      EXPECT_THAT(request.url, HasSubstr("partNumber=1&uploadId=u%2F1"));
      EXPECT_EQ(FakeHttp::HeaderOf(request, "x-amz-checksum-crc32c"), "4waSgw==");
      EXPECT_EQ(FakeHttp::HeaderOf(request, "x-amz-content-sha256"), kUnsignedPayload);
      return {{.status = 200, .headers = {{"etag", "\"p1\""}}}};
    }
    finished.assign(reinterpret_cast<const char*>(request.body.data()), request.body.size());
    return {ErrorAnswer(200, "InternalError")};  // S3 may find out after it has said 200
  });
  const S3Uri object{"b", "k"};
  EXPECT_EQ(f.s3.BeginUpload(object), "u/1");
  const std::string bytes = "123456789";
  const auto part = f.s3.UploadPart(object, "u/1", 1, std::as_bytes(std::span(bytes)));
  ASSERT_TRUE(part);
  EXPECT_EQ(f.s3.FinishUpload(object, "u/1", {*part}).error().code, ErrorCode::kInternal);
  EXPECT_EQ(f.http.seen().size(), 2U + 4U);
  EXPECT_THAT(finished, HasSubstr("<Part><PartNumber>1</PartNumber><ETag>\"p1\"</ETag>"
                                  "<ChecksumCRC32C>4waSgw==</ChecksumCRC32C></Part>"));
}

}  // namespace
}  // namespace bloomery
