#include "server/deployment.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

namespace bloomery {
namespace {

namespace fs = std::filesystem;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

class DeploymentTest : public testing::Test {
 protected:
  DeploymentTest() : directory_(fs::path(testing::TempDir()) / fmt::format("deployment_{}", ::getpid())) {
    fs::remove_all(directory_);
    fs::create_directories(directory_);
  }
  ~DeploymentTest() override { fs::remove_all(directory_); }

  void Write(const fs::path& name, std::string_view text) const {
    fs::create_directories((directory_ / name).parent_path());
    std::ofstream(directory_ / name) << text;
  }

  Deployment Resolve(std::string_view serving, const Environment& environment = {},
                     const CommandLine& flags = {}) const {
    Write("serving.properties", serving);
    return ResolveDeployment(directory_, environment, flags, {.numa_nodes = 4}).value();
  }

  // The one error of a file with this line and a model.
  std::string ErrorOf(std::string_view line) const {
    const Deployment deployment = Resolve(fmt::format("option.model_id=/m\n{}\n", line));
    return deployment.errors.size() == 1 ? deployment.errors.front().text
                                         : fmt::format("{} errors", deployment.errors.size());
  }

  const fs::path directory_;
};

std::vector<std::string> IgnoredKeys(const Deployment& deployment) {
  std::vector<std::string> names;
  for (const Remark& remark : deployment.ignored) names.push_back(remark.name);
  return names;
}

TEST_F(DeploymentTest, NothingSaidIsNothingTaken) {
  Write("config.json", "{}");
  const Deployment plain = ResolveDeployment(directory_, {{"HF_HOME", "/c"}}, {}, {}).value();
  EXPECT_FALSE(plain.declared);
  EXPECT_EQ(plain.source->text, directory_.string());
  EXPECT_FALSE(plain.max_batch_size || plain.max_requests || plain.tensor_ranks || plain.dtype ||
               plain.host || plain.port);
  EXPECT_THAT(plain.errors, IsEmpty());
  Write("model.py", "");
  EXPECT_EQ(ResolveDeployment(directory_, {}, {}, {}).value().runtime, Runtime::kNative)
      << "code that came with the weights";
}

TEST_F(DeploymentTest, WhatADeploymentLeavesOutIsTheirsDefault) {
  const Deployment deployment = Resolve("option.model_id=/m");
  EXPECT_TRUE(deployment.declared);
  EXPECT_EQ(deployment.max_batch_size, 32);
  EXPECT_EQ(deployment.max_requests, 1032);
  EXPECT_FALSE(deployment.host || deployment.port || deployment.request_timeout_s ||
               deployment.max_body_bytes);
}

TEST_F(DeploymentTest, TheEngineRunsWhatHasNoHandlerOfItsOwn) {
  const auto runtime = [&](std::string_view text) {
    return Resolve(std::string("option.model_id=/m\n").append(text)).runtime;
  };
  for (const char* engine : {"DeepSpeed", "MPI", "Python", "Rubikon", "Native", "deepspeed"})
    EXPECT_EQ(runtime(fmt::format("engine={}", engine)), Runtime::kNative) << engine;
  for (const char* handler :
       {"deepspeed", "huggingface", "fastertransformer", "tensorrt_llm", "transformers_neuronx"})
    EXPECT_EQ(runtime(fmt::format("option.entryPoint=djl_python.{}", handler)), Runtime::kNative) << handler;
  Write("model.py", "");
  EXPECT_EQ(runtime("engine=Python"), Runtime::kPythonHandler);
  EXPECT_EQ(runtime(""), Runtime::kPythonHandler);
  EXPECT_EQ(runtime("engine=Native"), Runtime::kNative);
  EXPECT_EQ(runtime("option.entryPoint=djl_python.deepspeed"), Runtime::kNative);
  EXPECT_THAT(IgnoredKeys(Resolve("option.model_id=/m\noption.entryPoint=djl_python.deepspeed")),
              ElementsAre("option.entryPoint"));
  Write("other.py", "");
  const Deployment other = Resolve("option.entryPoint=other.py");
  EXPECT_EQ(other.runtime, Runtime::kPythonHandler);
  EXPECT_EQ(other.entry_point, "other.py");
  EXPECT_EQ(Resolve("option.entryPoint=my_package.handler").entry_point, "my_package.handler");
}

TEST_F(DeploymentTest, WhereTheModelIs) {
  fs::create_directories(directory_ / "weights");
  const auto source = [&](std::string_view text, const Environment& environment = {}) {
    const Deployment deployment = Resolve(text, environment);
    if (!deployment.source) return std::string("none");
    return fmt::format("{} {} {}", SourceKindName(deployment.source->kind), deployment.source->text,
                       deployment.source->revision);
  };
  EXPECT_EQ(source("option.model_id=facebook/opt-30b\noption.revision=abc"), "hub facebook/opt-30b abc");
  EXPECT_EQ(source("option.model_id=gpt2"), "hub gpt2 ");
  EXPECT_EQ(source("option.model_id=/models/opt"), "directory /models/opt ");
  EXPECT_EQ(source("option.model_id=weights"),
            fmt::format("directory {} ", (directory_ / "weights").string()));
  EXPECT_EQ(source("option.model_id=s3://bucket/opt/"), "s3 s3://bucket/opt/ ");
  EXPECT_EQ(source("option.s3url=s3://bucket/opt/"), "s3 s3://bucket/opt/ ");
  EXPECT_EQ(source("", {{"MODEL_S3_BUCKET", "b"}, {"MODEL_S3_PREFIX", "p/q"}}), "s3 s3://b/p/q ");
  EXPECT_EQ(source("option.model_id=gpt2", {{"MODEL_S3_BUCKET", "b"}}), "hub gpt2 ");
  for (const char* wrong : {"a/b/c", "../up", "./here", "a b", "s3://", "s3:///key", "https://hub/model"}) {
    const Deployment deployment = Resolve(fmt::format("option.model_id={}", wrong));
    ASSERT_EQ(deployment.errors.size(), 1U) << wrong;
    EXPECT_EQ(deployment.errors.front().name, "option.model_id") << wrong;
  }
  EXPECT_THAT(Resolve("option.model_id=gpt2\noption.s3url=s3://b/p").errors.front().text,
              HasSubstr("old name"));
  EXPECT_THAT(Resolve("engine=MPI").errors.front().text, HasSubstr("holds no model"));
}

TEST_F(DeploymentTest, OneTopLevelDirectoryIsUnwrapped) {
  Write("code/serving.properties", "option.model_id=gpt2\n");
  Write(".DS_Store", "");
  const auto resolve = [&] { return ResolveDeployment(directory_, {}, {}, {}).value(); };
  EXPECT_EQ(resolve().directory, directory_ / "code");
  EXPECT_EQ(resolve().source->text, "gpt2");
  EXPECT_EQ(resolve().name, directory_.filename());
  Write("other/file", "");
  EXPECT_EQ(resolve().directory, directory_) << "two of them";
  fs::remove_all(directory_ / "other");
  Write("code/inner/only", "");
  fs::remove(directory_ / "code/serving.properties");
  EXPECT_EQ(resolve().directory, directory_ / "code") << "once";
}

TEST_F(DeploymentTest, DirectoriesAndFilesThatCannotBeRead) {
  EXPECT_EQ(ResolveDeployment(directory_ / "none", {}, {}, {}).error().code, ErrorCode::kNotFound);
  Write("file", "");
  EXPECT_EQ(ResolveDeployment(directory_ / "file", {}, {}, {}).error().code, ErrorCode::kInvalidArgument);
  Write("serving.properties", "a=\\u1");
  EXPECT_THAT(ResolveDeployment(directory_, {}, {}, {}).error().message, HasSubstr("serving.properties:1"));
  EXPECT_EQ(
      ResolveDeployment("", {{"SERVING_MODEL_STORE", directory_.string() + "/none"}}, {}, {}).error().code,
      ErrorCode::kNotFound);
}

TEST_F(DeploymentTest, RanksOfTheHost) {
  const Deployment most = Resolve("option.model_id=/m\noption.tensor_parallel_degree=max");
  EXPECT_EQ(most.tensor_ranks, 4);
  const Deployment both =
      Resolve("option.model_id=/m\noption.tensor_parallel_degree=2\noption.pipeline_parallel_degree=max");
  EXPECT_EQ(both.stages, 2);
  const Deployment too_many =
      Resolve("option.model_id=/m\noption.tensor_parallel_degree=8\noption.pipeline_parallel_degree=max");
  EXPECT_EQ(too_many.stages, 1);
}

TEST_F(DeploymentTest, NumbersOfTheWeights) {
  const struct {
    const char* text;
    const char* dtype;
  } kCases[] = {{"option.dtype=fp16", "f16"},
                {"option.dtype=BF16", "bf16"},
                {"option.dtype=float32", "f32"},
                {"option.dtype=int8", "int8"},
                {"option.dtype=int4", "int4"},
                {"option.dtype=auto", "auto"},
                {"option.data_type=fp16", "f16"},
                {"option.quantize=bitsandbytes", "int8"},
                {"option.quantize=bitsandbytes8", "int8"},
                {"option.quantize=dynamic_int8", "int8"},
                {"option.quantize=smoothquant", "int8"},
                {"option.quantize=bitsandbytes4", "int4"},
                {"option.quantize=bitsandbytes-nf4", "int4"},
                {"option.load_in_8bit=True", "int8"},
                {"option.load_in_4bit=true", "int4"},
                {"option.dtype=fp16\noption.quantize=bitsandbytes8", "int8"},
                {"option.dtype=bf16\noption.quantize=none", "bf16"},
                {"option.dtype=int8\noption.quantize=smoothquant", "int8"}};
  for (const auto& one : kCases) {
    const Deployment deployment = Resolve(fmt::format("option.model_id=/m\n{}", one.text));
    EXPECT_EQ(deployment.dtype, one.dtype) << one.text;
    EXPECT_THAT(deployment.errors, IsEmpty()) << one.text;
  }
  EXPECT_EQ(Resolve("option.model_id=/m\noption.quantize=none").dtype, std::nullopt);
  for (const char* method : {"awq", "gptq", "fp8", "marlin", "eetq", "static_int8"}) {
    EXPECT_THAT(ErrorOf(fmt::format("option.quantize={}", method)),
                HasSubstr("name the unquantised one, with int8 or int4"))
        << method;
  }
  EXPECT_THAT(ErrorOf("option.dtype=fp8"), HasSubstr("fp8: must be one of auto, fp32"));
  EXPECT_THAT(ErrorOf("option.dtype=int8\noption.quantize=bitsandbytes4"), HasSubstr("contradicts"));
}

TEST_F(DeploymentTest, BatchesQueuesAndTime) {
  const Deployment deployment = Resolve(
      "option.model_id=/m\noption.max_rolling_batch_size=8\njob_queue_size=10\noption.predict_timeout=60\n"
      "option.max_rolling_batch_prefill_tokens=4096\noption.max_tokens=512\noption.max_model_len=1024\n"
      "option.kv_cache_dtype=fp16\noption.enable_prefix_caching=false\n");
  EXPECT_EQ(deployment.max_batch_size, 8);
  EXPECT_EQ(deployment.max_requests, 18);
  EXPECT_EQ(deployment.request_timeout_s, 60);
  EXPECT_EQ(deployment.max_batch_tokens, 4096);
  EXPECT_EQ(deployment.max_context_tokens, 512);
  EXPECT_EQ(deployment.kv_dtype, "f16");
  EXPECT_EQ(deployment.prefix_cache, false);
  EXPECT_EQ(Resolve("option.model_id=/m\nbatch_size=50").max_batch_size, 50);
  EXPECT_EQ(Resolve("option.model_id=/m\nbatch_size=2").max_batch_size, 32);
  EXPECT_EQ(Resolve("option.model_id=/m\nbatch_size=50\noption.max_rolling_batch_size=4").max_batch_size, 4);
  EXPECT_EQ(Resolve("option.model_id=/m\noption.max_rolling_batch_size=100000").max_batch_size, 4096);
  EXPECT_EQ(Resolve("option.model_id=/m\njob_queue_size=2147483647").max_requests, INT32_MAX);
  EXPECT_THAT(ErrorOf("option.predict_timeout=0"), HasSubstr("0: must be a whole number"));
  EXPECT_THAT(IgnoredKeys(Resolve("option.model_id=/m\noption.output_formatter=sse")),
              ElementsAre("option.output_formatter"));
}

TEST_F(DeploymentTest, TheServersAddress) {
  Write("config.properties", "inference_address=http://0.0.0.0:9000\nmax_request_size=1000\n");
  const Deployment deployment = Resolve("option.model_id=/m");
  EXPECT_EQ(deployment.host, "0.0.0.0");
  EXPECT_EQ(deployment.port, 9000);
  EXPECT_EQ(deployment.max_body_bytes, 1000U);
  EXPECT_EQ(Resolve("option.model_id=/m", {{"SAGEMAKER_BIND_TO_PORT", "8081"}}).port, 8081);
  EXPECT_EQ(Resolve("option.model_id=/m", {{"SAGEMAKER_BIND_TO_PORT", "8081"}}).host, "0.0.0.0");
  Write("config.properties", "inference_address=https://0.0.0.0:9000\n");
  EXPECT_THAT(Resolve("option.model_id=/m").errors.front().text, HasSubstr("must be http://HOST:PORT"));
}

TEST_F(DeploymentTest, ModelsToLoad) {
  const auto resolve = [&](const char* models) {
    return Resolve("option.model_id=/m", {{"SERVING_LOAD_MODELS", models}});
  };
  EXPECT_EQ(resolve("ALL").name, directory_.filename());
  EXPECT_EQ(resolve("test::Python=/opt/ml/model").name, "test");
  EXPECT_EQ(resolve("[mlp:v1:MPI:*]=/opt/ml/model").name, "mlp");
  EXPECT_THAT(IgnoredKeys(resolve("a=/elsewhere")), ElementsAre("load_models"));
  for (const char* wrong : {"djl://zoo/mlp", "a=https://host/a.zip"})
    EXPECT_EQ(resolve(wrong).errors.size(), 1U) << wrong;
}

TEST_F(DeploymentTest, SeveralModelsOrNone) {
  const auto resolve = [&](const char* models) { return Resolve("", {{"SERVING_LOAD_MODELS", models}}); };
  EXPECT_THAT(resolve("none").models, testing::Optional(IsEmpty()));
  fs::create_directories(directory_ / "opt");
  fs::create_directories(directory_ / "b");
  const Deployment several = resolve("opt, [bloom:v1:Python:0,1]=b,s3://bucket/x.tar.gz");
  EXPECT_THAT(several.errors, IsEmpty());
  ASSERT_EQ(several.models->size(), 3U);
  EXPECT_EQ(several.models->at(0).name, "opt");
  EXPECT_EQ(several.models->at(0).url, (directory_ / "opt").string());
  EXPECT_EQ(several.models->at(1).name, "bloom");
  EXPECT_EQ(several.models->at(1).version, "v1");
  EXPECT_EQ(several.models->at(1).engine, "Python");
  EXPECT_EQ(several.models->at(2).name, "x");
  EXPECT_EQ(several.models->at(2).url, "s3://bucket/x.tar.gz");
  EXPECT_EQ(resolve("opt,/absent").errors.size(), 1U);
  EXPECT_EQ(resolve("opt,[opt]=b").errors.size(), 1U) << "one name for two";
}

TEST_F(DeploymentTest, AStoreHoldsNothingButDirectoriesAndArchives) {
  for (const char* name : {"opt", "bloom"}) fs::create_directories(directory_ / name);
  std::ofstream(directory_ / "mlp.tar.gz") << "an archive";
  std::ofstream(directory_ / "config.properties") << "job_queue_size=9";
  const auto resolve = [&] { return ResolveDeployment(directory_, {}, {}, {}).value(); };
  ASSERT_TRUE(resolve().models);
  std::vector<std::string> names;
  const Deployment store = resolve();
  for (const ModelToLoad& model : *store.models) names.push_back(model.name);
  EXPECT_THAT(names, ElementsAre("bloom", "mlp", "opt"));
  std::ofstream(directory_ / "README.md") << "a model's own";
  EXPECT_FALSE(resolve().models);
}

TEST_F(DeploymentTest, SageMakersMultiModelEndpointsStartWithoutOne) {
  const Deployment deployment =
      Resolve("option.model_id=/m", {{"SAGEMAKER_MULTI_MODEL", "true"}, {"SERVING_LOAD_MODELS", "a=/m"}});
  EXPECT_THAT(deployment.errors, IsEmpty());
  EXPECT_TRUE(deployment.multi_model);
  EXPECT_THAT(deployment.models, testing::Optional(IsEmpty()));
  EXPECT_FALSE(deployment.source);
  EXPECT_THAT(IgnoredKeys(deployment), testing::UnorderedElementsAre("load_models", "option.model_id"));
}

TEST_F(DeploymentTest, FlagsWinAndTheirKeysAreNotJudged) {
  const Deployment deployment =
      Resolve("option.model_id=/m\noption.quantize=awq\noption.tensor_parallel_degree=0\n", {},
              {{"--dtype", "int8"}, {"--tp", "1"}, {"--max-batch-size", "7"}, {"--max-requests", "9"}});
  EXPECT_THAT(deployment.errors, IsEmpty());
  EXPECT_FALSE(deployment.dtype || deployment.tensor_ranks || deployment.max_batch_size ||
               deployment.max_requests);
}

TEST_F(DeploymentTest, AHandlerGetsItsOptions) {
  Write("model.py", "");
  const Deployment deployment = Resolve(
      "engine=MPI\noption.mine=1\noption.dtype=fp8\noption.output_formatter=my_function\nminWorkers=2\n",
      {{"OPTION_YOURS", "2"}});
  EXPECT_THAT(deployment.errors, IsEmpty());
  EXPECT_THAT(deployment.ignored, IsEmpty());
  EXPECT_EQ(deployment.handler_options,
            (std::map<std::string, std::string>{
                {"mine", "1"}, {"yours", "2"}, {"dtype", "fp8"}, {"output_formatter", "my_function"}}));
  EXPECT_FALSE(deployment.max_batch_size);
}

TEST_F(DeploymentTest, SecretsAreSetOrUnset) {
  const Deployment deployment =
      Resolve("option.model_id=s3://b/p/\n", {{"AWS_SECRET_ACCESS_KEY", "hidden"}, {"HF_TOKEN", "hidden"}});
  std::map<std::string_view, std::string> values;
  for (const EffectiveSetting& setting : deployment.settings) values[setting.setting->name] = setting.value;
  EXPECT_EQ(values.at("AWS_SECRET_ACCESS_KEY"), "set");
  EXPECT_EQ(values.at("AWS_ACCESS_KEY_ID"), "unset");
  EXPECT_EQ(values.at("HF_TOKEN"), "set");
}

}  // namespace
}  // namespace bloomery
