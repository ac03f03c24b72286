// The host with models of its tests' own, on a real io_context; HTTP and engines are left out.
#include "server/model_host.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>

namespace bloomery {
namespace {

namespace asio = boost::asio;
using testing::HasSubstr;
using std::chrono_literals::operator""ms;

class FakeAnswering final : public Answering {
 public:
  explicit FakeAnswering(std::string body) : body_(std::move(body)) {}
  bool pending() const override { return true; }
  std::string Take() override {
    finished_ = true;
    return {};
  }
  bool finished() const override { return finished_; }
  bool failed() const override { return false; }
  bool error_in_stream() const override { return false; }
  HttpAnswer StreamHead() const override { return {}; }
  HttpAnswer Answer() override {
    HttpAnswer answer;
    answer.body = body_;
    return answer;
  }

 private:
  const std::string body_;
  bool finished_ = false;
};

// What a test sees and steers of a model.
struct Script {
  ServiceHealth health{ServiceState::kReady, 1, "ready", {}};
  bool started = false;
  bool stopped = false;
  bool gone = true;  // once it is stopped
  ModelTuning tuned;
};

class FakeModel final : public ModelService {
 public:
  FakeModel(std::string name, std::shared_ptr<Script> script)
      : name_(std::move(name)), script_(std::move(script)) {}
  void Start() override { script_->started = true; }
  void Stop() override { script_->stopped = true; }
  bool Gone() override { return script_->gone; }
  ServiceHealth health() const override { return script_->health; }
  Result<std::unique_ptr<Answering>> Begin(ServiceRequest, std::function<void()>) override {
    if (script_->health.state != ServiceState::kReady) return std::unexpected(NotReady(script_->health));
    return std::make_unique<FakeAnswering>(name_);
  }
  std::optional<ModelInfo> info() const override {
    ModelInfo info;
    info.name = name_;
    return info;
  }
  void SetMetrics() const override {}
  void Describe(ModelReport&) const override {}
  Status Tune(const ModelTuning& tuning) override {
    script_->tuned = tuning;
    return {};
  }

 private:
  const std::string name_;
  const std::shared_ptr<Script> script_;
};

class ModelHostTest : public testing::Test {
 protected:
  ModelHostTest() { options_.management = true, options_.memory_bytes = 100; }

  // `models`: at the start.
  void Start(std::initializer_list<const char*> models = {}) {
    host_ = std::make_unique<ModelHost>(
        io_, metrics_,
        [this](const ModelRegistration& registration, std::uint64_t free,
               const LoadProgress& progress) -> Result<PreparedModel> {
          free_seen_ = free;
          progress(0.5, "half of it");
          if (registration.url == "/absent") return Fail(ErrorCode::kNotFound, "/absent: no such directory");
          return PreparedModel{registration.url == "/large" ? 70U : 10U, [this, registration](ModelMetrics&) {
                                 return MakeModel(registration.name + registration.version);
                               }};
        },
        options_);
    for (const char* name : models)
      host_->AddAtStartup({.url = "/m", .name = name},
                          {10, [this, name](ModelMetrics&) { return MakeModel(name); }});
    host_->Start();
  }

  std::unique_ptr<ModelService> MakeModel(const std::string& name) {
    std::shared_ptr<Script>& script = scripts_[name];
    if (!script) script = std::make_shared<Script>();
    return std::make_unique<FakeModel>(name, script);
  }

  static ServiceRequest Request(std::string_view method, std::string_view path, std::string_view query = {},
                                std::string body = {}) {
    ServiceRequest request;
    request.route = FindRoute(path);
    request.method = method;
    request.path = path;
    request.query = query;
    request.body = std::move(body);
    return request;
  }

  HttpAnswer Ask(ServiceRequest request) {
    const Dialect dialect = request.route.dialect;
    auto answering = host_->Begin(std::move(request), [this] { ++wakes_; });
    if (!answering) return ErrorAnswer(dialect, answering.error());
    return Await(**answering);
  }
  HttpAnswer Ask(std::string_view method, std::string_view path, std::string_view query = {},
                 std::string body = {}) {
    return Ask(Request(method, path, query, std::move(body)));
  }

  HttpAnswer Await(Answering& answering) {
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(10);
    while (!answering.finished() && std::chrono::steady_clock::now() < deadline) {
      if (answering.pending()) {
        answering.Take();
      } else {
        io_.restart();
        io_.run_for(5ms);
      }
    }
    EXPECT_TRUE(answering.finished());
    return answering.Answer();
  }

