// What the golden tests share: the tiny checkpoints under testdata/models, their expected results, and an
// engine on them.
#pragma once

#include <gtest/gtest.h>

#include <condition_variable>
#include <filesystem>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "base/json.h"
#include "base/mapped_file.h"
#include "checkpoint/safetensors.h"
#include "engine/engine.h"

namespace bloomery {

std::filesystem::path SourceDir();
std::filesystem::path ModelsDir();

// Names of the configurations under testdata/models, sorted.
std::vector<std::string> GoldenModels();

// golden.json and golden.safetensors of one configuration.
struct Golden {
  json::object cases;
  std::shared_ptr<const MappedFile> file;
  TensorMap tensors;

  std::vector<float> Floats(const std::string& name) const;
};
Golden ReadGolden(const std::string& model);

std::vector<std::int32_t> Ids(const json::value& list);

// Hugging Face generate() arguments to ours. Fails the test on an argument it does not know.
SamplingParams ParamsFrom(const json::object& arguments);

std::unique_ptr<Device> MakeTestDevice(int threads);

struct TestModel {
  std::unique_ptr<Device> device;
  LoadedModel loaded;
};
// With `ranks`, the part of one of them; collective.
TestModel LoadTestModel(const std::filesystem::path& directory, DType dtype, int threads = 2,
                        std::unique_ptr<RankGroup> ranks = nullptr);

// Submits every case of a golden at once, so that each also shows that a request's tokens do not depend on
// what it is computed with, and compares tokens and scores.
void ExpectGoldenTokens(const std::string& model_name, const Golden& golden, LoadedModel model);

double LargestDifference(const std::vector<float>& a, const std::vector<float>& b);

// Root mean square of the difference, as a share of the expected values' own.
double RelativeRms(const std::vector<float>& ours, const std::vector<float>& expected);

// Collects what a request yields, and lets the test wait for its end.
class CollectingSink final : public EventSink {
 public:
  void OnEvent(std::uint64_t request_id, const GenerationEvent& event) override;
  void Wait();

  std::vector<SequenceEvent> sequences;  // in order of index after Wait
  std::vector<TokenEvent> tokens;
  std::optional<PromptEvent> prompt;
  std::optional<DoneEvent> done;
  std::optional<Error> error;

 private:
  std::mutex mutex_;
  std::condition_variable ended_;
  bool finished_ = false;
};

}  // namespace bloomery
