#include "targets.h"

#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "api/dialects.h"
#include "base/mapped_file.h"
#include "base/utf8.h"
#include "checkpoint/pickle.h"
#include "checkpoint/safetensors.h"
#include "checkpoint/torch_file.h"
#include "server/setting_text.h"
#include "server/settings.h"
#include "storage/archive.h"
#include "storage/download_plan.h"
#include "storage/fake_http.h"
#include "tokenizer/tokenizer.h"

namespace bloomery {
namespace {

namespace fs = std::filesystem;

// Fails the fuzzer; assert() would vanish in release builds of the seed test.
void Require(bool holds) {
  if (!holds) std::abort();
}

void CheckTensors(const TensorMap& tensors, std::string_view input) {
  const auto* begin = reinterpret_cast<const std::byte*>(input.data());
  for (const auto& [name, view] : tensors) {
    Require(view.bytes.size() == static_cast<std::size_t>(ElementCount(view.shape)) * SizeOf(view.dtype));
    Require(view.bytes.empty() ||
            (view.bytes.data() >= begin && view.bytes.data() + view.bytes.size() <= begin + input.size()));
  }
}

// The whole source in memory without a copy, so that views can be checked against the input.
class ViewSource final : public ByteSource {
 public:
  explicit ViewSource(std::string_view bytes) : bytes_(bytes) {}
  std::string_view name() const override { return "fuzz"; }
  std::uint64_t size_bytes() const override { return bytes_.size(); }
  Status ReadAt(std::uint64_t, std::span<std::byte>) const override {
    return Fail(ErrorCode::kIo, "mapped only");
  }
  std::optional<std::span<const std::byte>> mapped() const override {
    return std::as_bytes(std::span(bytes_));
  }