  Metrics metrics_;
  asio::io_context io_;
  ModelHostOptions options_;
  std::map<std::string, std::shared_ptr<Script>> scripts_;
  std::uint64_t free_seen_ = 0;
  int wakes_ = 0;
  std::unique_ptr<ModelHost> host_;
};

TEST_F(ModelHostTest, OneModelAnswersWhateverItIsCalled) {
  Start({"opt"});
  EXPECT_TRUE(scripts_["opt"]->started);
  for (const char* path :
       {"/invocations", "/v1/completions", "/generate", "/predictions/opt", "/models/opt/invoke"})
    EXPECT_EQ(Ask("POST", path, "", R"({"model": "gpt"})").body, "opt") << path;
  EXPECT_EQ(Ask("POST", "/predictions/bloom").status, 404);
}

TEST_F(ModelHostTest, SeveralAreToldApart) {
  Start({"opt", "bloom", "facebook/opt-125m"});
  EXPECT_EQ(Ask("POST", "/invocations").status, 400) << "which?";
  EXPECT_THAT(Ask("POST", "/invocations").body, HasSubstr("model_name=NAME"));
  EXPECT_EQ(Ask("POST", "/invocations", "model_name=bloom").body, "bloom");
  EXPECT_EQ(Ask("POST", "/invocations", "model_name=x").status, 404);
  EXPECT_EQ(Ask("POST", "/predictions/opt").body, "opt");
  EXPECT_EQ(Ask("POST", "/predictions/facebook/opt-125m").body, "facebook/opt-125m");
  EXPECT_EQ(Ask("POST", "/predictions/facebook%2Fopt-125m").body, "facebook/opt-125m");
  EXPECT_EQ(Ask("POST", "/v1/completions", "", R"({"model": "bloom"})").body, "bloom");
  EXPECT_EQ(Ask("POST", "/v1/chat/completions", "", R"({"model": "x"})").status, 404);
  EXPECT_EQ(Ask("POST", "/v1/chat/completions", "", "{").status, 400);
  ServiceRequest targeted = Request("POST", "/invocations");
  targeted.headers = {{"x-amzn-sagemaker-target-model", "opt.tar.gz"}};
  EXPECT_EQ(Ask(std::move(targeted)).body, "opt");
  EXPECT_THAT(host_->ListModels()->body, HasSubstr("facebook/opt-125m"));
}

TEST_F(ModelHostTest, AModelComesAnswersAndGoes) {
  Start();
  EXPECT_EQ(host_->health().state, ServiceState::kReady) << "nothing has to be loaded";
  EXPECT_EQ(Ask("POST", "/invocations").status, 404);
  const HttpAnswer registered = Ask("POST", "/models", "", R"({"model_name": "a", "url": "/m"})");
  EXPECT_EQ(registered.status, 200);
  EXPECT_EQ(registered.body, R"({"status":"Model \"a\" registered."})");
  EXPECT_EQ(Ask("POST", "/models", "url=/m&model_name=a").status, 409);
  EXPECT_EQ(Ask("POST", "/models/a/invoke").body, "a");
  EXPECT_EQ(Ask("GET", "/models").body, R"({"models":[{"modelName":"a","modelUrl":"/m","status":"READY"}]})");
  EXPECT_THAT(Ask("GET", "/models/a").body, HasSubstr(R"("status":"Healthy")"));
  EXPECT_EQ(Ask("DELETE", "/models/a").status, 200);
  EXPECT_TRUE(scripts_["a"]->stopped);
  EXPECT_EQ(Ask("POST", "/models/a/invoke").status, 404);
  EXPECT_EQ(Ask("DELETE", "/models/a").status, 404);
  EXPECT_EQ(Ask("GET", "/models").body, R"({"models":[]})");
  EXPECT_EQ(Ask("POST", "/models", "url=/m&model_name=a").status, 200) << "its name is free again";
}

TEST_F(ModelHostTest, RegisteringWaitsUntilItServes) {
  Start();
  scripts_["slow"] = std::make_shared<Script>();
  scripts_["slow"]->health = {ServiceState::kLoading, 0.5, "loading", {}};
  const auto waiting = host_->Begin(Request("POST", "/models", "url=/slow"), [this] { ++wakes_; });
  ASSERT_TRUE(waiting);
  io_.run_for(100ms);
  EXPECT_FALSE((*waiting)->pending());
  EXPECT_EQ(Ask("POST", "/models/slow/invoke").status, 503);
  EXPECT_EQ(Ask("POST", "/models", "url=/other&synchronous=false").status, 202) << "meanwhile";
  scripts_["slow"]->health = {ServiceState::kReady, 1, "ready", {}};
  EXPECT_EQ(Await(**waiting).status, 200);
  EXPECT_GT(wakes_, 0);
}

TEST_F(ModelHostTest, WhatCannotBeLoadedIsToldAndForgotten) {
  Start({"opt"});
  EXPECT_EQ(Ask("POST", "/models", "url=/absent").status, 404);
  EXPECT_EQ(Ask("GET", "/models/absent").status, 404);
  scripts_["bad"] = std::make_shared<Script>();
  scripts_["bad"]->health = {ServiceState::kFailed, 0, "config.json: no architecture",
                             ErrorCode::kUnsupported};
  const HttpAnswer answer = Ask("POST", "/models", "url=/bad");
  EXPECT_EQ(answer.status, 400);
  EXPECT_THAT(answer.body, HasSubstr("no architecture"));
  EXPECT_EQ(Ask("GET", "/models/bad").status, 404);
  EXPECT_EQ(host_->health().state, ServiceState::kReady) << "the others do not suffer";
}

TEST_F(ModelHostTest, AFailureThatNobodyWaitedForStaysListed) {
  Start();
  EXPECT_EQ(Ask("POST", "/models", "url=/absent&synchronous=false").status, 202);
  io_.restart();
  io_.run_for(200ms);
  EXPECT_THAT(Ask("GET", "/models").body, HasSubstr("FAILED"));
  EXPECT_THAT(Ask("GET", "/models/absent").body, HasSubstr("no such directory"));
  EXPECT_EQ(Ask("POST", "/models", "url=/m&model_name=absent").status, 200) << "takes its place";
}

TEST_F(ModelHostTest, WhatMemoryDoesNotHoldIsRefusedBeforeItIsLoaded) {
  Start({"opt"});
  EXPECT_EQ(Ask("POST", "/models", "url=/large").status, 200);
  EXPECT_EQ(free_seen_, 90U);
  const HttpAnswer refused = Ask("POST", "/models", "url=/large&model_name=second");
  EXPECT_EQ(refused.status, 507);
  EXPECT_THAT(refused.body, HasSubstr("DELETE /models"));
  EXPECT_FALSE(scripts_.contains("second")) << "nothing was made";
  EXPECT_EQ(Ask("DELETE", "/models/large").status, 200);
  EXPECT_EQ(Ask("POST", "/models", "url=/large&model_name=second").status, 200);
}

TEST_F(ModelHostTest, WhatIsBeingAnsweredIsAnsweredBeforeItGoes) {
  Start();
  Ask("POST", "/models", "url=/m&model_name=a");
  auto answering = host_->Begin(Request("POST", "/models/a/invoke"), [] {});
  ASSERT_TRUE(answering);
  const auto leaving = host_->Begin(Request("DELETE", "/models/a"), [] {});
  ASSERT_TRUE(leaving);
  io_.restart();
  io_.run_for(100ms);
  EXPECT_FALSE(scripts_["a"]->stopped);
  EXPECT_EQ(Ask("POST", "/models/a/invoke").status, 404) << "nothing new";
  EXPECT_EQ(Await(**answering).body, "a");
  answering->reset();
  scripts_["a"]->gone = false;
  io_.restart();
  io_.run_for(100ms);
  EXPECT_TRUE(scripts_["a"]->stopped);
  EXPECT_FALSE((*leaving)->pending()) << "its memory is not free";
  scripts_["a"]->gone = true;
  EXPECT_EQ(Await(**leaving).status, 200);
}

TEST_F(ModelHostTest, ARequestThatDoesNotEndHoldsAModelForTheDrainTimeAtMost) {
  options_.drain_timeout = 50ms;
  Start();
  Ask("POST", "/models", "url=/m&model_name=a");
  const auto answering = host_->Begin(Request("POST", "/models/a/invoke"), [] {});
  EXPECT_EQ(Ask("DELETE", "/models/a").status, 200);
  EXPECT_TRUE(scripts_["a"]->stopped);
}

TEST_F(ModelHostTest, TheNewestVersionThatServesAnswers) {
  Start();
  Ask("POST", "/models", "url=/m&model_name=a&model_version=1");
  Ask("POST", "/models", "url=/m&model_name=a&model_version=2");
  EXPECT_EQ(Ask("POST", "/predictions/a").body, "a2");
  EXPECT_EQ(Ask("POST", "/predictions/a/1").body, "a1");
  EXPECT_EQ(Ask("POST", "/invocations", "model_name=a&model_version=1").body, "a1");
  scripts_["a2"]->health.state = ServiceState::kRestarting;
  EXPECT_EQ(Ask("POST", "/predictions/a").body, "a1");
  EXPECT_EQ(Ask("DELETE", "/models/a/1").status, 200);
  EXPECT_EQ(Ask("POST", "/predictions/a/1").status, 404);
  Ask("POST", "/models", "url=/m&model_name=a&model_version=3");
  EXPECT_EQ(Ask("DELETE", "/models/a").status, 200) << "all of them";
  EXPECT_EQ(Ask("GET", "/models").body, R"({"models":[]})");
}

TEST_F(ModelHostTest, SettingsChangeWhileItServes) {
  Start({"a"});
  EXPECT_EQ(Ask("PUT", "/models/a", "min_worker=2&max_worker=4").status, 200);
  EXPECT_EQ(scripts_["a"]->tuned.min_workers, 2);
  EXPECT_EQ(scripts_["a"]->tuned.max_workers, 4);
  EXPECT_EQ(Ask("PUT", "/models/a", "min_worker=x").status, 400);
  EXPECT_EQ(Ask("PUT", "/models/b", "min_worker=1").status, 404);
}

TEST_F(ModelHostTest, OperatorsMayForbidIt) {
  options_.management = false;
  Start({"a"});
  EXPECT_EQ(Ask("POST", "/models", "url=/m").status, 403);
  EXPECT_EQ(Ask("PUT", "/models/a", "min_worker=1").status, 403);
  EXPECT_EQ(Ask("DELETE", "/models/a").status, 403);
  EXPECT_EQ(Ask("GET", "/models").status, 200);
  EXPECT_EQ(Ask("PATCH", "/models").status, 405);
  EXPECT_EQ(Ask("POST", "/models/a").status, 405);
}

TEST_F(ModelHostTest, PagesOfOtherSitesMayNot) {
  Start({"a"});
  for (const char* method : {"POST", "DELETE"}) {
    ServiceRequest request =
        Request(method, method == std::string("POST") ? "/models" : "/models/a", "url=/m");
    request.headers = {{"origin", "https://elsewhere"}};
    EXPECT_EQ(Ask(std::move(request)).status, 403) << method;
  }
  EXPECT_EQ(Ask("GET", "/models/m").status, 404);
}

TEST_F(ModelHostTest, UrlsMayBeRestricted) {
  options_.url_pattern.emplace("/models/.*");
  Start();
  EXPECT_EQ(Ask("POST", "/models", "url=/m").status, 400);
  EXPECT_EQ(Ask("POST", "/models", "url=/models/m").status, 200);
}

TEST_F(ModelHostTest, SageMakersShape) {
  options_.sagemaker_answers = true;
  Start();
  Ask("POST", "/models", "", R"({"model_name": "a", "url": "/opt/ml/models/a/model"})");
  EXPECT_EQ(Ask("GET", "/models/a").body, R"({"modelName":"a","modelUrl":"/opt/ml/models/a/model"})");
}

TEST_F(ModelHostTest, HealthIsThatOfTheModelsItStartedWith) {
  Start({"a", "b"});
  EXPECT_EQ(host_->health().state, ServiceState::kReady);
  scripts_["b"]->health = {ServiceState::kLoading, 0.5, "loading", {}};
  EXPECT_EQ(host_->health().state, ServiceState::kLoading);
  EXPECT_DOUBLE_EQ(host_->health().progress, 0.75);
  EXPECT_EQ(host_->health().detail, "b: loading");
  scripts_["b"]->health.state = ServiceState::kRestarting;
  EXPECT_EQ(host_->health().state, ServiceState::kReady) << "the other serves";
  scripts_["a"]->health.state = ServiceState::kRestarting;
  EXPECT_EQ(host_->health().state, ServiceState::kRestarting);
  scripts_["b"]->health.state = ServiceState::kFailed;
  EXPECT_EQ(host_->health().state, ServiceState::kFailed);
}

TEST_F(ModelHostTest, StoppingAnswersWhoeverWaits) {
  Start();
  scripts_["slow"] = std::make_shared<Script>();
  scripts_["slow"]->health = {ServiceState::kLoading, 0.5, "loading", {}};
  const auto waiting = host_->Begin(Request("POST", "/models", "url=/slow"), [this] { ++wakes_; });
  io_.restart();
  io_.run_for(50ms);
  host_->Stop();
  EXPECT_TRUE(scripts_["slow"]->stopped);
  EXPECT_EQ(Await(**waiting).status, 503);
}

}  // namespace
}  // namespace bloomery
