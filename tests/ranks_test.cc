// A model cut over ranks against transformers' goldens: logits and generated tokens, at every grid, loaded
// from the checkpoint and from shards. Ranks are threads here; tests/ranks/run starts real ones.
#include <gtest/gtest.h>

#include <array>
#include <fstream>
#include <functional>
#include <iostream>
#include <latch>
#include <thread>

#include "collective/thread_group.h"
#include "engine/model_runner.h"
#include "golden_support.h"
#include "model/shards.h"

namespace bloomery {
namespace {

// As golden_test's for one rank.
constexpr double kF32Tolerance = 1e-4;
constexpr double kI8Tolerance = 0.06;

// Loads the model on every rank and gives rank 0's to `work`; the others follow.
void OnRanks(const std::filesystem::path& directory, DType dtype, Grid grid,
             const std::function<void(LoadedModel)>& work) {
  auto world = MakeThreadGroup(grid.size());
  std::vector<std::jthread> ranks;
  for (int rank = 0; rank < grid.size(); ++rank) {
    ranks.emplace_back([&, rank] {
      auto group = MakeRankGroup(std::move(world[static_cast<std::size_t>(rank)]), grid);
      ASSERT_TRUE(group);
      TestModel model = LoadTestModel(directory, dtype, 1, *std::move(group));
      if (rank == 0) {
        work(std::move(model.loaded));
        return;
      }
      LoadedModel& loaded = model.loaded;
      EXPECT_TRUE(ModelRunner(*loaded.transformer, *loaded.kv_cache, loaded.ranks->world.get()).Follow());
    });
  }
}

std::vector<float> LogitsOf(ModelRunner& runner, std::span<const std::int32_t> tokens) {
  std::vector<std::int32_t> blocks;
  for (std::int32_t block = 0; block < 32; ++block) blocks.push_back(block);
  const SequenceSlice slice{blocks.data(), 0, static_cast<std::int64_t>(tokens.size()), 0};
  std::vector<LogitsQuery> queries;
  for (std::size_t r = 0; r < tokens.size(); ++r) {
    if (r % 16 == 0) queries.emplace_back();
    queries.back().rows.push_back(static_cast<std::int32_t>(r));
  }
  EXPECT_TRUE(runner.Begin(tokens, {&slice, 1}, queries));
  EXPECT_TRUE(runner.Compute());
  std::vector<float> all;
  for (std::size_t i = 0; i < queries.size(); ++i) {
    const auto logits = runner.Logits().value();
    all.insert(all.end(), logits.begin(), logits.end());
  }
  return all;
}

void ExpectGoldenLogits(const Golden& golden, LoadedModel model) {
  ModelRunner runner(*model.transformer, *model.kv_cache, model.ranks->world.get());
  const json::array& prompts = golden.cases.at("prompts").as_array();
  for (std::size_t i = 0; i < prompts.size(); ++i) {
    const std::vector<float> logits = LogitsOf(runner, Ids(prompts[i]));
    EXPECT_LT(LargestDifference(logits, golden.Floats("logits." + std::to_string(i))), kF32Tolerance)
        << "prompt " << i;
  }
}

class RanksTest : public testing::TestWithParam<std::string> {
 protected:
  std::filesystem::path directory() const { return ModelsDir() / GetParam(); }
};

// The smallest number of tensor ranks, above one, that the model can be cut over: 2, but for odd numbers of
// heads. 1 where there is none.
int TensorRanks(const ModelSpec& spec) {
  for (int ranks = 2; ranks <= spec.heads; ++ranks) {
    if (CutModel(spec, {ranks, 1}, 0)) return ranks;
  }
  return 1;
}

TEST_P(RanksTest, LogitsAndTokensEqualTransformers) {
  const Golden golden = ReadGolden(GetParam());
  const int tp = TensorRanks(LoadSpec(directory()).value());
  for (const Grid grid : {Grid{tp, 1}, Grid{1, 2}, Grid{tp, 2}}) {
    SCOPED_TRACE(testing::Message() << "--tp " << grid.tensor_ranks << " --pp " << grid.stages);
    OnRanks(directory(), DType::kF32, grid,
            [&golden](LoadedModel model) { ExpectGoldenLogits(golden, std::move(model)); });
    OnRanks(directory(), DType::kF32, grid,
            [&](LoadedModel model) { ExpectGoldenTokens(GetParam(), golden, std::move(model)); });
  }
}

// A set cut for 4 ranks loads on 1, 2 and 4, and whatever its files' stages on any number of stages.
TEST_P(RanksTest, ShardsLoadAtEveryDivisor) {
  const ModelSpec spec = LoadSpec(directory()).value();
  const int tp = TensorRanks(spec);
  const Grid cut{CutModel(spec, {2 * tp, 1}, 0) ? 2 * tp : tp, 2};
  // Heads that are too small to join: the set loads as it was cut.
  const auto joins = [&](const Grid& grid) {
    return grid.tensor_ranks == cut.tensor_ranks || ShardsJoin(spec, cut.tensor_ranks);
  };
  const auto checkpoint = Checkpoint::Open(directory()).value();
  const auto device = MakeTestDevice(2);
  const Golden golden = ReadGolden(GetParam());
  std::string shards = (std::filesystem::temp_directory_path() / "ranks_test_XXXXXX").string();
  ASSERT_NE(::mkdtemp(shards.data()), nullptr);
  for (const DType dtype : {DType::kF32, DType::kI8}) {
    const std::filesystem::path set = std::filesystem::path(shards) / DTypeName(dtype);
    const auto source = [&](const Part& part) {
      return MakeCheckpointSource(spec, part, *checkpoint, dtype, *device);
    };
    const Status written = WriteShards(spec, cut, source, "golden", dtype, *device, set, nullptr);
    ASSERT_TRUE(written) << written.error().message;
    for (const char* name : {"config.json", "architecture.json"}) {
      if (std::filesystem::exists(directory() / name)) std::filesystem::copy(directory() / name, set / name);
    }
    for (const Grid grid : {Grid{1, 1}, Grid{tp, 1}, Grid{cut.tensor_ranks, 1}, Grid{1, 2}, Grid{tp, 2}}) {
      if (!joins(grid)) {
        EXPECT_EQ(OpenShards(spec, grid, 0, dtype, *device, set).error().code, ErrorCode::kUnsupported);
        continue;
      }
      SCOPED_TRACE(testing::Message() << DTypeName(dtype) << " shards for --tp " << cut.tensor_ranks
                                      << ", on --tp " << grid.tensor_ranks << " --pp " << grid.stages);
      OnRanks(set, dtype, grid, [&](LoadedModel model) {
        if (dtype == DType::kF32) return ExpectGoldenLogits(golden, std::move(model));
        ModelRunner runner(*model.transformer, *model.kv_cache, model.ranks->world.get());
        const json::array& prompts = golden.cases.at("prompts").as_array();
        const std::vector<float> logits = LogitsOf(runner, Ids(prompts.back()));
        EXPECT_LT(RelativeRms(logits, golden.Floats(fmt::format("logits.{}", prompts.size() - 1))),
                  kI8Tolerance);
      });
    }
  }
  std::filesystem::remove_all(shards);
}

INSTANTIATE_TEST_SUITE_P(Models, RanksTest, testing::ValuesIn(GoldenModels()), [](const auto& model) {
  std::string name = model.param;
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
});

// Sets that DeepSpeed saved on two ranks (scripts/goldens/deepspeed_goldens.py), and the models they are of.
struct SavedSet {
  const char* name;
  const char* model;
  bool int8;
};
constexpr std::array<SavedSet, 6> kSavedSets = {{{"bloom-f32", "bloom", false},
                                                 {"bloom-f32-lists", "bloom", false},
                                                 {"bloom-f16", "bloom-f16", false},
                                                 {"bloom-int8", "bloom", true},
                                                 {"opt-f32", "opt", false},
                                                 {"opt-int8", "opt", true}}};

void ExpectCloseLogits(const Golden& golden, LoadedModel model) {
  ModelRunner runner(*model.transformer, *model.kv_cache, model.ranks->world.get());
  const json::array& prompts = golden.cases.at("prompts").as_array();
  for (std::size_t i = 0; i < prompts.size(); ++i) {
    EXPECT_LT(RelativeRms(LogitsOf(runner, Ids(prompts[i])), golden.Floats(fmt::format("logits.{}", i))),
              kI8Tolerance)
        << "prompt " << i;
  }
}

TEST(DeepSpeedSetsTest, LogitsEqualTheModels) {
  for (const SavedSet& saved : kSavedSets) {
    const Golden golden = ReadGolden(saved.model);
    const std::filesystem::path set = SourceDir() / "testdata/deepspeed" / saved.name;
    for (const Grid grid : {Grid{1, 1}, Grid{2, 1}, Grid{4, 1}, Grid{2, 2}}) {
      SCOPED_TRACE(testing::Message()
                   << saved.name << " --tp " << grid.tensor_ranks << " --pp " << grid.stages);
      OnRanks(set, DType::kF32, grid, [&](LoadedModel model) {
        if (saved.int8) return ExpectCloseLogits(golden, std::move(model));
        ExpectGoldenLogits(golden, std::move(model));
      });
      // Packed as int8 again: two roundings, which the tolerance for one must still cover.
      if (saved.int8) {
        OnRanks(set, DType::kI8, grid,
                [&](LoadedModel model) { ExpectCloseLogits(golden, std::move(model)); });
      }
    }
  }
}

TEST(DeepSpeedSetsTest, ShardsAreMadeFromThem) {
  const std::filesystem::path model = SourceDir() / "testdata/deepspeed/bloom-f16";
  const ModelSpec spec = LoadSpec(model).value();
  const auto checkpoint = Checkpoint::Open(model).value();
  const auto device = MakeTestDevice(2);
  std::string set = (std::filesystem::temp_directory_path() / "deepspeed_test_XXXXXX").string();
  ASSERT_NE(::mkdtemp(set.data()), nullptr);
  const auto source = [&](const Part& part) {
    return MakeCheckpointSource(spec, part, *checkpoint, DType::kF32, *device);
  };
  const std::filesystem::path shards = std::filesystem::path(set) / "shards";
  ASSERT_TRUE(WriteShards(spec, {2, 1}, source, "golden", DType::kF32, *device, shards, nullptr));
  std::filesystem::copy(model / "config.json", shards / "config.json");
  const Golden golden = ReadGolden("bloom-f16");
  OnRanks(shards, DType::kF32, {2, 1},
          [&golden](LoadedModel loaded) { ExpectGoldenLogits(golden, std::move(loaded)); });
  std::filesystem::remove_all(set);
}

// Every second rank is left out: the files agree with each other, and not with config.json.
TEST(DeepSpeedSetsTest, HalfASetIsRefused) {
  std::string folder = (std::filesystem::temp_directory_path() / "deepspeed_test_XXXXXX").string();
  ASSERT_NE(::mkdtemp(folder.data()), nullptr);
  const std::filesystem::path set = std::filesystem::path(folder) / "set";
  std::filesystem::copy(SourceDir() / "testdata/deepspeed/bloom-f16", set);
  std::ofstream(set / "ds_inference_config.json") << R"({"type":"bloom","parallelization":"tp","tp_size":1,
    "checkpoints":{"non_tp":["non-tp.pt"],"tp":["tp_00_00.pt","tp_00_01.pt","tp_00_02.pt","tp_00_03.pt",
    "tp_00_04.pt","tp_00_05.pt","tp_00_06.pt","tp_00_07.pt"]}})";
  const ModelSpec spec = LoadSpec(set).value();
  const Part part = CutModel(spec, {1, 1}, 0).value();
  const auto device = MakeTestDevice(1);
  const auto loaded = LoadWeights(spec, part, *Checkpoint::Open(set).value(), DType::kF32, *device, nullptr);
  ASSERT_FALSE(loaded);
  EXPECT_NE(loaded.error().message.find("tp_00_01.pt: tensor \"transformer.h.0.self_attention."),
            std::string::npos)
      << loaded.error().message;
  EXPECT_NE(loaded.error().message.find("config.json asks for"), std::string::npos);
  std::filesystem::remove_all(folder);
}