 private:
  std::string_view bytes_;
};

std::vector<std::string> Split(std::string_view path) {
  std::vector<std::string> parts;
  for (std::size_t begin = 0; begin <= path.size();) {
    const std::size_t end = std::min(path.find('/', begin), path.size());
    parts.emplace_back(path.substr(begin, end - begin));
    begin = end + 1;
  }
  return parts;
}

// Plausible events for whatever a body asked for, so that the answer is built too.
void Answer(Exchange& exchange) {
  for (std::size_t i = 0; i < exchange.requests().size(); ++i) {
    const SamplingParams& params = exchange.requests()[i].sampling;
    const TokenLogprob token{7, "\xF0\x9F", -0.5F, false};
    exchange.Feed(i, PromptEvent{{1, 2}, {token, token}, {{token}, {token}}, 1});
    for (int s = 0; s < params.num_return_sequences; ++s) {
      exchange.Feed(i, TokenEvent{s, token, {token}, "a"});
      exchange.Feed(i, SequenceEvent{s, FinishReason::kLength, "ab", "b", {7}, {token}, {{token}}, 0});
    }
    exchange.Feed(i, DoneEvent{2, 1, 0, 0, 0});
  }
  Require(exchange.finished());
  Require(IsValidUtf8(exchange.Answer().body));
}

}  // namespace

void FuzzSafetensors(std::string_view input) {
  if (const auto tensors = ParseSafetensors(ViewSource(input))) CheckTensors(*tensors, input);
}

void FuzzTorchFile(std::string_view input) {
  if (const auto tensors = ParseTorchFile(ViewSource(input))) CheckTensors(*tensors, input);
  if (const auto tensors = ParseScaledTorchFile(ViewSource(input))) {
    TensorMap plain;
    for (const auto& [name, scaled] : *tensors) {
      plain[name] = scaled.tensor;
      if (scaled.scale) plain[name + ".scale"] = *scaled.scale;
    }
    CheckTensors(plain, input);
  }
  if (const auto pickle = ReadPickle(std::as_bytes(std::span(input))))
    Require(pickle->root < pickle->nodes.size());
}

void FuzzTokenizer(std::string_view input) {
  const std::size_t split = std::min(input.find('\0'), input.size());
  const auto tokenizer = Tokenizer::FromJson(input.substr(0, split));
  if (!tokenizer) return;
  const std::string_view text = split < input.size() ? input.substr(split + 1) : input;
  IncrementalDecoder decoder(*tokenizer);
  const std::vector<std::int32_t> ids = (*tokenizer)->Encode(text);
  std::string streamed;
  for (const std::int32_t id : ids) {
    Require(id >= 0 && id < (*tokenizer)->vocab_size());
    streamed += decoder.Push(id);
  }
  streamed += decoder.Flush();
  Require(streamed == (*tokenizer)->Decode(ids));
}

void FuzzHttpBody(std::string_view input) {
  if (input.empty()) return;
  ModelInfo model;
  model.name = "m";
  const ApiRequest request{.path = "/",
                           .content_type = "application/json",
                           .accept = {},
                           .body = input.substr(1),
                           .id = "1",
                           .created_s = 0};
  Result<std::unique_ptr<Exchange>> exchange = Fail(ErrorCode::kNotFound, "");
  switch (input.front() % 5) {
    case 0:
      exchange = MakeInvocation(request, model, BatchShape::kPipeline);
      break;
    case 1:
      exchange = MakeInvocation(request, model, BatchShape::kOutputs);
      break;
    case 2:
      exchange = MakeCompletion(request, model);
      break;
    case 3:
      exchange = MakeChatCompletion(request, model);
      break;
    default:
      exchange = MakeTgi(request, TgiMode::kByField);
  }
  if (exchange) Answer(**exchange);
}

void FuzzProperties(std::string_view input) {
  const auto take = [&input](char end) {
    const std::size_t length = std::min(input.find(end), input.size());
    const std::string_view part = input.substr(0, length);
    input.remove_prefix(std::min(length + 1, input.size()));
    return part;
  };
  const auto serving = ParseProperties(take('\0'), "serving.properties");
  const auto config = ParseProperties(take('\0'), "config.properties");
  if (!serving || !config) return;
  Environment environment;
  while (!input.empty()) {
    const std::string_view line = take('\n');
    const std::size_t equals = std::min(line.find('='), line.size());
    environment.emplace(line.substr(0, equals), line.substr(std::min(equals + 1, line.size())));
  }
  for (const auto* properties : {&*serving, &*config}) {
    int line = 0;
    for (const Property& property : *properties) {
      Require(IsValidUtf8(property.key) && IsValidUtf8(property.value));
      Require(property.line > line);
      line = property.line;
    }
  }
  const CollectedSettings collected = CollectSettings(*serving, *config, environment, {});
  Require(collected.values.size() <= collected.assignments.size());
  for (const auto& [name, assignment] : collected.values) {
    Require(assignment.setting == FindSetting(name) && !assignment.value.empty());
    const std::string wrong = CheckValue(*assignment.setting, assignment.value);
    Require(wrong.empty() || assignment.setting->type != SettingType::kText);
  }
  for (const Remark& remark : collected.without_effect)
    Require(!remark.text.empty() && IsValidUtf8(Displayed(remark.name)));
}

void FuzzArchive(std::string_view input) {
  constexpr ArchiveLimits kLimits{.max_bytes = 1U << 20U, .free_bytes = 1U << 16U, .max_entries = 200};
  // In memory, where there is such a folder.
  const fs::path parent = fs::exists("/dev/shm") ? fs::path("/dev/shm") : fs::temp_directory_path();
  const fs::path folder = parent / fmt::format("bloomery-fuzz.{}", ::getpid());
  fs::remove_all(folder);
  fs::create_directories(folder);
  std::ofstream(folder / "archive", std::ios::binary) << input;
  const Status unpacked = UnpackArchive(folder / "archive", folder / "out", kLimits);
  std::uint64_t bytes = 0;
  for (const auto& entry : fs::recursive_directory_iterator(folder)) {
    Require(entry.symlink_status().type() == fs::file_type::regular ||
            entry.symlink_status().type() == fs::file_type::directory);
    const fs::path name = entry.path().lexically_relative(folder);
    Require(name == "archive" || (unpacked && *name.begin() == "out"));
    if (name != "archive" && entry.is_regular_file()) bytes += entry.file_size();
  }
  Require(bytes <= kLimits.max_bytes);
  fs::remove_all(folder);
}

void FuzzS3Answer(std::string_view input) {
  if (input.empty()) return;
  constexpr std::array<int, 8> kStatuses = {200, 206, 301, 307, 400, 403, 404, 503};
  HttpResponse answer{.status = kStatuses[static_cast<unsigned char>(input.front()) % kStatuses.size()]};
  input.remove_prefix(1);
  for (bool headers = true; headers;) {
    const std::size_t end = std::min(input.find('\n'), input.size());
    const std::string_view line = input.substr(0, end);
    input.remove_prefix(std::min(end + 1, input.size()));
    headers = !line.empty();
    if (const std::size_t colon = line.find(':'); colon != std::string_view::npos)
      answer.headers.emplace_back(line.substr(0, colon), line.substr(colon + 1));
  }
  answer.body = input;
  FakeHttp http([&answer](const HttpRequest&) { return FakeHttp::Answer{answer}; });
  CredentialChain nobody(http, [](std::string_view) { return std::string(); }, /*anonymous=*/true);
  S3Client s3(http, nobody, {.attempts = 2, .first_wait = std::chrono::milliseconds(0)});
  constexpr std::uint64_t kPartBytes = 1U << 20U;
  if (auto files = ListFiles(s3, {"bucket", "model"}, kPartBytes)) {
    for (PlannedFile& file : *files) {
      Require(!file.name.empty() && !file.name.contains('\0'));
      // Wherever it is put, it is below: no part of the path is empty, "." or "..".
      for (const std::string& part : Split(file.name)) Require(!part.empty() && part != "." && part != "..");
    }
    if (!files->empty() && PlanParts(s3, files->front(), kPartBytes)) {
      const PlannedFile& file = files->front();
      Require(file.part_bytes > 0 && file.part(file.parts() - 1).bytes <= file.part_bytes);
    }
  }
  (void)s3.BeginUpload({"bucket", "model"});
  (void)s3.Put({"bucket", "model"}, {});
}

}  // namespace bloomery
