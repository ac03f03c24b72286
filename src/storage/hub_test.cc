#include "storage/hub.h"

#include <gmock/gmock.h>
#include <openssl/evp.h>

#include <fstream>
#include <map>

#include "base/mapped_file.h"
#include "storage/checksum.h"
#include "storage/fake_http.h"

namespace bloomery {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
namespace fs = std::filesystem;

constexpr const char* kCommit = "0123456789abcdef0123456789abcdef01234567";

std::string Sha256(const std::string& text) {
  return ToHex(ChecksumOf(ChecksumKind::kSha256, std::as_bytes(std::span(text))));
}

// `git hash-object`.
std::string GitSha1(const std::string& text) {
  const std::string whole = fmt::format("blob {}", text.size()) + '\0' + text;
  std::string digest(20, '\0');
  EVP_Digest(whole.data(), whole.size(), reinterpret_cast<unsigned char*>(digest.data()), nullptr, EVP_sha1(),
             nullptr);
  return ToHex(digest);
}

// A hub with one model, of which large files lie on another host.
class FakeHub {
 public:
  FakeHttp::Answer Respond(const HttpRequest& request) {
    ++requests;
    if (down) return {{.status = 503}};
    const std::string authorization = FakeHttp::HeaderOf(request, "authorization");
    if (request.url.starts_with("http://cdn/")) {
      EXPECT_EQ(authorization, "") << "the token is the hub's alone";
      return Bytes(request, request.url.substr(11));
    }
    if (!token.empty() && authorization != "Bearer " + token) return {{.status = 401}};
    const std::string path = request.url.substr(std::string("http://hub").size());
    if (path == fmt::format("/api/models/org/name/revision/{}?blobs=true", revision)) return {Listing()};
    if (path.starts_with("/api/"))
      return {{.status = 404, .headers = {{"x-error-code", "RevisionNotFound"}}}};
    const std::string name = path.substr(fmt::format("/org/name/resolve/{}/", kCommit).size());
    if (large.contains(name))
      return {{.status = 302,
               .headers = {{"location", "http://cdn/" + name},
                           {"x-linked-etag", '"' + Sha256(large[name]) + '"'},
                           {"x-linked-size", std::to_string(large[name].size())}}}};
    if (request.method == "HEAD")
      return {{.status = 200,
               .headers = {{"etag", '"' + GitSha1(small[name]) + '"'},
                           {"content-length", std::to_string(small[name].size())}}}};
    return Bytes(request, name);
  }

  std::map<std::string, std::string> small = {{"config.json", "{}"}, {"README.md", "read"}};
  std::map<std::string, std::string> large = {{"model.safetensors", std::string(5000, 'w')}};
  std::string token;
  std::string revision = "main";
  bool tells_blobs = true;
  bool down = false;
  int requests = 0;
  std::function<void(FakeHttp::Answer&)> on_bytes;

 private:
  FakeHttp::Answer Bytes(const HttpRequest& request, const std::string& name) {
    const std::string& all = large.contains(name) ? large[name] : small[name];
    std::size_t begin = 0;
    HttpResponse response{.status = 200};
    if (const std::string range = FakeHttp::HeaderOf(request, "range"); !range.empty()) {
      std::sscanf(range.c_str(), "bytes=%zu-", &begin);
      response.status = 206;
      response.headers.emplace_back("content-range",
                                    fmt::format("bytes {}-{}/{}", begin, all.size() - 1, all.size()));
    }
    response.body = all.substr(begin);
    FakeHttp::Answer answer{response};
    if (on_bytes) on_bytes(answer);
    return answer;
  }

  HttpResponse Listing() const {
    std::string files;
    for (const auto& [name, text] : small)
      files += fmt::format(
          R"({{"rfilename":"{}"{}}},)", name,
          tells_blobs ? fmt::format(R"(,"size":{},"blobId":"{}")", text.size(), GitSha1(text)) : "");
    for (const auto& [name, text] : large)
      files += fmt::format(
          R"({{"rfilename":"{}"{}}},)", name,
          tells_blobs ? fmt::format(R"(,"size":{0},"blobId":"x","lfs":{{"size":{0},"sha256":"{1}"}})",
                                    text.size(), Sha256(text))
                      : "");
    files.pop_back();
    return {.status = 200,
            .headers = {},
            .body = fmt::format(R"({{"sha":"{}","siblings":[{}]}})", kCommit, files)};
  }
};

class HubTest : public testing::Test {
 protected:
  HubTest() {
    std::string folder = (fs::temp_directory_path() / "hub_test_XXXXXX").string();
    EXPECT_NE(::mkdtemp(folder.data()), nullptr);
    options_ = {.endpoint = "http://hub",
                .cache = folder,
                .connections = 2,
                .first_wait = std::chrono::milliseconds(1)};
  }
  ~HubTest() override { fs::remove_all(options_.cache); }

