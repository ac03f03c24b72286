#include "golden_support.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <iostream>

#include "kernels/cpu_device.h"

namespace bloomery {

std::filesystem::path SourceDir() { return BLOOMERY_SOURCE_DIR; }
std::filesystem::path ModelsDir() { return SourceDir() / "testdata/models"; }

std::vector<std::string> GoldenModels() {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(ModelsDir())) {
    if (std::filesystem::exists(entry.path() / "golden.json"))
      names.push_back(entry.path().filename().string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

std::vector<float> Golden::Floats(const std::string& name) const {
  const auto found = tensors.find(name);
  if (found == tensors.end()) {
    ADD_FAILURE() << "no tensor " << name;
    return {};
  }
  std::vector<float> values(found->second.bytes.size() / sizeof(float));
  std::memcpy(values.data(), found->second.bytes.data(), found->second.bytes.size());
  return values;
}

Golden ReadGolden(const std::string& model) {
  Golden golden;
  const auto directory = ModelsDir() / model;
  golden.cases =
      ParseJson(ReadFileToString(directory / "golden.json").value(), "golden.json").value().as_object();
  golden.file = MappedFile::Open(directory / "golden.safetensors").value();
  golden.tensors = ParseSafetensors(*golden.file).value();
  return golden;
}

std::vector<std::int32_t> Ids(const json::value& list) {
  std::vector<std::int32_t> ids;
  for (const json::value& id : list.as_array()) ids.push_back(static_cast<std::int32_t>(id.as_int64()));
  return ids;
}

SamplingParams ParamsFrom(const json::object& arguments) {
  SamplingParams p;
  for (const auto& [key, value] : arguments) {
    const auto integer = [&value = value] { return static_cast<int>(value.as_int64()); };
    const auto number = [&value = value] { return static_cast<float>(value.to_number<double>()); };
    if (key == "max_new_tokens") {
      p.max_new_tokens = integer();
    } else if (key == "max_length") {
      p.max_length = integer();
    } else if (key == "min_length") {
      p.min_length = integer();
    } else if (key == "min_new_tokens") {
      p.min_new_tokens = integer();
    } else if (key == "num_beams") {
      p.num_beams = integer();
    } else if (key == "num_return_sequences") {
      p.num_return_sequences = integer();
    } else if (key == "no_repeat_ngram_size") {
      p.no_repeat_ngram_size = integer();
    } else if (key == "top_k") {
      p.top_k = integer();
    } else if (key == "length_penalty") {
      p.length_penalty = number();
    } else if (key == "repetition_penalty") {
      p.repetition_penalty = number();
    } else if (key == "temperature") {
      p.temperature = number();
    } else if (key == "top_p") {
      p.top_p = number();
    } else if (key == "typical_p") {
      p.typical_p = number();
    } else if (key == "early_stopping") {
      p.early_stopping = value.is_string() ? EarlyStopping::kNever
                         : value.as_bool() ? EarlyStopping::kWhenEnoughBeams
                                           : EarlyStopping::kHeuristic;
    } else if (key == "eos_token_id") {
      p.eos_token_ids = value.is_array()
                            ? Ids(value)
                            : std::vector<std::int32_t>{static_cast<std::int32_t>(value.as_int64())};
    } else {
      ADD_FAILURE() << "unknown argument " << std::string_view(key);
    }
  }
  return p;
}

std::unique_ptr<Device> MakeTestDevice(int threads) {
  return MakeCpuDevice({.threads = threads, .isa = std::nullopt}).value();
}

void ExpectGoldenTokens(const std::string& model_name, const Golden& golden, LoadedModel model) {
  Engine engine(std::move(model));
  const json::array& cases = golden.cases.at("generate").as_array();
  std::vector<std::shared_ptr<CollectingSink>> sinks;
  for (const json::value& one : cases) {
    GenerationRequest request;
    request.id = sinks.size() + 1;
    request.prompt = Ids(one.at("prompt"));
    request.sampling = ParamsFrom(one.at("params").as_object());
    sinks.push_back(std::make_shared<CollectingSink>());
    engine.Submit(std::move(request), sinks.back());
  }
  std::size_t tokens = 0;
  for (std::size_t c = 0; c < cases.size(); ++c) {
    const json::object& one = cases[c].as_object();
    const std::string name(one.at("name").as_string());
    CollectingSink& sink = *sinks[c];
    sink.Wait();
    ASSERT_FALSE(sink.error) << name << ": " << sink.error->ToString();
    const json::array& expected = one.at("sequences").as_array();
    ASSERT_EQ(sink.sequences.size(), expected.size()) << name;
    for (std::size_t i = 0; i < expected.size(); ++i) {
      EXPECT_EQ(sink.sequences[i].token_ids, Ids(expected[i])) << name << " sequence " << i;
      tokens += expected[i].as_array().size();
      if (const json::value* scores = one.if_contains("scores")) {
        EXPECT_NEAR(sink.sequences[i].score, scores->as_array()[i].to_number<double>(), 1e-4)
            << name << " sequence " << i;
      }
    }
  }
  std::cout << model_name << ": " << cases.size() << " cases, " << tokens << " tokens compared\n";
}

double LargestDifference(const std::vector<float>& a, const std::vector<float>& b) {
  EXPECT_EQ(a.size(), b.size());
  double largest = 0;
  for (std::size_t i = 0; i < std::min(a.size(), b.size()); ++i)
    largest = std::max(largest, std::abs(static_cast<double>(a[i]) - static_cast<double>(b[i])));
  return largest;
}

double RelativeRms(const std::vector<float>& ours, const std::vector<float>& expected) {
  double difference = 0;
  double size = 0;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    difference += std::pow(static_cast<double>(ours[i]) - static_cast<double>(expected[i]), 2);
    size += std::pow(static_cast<double>(expected[i]), 2);
  }
  return std::sqrt(difference / size);
}

TestModel LoadTestModel(const std::filesystem::path& directory, DType dtype, int threads,
                        std::unique_ptr<RankGroup> ranks) {
  TestModel model;
  model.device = MakeTestDevice(threads);
  LoadOptions options;
  options.directory = directory;
  options.dtype = dtype;
  options.max_batch_size = 32;
  options.max_batch_tokens = 64;
  options.kv_cache_bytes = 64U << 20U;
  auto loaded = LoadModel(options, *model.device, nullptr, std::move(ranks));
  if (!loaded) {
    ADD_FAILURE() << loaded.error().ToString();
    throw std::runtime_error(loaded.error().message);
  }
  model.loaded = *std::move(loaded);
  return model;
}

void CollectingSink::OnEvent(std::uint64_t /*request_id*/, const GenerationEvent& event) {
  const std::scoped_lock lock(mutex_);
  if (const auto* p = std::get_if<PromptEvent>(&event)) prompt = *p;
  if (const auto* t = std::get_if<TokenEvent>(&event)) tokens.push_back(*t);
  if (const auto* s = std::get_if<SequenceEvent>(&event)) sequences.push_back(*s);
  if (const auto* d = std::get_if<DoneEvent>(&event)) done = *d;
  if (const auto* f = std::get_if<FailedEvent>(&event)) error = f->error;
  finished_ = done.has_value() || error.has_value();
  if (finished_) ended_.notify_all();
}

void CollectingSink::Wait() {
  std::unique_lock lock(mutex_);
  ended_.wait(lock, [this] { return finished_; });
  std::sort(sequences.begin(), sequences.end(),
            [](const SequenceEvent& a, const SequenceEvent& b) { return a.sequence < b.sequence; });
}

}  // namespace bloomery
