// Against AWS's published aws4 test suite, and against requests signed by botocore
// (scripts/goldens/sigv4_goldens.py).
#include "storage/sigv4.h"

#include <gmock/gmock.h>

#include "base/json.h"
#include "base/mapped_file.h"

namespace bloomery {
namespace {

constexpr std::string_view kEmptyHash = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

struct SuiteCase {
  std::string_view name;
  std::string_view method;
  std::string path;
  std::vector<NameValue> query;
  std::vector<NameValue> headers;  // beside host and x-amz-date
  std::string_view body;
  std::string_view signature;
};

TEST(SigV4, PublishedSuite) {
  const std::string unreserved = "-._~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
  const std::vector<SuiteCase> cases = {
      {"get-vanilla",
       "GET",
       "/",
       {},
       {},
       "",
       "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"},
      {"get-vanilla-query-order-key-case",
       "GET",
       "/",
       {{"Param2", "value2"}, {"Param1", "value1"}},
       {},
       "",
       "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500"},
      {"get-vanilla-query-unreserved",
       "GET",
       "/",
       {{unreserved, unreserved}},
       {},
       "",
       "9c3e54bfcdf0b19771a7f523ee5669cdf59bc7cc0884027167c21bb143a40197"},
      {"get-utf8",
       "GET",
       AwsEncode("/\u1234", true),
       {},
       {},
       "",
       "8318018e0b0f223aa2bbf98705b62bb787dc9c0e678f255a891fd03141be5d85"},
      {"get-header-key-duplicate",
       "GET",
       "/",
       {},
       {{"My-Header1", "value2,value2,value1"}},
       "",
       "c9d5ea9f3f72853aea855b47ea873832890dbdd183b4468f858259531a5138ea"},
      {"post-vanilla",
       "POST",
       "/",
       {},
       {},
       "",
       "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b"},
      {"post-x-www-form-urlencoded",
       "POST",
       "/",
       {},
       {{"Content-Type", "application/x-www-form-urlencoded"}},
       "Param1=value1",
       "ff11897932ad3f4e8b18135d722051e5ac45fc38421b1da7b9d196a0fe09473a"},
  };
  for (const SuiteCase& c : cases) {
    std::vector<NameValue> headers = c.headers;
    headers.emplace_back("Host", "example.amazonaws.com");
    headers.emplace_back("X-Amz-Date", "20150830T123600Z");
    const std::string query = AwsQuery(c.query);
    const std::string hash = HexSha256(c.body);
    const std::string value = Authorization(
        {.method = c.method, .path = c.path, .query = query, .headers = headers, .payload_hash = hash},
        {"AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", "us-east-1", "service"});
    EXPECT_THAT(value, testing::EndsWith(fmt::format("Signature={}", c.signature))) << c.name;
    EXPECT_THAT(value,
                testing::StartsWith("AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/"
                                    "aws4_request, SignedHeaders="));
  }
}

std::string Text(const json::value& value) { return std::string(std::string_view(value.as_string())); }

TEST(SigV4, RequestsSignedByBotocore) {
  const auto text = ReadFileToString(BLOOMERY_SOURCE_DIR "/testdata/sigv4/botocore.json");
  ASSERT_TRUE(text) << text.error().message;
  const json::value golden = *ParseJson(*text, "botocore.json");
  const std::string id = Text(golden.at("access_key_id"));
  const std::string secret = Text(golden.at("secret_access_key"));
  const std::string region = Text(golden.at("region"));
  ASSERT_GE(golden.at("cases").as_array().size(), 16U);
  for (const json::value& c : golden.at("cases").as_array()) {
    std::vector<NameValue> query;
    for (const json::value& pair : c.at("query").as_array())
      query.emplace_back(Text(pair.as_array()[0]), Text(pair.as_array()[1]));
    std::vector<NameValue> headers;
    for (const auto& [name, value] : c.at("headers").as_object()) headers.emplace_back(name, Text(value));
    const std::string method = Text(c.at("method"));
    const std::string path = AwsEncode(Text(c.at("path")), true);
    const std::string encoded_query = AwsQuery(query);
    const std::string hash = Text(c.at("payload_hash"));
    const std::string service = Text(c.at("service"));
    if (hash != kUnsignedPayload) {
      EXPECT_EQ(HexSha256(Text(c.at("body"))), hash);
    }
    const SigningRequest request{method, path, encoded_query, headers, hash};
    EXPECT_EQ(Authorization(request, {id, secret, region, service}), Text(c.at("authorization")))
        << CanonicalRequest(request);
  }
}

TEST(SigV4, Parts) {
  EXPECT_EQ(HexSha256(std::string_view()), kEmptyHash);
  EXPECT_EQ(AwsEncode("a b/c=d+é~"), "a%20b%2Fc%3Dd%2B%C3%A9~");
  EXPECT_EQ(AwsEncode("a b/c", true), "a%20b/c");
  EXPECT_EQ(AwsQuery({{"b", "1"}, {"a", "/"}, {"a", ""}, {"B", "2"}}), "B=2&a=&a=%2F&b=1");
  EXPECT_EQ(AmzDate(1440938160), "20150830T123600Z");
}

}  // namespace
}  // namespace bloomery
