// Precedence, source by source, and what is told of the rest.
#include "server/settings.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

#include "server/setting_text.h"

namespace bloomery {
namespace {

using testing::Contains;
using testing::ElementsAre;
using testing::IsEmpty;

std::vector<Property> File(std::string_view text) { return ParseProperties(text, "file").value(); }

CollectedSettings Collect(std::string_view serving, std::string_view config, const Environment& environment,
                          const CommandLine& flags = {}) {
  return CollectSettings(File(serving), File(config), environment, flags);
}

std::string Winner(const CollectedSettings& collected, std::string_view name) {
  const auto found = collected.values.find(name);
  return found == collected.values.end()
             ? "none"
             : fmt::format("{} from {}", found->second.value, found->second.origin);
}

std::vector<std::string> Told(const std::vector<Remark>& remarks) {
  std::vector<std::string> out;
  for (const Remark& remark : remarks)
    out.push_back(fmt::format("{} ({}): {}", remark.name, remark.origin, remark.text));
  return out;
}

TEST(Settings, EachSourceOfAModelsKeyYieldsToTheNext) {
  const std::string_view key = "option.tensor_parallel_degree";
  Environment environment;
  EXPECT_EQ(Winner(Collect("", "", environment), key), "none");
  environment["SM_NUM_GPUS"] = "1";
  EXPECT_EQ(Winner(Collect("", "", environment), key), "1 from SM_NUM_GPUS");
  environment["TENSOR_PARALLEL_DEGREE"] = "2";
  EXPECT_EQ(Winner(Collect("", "", environment), key), "2 from TENSOR_PARALLEL_DEGREE");
  environment["OPTION_TENSOR_PARALLEL_DEGREE"] = "3";
  EXPECT_EQ(Winner(Collect("", "", environment), key), "3 from OPTION_TENSOR_PARALLEL_DEGREE");
  const std::string file = "option.tensor_parallel_degree=4";
  EXPECT_EQ(Winner(Collect(file, "", environment), key), "4 from serving.properties:1");
  const CollectedSettings all = Collect(file, "", environment, {{"--tp", "5"}});
  EXPECT_EQ(Winner(all, key), "5 from --tp");
  EXPECT_THAT(
      Told(all.without_effect),
      ElementsAre("option.tensor_parallel_degree (serving.properties:1): --tp sets it, and wins",
                  "option.tensor_parallel_degree (OPTION_TENSOR_PARALLEL_DEGREE): --tp sets it, and wins",
                  "option.tensor_parallel_degree (TENSOR_PARALLEL_DEGREE): --tp sets it, and wins",
                  "option.tensor_parallel_degree (SM_NUM_GPUS): --tp sets it, and wins"));
}

TEST(Settings, EachSourceOfAServersKeyYieldsToTheNext) {
  const std::string_view key = "max_request_size";
  Environment environment;
  EXPECT_EQ(Winner(Collect("", "max_request_size=1", environment), key), "1 from config.properties:1");
  environment["SERVING_MAX_REQUEST_SIZE"] = "2";
  EXPECT_EQ(Winner(Collect("", "max_request_size=1", environment), key), "2 from SERVING_MAX_REQUEST_SIZE");
  environment["SAGEMAKER_MAX_PAYLOAD_IN_MB"] = "6";
  EXPECT_EQ(Winner(Collect("", "max_request_size=1", environment), key),
            "6291456 from SAGEMAKER_MAX_PAYLOAD_IN_MB");
  environment["SAGEMAKER_MAX_REQUEST_SIZE"] = "4";
  EXPECT_EQ(Winner(Collect("", "max_request_size=1", environment), key), "4 from SAGEMAKER_MAX_REQUEST_SIZE");
  EXPECT_EQ(Winner(Collect("", "max_request_size=1", environment, {{"--max-body-size", "5MiB"}}), key),
            "5MiB from --max-body-size");
}

TEST(Settings, KeysForAllModelsYieldToAModelsOwn) {
  const std::string_view key = "job_queue_size";
  Environment environment = {{"MAX_CONCURRENT_REQUESTS", "1"}};
  EXPECT_EQ(Winner(Collect("", "", environment), key), "1 from MAX_CONCURRENT_REQUESTS");
  EXPECT_EQ(Winner(Collect("", "job_queue_size=2", environment), key), "2 from config.properties:1");
  environment["SERVING_JOB_QUEUE_SIZE"] = "3";
  EXPECT_EQ(Winner(Collect("", "job_queue_size=2", environment), key), "3 from SERVING_JOB_QUEUE_SIZE");
  environment["OPTION_JOB_QUEUE_SIZE"] = "4";
  EXPECT_EQ(Winner(Collect("", "job_queue_size=2", environment), key), "4 from OPTION_JOB_QUEUE_SIZE");
  EXPECT_EQ(Winner(Collect("job_queue_size=5", "job_queue_size=2", environment), key),
            "5 from serving.properties:1");
}

TEST(Settings, SageMakersVariablesOverrideTheFile) {
  const struct {
    const char* variable;
    const char* key;
  } kOverrides[] = {{"SAGEMAKER_NUM_MODEL_WORKERS", "minWorkers"},
                    {"SAGEMAKER_NUM_MODEL_WORKERS", "maxWorkers"},
                    {"SAGEMAKER_STARTUP_TIMEOUT", "option.model_loading_timeout"},
                    {"SAGEMAKER_MODEL_SERVER_TIMEOUT_SECONDS", "option.predict_timeout"}};
  for (const auto& one : kOverrides) {
    const auto collected = Collect(fmt::format("{}=7", one.key), "", {{one.variable, "9"}});
    EXPECT_EQ(Winner(collected, one.key), fmt::format("9 from {}", one.variable)) << one.key;
  }
}

TEST(Settings, AliasesCountOnlyWhereNothingElseSetsTheKey) {
  int aliases = 0;
  for (const Setting& setting : Settings()) {
    for (const std::string_view alias : Words(setting.aliases)) {
      Environment environment = {{std::string(alias), "5"}};
      EXPECT_EQ(Winner(Collect("", "", environment), setting.name), fmt::format("5 from {}", alias));
      const std::string own =
          setting.scope == SettingScope::kEnvironment ? std::string(setting.name) : VariableName(setting);
      environment[own] = "6";
      const auto collected = Collect("", "", environment);
      EXPECT_EQ(Winner(collected, setting.name), fmt::format("6 from {}", own));
      EXPECT_THAT(Told(collected.without_effect),
                  Contains(fmt::format("{} ({}): {} sets it, and wins", setting.name, alias, own)));
      ++aliases;
    }
  }
  EXPECT_GT(aliases, 10);
}

TEST(Settings, OfTwoLinesTheLaterWinsAsInJava) {
  const auto collected = Collect("option.dtype=fp16\noption.dtype=bf16\n", "", {});
  EXPECT_EQ(Winner(collected, "option.dtype"), "bf16 from serving.properties:2");
  EXPECT_THAT(Told(collected.without_effect),
              ElementsAre("option.dtype (serving.properties:1): serving.properties:2 sets it, and wins"));
}

TEST(Settings, BlanksAroundAValueAndEmptyValuesCountForNothing) {
  const auto collected =
      Collect("engine = MPI \noption.dtype=\n", "", {{"OPTION_DTYPE", " bf16 "}, {"HF_TOKEN", ""}});
  EXPECT_EQ(Winner(collected, "engine"), "MPI from serving.properties:1");
  EXPECT_EQ(Winner(collected, "option.dtype"), "bf16 from OPTION_DTYPE");
  EXPECT_THAT(Told(collected.without_effect),
              ElementsAre("option.dtype (serving.properties:2): empty, and so not set",
                          "HF_TOKEN (HF_TOKEN): empty, and so not set"));
}

TEST(Settings, WhatIsNotKnownIsTold) {
  const auto collected = Collect(
      "option.dtyp=x\nmax_request_size=1\nHF_TOKEN=x\nzzz=1\n", "option.dtype=fp16\ninference_adress=1\n",
      {{"OPTION_MODELID", "x"}, {"SERVING_ZZZ_ZZZ_ZZZ", "1"}, {"SM_HOSTS", "1"}, {"PATH", "/bin"}});
  EXPECT_THAT(
      Told(collected.without_effect),
      ElementsAre(
          "max_request_size (serving.properties:2): a key of the server: it belongs into config.properties, "
          "or SERVING_MAX_REQUEST_SIZE",
          "HF_TOKEN (serving.properties:3): this is a variable of the environment",
          "zzz (serving.properties:4): not known",
          "option.dtype (config.properties:1): a key of a model: it belongs into serving.properties, or "
          "OPTION_DTYPE",
          "inference_adress (config.properties:2): not known; did you mean inference_address?",
          "SERVING_ZZZ_ZZZ_ZZZ (SERVING_ZZZ_ZZZ_ZZZ): not known", "SM_HOSTS (SM_HOSTS): not known"));
  EXPECT_THAT(Told(collected.unknown_option_remarks),
              ElementsAre("option.dtyp (serving.properties:1): not known; did you mean option.dtype?",
                          "OPTION_MODELID (OPTION_MODELID): not known; did you mean OPTION_MODEL_ID?"));
  EXPECT_EQ(collected.unknown_options.at("dtyp"), "x");
  EXPECT_EQ(collected.unknown_options.at("modelid"), "x");
  EXPECT_THAT(collected.values, IsEmpty());
}

TEST(Settings, TheTableHoldsTogether) {
  std::set<std::string, std::less<>> names;
  std::set<std::string, std::less<>> variables;
  for (const Setting& setting : Settings()) {
    SCOPED_TRACE(setting.name);
    EXPECT_TRUE(names.emplace(setting.name).second);
    EXPECT_EQ(setting.name.starts_with(kOptionPrefix), setting.scope == SettingScope::kOption);
    EXPECT_FALSE(setting.help.empty());
    EXPECT_EQ(setting.type == SettingType::kChoice, !setting.choices.empty());
    // Whoever reads of a key that does not mean what it means elsewhere reads what it means here.
    EXPECT_TRUE(setting.use == SettingUse::kHonoured || !setting.effect.empty());
    if (setting.scope != SettingScope::kEnvironment) {
      EXPECT_TRUE(variables.insert(VariableName(setting)).second);
    }
    for (const std::string_view alias : Words(setting.aliases))
      EXPECT_TRUE(variables.emplace(alias).second) << alias;
    for (const std::string_view alias : Words(setting.aliases))
      EXPECT_EQ(FindSetting(alias), nullptr) << alias;
    // "inferred" and "…, if there" are words for people.
    if (setting.type == SettingType::kInteger && !setting.default_value.empty()) {
      EXPECT_EQ(CheckValue(setting, setting.default_value), "");
    }
    for (const std::string_view choice : Words(setting.choices)) EXPECT_EQ(CheckValue(setting, choice), "");
  }
}

TEST(Settings, EachTypesBadValuesAreNamed) {
  const auto check = [](std::string_view name, std::string_view value) {
    return CheckValue(*FindSetting(name), value);
  };
  EXPECT_EQ(check("option.tensor_parallel_degree", "max"), "");
  EXPECT_EQ(check("option.tensor_parallel_degree", "1025"), "must be a whole number from 1 to 1024, or max");
  EXPECT_EQ(check("job_queue_size", "0"), "must be a whole number from 1 on");
  EXPECT_EQ(check("job_queue_size", "2147483648"), "must be a whole number from 1 on");
  EXPECT_EQ(check("job_queue_size", "max"), "must be a whole number from 1 on");
  EXPECT_EQ(check("option.load_in_8bit", "yes"), "must be true or false");
  EXPECT_EQ(check("option.load_in_8bit", "True"), "");
  EXPECT_EQ(check("option.task", "fill-mask"), "must be one of text-generation, auto");
  EXPECT_EQ(check("option.checkpoint", "other.json"), "must be ds_inference_config.json");
  EXPECT_EQ(check("inference_address", "https://a:1"), "must be http://HOST:PORT");
  EXPECT_EQ(check("option.model_id", "anything"), "");
}

}  // namespace
}  // namespace bloomery
