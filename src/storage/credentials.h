// Who a request to AWS is from: the places where AWS's own tools look, in their order. No secret is in an
// error, and nothing here logs.
//
//   1. AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN
//   2. a web identity: AWS_WEB_IDENTITY_TOKEN_FILE and AWS_ROLE_ARN, or the profile's (EKS)
//   3. the profile's keys (aws_config.h)
//   4. the container's: AWS_CONTAINER_CREDENTIALS_RELATIVE_URI or _FULL_URI (ECS, SageMaker, EKS Pod
//   Identity)
//   5. the instance's role (IMDSv2)
#pragma once

#include <chrono>
#include <mutex>
#include <optional>
#include <string>

#include "base/result.h"
#include "storage/aws_config.h"
#include "storage/http_client.h"

namespace bloomery {

struct AwsCredentials {
  std::string access_key_id{};
  std::string secret_access_key{};
  std::string session_token{};  // "" for keys that do not expire
  std::optional<std::chrono::system_clock::time_point> expires{};
  std::string source{};  // where they were found, for messages
};

// Thread safe.
class CredentialChain {
 public:
  // `anonymous`: requests are not signed at all, for public buckets. `http` must outlive the chain.
  CredentialChain(HttpClient& http, EnvReader env, bool anonymous = false)
      : http_(http), env_(std::move(env)), anonymous_(anonymous) {}

  // What to sign with now; nullopt where anonymous. Fetched once, and again five minutes before they expire.
  // kPermissionDenied when there are none anywhere, or a place that was named does not give them.
  Result<std::optional<AwsCredentials>> Get();

  // The service says that `used` have expired, whatever they say themselves: the next Get fetches others,
  // unless another thread has done so already.
  void Expire(const AwsCredentials& used);

 private:
  Result<AwsCredentials> Fetch() const;

  // Constant after construction.
  HttpClient& http_;
  EnvReader env_;
  bool anonymous_;

  std::mutex mutex_;
  std::optional<AwsCredentials> current_;  // guarded by mutex_
};

}  // namespace bloomery
