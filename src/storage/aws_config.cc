#include "storage/aws_config.h"

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <sstream>

#include "base/mapped_file.h"

namespace bloomery {
namespace {

namespace fs = std::filesystem;

using Section = std::map<std::string, std::string>;
using IniFile = std::map<std::string, Section>;

std::string Trimmed(std::string_view text) {
  constexpr std::string_view kSpace = " \t\r";
  const std::size_t begin = text.find_first_not_of(kSpace);
  if (begin == std::string_view::npos) return "";
  return std::string(text.substr(begin, text.find_last_not_of(kSpace) - begin + 1));
}

// Lines of a value that are indented belong to the key above them.
IniFile ParseIni(const std::string& text) {
  IniFile file;
  std::string section;
  std::string outer;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    const bool nested = line.starts_with(' ') || line.starts_with('\t');
    line = Trimmed(line);
    if (line.empty() || line.front() == '#' || line.front() == ';') continue;
    if (line.front() == '[') {
      section = Trimmed(line.substr(1, line.find(']') - 1));
      outer.clear();
      continue;
    }
    const std::size_t equals = line.find('=');
    if (equals == std::string::npos) continue;
    std::string key = Trimmed(line.substr(0, equals));
    if (nested && !outer.empty()) {
      key = outer + "." + key;
    } else {
      outer = key;
    }
    file[section][key] = Trimmed(line.substr(equals + 1));
  }
  return file;
}

Result<IniFile> ReadIni(const EnvReader& env, const std::string& variable, const char* name) {
  std::string path = env(variable);
  const std::string home = env("HOME");
  if (path.empty() && home.empty()) return IniFile();
  if (path.empty()) path = home + "/.aws/" + name;
  if (path.starts_with("~/")) path = home + path.substr(1);
  std::error_code ignored;
  if (!fs::exists(path, ignored)) return IniFile();
  ASSIGN_OR_RETURN(const std::string text, ReadFileToString(path, 1U << 20U));
  return ParseIni(text);
}

std::string FirstOf(std::initializer_list<std::string> values) {
  for (const std::string& value : values) {
    if (!value.empty()) return value;
  }
  return "";
}

}  // namespace

std::string ProcessEnvironment(const std::string& name) {
  const char* value = std::getenv(name.c_str());
  return value == nullptr ? "" : value;
}

Result<AwsProfile> AwsProfile::Load(const EnvReader& env) {
  AwsProfile profile;
  const std::string chosen = FirstOf({env("AWS_PROFILE"), env("AWS_DEFAULT_PROFILE")});
  profile.name_ = chosen.empty() ? "default" : chosen;
  ASSIGN_OR_RETURN(IniFile config, ReadIni(env, "AWS_CONFIG_FILE", "config"));
  ASSIGN_OR_RETURN(IniFile credentials, ReadIni(env, "AWS_SHARED_CREDENTIALS_FILE", "credentials"));
  bool found = false;
  // Later ones take precedence: keys of the credentials file over those of the configuration.
  const auto add = [&](const IniFile& file, const std::string& section) {
    const auto it = file.find(section);
    if (it == file.end()) return;
    found = true;
    for (const auto& [key, value] : it->second) profile.values_[key] = value;
  };
  if (profile.name_ == "default") add(config, "default");
  add(config, "profile " + profile.name_);
  add(credentials, profile.name_);
  if (!found && !chosen.empty()) {
    return Fail(ErrorCode::kNotFound,
                "AWS_PROFILE names \"{}\", which is neither in ~/.aws/config nor in ~/.aws/credentials",
                chosen);
  }
  if (const std::string services = profile.Get("services"); !services.empty()) {
    for (const auto& [key, value] : config["services " + services])
      profile.values_["services." + key] = value;
  }
  return profile;
}

std::string AwsProfile::Get(const std::string& key) const {
  const auto found = values_.find(key);
  return found == values_.end() ? "" : found->second;
}

Result<std::string> ReadInstanceMetadata(HttpClient& http, const EnvReader& env, const std::string& path) {
  if (env("AWS_EC2_METADATA_DISABLED") == "true")
    return Fail(ErrorCode::kNotFound, "instance metadata is switched off (AWS_EC2_METADATA_DISABLED)");
  std::string service = env("AWS_EC2_METADATA_SERVICE_ENDPOINT");
  if (service.empty()) service = "http://169.254.169.254";
  while (service.ends_with('/')) service.pop_back();
  HttpRequest request{.method = "PUT",
                      .url = service + "/latest/api/token",
                      .headers = {{"x-aws-ec2-metadata-token-ttl-seconds", "300"}},
                      .connect_timeout = std::chrono::seconds(1),
                      .direct = true,
                      .timeout = std::chrono::seconds(2)};
  const auto token = http.Perform(request);
  if (!token || token->status != 200 || token->body.empty())
    return Fail(ErrorCode::kNotFound, "no instance metadata service at {}", service);
  request.method = "GET";
  request.url = service + "/latest/meta-data/" + path;
  request.headers = {{"x-aws-ec2-metadata-token", token->body}};
  ASSIGN_OR_RETURN(HttpResponse response, http.Perform(request));
  if (response.status != 200)
    return Fail(ErrorCode::kNotFound, "instance metadata: {}: status {}", path, response.status);
  return std::move(response.body);
}

Result<AwsEndpoint> FindS3Endpoint(HttpClient& http, const EnvReader& env) {
  ASSIGN_OR_RETURN(const AwsProfile profile, AwsProfile::Load(env));
  AwsEndpoint endpoint;
  if (env("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS") != "true") {
    endpoint.url = FirstOf({env("AWS_ENDPOINT_URL_S3"), env("AWS_ENDPOINT_URL"),
                            profile.Get("services.s3.endpoint_url"), profile.Get("endpoint_url")});
  }
  while (endpoint.url.ends_with('/')) endpoint.url.pop_back();
  if (!endpoint.url.empty() && !endpoint.url.starts_with("http://") &&
      !endpoint.url.starts_with("https://")) {
    return Fail(ErrorCode::kInvalidArgument,
                "the S3 endpoint \"{}\" is no URL; write http://host:port or https://host", endpoint.url);
  }
  const std::string style = profile.Get("s3.addressing_style");
  endpoint.path_style = style == "path" || (style != "virtual" && !endpoint.url.empty());
  endpoint.region = FirstOf({env("AWS_REGION"), env("AWS_DEFAULT_REGION"), profile.Get("region")});
  if (endpoint.region.empty() && endpoint.url.empty())
    endpoint.region = ReadInstanceMetadata(http, env, "placement/region").value_or("");
  if (endpoint.region.empty()) endpoint.region = "us-east-1";
  return endpoint;
}

}  // namespace bloomery
