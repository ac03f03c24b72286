#include "storage/credentials.h"

#include <gmock/gmock.h>

#include <filesystem>
#include <fstream>

#include "storage/fake_http.h"

namespace bloomery {
namespace {

using testing::HasSubstr;
using testing::Not;
namespace fs = std::filesystem;

constexpr const char* kSecret = "TheSecretItself";

// An environment of its own, in which nothing of this machine is seen.
class Credentials : public testing::Test {
 protected:
  Credentials() {
    folder_ = fs::temp_directory_path() / fmt::format("credentials_test.{}", ::getpid());
    fs::create_directories(folder_);
    env_ = {{"HOME", folder_.string()}, {"AWS_EC2_METADATA_DISABLED", "true"}};
  }
  ~Credentials() override { fs::remove_all(folder_); }

  EnvReader Env() {
    return [this](const std::string& name) { return env_.contains(name) ? env_.at(name) : ""; };
  }

  fs::path WriteFile(const std::string& name, const std::string& text) {
    fs::create_directories((folder_ / name).parent_path());
    std::ofstream(folder_ / name) << text;
    return folder_ / name;
  }

  Result<std::optional<AwsCredentials>> Get(FakeHttp& http) { return CredentialChain(http, Env()).Get(); }

  static FakeHttp Nothing() {
    return FakeHttp([](const HttpRequest&) -> FakeHttp::Answer { return {{.status = 404}}; });
  }

  static std::string Document(std::string_view id, std::chrono::seconds left) {
    const std::time_t end = std::chrono::system_clock::to_time_t(std::chrono::system_clock::now() + left);
    std::tm utc{};
    ::gmtime_r(&end, &utc);
    char text[32];
    std::strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%SZ", &utc);
    return fmt::format(
        R"({{"Code":"Success","AccessKeyId":"{}","SecretAccessKey":"{}","Token":"T","Expiration":"{}"}})", id,
        kSecret, text);
  }

