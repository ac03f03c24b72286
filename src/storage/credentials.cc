#include "storage/credentials.h"

#include <ctime>
#include <pugixml.hpp>
#include <thread>

#include "base/json.h"
#include "base/mapped_file.h"
#include "storage/sigv4.h"

namespace bloomery {
namespace {

using std::chrono::system_clock;

// Credentials are checked when a request arrives, not while it lasts, so minutes are enough; and containers
// and instances have new ones to give five minutes before the old ones expire.
constexpr std::chrono::minutes kRefreshBefore{5};
constexpr int kAttempts = 3;
constexpr std::uint64_t kMaxTokenBytes = 64U << 10U;

std::unexpected<Error> Denied(std::string message) {
  return Fail(ErrorCode::kPermissionDenied, "{}", message);
}

// For services on this host or of AWS's: faults of a moment are tried again.
Result<HttpResponse> PerformPatiently(HttpClient& http, const HttpRequest& request) {
  for (int attempt = 1;; ++attempt) {
    auto response = http.Perform(request);
    const bool again = response ? response->status >= 500 : response.error().code == ErrorCode::kUnavailable;
    if (!again || attempt == kAttempts) return response;
    std::this_thread::sleep_for(std::chrono::milliseconds(100 << attempt));
  }
}

Result<std::string> ReadToken(const std::string& path) {
  ASSIGN_OR_RETURN(std::string token, ReadFileToString(path, kMaxTokenBytes));
  while (token.ends_with('\n') || token.ends_with('\r')) token.pop_back();
  return token;
}

std::optional<system_clock::time_point> ParseTime(const std::string& text) {
  std::tm utc{};
  if (::strptime(text.c_str(), "%Y-%m-%dT%H:%M:%S", &utc) == nullptr) return std::nullopt;
  return system_clock::from_time_t(::timegm(&utc));
}

// The document of containers and instances.
Result<AwsCredentials> FromJson(const std::string& body, const std::string& source) {
  const auto parsed = ParseJson(body, source);
  if (!parsed || !parsed->is_object()) return Denied(source + ": the answer is not a JSON object");
  const json::object& object = parsed->get_object();
  AwsCredentials credentials{.source = source};
  ASSIGN_OR_RETURN(const auto id, GetString(object, "AccessKeyId"));
  ASSIGN_OR_RETURN(const auto secret, GetString(object, "SecretAccessKey"));
  ASSIGN_OR_RETURN(const auto token, GetString(object, "Token"));
  ASSIGN_OR_RETURN(const auto expires, GetString(object, "Expiration"));
  if (!id || !secret) return Denied(source + ": the answer holds no keys");
  credentials.access_key_id = *id;
  credentials.secret_access_key = *secret;
  credentials.session_token = token.value_or("");
  if (expires) credentials.expires = ParseTime(*expires);
  return credentials;
}

Result<std::optional<AwsCredentials>> FromEnvironment(const EnvReader& env) {
  AwsCredentials credentials{.access_key_id = env("AWS_ACCESS_KEY_ID"),
                             .secret_access_key = env("AWS_SECRET_ACCESS_KEY"),
                             .session_token = env("AWS_SESSION_TOKEN"),
                             .expires = std::nullopt,
                             .source = "the environment (AWS_ACCESS_KEY_ID)"};
  if (credentials.access_key_id.empty()) return std::nullopt;
  if (credentials.secret_access_key.empty())
    return Denied("AWS_ACCESS_KEY_ID is set and AWS_SECRET_ACCESS_KEY is not");
  return credentials;
}

Result<AwsCredentials> AssumeWebIdentity(HttpClient& http, const EnvReader& env, const AwsProfile& profile,
                                         const std::string& token_file, const std::string& role) {
  const std::string source = fmt::format("the web identity in {} for {}", token_file, role);
  auto token = ReadToken(token_file);
  if (!token) return Denied(source + ": the token cannot be read: " + token.error().message);
  std::string region = env("AWS_REGION");
  if (region.empty()) region = env("AWS_DEFAULT_REGION");
  if (region.empty()) region = profile.Get("region");
  std::string url = env("AWS_ENDPOINT_URL_STS");
  if (url.empty()) url = env("AWS_ENDPOINT_URL");
  if (url.empty())
    url = region.empty() ? "https://sts.amazonaws.com" : fmt::format("https://sts.{}.amazonaws.com", region);
  const std::string session = env("AWS_ROLE_SESSION_NAME");
  const std::string body = AwsQuery({{"Action", "AssumeRoleWithWebIdentity"},
                                     {"Version", "2011-06-15"},
                                     {"RoleArn", role},
                                     {"RoleSessionName", session.empty() ? "bloomery" : session},
                                     {"WebIdentityToken", *token}});
  const HttpRequest request{.method = "POST",
                            .url = url + "/",
                            .headers = {{"content-type", "application/x-www-form-urlencoded"}},
                            .body = std::as_bytes(std::span(body)),
                            .timeout = std::chrono::seconds(30)};
  ASSIGN_OR_RETURN(const HttpResponse response, PerformPatiently(http, request));
  pugi::xml_document document;
  document.load_buffer(response.body.data(), response.body.size());
  if (response.status != 200) {
    const std::string code = document.child("ErrorResponse").child("Error").child_value("Code");
    return Denied(
        fmt::format("{}: STS answers {} {}; check the role's trust policy", source, response.status, code));
  }
  const pugi::xml_node node = document.child("AssumeRoleWithWebIdentityResponse")
                                  .child("AssumeRoleWithWebIdentityResult")
                                  .child("Credentials");
  AwsCredentials credentials{.access_key_id = node.child_value("AccessKeyId"),
                             .secret_access_key = node.child_value("SecretAccessKey"),
                             .session_token = node.child_value("SessionToken"),
                             .expires = ParseTime(node.child_value("Expiration")),
                             .source = source};
  if (credentials.access_key_id.empty() || credentials.secret_access_key.empty())
    return Denied(source + ": the answer holds no keys");
  return credentials;
}

Result<std::optional<AwsCredentials>> FromWebIdentity(HttpClient& http, const EnvReader& env,
                                                      const AwsProfile& profile) {
  std::string token_file = env("AWS_WEB_IDENTITY_TOKEN_FILE");
  std::string role = env("AWS_ROLE_ARN");
  if (token_file.empty()) {
    token_file = profile.Get("web_identity_token_file");
    role = profile.Get("role_arn");
  }
  if (token_file.empty()) return std::nullopt;
  if (role.empty()) return Denied("a web identity needs a role: set AWS_ROLE_ARN");
  return AssumeWebIdentity(http, env, profile, token_file, role);
}

Result<std::optional<AwsCredentials>> FromProfile(const AwsProfile& profile) {
  AwsCredentials credentials{.access_key_id = profile.Get("aws_access_key_id"),
                             .secret_access_key = profile.Get("aws_secret_access_key"),
                             .session_token = profile.Get("aws_session_token"),
                             .expires = std::nullopt,
                             .source = fmt::format("the profile \"{}\"", profile.name())};
  if (!credentials.access_key_id.empty() && !credentials.secret_access_key.empty()) return credentials;
  for (const char* key : {"sso_session", "sso_start_url", "credential_process", "role_arn"}) {
    if (profile.Get(key).empty()) continue;
    return Denied(
        fmt::format("{} says {}, which bloomery does not do itself: run `eval \"$(aws configure "
                    "export-credentials --format env)\"` first",
                    credentials.source, key));
  }
  return std::nullopt;
}

// A token must not be sent in the clear to another host.
bool MayAskInTheClear(std::string_view url) {
  std::string_view host = url.substr(std::string_view("http://").size());
  host = host.substr(0, host.find('/'));
  host = host.starts_with('[') ? host.substr(0, host.find(']') + 1) : host.substr(0, host.find(':'));
  return host == "localhost" || host == "[::1]" || host == "169.254.170.2" || host == "169.254.170.23" ||
         host == "[fd00:ec2::23]" ||
         (host.starts_with("127.") && host.find_first_not_of("0123456789.") == std::string_view::npos);
}

Result<std::optional<AwsCredentials>> FromContainer(HttpClient& http, const EnvReader& env) {
  const std::string relative = env("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI");
  const std::string url =
      relative.empty() ? env("AWS_CONTAINER_CREDENTIALS_FULL_URI") : "http://169.254.170.2" + relative;
  if (url.empty()) return std::nullopt;
  const bool in_the_clear = url.starts_with("http://");
  if (!in_the_clear && !url.starts_with("https://"))
    return Denied("AWS_CONTAINER_CREDENTIALS_FULL_URI is no URL");
  if (in_the_clear && !MayAskInTheClear(url)) {
    return Denied(
        "AWS_CONTAINER_CREDENTIALS_FULL_URI is http to another host; only https, or http to this host or its "
        "container agent, may be asked for credentials");
  }
  HttpRequest request{.url = url, .direct = in_the_clear, .timeout = std::chrono::seconds(10)};
  std::string token = env("AWS_CONTAINER_AUTHORIZATION_TOKEN");
  if (const std::string file = env("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"); !file.empty()) {
    ASSIGN_OR_RETURN(token, ReadToken(file));
  }
  if (!token.empty()) request.headers.emplace_back("authorization", token);
  ASSIGN_OR_RETURN(const HttpResponse response, PerformPatiently(http, request));
  if (response.status != 200)
    return Denied(fmt::format("the container's credentials: status {}", response.status));
  return FromJson(response.body, "the container's credentials");
}

Result<std::optional<AwsCredentials>> FromInstance(HttpClient& http, const EnvReader& env) {
  const std::string folder = "iam/security-credentials/";
  const auto roles = ReadInstanceMetadata(http, env, folder);
  if (!roles) return std::nullopt;
  const std::string role = roles->substr(0, roles->find('\n'));
  if (role.empty()) return std::nullopt;
  ASSIGN_OR_RETURN(const std::string body, ReadInstanceMetadata(http, env, folder + role));
  return FromJson(body, fmt::format("the instance's role {}", role));
}

}  // namespace

Result<AwsCredentials> CredentialChain::Fetch() const {
  ASSIGN_OR_RETURN(auto found, FromEnvironment(env_));
  if (found) return *std::move(found);
  ASSIGN_OR_RETURN(const AwsProfile profile, AwsProfile::Load(env_));
  ASSIGN_OR_RETURN(found, FromWebIdentity(http_, env_, profile));
  if (found) return *std::move(found);
  ASSIGN_OR_RETURN(found, FromProfile(profile));
  if (found) return *std::move(found);
  ASSIGN_OR_RETURN(found, FromContainer(http_, env_));
  if (found) return *std::move(found);
  ASSIGN_OR_RETURN(found, FromInstance(http_, env_));
  if (found) return *std::move(found);
  return Denied(
      "no AWS credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, name a profile of ~/.aws with "
      "AWS_PROFILE, give this host or container a role, or read a public bucket with --no-sign-request");
}

Result<std::optional<AwsCredentials>> CredentialChain::Get() {
  if (anonymous_) return std::nullopt;
  const std::scoped_lock lock(mutex_);
  const auto now = system_clock::now();
  if (current_ && (!current_->expires || *current_->expires - kRefreshBefore > now)) return current_;
  auto fetched = Fetch();
  if (fetched) {
    current_ = *std::move(fetched);
  } else if (!current_ || *current_->expires <= now) {
    return std::unexpected(std::move(fetched).error());
  }
  return current_;
}

void CredentialChain::Expire(const AwsCredentials& used) {
  const std::scoped_lock lock(mutex_);
  if (current_ && current_->access_key_id == used.access_key_id &&
      current_->session_token == used.session_token)
    current_.reset();
}

}  // namespace bloomery