// What a description leaves whole on every rank is computed there, and nothing is added up after it.
TEST(SplitsTest, WhatIsReplicatedGivesTheSameLogits) {
  const std::string name = "llama";
  const std::filesystem::path model = ModelsDir() / name;
  const json::object description =
      ParseJson(ReadFileToString(SourceDir() / "src/model/architectures/llama.json").value(), "llama.json")
          .value()
          .as_object();
  const Golden golden = ReadGolden(name);
  const auto device = MakeTestDevice(2);
  std::string folder = (std::filesystem::temp_directory_path() / "splits_test_XXXXXX").string();
  ASSERT_NE(::mkdtemp(folder.data()), nullptr);
  const std::vector<std::vector<std::string>> replicated = {
      {"qkv", "attention_out"},
      {"ffn_up", "ffn_down"},
      {"embed"},
      {"qkv", "attention_out", "ffn_up", "ffn_down", "embed"}};
  for (std::size_t i = 0; i < replicated.size(); ++i) {
    SCOPED_TRACE(testing::Message() << "replicated: " << testing::PrintToString(replicated[i]));
    const std::filesystem::path copy = std::filesystem::path(folder) / std::to_string(i);
    std::filesystem::create_directory(copy);
    for (const char* file : {"config.json", "model.safetensors"})
      std::filesystem::copy(model / file, copy / file);
    json::object changed = description;
    for (const std::string& role : replicated[i]) changed["splits"].as_object()[role] = "replicated";
    std::ofstream(copy / "architecture.json") << json::serialize(changed);
    const ModelSpec spec = LoadSpec(copy).value();
    const std::filesystem::path set = copy / "shards";
    const auto checkpoint = Checkpoint::Open(copy).value();
    const auto source = [&](const Part& part) {
      return MakeCheckpointSource(spec, part, *checkpoint, DType::kF32, *device);
    };
    ASSERT_TRUE(WriteShards(spec, {2, 2}, source, "golden", DType::kF32, *device, set, nullptr));
    for (const char* file : {"config.json", "architecture.json"})
      std::filesystem::copy(copy / file, set / file);
    for (const Grid grid : {Grid{2, 1}, Grid{2, 2}}) {
      for (const std::filesystem::path& from : {copy, set}) {
        OnRanks(from, DType::kF32, grid,
                [&golden](LoadedModel m) { ExpectGoldenLogits(golden, std::move(m)); });
      }
    }
    // Three ranks could not share two key and value heads, nor 88 features.
    EXPECT_EQ(CutModel(spec, {3, 1}, 0).has_value(), i + 1 == replicated.size());
  }
  std::filesystem::remove_all(folder);
}

