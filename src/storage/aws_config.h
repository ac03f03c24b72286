// What AWS's tools read from the environment and from ~/.aws: profiles, the region, and endpoints other than
// AWS's own. Credentials are credentials.h. Left out: profiles of single sign-on, credential_process and
// roles assumed through other profiles, which are refused by name and never passed over in silence.
#pragma once

#include <functional>
#include <map>
#include <string>

#include "base/result.h"
#include "storage/http_client.h"

namespace bloomery {

// The value of an environment variable, "" where it is not set. Tests bring their own.
using EnvReader = std::function<std::string(const std::string& name)>;
std::string ProcessEnvironment(const std::string& name);

class AwsProfile {
 public:
  // Of AWS_PROFILE ("default" otherwise), from AWS_CONFIG_FILE and AWS_SHARED_CREDENTIALS_FILE or ~/.aws. A
  // file that is not there is empty; a profile that was named and is in neither is kNotFound.
  static Result<AwsProfile> Load(const EnvReader& env);

  const std::string& name() const { return name_; }
  // "" where there is none. A value nested under another is "outer.inner" (s3.addressing_style).
  std::string Get(const std::string& key) const;

 private:
  std::string name_;
  std::map<std::string, std::string> values_;  // constant after Load
};

struct AwsEndpoint {
  std::string region{};  // a bucket elsewhere is found by its redirect
  std::string url;       // "" for AWS's own
  bool path_style = false;
};

// Region: AWS_REGION, AWS_DEFAULT_REGION, the profile, the instance's metadata, us-east-1. Endpoint:
// AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL, the profile's; AWS_IGNORE_CONFIGURED_ENDPOINT_URLS=true ignores
// them.
Result<AwsEndpoint> FindS3Endpoint(HttpClient& http, const EnvReader& env);

// One value of the instance's metadata (IMDSv2), such as "placement/region". kNotFound where the service is
// switched off (AWS_EC2_METADATA_DISABLED) or does not answer within two seconds.
Result<std::string> ReadInstanceMetadata(HttpClient& http, const EnvReader& env, const std::string& path);

}  // namespace bloomery
