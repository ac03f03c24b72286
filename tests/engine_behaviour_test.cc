// The engine as its users see it, on a tiny model: repeatable whatever else runs, cancellable, bounded, and
// clear about what it refuses.
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <random>
#include <thread>

#include "collective/thread_group.h"
#include "engine/engine.h"
#include "golden_support.h"

namespace bloomery {
namespace {

constexpr const char* kModel = "bloom";

std::vector<std::int32_t> RandomPrompt(std::mt19937& generator, std::size_t length) {
  std::uniform_int_distribution<std::int32_t> id(4, 159);
  std::vector<std::int32_t> prompt(length);
  for (std::int32_t& token : prompt) token = id(generator);
  return prompt;
}

GenerationRequest MakeRequest(std::vector<std::int32_t> prompt, int max_new_tokens) {
  static std::uint64_t next_id = 1;
  GenerationRequest request;
  request.id = next_id++;
  request.prompt = std::move(prompt);
  request.sampling.max_new_tokens = max_new_tokens;
  request.sampling.ignore_eos = true;
  return request;
}

GenerationRequest Sampled(std::vector<std::int32_t> prompt, int max_new_tokens, std::uint64_t seed) {
  GenerationRequest request = MakeRequest(std::move(prompt), max_new_tokens);
  request.sampling.do_sample = true;
  request.sampling.temperature = 1.2F;
  request.sampling.top_p = 0.95F;
  request.sampling.seed = seed;
  return request;
}

std::shared_ptr<CollectingSink> Start(Engine& engine, GenerationRequest request) {
  auto sink = std::make_shared<CollectingSink>();
  engine.Submit(std::move(request), sink);
  return sink;
}

std::shared_ptr<CollectingSink> Finish(Engine& engine, GenerationRequest request) {
  auto sink = Start(engine, std::move(request));
  sink->Wait();
  return sink;
}

class EngineBehaviour : public testing::Test {
 protected:
  // kv_tokens: capacity of the cache; small ones force preemption.
  std::unique_ptr<Engine> MakeEngine(DType dtype = DType::kF32, std::int64_t kv_tokens = 4096,
                                     std::int64_t max_batch_tokens = 64, LoadOptions options = {}) {
    device_ = MakeTestDevice(2);
    const LoadOptions whole = Options(dtype, kv_tokens, max_batch_tokens, std::move(options));
    return std::make_unique<Engine>(LoadModel(whole, *device_, nullptr).value());
  }

  // Over the two stages of a pipeline, each a thread. The engine must go before the fixture.
  std::unique_ptr<Engine> MakePipeline(const LoadOptions& options) {
    auto world = MakeThreadGroup(2);
    first_stage_ = std::jthread([this, options, rank = std::move(world[1])]() mutable {
      auto group = MakeRankGroup(std::move(rank), {1, 2}).value();
      first_device_ = MakeTestDevice(1);
      const LoadedModel model = LoadModel(options, *first_device_, nullptr, std::move(group)).value();
      EXPECT_TRUE(ModelRunner(*model.transformer, *model.kv_cache, model.ranks->world.get()).Follow());
    });
    auto group = MakeRankGroup(std::move(world[0]), {1, 2}).value();
    device_ = MakeTestDevice(1);
    return std::make_unique<Engine>(LoadModel(options, *device_, nullptr, std::move(group)).value());
  }

  static LoadOptions Options(DType dtype, std::int64_t kv_tokens, std::int64_t max_batch_tokens,
                             LoadOptions options) {
    options.directory = ModelsDir() / kModel;
    options.dtype = dtype;
    if (options.max_batch_size == LoadOptions().max_batch_size) options.max_batch_size = 16;
    options.max_batch_tokens = max_batch_tokens;
    const ModelSpec spec = LoadSpec(options.directory).value();
    const KvCacheShape shape{static_cast<int>(spec.layers), static_cast<int>(spec.kv_heads),
                             static_cast<int>(spec.head_dim), SizeOf(dtype) < 2 ? DType::kF16 : dtype};
    options.kv_cache_bytes = shape.BytesPerToken() * static_cast<std::uint64_t>(kv_tokens);
    return options;
  }

