#include "api/management.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace bloomery {
namespace {

using testing::HasSubstr;

// What POST /models makes of a request that it refuses.
std::string Refusal(std::string_view query, std::string_view body = {}) {
  const auto registration = ParseRegistration(query, body);
  if (registration) return "taken";
  EXPECT_EQ(registration.error().code, ErrorCode::kInvalidArgument);
  return registration.error().message;
}

TEST(ParseRegistration, QueryAsDjlTakesIt) {
  const auto registration = ParseRegistration(
      "url=s3%3A%2F%2Fb%2Fopt%2F&model_name=opt&model_version=2&engine=Python&job_queue_size=10&batch_size=4&"
      "max_batch_delay=0&max_idle_time=5&min_worker=1&max_worker=3&synchronous=false&device=cpu",
      "");
  ASSERT_TRUE(registration) << registration.error().message;
  EXPECT_EQ(registration->url, "s3://b/opt/");
  EXPECT_EQ(registration->name, "opt");
  EXPECT_EQ(registration->version, "2");
  EXPECT_EQ(registration->engine, "Python");
  EXPECT_EQ(registration->tuning.job_queue_size, 10);
  EXPECT_EQ(registration->tuning.batch_size, 4);
  EXPECT_EQ(registration->tuning.max_batch_delay_ms, 0);
  EXPECT_EQ(registration->tuning.max_idle_time_s, 5);
  EXPECT_EQ(registration->tuning.min_workers, 1);
  EXPECT_EQ(registration->tuning.max_workers, 3);
  EXPECT_FALSE(registration->synchronous);
}

TEST(ParseRegistration, BodyAsSageMakerSendsIt) {
  const auto registration =
      ParseRegistration("", R"({"model_name": "a1b2", "url": "/opt/ml/models/a1b2/model"})");
  ASSERT_TRUE(registration);
  EXPECT_EQ(registration->name, "a1b2");
  EXPECT_EQ(registration->url, "/opt/ml/models/a1b2/model");
  EXPECT_TRUE(registration->synchronous);
  EXPECT_FALSE(registration->tuning.batch_size);
  EXPECT_EQ(ParseRegistration("model_name=b", R"({"model_name": "a", "url": "/m", "batch_size": 2})")->name,
            "b")
      << "the query wins";
}

TEST(ParseRegistration, NameIsTheUrlsLastPart) {
  EXPECT_EQ(ModelNameOf("s3://bucket/prefix/opt-30b/"), "opt-30b");
  EXPECT_EQ(ModelNameOf("/models/mlp.tar.gz"), "mlp");
  EXPECT_EQ(ModelNameOf("a.b.zip"), "a.b");
  EXPECT_EQ(ModelNameOf("https://host/m/opt.tar.gz?X-Signature=a/b"), "opt");
  EXPECT_EQ(ModelNameOf("facebook/opt-125m"), "opt-125m");
  EXPECT_EQ(ModelNameOf("/"), "");
}

TEST(ParseRegistration, WhatIsRefusedIsNamed) {
  EXPECT_THAT(Refusal(""), HasSubstr("url: is required"));
  EXPECT_THAT(Refusal("url=/"), HasSubstr("model_name"));
  EXPECT_THAT(Refusal("url=/m&model_name=a/b"), HasSubstr("model_name"));
  EXPECT_THAT(Refusal("url=/m&model_name=.."), HasSubstr("model_name"));
  EXPECT_THAT(Refusal("url=/m&model_name=" + std::string(256, 'a')), HasSubstr("model_name"));
  EXPECT_THAT(Refusal("url=/m&model_version=a%20b"), HasSubstr("model_version"));
  EXPECT_THAT(Refusal("url=/m%00x"), HasSubstr("url"));
  EXPECT_THAT(Refusal("url=/" + std::string(5000, 'm')), HasSubstr("url"));
  EXPECT_THAT(Refusal("url=/m&batch_size=0"), HasSubstr("batch_size: must be at least 1"));
  EXPECT_THAT(Refusal("url=/m&batch_size=two"), HasSubstr("batch_size"));
  EXPECT_THAT(Refusal("url=/m&batch_size=-2"), HasSubstr("batch_size"));
  EXPECT_THAT(Refusal("url=/m&min_worker=3&max_worker=2"), HasSubstr("max_worker 2"));
  EXPECT_THAT(Refusal("url=/m&synchronous=maybe"), HasSubstr("synchronous"));
  EXPECT_THAT(Refusal("", "[1]"), HasSubstr("JSON object"));
  EXPECT_THAT(Refusal("", R"({"url": ["/m"]})"), HasSubstr("url"));
  EXPECT_THAT(Refusal("", "url=/m"), HasSubstr("body"));
  EXPECT_EQ(Refusal("url=/m&batch_size=-1"), "taken") << "DJL's default";
}

ModelReport Report(std::string name) {
  ModelReport report;
  report.name = std::move(name);
  report.url = "/m";
  report.state = ModelState::kReady;
  return report;
}

TEST(ListModelReports, PagesEndWithoutAToken) {
  const std::vector<ModelReport> models = {Report("a"), Report("b"), Report("c")};
  EXPECT_EQ(ListModelReports(models, {0, 2}).body,
            R"({"models":[{"modelName":"a","modelUrl":"/m","status":"READY"},)"
            R"({"modelName":"b","modelUrl":"/m","status":"READY"}],"nextPageToken":"2"})");
  EXPECT_EQ(ListModelReports(models, {2, 2}).body,
            R"({"models":[{"modelName":"c","modelUrl":"/m","status":"READY"}]})");
  EXPECT_EQ(ListModelReports(models, {9, 2}).body, R"({"models":[]})");
  EXPECT_EQ(ParsePage("limit=7&next_page_token=3")->first, 3U);
  EXPECT_EQ(ParsePage("limit=7&next_page_token=3")->limit, 7U);
  EXPECT_EQ(ParsePage("")->limit, 100U);
  EXPECT_FALSE(ParsePage("limit=0"));
  EXPECT_FALSE(ParsePage("next_page_token=x"));
}

TEST(DescribeModel, EveryVersionAsDjlTellsIt) {
  ModelReport report = Report("a");
  report.version = "v1";
  report.batch_size = 4;
  report.queue_size = 9;
  report.queued = 2;
  report.workers = {{7, true}, {8, false}};
  const json::value told = json::parse(DescribeModel(std::vector{report}).body);
  const json::object& workflow = told.at(0).as_object();
  EXPECT_EQ(workflow.at("workflowName"), "a");
  EXPECT_EQ(workflow.at("version"), "v1");
  const json::object& model = workflow.at("models").at(0).as_object();
  EXPECT_EQ(model.at("status"), "Healthy");
  EXPECT_EQ(model.at("batchSize"), 4);
  EXPECT_EQ(model.at("queueSize"), 9);
  EXPECT_EQ(model.at("requestInQueue"), 2);
  EXPECT_EQ(model.at("loadedAtStartup"), false);
  EXPECT_EQ(model.at("workerGroups").at(0).at("workers").at(0).at("status"), "READY");
  EXPECT_EQ(model.at("workerGroups").at(0).at("workers").at(1).at("status"), "PENDING");
  EXPECT_EQ(DescribeModelForSageMaker(report).body, R"({"modelName":"a","modelUrl":"/m"})");
}

}  // namespace
}  // namespace bloomery
