#include "checkpoint/deepspeed.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <fstream>

#include "base/mapped_file.h"
#include "checkpoint/checkpoint.h"

namespace bloomery {
namespace {

using testing::AllOf;
using testing::HasSubstr;
namespace fs = std::filesystem;

const fs::path kTestData = fs::path(BLOOMERY_SOURCE_DIR) / "testdata";

// A weight that is quantised to q · s, s = largest / 128, and clamped to 127: at most one step away. What
// was not quantised was rounded to f16.
constexpr float kInt8Step = 1.0F / 128;
constexpr float kF16Rounding = 1.0F / 1024;

std::vector<float> Values(const TensorView& view) {
  std::vector<float> values(static_cast<std::size_t>(ElementCount(view.shape)));
  ToF32(view, 0, ElementCount(view.shape), values.data());
  return values;
}

std::shared_ptr<const Checkpoint> OpenOrDie(const fs::path& directory) {
  auto opened = Checkpoint::Open(directory);
  EXPECT_TRUE(opened) << opened.error().ToString();
  return *opened;
}

TEST(DeepSpeedSet, JoinsToTheModelsTensors) {
  for (const auto& [set, model] : {std::pair{"bloom-f32", "bloom"}, std::pair{"bloom-f32-lists", "bloom"},
                                   std::pair{"bloom-f16", "bloom-f16"}, std::pair{"opt-f32", "opt"}}) {
    const auto ours = OpenOrDie(kTestData / "deepspeed" / set);
    const auto expected = OpenOrDie(kTestData / "models" / model);
    for (const std::string& name : expected->names()) {
      const auto view = ours->Get(name);
      ASSERT_TRUE(view) << set << ": " << view.error().ToString();
      EXPECT_EQ(view->shape, expected->Find(name)->shape) << set << " " << name;
      EXPECT_EQ(Values(*view), Values(*expected->Find(name))) << set << " " << name;
      EXPECT_EQ(view->stored_bytes(), expected->Find(name)->bytes.size()) << set << " " << name;
    }
    EXPECT_THAT(std::string(ours->FileOf(expected->names().back())), HasSubstr(".pt"));
  }
}

TEST(DeepSpeedSet, DequantisesInt8) {
  for (const auto& [set, model] : {std::pair{"bloom-int8", "bloom"}, std::pair{"opt-int8", "opt"}}) {
    const auto ours = OpenOrDie(kTestData / "deepspeed" / set);
    const auto expected = OpenOrDie(kTestData / "models" / model);
    int quantised = 0;
    for (const std::string& name : expected->names()) {
      const auto view = ours->Get(name);
      ASSERT_TRUE(view) << view.error().ToString();
      const bool int8 = view->pieces != nullptr && view->pieces->front().dtype == DType::kI8;
      quantised += int8 ? 1 : 0;
      const TensorView& whole = *expected->Find(name);
      ASSERT_EQ(view->shape, whole.shape);
      const std::vector<float> a = Values(*view);
      const std::vector<float> b = Values(whole);
      const auto columns = static_cast<std::size_t>(whole.cols());
      for (std::size_t row = 0; row < b.size(); row += columns) {
        float largest = 0;
        for (std::size_t c = 0; c < columns; ++c) largest = std::max(largest, std::fabs(b[row + c]));
        for (std::size_t c = 0; c < columns; ++c) {
          ASSERT_NEAR(a[row + c], b[row + c], largest * ((int8 ? kInt8Step : 0) + kF16Rounding))
              << set << " " << name << " " << row + c;
        }
      }
    }
    EXPECT_EQ(quantised, model == std::string("bloom") ? 8 : 12);
  }
}

// --- pieces made up: layouts that the sets above do not have ---

struct Made {
  std::vector<std::int8_t> values;
  std::vector<float> scales;