// Says when messages have been sent, and leaves the rest to another.
class CountsSends final : public Communicator {
 public:
  CountsSends(std::unique_ptr<Communicator> inner, std::latch& sent)
      : inner_(std::move(inner)), sent_(sent) {}

  int rank() const override { return inner_->rank(); }
  int size() const override { return inner_->size(); }
  Status AllReduceSum(std::span<float> data) override { return inner_->AllReduceSum(data); }
  Status Broadcast(std::vector<std::byte>& message, int root) override {
    return inner_->Broadcast(message, root);
  }
  std::size_t broadcast_ahead_bytes() const override { return inner_->broadcast_ahead_bytes(); }
  Status Gather(std::span<const float> mine, std::span<float> all, int root) override {
    return inner_->Gather(mine, all, root);
  }
  Status Send(std::span<const float> data, int to) override {
    const Status sent = inner_->Send(data, to);
    sent_.count_down();
    return sent;
  }
  Status Receive(std::span<float> data, int from) override { return inner_->Receive(data, from); }
  Status Barrier() override { return inner_->Barrier(); }
  Result<std::unique_ptr<Communicator>> Split(int color) override { return inner_->Split(color); }

 private:
  const std::unique_ptr<Communicator> inner_;
  std::latch& sent_;
};

// Without that the test never ends: rank 0 computes nothing before both steps have left the first stage.
TEST(PipelineTest, TheFirstStageIsAtTheNextStepWhileTheLastHasTheOneBefore) {
  auto world = MakeThreadGroup(2);
  std::latch sent(2);
  std::jthread first_stage([&] {
    auto group = MakeRankGroup(std::move(world[1]), {1, 2}).value();
    group->pipeline = std::make_unique<CountsSends>(std::move(group->pipeline), sent);
    const TestModel model = LoadTestModel(ModelsDir() / "bloom", DType::kF32, 1, std::move(group));
    const LoadedModel& loaded = model.loaded;
    EXPECT_TRUE(ModelRunner(*loaded.transformer, *loaded.kv_cache, loaded.ranks->world.get()).Follow());
  });
  auto group = MakeRankGroup(std::move(world[0]), {1, 2}).value();
  const TestModel model = LoadTestModel(ModelsDir() / "bloom", DType::kF32, 1, std::move(group));
  std::vector<std::vector<float>> logits;
  {
    ModelRunner runner(*model.loaded.transformer, *model.loaded.kv_cache, model.loaded.ranks->world.get());
    EXPECT_EQ(runner.depth(), 2);
    const std::vector<std::int32_t> tokens = {5, 6, 7, 8};
    const LogitsQuery last{.best = false, .rows = {1}};
    const std::int32_t block = 3;
    for (std::int64_t position : {0, 2}) {
      const SequenceSlice slice{&block, 0, 2, position};
      ASSERT_TRUE(runner.Begin(std::span(tokens).subspan(static_cast<std::size_t>(position), 2), {&slice, 1},
                               {&last, 1}));
    }
    sent.wait();
    for (int step = 0; step < 2; ++step) {
      ASSERT_TRUE(runner.Compute());
      const auto answer = runner.Logits().value();
      logits.emplace_back(answer.begin(), answer.end());
    }
  }
  const TestModel whole = LoadTestModel(ModelsDir() / "bloom", DType::kF32, 1);
  ModelRunner runner(*whole.loaded.transformer, *whole.loaded.kv_cache, nullptr);
  const std::vector<float> expected = LogitsOf(runner, std::vector<std::int32_t>{5, 6, 7, 8});
  const std::size_t vocab = logits[0].size();
  for (const std::size_t row : {1UL, 3UL}) {
    const auto begin = expected.begin() + static_cast<std::ptrdiff_t>(row * vocab);
    EXPECT_EQ(logits[row / 2], std::vector<float>(begin, begin + static_cast<std::ptrdiff_t>(vocab)));
  }
}