  std::unique_ptr<Device> device_;
  std::unique_ptr<Device> first_device_;
  std::jthread first_stage_;
};

// Requests whose prompts often begin like another's and often repeat themselves, greedy and sampled.
std::vector<GenerationRequest> RandomMix(std::mt19937& generator, std::size_t count) {
  std::vector<std::vector<std::int32_t>> beginnings;
  for (int i = 0; i < 4; ++i) beginnings.push_back(RandomPrompt(generator, 16 + generator() % 60));
  std::vector<GenerationRequest> requests;
  for (std::size_t i = 0; i < count; ++i) {
    std::vector<std::int32_t> prompt = beginnings[generator() % beginnings.size()];
    prompt.resize(1 + generator() % prompt.size());
    const std::vector<std::int32_t> rest = RandomPrompt(generator, generator() % 40);
    prompt.insert(prompt.end(), rest.begin(), rest.end());
    if (generator() % 2 == 0) prompt.insert(prompt.end(), rest.begin(), rest.end());
    const int new_tokens = 1 + static_cast<int>(generator() % 40);
    requests.push_back(i % 2 == 0 ? MakeRequest(prompt, new_tokens)
                                  : Sampled(prompt, new_tokens, generator()));
    requests.back().cache_salt = generator() % 2;
    requests.back().sampling.priority = static_cast<int>(generator() % 3);
  }
  return requests;
}

// Bit for bit the same tokens and log-probabilities alone (no prefix reuse, no guessing ahead) and in random
// company, in chunks and whole, with a cache that is large or too small for all, with what earlier requests
// left in it, and with guesses.
TEST_F(EngineBehaviour, TokensDependOnTheRequestAlone) {
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kI8, DType::kI4}) {
    std::mt19937 generator(11);
    std::vector<GenerationRequest> requests = RandomMix(generator, 100);
    for (GenerationRequest& request : requests) request.sampling.logprobs = 0;
    std::vector<SequenceEvent> alone;
    {
      LoadOptions plain;
      plain.prefix_cache = false;
      plain.speculative_tokens = 0;
      const auto engine = MakeEngine(dtype, 4096, 64, plain);
      for (const GenerationRequest& request : requests)
        alone.push_back(Finish(*engine, request)->sequences.at(0));
    }
    for (const auto& [kv_tokens, batch_tokens] :
         {std::pair<std::int64_t, std::int64_t>{4096, 64}, {4096, 17}, {208, 64}}) {
      const auto engine = MakeEngine(dtype, kv_tokens, batch_tokens);
      // Bursts of random size, so that steps of one row and of many occur.
      for (std::size_t begin = 0; begin < requests.size();) {
        const std::size_t end = std::min(requests.size(), begin + 1 + generator() % 12);
        std::vector<std::shared_ptr<CollectingSink>> sinks;
        for (std::size_t i = begin; i < end; ++i) sinks.push_back(Start(*engine, requests[i]));
        for (std::size_t i = begin; i < end; ++i) {
          CollectingSink& sink = *sinks[i - begin];
          sink.Wait();
          ASSERT_FALSE(sink.error) << sink.error->ToString();
          const SequenceEvent& got = sink.sequences.at(0);
          ASSERT_EQ(got.token_ids, alone[i].token_ids)
              << DTypeName(dtype) << " request " << i << " with " << kv_tokens << " KV tokens";
          for (std::size_t t = 0; t < got.logprobs.size(); ++t)
            ASSERT_EQ(got.logprobs[t].logprob, alone[i].logprobs[t].logprob)
                << "request " << i << " token " << t;
        }
        begin = end;
      }
      const EngineStats stats = engine->stats();
      EXPECT_GT(stats.cached_tokens_total, 0) << "some prompts began alike";
      EXPECT_GT(stats.accepted_tokens_total, 0) << "some guesses came true";
      EXPECT_LT(stats.accepted_tokens_total, stats.drafted_tokens_total) << "and some did not";
      if (kv_tokens == 208) {
        EXPECT_GT(stats.preemptions_total, 0) << "the small cache must have forced requests out";
      }
    }
  }
}