  ScaledTensor Entry(Shape shape, Shape scale_shape) const {
    return {{DType::kI8, std::move(shape), std::as_bytes(std::span(values))},
            TensorView{DType::kF32, std::move(scale_shape), std::as_bytes(std::span(scales))}};
  }
};

constexpr const char* kQkv = "h.0.attention.attn_qkvw";

TEST(DeepSpeedJoin, TakesScalesOfGroupsAndOfTheWholeMatrix) {
  // Two groups, whose scales are followed by those of halves.
  const Made first{{1, 2, 3, 4}, {1, 10, -1, -1, -1, -1}};
  const Made second{{5, 6, 7, 8}, {100, 1000, -1, -1, -1, -1}};
  std::vector<RankFile> ranks = {{"a", {{kQkv, first.Entry({4, 1}, {2, 3})}}},
                                 {"b", {{kQkv, second.Entry({4, 1}, {2, 3})}}}};
  auto joined = JoinRanks(DeepSpeedFamily::kBloom, ranks);
  ASSERT_TRUE(joined) << joined.error().ToString();
  EXPECT_EQ(Values(joined->at("h.0.self_attention.query_key_value.weight")),
            (std::vector<float>{1, 2, 30, 40, 500, 600, 7000, 8000}));

  // q, k and v of one row a rank; scales of the whole matrix: q of both ranks, k of both, v of both.
  const Made q{{1, 1, 1}, {1, 2, 3, 4, 5, 6}};
  ranks = {{"a", {{kQkv, q.Entry({3, 1}, {6, 1})}}}, {"b", {{kQkv, q.Entry({3, 1}, {6, 1})}}}};
  joined = JoinRanks(DeepSpeedFamily::kOpt, ranks);
  ASSERT_TRUE(joined) << joined.error().ToString();
  EXPECT_EQ(Values(joined->at("h.0.self_attn.q_proj.weight")), (std::vector<float>{1, 2}));
  EXPECT_EQ(Values(joined->at("h.0.self_attn.k_proj.weight")), (std::vector<float>{3, 4}));
  EXPECT_EQ(Values(joined->at("h.0.self_attn.v_proj.weight")), (std::vector<float>{5, 6}));
}

TEST(DeepSpeedJoin, RefusesPiecesThatDoNotFit) {
  const std::vector<float> floats(64);
  const auto plain = [&](Shape shape, DType dtype = DType::kF32) {
    const auto bytes = static_cast<std::size_t>(ElementCount(shape)) * SizeOf(dtype);
    return ScaledTensor{{dtype, std::move(shape), std::as_bytes(std::span(floats)).first(bytes)}, {}};
  };
  const auto refusal = [](const char* key, const ScaledTensor& a, const ScaledTensor& b,
                          DeepSpeedFamily family = DeepSpeedFamily::kBloom) {
    const std::vector<RankFile> ranks = {{"a.pt", {{key, a}}}, {"b.pt", {{key, b}}}};
    const auto joined = JoinRanks(family, ranks);
    return joined ? "accepted" : joined.error().message;
  };
  EXPECT_THAT(refusal(kQkv, plain({2, 6}), plain({2, 3})),
              AllOf(HasSubstr("b.pt: tensor \"h.0.attention.attn_qkvw\" is f32 [2, 3]"),
                    HasSubstr("f32 [2, 6] in a.pt")));
  EXPECT_THAT(refusal(kQkv, plain({2, 6}), plain({2, 6}, DType::kF16)), HasSubstr("ranks' pieces are alike"));
  EXPECT_THAT(refusal("h.0.norm_w", plain({4}), plain({5})), HasSubstr("b.pt: tensor \"h.0.norm_w\""));
  EXPECT_THAT(refusal(kQkv, plain({6}), plain({6})), HasSubstr("a.pt: tensor"));
  EXPECT_THAT(refusal("h.0.norm_w", plain({4, 1}), plain({4, 1})), HasSubstr("expected a vector"));
  EXPECT_THAT(refusal(kQkv, plain({2, 0}), plain({2, 0})), HasSubstr("expected a matrix"));
  EXPECT_THAT(refusal(kQkv, plain({2, 4}), plain({2, 4}), DeepSpeedFamily::kOpt),
              HasSubstr("4 outputs, which are no q, k and v"));
  EXPECT_THAT(refusal(kQkv, plain({6, 2}, DType::kI8), plain({6, 2}, DType::kI8)),
              HasSubstr("a.pt: tensor \"h.0.attention.attn_qkvw\" is int8 without a scale"));
  EXPECT_THAT(refusal("h.0.norm_w", plain({4}, DType::kI8), plain({4}, DType::kI8)),
              HasSubstr("int8 without a scale"));
  EXPECT_THAT(refusal(kQkv, plain({6, 2}, DType::kI32), plain({6, 2}, DType::kI32)),
              HasSubstr("expected f32, f16, bf16 or int8"));
  ScaledTensor scaled = plain({6, 2}, DType::kI8);
  for (const Shape& shape : {Shape{5, 3}, Shape{24, 1}, Shape{7}}) {
    scaled.scale = plain(shape).tensor;
    EXPECT_THAT(refusal(kQkv, scaled, scaled), HasSubstr("scales for 6 outputs")) << ShapeString(shape);
  }
  for (const Shape& shape : {Shape{}, Shape{0, 3}, Shape{6, 0}}) {
    scaled.scale = plain(shape).tensor;
    EXPECT_THAT(refusal(kQkv, scaled, scaled), HasSubstr("expected float32 [groups, 3]"));
  }
  scaled.scale = plain({6, 3}, DType::kF16).tensor;
  EXPECT_THAT(refusal(kQkv, scaled, scaled), HasSubstr("expected float32 [groups, 3]"));
}

// --- configurations ---

// A copy of a set that a test may spoil.
class DeepSpeedConfig : public testing::Test {
 protected:
  void SetUp() override {
    directory_ = fs::path(testing::TempDir()) / testing::UnitTest::GetInstance()->current_test_info()->name();
    fs::remove_all(directory_);
    fs::copy(kTestData / "deepspeed/bloom-f16", directory_);
    config_ = ReadFileToString((directory_ / kDeepSpeedConfigName).string()).value();
  }
  void TearDown() override { fs::remove_all(directory_); }