// A rank that is lost in the middle of a step ends the step on all, and the engine's requests with a reason.
TEST(LostRankTest, EndsEveryRequestWithAnError) {
  const std::string name = GoldenModels().front();
  for (const std::int64_t call : {60, 61, 75, 100}) {
    auto world = MakeThreadGroup(2, {.dying_rank = 1, .dies_at_call = call});
    std::vector<std::jthread> ranks;
    for (std::size_t rank = 0; rank < 2; ++rank) {
      ranks.emplace_back([&, rank] {
        auto group = MakeRankGroup(std::move(world[rank]), {2, 1});
        ASSERT_TRUE(group);
        TestModel model = LoadTestModel(ModelsDir() / name, DType::kF32, 1, *std::move(group));
        LoadedModel& loaded = model.loaded;
        if (rank == 1) {
          const Status followed =
              ModelRunner(*loaded.transformer, *loaded.kv_cache, loaded.ranks->world.get()).Follow();
          EXPECT_FALSE(followed);
          return;
        }
        int told = 0;
        Engine engine(std::move(loaded), [&told](const Error& /*error*/) { ++told; });
        for (int i = 0; i < 2; ++i) {  // one in progress, one after
          GenerationRequest request;
          request.id = static_cast<std::uint64_t>(i) + 1;
          request.prompt = std::vector<std::int32_t>{5, 6, 7};
          request.sampling.max_new_tokens = 200;
          request.sampling.ignore_eos = true;
          const auto sink = std::make_shared<CollectingSink>();
          engine.Submit(std::move(request), sink);
          sink->Wait();
          ASSERT_TRUE(sink->error);
          EXPECT_EQ(sink->error->code, ErrorCode::kUnavailable);
        }
        EXPECT_EQ(told, 1);
      });
    }
  }
}

}  // namespace
}  // namespace bloomery