// Several steps at once, requests that end in the middle of them, and too small a cache change no token.
TEST_F(EngineBehaviour, OverAPipelineTokensDependOnTheRequestAlone) {
  std::mt19937 generator(12);
  std::vector<GenerationRequest> requests = RandomMix(generator, 100);
  for (std::size_t i = 0; i < requests.size(); i += 10) {
    requests[i].sampling.num_return_sequences = 2;
    requests[i].sampling.do_sample = true;
    requests[i].sampling.seed = i;
    requests[i + 1].sampling.num_beams = 3;
    requests[i + 1].sampling.do_sample = false;
    requests[i + 2].sampling.prompt_logprobs = true;
  }
  std::vector<std::vector<SequenceEvent>> alone;
  {
    const auto engine = MakeEngine();
    for (const GenerationRequest& request : requests) alone.push_back(Finish(*engine, request)->sequences);
  }
  LoadOptions many;
  many.max_batch_size = 64;
  for (const std::int64_t kv_tokens : {4096, 256}) {
    const auto engine = MakePipeline(Options(DType::kF32, kv_tokens, 64, many));
    std::vector<std::shared_ptr<CollectingSink>> sinks;
    for (const GenerationRequest& request : requests) sinks.push_back(Start(*engine, request));
    for (std::size_t i = 0; i < requests.size(); i += 7) {
      std::this_thread::sleep_for(std::chrono::milliseconds(generator() % 3));
      engine->Cancel(requests[i].id);
    }
    int ended = 0;
    for (std::size_t i = 0; i < requests.size(); ++i) {
      sinks[i]->Wait();
      if (sinks[i]->error) {
        ASSERT_EQ(sinks[i]->error->code, ErrorCode::kCancelled) << sinks[i]->error->ToString();
        ASSERT_EQ(i % 7, 0U);
        ++ended;
        continue;
      }
      ASSERT_EQ(sinks[i]->sequences.size(), alone[i].size());
      for (std::size_t s = 0; s < alone[i].size(); ++s)
        ASSERT_EQ(sinks[i]->sequences[s].token_ids, alone[i][s].token_ids) << "request " << i;
    }
    EXPECT_GT(ended, 0) << "some were cancelled in time";
    EXPECT_EQ(engine->stats().preemptions_total > 0, kv_tokens == 256);
  }
}

TEST_F(EngineBehaviour, APipelineEndsInTheMiddleOfItsSteps) {
  LoadOptions many;
  many.max_batch_size = 64;
  for (int round = 0; round < 5; ++round) {
    auto engine = MakePipeline(Options(DType::kF32, 4096, 64, many));
    std::vector<std::shared_ptr<CollectingSink>> sinks;
    for (int i = 0; i < 40; ++i) sinks.push_back(Start(*engine, MakeRequest({5, 6}, 100)));
    std::this_thread::sleep_for(std::chrono::milliseconds(3 * round));
    engine.reset();
    for (const auto& sink : sinks) sink->Wait();
    first_stage_.join();
  }
}

TEST_F(EngineBehaviour, APromptThatWasComputedIsNotComputedAgain) {
  const auto engine = MakeEngine();
  std::mt19937 generator(3);
  std::vector<std::int32_t> prompt = RandomPrompt(generator, 50);
  EXPECT_EQ(Finish(*engine, MakeRequest(prompt, 4))->done->cached_tokens, 0);
  EXPECT_EQ(Finish(*engine, MakeRequest(prompt, 4))->done->cached_tokens, 48);
  prompt[40] ^= 1;
  EXPECT_EQ(Finish(*engine, MakeRequest(prompt, 4))->done->cached_tokens, 32);
  GenerationRequest stranger = MakeRequest(prompt, 4);
  stranger.cache_salt = 99;
  EXPECT_EQ(Finish(*engine, stranger)->done->cached_tokens, 0) << "nobody sees what others have sent";
  GenerationRequest scored = MakeRequest(prompt, 4);
  scored.sampling.prompt_logprobs = true;
  const auto sink = Finish(*engine, scored);
  EXPECT_EQ(sink->done->cached_tokens, 0) << "its logits are asked for";
  EXPECT_EQ(sink->prompt->logprobs.size(), prompt.size());
}

TEST_F(EngineBehaviour, ATextThatRepeatsItselfTakesFewerSteps) {
  const auto engine = MakeEngine();
  const auto sink = Finish(*engine, MakeRequest({7, 7, 7, 7, 7, 7}, 200));
  EXPECT_EQ(sink->sequences.at(0).token_ids.size(), 200U);
  EXPECT_GT(engine->stats().accepted_tokens_total, 50) << "greedy decoding of a tiny model falls into a loop";
}

TEST_F(EngineBehaviour, UrgentRequestsGoFirst) {
  LoadOptions narrow;
  narrow.max_batch_size = 1;
  const auto engine = MakeEngine(DType::kF32, 4096, 64, narrow);
  const auto running = Start(*engine, MakeRequest({5, 6, 7}, 200));
  std::vector<std::shared_ptr<CollectingSink>> sinks;
  for (const int priority : {5, 0, -3}) {
    GenerationRequest request = MakeRequest({8, 9}, 20);
    request.sampling.priority = priority;
    sinks.push_back(Start(*engine, request));
  }
  for (const auto& sink : sinks) sink->Wait();
  EXPECT_GT(sinks[0]->done->queue_ms, sinks[1]->done->queue_ms);
  EXPECT_GT(sinks[1]->done->queue_ms, sinks[2]->done->queue_ms);
}