  Result<HubModel> Fetch(const std::string& revision = "main") {
    return FetchFromHub(http_, "org/name", revision, options_);
  }
  std::string ErrorOf(const std::string& revision = "main") {
    const auto model = Fetch(revision);
    return model ? "fetched" : model.error().ToString();
  }
  fs::path root() const { return options_.cache / "models--org--name"; }

  FakeHub hub_;
  FakeHttp http_{[this](const HttpRequest& request) { return hub_.Respond(request); }};
  HubOptions options_;
};

TEST_F(HubTest, MakesTheCacheThatItsToolsMake) {
  const auto model = Fetch();
  ASSERT_TRUE(model) << model.error().message;
  EXPECT_EQ(model->directory, root() / "snapshots" / kCommit);
  EXPECT_EQ(*ReadFileToString(model->directory / "model.safetensors"), hub_.large["model.safetensors"]);
  EXPECT_EQ(fs::read_symlink(model->directory / "config.json"), fs::path("../../blobs") / GitSha1("{}"));
  EXPECT_EQ(*ReadFileToString(root() / "refs/main"), kCommit);
  EXPECT_FALSE(fs::exists(model->directory / "README.md")) << "nothing is served from it";
  hub_.requests = 0;
  const auto again = Fetch();
  ASSERT_TRUE(again);
  EXPECT_EQ(again->moved_bytes, 0U);
  EXPECT_EQ(hub_.requests, 1) << "the listing alone";
}

TEST_F(HubTest, FilesAreDescribedByTheirHeadersWhereTheListingSaysTooLittle) {
  hub_.tells_blobs = false;
  const auto model = Fetch();
  ASSERT_TRUE(model) << model.error().message;
  EXPECT_EQ(fs::read_symlink(model->directory / "model.safetensors").filename(),
            Sha256(hub_.large["model.safetensors"]));
}

TEST_F(HubTest, TheTokenGoesToTheHubAlone) {
  hub_.token = "hf_secret";
  EXPECT_THAT(ErrorOf(), testing::AllOf(HasSubstr("permission_denied"), HasSubstr("set HF_TOKEN")));
  options_.token = "hf_wrong";
  EXPECT_THAT(ErrorOf(), testing::AllOf(HasSubstr("no such model that HF_TOKEN's account may read"),
                                        testing::Not(HasSubstr("hf_wrong"))));
  options_.token = "hf_secret";
  EXPECT_EQ(ErrorOf(), "fetched");
}

TEST_F(HubTest, GoesOnFromWhatIsThere) {
  fs::create_directories(root() / "blobs");
  std::ofstream(root() / "blobs" / (Sha256(hub_.large["model.safetensors"]) + ".incomplete"))
      << std::string(4000, 'w');
  const auto model = Fetch();
  ASSERT_TRUE(model) << model.error().message;
  EXPECT_EQ(model->moved_bytes, 1002U);
  EXPECT_EQ(*ReadFileToString(model->directory / "model.safetensors"), hub_.large["model.safetensors"]);
}

TEST_F(HubTest, WhatIsThereAndWrongIsFetchedAgain) {
  fs::create_directories(root() / "blobs");
  std::ofstream(root() / "blobs" / (Sha256(hub_.large["model.safetensors"]) + ".incomplete"))
      << std::string(4000, 'x');
  ASSERT_EQ(ErrorOf(), "fetched");
  EXPECT_EQ(*ReadFileToString(root() / "snapshots" / kCommit / "model.safetensors"),
            hub_.large["model.safetensors"]);
}

TEST_F(HubTest, CutConnectionsAndBusyAnswersCostTimeOnly) {
  int answers = 0;
  hub_.on_bytes = [&answers](FakeHttp::Answer& answer) {
    ++answers;
    if (answers % 3 == 1) answer = {{.status = 503}};
    if (answers % 3 == 2) answer.cut_after = 1000;
  };
  ASSERT_EQ(ErrorOf(), "fetched");
  EXPECT_EQ(*ReadFileToString(root() / "snapshots" / kCommit / "model.safetensors"),
            hub_.large["model.safetensors"]);
}

TEST_F(HubTest, ChangedBytesAreNeverServed) {
  hub_.on_bytes = [](FakeHttp::Answer& answer) {
    if (answer.response.body.size() > 3000) answer.response.body[2000] ^= 1;
  };
  EXPECT_THAT(ErrorOf(), testing::AllOf(HasSubstr("corrupt"), HasSubstr("changes bytes")));
  EXPECT_FALSE(fs::exists(root() / "blobs" / Sha256(hub_.large["model.safetensors"])));
  EXPECT_FALSE(fs::exists(root() / "refs/main"));
  hub_.on_bytes = nullptr;
  EXPECT_EQ(ErrorOf(), "fetched");
}

TEST_F(HubTest, OfflineTheCacheIsUsedOrMissed) {
  options_.offline = true;
  EXPECT_THAT(ErrorOf(), testing::AllOf(HasSubstr("not_found"), HasSubstr("HF_HUB_OFFLINE")));
  options_.offline = false;
  ASSERT_EQ(ErrorOf(), "fetched");
  hub_.down = true;
  EXPECT_EQ(ErrorOf(), "fetched") << "the hub is down";
  EXPECT_EQ(ErrorOf(kCommit), "fetched");
  options_.offline = true;
  hub_.requests = 0;
  EXPECT_EQ(ErrorOf(), "fetched");
  EXPECT_EQ(hub_.requests, 0);
  EXPECT_THAT(ErrorOf("v2"), HasSubstr("not_found"));
}

TEST_F(HubTest, RevisionsAreKeptApart) {
  hub_.revision = "refs%2Fpr%2F1";
  ASSERT_EQ(ErrorOf("refs/pr/1"), "fetched");
  EXPECT_TRUE(fs::exists(root() / "refs/refs/pr/1"));
  EXPECT_THAT(ErrorOf("main"), HasSubstr("no such branch, tag or commit"));
  EXPECT_THAT(ErrorOf("../../x"), HasSubstr("invalid_argument"));
}

TEST_F(HubTest, NamesThatLeaveTheFolderAreNotFetched) {
  hub_.small["../evil.json"] = "x";
  hub_.small["a/../../evil.json"] = "x";
  ASSERT_EQ(ErrorOf(), "fetched");
  EXPECT_FALSE(fs::exists(root() / "snapshots/evil.json"));
}

TEST(HubIdTest, IsWhatTheHubAllows) {
  for (const char* good : {"gpt2", "facebook/opt-30b", "bigscience/bloom-1b7", "a.b/c_d"})
    EXPECT_TRUE(IsHubId(good)) << good;
  for (const char* bad : {"", "/x", "x/", "a/b/c", "../x", "a/..", "s3://b/x", "a b", ".x", "a--b/c"})
    EXPECT_FALSE(IsHubId(bad)) << bad;
}

TEST(FilesToServeTest, AreOfOneKind) {
  EXPECT_THAT(FilesToServe({"config.json", "model.safetensors", "pytorch_model.bin", "flax_model.msgpack",
                            "README.md", "tokenizer.json", "merges.txt", ".gitattributes", "onnx/model.onnx",
                            "training_args.bin", "consolidated.safetensors"}),
              ElementsAre("config.json", "model.safetensors", "tokenizer.json", "merges.txt"));
  EXPECT_THAT(
      FilesToServe({"pytorch_model-00001-of-00002.bin", "pytorch_model.bin.index.json", "model.onnx"}),
      ElementsAre("pytorch_model-00001-of-00002.bin", "pytorch_model.bin.index.json"));
  EXPECT_THAT(FilesToServe({"model_00001-of-00072.safetensors", "model.safetensors.index.json",
                            "pytorch_model.bin.index.json"}),
              ElementsAre("model_00001-of-00072.safetensors", "model.safetensors.index.json"));
}

TEST(HubOptionsTest, ComeFromTheVariablesOfTheHubsTools) {
  std::map<std::string, std::string> values = {{"HOME", "/home/a"}};
  const auto env = [&values](const std::string& name) { return values.contains(name) ? values[name] : ""; };
  EXPECT_EQ(HubOptionsFrom(env).cache, "/home/a/.cache/huggingface/hub");
  values["HF_HOME"] = "/h";
  EXPECT_EQ(HubOptionsFrom(env).cache, "/h/hub");
  values["TRANSFORMERS_CACHE"] = "/t";
  EXPECT_EQ(HubOptionsFrom(env).cache, "/t");
  values["HUGGINGFACE_HUB_CACHE"] = "/tmp";
  values["HF_ENDPOINT"] = "http://mirror/";
  values["HF_TOKEN"] = "hf_x\n";
  values["HF_HUB_OFFLINE"] = "true";
  const HubOptions options = HubOptionsFrom(env);
  EXPECT_EQ(options.cache, "/tmp");
  EXPECT_EQ(options.endpoint, "http://mirror");
  EXPECT_EQ(options.token, "hf_x");
  EXPECT_TRUE(options.offline);
}

}  // namespace
}  // namespace bloomery