  // Opens the set with `from` of its configuration replaced.
  std::string Refusal(const std::string& from = "", const std::string& to = "") const {
    std::string text = config_;
    const std::size_t at = text.find(from);
    EXPECT_NE(at, std::string::npos) << from;
    return RefusalOf(text.replace(at, from.size(), to));
  }
  std::string RefusalOf(const std::string& text) const {
    std::ofstream(directory_ / kDeepSpeedConfigName) << text;
    const auto opened = Checkpoint::Open(directory_);
    return opened ? "accepted" : opened.error().message;
  }
  void Replace(const std::string& file, const fs::path& by) const {
    fs::copy_file(by, directory_ / file, fs::copy_options::overwrite_existing);
  }

  fs::path directory_;
  std::string config_;
};

TEST_F(DeepSpeedConfig, AcceptsWhatDeepSpeedDoes) {
  EXPECT_EQ(Refusal(), "accepted");
  EXPECT_EQ(Refusal("\"type\": \"bloom\"", "\"type\": \"BLOOM\""), "accepted");
  EXPECT_EQ(Refusal("\"type\": \"bloom\"", "\"type\": \"ds_model\""), "accepted") << "config.json says bloom";
  EXPECT_EQ(Refusal("\"tp_size\": 2", "\"tp_size\": 8, \"mp_size\": 2"), "accepted");
  EXPECT_EQ(Refusal("\"tp_00_00.pt\"", "\"./tp_00_00.pt\""), "accepted");
  EXPECT_EQ(Refusal("\"tp_00_00.pt\"", "\"" + (fs::absolute(directory_) / "tp_00_00.pt").string() + "\""),
            "accepted");
}

TEST_F(DeepSpeedConfig, ReadsUnshardedForms) {
  Replace("model-1.bin", kTestData / "models/bloom-bin-noprefix/pytorch_model.bin");
  EXPECT_EQ(RefusalOf(R"({"type":"BLOOM","checkpoints":["model-1.bin"],"version":1.0})"), "accepted");
  const auto ours = OpenOrDie(directory_);
  const auto expected = OpenOrDie(kTestData / "models/bloom-bin-noprefix");
  EXPECT_EQ(ours->names(), expected->names());
  Replace("model.safetensors", kTestData / "models/bloom/model.safetensors");
  EXPECT_EQ(RefusalOf(R"({"type":"ds_model","checkpoints":["model.safetensors"]})"), "accepted");
}

TEST_F(DeepSpeedConfig, RefusesFilesThatAreMissingOrElsewhere) {
  for (const char* place : {"../x.pt", "/etc/passwd", "a/../../x.pt", "..", ".", ""}) {
    EXPECT_THAT(Refusal("\"tp_00_03.pt\"", fmt::format("\"{}\"", place)),
                AllOf(HasSubstr("ds_inference_config.json: checkpoint"),
                      HasSubstr("is no file in the directory of the configuration")))
        << place;
  }
  EXPECT_THAT(Refusal("\"tp_00_03.pt\"", "7"), HasSubstr("no file name"));
  EXPECT_THAT(Refusal("\"tp_00_03.pt\"", "\"gone.pt\""),
              HasSubstr("gone.pt is missing, and ds_inference_config.json promises it"));
  EXPECT_THAT(Refusal("\"tp_00_03.pt\"", "\"tp_01_03.pt\""), HasSubstr("tp_01_03.pt is listed twice"));
  fs::remove(directory_ / "tp_01_04.pt");
  EXPECT_THAT(Refusal(), HasSubstr("tp_01_04.pt is missing"));
}

TEST_F(DeepSpeedConfig, RefusesAnotherNumberOfRanks) {
  EXPECT_THAT(Refusal("\"tp_size\": 2", "\"tp_size\": 3"), HasSubstr("16 files cannot be parts of 3 ranks"));
  EXPECT_THAT(Refusal("\"tp_size\": 2", "\"tp_size\": 0"), HasSubstr("parts of 0 ranks"));
  EXPECT_THAT(Refusal("\"tp_size\": 2", "\"tp_size\": -2"), HasSubstr("parts of -2 ranks"));
  EXPECT_THAT(Refusal("\"tp_size\": 2", "\"tp_size\": \"2\""), HasSubstr("tp_size"));
  EXPECT_THAT(Refusal("\"tp_size\": 2", "\"tp_size\": 4"),
              AllOf(HasSubstr(".pt: tensor"), HasSubstr("is tp_size right?")));
  EXPECT_THAT(Refusal("\"tp_size\": 2", "\"tp_size\": 1"), HasSubstr("tp_01_00.pt: tensor"));
  EXPECT_THAT(Refusal(", \"tp_size\": 2", ""), HasSubstr("is tp_size right?"));
}

TEST_F(DeepSpeedConfig, RefusesContradictions) {
  EXPECT_THAT(Refusal("\"type\": \"bloom\"", "\"type\": \"Megatron\""), HasSubstr("type \"Megatron\""));
  EXPECT_THAT(Refusal("\"type\": \"bloom\"", "\"type\": 1"), HasSubstr("type"));
  EXPECT_THAT(Refusal("\"parallelization\": \"tp\"", "\"parallelization\": \"pp\""),
              HasSubstr("parallelization \"pp\""));
  EXPECT_THAT(Refusal("\"non_tp\": [\"non-tp.pt\"]", "\"non_tp\": []"), HasSubstr("\"non_tp\" is no list"));
  EXPECT_THAT(RefusalOf("[]"), HasSubstr("no JSON object"));
  EXPECT_THAT(RefusalOf("{"), HasSubstr("ds_inference_config.json"));
  EXPECT_THAT(RefusalOf(R"({"type":"bloom"})"), HasSubstr("\"checkpoints\" is no list of files"));
  EXPECT_THAT(RefusalOf(R"({"type":"bloom","checkpoints":{},"parallelization":"tp"})"),
              HasSubstr("\"tp\" is no list of files"));
  std::ofstream(directory_ / "config.json") << R"({"model_type":"gpt2"})";
  EXPECT_THAT(Refusal("\"type\": \"bloom\"", "\"type\": \"ds_model\""),
              AllOf(HasSubstr("config.json"), HasSubstr("model_type \"gpt2\"")));
  fs::remove(directory_ / "config.json");
  EXPECT_THAT(Refusal("\"type\": \"bloom\"", "\"type\": \"ds_model\""), HasSubstr("config.json"));
}

TEST_F(DeepSpeedConfig, RefusesFilesOfAnotherSet) {
  Replace("tp_01_03.pt", kTestData / "deepspeed/bloom-f32/tp_01_03.pt");
  EXPECT_THAT(Refusal(), AllOf(HasSubstr("tp_01_03.pt: tensor"), HasSubstr("ranks' pieces are alike")));
  Replace("tp_01_03.pt", directory_ / "tp_01_04.pt");
  EXPECT_THAT(Refusal(), HasSubstr("tp_01_03.pt: tensor"));
  std::ofstream(directory_ / "tp_01_03.pt") << "no archive";
  EXPECT_THAT(Refusal(), HasSubstr("tp_01_03.pt"));
}

TEST(ScaledTorchFile, RefusesWhatIsNeitherTensorNorTensorAndScale) {
  const auto file =
      MappedFile::Open(fs::path(BLOOMERY_SOURCE_DIR) / "fuzz/corpus/torch_fuzzer/nested").value();
  const auto parsed = ParseScaledTorchFile(*file);
  ASSERT_FALSE(parsed);
  EXPECT_THAT(parsed.error().message, HasSubstr("is neither a tensor nor a tensor and its scale"));
}

TEST(ScaledTorchFile, EveryFlippedByteIsSurvived) {
  const auto file = MappedFile::Open(kTestData / "deepspeed/bloom-int8/tp_00_02.pt").value();
  const std::string whole(file->text());
  ASSERT_TRUE(ParseScaledTorchFile(*file));
  int refused = 0;
  for (std::size_t i = 0; i < whole.size(); ++i) {
    std::string flipped = whole;
    flipped[i] = static_cast<char>(flipped[i] ^ 0x55);
    const MemorySource source("x", flipped);
    const auto parsed = ParseScaledTorchFile(source);
    refused += parsed ? 0 : 1;
    if (!parsed) continue;
    std::vector<RankFile> ranks = {{"x", *parsed}};
    const auto joined = JoinRanks(DeepSpeedFamily::kBloom, ranks);
    if (!joined) continue;
    for (const auto& [name, view] : *joined) {
      if (view.dtype == DType::kF32 || view.dtype == DType::kF16) Values(view);
    }
  }
  EXPECT_GT(refused, 100);
}

}  // namespace
}  // namespace bloomery