TEST_F(EngineBehaviour, PromptTokensThatMayWaitAreBounded) {
  LoadOptions small;
  small.max_batch_size = 1;
  small.max_queued_tokens = 100;
  const auto engine = MakeEngine(DType::kF32, 4096, 64, small);
  std::mt19937 generator(4);
  std::vector<std::shared_ptr<CollectingSink>> sinks;
  for (int i = 0; i < 6; ++i) sinks.push_back(Start(*engine, MakeRequest(RandomPrompt(generator, 60), 200)));
  int refused = 0;
  for (const auto& sink : sinks) {
    sink->Wait();
    if (!sink->error) continue;
    ++refused;
    EXPECT_EQ(sink->error->code, ErrorCode::kOverloaded);
  }
  EXPECT_GE(refused, 3);
  EXPECT_LE(refused, 5);
  EXPECT_FALSE(Finish(*engine, MakeRequest(RandomPrompt(generator, 300), 2))->error)
      << "a long prompt alone waits for nobody";
}

TEST_F(EngineBehaviour, SeedsRepeatAndDiffer) {
  const auto engine = MakeEngine();
  const std::vector<std::int32_t> prompt = {5, 6, 7};
  const auto first = Finish(*engine, Sampled(prompt, 40, 1));
  EXPECT_EQ(first->sequences[0].token_ids, Finish(*engine, Sampled(prompt, 40, 1))->sequences[0].token_ids);
  EXPECT_NE(first->sequences[0].token_ids, Finish(*engine, Sampled(prompt, 40, 2))->sequences[0].token_ids);
  GenerationRequest unseeded = Sampled(prompt, 40, 0);
  unseeded.sampling.seed.reset();
  const auto drawn = Finish(*engine, unseeded);
  EXPECT_EQ(drawn->sequences[0].token_ids,
            Finish(*engine, Sampled(prompt, 40, drawn->prompt->seed))->sequences[0].token_ids)
      << "the seed that was drawn is reported, and repeats the text";
}

TEST_F(EngineBehaviour, SeveralSequencesAreThoseOfTheirStreams) {
  const auto engine = MakeEngine();
  GenerationRequest request = Sampled({9, 8, 7}, 20, 3);
  request.sampling.num_return_sequences = 4;
  const auto sink = Finish(*engine, request);
  ASSERT_EQ(sink->sequences.size(), 4U);
  EXPECT_NE(sink->sequences[0].token_ids, sink->sequences[1].token_ids);
  for (const SequenceEvent& sequence : sink->sequences) {
    std::vector<std::int32_t> streamed;
    for (const TokenEvent& token : sink->tokens) {
      if (token.sequence == sequence.sequence) streamed.push_back(token.token.id);
    }
    EXPECT_EQ(streamed, sequence.token_ids);
  }
  GenerationRequest best = request;
  best.sampling.best_of = 4;
  best.sampling.num_return_sequences = 1;
  const auto one = Finish(*engine, best);
  ASSERT_EQ(one->sequences.size(), 1U);
  EXPECT_TRUE(one->tokens.empty()) << "nothing is certain before the end";
}

// What a restarted engine does with a request that was half done.
TEST_F(EngineBehaviour, ResumedRequestsGoOnWithTheSameTokens) {
  const auto engine = MakeEngine();
  for (const bool sampled : {false, true}) {
    const GenerationRequest whole =
        sampled ? Sampled({4, 5, 6, 7, 8}, 30, 77) : MakeRequest({4, 5, 6, 7, 8}, 30);
    const auto expected = Finish(*engine, whole)->sequences[0].token_ids;
    for (const std::size_t cut : {1U, 7U, 16U, 29U}) {
      GenerationRequest rest = whole;
      rest.resume_tokens.assign(expected.begin(), expected.begin() + static_cast<std::ptrdiff_t>(cut));
      const auto resumed = Finish(*engine, rest);
      EXPECT_EQ(resumed->sequences[0].token_ids, expected);
      EXPECT_EQ(resumed->tokens.size(), expected.size() - cut)
          << "tokens that were there are not reported again";
    }
  }
}