  fs::path folder_;
  std::map<std::string, std::string> env_;
};

TEST_F(Credentials, OfTheEnvironmentComeFirst) {
  WriteFile(".aws/credentials", "[default]\naws_access_key_id=FILE\naws_secret_access_key=x\n");
  env_["AWS_ACCESS_KEY_ID"] = "ENV";
  env_["AWS_SECRET_ACCESS_KEY"] = kSecret;
  env_["AWS_SESSION_TOKEN"] = "token";
  FakeHttp http = Nothing();
  const auto got = Get(http);
  ASSERT_TRUE(got && *got);
  EXPECT_EQ((*got)->access_key_id, "ENV");
  EXPECT_EQ((*got)->secret_access_key, kSecret);
  EXPECT_EQ((*got)->session_token, "token");

  env_.erase("AWS_SECRET_ACCESS_KEY");
  const auto half = Get(http);
  ASSERT_FALSE(half);
  EXPECT_EQ(half.error().code, ErrorCode::kPermissionDenied);
  EXPECT_THAT(half.error().message, HasSubstr("AWS_SECRET_ACCESS_KEY is not"));
}

TEST_F(Credentials, OfAProfile) {
  WriteFile(".aws/credentials",
            "# a comment\n[default]\naws_access_key_id = D\naws_secret_access_key = x\n"
            "[work]\naws_access_key_id=W\naws_secret_access_key=with=equals\naws_session_token=t\n");
  WriteFile(
      ".aws/config",
      "[default]\nregion = eu-north-1\n[profile work]\nregion=ap-south-1\naws_access_key_id=overridden\n"
      "endpoint_url = http://minio:9000/\ns3 =\n  addressing_style = virtual\n");
  FakeHttp http = Nothing();
  EXPECT_EQ((*Get(http))->access_key_id, "D");
  EXPECT_EQ(FindS3Endpoint(http, Env())->region, "eu-north-1");
  EXPECT_EQ(FindS3Endpoint(http, Env())->url, "");
  EXPECT_FALSE(FindS3Endpoint(http, Env())->path_style);

  env_["AWS_PROFILE"] = "work";
  const auto work = Get(http);
  EXPECT_EQ((*work)->access_key_id, "W");
  EXPECT_EQ((*work)->secret_access_key, "with=equals");
  const auto endpoint = FindS3Endpoint(http, Env());
  EXPECT_EQ(endpoint->region, "ap-south-1");
  EXPECT_EQ(endpoint->url, "http://minio:9000");
  EXPECT_FALSE(endpoint->path_style);

  env_["AWS_REGION"] = "us-west-2";
  env_["AWS_ENDPOINT_URL"] = "http://all:1";
  EXPECT_EQ(FindS3Endpoint(http, Env())->url, "http://all:1");
  env_["AWS_ENDPOINT_URL_S3"] = "http://s3:2";
  EXPECT_EQ(FindS3Endpoint(http, Env())->url, "http://s3:2");
  EXPECT_EQ(FindS3Endpoint(http, Env())->region, "us-west-2");
  env_["AWS_ENDPOINT_URL_S3"] = "s3:2";
  EXPECT_EQ(FindS3Endpoint(http, Env()).error().code, ErrorCode::kInvalidArgument);

  env_["AWS_PROFILE"] = "absent";
  EXPECT_THAT(Get(http).error().message, HasSubstr("\"absent\""));
}

TEST_F(Credentials, FilesElsewhereAndServicesSections) {
  env_["AWS_SHARED_CREDENTIALS_FILE"] =
      WriteFile("elsewhere/c", "[default]\naws_access_key_id=E\naws_secret_access_key=x\n").string();
  env_["AWS_CONFIG_FILE"] =
      WriteFile("elsewhere/f",
                "[default]\nservices = lab\n[services lab]\ns3 =\n  endpoint_url = http://lab:1\n")
          .string();
  FakeHttp http = Nothing();
  EXPECT_EQ((*Get(http))->access_key_id, "E");
  EXPECT_EQ(FindS3Endpoint(http, Env())->url, "http://lab:1");
  EXPECT_TRUE(FindS3Endpoint(http, Env())->path_style);
}

TEST_F(Credentials, WhatIsNotSupportedIsSaid) {
  WriteFile(".aws/config", "[default]\nsso_session = corp\n");
  FakeHttp http = Nothing();
  const auto got = Get(http);
  EXPECT_THAT(got.error().message, HasSubstr("sso_session"));
  EXPECT_THAT(got.error().message, HasSubstr("export-credentials"));
}

TEST_F(Credentials, NoneAnywhere) {
  FakeHttp http = Nothing();
  const auto none = Get(http);
  EXPECT_EQ(none.error().code, ErrorCode::kPermissionDenied);
  EXPECT_THAT(none.error().message, HasSubstr("AWS_PROFILE"));
  const auto anonymous = CredentialChain(http, Env(), /*anonymous=*/true).Get();
  ASSERT_TRUE(anonymous);
  EXPECT_FALSE(*anonymous);
}

TEST_F(Credentials, OfAWebIdentity) {
  env_["AWS_WEB_IDENTITY_TOKEN_FILE"] = WriteFile("token", "eyJ.the-token\n").string();
  env_["AWS_ROLE_ARN"] = "arn:aws:iam::1:role/r";
  env_["AWS_REGION"] = "eu-west-1";
  int status = 200;
  int calls = 0;
  std::string body;
  FakeHttp http([&](const HttpRequest& request) -> FakeHttp::Answer {
    EXPECT_EQ(request.url, "https://sts.eu-west-1.amazonaws.com/");
    body.assign(reinterpret_cast<const char*>(request.body.data()), request.body.size());
    if (++calls == 1) return {{.status = 503}};  // tried again
    if (status != 200) {
      return {{.status = status,
               .body = "<ErrorResponse><Error><Code>InvalidIdentityToken</Code><Message>eyJ.the-token"
                       "</Message></Error></ErrorResponse>"}};
    }
    return {{.status = 200,
             .body = "<AssumeRoleWithWebIdentityResponse><AssumeRoleWithWebIdentityResult><Credentials>"
                     "<AccessKeyId>ASIA</AccessKeyId><SecretAccessKey>s</SecretAccessKey><SessionToken>t"
                     "</SessionToken><Expiration>2100-01-01T00:00:00Z</Expiration></Credentials>"
                     "</AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>"}};
  });
  const auto got = Get(http);
  ASSERT_TRUE(got) << got.error().message;
  EXPECT_EQ((*got)->access_key_id, "ASIA");
  EXPECT_EQ((*got)->session_token, "t");
  EXPECT_TRUE((*got)->expires);
  EXPECT_EQ(
      body,
      "Action=AssumeRoleWithWebIdentity&RoleArn=arn%3Aaws%3Aiam%3A%3A1%3Arole%2Fr&RoleSessionName=bloomery"
      "&Version=2011-06-15&WebIdentityToken=eyJ.the-token");

  status = 400;
  const auto refused = Get(http);
  EXPECT_THAT(refused.error().message, HasSubstr("InvalidIdentityToken"));
  EXPECT_THAT(refused.error().message, Not(HasSubstr("eyJ")));
}

TEST_F(Credentials, OfAContainer) {
  env_["AWS_CONTAINER_CREDENTIALS_FULL_URI"] = "http://169.254.170.23/v1/credentials";
  env_["AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"] = WriteFile("pod", "pod-token\n").string();
  FakeHttp http([&](const HttpRequest& request) -> FakeHttp::Answer {
    EXPECT_EQ(FakeHttp::HeaderOf(request, "authorization"), "pod-token");
    EXPECT_TRUE(request.direct);
    return {{.status = 200, .body = Document("POD", std::chrono::hours(1))}};
  });
  EXPECT_EQ((*Get(http))->access_key_id, "POD");
  env_["AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"] = "/v2/credentials/1";
  EXPECT_EQ((*Get(http))->access_key_id, "POD");
  EXPECT_EQ(http.seen().back().url, "http://169.254.170.2/v2/credentials/1");

  env_.erase("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI");
  const std::size_t before = http.seen().size();
  for (const char* url : {"http://example.com/c", "http://127.evil.com/c", "ftp://127.0.0.1/"}) {
    env_["AWS_CONTAINER_CREDENTIALS_FULL_URI"] = url;
    EXPECT_EQ(Get(http).error().code, ErrorCode::kPermissionDenied) << url;
  }
  EXPECT_EQ(http.seen().size(), before) << "the token went out";
}

TEST_F(Credentials, OfAnInstance) {
  env_["AWS_EC2_METADATA_DISABLED"] = "";
  env_["AWS_EC2_METADATA_SERVICE_ENDPOINT"] = "http://imds/";
  FakeHttp http([&](const HttpRequest& request) -> FakeHttp::Answer {
    if (request.url == "http://imds/latest/api/token") {
      EXPECT_EQ(request.method, "PUT");
      return {{.status = 200, .body = "v2-token"}};
    }
    if (FakeHttp::HeaderOf(request, "x-aws-ec2-metadata-token") != "v2-token") return {{.status = 401}};
    if (request.url.ends_with("/iam/security-credentials/")) return {{.status = 200, .body = "my-role"}};
    if (request.url.ends_with("/iam/security-credentials/my-role"))
      return {{.status = 200, .body = Document("ROLE", std::chrono::hours(1))}};
    if (request.url.ends_with("/placement/region")) return {{.status = 200, .body = "sa-east-1"}};
    return {{.status = 404}};
  });
  EXPECT_EQ((*Get(http))->access_key_id, "ROLE");
  EXPECT_EQ(FindS3Endpoint(http, Env())->region, "sa-east-1");
}

TEST_F(Credentials, AreFetchedAgainBeforeTheyExpire) {
  env_["AWS_CONTAINER_CREDENTIALS_FULL_URI"] = "http://localhost:1/c";
  int calls = 0;
  bool fails = false;
  std::chrono::seconds left = std::chrono::minutes(4);
  FakeHttp http([&](const HttpRequest&) -> FakeHttp::Answer {
    ++calls;
    if (fails) return {{.status = 403, .body = kSecret}};
    return {{.status = 200, .body = Document(fmt::format("K{}", calls), left)}};
  });
  CredentialChain chain(http, Env());
  EXPECT_EQ((*chain.Get())->access_key_id, "K1");
  fails = true;
  EXPECT_EQ((*chain.Get())->access_key_id, "K1") << "four minutes are left";
  EXPECT_EQ(calls, 2);
  fails = false;
  left = std::chrono::hours(1);
  EXPECT_EQ((*chain.Get())->access_key_id, "K3");
  EXPECT_EQ((*chain.Get())->access_key_id, "K3");
  EXPECT_EQ(calls, 3);
  const AwsCredentials old = **chain.Get();
  chain.Expire(old);
  EXPECT_EQ((*chain.Get())->access_key_id, "K4");
  chain.Expire(old);  // a slower thread
  EXPECT_EQ((*chain.Get())->access_key_id, "K4");
  fails = true;
  chain.Expire(**chain.Get());
  const auto failed = chain.Get();
  ASSERT_FALSE(failed);
  EXPECT_THAT(failed.error().message, Not(HasSubstr(kSecret)));
}

}  // namespace
}  // namespace bloomery