TEST_F(EngineBehaviour, PromptLogprobsAreThoseOfTransformersLogits) {
  const Golden golden = ReadGolden(kModel);
  const auto engine = MakeEngine();
  const std::vector<std::int32_t> prompt = Ids(golden.cases.at("prompts").as_array()[2]);
  const std::vector<float> logits = golden.Floats("logits.2");
  GenerationRequest request = MakeRequest(prompt, 0);
  request.sampling.prompt_logprobs = true;
  request.sampling.logprobs = 3;
  const auto sink = Finish(*engine, request);
  ASSERT_TRUE(sink->done) << sink->error->ToString();
  ASSERT_EQ(sink->prompt->logprobs.size(), prompt.size());
  ASSERT_EQ(sink->prompt->top_logprobs.size(), prompt.size());
  const std::size_t vocab = logits.size() / prompt.size();
  for (std::size_t t = 1; t < prompt.size(); ++t) {
    double sum = 0;
    for (std::size_t v = 0; v < vocab; ++v) sum += std::exp(static_cast<double>(logits[(t - 1) * vocab + v]));
    const double expected =
        static_cast<double>(logits[(t - 1) * vocab + static_cast<std::size_t>(prompt[t])]) - std::log(sum);
    EXPECT_NEAR(sink->prompt->logprobs[t].logprob, expected, 1e-4);
    EXPECT_EQ(sink->prompt->logprobs[t].id, prompt[t]);
    EXPECT_EQ(sink->prompt->top_logprobs[t].size(), 3U);
  }
  EXPECT_TRUE(sink->sequences[0].token_ids.empty());
}

TEST_F(EngineBehaviour, CancelledAndLateRequestsEndAndFreeTheirMemory) {
  const auto engine = MakeEngine();
  GenerationRequest endless = MakeRequest({5}, 2000);
  const std::uint64_t id = endless.id;
  const auto sink = Start(*engine, endless);
  engine->Cancel(id);
  sink->Wait();
  ASSERT_TRUE(sink->error);
  EXPECT_EQ(sink->error->code, ErrorCode::kCancelled);
  GenerationRequest late = MakeRequest({5}, 2000);
  late.deadline_ms = 1;
  const auto missed = Finish(*engine, late);
  ASSERT_TRUE(missed->error);
  EXPECT_EQ(missed->error->code, ErrorCode::kDeadlineExceeded);
}

TEST_F(EngineBehaviour, DestructionFailsWhatIsUnfinished) {
  auto engine = MakeEngine();
  const auto sink = Start(*engine, MakeRequest({5}, 2000));
  engine.reset();
  sink->Wait();
  ASSERT_TRUE(sink->error);
  EXPECT_EQ(sink->error->code, ErrorCode::kUnavailable);
}

TEST_F(EngineBehaviour, RefusesWhatCannotBeDoneAndSaysWhy) {
  const auto engine = MakeEngine();
  const auto refusal = [&](const std::function<void(GenerationRequest&)>& change) {
    GenerationRequest request = MakeRequest({5, 6}, 10);
    change(request);
    const auto sink = Finish(*engine, request);
    return sink->error ? sink->error->message : std::string("accepted");
  };
  using Ids32 = std::vector<std::int32_t>;
  EXPECT_EQ(refusal([](GenerationRequest& r) { r.prompt = Ids32{5, 160}; }),
            "prompt token 160 is outside the vocabulary of 160");
  EXPECT_EQ(refusal([](GenerationRequest& r) { r.prompt = Ids32{-1}; }),
            "prompt token -1 is outside the vocabulary of 160");
  EXPECT_NE(refusal([](GenerationRequest& r) { r.prompt = "text"; }).find("no tokenizer"), std::string::npos);
  EXPECT_NE(refusal([](GenerationRequest& r) { r.sampling.max_new_tokens = 5000; }).find("context of 2048"),
            std::string::npos);
  EXPECT_NE(refusal([](GenerationRequest& r) { r.sampling.max_new_tokens = 0; }).find("at least 1"),
            std::string::npos);
  EXPECT_NE(refusal([](GenerationRequest& r) { r.sampling.max_new_tokens = -5; }).find("at least 1"),
            std::string::npos);
  EXPECT_NE(refusal([](GenerationRequest& r) { r.sampling.temperature = std::nanf(""); }).find("temperature"),
            std::string::npos);
  EXPECT_NE(refusal([](GenerationRequest& r) { r.sampling.top_p = 0; }).find("top_p"), std::string::npos);
  EXPECT_NE(refusal([](GenerationRequest& r) { r.sampling.num_beams = 1'000'000; }).find("num_beams"),
            std::string::npos);
  EXPECT_NE(refusal([](GenerationRequest& r) { r.sampling.num_return_sequences = 3; }).find("do_sample"),
            std::string::npos);
  EXPECT_EQ(refusal([](GenerationRequest& /*r*/) {}), "accepted");
}

}  // namespace
}  // namespace bloomery
